//! Somebody touches the broker behind the shop's back, or two processes share a module.

use std::{sync::atomic::Ordering, time::Duration};

use banyan::bus::QueueType;
use banyan_core::Bus;
use futures::FutureExt;
use lapin::{
    BasicProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};
use libtest_mimic::Trial;
use tokio_util::sync::CancellationToken;

use super::{
    check, event,
    setting::{Ear, SOON, World, connected, shared_broker},
};

pub fn trials() -> Vec<Trial> {
    let name = |what: &str| format!("bus[rabbitmq]::{what}");
    vec![
        check(name("a_queue_keeps_events_for_a_module_that_never_ran"), never_ran),
        check(name("an_event_without_a_queue_is_never_confirmed"), without_a_binding),
        check(
            name("an_event_that_comes_back_fails_itself_and_not_its_neighbour"),
            comes_back_among_others,
        ),
        check(name("an_unreadable_frame_is_rejected_and_not_lost"), unreadable),
        check(
            name("of_two_processes_one_listens_and_the_other_takes_over"),
            takes_over,
        ),
        check(
            name("what_a_process_could_not_take_comes_to_the_next_one"),
            comes_to_the_next,
        ),
        check(
            name("a_process_that_takes_nothing_gives_way_to_one_that_does"),
            gives_way,
        ),
        check(
            name("what_is_being_handled_at_a_stop_is_finished_before_the_stop_is_over"),
            finishes_at_a_stop,
        ),
        check(
            name("a_deleted_exchange_is_made_anew_with_the_next_event"),
            deleted_exchange,
        ),
        check(
            name("a_deleted_queue_is_made_anew_and_missed_events_are_asked_for"),
            deleted_queue,
        ),
        check(
            name("a_queue_with_other_properties_is_named_with_what_to_do"),
            other_properties,
        ),
        check(name("a_wrong_password_or_virtual_host_is_said"), wrong_login),
        check(name("a_listener_that_is_not_in_the_table_is_refused"), unknown_listener),
    ]
}

fn world() -> World {
    World::new(&shared_broker(), QueueType::Quorum)
}

async fn never_ran() {
    let world = world();
    let publisher = world.bus().await;
    for version in 1..=3 {
        publisher.publish(&event("stock", "item/1", version)).await.unwrap();
    }
    drop(publisher);
    let later = world.bus().await;
    let never = Ear::of("never");
    later.subscribe(never.clone()).await.unwrap();
    never.hears(3).await;
    assert_eq!(never.versions()["item/1"], [1, 2, 3]);
}

async fn without_a_binding() {
    let world = world();
    let bus = world.bus().await;
    let back_door = world.back_door().await;
    let (queue, exchange) = (world.queue("never"), world.settings.exchange.clone());
    let unbound = back_door.queue_unbind(
        queue.as_str().into(),
        exchange.as_str().into(),
        "stock.item.#".into(),
        FieldTable::default(),
    );
    unbound.await.unwrap();
    let lost = event("stock", "item/1", 1);
    let fault = bus.publish(&lost).await.unwrap_err();
    assert!(fault.is_transient() && fault.detail.contains("stock.item"), "{fault}");
    // The bus has noticed, so the same event gets through the next times.
    banyan_durable_testing::eventually("it is confirmed", SOON, || async { bus.publish(&lost).await.is_ok() }).await;
    let never = Ear::of("never");
    bus.subscribe(never.clone()).await.unwrap();
    never.hears(1).await;
}

/// Many events at the same time, some of which have no queue now and then: the broker confirms in bulk and out of order.
async fn comes_back_among_others() {
    let world = world();
    let bus = world.bus().await;
    let (meddler, queue, exchange) = (
        world.back_door().await,
        world.queue("never"),
        world.settings.exchange.clone(),
    );
    let meddling = {
        let (queue, exchange) = (queue.clone(), exchange.clone());
        tokio::spawn(async move {
            loop {
                let gone = meddler.queue_unbind(
                    queue.as_str().into(),
                    exchange.as_str().into(),
                    "stock.item.#".into(),
                    FieldTable::default(),
                );
                gone.await.unwrap();
            }
        })
    };
    let (mut came_back, mut confirmed) = (0, 0);
    for round in 0..30 {
        let events = (0..100).map(|i| {
            if i % 3 == 0 {
                ("stock", format!("item/{round}-{i}"))
            } else {
                ("orders", format!("order/{round}-{i}"))
            }
        });
        let published = events.map(|(source, subject)| {
            let bus = bus.clone();
            tokio::spawn(async move { (source, bus.publish(&event(source, &subject, 1)).await) })
        });
        for outcome in futures::future::join_all(published).await {
            match outcome.unwrap() {
                ("orders", confirmed) => assert!(confirmed.is_ok(), "{confirmed:?}"),
                (_, Ok(())) => confirmed += 1,
                (_, Err(_)) => came_back += 1,
            }
        }
    }
    meddling.abort();
    let passive = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let kept = world
        .back_door()
        .await
        .queue_declare(queue.as_str().into(), passive, FieldTable::default())
        .await
        .unwrap();
    assert!(came_back >= 30, "only {came_back} came back: the check checks nothing");
    assert_eq!(
        kept.message_count(),
        confirmed,
        "every confirmed event is in its queue, and no other"
    );
}

async fn unreadable() {
    let (world, stop) = (world(), CancellationToken::new());
    let bus = world.starting_bus(&stop);
    connected(&*bus).await;
    let back_door = world.back_door().await;
    back_door.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let exchange = world.settings.exchange.as_str();
    for frame in [&b"{ no event"[..], b""] {
        let key = "orders.order.1".into();
        let sent = back_door.basic_publish(
            exchange.into(),
            key,
            BasicPublishOptions::default(),
            frame,
            BasicProperties::default(),
        );
        sent.await.unwrap().await.unwrap();
    }
    bus.publish(&event("orders", "order/1", 1)).await.unwrap();
    let shipping = Ear::of("shipping");
    shipping.refuse(2);
    bus.subscribe(shipping.clone()).await.unwrap();
    shipping.hears(1).await;
    banyan_durable_testing::eventually("both are rejected", SOON, || async { shipping.rejected().len() == 2 }).await;
    assert!(shipping.rejected().contains(&b"{ no event".to_vec()));
    // What is received and not acknowledged is not counted until its consumer is gone.
    stop.cancel();
    let queue = || async {
        let options = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        back_door
            .queue_declare(world.queue("shipping").as_str().into(), options, FieldTable::default())
            .await
            .unwrap()
    };
    banyan_durable_testing::eventually("its consumer is gone", SOON, || async {
        queue().await.consumer_count() == 0
    })
    .await;
    assert_eq!(queue().await.message_count(), 0, "everything was acknowledged");
}

async fn takes_over() {
    let world = world();
    let stop_first = CancellationToken::new();
    let (one, two) = (world.starting_bus(&stop_first), world.bus().await);
    let (first, second) = (Ear::of("shipping"), Ear::of("shipping"));
    one.subscribe(first.clone()).await.unwrap();
    connected(&*one).await;
    two.subscribe(second.clone()).await.unwrap();
    connected(&*two).await;
    for order in 0..10 {
        two.publish(&event("orders", &format!("order/{order}"), 1))
            .await
            .unwrap();
    }
    first.hears(10).await;
    assert_eq!(second.distinct(), 0, "only one of them listens");
    stop_first.cancel();
    for order in 10..20 {
        two.publish(&event("orders", &format!("order/{order}"), 1))
            .await
            .unwrap();
    }
    banyan_durable_testing::eventually("all are heard", SOON, || async {
        first.distinct() + second.distinct() >= 20
    })
    .await;
    assert!(second.distinct() > 0);
}

async fn comes_to_the_next() {
    let world = world();
    let stop = CancellationToken::new();
    let first_bus = world.starting_bus(&stop);
    let first = Ear::of("shipping");
    first.refuse(usize::MAX);
    first_bus.subscribe(first.clone()).await.unwrap();
    connected(&*first_bus).await;
    first_bus.publish(&event("orders", "order/1", 1)).await.unwrap();
    banyan_durable_testing::eventually("it is offered", SOON, || async {
        first.offered.load(Ordering::SeqCst) > 0
    })
    .await;
    stop.cancel();
    let (next_bus, next) = (world.bus().await, Ear::of("shipping"));
    next_bus.subscribe(next.clone()).await.unwrap();
    next.hears(1).await;
    assert_eq!(first.distinct(), 0);
}

/// One whose database is away keeps its connection to the broker; the events it was given must not stay with it.
async fn gives_way() {
    let mut world = world();
    world.settings.give_way_ms = 500;
    let (sick_bus, well_bus) = (world.bus().await, world.bus().await);
    let (sick, well) = (Ear::of("shipping"), Ear::of("shipping"));
    sick_bus.subscribe(sick.clone()).await.unwrap();
    connected(&*sick_bus).await;
    well_bus.subscribe(well.clone()).await.unwrap();
    connected(&*well_bus).await;
    well_bus.publish(&event("orders", "order/0", 1)).await.unwrap();
    sick.hears(1).await;
    sick.refuse(usize::MAX);
    for order in 1..=20 {
        well_bus
            .publish(&event("orders", &format!("order/{order}"), 1))
            .await
            .unwrap();
    }
    well.hears(20).await;
    assert_eq!(sick.distinct(), 1);
    // Once it is well again and alone, it listens again.
    sick.refuse(0);
    connected(&*sick_bus).await;
    well_bus.stop_receiving().await;
    well_bus.publish(&event("orders", "order/21", 1)).await.unwrap();
    sick.hears(2).await;
}

async fn finishes_at_a_stop() {
    let world = world();
    let (bus, shipping) = (world.bus().await, Ear::of("shipping"));
    let opened = shipping.close_gate();
    bus.subscribe(shipping.clone()).await.unwrap();
    connected(&*bus).await;
    for order in 1..=3 {
        bus.publish(&event("orders", &format!("order/{order}"), 1))
            .await
            .unwrap();
    }
    banyan_durable_testing::eventually("all are offered", SOON, || async {
        shipping.offered.load(Ordering::SeqCst) == 3
    })
    .await;
    let mut stopped = Box::pin(bus.stop_receiving());
    assert!(stopped.as_mut().now_or_never().is_none(), "the module is at them");
    opened.add_permits(3);
    stopped.await;
    assert_eq!(shipping.distinct(), 3, "they were finished");
    bus.publish(&event("orders", "order/4", 1)).await.unwrap();
    bus.close().await;
    assert!(bus.publish(&event("orders", "order/5", 1)).await.is_err());
    let options = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let queue = world
        .back_door()
        .await
        .queue_declare(world.queue("shipping").as_str().into(), options, FieldTable::default())
        .await
        .unwrap();
    assert_eq!(
        (queue.message_count(), queue.consumer_count()),
        (1, 0),
        "those that were finished were acknowledged"
    );
}

async fn deleted_exchange() {
    let world = world();
    assert!(
        world.settings.declare_every_ms > 50_000,
        "what is looked for is not found in passing"
    );
    let (bus, shipping) = (world.bus().await, Ear::of("shipping"));
    bus.subscribe(shipping.clone()).await.unwrap();
    connected(&*bus).await;
    bus.publish(&event("orders", "order/1", 1)).await.unwrap();
    let before = shipping.caught_up();
    world
        .back_door()
        .await
        .exchange_delete(world.settings.exchange.as_str().into(), Default::default())
        .await
        .unwrap();
    let lost = event("orders", "order/2", 1);
    let fault = bus.publish(&lost).await.unwrap_err();
    assert!(fault.is_transient(), "{fault}");
    banyan_durable_testing::eventually("it gets through again", Duration::from_secs(10), || async {
        bus.publish(&lost).await.is_ok()
    })
    .await;
    shipping.hears(2).await;
    banyan_durable_testing::eventually("others may have published what went nowhere", SOON, || async {
        shipping.caught_up() > before
    })
    .await;
}

async fn deleted_queue() {
    let world = world();
    let bus = world.bus().await;
    let shipping = Ear::of("shipping");
    bus.subscribe(shipping.clone()).await.unwrap();
    connected(&*bus).await;
    let before = shipping.caught_up();
    assert!(before > 0, "whoever begins to listen asks for what it may have missed");
    world
        .back_door()
        .await
        .queue_delete(world.queue("shipping").as_str().into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    banyan_durable_testing::eventually("it asks for what it missed", SOON, || async {
        shipping.caught_up() > before
    })
    .await;
    connected(&*bus).await;
    bus.publish(&event("orders", "order/1", 1)).await.unwrap();
    shipping.hears(1).await;
}

async fn other_properties() {
    let world = world();
    let queue = world.queue("shipping");
    let declared = world
        .back_door()
        .await
        .queue_declare(
            queue.as_str().into(),
            QueueDeclareOptions::durable(),
            FieldTable::default(),
        )
        .await;
    declared.unwrap();
    let bus = world.starting_bus(&CancellationToken::new());
    says(&*bus, &["bus.queue_type", &format!("rabbitmqctl delete_queue {queue}")]).await;
    assert!(
        bus.publish(&event("orders", "order/1", 1)).await.is_err(),
        "without its queue nothing is confirmed"
    );
}

async fn wrong_login() {
    let mut world = world();
    let url = shared_broker();
    let at = url.rsplit_once('@').unwrap().1;
    world.settings.url = Some(format!("amqp://guest:wrong@{at}").into());
    says(
        &*world.starting_bus(&CancellationToken::new()),
        &["refuses the user or password", "bus.url"],
    )
    .await;
    let host = at.split_once('/').unwrap().0;
    world.settings.url = Some(format!("amqp://guest:guest@{host}/nowhere").into());
    says(
        &*world.starting_bus(&CancellationToken::new()),
        &["no virtual host \"nowhere\""],
    )
    .await;
}

async fn says(bus: &dyn banyan::bus::Carrier, words: &[&str]) {
    let last_error = || bus.state().links[0].last_error.clone().unwrap_or_default();
    let limit = tokio::time::timeout(SOON, async {
        while !words.iter().all(|word| last_error().contains(word)) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
    assert!(limit.await.is_ok(), "it says {words:?}, and not only: {}", last_error());
    assert!(!bus.state().is_connected());
}

async fn unknown_listener() {
    let world = world();
    let topology = banyan::bus::Topology::new(&world.settings, &[("shipping", &["orders.order", "users.user"])]);
    let bus = banyan::bus::RabbitBus::start(world.settings.clone(), topology, &CancellationToken::new()).unwrap();
    let fault = bus.subscribe(Ear::of("shipping")).await.unwrap_err();
    assert!(fault.detail.contains("topology.rs"), "{fault}");
}
