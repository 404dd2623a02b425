//! The broker dies, freezes, forgets everything, or takes nothing; each test has one of its own.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use banyan::bus::{Carrier, QueueType};
use libtest_mimic::Trial;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    check, event,
    setting::{Ear, SOON, World, connected},
};
use crate::harness::Broker;

pub fn trials() -> Vec<Trial> {
    let name = |what: &str| format!("bus[rabbitmq]::{what}");
    vec![
        check(
            name("a_broker_that_is_killed_while_publishing_loses_nothing_it_confirmed"),
            killed_while_publishing,
        ),
        check(
            name("a_shop_starts_without_a_broker_and_finds_it_later"),
            starts_without,
        ),
        check(
            name("a_broker_that_forgot_everything_gets_its_queues_again"),
            forgot_everything,
        ),
        check(
            name("a_broker_that_freezes_fails_publications_in_time_and_is_used_again"),
            freezes,
        ),
        check(
            name("a_queue_that_is_kept_short_stops_nobody_and_its_listener_asks_for_the_rest"),
            kept_short,
        ),
        check(
            name("a_broker_short_of_memory_fails_publications_at_once"),
            short_of_memory,
        ),
    ]
}

/// Everything that was confirmed must be heard, also across `kill -9`. (Classic queues: RELIABILITY.md has what quorum queues do when they are
/// young.)
async fn killed_while_publishing() {
    let broker = Broker::start();
    let world = World::new(&broker.url(), QueueType::Classic);
    let (bus, shipping) = (world.bus().await, Ear::of("shipping"));
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
        let before = confirmed.lock().unwrap().len();
        banyan_durable_testing::eventually("events get through", SOON, || async {
            confirmed.lock().unwrap().len() > before + 200
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
        banyan_durable_testing::eventually("it asks for what it missed", SOON, || async {
            shipping.caught_up() > caught_up
        })
        .await;
    }
    done.store(true, Ordering::SeqCst);
    for publisher in publishers {
        publisher.await.unwrap();
    }
    let confirmed: HashSet<Uuid> = confirmed.lock().unwrap().clone();
    let missing = || {
        let heard: HashSet<Uuid> = shipping.heard().iter().map(|event| event.id).collect();
        confirmed.difference(&heard).count()
    };
    banyan_durable_testing::eventually("every confirmed event is heard", SOON, || async { missing() == 0 }).await;
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
            Ok(()) => drop(confirmed.lock().unwrap().insert(event.id)),
            Err(fault) => {
                assert!(fault.is_transient(), "{fault}");
                failed.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

async fn starts_without() {
    let broker = Broker::start();
    broker.kill();
    let world = World::new(&broker.url(), QueueType::Quorum);
    let (bus, shipping) = (world.starting_bus(&CancellationToken::new()), Ear::of("shipping"));
    bus.subscribe(shipping.clone()).await.unwrap();
    let told = || async {
        bus.state().links.iter().all(|link| {
            link.last_error
                .as_ref()
                .is_some_and(|error| error.contains("start a broker"))
        })
    };
    banyan_durable_testing::eventually("it says how to start one", SOON, told).await;
    let fault = bus.publish(&event("orders", "order/1", 1)).await.unwrap_err();
    assert!(fault.is_transient(), "{fault}");
    broker.boot();
    connected(&*bus).await;
    bus.publish(&event("orders", "order/1", 1)).await.unwrap();
    shipping.hears(1).await;
}

async fn forgot_everything() {
    let broker = Broker::start();
    let world = World::new(&broker.url(), QueueType::Quorum);
    let (bus, shipping) = (world.bus().await, Ear::of("shipping"));
    bus.subscribe(shipping.clone()).await.unwrap();
    connected(&*bus).await;
    let before = shipping.caught_up();
    broker.kill();
    broker.delete_data();
    broker.boot();
    connected(&*bus).await;
    banyan_durable_testing::eventually("it asks for what it missed", SOON, || async {
        shipping.caught_up() > before
    })
    .await;
    bus.publish(&event("orders", "order/1", 1)).await.unwrap();
    bus.publish(&event("stock", "item/1", 1)).await.unwrap();
    shipping.hears(1).await;
}

async fn freezes() {
    let broker = Broker::start();
    let mut world = World::new(&broker.url(), QueueType::Classic);
    world.settings.confirm_timeout_ms = 500;
    world.settings.connect_timeout_ms = 1_000;
    let (bus, shipping) = (world.bus().await, Ear::of("shipping"));
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
        "four answers took {:?}",
        began.elapsed()
    );
    let silent = || async {
        bus.state().links[0]
            .last_error
            .as_ref()
            .is_some_and(|error| error.contains("no answer in time"))
    };
    banyan_durable_testing::eventually("it says that the broker is silent", SOON, silent).await;
    // One that shakes hands with a frozen broker holds a thread as long as its socket is open.
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
    banyan_durable_testing::eventually("the last is heard", SOON, || async {
        shipping.versions().values().any(|versions| versions.contains(&6))
    })
    .await;
}

/// What an operator may do about the queue of a module that stays away: ADR 0015.
async fn kept_short() {
    let broker = Broker::start();
    broker.control("set_policy short '^test[.]' '{\"max-length\":50,\"overflow\":\"drop-head\"}' --apply-to queues");
    for queue_type in [QueueType::Quorum, QueueType::Classic] {
        let world = World::new(&broker.url(), queue_type);
        let (bus, mails) = (world.bus().await, Ear::of("mails"));
        bus.subscribe(mails.clone()).await.unwrap();
        connected(&*bus).await;
        for order in 0..200 {
            bus.publish(&event("orders", &format!("order/{order}"), 1))
                .await
                .unwrap();
        }
        mails.hears(200).await;
        let (shipping, later) = (Ear::of("shipping"), world.bus().await);
        later.subscribe(shipping.clone()).await.unwrap();
        shipping.hears(50).await;
        assert!(
            shipping.versions().contains_key("order/199") && !shipping.versions().contains_key("order/0"),
            "the newest are there"
        );
        assert!(shipping.caught_up() > 0, "the others are asked for");
    }
}

async fn short_of_memory() {
    let broker = Broker::start();
    let mut world = World::new(&broker.url(), QueueType::Classic);
    world.settings.confirm_timeout_ms = 1_000;
    let bus = world.bus().await;
    bus.publish(&event("orders", "order/1", 1)).await.unwrap();
    broker.control("set_vm_memory_high_watermark absolute 1000");
    // The alarm reaches a connection with its next publication, which gets no answer; the ones after it are told at once.
    let at_once = || async {
        let began = Instant::now();
        let published = bus.publish(&event("orders", "order/1", 2)).await;
        published.is_err_and(|fault| fault.is_transient() && fault.detail.contains("memory"))
            && began.elapsed() < Duration::from_millis(500)
    };
    banyan_durable_testing::eventually("it says that the broker is short of memory", SOON, at_once).await;
    broker.control("set_vm_memory_high_watermark absolute 1GB");
    banyan_durable_testing::eventually("events get through again", SOON, || async {
        bus.publish(&event("orders", "order/1", 3)).await.is_ok()
    })
    .await;
}
