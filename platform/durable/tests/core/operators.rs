//! What operators see and may do.

use std::sync::Arc;

use banyan_core::OPERATOR;
use banyan_core::{Actor, Fault, PageRequest};
use banyan_durable::{Db, DeadLetter, Machinery};
use banyan_durable_testing::eventually;
use uuid::Uuid;

use crate::harness::{Faults, Running, SOON, TestBus, count, handled, note, quick, subscribed, with_two};

fn operator() -> Actor {
    Actor::user(Uuid::from_u128(7), [OPERATOR])
}

async fn the_dead_one(db: &Db) -> DeadLetter {
    let ops = Machinery::new(db.clone()).ops();
    eventually("one is dead", SOON, || async {
        ops.counts().await.unwrap().dead_letters == 1
    })
    .await;
    ops.list_dead_letters(Some("dead"), &PageRequest::default())
        .await
        .unwrap()
        .items
        .remove(0)
}

/// Two events of one subject, the first of which cannot be handled.
async fn stuck(orders: &Db, mails: &Db, faults: &Faults) -> (Running, Arc<TestBus>) {
    faults.set("bug", Fault::internal("on_purpose", "a bug"));
    let bus = Arc::new(TestBus::default());
    let running = Running::start(&bus, vec![Machinery::new(orders.clone()), subscribed(mails, faults)]).await;
    note(orders, "order/1", "bug").await;
    note(orders, "order/1", "behind").await;
    eventually("the second waits for the first", SOON, || async {
        count(mails, "select count(*) from retry where state = 'waiting'").await == 1
    })
    .await;
    (running, bus)
}

#[tokio::test]
async fn a_replayed_dead_letter_is_handled_and_the_events_behind_it_follow() {
    with_two(quick(), |orders, mails| async move {
        let (faults, ops) = (Faults::default(), Machinery::new(mails.clone()).ops());
        let (running, _) = stuck(&orders, &mails, &faults).await;
        let dead = the_dead_one(&mails).await;
        assert!(dead.last_error.as_deref().unwrap().contains("a bug"));
        // Still broken: it is dead again, after as many attempts as the first time.
        ops.replay_dead_letter(&operator(), dead.id, "try again", None)
            .await
            .unwrap();
        eventually("it is dead again", SOON, || async {
            count(
                &mails,
                "select coalesce(max(attempts), 0) from retry where state = 'dead'",
            )
            .await
                == 6
        })
        .await;
        faults.clear();
        let replayed = ops
            .replay_dead_letter(&operator(), dead.id, "bug 42 is fixed", Some("released at noon"))
            .await
            .unwrap();
        assert_eq!((replayed.state.as_str(), replayed.failures), ("retrying", 0));
        eventually("both are handled", SOON, || async {
            handled(&mails, "order/1").await == ["bug", "behind"]
        })
        .await;
        assert_eq!(
            ops.replay_dead_letter(&operator(), dead.id, "again", None)
                .await
                .unwrap_err()
                .code,
            "not_found"
        );
        let audit = ops.list_audit(&PageRequest::default()).await.unwrap().items;
        assert_eq!(audit.len(), 2);
        assert_eq!(
            (audit[0].actor.as_str(), audit[0].action.as_str()),
            (operator().label().as_str(), "dead_letter.replay")
        );
        assert_eq!(
            (audit[0].target.clone(), audit[0].reason.as_str()),
            (format!("dead_letter/{}", dead.id), "bug 42 is fixed")
        );
        assert_eq!(audit[0].comment.as_deref(), Some("released at noon"));
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_discarded_dead_letter_is_skipped_and_stays_on_record() {
    with_two(quick(), |orders, mails| async move {
        let (faults, ops) = (Faults::default(), Machinery::new(mails.clone()).ops());
        let (running, bus) = stuck(&orders, &mails, &faults).await;
        let dead = the_dead_one(&mails).await;
        let waiting = ops
            .list_dead_letters(Some("waiting"), &PageRequest::default())
            .await
            .unwrap()
            .items
            .remove(0);
        assert_eq!(
            ops.discard_dead_letter(&operator(), waiting.id, "no", None)
                .await
                .unwrap_err()
                .code,
            "not_discardable"
        );
        assert_eq!(
            ops.replay_dead_letter(&operator(), waiting.id, "no", None)
                .await
                .unwrap_err()
                .code,
            "not_dead"
        );
        let discarded = ops
            .discard_dead_letter(&operator(), dead.id, "the order is a test", None)
            .await
            .unwrap();
        assert_eq!(discarded.state, "discarded");
        eventually("the event behind it is handled", SOON, || async {
            handled(&mails, "order/1").await == ["behind"]
        })
        .await;
        assert_eq!(
            ops.discard_dead_letter(&operator(), dead.id, "again", None)
                .await
                .unwrap_err()
                .code,
            "not_discardable"
        );
        let shown = ops.find_dead_letter(dead.id).await.unwrap();
        assert_eq!(
            (shown.letter.state.as_str(), &shown.event["data"]["text"]),
            ("discarded", &serde_json::json!("bug"))
        );
        // It stays discarded, even if it is delivered again.
        faults.clear();
        let event = serde_json::from_value(shown.event).unwrap();
        bus.subscriber().deliver(event).await.unwrap();
        assert_eq!(handled(&mails, "order/1").await, ["behind"]);
        assert_eq!(ops.find_dead_letter(dead.id).await.unwrap().letter.state, "discarded");
        let audit = ops.list_audit(&PageRequest::default()).await.unwrap().items;
        assert_eq!(
            (audit.len(), audit[0].action.as_str()),
            (1, "dead_letter.discard"),
            "refused actions leave no row"
        );
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_undecodable_frame_can_be_replayed_and_discarded() {
    with_two(quick(), |orders, mails| async move {
        let ops = Machinery::new(mails.clone()).ops();
        let bus = Arc::new(TestBus::default());
        let running = Running::start(&bus, vec![subscribed(&mails, &Faults::default())]).await;
        let subscriber = bus.subscriber();
        subscriber
            .reject(b"no json", &Fault::internal("undecodable_event", "no json"))
            .await
            .unwrap();
        let dead = the_dead_one(&mails).await;
        assert_eq!(
            ops.find_dead_letter(dead.id).await.unwrap().event,
            serde_json::json!("no json")
        );
        ops.replay_dead_letter(&operator(), dead.id, "try", None).await.unwrap();
        assert_eq!(the_dead_one(&mails).await.id, dead.id, "it is dead again");
        ops.discard_dead_letter(&operator(), dead.id, "rubbish", None)
            .await
            .unwrap();
        assert_eq!(ops.counts().await.unwrap().dead_letters, 0);
        // One that this build can read after all.
        note(&orders, "order/1", "a").await;
        let frame = crate::harness::texts(&orders, "select body from outbox")
            .await
            .remove(0);
        subscriber
            .reject(
                frame.as_bytes(),
                &Fault::internal("undecodable_event", "from an older build"),
            )
            .await
            .unwrap();
        let dead = the_dead_one(&mails).await;
        ops.replay_dead_letter(&operator(), dead.id, "newer build", None)
            .await
            .unwrap();
        eventually("it is received", SOON, || async {
            handled(&mails, "order/1").await == ["a"]
        })
        .await;
        eventually("it is deleted", SOON, || async {
            ops.find_dead_letter(dead.id).await.is_err()
        })
        .await;
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn lists_are_read_a_page_at_a_time_and_by_state() {
    with_two(quick(), |orders, _| async move {
        let ops = Machinery::new(orders.clone()).ops();
        assert_eq!(ops.module(), "orders");
        for subject in 1..=5 {
            note(&orders, &format!("order/{subject}"), "x").await;
        }
        let counts = ops.counts().await.unwrap();
        assert_eq!(
            (
                counts.outbox_pending,
                counts.dead_letters,
                counts.waiting,
                counts.retrying
            ),
            (5, 0, 0, 0)
        );
        assert!(counts.outbox_oldest_ms < 60_000);
        let mut page = PageRequest { limit: 2, after: None };
        let mut subjects = Vec::new();
        loop {
            let listed = ops.list_outbox(Some("pending"), &page).await.unwrap();
            subjects.extend(listed.items.into_iter().map(|entry| entry.subject));
            match listed.next {
                Some(next) => page.after = Some(next),
                None => break,
            }
        }
        assert_eq!(
            subjects,
            ["order/5", "order/4", "order/3", "order/2", "order/1"],
            "the newest first"
        );
        assert!(
            ops.list_outbox(Some("sent"), &PageRequest::default())
                .await
                .unwrap()
                .items
                .is_empty()
        );
        assert_eq!(
            ops.list_outbox(Some("lost"), &PageRequest::default())
                .await
                .unwrap_err()
                .code,
            "invalid_state"
        );
        let first = ops
            .list_outbox(None, &PageRequest::default())
            .await
            .unwrap()
            .items
            .remove(0);
        let shown = ops.find_outbox_event(first.id).await.unwrap();
        assert_eq!(
            (shown.entry, &shown.event["subject"]),
            (first, &serde_json::json!("order/5"))
        );
        assert_eq!(ops.find_outbox_event(Uuid::nil()).await.unwrap_err().code, "not_found");
        let rubbish = PageRequest {
            limit: 2,
            after: Some(banyan_core::Cursor("rubbish".to_owned())),
        };
        assert_eq!(
            ops.list_outbox(None, &rubbish).await.unwrap_err().code,
            "invalid_cursor"
        );
    })
    .await;
}
