//! Subscribers that are away for longer than events are usually kept, or begin later than the producer: nothing that was meant for them is passed over in
//! silence.

use std::{sync::Arc, time::Duration};

use banyan_core::{Actor, Call, Fault, PageRequest};
use banyan_durable::{Db, Feeds, Machinery, MachineryLimits, Settings};
use banyan_durable_testing::eventually;
use banyan_event_feed_contract::{ConfirmHandled, Handled, ListEvents};

use crate::harness::{
    Faults, Running, SOON, TestBus, count, execute, handled, lane, note, outbox_of, quick, retries, subscribed,
    subscriber, texts, with_two,
};

/// No comparison but the first happens in a test, and an operator is told of what takes longer than `alert_after`.
fn told_after(alert_after: Duration) -> Settings {
    let quick = quick();
    Settings {
        feed_compare_ms: 600_000,
        limits: MachineryLimits {
            alert_after,
            ..quick.limits
        },
        ..quick
    }
}

fn soon_told() -> Settings {
    told_after(Duration::from_millis(300))
}

fn never_told() -> Settings {
    told_after(Duration::from_secs(600))
}

fn feeds_of(orders: &Db) -> Feeds {
    [("orders".to_owned(), Machinery::new(orders.clone()).feed())].into()
}

/// The machinery of orders, with mails as a subscriber.
fn heard_by_mails(orders: &Db) -> Machinery {
    Machinery::new(orders.clone()).subscribers(vec![("mails".to_owned(), "order".to_owned())])
}

/// Starts orders alone until it has listed its subscribers.
async fn listed(orders: Machinery) {
    let db = orders.db().clone();
    let running = Running::start_with(&Arc::new(TestBus::default()), vec![orders], Feeds::new()).await;
    eventually("listed", SOON, || async {
        count(&db, "select count(*) from subscriber where module = ''").await == 0
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn versions_that_nobody_keeps_are_a_dead_letter_that_names_them() {
    with_two(soon_told(), |orders, mails| async move {
        listed(heard_by_mails(&orders)).await;
        for text in ["a", "b", "c", "d"] {
            note(&orders, "order/1", text).await;
        }
        note(&orders, "order/2", "another").await;
        execute(&orders, "delete from outbox where version <= 2 and subject = 'order/1'").await;
        let machinery = subscribed(&mails, &Faults::default());
        let ops = machinery.ops();
        let running = Running::start_with(&Arc::new(TestBus::default()), vec![machinery], feeds_of(&orders)).await;
        eventually("it is a dead letter", SOON, || async {
            retries(&mails).await == ["order/1:1 dead", "order/1:3 waiting", "order/1:4 waiting"]
        })
        .await;
        assert_eq!((lane(&mails, "order/1").await, lane(&mails, "order/2").await), (0, 1));
        let letter = ops
            .list_dead_letters(Some("dead"), &PageRequest::default())
            .await
            .unwrap()
            .items
            .remove(0);
        assert_eq!(letter.kind, "missing");
        assert!(
            letter
                .last_error
                .unwrap()
                .starts_with("The versions 1 to 2 were not delivered")
        );

        // Asking the producer again changes nothing; only a person passes over them.
        ops.replay_dead_letter(&Actor::default(), letter.id, "is it back?", None)
            .await
            .unwrap();
        eventually("dead again", SOON, || async {
            count(&mails, "select count(*) from retry where state = 'dead'").await == 1
        })
        .await;
        ops.discard_dead_letter(&Actor::default(), letter.id, "they are lost", None)
            .await
            .unwrap();
        eventually("the rest is handled", SOON, || async {
            handled(&mails, "order/1").await == ["c", "d"]
        })
        .await;
        assert_eq!(retries(&mails).await, ["order/1:1 discarded"]);
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_the_queue_brings_after_the_comparison_is_handled() {
    for settings in [never_told(), soon_told()] {
        with_two(settings, |orders, mails| async move {
            listed(heard_by_mails(&orders)).await;
            for text in ["a", "b", "c", "d"] {
                note(&orders, "order/1", text).await;
            }
            let queue = outbox_of(&orders).await;
            execute(&orders, "delete from outbox where version <= 2").await;
            let bus = Arc::new(TestBus::default());
            let machinery = subscribed(&mails, &Faults::default());
            let patience = mails.settings().limits.alert_after;
            let running = Running::start_with(&bus, vec![machinery], feeds_of(&orders)).await;
            let state = if patience < SOON { "dead" } else { "waiting" };
            eventually("the gap is stored", SOON, || async {
                retries(&mails).await.first() == Some(&format!("order/1:1 {state}"))
            })
            .await;
            for event in queue {
                bus.subscriber().deliver(event).await.unwrap();
            }
            eventually("all are handled", SOON, || async {
                handled(&mails, "order/1").await == ["a", "b", "c", "d"]
            })
            .await;
            eventually("nothing waits", SOON, || async { retries(&mails).await.is_empty() }).await;
            running.stop().await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_module_that_subscribes_later_skips_what_was_deleted_before() {
    with_two(never_told(), |orders, mails| async move {
        listed(Machinery::new(orders.clone())).await;
        for text in ["a", "b", "c", "d"] {
            note(&orders, "order/1", text).await;
        }
        execute(&orders, "delete from outbox where version <= 2").await;
        let bus = Arc::new(TestBus::default());
        let running = Running::start_with(&bus, vec![subscribed(&mails, &Faults::default())], feeds_of(&orders)).await;
        eventually("it starts with the oldest kept", SOON, || async {
            handled(&mails, "order/1").await == ["c", "d"]
        })
        .await;
        // And one that comes with nothing at all kept before it.
        for text in ["a", "b"] {
            note(&orders, "order/2", text).await;
        }
        let second = outbox_of(&orders).await.pop().unwrap();
        execute(&orders, "delete from outbox").await;
        bus.subscriber().deliver(second.clone()).await.unwrap();
        eventually("it alone is handled", SOON, || async {
            handled(&mails, "order/2").await == ["b"]
        })
        .await;
        bus.subscriber().deliver(second).await.unwrap();
        assert_eq!(handled(&mails, "order/2").await.len(), 1);
        // What is deleted once it has a lane was meant for it.
        for text in ["c", "d"] {
            note(&orders, "order/2", text).await;
        }
        let last = outbox_of(&orders).await.pop().unwrap();
        execute(&orders, "delete from outbox").await;
        bus.subscriber().deliver(last).await.unwrap();
        eventually("a gap", SOON, || async {
            retries(&mails).await == ["order/2:3 waiting", "order/2:4 waiting"]
        })
        .await;
        running.stop().await;
    })
    .await;
}

/// Makes the events so far old enough to be deleted.
async fn make_old(orders: &Db) {
    execute(
        orders,
        "update outbox set state = 'sent', sent_at = created_at - 800000000, created_at = created_at - 800000000",
    )
    .await;
    execute(orders, "update subject set changed_at = changed_at - 800000000").await;
}

#[tokio::test]
async fn events_are_kept_until_a_known_subscriber_has_handled_them() {
    with_two(quick(), |orders, mails| async move {
        let kept = || count(&orders, "select count(*) from outbox");
        for subject in ["order/1", "order/2"] {
            note(&orders, subject, "a").await;
        }
        make_old(&orders).await;
        // Mails never ran; it is known from the table of modules alone.
        let bus = Arc::new(TestBus::default());
        let running = Running::start_with(&bus, vec![heard_by_mails(&orders)], Feeds::new()).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(kept().await, 2);
        running.stop().await;

        // It comes, handles them, and says so.
        let running = Running::start_with(&bus, vec![subscribed(&mails, &Faults::default())], feeds_of(&orders)).await;
        eventually("confirmed", SOON, || async {
            count(&orders, "select confirmed_before from subscriber").await > 0
        })
        .await;
        assert_eq!(count(&mails, "select count(*) from handled").await, 2);
        running.stop().await;
        let running = Running::start_with(&bus, vec![heard_by_mails(&orders)], Feeds::new()).await;
        eventually("deleted", SOON, || async { kept().await == 0 }).await;
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_operator_gives_up_a_subscriber_and_only_then_its_events_are_deleted() {
    with_two(quick(), |orders, _| async move {
        note(&orders, "order/1", "a").await;
        make_old(&orders).await;
        let machinery = heard_by_mails(&orders);
        let ops = machinery.ops();
        listed(machinery).await;
        let feed = Machinery::new(orders.clone()).feed();
        let nobody = ops.give_up_subscriber(&Actor::default(), "nobody", "gone", None).await;
        assert_eq!(nobody.unwrap_err().code, "not_found");
        let given_up = ops
            .give_up_subscriber(&Actor::default(), "mails", "switched off", None)
            .await
            .unwrap();
        assert!(given_up[0].given_up && given_up[0].confirmed_before.is_none());
        assert_eq!(texts(&orders, "select action from audit").await, ["subscriber.give_up"]);
        let bus = Arc::new(TestBus::default());
        let running = Running::start_with(&bus, vec![heard_by_mails(&orders)], Feeds::new()).await;
        eventually("deleted", SOON, || async {
            count(&orders, "select count(*) from outbox").await == 0
        })
        .await;
        running.stop().await;
        // If it comes back after all, what it can no longer have was meant for it, and events are kept again.
        feed.confirm_handled(&Call::default(), handled_before("mails", 0, true))
            .await
            .unwrap();
        assert!(!ops.list_subscribers().await.unwrap()[0].given_up);
        assert!(!meant_for_others(&orders, "mails").await);
    })
    .await;
}

fn handled_before(subscriber: &str, before_ms: i64, resuming: bool) -> ConfirmHandled {
    ConfirmHandled {
        module: "orders".to_owned(),
        subscriber: subscriber.to_owned(),
        handled: vec![Handled {
            aggregate: "order".to_owned(),
            before_ms,
            acknowledged_ms: 0,
        }],
        resuming,
    }
}

/// Whether the producer says that what it deleted was deleted before this module subscribed.
async fn meant_for_others(orders: &Db, subscriber: &str) -> bool {
    let request = ListEvents {
        module: "orders".to_owned(),
        subject: "order/1".to_owned(),
        subscriber: subscriber.to_owned(),
        ..ListEvents::default()
    };
    let feed = Machinery::new(orders.clone()).feed();
    feed.list_events(&Call::default(), request)
        .await
        .unwrap()
        .before_subscription
}

#[tokio::test]
async fn a_confirmation_never_goes_back_unless_the_subscriber_was_restored() {
    with_two(quick(), |orders, _| async move {
        listed(Machinery::new(orders.clone())).await;
        let feed = Machinery::new(orders.clone()).feed();
        let confirm = async |before_ms, resuming| {
            let request = handled_before("late", before_ms, resuming);
            feed.confirm_handled(&Call::default(), request).await.unwrap().since_ms
        };
        let confirmed = async || count(&orders, "select confirmed_before from subscriber").await;
        assert!(
            confirm(0, true).await > 0,
            "it begins late, so it need not compare everything"
        );
        assert!(meant_for_others(&orders, "late").await);
        confirm(2_000, false).await;
        confirm(1_000, false).await;
        assert_eq!(
            confirmed().await,
            2_000,
            "a late message of an instance that lost its lease"
        );
        confirm(2_000, true).await;
        assert!(meant_for_others(&orders, "late").await, "it only started again");
        assert_eq!(confirm(500, true).await, 0);
        assert_eq!(confirmed().await, 500, "its events are kept again from there");
        assert!(
            !meant_for_others(&orders, "late").await,
            "what was deleted meanwhile was meant for it"
        );
    })
    .await;
}

#[tokio::test]
async fn events_behind_one_that_cannot_be_handled_are_stored_so_that_the_producer_need_not_keep_them() {
    with_two(quick(), |orders, mails| async move {
        let faults = Faults::default();
        faults.set("bug", Fault::internal("on_purpose", "a bug"));
        for text in ["bug", "behind", "far behind"] {
            note(&orders, "order/1", text).await;
        }
        // The bus delivers the first alone.
        subscriber(&mails, &faults)
            .await
            .deliver(outbox_of(&orders).await.remove(0))
            .await
            .unwrap();
        let bus = Arc::new(TestBus::default());
        let running = Running::start_with(&bus, vec![subscribed(&mails, &faults)], feeds_of(&orders)).await;
        eventually("all are here", SOON, || async {
            retries(&mails).await == ["order/1:1 dead", "order/1:2 waiting", "order/1:3 waiting"]
        })
        .await;
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_is_retried_without_limit_is_shown_to_operators_after_a_time() {
    with_two(soon_told(), |orders, mails| async move {
        let faults = Faults::default();
        faults.set("early", Fault::unavailable("The order is still confirmed."));
        for text in ["early", "behind"] {
            note(&orders, "order/1", text).await;
        }
        let bus = Arc::new(TestBus::default());
        let machinery = subscribed(&mails, &faults);
        let ops = machinery.ops();
        let stuck = async || ops.list_stuck_events(&PageRequest::default()).await.unwrap().items;
        let running = Running::start_with(&bus, vec![machinery], feeds_of(&orders)).await;
        eventually("it is tried", SOON, || async { retries(&mails).await.len() == 2 }).await;
        assert!(stuck().await.is_empty(), "most outages are shorter");
        eventually("it is shown", SOON, || async { !stuck().await.is_empty() }).await;
        let shown: Vec<_> = stuck()
            .await
            .into_iter()
            .map(|event| (event.version, event.state))
            .collect();
        assert_eq!(
            shown,
            [(1, "retrying".to_owned())],
            "those behind it wait for nothing else"
        );
        faults.clear();
        eventually("it was tried further", SOON, || async {
            lane(&mails, "order/1").await == 2
        })
        .await;
        assert!(stuck().await.is_empty());
        running.stop().await;
    })
    .await;
}
