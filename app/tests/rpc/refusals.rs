//! What happens when a module is away, slow, or too much is asked of it.

use std::time::Instant;

use banyan_core::{Call, Fault, FaultKind};
use inventory_contract::FindStock;

use super::{cable::Cable, stock::Mood, *};

/// Probes that change nothing during a test: what calls find out is what is tested.
const NO_PROBES: [(&str, &str); 1] = [("BANYAN__DISCOVERY__PROBE_EVERY_MS", "600000")];

async fn ask(inventory: &Arc<dyn Inventory>) -> Result<(), Fault> {
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
async fn a_breaker_opens_answers_at_once_and_closes_when_the_module_is_back() {
    let warehouse = Warehouse::open().await;
    let shop = Shop::asking(&[warehouse.address], &[("BANYAN__RPC__BREAKER_OPEN_MS", "300")]);
    let inventory = shop.inventory();
    assert_eq!(measured(&shop), "0", "it is measured before anybody asks");
    ask(&inventory).await.unwrap();
    assert_eq!(shop.state().breaker, BreakerState::Closed);
    warehouse
        .stock
        .is(Mood::Fails(Fault::unavailable("The database is away.")));
    for _ in 0..4 {
        assert_eq!(ask(&inventory).await.unwrap_err().detail, "The database is away.");
    }
    assert_eq!(
        (shop.state().breaker, measured(&shop).as_str()),
        (BreakerState::Open, "2")
    );

    let arrived = warehouse.stock.calls().len();
    let begun = Instant::now();
    for _ in 0..20 {
        let fault = ask(&inventory).await.unwrap_err();
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
        warehouse.stock.calls().len(),
        arrived,
        "a refused call does not reach the module"
    );

    warehouse.stock.is(Mood::Answers);
    until("the breaker lets probes through", || {
        shop.state().breaker == BreakerState::HalfOpen
    })
    .await;
    assert_eq!(measured(&shop), "1", "although nobody has asked since");
    ask(&inventory).await.unwrap();
    assert_eq!(
        shop.state().breaker,
        BreakerState::HalfOpen,
        "one success is not enough"
    );
    ask(&inventory).await.unwrap();
    let state = shop.state();
    assert_eq!(
        (state.breaker, state.failure_rate, measured(&shop).as_str()),
        (BreakerState::Closed, 0.0, "0")
    );
}

/// What Prometheus would read of the breaker to inventory.
fn measured(shop: &Shop) -> String {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || shop.remotes.measure());
    let text = recorder.handle().render();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("banyan_rpc_breaker_state{module=\"inventory\"} "));
    line.unwrap_or_else(|| panic!("{text}")).to_owned()
}

#[tokio::test]
async fn what_a_module_answers_deliberately_never_opens_the_breaker() {
    let warehouse = Warehouse::open().await;
    let shop = Shop::asking(&[warehouse.address], &[]);
    for fault in [
        Fault::not_found("product"),
        Fault::conflict("taken", "x"),
        Fault::internal("bug", "x"),
        Fault::invalid("wrong", "x"),
    ] {
        warehouse.stock.is(Mood::Fails(fault.clone()));
        for _ in 0..10 {
            assert_eq!(ask(&shop.inventory()).await, Err(fault.clone()));
        }
    }
    let state = shop.state();
    assert_eq!((state.breaker, state.failure_rate), (BreakerState::Closed, 0.0));
}

#[tokio::test]
async fn a_module_that_does_not_answer_in_time_opens_the_breaker() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let shop = Shop::asking(
        &[silent.local_addr().unwrap()],
        &with_no_probes(&[("BANYAN__RPC__TIMEOUT_MS", "50")]),
    );
    let inventory = shop.inventory();
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
    assert_eq!(shop.state().breaker, BreakerState::Open);
}

#[tokio::test]
async fn a_stopped_module_is_away_and_comes_back_by_itself() {
    let warehouse = Warehouse::open().await;
    let place = warehouse.address;
    let quick = [
        ("BANYAN__DISCOVERY__PROBE_EVERY_MS", "20"),
        ("BANYAN__RPC__BREAKER_OPEN_MS", "100"),
    ];
    let shop = Shop::asking(&[place], &quick);
    let inventory = shop.inventory();
    ask(&inventory).await.unwrap();
    warehouse.close().await;
    for _ in 0..20 {
        let begun = Instant::now();
        let fault = ask(&inventory).await.unwrap_err();
        assert!(
            fault.is_transient() && begun.elapsed() < Duration::from_millis(500),
            "{fault} after {:?}",
            begun.elapsed()
        );
    }
    assert_eq!(shop.state().breaker, BreakerState::Open);
    assert!(!shop.state().instances[0].in_rotation);

    let again = Warehouse::open_with(&place.to_string(), &[]).await.unwrap();
    until("it is in rotation again", || shop.state().instances[0].in_rotation).await;
    until("the pause is over", || shop.state().breaker == BreakerState::HalfOpen).await;
    ask(&inventory).await.unwrap();
    ask(&inventory).await.unwrap();
    assert_eq!(
        (shop.state().breaker, again.stock.calls().len()),
        (BreakerState::Closed, 2)
    );
}

#[tokio::test]
async fn more_calls_than_may_wait_are_refused_at_once() {
    let warehouse = Warehouse::open().await;
    let shop = Shop::asking(
        &[warehouse.address],
        &[("BANYAN__RPC__CONCURRENCY", "2"), ("BANYAN__RPC__QUEUE", "1")],
    );
    let inventory = shop.inventory();
    let gate = CancellationToken::new();
    warehouse.stock.is(Mood::WaitsFor(gate.clone()));
    let asking: Vec<_> = (0..3)
        .map(|_| inventory.clone())
        .map(|inventory| tokio::spawn(async move { ask(&inventory).await }))
        .collect();
    until("two are asked", || warehouse.stock.calls().len() == 2).await;
    until("one waits", || shop.state().waiting == 1).await;
    let begun = Instant::now();
    let fault = ask(&inventory).await.unwrap_err();
    assert_eq!(
        (fault.kind, &*fault.detail),
        (FaultKind::Unavailable, "Too many calls to inventory are under way.")
    );
    assert!(begun.elapsed() < Duration::from_millis(50), "{:?}", begun.elapsed());
    assert_eq!(warehouse.stock.calls().len(), 2);
    gate.cancel();
    for asked in asking {
        asked.await.unwrap().unwrap();
    }
    assert_eq!(
        shop.state().breaker,
        BreakerState::Closed,
        "what was refused here says nothing about the module"
    );
}

#[tokio::test]
async fn who_gives_up_leaves_no_trace() {
    let warehouse = Warehouse::open().await;
    let shop = Shop::asking(
        &[warehouse.address],
        &[("BANYAN__RPC__CONCURRENCY", "1"), ("BANYAN__RPC__QUEUE", "0")],
    );
    let inventory = shop.inventory();
    warehouse.stock.is(Mood::Ponders);
    for _ in 0..10 {
        assert!(
            tokio::time::timeout(Duration::from_millis(20), ask(&inventory))
                .await
                .is_err()
        );
    }
    let state = shop.state();
    assert_eq!(
        (state.breaker, state.waiting, state.instances[0].in_flight),
        (BreakerState::Closed, 0, 0)
    );
    warehouse.stock.is(Mood::Answers);
    ask(&inventory).await.unwrap();
}

#[tokio::test]
async fn a_refused_connection_is_tried_once_at_another_instance() {
    let warehouse = Warehouse::open().await;
    let closed = nobody().await;
    for _ in 0..20 {
        // Each shop is new and nothing has been probed, so one in two calls begins at the instance that is closed.
        let shop = Shop::asking(&[closed, warehouse.address], &NO_PROBES);
        ask(&shop.inventory()).await.unwrap();
    }
    assert_eq!(warehouse.stock.calls().len(), 20);
    let shop = Shop::asking(&[nobody().await, nobody().await], &NO_PROBES);
    assert_eq!(
        ask(&shop.inventory()).await.unwrap_err().detail,
        "inventory cannot be reached."
    );
}

#[tokio::test]
async fn what_may_have_arrived_is_never_sent_twice() {
    let (one, other) = (Warehouse::open().await, Warehouse::open().await);
    let (to_one, to_other) = (Cable::to(one.address).await, Cable::to(other.address).await);
    let shop = Shop::asking(&[to_one.address, to_other.address], &NO_PROBES);
    one.stock.is(Mood::Ponders);
    other.stock.is(Mood::Ponders);
    let arrived = || one.stock.calls().len() + other.stock.calls().len();
    let inventory = shop.inventory();
    let asking = tokio::spawn(async move { ask(&inventory).await });
    until("it has arrived", || arrived() == 1).await;
    to_one.cut();
    to_other.cut();
    let fault = asking.await.unwrap().unwrap_err();
    assert_eq!(
        (fault.kind, &*fault.detail),
        (
            FaultKind::Timeout,
            "The connection to inventory was lost before it responded."
        )
    );
    assert_eq!(arrived(), 1);
    // Both can still be reached: had there been a second attempt, it would have arrived.
    one.stock.is(Mood::Answers);
    other.stock.is(Mood::Answers);
    let fresh = Shop::asking(&[to_one.address, to_other.address], &NO_PROBES);
    ask(&fresh.inventory()).await.unwrap();
}
