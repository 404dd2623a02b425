//! What a remote call carries, and what it returns.

use std::{sync::Mutex, time::Instant};

use banyan_core::{AccessToken, Call, Fault, FaultKind, TraceParent};
use banyan_event_feed_contract::ListSubjects;
use inventory_contract::{FindStock, ReserveStock};

use banyan_remote::{balancing::Connector, discovery::Address, grpc::GrpcConnector};

use super::{stock::Behaviour, *};

fn find(sku: &str) -> FindStock {
    FindStock { sku: sku.to_owned() }
}

#[tokio::test]
async fn a_remote_call_returns_what_the_module_itself_returns() {
    let server = InventoryServer::start().await;
    let remote = Client::calling(&[server.address], &[]).inventory();
    let local: Arc<dyn Inventory> = server.stock.clone();
    let call = Call::by_module("orders");
    assert_eq!(
        remote.find_stock(&call, find("tea-01")).await,
        local.find_stock(&call, find("tea-01")).await
    );
    let reserve = ReserveStock {
        command_id: "c".into(),
        order_id: "o".into(),
        lines: Vec::new(),
    };
    assert_eq!(
        remote.reserve_stock(&call, reserve.clone()).await,
        local.reserve_stock(&call, reserve).await
    );
    let fault = Fault::conflict("already_dispatched", "dispatched")
        .retry_after(Duration::from_secs(7))
        .at("/id", "rule");
    for fault in [
        fault,
        Fault::not_found("product"),
        Fault::unavailable("The database is unavailable."),
        Fault::internal("bug", "x"),
    ] {
        server.stock.set(Behaviour::Fails(fault.clone()));
        assert_eq!(remote.find_stock(&call, find("tea-01")).await, Err(fault));
    }
}

#[tokio::test]
async fn the_actor_the_trace_and_the_timeout_arrive() {
    let server = InventoryServer::start().await;
    let client = Client::calling(&[server.address], &[]);
    let trace = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let (actor, token) = (staff(), AccessToken::new(TOKEN));
    let call = Call::by_user(actor.clone(), token.clone())
        .within(Duration::from_secs(2))
        .traced(trace.clone());
    client.inventory().find_stock(&call, find("tea-01")).await.unwrap();
    let arrived = server.stock.calls().remove(0);
    assert_eq!(
        (arrived.actor, arrived.token, arrived.trace),
        (actor, Some(token), trace)
    );
    let left = arrived.timeout.expect("a timeout");
    assert!(
        (Duration::from_millis(1_000)..Duration::from_secs(2)).contains(&left),
        "the remaining timeout: {left:?}"
    );
}

#[tokio::test]
async fn a_call_ends_at_its_timeout_and_the_remote_work_is_cancelled() {
    let server = InventoryServer::start().await;
    let client = Client::calling(&[server.address], &[("BANYAN__RPC__TIMEOUT_MS", "900")]);
    server.stock.set(Behaviour::Hangs);
    let own = Call::by_module("orders").within(Duration::from_millis(200));
    let from_settings = Call::by_module("orders");
    for (call, limit_ms) in [(own, 200), (from_settings, 900)] {
        let begun = Instant::now();
        let fault = client.inventory().find_stock(&call, find("tea-01")).await.unwrap_err();
        let waited = begun.elapsed();
        assert_eq!(fault.kind, FaultKind::Timeout);
        assert!(fault.detail.contains("inventory"), "{fault}");
        assert!(
            (Duration::from_millis(limit_ms - 30)..Duration::from_millis(limit_ms + 300)).contains(&waited),
            "{waited:?}"
        );
    }
    until("both were cancelled at the server", || server.stock.cancelled() == 2).await;
}

#[tokio::test]
async fn a_module_serves_only_its_own_events() {
    let server = InventoryServer::start().await;
    let feed = Client::calling(&[server.address], &[]).remotes.feed("inventory");
    let request = |module: &str| ListSubjects {
        module: module.to_owned(),
        ..ListSubjects::default()
    };
    let call = Call::by_module("orders");
    assert_eq!(
        feed.list_subjects(&call, request("inventory")).await.unwrap().items[0].subject,
        "stock/tea-01"
    );
    assert_eq!(
        feed.list_subjects(&call, request("orders")).await.unwrap_err().kind,
        FaultKind::NotFound
    );
    let as_another = ListSubjects {
        subscriber: "notifications".to_owned(),
        ..request("inventory")
    };
    assert_eq!(
        feed.list_subjects(&call, as_another).await.unwrap_err().kind,
        FaultKind::Forbidden,
        "a subscriber confirms and reads in its own name"
    );
}

#[tokio::test]
async fn an_instance_is_called_by_the_name_it_was_resolved_from() {
    let called = Arc::new(Mutex::new(Vec::new()));
    let incoming = tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let seen = called.clone();
    let server = tonic::transport::Server::builder()
        .trace_fn(move |request| {
            seen.lock()
                .unwrap()
                .push(request.uri().authority().map(ToString::to_string));
            tracing::Span::none()
        })
        .add_service(tonic_health::server::health_reporter().1);
    tokio::spawn(server.serve_with_incoming(incoming));
    let named: Address = format!("http://users.internal:{}", address.port()).parse().unwrap();
    for found in [named.at(address.ip()), format!("http://{address}").parse().unwrap()] {
        let instances = GrpcConnector::new("", None, &settings(&[]).rpc);
        let connection = instances.connect(&found).unwrap();
        instances.probe(&connection).await.unwrap();
    }
    let expected = [named.authority(), address.to_string()];
    assert_eq!(*called.lock().unwrap(), expected.map(Some));
}

#[tokio::test]
async fn only_the_modules_that_are_called_are_watched() {
    let (called, other) = (unused_address().await, unused_address().await);
    let client = Client::calling(
        &[called],
        &[("BANYAN__MODULES__CATALOG__ENDPOINT", &*format!("http://{other}"))],
    );
    let known: Vec<(String, usize)> = client
        .remotes
        .states()
        .into_iter()
        .map(|state| (state.module, state.instances.len()))
        .collect();
    assert_eq!(known, [("inventory".to_owned(), 1)]);
    let fault = Contracts::remote(&client.remotes)
        .catalog
        .list_products(&Call::default(), Default::default())
        .await
        .unwrap_err();
    assert_eq!(
        (fault.kind, fault.detail.as_str()),
        (FaultKind::Unavailable, "catalog cannot be reached.")
    );
}
