//! Server-Sent Events: an order's history as it happens.

use std::time::Duration;

use futures::StreamExt;
use reqwest::Method;

use super::{new_product, order_path, scenarios};
use crate::harness::{Client, order_body};

scenarios![
    an_orders_events_are_streamed_as_they_happen,
    a_stream_resumes_after_the_last_event_seen
];

/// Reads a stream until `enough` holds for its events; returns `(id, event)` of each.
async fn read(
    client: &Client,
    path: &str,
    last: Option<&str>,
    enough: impl Fn(&[(String, String)]) -> bool,
) -> Vec<(String, String)> {
    let mut request = client.request(Method::GET, path).header("accept", "text/event-stream");
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let response = request.send().await.expect("a response");
    assert_eq!(response.status(), 200);
    assert!(
        response.headers()["content-type"]
            .to_str()
            .is_ok_and(|kind| kind.starts_with("text/event-stream"))
    );
    let mut body = response.bytes_stream();
    let mut text = String::new();
    loop {
        let events: Vec<(String, String)> = text
            .split("\n\n")
            .filter_map(|block| {
                let field = |name: &str| {
                    block
                        .lines()
                        .find_map(|line| line.strip_prefix(name))
                        .map(|value| value.trim().to_owned())
                };
                Some((field("id:")?, field("event:")?))
            })
            .collect();
        if enough(&events) {
            return events;
        }
        let chunk = tokio::time::timeout(Duration::from_secs(20), body.next())
            .await
            .expect("more of the stream within 20 s");
        match chunk {
            Some(chunk) => text.push_str(&String::from_utf8_lossy(&chunk.expect("a readable stream"))),
            None => return events,
        }
    }
}

fn is_confirmed(events: &[(String, String)]) -> bool {
    events.iter().any(|(_, event)| event == "confirmed")
}

async fn an_orders_events_are_streamed_as_they_happen(client: Client) {
    let sku = new_product(&client, 100, 5).await;
    let customer = client.new_customer().await;
    let order = customer
        .post_keyed("/api/v1/orders", &order_body(&sku, 1, "pm_card_visa"))
        .await
        .expect(201)
        .json();
    let events = read(&customer, &format!("{}/events", order_path(&order)), None, is_confirmed).await;
    let ids: Vec<usize> = events.iter().map(|(id, _)| id.parse().expect("a version")).collect();
    assert_eq!(ids, (1..=ids.len()).collect::<Vec<_>>(), "{events:?}");
    assert!(is_confirmed(&events), "{events:?}");
}

async fn a_stream_resumes_after_the_last_event_seen(client: Client) {
    let sku = new_product(&client, 100, 5).await;
    let customer = client.new_customer().await;
    let order = customer.order(&sku, 1, "pm_card_visa").await;
    let events = read(
        &customer,
        &format!("{}/events", order_path(&order)),
        Some("2"),
        is_confirmed,
    )
    .await;
    assert_eq!(events.first().map(|(id, _)| id.as_str()), Some("3"), "{events:?}");
}
