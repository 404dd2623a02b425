//! What happens when a module is unavailable, slow or overloaded.

use std::time::Instant;

use banyan_core::{Call, Fault, FaultKind};
use inventory_contract::FindStock;

use super::{proxy::CuttableProxy, stock::Behaviour, *};

/// No probes during a test: only calls find out which instances are available.
const NO_PROBES: [(&str, &str); 1] = [("BANYAN__DISCOVERY__PROBE_EVERY_MS", "600000")];

async fn call(inventory: &Arc<dyn Inventory>) -> Result<(), Fault> {
    inventory
        .find_stock(
            &Call::by_module("orders").within(Duration::from_secs(2)),
            FindStock::default(),
        )
        .await
        .map(drop)
}

fn with_no_probes<'a>(variables: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&NO_PROBES, variables].concat()
}

#[tokio::test]
async fn a_breaker_opens_rejects_at_once_and_closes_when_the_module_is_back() {
    let server = InventoryServer::start().await;
    let client = Client::calling(&[server.address], &[("BANYAN__RPC__BREAKER_OPEN_MS", "300")]);
    let inventory = client.inventory();
    assert_eq!(measured(&client), "0", "it is measured before the first call");
    call(&inventory).await.unwrap();
    assert_eq!(client.state().breaker, BreakerState::Closed);
    server
        .stock
        .set(Behaviour::Fails(Fault::unavailable("The database is unavailable.")));
    for _ in 0..4 {
        assert_eq!(
            call(&inventory).await.unwrap_err().detail,
            "The database is unavailable."
        );
    }
    assert_eq!(
        (client.state().breaker, measured(&client).as_str()),
        (BreakerState::Open, "2")
    );

    let arrived = server.stock.calls().len();
    let begun = Instant::now();
    for _ in 0..20 {
        let fault = call(&inventory).await.unwrap_err();
        assert_eq!(
            (fault.kind, &*fault.detail),
            (FaultKind::Unavailable, "inventory is unavailable.")
        );
        assert!(fault.retry_after.is_some_and(|wait| wait <= Duration::from_millis(300)));
    }
    assert!(
        begun.elapsed() / 20 < Duration::from_millis(5),
        "{:?}",
        begun.elapsed() / 20
    );
    assert_eq!(
        server.stock.calls().len(),
        arrived,
        "a refused call does not reach the module"
    );

    server.stock.set(Behaviour::Responds);
    until("the breaker lets probes through", || {
        client.state().breaker == BreakerState::HalfOpen
    })
    .await;
    assert_eq!(measured(&client), "1", "although there was no call since");
    call(&inventory).await.unwrap();
    assert_eq!(
        client.state().breaker,
        BreakerState::HalfOpen,
        "one success is not enough"
    );
    call(&inventory).await.unwrap();
    let state = client.state();
    assert_eq!(
        (state.breaker, state.failure_rate, measured(&client).as_str()),
        (BreakerState::Closed, 0.0, "0")
    );
}

/// What Prometheus would read of the breaker to inventory.
fn measured(client: &Client) -> String {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || client.remotes.measure());
    let text = recorder.handle().render();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("banyan_rpc_breaker_state{module=\"inventory\"} "));
    line.unwrap_or_else(|| panic!("{text}")).to_owned()
}

#[tokio::test]
async fn a_deliberate_fault_of_the_module_never_opens_the_breaker() {
    let server = InventoryServer::start().await;
    let client = Client::calling(&[server.address], &[]);
    for fault in [
        Fault::not_found("product"),
        Fault::conflict("taken", "x"),
        Fault::internal("bug", "x"),
        Fault::invalid("wrong", "x"),
    ] {
        server.stock.set(Behaviour::Fails(fault.clone()));
        for _ in 0..10 {
            assert_eq!(call(&client.inventory()).await, Err(fault.clone()));
        }
    }
    let state = client.state();
    assert_eq!((state.breaker, state.failure_rate), (BreakerState::Closed, 0.0));
}

#[tokio::test]
async fn a_module_that_does_not_respond_in_time_opens_the_breaker() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::calling(
        &[silent.local_addr().unwrap()],
        &with_no_probes(&[("BANYAN__RPC__TIMEOUT_MS", "50")]),
    );
    let inventory = client.inventory();
    for _ in 0..5 {
        let fault = inventory
            .find_stock(&Call::by_module("orders"), FindStock::default())
            .await
            .unwrap_err();
        assert_eq!(
            (fault.kind, &*fault.detail),
            (FaultKind::Timeout, "inventory did not respond in time.")
        );
    }
    assert_eq!(client.state().breaker, BreakerState::Open);
}

#[tokio::test]
async fn a_stopped_module_is_unavailable_and_comes_back_by_itself() {
    let server = InventoryServer::start().await;
    let address = server.address;
    let quick = [
        ("BANYAN__DISCOVERY__PROBE_EVERY_MS", "20"),
        ("BANYAN__RPC__BREAKER_OPEN_MS", "100"),
    ];
    let client = Client::calling(&[address], &quick);
    let inventory = client.inventory();
    call(&inventory).await.unwrap();
    server.stop().await;
    for _ in 0..20 {
        let begun = Instant::now();
        let fault = call(&inventory).await.unwrap_err();
        assert!(
            fault.is_transient() && begun.elapsed() < Duration::from_millis(500),
            "{fault} after {:?}",
            begun.elapsed()
        );
    }
    assert_eq!(client.state().breaker, BreakerState::Open);
    assert!(!client.state().instances[0].in_rotation);

    let again = InventoryServer::start_with(&address.to_string(), &[]).await.unwrap();
    until("it is in rotation again", || client.state().instances[0].in_rotation).await;
    until("the breaker lets probes through", || {
        client.state().breaker == BreakerState::HalfOpen
    })
    .await;
    call(&inventory).await.unwrap();
    call(&inventory).await.unwrap();
    assert_eq!(
        (client.state().breaker, again.stock.calls().len()),
        (BreakerState::Closed, 2)
    );
}

#[tokio::test]
async fn more_calls_than_the_queue_holds_are_rejected_at_once() {
    let server = InventoryServer::start().await;
    let client = Client::calling(
        &[server.address],
        &[("BANYAN__RPC__CONCURRENCY", "2"), ("BANYAN__RPC__QUEUE", "1")],
    );
    let inventory = client.inventory();
    let gate = CancellationToken::new();
    server.stock.set(Behaviour::WaitsFor(gate.clone()));
    let calling: Vec<_> = (0..3)
        .map(|_| inventory.clone())
        .map(|inventory| tokio::spawn(async move { call(&inventory).await }))
        .collect();
    until("two have arrived", || server.stock.calls().len() == 2).await;
    until("one waits", || client.state().waiting == 1).await;
    let begun = Instant::now();
    let fault = call(&inventory).await.unwrap_err();
    assert_eq!(
        (fault.kind, &*fault.detail),
        (FaultKind::Unavailable, "Too many calls to inventory are under way.")
    );
    assert!(begun.elapsed() < Duration::from_millis(50), "{:?}", begun.elapsed());
    assert_eq!(server.stock.calls().len(), 2);
    gate.cancel();
    for call in calling {
        call.await.unwrap().unwrap();
    }
    assert_eq!(
        client.state().breaker,
        BreakerState::Closed,
        "a call rejected on this side says nothing about the module"
    );
}

#[tokio::test]
async fn a_cancelled_call_leaves_no_trace() {
    let server = InventoryServer::start().await;
    let client = Client::calling(
        &[server.address],
        &[("BANYAN__RPC__CONCURRENCY", "1"), ("BANYAN__RPC__QUEUE", "0")],
    );
    let inventory = client.inventory();
    server.stock.set(Behaviour::Hangs);
    for _ in 0..10 {
        assert!(
            tokio::time::timeout(Duration::from_millis(20), call(&inventory))
                .await
                .is_err()
        );
    }
    let state = client.state();
    assert_eq!(
        (state.breaker, state.waiting, state.instances[0].in_flight),
        (BreakerState::Closed, 0, 0)
    );
    server.stock.set(Behaviour::Responds);
    call(&inventory).await.unwrap();
}

#[tokio::test]
async fn a_refused_connection_is_tried_once_at_another_instance() {
    let server = InventoryServer::start().await;
    let closed = unused_address().await;
    for _ in 0..20 {
        // Each client is new and nothing has been probed, so every second call begins at the unused address.
        let client = Client::calling(&[closed, server.address], &NO_PROBES);
        call(&client.inventory()).await.unwrap();
    }
    assert_eq!(server.stock.calls().len(), 20);
    let client = Client::calling(&[unused_address().await, unused_address().await], &NO_PROBES);
    assert_eq!(
        call(&client.inventory()).await.unwrap_err().detail,
        "inventory cannot be reached."
    );
}

#[tokio::test]
async fn what_may_have_arrived_is_never_sent_twice() {
    let (one, other) = (InventoryServer::start().await, InventoryServer::start().await);
    let (to_one, to_other) = (
        CuttableProxy::to(one.address).await,
        CuttableProxy::to(other.address).await,
    );
    let client = Client::calling(&[to_one.address, to_other.address], &NO_PROBES);
    one.stock.set(Behaviour::Hangs);
    other.stock.set(Behaviour::Hangs);
    let arrived = || one.stock.calls().len() + other.stock.calls().len();
    let inventory = client.inventory();
    let calling = tokio::spawn(async move { call(&inventory).await });
    until("it has arrived", || arrived() == 1).await;
    to_one.cut();
    to_other.cut();
    let fault = calling.await.unwrap().unwrap_err();
    assert_eq!(
        (fault.kind, &*fault.detail),
        (
            FaultKind::Timeout,
            "The connection to inventory was lost before it responded."
        )
    );
    assert_eq!(arrived(), 1);
    // Both can still be reached: had there been a second attempt, it would have arrived.
    one.stock.set(Behaviour::Responds);
    other.stock.set(Behaviour::Responds);
    let fresh = Client::calling(&[to_one.address, to_other.address], &NO_PROBES);
    call(&fresh.inventory()).await.unwrap();
}
