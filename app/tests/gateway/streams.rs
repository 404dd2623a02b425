//! Long responses: event streams and large bodies.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use banyan_host::settings::Settings;

use super::{
    instance::{Behaviour, Instance},
    test_gateway::TestGateway,
};

const EVENTS: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n";
const REQUEST: &[u8] = b"GET /api/v1/orders/1/events HTTP/1.1\r\nhost: a\r\n\r\n";

async fn read_until(connection: &mut tokio::net::TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&read).contains(end) {
            assert_ne!(
                connection.read_buf(&mut read).await.unwrap(),
                0,
                "closed after {}",
                String::from_utf8_lossy(&read)
            );
        }
    };
    tokio::time::timeout(Duration::from_secs(5), reading)
        .await
        .expect("it arrives at once");
    String::from_utf8(read).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_arrives_while_the_stream_is_open_and_the_client_may_disconnect() {
    let mut orders = Instance::start(Behaviour::StartResponse(EVENTS.to_owned())).await;
    let gateway = TestGateway::in_front_of("orders", &[&orders], &[]).await;
    let mut client = gateway.connect().await;
    client.write_all(REQUEST).await.unwrap();
    let read = read_until(&mut client, "data: 1").await;
    assert!(
        read.contains("text/event-stream") && read.contains("transfer-encoding: chunked"),
        "{read}"
    );
    let in_flight = |gateway: &TestGateway| gateway.proxy.instances("orders")[0].in_flight;
    assert_eq!(in_flight(&gateway), 1, "a stream is in flight until it ends");
    drop(client);
    orders.wait_for_disconnect().await;
    while in_flight(&gateway) > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_outlives_the_response_timeout() {
    let orders = Instance::start(Behaviour::StartResponse(EVENTS.to_owned())).await;
    let gateway = TestGateway::in_front_of("orders", &[&orders], &[("BANYAN__GATEWAY__TIMEOUT_MS", "50")]).await;
    let mut client = gateway.connect().await;
    client.write_all(REQUEST).await.unwrap();
    read_until(&mut client, "data: 1").await;
    let more = tokio::time::timeout(Duration::from_millis(300), client.read_u8()).await;
    assert!(more.is_err(), "the stream was ended: {more:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_is_ended_and_one_with_heartbeats_goes_on() {
    let tune = |settings: &mut Settings| settings.gateway.limits.response_silence = Duration::from_millis(300);
    let mut silent = Instance::start(Behaviour::StartResponse(EVENTS.to_owned())).await;
    let gateway = TestGateway::tuned("orders", &silent.base, &[], tune).await.unwrap();
    let mut client = gateway.connect().await;
    client.write_all(REQUEST).await.unwrap();
    read_until(&mut client, "data: 1").await;
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(5), client.read_to_end(&mut rest)).await;
    let ended = ended.expect("the stream is ended");
    assert!(
        ended.is_err() || !String::from_utf8_lossy(&rest).contains("0\r\n\r\n"),
        "the client takes the response for complete: {rest:?}"
    );
    silent.wait_for_disconnect().await;
    assert_eq!(gateway.proxy.instances("orders")[0].in_flight, 0);

    let heartbeats = Behaviour::Heartbeat(
        EVENTS.to_owned(),
        "3\r\n:\n\n\r\n".to_owned(),
        Duration::from_millis(50),
    );
    let sending = Instance::start(heartbeats).await;
    let gateway = TestGateway::tuned("orders", &sending.base, &[], tune).await.unwrap();
    let mut client = gateway.connect().await;
    client.write_all(REQUEST).await.unwrap();
    // Half a second of heartbeats, none later than the silence that ends a stream.
    read_until(&mut client, &"3\r\n:\n\n\r\n".repeat(10)).await;
}

/// A host that loses power cannot be simulated on loopback; the system's list of connections shows that keep-alive would detect it.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_an_instance_has_tcp_keep_alive() {
    let orders = Instance::start(Behaviour::StartResponse(EVENTS.to_owned())).await;
    let gateway = TestGateway::in_front_of("orders", &[&orders], &[]).await;
    let mut client = gateway.connect().await;
    client.write_all(REQUEST).await.unwrap();
    read_until(&mut client, "data: 1").await;
    let port: u16 = orders.base.rsplit(':').next().unwrap().parse().unwrap();
    let (to_orders, established, keep_alive_timer) = (format!("0100007F:{port:04X}"), "01", "02");
    let connections = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = connections
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours: Vec<Vec<&str>> = rows
        .filter(|row| row[2] == to_orders && row[3] == established)
        .collect();
    assert!(
        !ours.is_empty() && ours.iter().all(|row| row[5].starts_with(keep_alive_timer)),
        "{ours:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_disconnects_before_the_response_cancels_the_request() {
    let mut orders = Instance::start(Behaviour::Hang).await;
    let gateway = TestGateway::in_front_of("orders", &[&orders], &[]).await;
    let mut client = gateway.connect().await;
    client
        .write_all(b"GET /api/v1/orders HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    while orders.received().is_empty() {
        tokio::task::yield_now().await;
    }
    drop(client);
    orders.wait_for_disconnect().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_response_arrives_complete() {
    let body = "x".repeat(3_000_000);
    let response = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let catalog = Instance::start(Behaviour::Respond(response)).await;
    let gateway = TestGateway::in_front_of("catalog", &[&catalog], &[]).await;
    let reply = gateway.get("/api/v1/products").await;
    assert!(reply.body == body, "{} of {} bytes", reply.body.len(), body.len());
}
