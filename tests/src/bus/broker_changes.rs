//! The broker's exchanges and queues are changed from outside, or two processes run the same module.

use std::{sync::atomic::Ordering, time::Duration};

use banyan_bus::QueueType;
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
    fixtures::{Fixture, RecordingSubscriber, SOON, connected, shared_broker},
};

pub fn trials() -> Vec<Trial> {
    let name = |what: &str| format!("bus[rabbitmq]::{what}");
    vec![
        check(name("a_queue_keeps_events_for_a_module_that_never_ran"), never_ran),
        check(name("an_event_without_a_queue_is_never_confirmed"), without_a_binding),
        check(
            name("a_returned_event_fails_only_its_own_publication"),
            returned_among_others,
        ),
        check(name("an_unreadable_frame_is_rejected_and_not_lost"), unreadable),
        check(
            name("of_two_processes_one_consumes_and_the_other_takes_over"),
            takes_over,
        ),
        check(
            name("an_event_that_a_process_could_not_store_is_delivered_to_the_next"),
            delivered_to_the_next,
        ),
        check(
            name("an_unhealthy_consumer_is_replaced_by_a_healthy_one"),
            unhealthy_consumer,
        ),
        check(
            name("shutdown_waits_for_deliveries_in_progress"),
            shutdown_during_deliveries,
        ),
        check(
            name("a_deleted_exchange_is_declared_again_with_the_next_event"),
            deleted_exchange,
        ),
        check(
            name("a_deleted_queue_is_declared_again_and_missed_events_are_fetched"),
            deleted_queue,
        ),
        check(
            name("a_queue_with_different_properties_is_reported_with_the_remedy"),
            other_properties,
        ),
        check(name("a_wrong_password_or_virtual_host_is_reported"), wrong_login),
        check(
            name("a_subscriber_missing_from_the_topology_is_refused"),
            unknown_subscriber,
        ),
    ]
}

fn fixture() -> Fixture {
    Fixture::new(&shared_broker(), QueueType::Quorum)
}

async fn never_ran() {
    let fixture = fixture();
    let publisher = fixture.bus().await;
    for version in 1..=3 {
        publisher.publish(&event("stock", "item/1", version)).await.unwrap();
    }
    drop(publisher);
    let later = fixture.bus().await;
    let never = RecordingSubscriber::new("never");
    later.subscribe(never.clone()).await.unwrap();
    never.receives(3).await;
    assert_eq!(never.versions()["item/1"], [1, 2, 3]);
}

async fn without_a_binding() {
    let fixture = fixture();
    let bus = fixture.bus().await;
    let admin_channel = fixture.admin_channel().await;
    let (queue, exchange) = (fixture.queue("never"), fixture.settings.exchange.clone());
    let unbound = admin_channel.queue_unbind(
        queue.as_str().into(),
        exchange.as_str().into(),
        "stock.item.#".into(),
        FieldTable::default(),
    );
    unbound.await.unwrap();
    let lost = event("stock", "item/1", 1);
    let fault = bus.publish(&lost).await.unwrap_err();
    assert!(fault.is_transient() && fault.detail.contains("stock.item"), "{fault}");
    // The bus declares the queue again, so the next attempts succeed.
    banyan_durable_testing::eventually("it is confirmed", SOON, || async { bus.publish(&lost).await.is_ok() }).await;
    let never = RecordingSubscriber::new("never");
    bus.subscribe(never.clone()).await.unwrap();
    never.receives(1).await;
}

/// Many events at the same time, some of which sometimes have no queue: the broker confirms in bulk and out of order.
async fn returned_among_others() {
    let fixture = fixture();
    let bus = fixture.bus().await;
    let (unbinder, queue, exchange) = (
        fixture.admin_channel().await,
        fixture.queue("never"),
        fixture.settings.exchange.clone(),
    );
    let unbinding = {
        let (queue, exchange) = (queue.clone(), exchange.clone());
        tokio::spawn(async move {
            loop {
                let unbound = unbinder.queue_unbind(
                    queue.as_str().into(),
                    exchange.as_str().into(),
                    "stock.item.#".into(),
                    FieldTable::default(),
                );
                unbound.await.unwrap();
            }
        })
    };
    let (mut returned, mut confirmed) = (0, 0);
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
                (_, Err(_)) => returned += 1,
            }
        }
    }
    unbinding.abort();
    let passive = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let kept = fixture
        .admin_channel()
        .await
        .queue_declare(queue.as_str().into(), passive, FieldTable::default())
        .await
        .unwrap();
    assert!(
        returned >= 30,
        "only {returned} were returned: the check proves nothing"
    );
    assert_eq!(
        kept.message_count(),
        confirmed,
        "every confirmed event is in its queue, and no other"
    );
}

async fn unreadable() {
    let (fixture, stop) = (fixture(), CancellationToken::new());
    let bus = fixture.starting_bus(&stop);
    connected(&*bus).await;
    let admin_channel = fixture.admin_channel().await;
    admin_channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .unwrap();
    let exchange = fixture.settings.exchange.as_str();
    for frame in [&b"{ no event"[..], b""] {
        let key = "orders.order.1".into();
        let sent = admin_channel.basic_publish(
            exchange.into(),
            key,
            BasicPublishOptions::default(),
            frame,
            BasicProperties::default(),
        );
        sent.await.unwrap().await.unwrap();
    }
    bus.publish(&event("orders", "order/1", 1)).await.unwrap();
    let shipping = RecordingSubscriber::new("shipping");
    shipping.refuse(2);
    bus.subscribe(shipping.clone()).await.unwrap();
    shipping.receives(1).await;
    banyan_durable_testing::eventually("both are rejected", SOON, || async { shipping.rejected().len() == 2 }).await;
    assert!(shipping.rejected().contains(&b"{ no event".to_vec()));
    // A delivery without acknowledgement is not counted until its consumer is cancelled.
    stop.cancel();
    let queue = || async {
        let options = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        admin_channel
            .queue_declare(
                fixture.queue("shipping").as_str().into(),
                options,
                FieldTable::default(),
            )
            .await
            .unwrap()
    };
    banyan_durable_testing::eventually("its consumer is cancelled", SOON, || async {
        queue().await.consumer_count() == 0
    })
    .await;
    assert_eq!(queue().await.message_count(), 0, "everything was acknowledged");
}

async fn takes_over() {
    let fixture = fixture();
    let stop_first = CancellationToken::new();
    let (one, two) = (fixture.starting_bus(&stop_first), fixture.bus().await);
    let (first, second) = (
        RecordingSubscriber::new("shipping"),
        RecordingSubscriber::new("shipping"),
    );
    one.subscribe(first.clone()).await.unwrap();
    connected(&*one).await;
    two.subscribe(second.clone()).await.unwrap();
    connected(&*two).await;
    for order in 0..10 {
        two.publish(&event("orders", &format!("order/{order}"), 1))
            .await
            .unwrap();
    }
    first.receives(10).await;
    assert_eq!(second.distinct(), 0, "only one of them consumes");
    stop_first.cancel();
    for order in 10..20 {
        two.publish(&event("orders", &format!("order/{order}"), 1))
            .await
            .unwrap();
    }
    banyan_durable_testing::eventually("all are received", SOON, || async {
        first.distinct() + second.distinct() >= 20
    })
    .await;
    assert!(second.distinct() > 0);
}

async fn delivered_to_the_next() {
    let fixture = fixture();
    let stop = CancellationToken::new();
    let first_bus = fixture.starting_bus(&stop);
    let first = RecordingSubscriber::new("shipping");
    first.refuse(usize::MAX);
    first_bus.subscribe(first.clone()).await.unwrap();
    connected(&*first_bus).await;
    first_bus.publish(&event("orders", "order/1", 1)).await.unwrap();
    banyan_durable_testing::eventually("it is offered", SOON, || async {
        first.offered.load(Ordering::SeqCst) > 0
    })
    .await;
    stop.cancel();
    let (next_bus, next) = (fixture.bus().await, RecordingSubscriber::new("shipping"));
    next_bus.subscribe(next.clone()).await.unwrap();
    next.receives(1).await;
    assert_eq!(first.distinct(), 0);
}

/// A process whose database is down keeps its connection to the broker; the events delivered to it must not stay with it.
async fn unhealthy_consumer() {
    let mut fixture = fixture();
    fixture.settings.limits.give_way = Duration::from_millis(500);
    let (unhealthy_bus, healthy_bus) = (fixture.bus().await, fixture.bus().await);
    let (unhealthy, healthy) = (
        RecordingSubscriber::new("shipping"),
        RecordingSubscriber::new("shipping"),
    );
    unhealthy_bus.subscribe(unhealthy.clone()).await.unwrap();
    connected(&*unhealthy_bus).await;
    healthy_bus.subscribe(healthy.clone()).await.unwrap();
    connected(&*healthy_bus).await;
    healthy_bus.publish(&event("orders", "order/0", 1)).await.unwrap();
    unhealthy.receives(1).await;
    unhealthy.refuse(usize::MAX);
    for order in 1..=20 {
        healthy_bus
            .publish(&event("orders", &format!("order/{order}"), 1))
            .await
            .unwrap();
    }
    healthy.receives(20).await;
    assert_eq!(unhealthy.distinct(), 1);
    // Once it is healthy again and the only one, it consumes again.
    unhealthy.refuse(0);
    connected(&*unhealthy_bus).await;
    healthy_bus.stop_receiving().await;
    healthy_bus.publish(&event("orders", "order/21", 1)).await.unwrap();
    unhealthy.receives(2).await;
}

async fn shutdown_during_deliveries() {
    let fixture = fixture();
    let (bus, shipping) = (fixture.bus().await, RecordingSubscriber::new("shipping"));
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
    assert!(
        stopped.as_mut().now_or_never().is_none(),
        "the module is still handling them"
    );
    opened.add_permits(3);
    stopped.await;
    assert_eq!(shipping.distinct(), 3, "all were handled");
    bus.publish(&event("orders", "order/4", 1)).await.unwrap();
    bus.close().await;
    assert!(bus.publish(&event("orders", "order/5", 1)).await.is_err());
    let options = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let queue = fixture
        .admin_channel()
        .await
        .queue_declare(
            fixture.queue("shipping").as_str().into(),
            options,
            FieldTable::default(),
        )
        .await
        .unwrap();
    assert_eq!(
        (queue.message_count(), queue.consumer_count()),
        (1, 0),
        "those that were finished were acknowledged"
    );
}

async fn deleted_exchange() {
    let fixture = fixture();
    assert!(
        fixture.settings.limits.declare_every > Duration::from_secs(50),
        "the periodic declaration must not hide what is checked"
    );
    let (bus, shipping) = (fixture.bus().await, RecordingSubscriber::new("shipping"));
    bus.subscribe(shipping.clone()).await.unwrap();
    connected(&*bus).await;
    bus.publish(&event("orders", "order/1", 1)).await.unwrap();
    let before = shipping.caught_up();
    fixture
        .admin_channel()
        .await
        .exchange_delete(fixture.settings.exchange.as_str().into(), Default::default())
        .await
        .unwrap();
    let lost = event("orders", "order/2", 1);
    let fault = bus.publish(&lost).await.unwrap_err();
    assert!(fault.is_transient(), "{fault}");
    banyan_durable_testing::eventually("it is published again", Duration::from_secs(10), || async {
        bus.publish(&lost).await.is_ok()
    })
    .await;
    shipping.receives(2).await;
    banyan_durable_testing::eventually(
        "other processes may have published events that were lost",
        SOON,
        || async { shipping.caught_up() > before },
    )
    .await;
}

async fn deleted_queue() {
    let fixture = fixture();
    let bus = fixture.bus().await;
    let shipping = RecordingSubscriber::new("shipping");
    bus.subscribe(shipping.clone()).await.unwrap();
    connected(&*bus).await;
    let before = shipping.caught_up();
    assert!(before > 0, "a new subscription fetches what it may have missed");
    fixture
        .admin_channel()
        .await
        .queue_delete(fixture.queue("shipping").as_str().into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    banyan_durable_testing::eventually("it fetches what it missed", SOON, || async {
        shipping.caught_up() > before
    })
    .await;
    connected(&*bus).await;
    bus.publish(&event("orders", "order/1", 1)).await.unwrap();
    shipping.receives(1).await;
}

async fn other_properties() {
    let fixture = fixture();
    let queue = fixture.queue("shipping");
    let declared = fixture
        .admin_channel()
        .await
        .queue_declare(
            queue.as_str().into(),
            QueueDeclareOptions::durable(),
            FieldTable::default(),
        )
        .await;
    declared.unwrap();
    let bus = fixture.starting_bus(&CancellationToken::new());
    reports(&*bus, &["bus.queue_type", &format!("rabbitmqctl delete_queue {queue}")]).await;
    assert!(
        bus.publish(&event("orders", "order/1", 1)).await.is_err(),
        "without its queue nothing is confirmed"
    );
}

async fn wrong_login() {
    let mut fixture = fixture();
    let url = shared_broker();
    let at = url.rsplit_once('@').unwrap().1;
    fixture.settings.url = Some(format!("amqp://guest:wrong@{at}").into());
    reports(
        &*fixture.starting_bus(&CancellationToken::new()),
        &["refuses the user or password", "bus.url"],
    )
    .await;
    let host = at.split_once('/').unwrap().0;
    fixture.settings.url = Some(format!("amqp://guest:guest@{host}/nowhere").into());
    reports(
        &*fixture.starting_bus(&CancellationToken::new()),
        &["no virtual host \"nowhere\""],
    )
    .await;
}

async fn reports(bus: &dyn banyan_bus::Carrier, words: &[&str]) {
    let last_error = || bus.state().links[0].last_error.clone().unwrap_or_default();
    let limit = tokio::time::timeout(SOON, async {
        while !words.iter().all(|word| last_error().contains(word)) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
    assert!(
        limit.await.is_ok(),
        "the error contains {words:?}; it is: {}",
        last_error()
    );
    assert!(!bus.state().is_connected());
}

async fn unknown_subscriber() {
    let fixture = fixture();
    let topology = banyan_bus::Topology::new(&fixture.settings, &[("shipping", &["orders.order", "users.user"])]);
    let bus = banyan_bus::RabbitBus::start(fixture.settings.clone(), topology, &CancellationToken::new()).unwrap();
    let fault = bus.subscribe(RecordingSubscriber::new("shipping")).await.unwrap_err();
    assert!(fault.detail.contains("under `subscribes`"), "{fault}");
}
