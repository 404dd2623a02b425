//! The runners of a saga: crashes, stale runners, several runners, the stop.

use std::{collections::HashSet, time::Duration};

use banyan_durable::{MachineryLimits, Settings, saga::SagaState};
use banyan_durable_testing::{PostgresHome, SqliteHome, on_both_with, open};
use sea_orm::{ConnectionTrait, Statement};
use tokio::time::{Instant, timeout};

use crate::{
    harness::{Harness, entries, quick, short_leases},
    script::{Act, LONG, Remote, done, gated, refuse, unavailable},
};

#[tokio::test]
async fn after_a_crash_at_any_step_the_command_is_sent_with_the_same_id_and_bytes() {
    on_both_with(
        "orders",
        Settings {
            limits: MachineryLimits {
                saga_call_timeout: Duration::from_secs(60),
                ..short_leases().limits
            },
            ..short_leases()
        },
        |db| async move {
            for (n, dies_at) in [
                "reserve/do",
                "authorise/do",
                "capture/do",
                "authorise/undo",
                "reserve/undo",
            ]
            .into_iter()
            .enumerate()
            {
                let (harness, key) = (Harness::new(&db), format!("order-{n}"));
                harness.remote.script(
                    &key,
                    "capture/do",
                    (dies_at == "capture/do")
                        .then_some(Act::Hang)
                        .into_iter()
                        .chain([refuse()]),
                );
                if dies_at != "capture/do" {
                    harness.remote.script(&key, dies_at, [Act::Hang]);
                }
                let running = harness.run();
                let id = harness.start(&key).await;
                harness.remote.until_sent(&key, dies_at, 1).await;
                drop(running);

                let running = harness.run();
                let ended = harness.until(id, SagaState::Compensated).await;
                let sent = harness.remote.sent(&key);
                let twice: Vec<_> = sent.iter().filter(|sent| sent.what == dies_at).collect();
                assert_eq!(twice.len(), 2, "{dies_at}");
                assert_eq!(
                    (twice[0].command_id, &twice[0].command),
                    (twice[1].command_id, &twice[1].command),
                    "{dies_at}"
                );
                assert_eq!(sent.len(), 6, "{dies_at}: every other command was sent once");
                assert_eq!(
                    entries(&ended)
                        .iter()
                        .filter(|entry| matches!(**entry, "do" | "undo"))
                        .count(),
                    5,
                    "{dies_at}: decided once"
                );
                assert_eq!(harness.decisions(&key).await, 6, "{dies_at}");
                running.stop().await;
            }
        },
    )
    .await;
}

#[tokio::test]
async fn after_a_crash_the_command_counts_as_sent_so_a_signal_is_processed_first() {
    on_both_with(
        "orders",
        Settings {
            limits: MachineryLimits {
                saga_call_timeout: Duration::from_secs(60),
                ..short_leases().limits
            },
            ..short_leases()
        },
        |db| async move {
            let harness = Harness::new(&db);
            harness.remote.script("order-1", "reserve/do", [Act::Hang]);
            let running = harness.run();
            let id = harness.start("order-1").await;
            harness.remote.until_sent("order-1", "reserve/do", 1).await;
            drop(running);
            assert!(harness.signal("order-1", "cancel").await);
            let running = harness.run();
            harness.until(id, SagaState::Compensated).await;
            assert_eq!(harness.remote.steps_sent("order-1"), ["reserve/do", "reserve/undo"]);
            running.stop().await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_runner_that_was_suspended_past_its_lease_cannot_write() {
    // It never renews its lease, as if it were suspended by SIGSTOP, and gets its response when it continues.
    let settings = Settings {
        lease_ms: 2_500,
        limits: MachineryLimits {
            saga_call_timeout: Duration::from_secs(60),
            renewals_per_lease: 0,
            ..quick().limits
        },
        ..quick()
    };
    on_both_with("orders", settings, |db| async move {
        let harness = Harness::new(&db);
        let (stale_gate, stale_answer) = gated(refuse());
        let (gate, answer) = gated(done());
        harness.remote.script("order-1", "authorise/do", [stale_answer, answer]);
        let stale = harness.run();
        let id = harness.start("order-1").await;
        harness.remote.until_sent("order-1", "authorise/do", 1).await;
        let fresh = harness.run();
        harness.remote.until_sent("order-1", "authorise/do", 2).await;

        let before = harness.show(id).await;
        stale_gate.notify_one();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(
            harness.show(id).await,
            before,
            "its refusal, which would have undone everything, is void"
        );
        gate.notify_one();
        harness.until(id, SagaState::Completed).await;
        assert_eq!(harness.decisions("order-1").await, 4);
        fresh.stop().await;
        stale.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_lease_is_renewed_while_a_command_is_under_way() {
    on_both_with(
        "orders",
        Settings {
            limits: MachineryLimits {
                saga_call_timeout: Duration::from_secs(60),
                ..short_leases().limits
            },
            ..short_leases()
        },
        |db| async move {
            let harness = Harness::new(&db);
            let (gate, answer) = gated(done());
            harness.remote.script("order-1", "reserve/do", [answer]);
            let runners = [harness.run(), harness.run()];
            tokio::time::sleep(Duration::from_millis(100)).await;
            let id = harness.start("order-1").await;
            harness.remote.until_sent("order-1", "reserve/do", 1).await;
            // Whoever claims another meanwhile leaves it alone.
            let other = harness.start("order-2").await;
            harness.until(other, SagaState::Completed).await;
            // Three times the lease.
            tokio::time::sleep(Duration::from_millis(1_800)).await;
            gate.notify_one();
            harness.until(id, SagaState::Completed).await;
            assert_eq!(
                harness.remote.steps_sent("order-1"),
                ["reserve/do", "authorise/do", "capture/do"]
            );
            for runner in runners {
                runner.stop().await;
            }
        },
    )
    .await;
}

#[tokio::test]
async fn two_processes_on_one_schema_share_the_work_and_decide_each_command_once() {
    const SAGAS: usize = 60;
    let home = PostgresHome::new().await;
    let place = home.storage("orders").await;
    let settings = Settings {
        saga_concurrency: 4,
        ..quick()
    };
    let (one, two) = (
        open("orders", &place, settings.clone()).await,
        open("orders", &place, settings).await,
    );
    let shops = [
        Harness::new(&one),
        Harness {
            remote: Remote::default(),
            ..Harness::new(&two)
        },
    ];
    let mut ids = Vec::new();
    for n in 0..SAGAS {
        let key = format!("order-{n}");
        // A slow response, so that one runner cannot do all the work.
        for harness in &shops {
            harness.remote.script(&key, "authorise/do", [Act::Hang]);
        }
        ids.push(shops[0].start(&key).await);
    }
    let runners = [shops[0].run(), shops[1].run()];
    for (n, id) in ids.into_iter().enumerate() {
        let ended = shops[0].until(id, SagaState::Completed).await;
        let key = format!("order-{n}");
        assert_eq!(
            entries(&ended).iter().filter(|entry| **entry == "do").count(),
            3,
            "{key}"
        );
        assert_eq!(shops[0].decisions(&key).await, 4, "{key}");
        let sent: Vec<_> = shops.iter().flat_map(|harness| harness.remote.sent(&key)).collect();
        for what in ["reserve/do", "capture/do"] {
            assert_eq!(sent.iter().filter(|sent| sent.what == what).count(), 1, "{key} {what}");
        }
        let authorised: HashSet<_> = sent
            .iter()
            .filter(|sent| sent.what == "authorise/do")
            .map(|sent| sent.command.nonce)
            .collect();
        assert_eq!(authorised.len(), 1, "{key}: the same bytes from both");
    }
    for harness in &shops {
        let shared = (0..SAGAS)
            .filter(|n| !harness.remote.steps_sent(&format!("order-{n}")).is_empty())
            .count();
        assert!(shared >= SAGAS / 10, "one of them drove only {shared}");
    }
    for runner in runners {
        runner.stop().await;
    }
    one.close().await;
    two.close().await;
    home.remove().await;
}

#[tokio::test]
async fn a_locked_saga_does_not_hold_up_the_others() {
    let home = PostgresHome::new().await;
    let db = open(
        "orders",
        &home.storage("orders").await,
        Settings {
            limits: MachineryLimits {
                job_timeout: Duration::from_secs(60),
                ..quick().limits
            },
            ..quick()
        },
    )
    .await;
    let harness = Harness::new(&db);
    let (held, free) = (harness.start("held").await, harness.start("free").await);
    let other = harness.clone();
    let holding = db.write(other, move |tx, harness| async move {
        let backend = tx.conn().get_database_backend();
        let lock =
            Statement::from_sql_and_values(backend, "select id from saga where id = $1 for update", [held.into()]);
        tx.conn().query_one_raw(lock).await.map_err(banyan_durable::fault)?;
        let running = harness.run();
        harness.until(free, SagaState::Completed).await;
        Ok(running)
    });
    let running = holding.await.unwrap();
    harness.until(held, SagaState::Completed).await;
    running.stop().await;
    db.close().await;
    home.remove().await;
}

#[tokio::test]
async fn a_stop_lets_the_command_under_way_end_and_releases_the_lease() {
    let settings = Settings {
        lease_ms: 600_000,
        limits: MachineryLimits {
            saga_call_timeout: Duration::from_secs(60),
            ..quick().limits
        },
        ..quick()
    };
    on_both_with("orders", settings, |db| async move {
        let harness = Harness::new(&db);
        let (gate, answer) = gated(done());
        harness.remote.script("order-1", "reserve/do", [answer]);
        let running = harness.run();
        let id = harness.start("order-1").await;
        harness.remote.until_sent("order-1", "reserve/do", 1).await;
        let stopping = tokio::spawn(running.stop());
        tokio::time::sleep(Duration::from_millis(100)).await;
        let unclaimed = harness.start("order-2").await;
        gate.notify_one();
        timeout(LONG, stopping)
            .await
            .expect("the runner stops in time")
            .unwrap();

        let rests = harness.show(id).await;
        assert_eq!(
            (rests.saga.step.as_str(), rests.saga.attempts, rests.lease_owner),
            ("authorise", 0, None)
        );
        assert_eq!(
            harness.remote.steps_sent("order-1"),
            ["reserve/do"],
            "nothing new is sent after the stop"
        );
        assert_eq!(
            harness.remote.inputs("order-2"),
            Vec::<String>::new(),
            "nothing new is claimed after the stop"
        );
        let begun = Instant::now();
        let running = harness.run();
        harness.until(id, SagaState::Completed).await;
        harness.until(unclaimed, SagaState::Completed).await;
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "no runner waits until the lease expires: {:?}",
            begun.elapsed()
        );
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_stop_drops_a_command_that_does_not_end_and_it_is_sent_again() {
    let settings = Settings {
        lease_ms: 600_000,
        limits: MachineryLimits {
            saga_call_timeout: Duration::from_secs(600),
            ..quick().limits
        },
        ..quick()
    };
    on_both_with("orders", settings, |db| async move {
        let harness = Harness::new(&db);
        for key in ["order-1", "cancelled"] {
            harness.remote.script(key, "reserve/do", [Act::Hang]);
        }
        let running = harness.run();
        let (id, cancelled) = (harness.start("order-1").await, harness.start("cancelled").await);
        harness.remote.until_sent("order-1", "reserve/do", 1).await;
        harness.remote.until_sent("cancelled", "reserve/do", 1).await;
        timeout(LONG, running.stop()).await.expect("the runner stops in time");
        assert!(harness.signal("cancelled", "cancel").await);
        let begun = Instant::now();
        let running = harness.run();
        harness.until(id, SagaState::Completed).await;
        harness.until(cancelled, SagaState::Compensated).await;
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "no runner waits until the lease expires: {:?}",
            begun.elapsed()
        );
        assert_eq!(
            harness.remote.steps_sent("cancelled"),
            ["reserve/do", "reserve/undo"],
            "its outcome is open, so the signal comes first"
        );
        let sent = harness.remote.sent("order-1");
        assert_eq!(
            (sent[0].command_id, &sent[0].command),
            (sent[1].command_id, &sent[1].command)
        );
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_unknown_outcome_during_the_stop_is_stored_and_the_lease_released() {
    let settings = Settings {
        lease_ms: 600_000,
        limits: MachineryLimits {
            saga_call_timeout: Duration::from_secs(60),
            ..quick().limits
        },
        ..quick()
    };
    on_both_with("orders", settings, |db| async move {
        let harness = Harness::new(&db);
        let (gate, answer) = gated(unavailable());
        harness.remote.script("order-1", "reserve/do", [answer]);
        let running = harness.run();
        let id = harness.start("order-1").await;
        harness.remote.until_sent("order-1", "reserve/do", 1).await;
        let stopping = tokio::spawn(running.stop());
        tokio::time::sleep(Duration::from_millis(100)).await;
        gate.notify_one();
        timeout(LONG, stopping)
            .await
            .expect("the runner stops in time")
            .unwrap();
        let rests = harness.show(id).await;
        assert_eq!((rests.saga.attempts, rests.lease_owner), (1, None));
    })
    .await;
}

#[tokio::test]
async fn leases_found_in_an_sqlite_file_at_the_start_are_void() {
    let home = SqliteHome::new();
    let settings = Settings {
        lease_ms: 600_000,
        limits: MachineryLimits {
            saga_call_timeout: Duration::from_secs(60),
            ..quick().limits
        },
        ..quick()
    };
    let db = open("orders", &home.storage("orders"), settings).await;
    let harness = Harness::new(&db);
    harness.remote.script("order-1", "reserve/do", [Act::Hang]);
    let running = harness.run();
    let id = harness.start("order-1").await;
    harness.remote.until_sent("order-1", "reserve/do", 1).await;
    drop(running);
    let running = harness.run();
    harness.until(id, SagaState::Completed).await;
    running.stop().await;
    db.close().await;
}
