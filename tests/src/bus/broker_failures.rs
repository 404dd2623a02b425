//! The broker is killed, freezes, loses its data, or accepts nothing; each test has its own broker.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use banyan_bus::{Carrier, QueueType};
use libtest_mimic::Trial;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    check, event,
    fixtures::{Fixture, RecordingSubscriber, SOON, connected},
};
use crate::harness::Broker;

pub fn trials() -> Vec<Trial> {
    let name = |what: &str| format!("bus[rabbitmq]::{what}");
    vec![
        check(
            name("a_broker_killed_while_publishing_loses_no_confirmed_event"),
            killed_while_publishing,
        ),
        check(
            name("a_bus_starts_without_a_broker_and_connects_later"),
            starts_without_a_broker,
        ),
        check(
            name("queues_are_declared_again_after_the_broker_lost_its_data"),
            lost_its_data,
        ),
        check(
            name("publishing_to_a_frozen_broker_times_out_and_resumes_after_it"),
            freezes,
        ),
        check(
            name("a_length_limited_queue_blocks_no_publisher_and_its_subscriber_fetches_the_rest"),
            length_limited,
        ),
        check(
            name("publishing_to_a_broker_short_of_memory_fails_at_once"),
            short_of_memory,
        ),
    ]
}

/// Every confirmed event must be received, also across `kill -9`. (Classic queues: RELIABILITY.md describes what new quorum queues do.)
async fn killed_while_publishing() {
    let broker = Broker::start();
    let fixture = Fixture::new(&broker.url(), QueueType::Classic);
    let (bus, shipping) = (fixture.bus().await, RecordingSubscriber::new("shipping"));
    bus.subscribe(shipping.clone()).await.unwrap();
    connected(&*bus).await;
    let (confirmed, failed, done) = (
        Arc::new(Mutex::new(HashSet::new())),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let publishers: Vec<_> = (0..20)
        .map(|lane| {
            tokio::spawn(publish_on(
                bus.clone(),
                lane,
                confirmed.clone(),
                failed.clone(),
                done.clone(),
            ))
        })
        .collect();
    for _ in 0..2 {
        let before = confirmed.lock().len();
        banyan_durable_testing::eventually("events get through", SOON, || async {
            confirmed.lock().len() > before + 200
        })
        .await;
        let (caught_up, failures) = (shipping.caught_up(), failed.load(Ordering::SeqCst));
        broker.kill();
        banyan_durable_testing::eventually("publications fail", SOON, || async {
            failed.load(Ordering::SeqCst) > failures
        })
        .await;
        broker.boot();
        connected(&*bus).await;
        banyan_durable_testing::eventually("it fetches what it missed", SOON, || async {
            shipping.caught_up() > caught_up
        })
        .await;
    }
    done.store(true, Ordering::SeqCst);
    for publisher in publishers {
        publisher.await.unwrap();
    }
    let confirmed: HashSet<Uuid> = confirmed.lock().clone();
    let missing = || {
        let received: HashSet<Uuid> = shipping.received().iter().map(|event| event.id).collect();
        confirmed.difference(&received).count()
    };
    banyan_durable_testing::eventually("every confirmed event is received", SOON, || async { missing() == 0 }).await;
}

async fn publish_on(
    bus: Arc<dyn Carrier>,
    lane: usize,
    confirmed: Arc<Mutex<HashSet<Uuid>>>,
    failed: Arc<AtomicUsize>,
    done: Arc<AtomicBool>,
) {
    let mut version = 0;
    while !done.load(Ordering::SeqCst) {
        version += 1;
        let event = event("orders", &format!("order/{lane}"), version);
        match bus.publish(&event).await {
            Ok(()) => drop(confirmed.lock().insert(event.id)),
            Err(fault) => {
                assert!(fault.is_transient(), "{fault}");
                failed.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

async fn starts_without_a_broker() {
    let broker = Broker::start();
    broker.kill();
    let fixture = Fixture::new(&broker.url(), QueueType::Quorum);
    let (bus, shipping) = (
        fixture.starting_bus(&CancellationToken::new()),
        RecordingSubscriber::new("shipping"),
    );
    bus.subscribe(shipping.clone()).await.unwrap();
    let reported = || async {
        bus.state().links.iter().all(|link| {
            link.last_error
                .as_ref()
                .is_some_and(|error| error.contains("start a broker"))
        })
    };
    banyan_durable_testing::eventually("the error says how to start one", SOON, reported).await;
    let fault = bus.publish(&event("orders", "order/1", 1)).await.unwrap_err();
    assert!(fault.is_transient(), "{fault}");
    broker.boot();
    connected(&*bus).await;
    bus.publish(&event("orders", "order/1", 1)).await.unwrap();
    shipping.receives(1).await;
}

async fn lost_its_data() {
    let broker = Broker::start();
    let fixture = Fixture::new(&broker.url(), QueueType::Quorum);
    let (bus, shipping) = (fixture.bus().await, RecordingSubscriber::new("shipping"));
    bus.subscribe(shipping.clone()).await.unwrap();
    connected(&*bus).await;
    let before = shipping.caught_up();
    broker.kill();
    broker.delete_data();
    broker.boot();
    connected(&*bus).await;
    banyan_durable_testing::eventually("it fetches what it missed", SOON, || async {
        shipping.caught_up() > before
    })
    .await;
    bus.publish(&event("orders", "order/1", 1)).await.unwrap();
    bus.publish(&event("stock", "item/1", 1)).await.unwrap();
    shipping.receives(1).await;
}

async fn freezes() {
    let broker = Broker::start();
    let mut fixture = Fixture::new(&broker.url(), QueueType::Classic);
    fixture.settings.limits.confirm_timeout = Duration::from_millis(500);
    fixture.settings.limits.connect_timeout = Duration::from_millis(1_000);
    let (bus, shipping) = (fixture.bus().await, RecordingSubscriber::new("shipping"));
    bus.subscribe(shipping.clone()).await.unwrap();
    connected(&*bus).await;
    bus.publish(&event("orders", "order/1", 1)).await.unwrap();
    broker.freeze();
    let began = Instant::now();
    for version in 2..6 {
        let fault = bus.publish(&event("orders", "order/1", version)).await.unwrap_err();
        assert!(fault.is_transient(), "{fault}");
    }
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "four failures took {:?}",
        began.elapsed()
    );
    let silent = || async {
        bus.state().links[0]
            .last_error
            .as_ref()
            .is_some_and(|error| error.contains("no response in time"))
    };
    banyan_durable_testing::eventually("the error says that the broker does not respond", SOON, silent).await;
    // A handshake with a frozen broker occupies a thread until its socket is closed.
    let before = broker.connections();
    sleep(Duration::from_secs(5)).await;
    let now = broker.connections();
    assert!(
        now <= before + 2,
        "every attempt to connect leaves a connection behind: {before}, then {now}"
    );
    broker.thaw();
    connected(&*bus).await;
    bus.publish(&event("orders", "order/1", 6)).await.unwrap();
    banyan_durable_testing::eventually("the last is received", SOON, || async {
        shipping.versions().values().any(|versions| versions.contains(&6))
    })
    .await;
}

/// What an operator may do about the queue of a module that stays down: ADR 0015.
async fn length_limited() {
    let broker = Broker::start();
    broker.control("set_policy short '^test[.]' '{\"max-length\":50,\"overflow\":\"drop-head\"}' --apply-to queues");
    for queue_type in [QueueType::Quorum, QueueType::Classic] {
        let fixture = Fixture::new(&broker.url(), queue_type);
        let (bus, mails) = (fixture.bus().await, RecordingSubscriber::new("mails"));
        bus.subscribe(mails.clone()).await.unwrap();
        connected(&*bus).await;
        for order in 0..200 {
            bus.publish(&event("orders", &format!("order/{order}"), 1))
                .await
                .unwrap();
        }
        mails.receives(200).await;
        let (shipping, later) = (RecordingSubscriber::new("shipping"), fixture.bus().await);
        later.subscribe(shipping.clone()).await.unwrap();
        shipping.receives(50).await;
        assert!(
            shipping.versions().contains_key("order/199") && !shipping.versions().contains_key("order/0"),
            "the newest are there"
        );
        assert!(shipping.caught_up() > 0, "the others are fetched");
    }
}

async fn short_of_memory() {
    let broker = Broker::start();
    let mut fixture = Fixture::new(&broker.url(), QueueType::Classic);
    fixture.settings.limits.confirm_timeout = Duration::from_millis(1_000);
    let bus = fixture.bus().await;
    bus.publish(&event("orders", "order/1", 1)).await.unwrap();
    broker.control("set_vm_memory_high_watermark absolute 1000");
    // The alarm reaches a connection with its next publication, which gets no response; those after it fail at once.
    let at_once = || async {
        let began = Instant::now();
        let published = bus.publish(&event("orders", "order/1", 2)).await;
        published.is_err_and(|fault| fault.is_transient() && fault.detail.contains("memory"))
            && began.elapsed() < Duration::from_millis(500)
    };
    banyan_durable_testing::eventually("the error says that the broker is short of memory", SOON, at_once).await;
    broker.control("set_vm_memory_high_watermark absolute 1GB");
    banyan_durable_testing::eventually("events get through again", SOON, || async {
        bus.publish(&event("orders", "order/1", 3)).await.is_ok()
    })
    .await;
}
