//! Orders through its contract, the events it consumes, and its read models.

mod support;

use std::time::Duration;

use banyan_core::{Actor, Call};
use banyan_durable::SagaState;
use banyan_durable_testing::{eventually, on_both_with};
use banyan_http_testing::{get, post};
use orders_contract::{FindOrder, ListOrders};
use payments_contract::{PaymentAuthorised, PaymentCaptured, PaymentRefunded};
use sea_orm::ConnectionTrait;
use serde_json::json;
use shared_kernel::{Money, Role};
use shipping_contract::{ShipmentDelivered, ShipmentDispatched, ShipmentScheduled};
use uuid::Uuid;

use support::{
    ADA, BOB, Harness,
    fakes::{TIMEOUT, id_of},
    id_in, quick,
};

fn by(id: Uuid, role: Role) -> Call {
    Call::by(Actor::user(id, [role]))
}

#[tokio::test]
async fn a_response_contains_only_what_the_actor_may_see() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::open(db).await;
        let order = harness.place().await;
        let cart = id_in(&harness.as_ada(post("/api/v1/carts")).await);
        for id in [order, cart] {
            let find = async |call: Call| {
                let request = FindOrder {
                    order_id: id.to_string(),
                };
                harness.offers.contract.find_order(&call, request).await.unwrap().order
            };
            assert_eq!(find(by(ADA, Role::Customer)).await.unwrap().user_id, ADA.to_string());
            let is_placed = id == order;
            assert_eq!(
                find(by(BOB, Role::Staff)).await.is_some(),
                is_placed,
                "a cart is visible to its customer alone"
            );
            assert_eq!(
                find(Call::by_module("notifications")).await.is_some(),
                is_placed,
                "a cart is visible to its customer alone"
            );
            assert_eq!(find(by(BOB, Role::Customer)).await, None);
            assert_eq!(find(Call::default()).await, None);
        }
        let list = async |call: Call, user: Uuid| {
            let request = ListOrders {
                user_id: user.to_string(),
                limit: 10,
            };
            harness.offers.contract.list_orders(&call, request).await.unwrap().items
        };
        let own = list(by(ADA, Role::Customer), ADA).await;
        assert_eq!(
            own.iter().map(|order| order.id.clone()).collect::<Vec<_>>(),
            [order.to_string()],
            "a cart is not listed"
        );
        assert_eq!(
            (own[0].status.as_str(), own[0].total.clone().unwrap().amount),
            ("pending", 398)
        );
        assert!(list(by(BOB, Role::Customer), ADA).await.is_empty());
        assert!(list(Call::default(), ADA).await.is_empty());
        let bad = harness
            .offers
            .contract
            .find_order(
                &Call::by_module("x"),
                FindOrder {
                    order_id: "7".to_owned(),
                },
            )
            .await;
        assert_eq!(bad.unwrap_err().code, "invalid_id");
        let none = ListOrders {
            user_id: ADA.to_string(),
            limit: 0,
        };
        assert_eq!(
            harness
                .offers
                .contract
                .list_orders(&Call::by_module("x"), none)
                .await
                .unwrap_err()
                .code,
            "invalid_limit"
        );
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn an_order_follows_its_shipment_until_delivery() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db).await;
        let order = harness.place().await;
        harness.until_status(order, "confirmed").await;
        eventually("the checkout has ended", TIMEOUT, || async {
            harness.saga("checkout", order).await.unwrap().state == SagaState::Completed
        })
        .await;
        let shipment = ShipmentEvents::of(order);
        for _ in 0..2 {
            harness
                .deliver("shipping", &shipment.subject, 1, &shipment.scheduled())
                .await;
            harness
                .deliver("shipping", &shipment.subject, 2, &shipment.dispatched())
                .await;
        }
        let shown = harness.until_status(order, "shipped").await;
        assert_eq!(
            (&shown["shipment"]["status"], &shown["shipment"]["tracking_number"]),
            (&json!("dispatched"), &json!("T-1"))
        );
        let reply = harness.cancel(order).await;
        assert_eq!((reply.status, reply.code().as_str()), (409, "already_shipped"));
        harness
            .deliver("shipping", &shipment.subject, 3, &shipment.delivered())
            .await;
        harness.until_status(order, "delivered").await;
        let expected = ["OrderPlaced", "OrderConfirmed", "OrderShipped", "OrderDelivered"];
        eventually("published", TIMEOUT, || async { harness.published(order) == expected }).await;
        assert_eq!(harness.published_data(order, "OrderShipped")["tracking_number"], "T-1");
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_dispatch_received_before_the_order_is_confirmed_is_recorded_once_it_is() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db).await;
        let gate = harness.modules.gate("commit_stock");
        let order = harness.place().await;
        let shipment = ShipmentEvents::of(order);
        harness
            .deliver("shipping", &shipment.subject, 1, &shipment.scheduled())
            .await;
        harness
            .deliver("shipping", &shipment.subject, 2, &shipment.dispatched())
            .await;
        harness
            .deliver("shipping", &shipment.subject, 3, &shipment.delivered())
            .await;
        // Longer than it takes to become a dead letter, were it counted as a failure.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(harness.show(order).await["status"], "pending");
        gate.add_permits(1);
        harness.until_status(order, "delivered").await;
        eventually("the checkout has ended", TIMEOUT, || async {
            harness.saga("checkout", order).await.unwrap().state == SagaState::Completed
        })
        .await;
        assert_eq!(
            harness.show(order).await["shipment"]["status"],
            "delivered",
            "that it was ready is stale"
        );
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn events_of_the_payment_are_recorded_unless_they_are_stale() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db).await;
        let order = harness.place().await;
        harness.until_status(order, "confirmed").await;
        eventually("the checkout has ended", TIMEOUT, || async {
            harness.saga("checkout", order).await.unwrap().state == SagaState::Completed
        })
        .await;
        let known = harness.history(order).await;
        let payment_id = id_of("payment", &order.to_string()).to_string();
        let (order_id, user_id, subject) = (order.to_string(), ADA.to_string(), format!("payment/{payment_id}"));
        let euros = |amount| Some(Money::new(amount, "EUR").unwrap());
        let authorised = PaymentAuthorised {
            payment_id: payment_id.clone(),
            order_id: order_id.clone(),
            user_id: user_id.clone(),
            amount: euros(398),
        };
        harness.deliver("payments", &subject, 1, &authorised).await;
        let captured = PaymentCaptured {
            payment_id: payment_id.clone(),
            order_id: order_id.clone(),
            user_id: user_id.clone(),
            amount: euros(398),
        };
        harness.deliver("payments", &subject, 2, &captured).await;
        assert_eq!(harness.history(order).await, known, "the checkout recorded it before");
        let refund = |amount, refunded| PaymentRefunded {
            payment_id: payment_id.clone(),
            order_id: order_id.clone(),
            user_id: user_id.clone(),
            amount: euros(amount),
            refunded: euros(refunded),
            reason: "broken".to_owned(),
        };
        harness.deliver("payments", &subject, 3, &refund(100, 100)).await;
        assert_eq!(harness.show(order).await["payment"]["status"], "partially_refunded");
        harness.deliver("payments", &subject, 4, &refund(298, 398)).await;
        assert_eq!(harness.show(order).await["payment"]["status"], "refunded");
        assert_eq!(
            harness.show(order).await["status"],
            "confirmed",
            "a refund is not a cancel"
        );
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_stream_sends_what_happened_after_the_delivery_and_ends() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db).await;
        let order = harness.place().await;
        harness.until_status(order, "confirmed").await;
        eventually("the checkout has ended", TIMEOUT, || async {
            harness.saga("checkout", order).await.unwrap().state == SagaState::Completed
        })
        .await;
        let shipment = ShipmentEvents::of(order);
        harness
            .deliver("shipping", &shipment.subject, 1, &shipment.scheduled())
            .await;
        harness
            .deliver("shipping", &shipment.subject, 2, &shipment.dispatched())
            .await;
        harness
            .deliver("shipping", &shipment.subject, 3, &shipment.delivered())
            .await;
        harness.until_status(order, "delivered").await;
        let payment_id = id_of("payment", &order.to_string()).to_string();
        let refunded = PaymentRefunded {
            payment_id: payment_id.clone(),
            order_id: order.to_string(),
            user_id: ADA.to_string(),
            amount: Some(Money::new(398, "EUR").unwrap()),
            refunded: Some(Money::new(398, "EUR").unwrap()),
            reason: "broken".to_owned(),
        };
        harness
            .deliver("payments", &format!("payment/{payment_id}"), 1, &refunded)
            .await;
        let history = harness.history(order).await;
        let count = history.len();
        assert_eq!(history[count - 2..], ["delivered", "payment_refunded"]);

        let path = format!("/api/v1/orders/{order}/events");
        // A new client; one that received all but the delivery; one that disconnected after the delivery.
        for seen in [0, count - 2, count - 1] {
            let request = get(&path).insert_header(("Last-Event-ID", seen.to_string()));
            let stream = tokio::time::timeout(TIMEOUT, harness.as_ada(request))
                .await
                .expect("the stream ends");
            let events: Vec<_> = stream
                .body
                .lines()
                .filter_map(|line| line.strip_prefix("event: "))
                .collect();
            assert_eq!(
                (stream.status, events),
                (200, history[seen..].iter().map(String::as_str).collect()),
                "after {seen}"
            );
        }
        assert_eq!(
            harness
                .as_ada(get(&path).insert_header(("Last-Event-ID", count.to_string())))
                .await
                .status,
            204
        );
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn lost_or_corrupted_views_are_detected_and_rebuilt() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db.clone()).await;
        let mut orders = Vec::new();
        for _ in 0..3 {
            let order = harness.place().await;
            harness.until_status(order, "confirmed").await;
            eventually("the checkout has ended", TIMEOUT, || async { harness.saga("checkout", order).await.unwrap().state == SagaState::Completed }).await;
            orders.push(harness.show(order).await);
        }
        harness.as_ada(post("/api/v1/carts")).await;
        assert_eq!(harness.different_views().await, Vec::<String>::new());
        let operator = Actor::user(BOB, [Role::Ops]);
        for corruption in [
            "update order_view set status = 'shipped'",
            "update order_view set payment = null",
            "update order_view set progress = '{}'",
            "delete from order_view",
            // One without a stream: there is no order with Ada's id.
            "update order_view set id = user_id where id in (select id from order_view order by id limit 1)",
            "insert into order_view select order_id, order_id, 'pending', null, '[]', 0, 'EUR', null, null, 0, 9, null from order_event
             where kind = 'drafted'",
        ] {
            db.write((), move |tx, ()| async move { tx.conn().execute_unprepared(corruption).await.map(drop).map_err(banyan_durable::fault) }).await.unwrap();
            let different = harness.different_views().await;
            assert!(!different.is_empty(), "{corruption}");
            assert!(different.iter().all(|text| text.starts_with("order ") && text.contains("its events say")), "{different:?}");
            let rebuild = post("/api/v1/ops/orders/views/rebuild").set_json(json!({ "reason": "corrupted", "comment": corruption }));
            assert_eq!(harness.as_ops(rebuild).await.json(), json!({ "orders": 3, "next_cursor": null }));
            assert_eq!(harness.different_views().await, Vec::<String>::new(), "{corruption}");
            let audit = harness.offers.machinery.ops().list_audit(&Default::default()).await.unwrap();
            let newest = &audit.items[0];
            assert_eq!((newest.action.as_str(), newest.target.as_str()), ("views.rebuild", "order_view"));
            let whose = (newest.actor.as_str(), newest.reason.as_str(), newest.comment.as_deref());
            assert_eq!(whose, (operator.label().as_str(), "corrupted", Some(corruption)));
        }
        for order in orders {
            let id = Uuid::parse_str(order["id"].as_str().unwrap()).unwrap();
            assert_eq!(harness.show(id).await, order);
        }
        harness.close().await;
    })
    .await;
}

/// The events of an order's shipment.
struct ShipmentEvents {
    subject: String,
    shipment_id: String,
    order_id: String,
}

impl ShipmentEvents {
    fn of(order: Uuid) -> Self {
        let shipment_id = id_of("shipment", &order.to_string()).to_string();
        ShipmentEvents {
            subject: format!("shipment/{shipment_id}"),
            shipment_id,
            order_id: order.to_string(),
        }
    }

    fn scheduled(&self) -> ShipmentScheduled {
        ShipmentScheduled {
            shipment_id: self.shipment_id.clone(),
            order_id: self.order_id.clone(),
            user_id: ADA.to_string(),
        }
    }

    fn dispatched(&self) -> ShipmentDispatched {
        ShipmentDispatched {
            shipment_id: self.shipment_id.clone(),
            order_id: self.order_id.clone(),
            user_id: ADA.to_string(),
            tracking_number: "T-1".to_owned(),
        }
    }

    fn delivered(&self) -> ShipmentDelivered {
        ShipmentDelivered {
            shipment_id: self.shipment_id.clone(),
            order_id: self.order_id.clone(),
            user_id: ADA.to_string(),
        }
    }
}
