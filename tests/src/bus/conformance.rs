//! What holds for every implementation of the bus.

use std::{sync::Arc, time::Duration};

use banyan_bus::Carrier;
use futures::future::join_all;
use libtest_mimic::Trial;

use super::{
    check, event,
    fixtures::{Kind, RecordingSubscriber, SOON},
};

pub fn trials() -> Vec<Trial> {
    Kind::ALL.into_iter().flat_map(on).collect()
}

fn on(kind: Kind) -> Vec<Trial> {
    let name = |what: &str| format!("bus[{}]::{what}", kind.name());
    vec![
        check(
            name("an_event_reaches_every_subscriber_of_its_aggregate_and_no_other"),
            move || reaches_its_subscribers(kind),
        ),
        check(name("an_event_is_redelivered_to_a_subscriber_that_failed"), move || {
            redelivered_after_a_failure(kind)
        }),
        check(name("publishing_twice_is_harmless"), move || published_twice(kind)),
        check(name("the_events_of_a_subject_arrive_in_order"), move || in_order(kind)),
        check(name("an_event_without_subscribers_is_confirmed"), move || {
            without_subscribers(kind)
        }),
        check(
            name("a_second_subscription_of_a_module_replaces_the_first"),
            move || second_subscription(kind),
        ),
    ]
}

/// Publishes as a relay does: repeatedly, until the event is confirmed.
async fn publish(bus: &Arc<dyn Carrier>, source: &str, subject: &str, version: i64) {
    let event = event(source, subject, version);
    let published = banyan_durable_testing::eventually("an event is confirmed", SOON, || async {
        bus.publish(&event).await.is_ok()
    });
    published.await;
}

async fn subscribed(bus: &Arc<dyn Carrier>, module: &'static str) -> Arc<RecordingSubscriber> {
    let subscriber = RecordingSubscriber::new(module);
    bus.subscribe(subscriber.clone()).await.unwrap();
    super::fixtures::connected(&**bus).await;
    subscriber
}

async fn reaches_its_subscribers(kind: Kind) {
    let bus = kind.bus().await;
    let (shipping, mails) = (subscribed(&bus, "shipping").await, subscribed(&bus, "mails").await);
    publish(&bus, "orders", "order/1", 1).await;
    publish(&bus, "orders", "cart/1", 1).await;
    publish(&bus, "users", "user/1.2#3 and a very unusual id", 1).await;
    mails.receives(2).await;
    shipping.receives(1).await;
    let subjects = |subscriber: &RecordingSubscriber| {
        let mut subjects: Vec<String> = subscriber.received().into_iter().map(|event| event.subject).collect();
        subjects.sort();
        subjects
    };
    assert_eq!(subjects(&shipping), ["order/1"]);
    assert_eq!(subjects(&mails), ["order/1", "user/1.2#3 and a very unusual id"]);
    assert_eq!(
        mails.received()[0].data.get(),
        "{\"version\":1}",
        "the event arrives unchanged"
    );
}

async fn redelivered_after_a_failure(kind: Kind) {
    let bus = kind.bus().await;
    let (shipping, mails) = (subscribed(&bus, "shipping").await, subscribed(&bus, "mails").await);
    mails.refuse(3);
    publish(&bus, "orders", "order/1", 1).await;
    publish(&bus, "orders", "order/2", 1).await;
    mails.receives(2).await;
    shipping.receives(2).await;
}

async fn published_twice(kind: Kind) {
    let bus = kind.bus().await;
    let shipping = subscribed(&bus, "shipping").await;
    let twice = event("orders", "order/1", 1);
    for _ in 0..2 {
        bus.publish(&twice).await.unwrap();
    }
    publish(&bus, "orders", "order/1", 2).await;
    shipping.receives(2).await;
    assert_eq!(shipping.versions()["order/1"], [1, 2]);
}

/// The relay publishes one event of each subject at a time, and many subjects at once.
async fn in_order(kind: Kind) {
    let bus = kind.bus().await;
    let shipping = subscribed(&bus, "shipping").await;
    shipping.refuse(5);
    let of_subject = |subject: String| {
        let bus = bus.clone();
        async move {
            for version in 1..=10 {
                publish(&bus, "orders", &subject, version).await;
            }
        }
    };
    join_all((0..20).map(|order| of_subject(format!("order/{order}")))).await;
    shipping.receives(200).await;
    for (subject, versions) in shipping.versions() {
        assert_eq!(versions, (1..=10).collect::<Vec<_>>(), "{subject}");
    }
}

async fn without_subscribers(kind: Kind) {
    let bus = kind.bus().await;
    bus.publish(&event("orders", "cart/1", 1)).await.unwrap();
}

async fn second_subscription(kind: Kind) {
    let bus = kind.bus().await;
    let (first, second) = (subscribed(&bus, "shipping").await, subscribed(&bus, "shipping").await);
    // Between processes the earlier consumer is cancelled by itself, a little later.
    tokio::time::timeout(SOON, async {
        let mut order = 0;
        while second.distinct() == 0 {
            order += 1;
            publish(&bus, "orders", &format!("order/{order}"), 1).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the later subscriber receives events");
    let before = first.distinct();
    publish(&bus, "orders", "order/last", 1).await;
    second
        .receives(second.distinct() + usize::from(!second.versions().contains_key("order/last")))
        .await;
    assert_eq!(first.distinct(), before, "the earlier one receives nothing more");
}
