//! Following an order with a ticket, where no header can be sent.

mod support;

use banyan_durable::{Db, fault};
use banyan_durable_testing::{eventually, on_both_with};
use banyan_http_testing::{Reply, get, post};
use futures::future::join_all;
use sea_orm::{ConnectionTrait, FromQueryResult, Statement};
use support::{
    Harness,
    fakes::{Scripted, TIMEOUT},
    quick,
};
use uuid::Uuid;

async fn run(db: &Db, sql: &'static str) {
    db.write((), move |tx, ()| async move {
        tx.conn().execute_unprepared(sql).await.map_err(fault).map(drop)
    })
    .await
    .unwrap();
}

async fn count_tickets(db: &Db) -> i64 {
    #[derive(FromQueryResult)]
    struct Count {
        rows: i64,
    }
    let statement = Statement::from_string(db.backend(), "select count(*) as rows from event_ticket");
    let count = Count::find_by_statement(statement).one(db.read()).await.unwrap();
    count.unwrap().rows
}

/// An order whose stream ends by itself.
async fn cancelled_order(harness: &Harness) -> Uuid {
    harness.modules.script("reserve_stock", [Scripted::Refused]);
    let order = harness.place().await;
    harness.until_status(order, "cancelled").await;
    order
}

async fn issue(harness: &Harness, order: Uuid) -> String {
    let issued = harness
        .as_ada(post(&format!("/api/v1/orders/{order}/events/tickets")))
        .await;
    assert_eq!(issued.status, 201, "{}", issued.body);
    issued.json()["ticket"].as_str().unwrap().to_owned()
}

async fn follow(harness: &Harness, order: Uuid, query: String) -> Reply {
    let request = get(&format!("/api/v1/orders/{order}/events?{query}"));
    tokio::time::timeout(TIMEOUT, harness.site.send(request))
        .await
        .expect("the stream ends")
}

#[tokio::test]
async fn a_ticket_opens_one_stream_of_one_order_without_a_token() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db.clone()).await;
        let (order, other) = (cancelled_order(&harness).await, cancelled_order(&harness).await);
        let ticket = issue(&harness, order).await;
        let with = |order, ticket: &str| follow(&harness, order, format!("ticket={ticket}"));
        assert_eq!(
            with(other, &ticket).await.code(),
            "invalid_ticket",
            "it is for one order"
        );

        let uses = join_all((0..4).map(|_| with(order, &ticket))).await;
        let streams: Vec<_> = uses.iter().filter(|reply| reply.status == 200).collect();
        assert_eq!(streams.len(), 1, "of simultaneous uses one gets the stream");
        assert!(streams[0].body.contains("event: cancelled"), "{}", streams[0].body);
        let refused = uses
            .iter()
            .filter(|reply| (reply.status, reply.code().as_str()) == (401, "invalid_ticket"));
        assert_eq!(refused.count(), 3);

        let next = issue(&harness, order).await;
        let resumed = follow(&harness, order, format!("ticket={next}&last_event_id=1")).await;
        assert!(
            !resumed.body.contains("id: 1\n") && resumed.body.contains("id: 2\n"),
            "{}",
            resumed.body
        );
        let last = issue(&harness, order).await;
        let ended = follow(&harness, order, format!("ticket={last}&last_event_id=2")).await;
        assert_eq!(ended.status, 204);
        assert_eq!(follow(&harness, order, String::new()).await.code(), "unauthenticated");
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn tickets_are_for_the_customer_of_the_order_alone_and_expire() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let mut harness = Harness::open(db.clone()).await;
        let order = harness.place().await;
        let path = format!("/api/v1/orders/{order}/events/tickets");
        for reply in [harness.as_bob(post(&path)).await, harness.as_staff(post(&path)).await] {
            assert_eq!(reply.status, 404, "{}", reply.body);
        }
        assert_eq!(harness.site.send(post(&path)).await.code(), "unauthenticated");

        let ticket = issue(&harness, order).await;
        run(&db, "update event_ticket set expires_at = expires_at - 30001").await;
        let late = follow(&harness, order, format!("ticket={ticket}")).await;
        assert_eq!((late.status, late.code().as_str()), (401, "invalid_ticket"));
        harness.run();
        eventually("expired tickets are deleted", TIMEOUT, || async {
            count_tickets(&db).await == 0
        })
        .await;
        harness.close().await;
    })
    .await;
}
