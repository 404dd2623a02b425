//! A checkout is given up at each of its steps: what it left in other modules is listed and undone from the command line, although the saga's state
//! cannot be read. Afterwards the auditor finds nothing wrong.

use std::time::Duration;

use banyan_durable::Connection;
use banyan_durable_testing::eventually;
use libtest_mimic::Trial;
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};

use crate::{
    auditor::{Databases, audit, unfinished},
    data,
    harness::{Client, Plan, Shop, Stage, order_body, runtime},
    scenarios::{new_product, stock_of},
};

/// The stages: the saga and what it left in one process, and in two.
const STAGES: [Stage; 3] = [Stage::Sqlite, Stage::Postgres, Stage::Extracted];
const SOON: Duration = Duration::from_secs(30);
const UNITS: i64 = 50;

pub fn trials() -> Vec<Trial> {
    let trial = |stage: Stage| {
        let name = format!(
            "leftovers[{}]::what_a_checkout_left_at_each_step_is_undone_by_operators",
            stage.name()
        );
        Trial::test(name, move || {
            runtime().block_on(what_a_checkout_left_at_each_step_is_undone_by_operators(stage));
            Ok(())
        })
    };
    STAGES.into_iter().map(trial).collect()
}

/// The last step that takes effect, and the undos of what is there then.
const STEPS: [(&str, &[&str]); 6] = [
    ("reserve_stock", &["release_reservation"]),
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
];

async fn what_a_checkout_left_at_each_step_is_undone_by_operators(stage: Stage) {
    let settings = [
        ("BANYAN__DURABLE__SAGA_RETRY_CAP_MS", "200"),
        ("BANYAN__LOG__FILTER", "warn"),
    ];
    let mut shop = Plan::on(stage).with(&settings).start().await;
    let client = shop.client();
    let ops = client.ops().await;
    let orders = data::connect(&shop.directory(), shop.database_url().as_deref(), "orders").await;
    let sku = new_product(&client, 1_000, u32::try_from(UNITS).expect("a small number")).await;
    for (step, undos) in STEPS {
        let saga = parked_after(step, &orders, &client, &ops, &sku).await;
        let listed = leftovers(&shop, &saga).await;
        assert_eq!(undos_in(&listed), undos, "{step}: {listed}");
        // Not behind the back of a saga that a retry would continue.
        let path = format!("/api/v1/ops/orders/sagas/{saga}/leftovers/{}", undos[0]);
        let why = json!({"reason": "a test"});
        ops.post_keyed(&path, &why)
            .await
            .expect_problem(409, "saga_not_abandoned");
        banyan(&shop, &["saga", "abandon", &saga, "--reason", "unreadable"]).await;
        if stage == Stage::Extracted && step == "capture_payment" {
            what_is_unavailable_is_named(&mut shop, &saga).await;
        }
        for undo in undos {
            // As a person types it.
            let undo = undo.replace('_', "-");
            let done = banyan(
                &shop,
                &["saga", "undo", &saga, &undo, "--reason", "given up", "--output", "json"],
            )
            .await;
            assert_eq!(done["status"], "done", "{step}: {done}");
        }
        let listed = leftovers(&shop, &saga).await;
        assert_eq!(undos_in(&listed), [""; 0], "{step}: {listed}");
        assert_eq!(
            stock_of(&client, &sku).await,
            (UNITS, 0),
            "{step}: every unit can be ordered again"
        );
    }
    for (module, action, times) in [
        ("inventory", "release_stock", 4),
        ("inventory", "restock_order", 2),
        ("payments", "void", 2),
        ("payments", "refund", 3),
        ("shipping", "cancel_shipment", 4),
        ("orders", "saga.refund_payment", 3),
    ] {
        let audited = ops
            .get(&format!("/api/v1/ops/{module}/audit?limit=100"))
            .await
            .expect(200)
            .json();
        let rows = audited["items"].as_array().expect("items").iter();
        let given_up = rows.filter(|row| row["action"] == action && row["reason"] == "given up");
        assert_eq!(given_up.count(), times, "{module} {action}: {audited}");
    }
    orders.close().await;
    let databases = Databases::open(&shop).await;
    let quiet = || async { unfinished(&databases).await.is_empty() };
    eventually("nothing is in progress", SOON, quiet).await;
    assert_eq!(audit(&databases).await, Vec::<String>::new());
    databases.close().await;
    shop.remove().await;
}

/// A checkout that cannot go on after `step`: the database refuses to store the next one. Its state is then made unreadable.
async fn parked_after(step: &str, orders: &Connection, client: &Client, ops: &Client, sku: &str) -> String {
    let goes_on = format!("old.step = '{step}' and (new.step <> old.step or new.state = 'completed')");
    let (make, drop) = match orders.get_database_backend() {
        sea_orm::DbBackend::Sqlite => (
            format!(
                "create trigger stuck before update on saga when {goes_on} begin select raise(abort, 'stuck'); end"
            ),
            "drop trigger stuck",
        ),
        _ => (
            format!(
                "create function stuck() returns trigger as $$ begin raise exception 'stuck'; end $$ language plpgsql;
                 create trigger stuck before update on saga for each row when ({goes_on}) execute function stuck()"
            ),
            "drop trigger stuck on saga; drop function stuck",
        ),
    };
    data::execute(orders, &make).await.expect("a trigger");
    let body = order_body(sku, 2, "pm_card_visa");
    let order = client
        .new_customer()
        .await
        .post_keyed("/api/v1/orders", &body)
        .await
        .expect(201)
        .json();
    let id = order["id"].as_str().expect("an id");
    let path = format!("/api/v1/ops/orders/sagas?business_key={id}");
    let saga =
        crate::scenarios::eventually(ops, &path, "it is parked", |list| list["items"][0]["state"] == "parked").await;
    data::execute(orders, drop).await.expect("the trigger is dropped");
    let unreadable = format!("update saga set payload = 'unreadable' where business_key = '{id}'");
    data::execute(orders, &unreadable)
        .await
        .expect("the state is made unreadable");
    saga["items"][0]["id"].as_str().expect("an id").to_owned()
}

/// The process with the money and the stock is down: the listing says so, and has the rest.
async fn what_is_unavailable_is_named(shop: &mut Shop, saga: &str) {
    shop.process("stock-and-money").kill().await;
    let listed = leftovers(shop, saga).await;
    assert_eq!(listed["unavailable"], json!(["payments", "inventory"]), "{listed}");
    assert_eq!(undos_in(&listed), ["cancel_shipment"], "{listed}");
    shop.boot().await;
    let complete = || async { leftovers(shop, saga).await["unavailable"] == json!([]) };
    eventually("all modules are listed again", SOON, complete).await;
}

async fn leftovers(shop: &Shop, saga: &str) -> Value {
    banyan(shop, &["saga", "leftovers", saga, "--output", "json"]).await
}

/// What can be undone, each with its command.
fn undos_in(listed: &Value) -> Vec<&str> {
    let items = listed["items"].as_array().expect("items").iter();
    items
        .filter_map(|item| {
            let undo = item["undo"].as_str()?;
            let command = item["command"].as_str().unwrap_or_default();
            assert!(
                command.starts_with("banyan saga undo ") && command.contains(undo),
                "{listed}"
            );
            Some(undo)
        })
        .collect()
}

/// The output of a command against the shop, as an operator runs it.
async fn banyan(shop: &Shop, arguments: &[&str]) -> Value {
    let output = shop
        .command()
        .args(arguments)
        .args(["--url", &shop.base()])
        .output()
        .await
        .expect("the binary runs");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{arguments:?}: {out}{err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
}
