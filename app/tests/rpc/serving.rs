//! What a process reports about itself to other processes, and how it stops.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
};

use banyan_core::Call;
use futures::{StreamExt, stream};
use inventory_contract::FindStock;
use prost::Message;
use prost_types::FileDescriptorProto;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use banyan_core::CheckResult;

use super::{stock::Behaviour, *};

const INVENTORY: &str = "banyan.inventory.v1.Inventory";

fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect_lazy()
}

fn health_of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

#[tokio::test]
async fn health_is_reported_for_the_process_and_for_each_service() {
    let server = InventoryServer::start().await;
    let mut health = HealthClient::new(channel(server.address));
    for service in ["", INVENTORY, "banyan.events.v1.EventFeed"] {
        assert_eq!(
            health.check(health_of(service)).await.unwrap().get_ref().status(),
            ServingStatus::Serving,
            "{service}"
        );
    }
    let not_served = health.check(health_of("banyan.orders.v1.Orders")).await.unwrap_err();
    assert_eq!(not_served.code(), tonic::Code::NotFound);
}

/// A dependency of one module, or of the process, that can be made unavailable.
struct Dependency {
    module: Option<&'static str>,
    is_down: AtomicBool,
}

impl Dependency {
    fn of(module: Option<&'static str>) -> Arc<Self> {
        Arc::new(Dependency {
            module,
            is_down: AtomicBool::new(false),
        })
    }
}

#[async_trait::async_trait]
impl Check for Dependency {
    fn name(&self) -> String {
        "database:of a test".to_owned()
    }

    fn module(&self) -> Option<&str> {
        self.module
    }

    async fn run(&self) -> CheckResult {
        if self.is_down.load(Ordering::SeqCst) {
            CheckResult::failed("it is down")
        } else {
            CheckResult::ok()
        }
    }
}

#[tokio::test]
async fn an_instance_whose_module_lacks_a_dependency_leaves_the_rotation_and_comes_back() {
    let (unhealthy, healthy) = (InventoryServer::start().await, InventoryServer::start().await);
    let (own, another, process) = (
        Dependency::of(Some("inventory")),
        Dependency::of(Some("orders")),
        Dependency::of(None),
    );
    unhealthy.follow(vec![own.clone(), another.clone(), process.clone()]);
    let client = Client::calling(
        &[unhealthy.address, healthy.address],
        &[("BANYAN__DISCOVERY__PROBE_EVERY_MS", "20")],
    );
    let in_rotation = || {
        client
            .state()
            .instances
            .iter()
            .filter(|instance| instance.in_rotation)
            .count()
    };
    for dependency in [&own, &process] {
        dependency.is_down.store(true, Ordering::SeqCst);
        until("it leaves", || in_rotation() == 1).await;
        let out = client
            .state()
            .instances
            .into_iter()
            .find(|instance| !instance.in_rotation)
            .unwrap();
        assert_eq!(
            (out.address.port(), out.reason.as_deref()),
            (unhealthy.address.port(), Some("its health is NOT_SERVING"))
        );
        for _ in 0..20 {
            client
                .inventory()
                .find_stock(
                    &Call::default(),
                    FindStock {
                        sku: "tea-01".to_owned(),
                    },
                )
                .await
                .unwrap();
        }
        assert_eq!(
            (unhealthy.stock.calls().len(), client.state().breaker),
            (0, BreakerState::Closed)
        );
        dependency.is_down.store(false, Ordering::SeqCst);
        until("it is back", || in_rotation() == 2).await;
    }
    // A failed dependency of another module in the process affects that module, and the health of the whole process, but not this one.
    another.is_down.store(true, Ordering::SeqCst);
    let mut health = HealthClient::new(channel(unhealthy.address));
    while health.check(health_of("")).await.unwrap().get_ref().status() == ServingStatus::Serving {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        health.check(health_of(INVENTORY)).await.unwrap().get_ref().status(),
        ServingStatus::Serving
    );
}

#[tokio::test]
async fn a_stop_is_announced_first_finishes_accepted_calls_and_does_not_wait_for_watchers() {
    let server = InventoryServer::start().await;
    let mut health = HealthClient::new(channel(server.address));
    let mut watching = health.watch(health_of(INVENTORY)).await.unwrap().into_inner();
    assert_eq!(watching.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let client = Client::calling(&[server.address], &[]);
    let gate = CancellationToken::new();
    server.stock.set(Behaviour::WaitsFor(gate.clone()));
    let inventory = client.inventory();
    let calling = tokio::spawn(async move {
        inventory
            .find_stock(
                &Call::default(),
                FindStock {
                    sku: "tea-01".to_owned(),
                },
            )
            .await
    });
    until("the call is in flight", || server.stock.calls().len() == 1).await;

    let (stock, stop) = (server.stock.clone(), server.stop.clone());
    let stopping = tokio::spawn(server.stop());
    until("it has been asked to stop", || stop.is_cancelled()).await;
    assert_eq!(
        watching.next().await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    let last = tokio::time::timeout(Duration::from_secs(5), watching.next())
        .await
        .expect("the stream of a watcher ends");
    assert!(last.is_none());
    assert!(!stopping.is_finished());
    gate.cancel();
    assert!(calling.await.unwrap().is_ok());
    tokio::time::timeout(Duration::from_secs(5), stopping)
        .await
        .expect("it ends")
        .unwrap();
    assert_eq!(stock.cancelled(), 0);
}

async fn reflect(address: SocketAddr, message: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message),
    };
    let mut client = ServerReflectionClient::new(channel(address));
    let mut responses = client
        .server_reflection_info(stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    responses.next().await.unwrap().unwrap().message_response.unwrap()
}

fn all_modules() -> Served {
    let contracts = Contracts::remote(&Client::without_instances().remotes);
    let served = banyan::MODULES
        .into_iter()
        .map(|module| served_module(module, contracts.clone()));
    Served {
        modules: served.collect(),
        feeds: HashMap::new(),
        tokens: None,
    }
}

/// A process that serves all modules; only its health and reflection are called.
async fn serve_all_modules() -> (SocketAddr, DropGuard) {
    let stop = CancellationToken::new();
    let settings = settings(&[("BANYAN__RPC__LISTEN", "127.0.0.1:0")]);
    let serving = serve(&settings.rpc, all_modules(), None, DRAIN, stop.clone())
        .await
        .unwrap()
        .unwrap();
    (serving.address, stop.drop_guard())
}

#[tokio::test]
async fn reflection_lists_every_service_and_describes_each_as_it_is() {
    let (address, _stop_at_end) = serve_all_modules().await;
    let MessageResponse::ListServicesResponse(listed) =
        reflect(address, MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list");
    };
    let listed: BTreeSet<String> = listed.service.into_iter().map(|service| service.name).collect();
    let expected = banyan::MODULES
        .map(|module| SHOP.layout().find(module).expect("a module").service)
        .into_iter()
        .chain(["banyan.events.v1.EventFeed", "grpc.health.v1.Health"]);
    for service in expected {
        assert!(listed.contains(service), "{service} is not among {listed:?}");
        let MessageResponse::FileDescriptorResponse(files) =
            reflect(address, MessageRequest::FileContainingSymbol(service.to_owned())).await
        else {
            panic!("{service} is not described");
        };
        let described = files.file_descriptor_proto.iter().any(|file| {
            let file = FileDescriptorProto::decode(&**file).unwrap();
            file.service
                .iter()
                .any(|found| format!("{}.{}", file.package(), found.name()) == service)
        });
        assert!(described, "{service}");
    }
}

#[tokio::test]
async fn files_are_found_by_the_names_under_which_others_import_them() {
    let (address, _stop_at_end) = serve_all_modules().await;
    for name in [
        "banyan/orders/v1/service.proto",
        "banyan/orders/v1/events.proto",
        "banyan/kernel/v1/kernel.proto",
    ] {
        let found = reflect(address, MessageRequest::FileByFilename(name.to_owned())).await;
        let MessageResponse::FileDescriptorResponse(files) = found else {
            panic!("{name} is missing: {found:?}")
        };
        for imported in files
            .file_descriptor_proto
            .iter()
            .flat_map(|file| FileDescriptorProto::decode(&**file).unwrap().dependency)
        {
            let found = reflect(address, MessageRequest::FileByFilename(imported.clone())).await;
            assert!(
                matches!(found, MessageResponse::FileDescriptorResponse(_)),
                "{name} imports {imported}"
            );
        }
    }
}

#[tokio::test]
async fn an_address_that_cannot_be_bound_is_refused_with_its_key() {
    let taken = InventoryServer::start().await;
    let error =
        |listen: String| async move { format!("{:#}", InventoryServer::start_with(&listen, &[]).await.err().unwrap()) };
    assert!(error(taken.address.to_string()).await.contains("rpc.listen"));
    let text = error("0.0.0.0:0".to_owned()).await;
    assert!(text.contains("rpc.listen") && text.contains("[mtls]"), "{text}");
}

#[tokio::test]
async fn a_process_without_an_rpc_address_does_not_listen() {
    assert!(
        serve(&settings(&[]).rpc, all_modules(), None, DRAIN, CancellationToken::new())
            .await
            .unwrap()
            .is_none()
    );
}
