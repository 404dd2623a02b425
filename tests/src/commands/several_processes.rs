//! Several processes on one PostgreSQL: they start at the same time on an empty database, and act as one shop.

use std::{collections::BTreeSet, time::Duration};

use futures::future::join_all;
use serde_json::Value;

use super::{
    checks,
    installation::{Installation, Process},
};
use crate::{
    auditor::{Databases, audit, unfinished},
    data,
    harness::{Client, Stage},
    scenarios::{eventually, new_product, order_path, stock_of},
};

checks![four_processes_started_at_once_act_as_one_shop];

const ORDERS: usize = 32;

/// Short leases, so that the work of a killed process is taken over during the test; small pools, because there are four of each.
const SETTINGS: &[(&str, &str)] = &[
    ("BANYAN__DURABLE__POOL", "2"),
    ("BANYAN__DURABLE__LEASE_MS", "2000"),
    ("BANYAN__DURABLE__SAGA_CONCURRENCY", "2"),
    ("BANYAN__LOG__FILTER", "warn"),
];

async fn four_processes_started_at_once_act_as_one_shop() {
    let installation = Installation::new(Stage::Postgres).await.with(SETTINGS);
    // There are no schemas, logins, tables, demo data or signing key yet; each process creates what the others have not created.
    let mut shops = join_all((0..4).map(|_| installation.serve())).await;
    let clients: Vec<Client> = shops.iter().map(|shop| shop.client.clone()).collect();
    let keys = join_all(clients.iter().map(|client| client.get("/.well-known/jwks.json"))).await;
    assert!(
        keys.iter().all(|response| response.json() == keys[0].json()),
        "they sign with one key"
    );
    assert_eq!(
        stock_of(&clients[3], "rare-fig").await,
        (3, 0),
        "the demo data was inserted once"
    );

    let sku = new_product(&clients[0], 500, 100).await;
    let customer = clients[0].new_customer().await;
    let order = customer.order(&sku, 1, "pm_card_visa").await;
    for client in &clients {
        let found = client
            .with_token(customer.token())
            .get(&order_path(&order))
            .await
            .expect(200)
            .json();
        assert_eq!(found["id"], order["id"]);
    }
    let drivers = tokio::spawn(watch_drivers(installation.database_url().expect("a database")));
    // Orders are placed at all four, and one of them is killed while it processes some.
    let place_at = |at: usize| {
        let (customer, sku) = (clients[at % 4].with_token(customer.token()), sku.clone());
        async move {
            customer
                .post_keyed("/api/v1/orders", &crate::harness::order_body(&sku, 1, "pm_card_visa"))
                .await
                .expect(201)
                .json()
        }
    };
    let mut orders = join_all((0..ORDERS).map(place_at)).await;
    shops.remove(3).kill().await;
    orders.push(order);
    let survivor = clients[1].with_token(customer.token());
    for order in &orders {
        eventually(
            &survivor,
            &order_path(order),
            "the order is confirmed, whichever process ran it",
            |order| order["status"] == "confirmed",
        )
        .await;
    }
    let drivers = drivers.await.expect("the watcher ends");
    assert!(drivers.len() >= 2, "only {drivers:?} ran sagas");
    assert_eq!(
        stock_of(&clients[2], &sku).await.0,
        100 - orders.len() as i64,
        "every order took one unit"
    );
    each_saga_ran_once(&installation, &orders).await;
    join_all(shops.into_iter().map(Process::stop)).await;
    installation.remove().await;
}

/// The lease owners of running sagas, polled for up to 30 s.
async fn watch_drivers(url: String) -> BTreeSet<String> {
    let connection = data::connect(std::path::Path::new("."), Some(&url), "orders").await;
    let mut drivers = BTreeSet::new();
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    while tokio::time::Instant::now() < end && drivers.len() < 3 {
        drivers.extend(
            data::names(
                &connection,
                "select distinct lease_owner as name from saga where lease_owner is not null",
            )
            .await,
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    connection.close().await;
    drivers
}

/// Every order has one checkout saga; each of its steps was decided once, took effect once, and the provider took the money once.
async fn each_saga_ran_once(installation: &Installation, orders: &[Value]) {
    let url = installation.database_url();
    let connect = async |owner: &str| data::connect(installation.directory(), url.as_deref(), owner).await;
    let database = connect("orders").await;
    let active = "select business_key as name from saga where state <> 'completed'";
    banyan_durable_testing::eventually("every saga is completed", Duration::from_secs(30), || async {
        data::names(&database, active).await.is_empty()
    })
    .await;
    let sagas = data::names(
        &database,
        "select business_key as name from saga where kind = 'checkout' and state = 'completed' order by 1",
    )
    .await;
    let mut ids: Vec<&str> = orders.iter().filter_map(|order| order["id"].as_str()).collect();
    ids.sort_unstable();
    assert_eq!(sagas, ids, "one checkout saga per order");
    let log = "(select id::text as saga_id, line::json->>'entry' as entry, line::json->>'step' as step
                from saga cross join regexp_split_to_table(log, E'\\n') as line where line <> '') as log";
    let twice = format!(
        "select saga_id || ' ' || entry || ' ' || step as name from {log} where entry in ('started', 'do', 'news', 'completed')
         group by saga_id, entry, step having count(*) > 1"
    );
    assert_eq!(data::names(&database, &twice).await, [""; 0], "a step was taken twice");
    let undone = format!("select saga_id || ' ' || step as name from {log} where entry = 'undo'");
    let entries = format!("select count(*)::text as name from {log} where entry = 'completed'");
    assert_eq!(
        data::names(&database, &entries).await,
        [sagas.len().to_string()],
        "the log is read"
    );
    assert_eq!(data::names(&database, &undone).await, [""; 0], "a step was undone");
    database.close().await;

    let databases = Databases::open_at(installation.directory(), url.as_deref()).await;
    banyan_durable_testing::eventually("nothing is in progress", Duration::from_secs(30), || async {
        unfinished(&databases).await.is_empty()
    })
    .await;
    let wrong = audit(&databases).await;
    databases.close().await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
