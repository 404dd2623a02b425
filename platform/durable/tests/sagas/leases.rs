//! Who drives a saga: crashes, stale runners, several runners, the stop.

use std::{collections::HashSet, time::Duration};

use banyan_durable::{MachineryLimits, Settings, saga::SagaState};
use banyan_durable_testing::{PostgresHome, SqliteHome, on_both_with, open};
use sea_orm::{ConnectionTrait, Statement};
use tokio::time::{Instant, timeout};

use crate::script::{Act, LONG, Remote, Shop, done, entries, gated, quick, refuse, short_leases, unavailable};

#[tokio::test]
async fn a_runner_that_dies_at_any_step_is_followed_with_the_same_id_and_the_same_bytes() {
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
                let (shop, key) = (Shop::new(&db), format!("order-{n}"));
                shop.remote.script(
                    &key,
                    "capture/do",
                    (dies_at == "capture/do")
                        .then_some(Act::Hang)
                        .into_iter()
                        .chain([refuse()]),
                );
                if dies_at != "capture/do" {
                    shop.remote.script(&key, dies_at, [Act::Hang]);
                }
                let running = shop.run();
                let id = shop.start(&key).await;
                shop.remote.until_sent(&key, dies_at, 1).await;
                drop(running);

                let running = shop.run();
                let ended = shop.until(id, SagaState::Compensated).await;
                let sent = shop.remote.sent(&key);
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
                assert_eq!(shop.decisions(&key).await, 6, "{dies_at}");
                running.stop().await;
            }
        },
    )
    .await;
}

#[tokio::test]
async fn after_a_crash_the_command_counts_as_sent_so_a_signal_is_heard_first() {
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
            let shop = Shop::new(&db);
            shop.remote.script("order-1", "reserve/do", [Act::Hang]);
            let running = shop.run();
            let id = shop.start("order-1").await;
            shop.remote.until_sent("order-1", "reserve/do", 1).await;
            drop(running);
            assert!(shop.signal("order-1", "cancel").await);
            let running = shop.run();
            shop.until(id, SagaState::Compensated).await;
            assert_eq!(shop.remote.whats("order-1"), ["reserve/do", "reserve/undo"]);
            running.stop().await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_runner_that_slept_past_its_lease_cannot_write() {
    // It never renews, as if it were stopped by SIGSTOP, and finds its answer when it wakes.
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
        let shop = Shop::new(&db);
        let (stale_gate, stale_answer) = gated(refuse());
        let (gate, answer) = gated(done());
        shop.remote.script("order-1", "authorise/do", [stale_answer, answer]);
        let stale = shop.run();
        let id = shop.start("order-1").await;
        shop.remote.until_sent("order-1", "authorise/do", 1).await;
        let fresh = shop.run();
        shop.remote.until_sent("order-1", "authorise/do", 2).await;

        let before = shop.show(id).await;
        stale_gate.notify_one();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(
            shop.show(id).await,
            before,
            "its refusal, which would have undone everything, is void"
        );
        gate.notify_one();
        shop.until(id, SagaState::Completed).await;
        assert_eq!(shop.decisions("order-1").await, 4);
        fresh.stop().await;
        stale.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_lease_is_kept_while_a_command_is_on_its_way() {
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
            let shop = Shop::new(&db);
            let (gate, answer) = gated(done());
            shop.remote.script("order-1", "reserve/do", [answer]);
            let runners = [shop.run(), shop.run()];
            tokio::time::sleep(Duration::from_millis(100)).await;
            let id = shop.start("order-1").await;
            shop.remote.until_sent("order-1", "reserve/do", 1).await;
            // Whoever claims another meanwhile leaves it alone.
            let other = shop.start("order-2").await;
            shop.until(other, SagaState::Completed).await;
            // Three times the lease.
            tokio::time::sleep(Duration::from_millis(1_800)).await;
            gate.notify_one();
            shop.until(id, SagaState::Completed).await;
            assert_eq!(
                shop.remote.whats("order-1"),
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
        Shop::new(&one),
        Shop {
            remote: Remote::default(),
            ..Shop::new(&two)
        },
    ];
    let mut ids = Vec::new();
    for n in 0..SAGAS {
        let key = format!("order-{n}");
        // An answer that takes a moment, so that one runner cannot have it all.
        for shop in &shops {
            shop.remote.script(&key, "authorise/do", [Act::Hang]);
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
        let sent: Vec<_> = shops.iter().flat_map(|shop| shop.remote.sent(&key)).collect();
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
    for shop in &shops {
        let shared = (0..SAGAS)
            .filter(|n| !shop.remote.whats(&format!("order-{n}")).is_empty())
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
async fn a_saga_that_somebody_holds_does_not_hold_up_the_others() {
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
    let shop = Shop::new(&db);
    let (held, free) = (shop.start("held").await, shop.start("free").await);
    let other = shop.clone();
    let holding = db.write(other, move |tx, shop| async move {
        let backend = tx.conn().get_database_backend();
        let lock =
            Statement::from_sql_and_values(backend, "select id from saga where id = $1 for update", [held.into()]);
        tx.conn().query_one_raw(lock).await.map_err(banyan_durable::fault)?;
        let running = shop.run();
        shop.until(free, SagaState::Completed).await;
        Ok(running)
    });
    let running = holding.await.unwrap();
    shop.until(held, SagaState::Completed).await;
    running.stop().await;
    db.close().await;
    home.remove().await;
}

#[tokio::test]
async fn a_stop_lets_the_command_under_way_end_and_gives_the_lease_back() {
    let settings = Settings {
        lease_ms: 600_000,
        limits: MachineryLimits {
            saga_call_timeout: Duration::from_secs(60),
            ..quick().limits
        },
        ..quick()
    };
    on_both_with("orders", settings, |db| async move {
        let shop = Shop::new(&db);
        let (gate, answer) = gated(done());
        shop.remote.script("order-1", "reserve/do", [answer]);
        let running = shop.run();
        let id = shop.start("order-1").await;
        shop.remote.until_sent("order-1", "reserve/do", 1).await;
        let stopping = tokio::spawn(running.stop());
        tokio::time::sleep(Duration::from_millis(100)).await;
        let unclaimed = shop.start("order-2").await;
        gate.notify_one();
        timeout(LONG, stopping)
            .await
            .expect("the runner stops in time")
            .unwrap();

        let rests = shop.show(id).await;
        assert_eq!(
            (rests.saga.step.as_str(), rests.saga.attempts, rests.lease_owner),
            ("authorise", 0, None)
        );
        assert_eq!(
            shop.remote.whats("order-1"),
            ["reserve/do"],
            "nothing new is sent after the stop"
        );
        assert_eq!(
            shop.remote.heard("order-2"),
            Vec::<String>::new(),
            "nothing new is claimed after the stop"
        );
        let begun = Instant::now();
        let running = shop.run();
        shop.until(id, SagaState::Completed).await;
        shop.until(unclaimed, SagaState::Completed).await;
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "nobody waits for the lease's end: {:?}",
            begun.elapsed()
        );
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_stop_abandons_a_command_that_does_not_end_and_it_is_asked_again() {
    let settings = Settings {
        lease_ms: 600_000,
        limits: MachineryLimits {
            saga_call_timeout: Duration::from_secs(600),
            ..quick().limits
        },
        ..quick()
    };
    on_both_with("orders", settings, |db| async move {
        let shop = Shop::new(&db);
        for key in ["order-1", "cancelled"] {
            shop.remote.script(key, "reserve/do", [Act::Hang]);
        }
        let running = shop.run();
        let (id, cancelled) = (shop.start("order-1").await, shop.start("cancelled").await);
        shop.remote.until_sent("order-1", "reserve/do", 1).await;
        shop.remote.until_sent("cancelled", "reserve/do", 1).await;
        timeout(LONG, running.stop()).await.expect("the runner stops in time");
        assert!(shop.signal("cancelled", "cancel").await);
        let begun = Instant::now();
        let running = shop.run();
        shop.until(id, SagaState::Completed).await;
        shop.until(cancelled, SagaState::Compensated).await;
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "nobody waits for the lease's end: {:?}",
            begun.elapsed()
        );
        assert_eq!(
            shop.remote.whats("cancelled"),
            ["reserve/do", "reserve/undo"],
            "its outcome is open, so the signal comes first"
        );
        let sent = shop.remote.sent("order-1");
        assert_eq!(
            (sent[0].command_id, &sent[0].command),
            (sent[1].command_id, &sent[1].command)
        );
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_unknown_outcome_during_the_stop_is_stored_and_the_lease_given_back() {
    let settings = Settings {
        lease_ms: 600_000,
        limits: MachineryLimits {
            saga_call_timeout: Duration::from_secs(60),
            ..quick().limits
        },
        ..quick()
    };
    on_both_with("orders", settings, |db| async move {
        let shop = Shop::new(&db);
        let (gate, answer) = gated(unavailable());
        shop.remote.script("order-1", "reserve/do", [answer]);
        let running = shop.run();
        let id = shop.start("order-1").await;
        shop.remote.until_sent("order-1", "reserve/do", 1).await;
        let stopping = tokio::spawn(running.stop());
        tokio::time::sleep(Duration::from_millis(100)).await;
        gate.notify_one();
        timeout(LONG, stopping)
            .await
            .expect("the runner stops in time")
            .unwrap();
        let rests = shop.show(id).await;
        assert_eq!((rests.saga.attempts, rests.lease_owner), (1, None));
    })
    .await;
}

#[tokio::test]
async fn leases_found_in_an_sqlite_file_at_the_start_are_dead() {
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
    let shop = Shop::new(&db);
    shop.remote.script("order-1", "reserve/do", [Act::Hang]);
    let running = shop.run();
    let id = shop.start("order-1").await;
    shop.remote.until_sent("order-1", "reserve/do", 1).await;
    drop(running);
    let running = shop.run();
    shop.until(id, SagaState::Completed).await;
    running.stop().await;
    db.close().await;
}
