//! Reactions: every event once, in order per subject, whatever the transport does.

use std::{sync::Arc, time::Duration};

use banyan_core::{Clock, Envelope, Fault, SystemClock};
use banyan_durable::{Feeds, Machinery, MachineryLimits, Reactions, Settings};
use banyan_durable_testing::{SqliteHome, eventually};

use crate::harness::{
    Faults, Ignored, Noted, Running, SOON, TestBus, append, count, execute, handled, lane, note, open_as, outbox_of,
    prepare, quick, record, retries, subscribed, subscriber, texts, with_two,
};

#[tokio::test]
async fn events_of_one_module_are_handled_once_and_in_order_in_the_other() {
    with_two(quick(), |orders, mails| async move {
        let bus = Arc::new(TestBus::default());
        let running = Running::start(
            &bus,
            vec![Machinery::new(orders.clone()), subscribed(&mails, &Faults::default())],
        )
        .await;
        for text in ["a", "b", "c"] {
            for subject in 1..=5 {
                note(&orders, &format!("order/{subject}"), text).await;
            }
        }
        eventually("all are handled", SOON, || async {
            count(&mails, "select count(*) from handled").await == 15
        })
        .await;
        for subject in 1..=5 {
            assert_eq!(handled(&mails, &format!("order/{subject}")).await, ["a", "b", "c"]);
        }
        running.stop().await;
        assert!(retries(&mails).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_duplicate_does_nothing() {
    with_two(quick(), |orders, mails| async move {
        let subscriber = subscriber(&mails, &Faults::default()).await;
        note(&orders, "order/1", "a").await;
        note(&orders, "order/1", "b").await;
        let events = outbox_of(&orders).await;
        for event in events.iter().chain(&events).chain(&events[..1]) {
            subscriber.deliver(event.clone()).await.unwrap();
        }
        let twins = events.iter().map(|event| subscriber.deliver(event.clone()));
        futures::future::join_all(twins)
            .await
            .into_iter()
            .collect::<Result<(), Fault>>()
            .unwrap();
        assert_eq!(handled(&mails, "order/1").await, ["a", "b"]);
        assert_eq!((lane(&mails, "order/1").await, retries(&mails).await.len()), (2, 0));
    })
    .await;
}

#[tokio::test]
async fn the_same_event_delivered_many_times_at_once_takes_effect_once() {
    with_two(Settings { pool: 8, ..quick() }, |orders, mails| async move {
        let subscriber = subscriber(&mails, &Faults::default()).await;
        // The first event of a subject makes its lane, the second moves it.
        note(&orders, "order/1", "a").await;
        note(&orders, "order/1", "b").await;
        for event in outbox_of(&orders).await {
            let many = (0..8).map(|_| subscriber.deliver(event.clone()));
            futures::future::join_all(many)
                .await
                .into_iter()
                .collect::<Result<(), Fault>>()
                .unwrap();
        }
        assert_eq!(handled(&mails, "order/1").await, ["a", "b"]);
    })
    .await;
}

#[tokio::test]
async fn an_event_without_a_reaction_moves_the_lane_and_one_of_another_aggregate_leaves_no_trace() {
    with_two(quick(), |orders, mails| async move {
        let subscriber = subscriber(&mails, &Faults::default()).await;
        append(&orders, "order/1", Ignored {}).await;
        note(&orders, "order/1", "b").await;
        note(&orders, "cart/1", "c").await;
        for event in outbox_of(&orders).await {
            subscriber.deliver(event).await.unwrap();
        }
        assert_eq!(
            (lane(&mails, "order/1").await, handled(&mails, "order/1").await),
            (2, vec!["b".to_owned()])
        );
        assert_eq!(count(&mails, "select count(*) from lane").await, 1);
    })
    .await;
}

#[tokio::test]
async fn a_failing_reaction_is_rolled_back_kept_and_retried() {
    with_two(quick(), |orders, mails| async move {
        let faults = Faults::default();
        faults.set("a", Fault::conflict("on_purpose", "not now"));
        let idle = subscriber(&mails, &faults).await;
        note(&orders, "order/1", "a").await;
        note(&orders, "order/1", "b").await;
        for event in outbox_of(&orders).await {
            idle.deliver(event).await.unwrap();
        }
        assert_eq!(retries(&mails).await, ["order/1:1 retrying", "order/1:2 waiting"]);
        assert_eq!(
            (lane(&mails, "order/1").await, handled(&mails, "order/1").await.len()),
            (0, 0),
            "nothing of it stays"
        );
        faults.clear();
        let bus = Arc::new(TestBus::default());
        let running = Running::start(&bus, vec![subscribed(&mails, &faults)]).await;
        eventually("both are handled", SOON, || async {
            handled(&mails, "order/1").await == ["a", "b"]
        })
        .await;
        eventually("nothing is kept", SOON, || async { retries(&mails).await.is_empty() }).await;
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_redelivery_does_not_count_as_a_retry() {
    with_two(quick(), |orders, mails| async move {
        let faults = Faults::default();
        faults.set("a", Fault::conflict("on_purpose", "not now"));
        let idle = subscriber(&mails, &faults).await;
        note(&orders, "order/1", "a").await;
        let event = outbox_of(&orders).await.remove(0);
        for _ in 0..5 {
            idle.deliver(event.clone()).await.unwrap();
        }
        assert_eq!(count(&mails, "select attempts from retry").await, 1);
        assert_eq!(retries(&mails).await, ["order/1:1 retrying"]);
    })
    .await;
}

#[tokio::test]
async fn the_delay_of_a_failing_reaction_grows_up_to_the_last_one() {
    // Too long to pass while the test looks.
    let settings = Settings {
        limits: MachineryLimits {
            retry_delays: [10, 20, 30, 40].map(Duration::from_secs).to_vec(),
            ..quick().limits
        },
        ..quick()
    };
    let home = SqliteHome::new();
    let clock = Arc::new(SystemClock);
    let orders = open_as("orders", &home.storage("orders"), settings.clone(), clock.clone()).await;
    let mails = open_as("mails", &home.storage("mails"), settings, clock.clone()).await;
    prepare(&mails).await;
    let faults = Faults::default();
    faults.set("unavailable", Fault::unavailable("the catalog is unavailable"));
    let bus = Arc::new(TestBus::default());
    // Without feeds: a comparison may fetch the event while it is being delivered, and then both tries count.
    let running = Running::start_with(
        &bus,
        vec![Machinery::new(orders.clone()), subscribed(&mails, &faults)],
        Feeds::new(),
    )
    .await;
    let mut before = clock.now();
    note(&orders, "order/1", "unavailable").await;
    for (attempts, wait_s) in [(1, 10), (2, 20), (3, 30), (4, 40), (5, 40)] {
        let tried = || async { count(&mails, "select coalesce(max(attempts), 0) from retry").await == attempts };
        eventually(&format!("try {attempts}"), SOON, tried).await;
        let tried_at = count(&mails, "select next_attempt_at from retry").await - wait_s * 1_000;
        let then = before.as_ms()..=clock.now().as_ms();
        assert!(then.contains(&tried_at), "after try {attempts}: {tried_at} in {then:?}");
        before = clock.now();
        execute(&mails, "update retry set next_attempt_at = 0").await;
    }
    running.stop().await;
    orders.close().await;
    mails.close().await;
}

#[tokio::test]
async fn while_another_module_is_unavailable_a_reaction_is_retried_without_limit() {
    with_two(quick(), |orders, mails| async move {
        let faults = Faults::default();
        faults.set("unavailable", Fault::unavailable("the catalog is unavailable"));
        faults.set("late", Fault::timeout("the catalog is slow"));
        let bus = Arc::new(TestBus::default());
        let running = Running::start(&bus, vec![Machinery::new(orders.clone()), subscribed(&mails, &faults)]).await;
        note(&orders, "order/1", "unavailable").await;
        note(&orders, "order/2", "late").await;
        eventually("tried more often than failures are allowed", SOON, || async {
            count(
                &mails,
                "select count(*) from retry where attempts > 6 and failures = 0 and state = 'retrying'",
            )
            .await
                == 2
        })
        .await;
        faults.clear();
        eventually("both are handled", SOON, || async {
            count(&mails, "select count(*) from handled").await == 2
        })
        .await;
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_dead_letter_holds_back_its_own_subject_and_no_other() {
    with_two(quick(), |orders, mails| async move {
        let faults = Faults::default();
        faults.set("bug", Fault::internal("on_purpose", "a bug"));
        faults.set("crash", Fault::internal("panic", "a bug"));
        faults.set("unavailable", Fault::unavailable("the catalog is unavailable"));
        let bus = Arc::new(TestBus::default());
        let running = Running::start(&bus, vec![Machinery::new(orders.clone()), subscribed(&mails, &faults)]).await;
        for (subject, text) in [
            ("order/1", "bug"),
            ("order/1", "behind"),
            ("order/2", "fine"),
            ("order/3", "crash"),
        ] {
            note(&orders, subject, text).await;
        }
        note(&orders, "order/4", "fine").await;
        note(&orders, "order/4", "unavailable").await;
        eventually("two are dead", SOON, || async {
            count(&mails, "select count(*) from retry where state = 'dead'").await == 2
        })
        .await;
        note(&orders, "order/1", "far behind").await;
        note(&orders, "order/2", "fine too").await;
        eventually("the others go on", SOON, || async {
            handled(&mails, "order/2").await == ["fine", "fine too"]
        })
        .await;
        eventually("all is sent", SOON, || async {
            count(&orders, "select count(*) from outbox where state = 'pending'").await == 0
        })
        .await;
        let kept = [
            "order/1:1 dead",
            "order/1:2 waiting",
            "order/1:3 waiting",
            "order/3:1 dead",
            "order/4:2 retrying",
        ];
        assert_eq!(retries(&mails).await, kept);
        assert_eq!(
            count(
                &mails,
                "select failures from retry where subject = 'order/1' and version = 1"
            )
            .await,
            3
        );
        // Comparing with the feed and redelivering must not retry dead letters.
        let dead = outbox_of(&orders).await.remove(0);
        faults.clear();
        bus.subscriber().deliver(dead).await.unwrap();
        eventually("the other failed event is retried", SOON, || async {
            handled(&mails, "order/4").await == ["fine", "unavailable"]
        })
        .await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_eq!(handled(&mails, "order/1").await.len(), 0);
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_undecodable_event_is_a_dead_letter_at_once() {
    with_two(quick(), |orders, mails| async move {
        let subscriber = subscriber(&mails, &Faults::default()).await;
        append(&orders, "order/1", Misnamed { number: 7 }).await;
        note(&orders, "order/2", "zero").await;
        let events = outbox_of(&orders).await;
        subscriber.deliver(events[0].clone()).await.unwrap();
        let mut versionless = events[1].clone();
        versionless.version = 0;
        subscriber.deliver(versionless).await.unwrap();
        for frame in [&b"no json"[..], &b"\xff\x00"[..], &b"no json"[..]] {
            let why = Envelope::from_bytes(frame).unwrap_err();
            subscriber.reject(frame, &why).await.unwrap();
        }
        let dead = texts(
            &mails,
            "select substr(subject, 1, 6) || state from retry order by subject",
        )
        .await;
        assert_eq!(
            dead,
            ["frame/dead", "frame/dead", "frame/dead", "order/dead"],
            "the same frame once"
        );
        subscriber.deliver(events[1].clone()).await.unwrap();
        assert_eq!(
            handled(&mails, "order/2").await,
            ["zero"],
            "an undecodable frame holds back no event"
        );
    })
    .await;
}

/// Has the type of [`Noted`] and other data.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Misnamed {
    number: i64,
}

impl banyan_core::Event for Misnamed {
    const TYPE: &'static str = <Noted as banyan_core::Event>::TYPE;
}

#[tokio::test]
async fn two_reactions_to_one_event_are_one_transaction() {
    with_two(quick(), |orders, mails| async move {
        let reactions = Reactions::new(mails.clone())
            .on::<Noted, _, _>(
                "orders.order",
                |tx, incoming| async move { record(&tx, &incoming).await },
            )
            .on::<Noted, _, _>("orders.order", |_, _| async move {
                Err(Fault::conflict("on_purpose", "no"))
            });
        let bus = Arc::new(TestBus::default());
        let transport: Arc<dyn banyan_core::Bus> = bus.clone();
        Machinery::new(mails.clone())
            .reactions(reactions)
            .connect(&transport)
            .await
            .unwrap();
        assert_eq!(bus.subscriber().topics(), ["orders.order"]);
        note(&orders, "order/1", "a").await;
        bus.subscriber()
            .deliver(outbox_of(&orders).await.remove(0))
            .await
            .unwrap();
        assert_eq!(handled(&mails, "order/1").await.len(), 0);
    })
    .await;
}
