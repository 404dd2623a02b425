//! Contracts: they only ever grow, and a local and a remote module respond the same.

use std::{collections::BTreeMap, fs, sync::Arc};

use banyan::shop::MODULES;
use libtest_mimic::{Failed, Trial};
use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Label};

use crate::architecture::root;

/// A contract: its name, its crate's folder, its `.proto` files as they were compiled.
type Contract = (&'static str, String, &'static [u8]);

/// Those of the modules, the one that every module serves, and those of the example.
fn contracts() -> Vec<Contract> {
    let of_modules = MODULES.iter().map(|module| {
        let folder = format!("modules/{}/contract", module.name);
        (module.name, folder, module.contract.descriptors)
    });
    let further = [
        (
            "event-feed",
            "platform/durable/contract",
            banyan_event_feed_contract::DESCRIPTOR_SET,
        ),
        (
            "helpdesk-agents",
            "examples/helpdesk/modules/agents/contract",
            helpdesk_agents_contract::DESCRIPTOR_SET,
        ),
        (
            "helpdesk-tickets",
            "examples/helpdesk/modules/tickets/contract",
            helpdesk_tickets_contract::DESCRIPTOR_SET,
        ),
    ];
    let further = further.map(|(name, folder, descriptors)| (name, folder.to_owned(), descriptors));
    of_modules.chain(further).collect()
}

pub fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = contracts()
        .into_iter()
        .map(|(name, folder, descriptors)| {
            Trial::test(format!("contracts::{name}_only_grows"), move || {
                only_grows(&folder, descriptors)
            })
        })
        .collect();
    trials.push(Trial::test(
        "contracts::no_rpc_hides_a_message_of_its_name",
        types_are_found,
    ));
    trials.push(Trial::test("contracts::rejects::a_field_renumbered", || {
        rejected(renumber, "number")
    }));
    trials.push(Trial::test("contracts::rejects::a_field_of_another_type", || {
        rejected(retype, "type")
    }));
    trials.push(Trial::test("contracts::rejects::a_field_removed", || {
        rejected(remove_field, "is missing")
    }));
    trials.push(Trial::test("contracts::rejects::an_rpc_removed", || {
        rejected(remove_rpc, "is missing")
    }));
    trials.push(Trial::test(
        "contracts::a_new_field_and_a_new_rpc_are_allowed",
        growth_is_allowed,
    ));
    trials.push(Trial::test("contracts::a_module_responds_the_same_over_grpc", || {
        crate::harness::runtime().block_on(over_grpc::same_response());
        Ok(())
    }));
    trials.push(Trial::test(
        "contracts::no_module_is_called_inside_a_transaction_locally_or_over_grpc",
        || {
            crate::harness::runtime().block_on(over_grpc::not_inside_a_transaction());
            Ok(())
        },
    ));
    trials
}

/// Within a service a method hides a message of its name, so `rpc FindStock(FindStock)` names the method: protoc refuses it, and with it every client
/// in another language. The compiler used here accepts it, so this test checks it.
fn types_are_found() -> Result<(), Failed> {
    let mut hidden = Vec::new();
    for (_, folder, _) in contracts() {
        let path = format!("{folder}/proto/service.proto");
        let text = fs::read_to_string(root().join(&path))?;
        let rpcs: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("rpc "))
            .collect();
        assert!(!rpcs.is_empty(), "{path} has no rpc");
        let methods: Vec<&str> = rpcs
            .iter()
            .filter_map(|rpc| rpc["rpc ".len()..].split('(').next())
            .collect();
        let types = |rpc: &str| -> Vec<String> {
            rpc.split('(')
                .skip(1)
                .filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()))
                .collect()
        };
        hidden.extend(
            rpcs.iter().flat_map(|rpc| types(rpc)).filter(|name| methods.contains(&name.as_str())).map(|name| {
                format!("{path}: {name} names the method of that name; write it with its package, as .banyan.<module>.v1.{name}")
            }),
        );
    }
    if hidden.is_empty() {
        Ok(())
    } else {
        Err(hidden.join("\n").into())
    }
}

/// A contract as text, one line for each field and rpc: diffs of the snapshot are readable, and a removed line is a breaking change.
fn lines(descriptors: &FileDescriptorSet) -> BTreeMap<String, String> {
    fn message_in(prefix: &str, message: &DescriptorProto, into: &mut BTreeMap<String, String>) {
        let name = format!("{prefix}.{}", message.name());
        into.insert(format!("message {name}"), String::new());
        for field in &message.field {
            let repeated = if field.label() == Label::Repeated {
                "repeated "
            } else {
                ""
            };
            let of = if field.type_name().is_empty() {
                format!("{:?}", field.r#type()).to_lowercase()
            } else {
                field.type_name().to_owned()
            };
            let oneof = field
                .oneof_index
                .filter(|_| !field.proto3_optional())
                .map(|at| format!(" in {}", message.oneof_decl[at as usize].name()));
            let optional = if field.proto3_optional() { "optional " } else { "" };
            let kind = format!(
                "number {}, type {optional}{repeated}{of}{}",
                field.number(),
                oneof.unwrap_or_default()
            );
            into.insert(format!("field {name}.{}", field.name()), kind);
        }
        message
            .nested_type
            .iter()
            .for_each(|nested| message_in(&name, nested, into));
    }
    fn message_of(file: &prost_types::FileDescriptorProto, into: &mut BTreeMap<String, String>) {
        file.message_type
            .iter()
            .for_each(|found| message_in(file.package(), found, into));
        for service in &file.service {
            for rpc in &service.method {
                let kind = format!("type {} -> {}", rpc.input_type(), rpc.output_type());
                into.insert(
                    format!("rpc {}.{}.{}", file.package(), service.name(), rpc.name()),
                    kind,
                );
            }
        }
    }
    let mut all = BTreeMap::new();
    descriptors
        .file
        .iter()
        .filter(|file| !file.package().starts_with("google."))
        .for_each(|file| message_of(file, &mut all));
    all
}

/// Every change that breaks an old client.
fn breaches(committed: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<String> {
    let breach = |(what, kind): (&String, &String)| match now.get(what) {
        None => Some(format!("{what} is missing; keep it, and stop using it")),
        Some(new) if new != kind => Some(format!("{what} was `{kind}` and is `{new}`; add a new field instead")),
        Some(_) => None,
    };
    committed.iter().filter_map(breach).collect()
}

fn print(lines: &BTreeMap<String, String>) -> String {
    lines.iter().map(|(what, kind)| format!("{what}: {kind}\n")).collect()
}

fn read(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(what, kind)| (what.to_owned(), kind.to_owned()))
        .collect()
}

/// The snapshot of these descriptors.
pub fn snapshot_of(descriptors: &[u8]) -> Result<String, Failed> {
    Ok(print(&lines(&FileDescriptorSet::decode(descriptors)?)))
}

fn only_grows(folder: &str, descriptors: &[u8]) -> Result<(), Failed> {
    let snapshot = format!("{folder}/snapshot.txt");
    let now = lines(&FileDescriptorSet::decode(descriptors)?);
    let committed = read(&fs::read_to_string(root().join(&snapshot)).unwrap_or_default());
    let breaches = breaches(&committed, &now);
    if !breaches.is_empty() && std::env::var_os("BANYAN_UPDATE_SNAPSHOTS").is_none() {
        return Err(breaches.join("\n").into());
    }
    crate::snapshot::compare(&snapshot, &print(&now))
}

fn orders() -> FileDescriptorSet {
    FileDescriptorSet::decode(orders_contract::DESCRIPTOR_SET).expect("a descriptor set")
}

fn rejected(breach: fn(&mut FileDescriptorSet), words: &str) -> Result<(), Failed> {
    let mut changed = orders();
    breach(&mut changed);
    let found = breaches(&lines(&orders()), &lines(&changed));
    if found.iter().any(|sentence| sentence.contains(words)) {
        Ok(())
    } else {
        Err(format!("not rejected: {found:?}").into())
    }
}

/// The message `Order` of the orders contract.
fn order(descriptors: &mut FileDescriptorSet) -> &mut DescriptorProto {
    let messages = descriptors.file.iter_mut().flat_map(|file| &mut file.message_type);
    messages
        .into_iter()
        .find(|message| message.name() == "Order")
        .expect("orders have orders")
}

fn renumber(descriptors: &mut FileDescriptorSet) {
    order(descriptors).field[0].number = Some(99);
}

fn retype(descriptors: &mut FileDescriptorSet) {
    order(descriptors).field[0].set_type(prost_types::field_descriptor_proto::Type::Int64);
}

fn remove_field(descriptors: &mut FileDescriptorSet) {
    order(descriptors).field.remove(0);
}

fn remove_rpc(descriptors: &mut FileDescriptorSet) {
    let services = descriptors.file.iter_mut().flat_map(|file| &mut file.service);
    services.into_iter().for_each(|service| drop(service.method.remove(0)));
}

fn growth_is_allowed() -> Result<(), Failed> {
    let mut grown = orders();
    let mut field = order(&mut grown).field[0].clone();
    (field.name, field.number) = (Some("note".to_owned()), Some(100));
    order(&mut grown).field.push(field);
    let services = grown.file.iter_mut().flat_map(|file| &mut file.service);
    for service in services {
        let mut rpc = service.method[0].clone();
        rpc.name = Some("CountOrders".to_owned());
        service.method.push(rpc);
    }
    let found = breaches(&lines(&orders()), &lines(&grown));
    if found.is_empty() {
        Ok(())
    } else {
        Err(found.join("\n").into())
    }
}

/// The same inventory, called through its trait and through gRPC over a connection in memory.
mod over_grpc {
    use banyan_core::{Actor, Call, FaultKind, RandomIds, SystemClock};
    use inventory_contract::{
        FindStock, Inventory, LocalInventory, RemoteInventory, ReserveStock, ServedInventory, StockLine,
        inventory_server::InventoryServer, reservation::Outcome,
    };
    use tokio::io::DuplexStream;
    use tonic::transport::{Channel, Endpoint, Server, Uri};

    use super::Arc;

    pub async fn same_response() {
        banyan_durable_testing::on_both(inventory::SCHEMA, |db| async move {
            let needs = inventory::Needs {
                db,
                clock: Arc::new(SystemClock),
                ids: Arc::new(RandomIds),
                publishes_levels: true,
            };
            let offers = inventory::start(needs).await.expect("inventory starts");
            (offers.seed)().await.expect("demo data is inserted");
            let local = offers.contract;
            let remote = RemoteInventory::new(connect(local.clone()).await);
            let call = Call::by(Actor::module("orders")).within(std::time::Duration::from_secs(3));

            let request = FindStock {
                sku: "rare-fig".to_owned(),
            };
            let (from_local, from_remote) = (
                local.find_stock(&call, request.clone()).await,
                remote.find_stock(&call, request).await,
            );
            assert_eq!(from_local, from_remote);
            assert_eq!(from_remote.expect("a response").level.expect("rare figs").on_hand, 3);

            // A command sent to the remote contract and repeated to the local one takes effect once.
            let command = |sku: &str, quantity| ReserveStock {
                command_id: uuid::Uuid::new_v4().to_string(),
                order_id: uuid::Uuid::new_v4().to_string(),
                lines: vec![StockLine {
                    sku: sku.to_owned(),
                    quantity,
                }],
            };
            let reserve = command("rare-fig", 2);
            let reserved = remote.reserve_stock(&call, reserve.clone()).await.expect("a response");
            assert!(matches!(reserved.outcome, Some(Outcome::Reserved(_))), "{reserved:?}");
            assert_eq!(local.reserve_stock(&call, reserve).await.expect("a response"), reserved);
            let refused = remote
                .reserve_stock(&call, command("rare-fig", 2))
                .await
                .expect("a response");
            assert!(
                matches!(refused.outcome, Some(Outcome::Insufficient(ref short)) if short.available == 1),
                "{refused:?}"
            );

            // gRPC carries a fault completely: kind, code, fields.
            let wrong = ReserveStock {
                command_id: "no id".to_owned(),
                ..command("rare-fig", 1)
            };
            let (from_local, from_remote) = (
                local.reserve_stock(&call, wrong.clone()).await,
                remote.reserve_stock(&call, wrong).await,
            );
            assert_eq!(from_local, from_remote);
            assert_eq!(from_remote.expect_err("a fault").kind, FaultKind::Invalid);
        })
        .await;
    }

    pub async fn not_inside_a_transaction() {
        banyan_durable_testing::on_both(inventory::SCHEMA, |db| async move {
            let needs = inventory::Needs {
                db: db.clone(),
                clock: Arc::new(SystemClock),
                ids: Arc::new(RandomIds),
                publishes_levels: true,
            };
            let local: Arc<dyn Inventory> = Arc::new(LocalInventory(
                inventory::start(needs).await.expect("inventory starts").contract,
            ));
            let remote: Arc<dyn Inventory> = Arc::new(RemoteInventory::new(connect(local.clone()).await));
            for contract in [local, remote] {
                let (call, request) = (
                    Call::by_module("orders"),
                    FindStock {
                        sku: "rare-fig".to_owned(),
                    },
                );
                contract
                    .find_stock(&call, request.clone())
                    .await
                    .expect("it responds outside a transaction");
                let inside = db.write((contract, call, request), |_, (contract, call, request)| async move {
                    contract.find_stock(&call, request).await
                });
                assert_eq!(
                    inside.await.expect_err("it is refused inside a transaction").code,
                    "inside_transaction"
                );
            }
        })
        .await;
    }

    /// A client of a server that runs over a pipe in this process.
    async fn connect(inventory: Arc<dyn Inventory>) -> Channel {
        let (client, server) = tokio::io::duplex(64 * 1024);
        let incoming = futures::stream::iter([Ok::<DuplexStream, std::io::Error>(server)]);
        let service = InventoryServer::new(ServedInventory(inventory));
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        let mut pipe = Some(hyper_util::rt::TokioIo::new(client));
        let connector = tower::service_fn(move |_: Uri| {
            let pipe = pipe.take();
            async move { pipe.ok_or_else(|| std::io::Error::other("the pipe is used once")) }
        });
        Endpoint::from_static("http://in.memory")
            .connect_with_connector(connector)
            .await
            .expect("a connection in memory")
    }
}
