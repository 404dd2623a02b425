//! The cost of a call to another module: a local one, and a remote one.
//!
//! - Local: through the contract, as modules call each other, at most 1 microsecond more than the plain function.
//! - Remote: through the whole client stack (limits, breaker, balancing) at most 1.5 times a bare tonic call to the same server over loopback. Both are
//!   called in turn, round by round, and the median of the rounds' ratios counts, so that other load on the machine affects both alike.
//!
//! `cargo bench -p banyan --bench calls` measures, and fails if a limit is broken. `cargo bench -p banyan --bench calls --profile dev` shows the
//! same without optimisation, where the limits are not checked.
#![allow(clippy::print_stdout, reason = "it is a report for people")]

use std::{
    collections::HashMap,
    hint::black_box,
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use banyan::shop::{Contracts, SHOP};
use banyan_core::{Call, Fault};
use banyan_host::settings::Settings;
use banyan_remote::{
    discovery,
    grpc::{Callee, Callers, MESSAGE_BYTES, Remotes, Served, ServedModule, serve},
};
use inventory_contract::{
    CommitStock, FindReservation, FindStock, FoundReservation, FoundStock, Inventory, LocalInventory, ReleaseStock,
    Reservation, ReserveStock, RestockOrder, Restocking, ServedInventory, StockCommitment, StockLevel, StockRelease,
    inventory_client::InventoryClient,
};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

const ROUNDS: usize = 31;
const LOCAL_CALLS: u32 = 20_000;
const REMOTE_CALLS: u32 = 500;
const CALLERS: u32 = 16;
const LOCAL_LIMIT: Duration = Duration::from_micros(1);
const REMOTE_LIMIT: f64 = 1.5;

/// An inventory of one product, which costs nothing to look up.
struct FixedInventory;

impl FixedInventory {
    async fn find(&self, _: &Call, request: FindStock) -> Result<FoundStock, Fault> {
        Ok(FoundStock {
            level: Some(StockLevel {
                sku: request.sku,
                on_hand: 7,
                reserved: 2,
                available: 5,
            }),
        })
    }
}

#[async_trait]
impl Inventory for FixedInventory {
    async fn reserve_stock(&self, _: &Call, _: ReserveStock) -> Result<Reservation, Fault> {
        Ok(Reservation::default())
    }

    async fn release_stock(&self, _: &Call, _: ReleaseStock) -> Result<StockRelease, Fault> {
        Ok(StockRelease::default())
    }

    async fn commit_stock(&self, _: &Call, _: CommitStock) -> Result<StockCommitment, Fault> {
        Ok(StockCommitment::default())
    }

    async fn restock_order(&self, _: &Call, _: RestockOrder) -> Result<Restocking, Fault> {
        Ok(Restocking::default())
    }

    async fn find_reservation(&self, _: &Call, _: FindReservation) -> Result<FoundReservation, Fault> {
        Ok(FoundReservation::default())
    }

    async fn find_stock(&self, call: &Call, request: FindStock) -> Result<FoundStock, Fault> {
        self.find(call, request).await
    }
}

fn find_stock_request() -> FindStock {
    FindStock {
        sku: "tea-01".to_owned(),
    }
}

fn main() -> ExitCode {
    let is_optimised = !cfg!(debug_assertions);
    let (local, remote) = (measure_local(), measure_remote());
    println!(
        "{}",
        if is_optimised {
            "limits: 1000 ns and 1.50"
        } else {
            "not optimised: the limits (1000 ns and 1.50) are not checked"
        }
    );
    let within_limits = local <= LOCAL_LIMIT && remote <= REMOTE_LIMIT;
    if is_optimised && !within_limits {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// How much more a call through the contract takes than the plain function.
fn measure_local() -> Duration {
    let (inventory, call) = (FixedInventory, Call::by_module("orders"));
    // As a caller gets a local module.
    let contract: Arc<dyn Inventory> = Arc::new(LocalInventory(Arc::new(FixedInventory)));
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let (mut plain, mut through_contract) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        plain.push(runtime.block_on(sequential(LOCAL_CALLS, async || {
            drop(black_box(black_box(&inventory).find(&call, find_stock_request()).await))
        })));
        through_contract.push(runtime.block_on(sequential(LOCAL_CALLS, async || {
            drop(black_box(
                black_box(&contract).find_stock(&call, find_stock_request()).await,
            ))
        })));
    }
    let (plain, through_contract) = (median(plain), median(through_contract));
    let more = through_contract.saturating_sub(plain);
    println!(
        "local: plain function {plain:?}, through the contract {through_contract:?}: {} ns more",
        more.as_nanos()
    );
    more
}

/// The time of a call through the whole client stack as a multiple of a bare tonic call: the greater ratio of one caller and of many concurrent ones.
fn measure_remote() -> f64 {
    let (server, client) = (runtime(), runtime());
    let stop = CancellationToken::new();
    let address = server.block_on(start_server(&stop));
    let ratio = client.block_on(async {
        let settings = settings(&[("BANYAN__MODULES__INVENTORY__ENDPOINT", &format!("http://{address}"))]);
        let endpoints = settings.endpoints().expect("endpoints");
        let discovery = discovery::start(&settings.discovery, endpoints, &stop).expect("discovery");
        let callees = SHOP.layout().modules.into_iter().map(|module| Callee {
            module: module.name,
            service: module.service,
            is_called: module.name == "inventory",
        });
        let callees: Vec<_> = callees.collect();
        let probing = settings.discovery.probing();
        let remotes = Remotes::start(&settings.rpc, &callees, &discovery, probing, None, &stop).expect("remotes");
        let stack = Contracts::remote(&remotes).inventory;
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .expect("an address")
            .connect()
            .await
            .expect("a connection");
        let bare = InventoryClient::new(channel);
        let call_bare = async || {
            bare.clone().find_stock(find_stock_request()).await.expect("a response");
        };
        let call = Call::by_module("orders");
        let call_stack = async || {
            stack.find_stock(&call, find_stock_request()).await.expect("a response");
        };
        let one = compare(
            "one caller",
            async || sequential(REMOTE_CALLS, call_bare).await,
            async || sequential(REMOTE_CALLS, call_stack).await,
        )
        .await;
        let many = compare(
            "many callers",
            async || concurrent(call_bare).await,
            async || concurrent(call_stack).await,
        )
        .await;
        one.max(many)
    });
    stop.cancel();
    ratio
}

async fn compare(what: &str, bare: impl AsyncFn() -> Duration, stack: impl AsyncFn() -> Duration) -> f64 {
    // One unmeasured run: it opens the connections and warms the code.
    bare().await;
    stack().await;
    let (mut bares, mut stacks, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (bare, stack) = (bare().await, stack().await);
        ratios.push(stack.as_secs_f64() / bare.as_secs_f64());
        bares.push(bare);
        stacks.push(stack);
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[ROUNDS / 2];
    println!(
        "remote, {what}: bare tonic {:?}, whole stack {:?}: ratio {ratio:.2}",
        median(bares),
        median(stacks)
    );
    ratio
}

/// The mean time of `times` calls, one after the other.
async fn sequential<F: AsyncFn()>(times: u32, call: F) -> Duration {
    let started = Instant::now();
    for _ in 0..times {
        call().await;
    }
    started.elapsed() / times
}

/// The time per call of many concurrent callers.
async fn concurrent<F: AsyncFn()>(call: F) -> Duration {
    let each = || async {
        for _ in 0..REMOTE_CALLS / CALLERS {
            call().await;
        }
    };
    let started = Instant::now();
    futures::future::join_all((0..CALLERS).map(|_| each())).await;
    started.elapsed() / (REMOTE_CALLS / CALLERS * CALLERS)
}

async fn start_server(stop: &CancellationToken) -> SocketAddr {
    let inventory = ServedModule {
        name: "inventory",
        descriptors: inventory_contract::DESCRIPTOR_SET,
        callers: Callers {
            modules: vec!["orders"],
            ..Callers::default()
        },
        serve: Box::new(|services| services.add(ServedInventory(Arc::new(FixedInventory)).server(MESSAGE_BYTES))),
    };
    let served = Served {
        modules: vec![inventory],
        feeds: HashMap::new(),
        tokens: None,
    };
    let settings = settings(&[("BANYAN__RPC__LISTEN", "127.0.0.1:0")]);
    let serving = serve(&settings.rpc, served, None, Duration::from_secs(25), stop.clone())
        .await
        .expect("a free port")
        .expect("rpc.listen is set");
    serving.address
}

fn settings(variables: &[(&str, &str)]) -> Settings {
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    banyan::settings(None, variables).expect("settings")
}

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}

fn median(mut of: Vec<Duration>) -> Duration {
    of.sort();
    of[of.len() / 2]
}
