//! The auditor finds what it is there for: a violation of each invariant about effects, put into a copy of a shop's databases, is named.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use banyan::shop::SHOP;
use banyan_durable_testing::SqliteHome;
use libtest_mimic::{Failed, Trial};
use serde_json::json;

use super::{Databases, audit, effects::SUBSCRIPTIONS, stuck, unfinished};
use crate::{
    architecture::root,
    data,
    harness::{Shop, Stage, runtime},
    report,
    scenarios::{eventually, new_product, order_path},
};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("auditor::a_seeded_violation_of_each_effect_is_found", || {
            runtime().block_on(violations_are_found())
        }),
        Trial::test("auditor::each_subscription_of_the_shop_has_an_invariant", || {
            report::none(subscriptions_without_an_invariant())
        }),
    ]
}

/// A violation: the invariant, whose data it is in, and the statement that makes it.
type Violation = (&'static str, &'static str, &'static str);

const VIOLATIONS: [Violation; 16] = [
    ("F1", "catalog", "update product_sales set units = units + 1"),
    ("F1", "catalog", "delete from product_sales"),
    (
        "F2",
        "orders",
        "update order_view set payment = replace(payment, 'captured', 'authorised')",
    ),
    ("F2", "orders", "update order_view set payment = null"),
    (
        "F3",
        "orders",
        "update order_view set status = 'confirmed' where status = 'delivered'",
    ),
    (
        "F3",
        "shipping",
        "update shipment set status = 'delivered' where status = 'dispatched'",
    ),
    (
        "F3",
        "shipping",
        "update shipment set tracking_number = 'another' where status = 'dispatched'",
    ),
    (
        "F4",
        "notifications",
        "delete from notification where kind = 'order_placed'",
    ),
    (
        "F4",
        "notifications",
        "delete from notification where kind = 'order_confirmed'",
    ),
    (
        "F4",
        "notifications",
        "delete from notification where kind = 'order_shipped'",
    ),
    (
        "F4",
        "notifications",
        "delete from notification where kind = 'order_delivered'",
    ),
    (
        "F4",
        "notifications",
        "delete from notification where kind = 'order_cancelled'",
    ),
    ("F4", "notifications", TWICE),
    (
        "F5",
        "notifications",
        "delete from notification where kind = 'payment_refunded'",
    ),
    ("F6", "notifications", "delete from notification where kind = 'welcome'"),
    (
        "F6",
        "notifications",
        "update notification set user_id = zeroblob(16) where kind = 'welcome'",
    ),
];

/// A second mail about the same event.
const TWICE: &str = "insert into notification (id, cause, user_id, kind, subject, body, recipient, status, attempts, refusals, next_attempt_at,
        lease_token, created_at)
    select randomblob(16), randomblob(16), user_id, kind, subject, body, recipient, 'captured', 1, 0, 0, 1, created_at
    from notification where kind = 'order_confirmed' limit 1";

/// A shop with orders in every final state, and no work left.
async fn shop() -> Shop {
    let settings = [
        ("BANYAN__DURABLE__FEED_COMPARE_MS", "1000"),
        ("BANYAN__LOG__FILTER", "warn"),
    ];
    let shop = Shop::start_with(Stage::Sqlite, &settings).await;
    let client = shop.client();
    let (staff, customer) = (client.staff().await, client.new_customer().await);
    let sku = new_product(&client, 1_000, 100).await;
    customer.order(&sku, 1, "pm_card_declined").await;
    let cancelled = customer.order(&sku, 1, "pm_card_visa").await;
    customer
        .post_keyed(&format!("{}/cancel", order_path(&cancelled)), &json!({}))
        .await
        .expect(200);
    for steps in [&[][..], &["dispatch"], &["dispatch", "deliver"]] {
        let order = customer.order(&sku, 2, "pm_card_visa").await;
        let shipment = format!("/api/v1/shipments/{}", order["shipment"]["id"].as_str().expect("an id"));
        eventually(&staff, &shipment, "it is ready", |shipment| {
            shipment["status"] == "ready"
        })
        .await;
        for step in steps {
            staff
                .post_keyed(&format!("{shipment}/{step}"), &json!({}))
                .await
                .expect(200);
        }
    }
    let databases = Databases::open(&shop).await;
    banyan_durable_testing::eventually("nothing is in progress", Duration::from_secs(30), || async {
        unfinished(&databases).await.is_empty()
    })
    .await;
    databases.close().await;
    shop
}

async fn violations_are_found() -> Result<(), Failed> {
    let mut shop = shop().await;
    shop.kill().await;
    let mut wrong = Vec::new();
    let databases = Databases::open(&shop).await;
    wrong.extend(audit(&databases).await);
    wrong.extend(stuck(&databases).await);
    databases.close().await;
    for (invariant, owner, statement) in VIOLATIONS {
        let copy = copy_of(&shop.directory());
        let changed = data::connect(copy.path(), None, owner).await;
        data::execute(&changed, statement).await?;
        changed.close().await;
        let databases = Databases::open_at(copy.path(), None).await;
        let found: BTreeSet<String> = audit(&databases)
            .await
            .into_iter()
            .filter_map(|sentence| Some(sentence.split_once(':')?.0.to_owned()))
            .collect();
        databases.close().await;
        if !found.contains(invariant) {
            wrong.push(format!(
                "{statement}: {invariant} is violated, the auditor found {found:?}"
            ));
        }
    }
    shop.remove().await;
    report::none(wrong)
}

fn copy_of(directory: &Path) -> SqliteHome {
    let copy = SqliteHome::new();
    for file in fs::read_dir(directory).expect("the data directory") {
        let file = file.expect("a file");
        if file.file_name().to_string_lossy().contains(".db") {
            fs::copy(file.path(), copy.path().join(file.file_name())).expect("a copy");
        }
    }
    copy
}

/// A subscription whose effect nobody checks, or that does not exist; an invariant without a violation that shows it, or that the page does not have.
fn subscriptions_without_an_invariant() -> Vec<String> {
    let subscribed: BTreeSet<(&str, &str)> = SHOP
        .modules
        .iter()
        .flat_map(|module| module.subscribes.iter().map(|topic| (module.name, *topic)))
        .collect();
    let checked: BTreeSet<(&str, &str)> = SUBSCRIPTIONS
        .iter()
        .map(|(module, topic, _)| (*module, *topic))
        .collect();
    let mut wrong: Vec<String> = subscribed
        .symmetric_difference(&checked)
        .map(|(module, topic)| format!("{module} <- {topic} is not both in app/src/shop.rs and in SUBSCRIPTIONS"))
        .collect();
    let page = fs::read_to_string(root().join("docs/RELIABILITY.md")).expect("docs/RELIABILITY.md");
    for (_, _, invariant) in SUBSCRIPTIONS {
        if !VIOLATIONS.iter().any(|(of, ..)| *of == invariant) {
            wrong.push(format!("no seeded violation shows that {invariant} is checked"));
        }
        if !page.contains(&format!("| {invariant} | ")) {
            wrong.push(format!(
                "docs/RELIABILITY.md does not list {invariant} among the invariants"
            ));
        }
    }
    wrong
}
