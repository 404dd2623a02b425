//! Outbox and relay: no event is lost, none overtakes another of its subject, and `sent` means confirmed.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use banyan_core::{Call, Envelope, Fault, Timestamp};
use banyan_durable::{Db, Machinery, MachineryLimits, Settings, outbox};
use banyan_durable_testing::{ManualClock, PostgresHome, SqliteHome, eventually, on_both_with};
use tokio::sync::Notify;

use crate::harness::{Noted, Running, SOON, TestBus, count, execute, note, open_as, quick, rows, texts};

pub const PENDING: &str = "select count(*) from outbox where state = 'pending'";

async fn all_sent(db: &Db) {
    eventually("every event is sent", SOON, || async { count(db, PENDING).await == 0 }).await;
}

/// Appends an event and then fails, if it `fails`.
async fn try_note(db: &Db, subject: String, text: String, fails: bool) -> Result<i64, Fault> {
    db.write((subject, Noted { text }), move |tx, (subject, event)| async move {
        let version = outbox::append(&tx, &Call::by_module("orders"), &subject, &event).await?;
        if fails {
            Err(Fault::conflict("on_purpose", "no"))
        } else {
            Ok(version)
        }
    })
    .await
}

#[tokio::test]
async fn versions_are_gapless_under_concurrent_writers_that_partly_roll_back() {
    let writers = Settings {
        pool: 16,
        limits: MachineryLimits {
            job_timeout: Duration::from_secs(5),
            ..quick().limits
        },
        ..quick()
    };
    on_both_with("durable", writers, |db| async move {
        let tasks = (0..16).map(|writer| {
            let db = db.clone();
            tokio::spawn(async move {
                for round in 0..12 {
                    let fails = (writer + round) % 3 == 0;
                    let wrote = try_note(&db, format!("order/{}", round % 2), format!("{writer}-{round}"), fails).await;
                    assert_eq!(wrote.is_err(), fails, "{wrote:?}");
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        for subject in ["order/0", "order/1"] {
            let versions = rows(
                &db,
                &format!("select version from outbox where subject = '{subject}' order by version"),
            )
            .await;
            let versions: Vec<i64> = versions.iter().map(|row| row.try_get_by_index(0).unwrap()).collect();
            assert_eq!(versions, (1..=64).collect::<Vec<i64>>(), "{subject}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_event_is_stored_as_the_cloudevent_that_is_published() {
    on_both_with("durable", quick(), |db| async move {
        note(&db, "order/1", "hello").await;
        let body = texts(&db, "select body from outbox").await.remove(0);
        let event = Envelope::from_bytes(body.as_bytes()).unwrap();
        assert_eq!(
            (event.specversion.as_str(), event.source.as_str(), event.version),
            ("1.0", "durable", 1)
        );
        assert_eq!(
            (&event.previousid, event.find::<Noted>().unwrap().unwrap().text.as_str()),
            (&None, "hello")
        );
        // What looks like an attribute of the envelope is not one.
        let text = r#"{"version":0,"previousid":null}"#;
        note(&db, "order/1", text).await;
        let body = texts(&db, "select body from outbox where version = 2").await.remove(0);
        let next = Envelope::from_bytes(body.as_bytes()).unwrap();
        assert_eq!(
            (next.version, next.previousid, &next.subject),
            (2, Some(event.id), &event.subject)
        );
        assert_eq!(next.find::<Noted>().unwrap().unwrap().text, text);
        assert_eq!(
            body,
            String::from_utf8(next.to_bytes()).unwrap(),
            "as any envelope is written"
        );
    })
    .await;
}

#[tokio::test]
async fn an_event_of_a_transaction_that_began_earlier_and_commits_later_is_not_lost() {
    let home = PostgresHome::new().await;
    let db = open_as(
        "orders",
        &home.storage("orders").await,
        quick(),
        Arc::new(banyan_core::SystemClock),
    )
    .await;
    let bus = Arc::new(TestBus::default());
    let running = Running::start(&bus, vec![Machinery::new(db.clone())]).await;
    let (appended, commit) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let early = tokio::spawn({
        let (db, appended, commit) = (db.clone(), appended.clone(), commit.clone());
        async move {
            db.write((appended, commit), |tx, (appended, commit)| async move {
                outbox::append(
                    &tx,
                    &Call::by_module("orders"),
                    "order/early",
                    &Noted {
                        text: "early".to_owned(),
                    },
                )
                .await?;
                appended.notify_one();
                commit.notified().await;
                Ok(())
            })
            .await
        }
    });
    appended.notified().await;
    note(&db, "order/late", "late").await;
    eventually("the later one is published", SOON, || async {
        bus.published() == ["order/late:1"]
    })
    .await;
    all_sent(&db).await;
    commit.notify_one();
    early.await.unwrap().unwrap();
    eventually("the earlier one is published too", SOON, || async {
        bus.published() == ["order/late:1", "order/early:1"]
    })
    .await;
    running.stop().await;
    db.close().await;
    home.remove().await;
}

#[tokio::test]
async fn an_event_is_sent_once_confirmed_and_published_again_until_then() {
    on_both_with("durable", quick(), |db| async move {
        let bus = Arc::new(TestBus::default());
        bus.down.store(true, Ordering::SeqCst);
        let running = Running::start(&bus, vec![Machinery::new(db.clone())]).await;
        note(&db, "order/1", "a").await;
        eventually("it was tried twice", SOON, || async {
            count(&db, "select attempts from outbox").await >= 2
        })
        .await;
        assert_eq!(count(&db, PENDING).await, 1);
        assert!(texts(&db, "select last_error from outbox").await[0].contains("the bus is down"));
        bus.down.store(false, Ordering::SeqCst);
        all_sent(&db).await;
        assert_eq!(bus.published(), ["order/1:1"]);
        assert_eq!(
            count(
                &db,
                "select count(*) from outbox where sent_at is not null and last_error is null"
            )
            .await,
            1
        );
        running.stop().await;
    })
    .await;
}

/// The relay has a limit of its own: a bus whose limits fail, or that has none, holds back nothing for ever.
#[tokio::test]
async fn a_publication_that_is_never_confirmed_is_given_up_and_made_again() {
    let limits = MachineryLimits {
        publish_timeout: Duration::from_millis(200),
        ..quick().limits
    };
    on_both_with("durable", Settings { limits, ..quick() }, |db| async move {
        let bus = Arc::new(TestBus::default());
        bus.slow_ms.store(usize::MAX, Ordering::SeqCst);
        let running = Running::start(&bus, vec![Machinery::new(db.clone())]).await;
        note(&db, "order/1", "a").await;
        eventually("it was tried twice", SOON, || async {
            count(&db, "select attempts from outbox").await >= 2
        })
        .await;
        let error = &texts(&db, "select last_error from outbox").await[0];
        assert!(error.contains("did not confirm in time"), "{error}");
        bus.slow_ms.store(0, Ordering::SeqCst);
        all_sent(&db).await;
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn subjects_are_published_concurrently_within_the_window_and_each_in_order() {
    on_both_with(
        "durable",
        Settings {
            limits: MachineryLimits {
                relay_window: 8,
                ..quick().limits
            },
            ..quick()
        },
        |db| async move {
            let bus = Arc::new(TestBus::default());
            bus.slow_ms.store(5, Ordering::SeqCst);
            for version in 0..3 {
                for subject in 0..20 {
                    note(&db, &format!("order/{subject}"), &format!("{version}")).await;
                }
            }
            let running = Running::start(&bus, vec![Machinery::new(db.clone())]).await;
            all_sent(&db).await;
            let published = bus.published();
            assert_eq!(published.len(), 60, "each once");
            for subject in 0..20 {
                let of_subject: Vec<_> = published
                    .iter()
                    .filter(|event| event.starts_with(&format!("order/{subject}:")))
                    .cloned()
                    .collect();
                assert_eq!(
                    of_subject,
                    [1, 2, 3].map(|version| format!("order/{subject}:{version}"))
                );
            }
            assert!(
                !bus.overtook.load(Ordering::SeqCst),
                "two of one subject under way at the same time"
            );
            let most = bus.most.load(Ordering::SeqCst);
            assert!((5..=8).contains(&most), "{most} under way at the same time");
            running.stop().await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_subject_that_cannot_be_published_holds_back_no_other() {
    on_both_with(
        "durable",
        Settings {
            limits: MachineryLimits {
                relay_window: 4,
                ..quick().limits
            },
            ..quick()
        },
        |db| async move {
            let bus = Arc::new(TestBus::default());
            for subject in 0..6 {
                note(&db, &format!("order/a{subject}"), "x").await;
                bus.refused.lock().unwrap().push(format!("order/a{subject}"));
            }
            note(&db, "order/b", "fine").await;
            let running = Running::start(&bus, vec![Machinery::new(db.clone())]).await;
            eventually("the last one is sent", SOON, || async {
                count(&db, PENDING).await == 6
            })
            .await;
            assert_eq!(bus.published(), ["order/b:1"]);
            bus.refused.lock().unwrap().clear();
            all_sent(&db).await;
            running.stop().await;
        },
    )
    .await;
}

#[tokio::test]
async fn an_event_that_cannot_be_published_is_not_overtaken_by_the_next_of_its_subject() {
    on_both_with("durable", quick(), |db| async move {
        let bus = Arc::new(TestBus::default());
        bus.refused.lock().unwrap().push("order/1:1".to_owned());
        for text in ["a", "b"] {
            note(&db, "order/1", text).await;
        }
        let running = Running::start(&bus, vec![Machinery::new(db.clone())]).await;
        eventually("it was tried often", SOON, || async {
            count(&db, "select max(attempts) from outbox").await > 4
        })
        .await;
        assert!(bus.published().is_empty(), "{:?}", bus.published());
        bus.refused.lock().unwrap().clear();
        all_sent(&db).await;
        assert_eq!(bus.published(), ["order/1:1", "order/1:2"]);
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn the_relay_is_woken_by_the_commit_and_need_not_poll() {
    let slow_poll = Settings {
        limits: MachineryLimits {
            poll: Duration::from_secs(60),
            idle_poll: Duration::from_secs(60),
            ..quick().limits
        },
        ..quick()
    };
    on_both_with("durable", slow_poll, |db| async move {
        let bus = Arc::new(TestBus::default());
        let running = Running::start(&bus, vec![Machinery::new(db.clone())]).await;
        note(&db, "order/1", "a").await;
        all_sent(&db).await;
        note(&db, "order/1", "b").await;
        all_sent(&db).await;
        assert_eq!(bus.published(), ["order/1:1", "order/1:2"]);
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn events_without_a_notification_are_found_by_polling() {
    on_both_with("durable", quick(), |db| async move {
        let bus = Arc::new(TestBus::default());
        let running = Running::start(&bus, vec![Machinery::new(db.clone())]).await;
        note(&db, "order/1", "a").await;
        all_sent(&db).await;
        // Pending again, without a notification.
        execute(&db, "update outbox set state = 'pending', sent_at = null").await;
        eventually("it went out again", SOON, || async {
            bus.published() == ["order/1:1", "order/1:1"]
        })
        .await;
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn on_stop_the_relay_publishes_what_is_left_in_the_outbox() {
    on_both_with(
        "durable",
        Settings {
            limits: MachineryLimits {
                relay_window: 4,
                ..quick().limits
            },
            ..quick()
        },
        |db| async move {
            let bus = Arc::new(TestBus::default());
            bus.slow_ms.store(2, Ordering::SeqCst);
            let running = Running::start(&bus, vec![Machinery::new(db.clone())]).await;
            note(&db, "order/0", "x").await;
            all_sent(&db).await;
            for subject in 0..30 {
                note(&db, &format!("order/{subject}"), "x").await;
            }
            running.stop().await;
            assert_eq!(count(&db, PENDING).await, 0);
            assert_eq!(
                count(&db, "select count(*) from lease where until > 0").await,
                0,
                "every lease is released"
            );
        },
    )
    .await;
}

#[tokio::test]
async fn of_two_instances_one_relays_and_the_other_takes_over() {
    let home = PostgresHome::new().await;
    let place = home.storage("orders").await;
    let clock = Arc::new(banyan_core::SystemClock);
    let (one, two) = (
        open_as("orders", &place, quick(), clock.clone()).await,
        open_as("orders", &place, quick(), clock).await,
    );
    let (bus_one, bus_two) = (Arc::new(TestBus::default()), Arc::new(TestBus::default()));
    let running_one = Running::start(&bus_one, vec![Machinery::new(one.clone())]).await;
    note(&one, "order/0", "x").await;
    all_sent(&one).await;
    let running_two = Running::start(&bus_two, vec![Machinery::new(two.clone())]).await;
    for subject in 1..=10 {
        note(&two, &format!("order/{subject}"), "x").await;
    }
    all_sent(&two).await;
    assert_eq!(
        (bus_one.published().len(), bus_two.published().len()),
        (11, 0),
        "one relays, woken by what the other committed"
    );
    running_one.stop().await;
    note(&two, "order/0", "y").await;
    all_sent(&two).await;
    assert_eq!(bus_two.published(), ["order/0:2"]);
    running_two.stop().await;
    one.close().await;
    two.close().await;
    home.remove().await;
}

#[tokio::test]
async fn events_sent_long_ago_are_pruned_and_the_rest_stays_contiguous() {
    let clock = ManualClock::at(Timestamp::from_ms(1_700_000_000_000));
    let home = SqliteHome::new();
    let db = open_as("orders", &home.storage("orders"), quick(), clock.clone()).await;
    for version in 1..=4 {
        note(&db, "order/1", &format!("{version}")).await;
    }
    note(&db, "order/2", "stuck").await;
    note(&db, "order/2", "behind it").await;
    execute(
        &db,
        "update outbox set state = 'sent', sent_at = created_at where subject = 'order/1' or version = 2",
    )
    .await;
    // A clock was wrong: version 3 seems younger than 4, which must not be pruned before it.
    execute(
        &db,
        "update outbox set sent_at = sent_at + 1000000 where subject = 'order/1' and version = 3",
    )
    .await;
    // A dead letter that was discarded as long ago, one of yesterday, and one that still waits for an operator.
    execute(
        &db,
        "insert into retry (id, source, subject, version, kind, body, state, attempts, failures, next_attempt_at, created_at) values
         (x'01', 'payments', 'payment/1', 1, 'k', '{}', 'discarded', 1, 1, 1700000000000, 0),
         (x'02', 'payments', 'payment/2', 1, 'k', '{}', 'discarded', 1, 1, 1700500000000, 0),
         (x'03', 'payments', 'payment/3', 1, 'k', '{}', 'dead', 1, 1, 1700000000000, 0)",
    )
    .await;
    execute(
        &db,
        "insert into inbox (kind, id, fingerprint, tombstone, created_at, expires_at)
         values ('k', 'old', '', true, 0, 1), ('k', 'kept', '', true, 0, null)",
    )
    .await;
    clock.advance(Duration::from_secs(7 * 86_400 + 1));
    let bus = Arc::new(TestBus::default());
    bus.down.store(true, Ordering::SeqCst);
    let running = Running::start(&bus, vec![Machinery::new(db.clone())]).await;
    eventually("pruned", SOON, || async {
        count(&db, "select count(*) from outbox").await == 4
    })
    .await;
    assert_eq!(
        texts(&db, "select subject || ':' || version from outbox order by 1").await,
        ["order/1:3", "order/1:4", "order/2:1", "order/2:2"]
    );
    eventually("forgotten", SOON, || async {
        count(&db, "select count(*) from inbox").await == 1
    })
    .await;
    eventually("given up", SOON, || async {
        count(&db, "select count(*) from retry").await == 2
    })
    .await;
    assert_eq!(
        texts(&db, "select subject from retry order by 1").await,
        ["payment/2", "payment/3"]
    );
    running.stop().await;
    db.close().await;
}
