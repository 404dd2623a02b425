//! What it costs to ask another module: in the same process, and in another one.
//!
//! - Near: through the contract as modules are handed to each other, at most 1 microsecond more than the plain function.
//! - Far: through the whole client stack (limits, breaker, balancing) at most 1.5 times a bare tonic call to the same server over loopback. Both are
//!   called in turn, round by round, and the median of the rounds' ratios counts, so that what else the machine does falls on both alike.
//!
//! `cargo bench -p banyan --bench calls` measures, and fails if a limit is broken. `cargo bench -p banyan --bench calls --profile dev` shows the
//! same without optimisation, where the limits are not judged.
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
    grpc::{Callee, MESSAGE_BYTES, Remotes, Served, ServedModule, serve},
};
use inventory_contract::{
    CommitStock, FindStock, FoundStock, Inventory, LocalInventory, ReleaseStock, Reservation, ReserveStock,
    RestockOrder, Restocking, ServedInventory, StockCommitment, StockLevel, StockRelease,
    inventory_client::InventoryClient,
};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

const ROUNDS: usize = 31;
const NEAR_CALLS: u32 = 20_000;
const FAR_CALLS: u32 = 500;
const CALLERS: u32 = 16;
const NEAR_LIMIT: Duration = Duration::from_micros(1);
const FAR_LIMIT: f64 = 1.5;

/// An inventory of one thing, which costs nothing to look up.
struct Shelf;

impl Shelf {
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
impl Inventory for Shelf {
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

    async fn find_stock(&self, call: &Call, request: FindStock) -> Result<FoundStock, Fault> {
        self.find(call, request).await
    }
}

fn question() -> FindStock {
    FindStock {
        sku: "tea-01".to_owned(),
    }
}

fn main() -> ExitCode {
    let judged = !cfg!(debug_assertions);
    let (near, far) = (near(), far());
    println!(
        "{}",
        if judged {
            "limits: 1000 ns and 1.50"
        } else {
            "not optimised: limits (1000 ns and 1.50) are not judged"
        }
    );
    let kept = near <= NEAR_LIMIT && far <= FAR_LIMIT;
    if judged && !kept {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// How much more a call through the contract takes than the plain function.
fn near() -> Duration {
    let (shelf, call) = (Shelf, Call::by_module("orders"));
    // As a module is handed to those that ask it.
    let neighbour: Arc<dyn Inventory> = Arc::new(LocalInventory(Arc::new(Shelf)));
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let (mut plain, mut through_contract) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        plain.push(runtime.block_on(timed(NEAR_CALLS, async || {
            drop(black_box(black_box(&shelf).find(&call, question()).await))
        })));
        through_contract.push(runtime.block_on(timed(NEAR_CALLS, async || {
            drop(black_box(black_box(&neighbour).find_stock(&call, question()).await))
        })));
    }
    let (plain, through_contract) = (median(plain), median(through_contract));
    let more = through_contract.saturating_sub(plain);
    println!(
        "near: plain function {plain:?}, through the contract {through_contract:?}: {} ns more",
        more.as_nanos()
    );
    more
}

/// How many times a bare tonic call a call through the whole stack takes: the greater of one caller's and of many callers' at once.
fn far() -> f64 {
    let (serving, asking) = (threads(), threads());
    let stop = CancellationToken::new();
    let address = serving.block_on(shelf_in_another_process(&stop));
    let ratio = asking.block_on(async {
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
        let ask_bare = async || {
            bare.clone().find_stock(question()).await.expect("an answer");
        };
        let call = Call::by_module("orders");
        let ask_stack = async || {
            stack.find_stock(&call, question()).await.expect("an answer");
        };
        let one = compare(
            "one caller",
            async || timed(FAR_CALLS, ask_bare).await,
            async || timed(FAR_CALLS, ask_stack).await,
        )
        .await;
        let many = compare(
            "many callers",
            async || crowded(ask_bare).await,
            async || crowded(ask_stack).await,
        )
        .await;
        one.max(many)
    });
    stop.cancel();
    ratio
}

async fn compare(what: &str, bare: impl AsyncFn() -> Duration, stack: impl AsyncFn() -> Duration) -> f64 {
    // Once unmeasured: connections are made, code is warm.
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
        "far, {what}: bare tonic {:?}, whole stack {:?}: ratio {ratio:.2}",
        median(bares),
        median(stacks)
    );
    ratio
}

/// The time of one of `times` calls, one after the other.
async fn timed<F: AsyncFn()>(times: u32, call: F) -> Duration {
    let begun = Instant::now();
    for _ in 0..times {
        call().await;
    }
    begun.elapsed() / times
}

/// The time per call when many callers ask at once.
async fn crowded<F: AsyncFn()>(call: F) -> Duration {
    let each = || async {
        for _ in 0..FAR_CALLS / CALLERS {
            call().await;
        }
    };
    let begun = Instant::now();
    futures::future::join_all((0..CALLERS).map(|_| each())).await;
    begun.elapsed() / (FAR_CALLS / CALLERS * CALLERS)
}

async fn shelf_in_another_process(stop: &CancellationToken) -> SocketAddr {
    let inventory = ServedModule {
        name: "inventory",
        descriptors: inventory_contract::DESCRIPTOR_SET,
        serve: Box::new(|services| services.add(ServedInventory(Arc::new(Shelf)).server(MESSAGE_BYTES))),
    };
    let served = Served {
        modules: vec![inventory],
        feeds: HashMap::new(),
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

fn threads() -> Runtime {
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
