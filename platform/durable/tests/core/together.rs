//! Events that arrive at the same time.

use banyan_core::{Envelope, Fault};
use futures::future::join_all;
use sea_orm::DbBackend;

use crate::harness::{Faults, count, handled, lane, note, outbox_of, quick, retries, subscriber, with_two};

const SUBJECTS: usize = 48;

async fn events(orders: &banyan_durable::Db) -> Vec<Envelope> {
    for subject in 0..SUBJECTS {
        note(orders, &format!("order/{subject}"), "first").await;
        note(
            orders,
            &format!("order/{subject}"),
            if subject == 7 { "broken" } else { "second" },
        )
        .await;
    }
    outbox_of(orders).await
}

#[tokio::test]
async fn events_that_arrive_at_the_same_time_share_transactions_and_take_effect_once_each() {
    with_two(quick(), |orders, mails| async move {
        let events = events(&orders).await;
        let subscriber = subscriber(&mails, &Faults::default()).await;
        for version in 1..=2 {
            let arrive = events.iter().filter(|event| event.version == version);
            // Each arrives twice.
            let delivered = join_all(
                arrive
                    .clone()
                    .chain(arrive)
                    .map(|event| subscriber.deliver(event.clone())),
            )
            .await;
            assert!(delivered.iter().all(Result::is_ok), "{delivered:?}");
        }
        for subject in 0..SUBJECTS {
            let second = if subject == 7 { "broken" } else { "second" };
            assert_eq!(handled(&mails, &format!("order/{subject}")).await, ["first", second]);
        }
        assert_eq!(retries(&mails).await, [""; 0]);
        if mails.backend() == DbBackend::Postgres {
            let transactions = count(&mails, "select count(distinct xmin::text) from handled").await;
            assert!(
                transactions < SUBJECTS as i64,
                "{transactions} transactions for {} events",
                2 * SUBJECTS
            );
        }
    })
    .await;
}

#[tokio::test]
async fn of_events_that_arrive_at_the_same_time_one_that_fails_is_retried_alone() {
    with_two(quick(), |orders, mails| async move {
        let (events, faults) = (events(&orders).await, Faults::default());
        faults.set("broken", Fault::internal("bug", "a bug"));
        let subscriber = subscriber(&mails, &faults).await;
        for version in 1..=2 {
            let arrive = events.iter().filter(|event| event.version == version);
            let delivered = join_all(arrive.map(|event| subscriber.deliver(event.clone()))).await;
            assert!(delivered.iter().all(Result::is_ok), "{delivered:?}");
        }
        for subject in 0..SUBJECTS {
            let (texts, version): (&[&str], _) = if subject == 7 {
                (&["first"], 1)
            } else {
                (&["first", "second"], 2)
            };
            let subject = format!("order/{subject}");
            assert_eq!(handled(&mails, &subject).await, texts);
            assert_eq!(lane(&mails, &subject).await, version);
        }
        assert_eq!(retries(&mails).await, ["order/7:2 retrying"]);
        assert_eq!(count(&mails, "select attempts from retry").await, 1);
    })
    .await;
}

/// A queue may still have events of a topic to which only an earlier version subscribed.
#[tokio::test]
async fn among_events_that_arrive_together_those_not_subscribed_to_leave_nothing() {
    with_two(quick(), |orders, mails| async move {
        for subject in 0..SUBJECTS {
            note(&orders, &format!("order/{subject}"), "first").await;
            note(&orders, &format!("leaf/{subject}"), "first").await;
        }
        let events = outbox_of(&orders).await;
        let subscriber = subscriber(&mails, &Faults::default()).await;
        let delivered = join_all(events.iter().map(|event| subscriber.deliver(event.clone()))).await;
        assert!(delivered.iter().all(Result::is_ok), "{delivered:?}");
        assert_eq!(
            count(&mails, "select count(*) from lane where subject like 'order/%'").await,
            SUBJECTS as i64
        );
        assert_eq!(
            count(&mails, "select count(*) from lane where subject like 'leaf/%'").await,
            0
        );
        assert_eq!(count(&mails, "select count(*) from handled").await, SUBJECTS as i64);
    })
    .await;
}
