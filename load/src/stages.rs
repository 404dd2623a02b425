//! Closed loops: a number of customers, each beginning again as soon as it is done, until the time or the orders run out.

use std::{
    cell::Cell,
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures::future::try_join_all;

use crate::{
    customers::{LIST, Seed, place_order, product_path, read},
    home::cpu_between,
    http::{Connection, request},
    results::StageResult,
    shop::{Shop, Usage},
    statistics::percentile,
};

/// Orders or requests of each customer before the clock starts.
const WARM_UP: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An order of two lines, from placing it until it is confirmed.
    Orders,
    /// One product.
    Product,
    /// A page of 20 products.
    List,
}

/// What is measured at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    pub kind: Kind,
    pub customers: usize,
}

impl Stage {
    pub fn new(kind: &str, customers: usize) -> Option<Stage> {
        let kind = [Kind::Orders, Kind::Product, Kind::List]
            .into_iter()
            .find(|known| known.name() == kind)?;
        Some(Stage { kind, customers })
    }

    pub fn name(self) -> String {
        format!("{}-{}", self.kind.name(), self.customers)
    }
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Orders => "orders",
            Kind::Product => "product",
            Kind::List => "list",
        }
    }

    /// The path of a read.
    pub fn path(self, seed: &Seed) -> Option<String> {
        match self {
            Kind::Orders => None,
            Kind::Product => Some(product_path(&seed.skus[0])),
            Kind::List => Some(LIST.to_owned()),
        }
    }
}

/// The bounds of a stage.
#[derive(Clone, Copy)]
pub struct Limits {
    pub duration: Duration,
    pub orders: u32,
}

/// Measures one stage, with all the work that the shop does for it afterwards.
pub async fn measure(shop: &Shop<'_>, seed: &Seed, stage: Stage, limits: Limits) -> anyhow::Result<StageResult> {
    let before = shop.usage().await;
    let loops = match stage.kind.path(seed) {
        None => order(shop.address, seed, stage.customers, limits).await?,
        Some(path) => read_pages(shop.address, &path, stage.customers, limits.duration).await?,
    };
    shop.settle().await;
    Ok(result(stage, &loops, &before, &shop.usage().await))
}

/// What the customers of a stage did.
pub struct Loops {
    /// Milliseconds.
    latencies: Vec<f64>,
    /// Done before the clock started; they cost too.
    warm_up: usize,
    refused: u64,
    elapsed: Duration,
}

impl Loops {
    pub fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }
}

async fn order(address: SocketAddr, seed: &Seed, customers: usize, limits: Limits) -> anyhow::Result<Loops> {
    let warm_up = (0..customers).map(|customer| async move {
        let mut connection = Connection::new(address);
        place_order(&mut connection, seed, customer, 0).await
    });
    try_join_all(warm_up).await?;
    let (begun, left) = (Instant::now(), Cell::new(limits.orders));
    let left = &left;
    let customer = |customer| async move {
        let mut connection = Connection::new(address);
        let (mut latencies, mut refused) = (Vec::new(), 0);
        while begun.elapsed() < limits.duration && left.get() > 0 {
            left.set(left.get() - 1);
            let placed = Instant::now();
            refused += place_order(&mut connection, seed, customer, latencies.len() + 1).await?;
            latencies.push(milliseconds(placed));
        }
        anyhow::Ok((latencies, refused))
    };
    let done = try_join_all((0..customers).map(customer)).await?;
    Ok(Loops::of(done, customers, begun))
}

/// Reads a page from as many connections in turn, at any server.
pub async fn read_pages(
    address: SocketAddr,
    path: &str,
    customers: usize,
    duration: Duration,
) -> anyhow::Result<Loops> {
    let sent = request("GET", path, None, &[], None);
    let sent = sent.as_slice();
    let warm_up = (0..customers).map(|_| async move {
        let mut connection = Connection::new(address);
        for _ in 0..WARM_UP {
            read(&mut connection, sent).await?;
        }
        anyhow::Ok(connection)
    });
    let connections = try_join_all(warm_up).await?;
    let begun = Instant::now();
    let customer = |mut connection: Connection| async move {
        let mut latencies = Vec::new();
        while begun.elapsed() < duration {
            let asked = Instant::now();
            read(&mut connection, sent).await?;
            latencies.push(milliseconds(asked));
        }
        anyhow::Ok((latencies, 0))
    };
    let done = try_join_all(connections.into_iter().map(customer)).await?;
    Ok(Loops::of(done, customers * WARM_UP, begun))
}

impl Loops {
    fn of(done: Vec<(Vec<f64>, u64)>, warm_up: usize, begun: Instant) -> Loops {
        Loops {
            refused: done.iter().map(|(_, refused)| refused).sum(),
            latencies: done.into_iter().flat_map(|(latencies, _)| latencies).collect(),
            warm_up,
            elapsed: begun.elapsed(),
        }
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

fn result(stage: Stage, loops: &Loops, before: &Usage, after: &Usage) -> StageResult {
    let caused = (loops.latencies.len() + loops.warm_up) as f64;
    let each = |total: f64| total / caused;
    let counts = before.counts.zip(after.counts);
    StageResult {
        name: stage.name(),
        kind: stage.kind.name().to_owned(),
        customers: stage.customers,
        done: loops.latencies.len(),
        refused: loops.refused,
        seconds: loops.elapsed.as_secs_f64(),
        per_second: loops.per_second(),
        p50_ms: percentile(&loops.latencies, 0.5),
        p99_ms: percentile(&loops.latencies, 0.99),
        cpu_ms: before
            .cpu_ms
            .zip(after.cpu_ms)
            .map(|(before, after)| each(after - before)),
        postgres_cpu_ms: match (&before.postgres_cpu_ms, &after.postgres_cpu_ms) {
            (Some(before), Some(after)) => Some(each(cpu_between(before, after))),
            _ => None,
        },
        statements: counts.map(|(before, after)| each(after.statements - before.statements)),
        transactions: counts.map(|(before, after)| each(after.transactions - before.transactions)),
    }
}
