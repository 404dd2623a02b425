//! Shutdown: accepted requests are completed, waiting clients get a response, and the next start continues the rest.

use std::{
    fs,
    time::{Duration, Instant},
};

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    checks,
    installation::{Installation, Process},
};
use crate::{
    harness::{Client, Stage, new_key, order_body},
    scenarios::{eventually, new_product, order_path},
};

checks![a_stalled_client_delays_shutdown_by_at_most_the_timeout, ctrl_c_shuts_it_down; on both: shutdown_completes_accepted_requests_and_responds_to_waiting_clients];

const LOGINS: usize = 6;
/// A shutdown takes at most 25 s; with no long-running request it is much faster, also on a busy machine.
const PROMPT: Duration = Duration::from_secs(12);

/// Reads an order's event stream to its end; returns when it ended.
async fn follow(client: Client, path: String) -> Instant {
    let response = client
        .request(Method::GET, &format!("{path}/events"))
        .send()
        .await
        .expect("a stream");
    assert_eq!(response.status(), 200);
    let text = response
        .text()
        .await
        .expect("the stream ends cleanly, not by a broken connection");
    assert!(text.contains("event: placed"), "{text}");
    Instant::now()
}

/// Places an order with a slow card, and waits for its outcome.
async fn wait_for_outcome(client: Client, sku: String) -> (Instant, Value) {
    let headers = [("Idempotency-Key", new_key()), ("Prefer", "wait=30".to_owned())];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let order = client
        .send(
            Method::POST,
            "/api/v1/orders",
            &headers,
            Some(&order_body(&sku, 1, "pm_card_slow")),
        )
        .await
        .expect(201)
        .json();
    (Instant::now(), order)
}

async fn shutdown_completes_accepted_requests_and_responds_to_waiting_clients(stage: Stage) {
    // Slow enough that no order is decided before the shutdown.
    let installation = Installation::new(stage)
        .await
        .with(&[("BANYAN__PAYMENTS__SANDBOX__SLOW_MS", "8000")]);
    let mut shop = installation.serve().await;
    let sku = new_product(&shop.client, 100, 50).await;
    let customer = shop.client.new_customer().await;
    let mut orders = Vec::new();
    for _ in 0..4 {
        orders.push(
            customer
                .post_keyed("/api/v1/orders", &order_body(&sku, 1, "pm_card_slow"))
                .await
                .expect(201)
                .json(),
        );
    }
    let streams = orders[..2]
        .iter()
        .map(|order| tokio::spawn(follow(customer.clone(), order_path(order))))
        .collect::<Vec<_>>();
    let waiters = (0..3)
        .map(|_| tokio::spawn(wait_for_outcome(customer.clone(), sku.clone())))
        .collect::<Vec<_>>();
    placed(&customer, 4 + waiters.len()).await;
    // Hashing a password takes a while, and only two are hashed at a time: when the first has its response, the others are in progress.
    let body = json!({"email": "demo@banyan.example", "password": "banyan-demo"});
    let logins = (0..LOGINS).map(|_| {
        let (client, body) = (shop.client.clone(), body.clone());
        tokio::spawn(async move { client.post("/api/v1/sessions", &body).await.status })
    });
    let logins = logins.collect::<Vec<_>>();
    while !logins.iter().any(|login| login.is_finished()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let signalled = Instant::now();
    shop.signal("TERM").await;

    let (took, code) = shop.ended().await;
    assert_eq!(code, Some(0), "{}", shop.log());
    assert!(took < PROMPT, "it took {took:?} to stop:\n{}", shop.log());
    for (at, order) in join_all(waiters)
        .await
        .into_iter()
        .map(|waiter| waiter.expect("a waiter"))
    {
        assert_eq!(order["status"], "pending", "{order}");
        assert!(
            at - signalled < Duration::from_secs(5),
            "a waiting client got its response after {:?}",
            at - signalled
        );
        orders.push(order);
    }
    for at in join_all(streams)
        .await
        .into_iter()
        .map(|stream| stream.expect("a reader"))
    {
        assert!(
            at - signalled < Duration::from_secs(5),
            "a stream ended after {:?}",
            at - signalled
        );
    }
    let logins: Vec<u16> = join_all(logins)
        .await
        .into_iter()
        .map(|login| login.expect("a status"))
        .collect();
    assert_eq!(logins, [201; LOGINS], "requests in progress are completed");

    let shop = installation
        .serve_with(&[("BANYAN__PAYMENTS__SANDBOX__SLOW_MS", "1")])
        .await;
    orders_continue(&shop, &customer, &orders).await;
    shop.stop().await;
    installation.remove().await;
}

/// Waits until `count` orders are listed.
async fn placed(customer: &Client, count: usize) {
    let all_there = |list: &Value| list["items"].as_array().is_some_and(|items| items.len() == count);
    eventually(customer, "/api/v1/orders?limit=100", "every order is placed", all_there).await;
}

/// Orders that were accepted before the shutdown reach their outcome after it, and the old token is still valid.
async fn orders_continue(shop: &Process, customer: &Client, orders: &[Value]) {
    let customer = shop.client.with_token(customer.token());
    for order in orders {
        eventually(
            &customer,
            &order_path(order),
            "an order continues after a restart",
            |order| order["status"] == "confirmed",
        )
        .await;
    }
}

async fn a_stalled_client_delays_shutdown_by_at_most_the_timeout() {
    let installation = Installation::new(Stage::Sqlite)
        .await
        .with(&[("BANYAN__HTTP__SHUTDOWN_TIMEOUT_MS", "2000")]);
    let mut shop = installation.serve().await;
    let mut stalled = TcpStream::connect(shop.address()).await.expect("a connection");
    let head = "POST /api/v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    stalled.write_all(head.as_bytes()).await.expect("half a request");
    let idle = TcpStream::connect(shop.address()).await.expect("a connection");
    shop.client.get("/health/live").await.expect(200);
    shop.signal("TERM").await;
    let (took, code) = shop.ended().await;
    assert_eq!(code, Some(0), "{}", shop.log());
    assert!(
        took < Duration::from_secs(8),
        "it took {took:?} to stop with a limit of 2 s:\n{}",
        shop.log()
    );
    drop((stalled, idle));
}

async fn ctrl_c_shuts_it_down() {
    let installation = Installation::new(Stage::Sqlite).await;
    let mut shop = installation.serve().await;
    shop.signal("INT").await;
    let (took, code) = shop.ended().await;
    assert_eq!(code, Some(0), "{}", shop.log());
    let log = shop.log();
    assert!(took < PROMPT && log.contains("SIGINT"), "{took:?}\n{log}");
    assert!(
        log.trim_end().ends_with("stopped"),
        "the last line is not written:\n{log}"
    );
    let files = fs::read_dir(installation.data_directory()).expect("the data");
    let names = files.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned());
    let wals: Vec<String> = names.filter(|name| name.ends_with("-wal")).collect();
    assert!(wals.is_empty(), "who copies the files has everything: {wals:?}");
}
