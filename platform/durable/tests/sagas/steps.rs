//! The way forward: steps, ids, bytes, retries, repeats.

use std::time::Duration;

use banyan_core::{Call, Fault, TraceParent};
use banyan_durable::saga::{SagaState, command_id};
use banyan_durable_testing::{eventually, on_both_with};
use tokio::time::{Instant, timeout};

use crate::{
    harness::{Harness, entries, quick},
    script::{Act, LONG, News, done, gated, unavailable, unavailable_for},
};

#[tokio::test]
async fn a_saga_sends_each_step_once_and_completes() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        let mut changes = db.changes();
        let running = harness.run();
        let trace = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let id = harness
            .start_by("order-1", None, &Call::by_module("test").traced(trace.clone()))
            .await
            .unwrap();
        let ended = harness.until(id, SagaState::Completed).await;

        assert_eq!(
            harness.remote.steps_sent("order-1"),
            ["reserve/do", "authorise/do", "capture/do"]
        );
        for sent in harness.remote.sent("order-1") {
            let step = sent.what.split('/').next().unwrap();
            assert_eq!(sent.command_id, command_id(id, step, false));
            assert_eq!(
                sent.stored_command_id, sent.command_id,
                "a command is committed before it is sent"
            );
            assert_eq!(sent.stored_command, serde_json::to_string(&sent.command).unwrap());
            assert_eq!(
                (sent.trace, sent.timeout),
                (trace.clone(), Some(Duration::from_millis(400)))
            );
        }
        assert_eq!(
            entries(&ended),
            [
                "started",
                "begun",
                "do",
                "news",
                "do",
                "news",
                "do",
                "news",
                "completed"
            ]
        );
        assert_eq!(
            ended.log.iter().map(|entry| entry.seq).collect::<Vec<_>>(),
            (1..=9).collect::<Vec<_>>()
        );
        assert_eq!((ended.command, ended.command_id, ended.lease_owner), (None, None, None));
        assert_eq!(harness.decisions("order-1").await, 4);
        let woken = async { while changes.recv().await.unwrap().topic.as_ref() != "order-1" {} };
        timeout(LONG, woken)
            .await
            .expect("its end wakes whoever waits for the business key");
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_start_is_noticed_at_once_and_not_by_polling() {
    on_both_with(
        "orders",
        banyan_durable::Settings {
            limits: banyan_durable::MachineryLimits {
                poll: Duration::from_secs(60),
                idle_poll: Duration::from_secs(60),
                ..quick().limits
            },
            ..quick()
        },
        |db| async move {
            let harness = Harness::new(&db);
            let running = harness.run();
            tokio::time::sleep(Duration::from_millis(100)).await;
            let id = harness.start("order-1").await;
            let begun = Instant::now();
            harness
                .remote
                .script("order-1", "capture/do", [unavailable_for(Duration::from_millis(300))]);
            harness.until(id, SagaState::Completed).await;
            assert!(
                begun.elapsed() < Duration::from_secs(5),
                "the retry too is on time: {:?}",
                begun.elapsed()
            );
            running.stop().await;
        },
    )
    .await;
}

/// A claim would need a wake-up, a look and a transaction. A place is free again after a start that was rolled back.
#[tokio::test]
async fn a_saga_is_handed_to_the_runner_of_its_process_without_a_claim() {
    let two_places = banyan_durable::Settings {
        saga_concurrency: 2,
        ..quick()
    };
    on_both_with("orders", two_places, |db| async move {
        let harness = Harness::new(&db);
        let running = harness.run();
        let first = harness.start("order-1").await;
        harness.until(first, SagaState::Completed).await;
        let mut changes = db.changes();
        for _ in 0..2 {
            let again = harness.start_by("order-1", None, &Call::default()).await;
            assert_eq!(again.unwrap_err().code, "saga_exists");
        }
        let second = harness.start("order-2").await;
        harness.until(second, SagaState::Completed).await;
        while let Ok(change) = changes.try_recv() {
            assert_ne!(*change.topic, *"saga", "nobody has to look for it");
        }
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn there_is_one_saga_for_a_key_and_none_for_a_start_that_was_rolled_back() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        let rolled_back = db.write((), |tx, ()| async move {
            let state = crate::script::State::default();
            banyan_durable::saga::start::<crate::script::Script>(&tx, &Call::default(), "order-1", &state, None)
                .await?;
            Err::<(), _>(Fault::invalid("no", "changed my mind"))
        });
        assert_eq!(rolled_back.await.unwrap_err().code, "no");
        harness.start("order-1").await;
        let again = harness.start_by("order-1", None, &Call::default()).await;
        assert_eq!(again.unwrap_err().code, "saga_exists");
    })
    .await;
}

#[tokio::test]
async fn after_an_unknown_outcome_the_command_is_sent_again_with_the_same_id_and_bytes() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        let too_many = Fault::new(banyan_core::FaultKind::TooMany, "busy", "later");
        // More than the bugs that would park it, and one without a response.
        let mut acts = vec![
            unavailable(),
            Act::Fail(Fault::timeout("?")),
            Act::Hang,
            Act::Fail(too_many),
        ];
        acts.extend((0..6).map(|_| unavailable()));
        harness.remote.script("order-1", "authorise/do", acts);
        let running = harness.run();
        let id = harness.start("order-1").await;
        let ended = harness.until(id, SagaState::Completed).await;

        let sent: Vec<_> = harness
            .remote
            .sent("order-1")
            .into_iter()
            .filter(|sent| sent.what == "authorise/do")
            .collect();
        assert_eq!(sent.len(), 11);
        assert!(
            sent.iter()
                .all(|one| one.command_id == sent[0].command_id && one.command == sent[0].command)
        );
        assert_eq!(
            entries(&ended).iter().filter(|entry| **entry == "do").count(),
            3,
            "each step was decided once"
        );
        // 1, 2, 4 and 8: a log that does not grow with each attempt.
        assert_eq!(entries(&ended).iter().filter(|entry| **entry == "unknown").count(), 4);
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn the_delay_grows_while_the_outcome_stays_unknown() {
    // A delay is anything up to its ceiling. One of the first delays would be a millisecond; after this number of attempts they are up to ten minutes.
    const SAGAS: usize = 20;
    let settings = banyan_durable::Settings {
        saga_retry_cap_ms: 600_000,
        limits: banyan_durable::MachineryLimits {
            saga_first_retry: Duration::from_millis(1),
            ..quick().limits
        },
        ..quick()
    };
    on_both_with("orders", settings, |db| async move {
        let harness = Harness::new(&db);
        let running = harness.run();
        let mut longest = Duration::ZERO;
        for n in 0..SAGAS {
            let key = format!("order-{n}");
            let (gate, lost) = gated(unavailable());
            harness.remote.script(&key, "reserve/do", [lost]);
            let id = harness.start(&key).await;
            harness.remote.until_sent(&key, "reserve/do", 1).await;
            harness.edit("attempts = 30", id).await;
            gate.notify_one();
            eventually("it is postponed", LONG, || async {
                harness.show(id).await.saga.attempts > 30
            })
            .await;
            let saga = harness.show(id).await.saga;
            longest = longest.max(saga.next_run_at.since(saga.updated_at));
        }
        assert!(longest > Duration::from_secs(10), "{longest:?}");
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_hanging_call_times_out() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        harness.remote.script("order-1", "reserve/do", [Act::Hang]);
        let running = harness.run();
        let id = harness.start("order-1").await;
        harness.until(id, SagaState::Completed).await;
        let sent = harness.remote.sent("order-1");
        assert!(
            sent[1].at - sent[0].at >= Duration::from_millis(300),
            "{:?}",
            sent[1].at - sent[0].at
        );
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_retry_after_of_a_service_is_respected() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        harness
            .remote
            .script("order-1", "reserve/do", [unavailable_for(Duration::from_millis(500))]);
        let running = harness.run();
        let id = harness.start("order-1").await;
        harness.until(id, SagaState::Completed).await;
        let sent = harness.remote.sent("order-1");
        assert!(
            sent[1].at - sent[0].at >= Duration::from_millis(490),
            "{:?}",
            sent[1].at - sent[0].at
        );
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_command_in_progress_is_repeated_with_the_same_id_and_bytes() {
    on_both_with("orders", quick(), |db| async move {
        let harness = Harness::new(&db);
        harness.remote.script(
            "order-1",
            "authorise/do",
            [Act::Answer(News::InProgress), Act::Answer(News::InProgress), done()],
        );
        let running = harness.run();
        let id = harness.start("order-1").await;
        let ended = harness.until(id, SagaState::Completed).await;
        let sent: Vec<_> = harness
            .remote
            .sent("order-1")
            .into_iter()
            .filter(|sent| sent.what == "authorise/do")
            .collect();
        assert_eq!(sent.len(), 3);
        assert!(
            sent.iter()
                .all(|one| one.command_id == sent[0].command_id && one.command == sent[0].command)
        );
        assert!(
            sent[1].at - sent[0].at >= Duration::from_millis(19),
            "as long as the definition said"
        );
        assert_eq!(entries(&ended).iter().filter(|entry| **entry == "repeat").count(), 1);
        let news: Vec<&str> = ended
            .log
            .iter()
            .filter(|entry| entry.entry == "news")
            .map(|entry| entry.detail.as_str())
            .collect();
        assert_eq!(
            news[..2],
            [r#"{"outcome":"done"}"#, r#"{"outcome":"in_progress"}"#],
            "news reads as JSON"
        );
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn no_more_sagas_run_at_once_than_the_settings_allow() {
    on_both_with(
        "orders",
        banyan_durable::Settings {
            saga_concurrency: 3,
            ..quick()
        },
        |db| async move {
            let harness = Harness::new(&db);
            let mut ids = Vec::new();
            for n in 0..9 {
                let key = format!("order-{n}");
                harness.remote.script(&key, "reserve/do", [Act::Hang]);
                ids.push(harness.start(&key).await);
            }
            let running = harness.run();
            for id in ids {
                harness.until(id, SagaState::Completed).await;
            }
            assert_eq!(harness.remote.max_concurrent(), 3);
            running.stop().await;
        },
    )
    .await;
}
