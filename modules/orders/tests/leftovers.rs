//! What an order whose saga was given up has left in other modules: listed and undone by operators, over HTTP.

mod support;

use banyan_durable::{Db, SagaState};
use banyan_durable_testing::{eventually, on_both_with};
use banyan_http_testing::{Reply, Site, TestRequest, get, post};
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use shared_kernel::Role;
use uuid::Uuid;

use support::{
    BOB, Harness,
    fakes::{Scripted, TIMEOUT},
    keyed, quick,
};

/// The module with the operators' routes, which its process adds.
struct Shop {
    harness: Harness,
    ops: Site,
    db: Db,
}

impl Shop {
    async fn open(db: Db) -> Shop {
        let harness = Harness::running(db.clone()).await;
        let ops = Site::of(banyan_http::ops::routes(vec![harness.offers.machinery.ops()]));
        Shop { harness, ops, db }
    }

    async fn as_operator(&self, request: TestRequest) -> Reply {
        self.ops.send_as(BOB, &[Role::Ops], request).await
    }

    async fn execute(&self, sql: String) {
        let done = self.db.write(sql, |tx, sql| async move {
            tx.conn().execute_unprepared(&sql).await.map_err(banyan_durable::fault)
        });
        assert_eq!(done.await.expect("the statement runs").rows_affected(), 1);
    }

    /// An order whose checkout is parked after `step` has taken effect, because its state cannot be read.
    async fn parked_after(&self, step: &'static str) -> (Uuid, Uuid) {
        let gate = self.harness.modules.gate(step);
        let order = self.harness.place().await;
        eventually(step, TIMEOUT, || async { self.harness.modules.was_called(order, step) }).await;
        // The runner reads the row again because of the signal.
        self.execute(format!(
            "update saga set payload = 'unreadable', signal = 'look' where business_key = '{order}'"
        ))
        .await;
        gate.add_permits(1);
        let parked = || async {
            let saga = self.harness.saga("checkout", order).await;
            saga.is_some_and(|saga| saga.state == SagaState::Parked)
        };
        eventually("it is parked", TIMEOUT, parked).await;
        (order, self.harness.saga("checkout", order).await.unwrap().id)
    }

    async fn abandoned_after(&self, step: &'static str) -> (Uuid, Uuid) {
        let (order, saga) = self.parked_after(step).await;
        let path = format!("/api/v1/ops/orders/sagas/{saga}/abandon");
        let reply = self
            .as_operator(post(&path).set_json(json!({"reason": "unreadable"})))
            .await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        (order, saga)
    }

    async fn leftovers(&self, saga: Uuid) -> Value {
        let reply = self.as_operator(get(&format!("/api/v1/ops/orders/sagas/{saga}"))).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.json()["leftovers"].clone()
    }

    async fn undos(&self, saga: Uuid) -> Vec<String> {
        let left = self.leftovers(saga).await;
        let items = left["items"].as_array().expect("items").iter();
        items
            .filter_map(|item| item["undo"].as_str())
            .map(str::to_owned)
            .collect()
    }

    async fn undo(&self, saga: Uuid, undo: &str) -> Reply {
        self.as_operator(request(saga, undo, &Uuid::new_v4().to_string())).await
    }

    /// The actions in the audit log about this saga, oldest first.
    async fn audited(&self, saga: Uuid) -> Vec<String> {
        let log = self.as_operator(get("/api/v1/ops/orders/audit")).await.json();
        let rows = log["items"].as_array().expect("items").iter().rev();
        rows.filter(|row| row["target"] == format!("saga/{saga}"))
            .map(|row| row["action"].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}

fn request(saga: Uuid, undo: &str, key: &str) -> TestRequest {
    post(&format!("/api/v1/ops/orders/sagas/{saga}/leftovers/{undo}"))
        .insert_header(("Idempotency-Key", key.to_owned()))
        .set_json(json!({"reason": "given up", "comment": "settled with Ada"}))
}

#[tokio::test]
async fn what_an_abandoned_checkout_left_at_each_step_is_listed_and_undone_although_its_state_is_unreadable() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let shop = Shop::open(db).await;
        for (step, expected) in [
            ("reserve_stock", &["release_reservation"][..]),
            ("authorise_payment", &["void_authorisation", "release_reservation"]),
            (
                "schedule_shipment",
                &["cancel_shipment", "void_authorisation", "release_reservation"],
            ),
            (
                "capture_payment",
                &["cancel_shipment", "refund_payment", "release_reservation"],
            ),
            (
                "commit_stock",
                &["cancel_shipment", "refund_payment", "restock_reservation"],
            ),
            (
                "ready_shipment",
                &["cancel_shipment", "refund_payment", "restock_reservation"],
            ),
        ] {
            let (order, saga) = shop.abandoned_after(step).await;
            assert_eq!(shop.undos(saga).await, expected, "{step}");
            for undo in expected {
                let reply = shop.undo(saga, undo).await;
                assert_eq!(
                    (reply.status, &reply.json()["status"]),
                    (200, &json!("done")),
                    "{step}: {}",
                    reply.body
                );
            }
            assert!(
                shop.harness.modules.effects(order).is_empty(),
                "{step}: {:?}",
                shop.harness.modules.effects(order)
            );
            assert_eq!(shop.undos(saga).await, Vec::<String>::new(), "{step}");
            let audited = shop.audited(saga).await;
            let named: Vec<String> = expected.iter().map(|undo| format!("saga.{undo}")).collect();
            assert_eq!(audited, [&["saga.abandon".to_owned()][..], &named].concat(), "{step}");
            let shown = shop.as_operator(get(&format!("/api/v1/ops/orders/sagas/{saga}"))).await;
            let log = shown.json()["log"].as_array().cloned().unwrap_or_default();
            let undone = log.iter().filter(|entry| entry["entry"] == "leftover_undone").count();
            assert_eq!(undone, expected.len(), "{step}: {}", shown.body);
            assert!(
                !shown.body.contains("fig"),
                "what was ordered is personal: {}",
                shown.body
            );
        }
        shop.harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn nothing_is_undone_behind_the_back_of_a_saga_that_may_still_go_on() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let shop = Shop::open(db).await;
        // Running.
        let gate = shop.harness.modules.gate("schedule_shipment");
        let order = shop.harness.place().await;
        let sent = || async { shop.harness.modules.was_called(order, "schedule_shipment") };
        eventually("the command is sent", TIMEOUT, sent).await;
        let running = shop.harness.saga("checkout", order).await.unwrap().id;
        assert_eq!(shop.leftovers(running).await, Value::Null);
        let refused = |reply: Reply| {
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (409, "saga_not_abandoned"),
                "{}",
                reply.body
            );
        };
        refused(shop.undo(running, "void_authorisation").await);
        gate.add_permits(1);
        shop.harness.until_status(order, "confirmed").await;
        // Completed.
        let completed = || async {
            let saga = shop.harness.saga("checkout", order).await;
            saga.is_some_and(|saga| saga.state == SagaState::Completed)
        };
        eventually("it is completed", TIMEOUT, completed).await;
        refused(shop.undo(running, "refund_payment").await);
        assert_eq!(shop.leftovers(running).await, Value::Null);
        // Parked: listed, and undone only once it is abandoned.
        let (order, parked) = shop.parked_after("authorise_payment").await;
        assert_eq!(shop.undos(parked).await, ["void_authorisation", "release_reservation"]);
        refused(shop.undo(parked, "void_authorisation").await);
        assert!(!shop.harness.modules.was_called(order, "void_payment"));
        assert_eq!(shop.harness.modules.effects(order), ["authorised", "reserved"]);
        shop.harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn another_saga_about_the_order_must_have_ended_as_well() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let shop = Shop::open(db).await;
        let (order, saga) = shop.abandoned_after("commit_stock").await;
        // No rule of the shop allows it, so the test writes it.
        shop.execute(format!(
            "insert into saga (id, kind, definition_version, business_key, state, step, payload, lease_token, lease_until, next_run_at, attempts,
                 failures, deadline_told, compensate_asked, created_at, updated_at)
             select {}, 'cancellation', 1, '{order}', 'parked', '', '{{}}', 0, 0, 0, 0, 0, deadline_told, compensate_asked, 0, 0 from saga
             where business_key = '{order}'",
            match shop.db.backend() {
                sea_orm::DbBackend::Sqlite => format!("x'{}'", Uuid::new_v4().simple()),
                _ => format!("'{}'::uuid", Uuid::new_v4()),
            }
        ))
        .await;
        let reply = shop.undo(saga, "refund_payment").await;
        assert_eq!((reply.status, reply.code().as_str()), (409, "saga_unfinished"), "{}", reply.body);
        shop.harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_command_of_an_abandoned_saga_that_arrives_after_its_undo_does_nothing() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let shop = Shop::open(db).await;
        for (step, undo) in [
            ("reserve_stock", "release_reservation"),
            ("authorise_payment", "void_authorisation"),
            ("schedule_shipment", "cancel_shipment"),
        ] {
            let gate = shop.harness.modules.gate(step);
            let order = shop.harness.place().await;
            eventually(step, TIMEOUT, || async { shop.harness.modules.was_called(order, step) }).await;
            let saga = shop.harness.saga("checkout", order).await.unwrap().id;
            // A runner that lost its lease still sends the command of a saga that is abandoned meanwhile.
            shop.execute(format!(
                "update saga set state = 'abandoned', lease_token = lease_token + 1 where business_key = '{order}'"
            ))
            .await;
            let before = shop.harness.modules.effects(order);
            assert_eq!(shop.undo(saga, undo).await.status, 200, "{step}");
            gate.add_permits(1);
            let done = || async { shop.harness.modules.is_answered(step) };
            eventually("the late command was answered", TIMEOUT, done).await;
            assert_eq!(shop.harness.modules.effects(order), before, "{step}");
        }
        shop.harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_module_that_does_not_respond_is_named_and_the_others_are_listed() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let shop = Shop::open(db).await;
        let (_, saga) = shop.abandoned_after("schedule_shipment").await;
        shop.harness.modules.fail_payment_lookups(true);
        let left = shop.leftovers(saga).await;
        assert_eq!(left["unavailable"], json!(["payments"]));
        assert_eq!(shop.undos(saga).await, ["cancel_shipment", "release_reservation"]);
        shop.harness.modules.fail_payment_lookups(false);
        assert_eq!(shop.leftovers(saga).await["unavailable"], json!([]));
        shop.harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_repeated_request_is_one_command_and_a_refused_one_needs_a_new_key() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let shop = Shop::open(db).await;
        let (order, saga) = shop.abandoned_after("authorise_payment").await;
        let key = Uuid::new_v4().to_string();
        // The fake checks that one id is one request.
        shop.harness.modules.script(
            "void_payment",
            [Scripted::InProgress, Scripted::ResponseLost, Scripted::InProgress],
        );
        let reply = shop.as_operator(request(saga, "void_authorisation", &key)).await;
        assert_eq!(
            (reply.status, &reply.json()["status"]),
            (202, &json!("in_progress")),
            "{}",
            reply.body
        );
        assert_eq!(reply.header("retry-after"), "1");
        // Nothing is stored for the key yet, and still it names this undo alone.
        let other = shop.as_operator(request(saga, "release_reservation", &key)).await;
        assert_eq!((other.status, other.code().as_str()), (422, "idempotency_key_reused"));
        assert!(!shop.harness.modules.was_called(order, "release_stock"));
        let reply = shop.as_operator(request(saga, "void_authorisation", &key)).await;
        assert_eq!(reply.status, 504, "the outcome is unknown: {}", reply.body);
        assert_eq!(
            shop.as_operator(request(saga, "void_authorisation", &key)).await.status,
            202
        );
        let done = shop.as_operator(request(saga, "void_authorisation", &key)).await;
        assert_eq!(
            (done.status, &done.json()["status"]),
            (200, &json!("done")),
            "{}",
            done.body
        );
        let sent = shop.harness.modules.times_called("void_payment");
        let replay = shop.as_operator(request(saga, "void_authorisation", &key)).await;
        assert_eq!((replay.status, &replay.body), (200, &done.body));
        assert_eq!(replay.header("idempotency-replayed"), "true");
        assert_eq!(shop.harness.modules.times_called("void_payment"), sent);
        // The key names one undo of one saga.
        let other = shop.as_operator(request(saga, "release_reservation", &key)).await;
        assert_eq!(
            (other.status, other.code().as_str()),
            (422, "idempotency_key_reused"),
            "{}",
            other.body
        );
        assert_eq!(shop.harness.modules.effects(order), ["reserved"]);

        let (_, saga) = shop.abandoned_after("authorise_payment").await;
        shop.harness.modules.script("void_payment", [Scripted::Refused]);
        let key = Uuid::new_v4().to_string();
        for _ in 0..2 {
            let reply = shop.as_operator(request(saga, "void_authorisation", &key)).await;
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (409, "void_declined"),
                "{}",
                reply.body
            );
        }
        assert_eq!(
            shop.audited(saga).await,
            ["saga.abandon"],
            "what was refused was not done"
        );
        assert_eq!(shop.undo(saga, "void_authorisation").await.status, 200);
        shop.harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn only_an_operator_with_a_key_and_a_reason_undoes_what_is_there() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let shop = Shop::open(db).await;
        let (order, saga) = shop.abandoned_after("capture_payment").await;
        let path = format!("/api/v1/ops/orders/sagas/{saga}/leftovers/refund_payment");
        for role in [Role::Customer, Role::Staff] {
            let request = keyed(&path).set_json(json!({"reason": "mine"}));
            assert_eq!(shop.ops.send_as(BOB, &[role], request).await.status, 403);
        }
        let why = json!({"reason": "given up"});
        let reply = shop.as_operator(post(&path).set_json(&why)).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "idempotency_key_required"));
        for reason in [json!({}), json!({"reason": " "})] {
            assert_eq!(shop.as_operator(keyed(&path).set_json(reason)).await.status, 422);
        }
        assert_eq!(shop.undo(saga, "make_tea").await.status, 404);
        assert_eq!(shop.undo(Uuid::new_v4(), "refund_payment").await.status, 404);
        assert!(!shop.harness.modules.was_called(order, "refund_remaining"));

        // The parcel left although the order was given up.
        shop.harness.modules.dispatch(order);
        let reply = shop.undo(saga, "cancel_shipment").await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (409, "already_dispatched"),
            "{}",
            reply.body
        );
        shop.harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn an_order_that_was_shipped_although_its_cancellation_was_given_up_has_left_nothing() {
    use shipping_contract::ShipmentDispatched;

    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let shop = Shop::open(db).await;
        let harness = &shop.harness;
        let order = harness.place().await;
        harness.until_status(order, "confirmed").await;
        let completed = || async {
            let saga = harness.saga("checkout", order).await;
            saga.is_some_and(|saga| saga.state == SagaState::Completed)
        };
        eventually("it is completed", TIMEOUT, completed).await;
        harness.modules.script("cancel_shipment", [Scripted::FinalFault]);
        harness.cancel(order).await;
        let parked = || async {
            let saga = harness.saga("cancellation", order).await;
            saga.is_some_and(|saga| saga.state == SagaState::Parked)
        };
        eventually("it is parked", TIMEOUT, parked).await;
        let dispatched = ShipmentDispatched {
            shipment_id: support::fakes::id_of("shipment", &order.to_string()).to_string(),
            order_id: order.to_string(),
            tracking_number: "BN1".to_owned(),
            ..ShipmentDispatched::default()
        };
        let subject = format!("shipment/{}", dispatched.shipment_id);
        harness.deliver("shipping", &subject, 1, &dispatched).await;
        harness.until_status(order, "shipped").await;
        let saga = harness.saga("cancellation", order).await.unwrap().id;
        let path = format!("/api/v1/ops/orders/sagas/{saga}/abandon");
        let reply = shop
            .as_operator(post(&path).set_json(json!({"reason": "it left"})))
            .await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        let reply = shop.undo(saga, "refund_payment").await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (409, "order_shipped"),
            "{}",
            reply.body
        );
        assert!(!harness.modules.was_called(order, "refund_remaining"));
        shop.harness.close().await;
    })
    .await;
}
