//! What a process tells other processes about itself, and how it stops.

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

use super::{stock::Mood, *};

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
async fn health_is_told_for_the_process_and_for_each_service() {
    let warehouse = Warehouse::open().await;
    let mut health = HealthClient::new(channel(warehouse.address));
    for service in ["", INVENTORY, "banyan.events.v1.EventFeed"] {
        assert_eq!(
            health.check(health_of(service)).await.unwrap().get_ref().status(),
            ServingStatus::Serving,
            "{service}"
        );
    }
    let elsewhere = health.check(health_of("banyan.orders.v1.Orders")).await.unwrap_err();
    assert_eq!(elsewhere.code(), tonic::Code::NotFound);
}

/// What one module needs, there or not.
struct Needed {
    module: Option<&'static str>,
    is_away: AtomicBool,
}

impl Needed {
    fn of(module: Option<&'static str>) -> Arc<Self> {
        Arc::new(Needed {
            module,
            is_away: AtomicBool::new(false),
        })
    }
}

#[async_trait::async_trait]
impl Check for Needed {
    fn name(&self) -> String {
        "database:of a test".to_owned()
    }

    fn module(&self) -> Option<&str> {
        self.module
    }

    async fn run(&self) -> CheckResult {
        if self.is_away.load(Ordering::SeqCst) {
            CheckResult::failed("it is away")
        } else {
            CheckResult::ok()
        }
    }
}

#[tokio::test]
async fn an_instance_without_what_a_module_needs_leaves_the_rotation_and_comes_back() {
    let (sick, well) = (Warehouse::open().await, Warehouse::open().await);
    let (own, another, process) = (
        Needed::of(Some("inventory")),
        Needed::of(Some("orders")),
        Needed::of(None),
    );
    sick.follow(vec![own.clone(), another.clone(), process.clone()]);
    let shop = Shop::asking(
        &[sick.address, well.address],
        &[("BANYAN__DISCOVERY__PROBE_EVERY_MS", "20")],
    );
    let in_rotation = || {
        shop.state()
            .instances
            .iter()
            .filter(|instance| instance.in_rotation)
            .count()
    };
    for needed in [&own, &process] {
        needed.is_away.store(true, Ordering::SeqCst);
        until("it leaves", || in_rotation() == 1).await;
        let out = shop
            .state()
            .instances
            .into_iter()
            .find(|instance| !instance.in_rotation)
            .unwrap();
        assert_eq!(
            (out.address.port(), out.reason.as_deref()),
            (sick.address.port(), Some("its health is NOT_SERVING"))
        );
        for _ in 0..20 {
            shop.inventory()
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
            (sick.stock.calls().len(), shop.state().breaker),
            (0, BreakerState::Closed)
        );
        needed.is_away.store(false, Ordering::SeqCst);
        until("it is back", || in_rotation() == 2).await;
    }
    // What only another module of its process needs is that module's affair; the process as a whole says so.
    another.is_away.store(true, Ordering::SeqCst);
    let mut health = HealthClient::new(channel(sick.address));
    while health.check(health_of("")).await.unwrap().get_ref().status() == ServingStatus::Serving {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        health.check(health_of(INVENTORY)).await.unwrap().get_ref().status(),
        ServingStatus::Serving
    );
}

#[tokio::test]
async fn a_stop_says_so_first_finishes_what_was_accepted_and_is_held_up_by_nobody() {
    let warehouse = Warehouse::open().await;
    let mut health = HealthClient::new(channel(warehouse.address));
    let mut watching = health.watch(health_of(INVENTORY)).await.unwrap().into_inner();
    assert_eq!(watching.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let shop = Shop::asking(&[warehouse.address], &[]);
    let gate = CancellationToken::new();
    warehouse.stock.is(Mood::WaitsFor(gate.clone()));
    let inventory = shop.inventory();
    let asking = tokio::spawn(async move {
        inventory
            .find_stock(
                &Call::default(),
                FindStock {
                    sku: "tea-01".to_owned(),
                },
            )
            .await
    });
    until("the call is under way", || warehouse.stock.calls().len() == 1).await;

    let (stock, stop) = (warehouse.stock.clone(), warehouse.stop.clone());
    let closing = tokio::spawn(warehouse.close());
    until("it is told to stop", || stop.is_cancelled()).await;
    assert_eq!(
        watching.next().await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    let over = tokio::time::timeout(Duration::from_secs(5), watching.next())
        .await
        .expect("who watches is let go");
    assert!(over.is_none());
    assert!(!closing.is_finished());
    gate.cancel();
    assert!(asking.await.unwrap().is_ok());
    tokio::time::timeout(Duration::from_secs(5), closing)
        .await
        .expect("it ends")
        .unwrap();
    assert_eq!(stock.given_up(), 0);
}

async fn reflect(address: SocketAddr, asked: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(asked),
    };
    let mut client = ServerReflectionClient::new(channel(address));
    let mut answers = client
        .server_reflection_info(stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    answers.next().await.unwrap().unwrap().message_response.unwrap()
}

fn all_modules() -> Served {
    let contracts = Contracts::remote(&Shop::without_instances().remotes);
    let served = banyan::MODULES
        .into_iter()
        .map(|module| served_module(module, contracts.clone()));
    Served {
        modules: served.collect(),
        feeds: HashMap::new(),
    }
}

/// A process with all modules, which nobody asks anything but about itself.
async fn everything() -> (SocketAddr, DropGuard) {
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
    let (address, _stop_at_end) = everything().await;
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
async fn files_are_found_by_the_names_that_others_import_them_by() {
    let (address, _stop_at_end) = everything().await;
    for name in [
        "banyan/orders/v1/service.proto",
        "banyan/orders/v1/events.proto",
        "banyan/kernel/v1/kernel.proto",
    ] {
        let found = reflect(address, MessageRequest::FileByFilename(name.to_owned())).await;
        let MessageResponse::FileDescriptorResponse(files) = found else {
            panic!("{name} is not there: {found:?}")
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
async fn an_address_that_cannot_be_served_is_refused_with_its_key() {
    let taken = Warehouse::open().await;
    let error =
        |listen: String| async move { format!("{:#}", Warehouse::open_with(&listen, &[]).await.err().unwrap()) };
    assert!(error(taken.address.to_string()).await.contains("rpc.listen"));
    let text = error("0.0.0.0:0".to_owned()).await;
    assert!(text.contains("rpc.listen") && text.contains("[mtls]"), "{text}");
}

#[tokio::test]
async fn a_process_that_serves_nobody_need_not_listen() {
    assert!(
        serve(&settings(&[]).rpc, all_modules(), None, DRAIN, CancellationToken::new())
            .await
            .unwrap()
            .is_none()
    );
}
