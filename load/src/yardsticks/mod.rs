//! What the machine can do at best, measured beside the shop: a web server that only sends bytes, and the databases with as many statements and
//! transactions as an order, without the shop's work between them.

pub mod bare_http;
pub mod disk;
mod pgbench;
mod sqlite;

use std::time::Duration;

use crate::{
    customers::Seed,
    home::Postgres,
    options::Options,
    results::{StageResult, Yardstick},
    shop::Shop,
    stages::{Kind, Stage},
};

/// What an order costs by count, rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderCounts {
    pub statements: usize,
    pub transactions: usize,
}

impl OrderCounts {
    fn of(result: &StageResult) -> Option<OrderCounts> {
        Some(OrderCounts {
            statements: result.statements?.ceil().max(1.0) as usize,
            transactions: result.transactions?.ceil().max(1.0) as usize,
        })
    }

    /// The statements of each transaction, as even as possible: at least one each.
    pub fn split(self) -> impl Iterator<Item = usize> {
        let count = self.transactions.min(self.statements);
        let (each, more) = (self.statements / count, self.statements % count);
        (0..count).map(move |at| each + usize::from(at < more))
    }
}

/// The yardsticks of each stage that was measured. What cannot be measured is noted in a sentence.
pub async fn measure(
    options: &Options,
    postgres: Option<&Postgres>,
    shop: &Shop<'_>,
    seed: &Seed,
    results: &[StageResult],
    notes: &mut Vec<String>,
) -> anyhow::Result<Vec<Yardstick>> {
    let duration = Duration::from_secs(options.yardstick_seconds);
    let mut yardsticks = bare_http::measure(shop, seed, results, &options.stages, duration).await?;
    let orders = results
        .iter()
        .zip(&options.stages)
        .filter(|(_, stage)| stage.kind == Kind::Orders);
    for (result, stage) in orders {
        let Some(counts) = OrderCounts::of(result) else {
            notes.push("A shop that does not count its statements has no yardstick of its database.".to_owned());
            continue;
        };
        let (name, measured) = match (postgres, &options.url) {
            (_, Some(_)) => {
                notes.push("A shop that was running already has no yardstick of its database.".to_owned());
                continue;
            }
            (None, None) => ("SQLite loop", Some(sqlite::orders_per_second(counts, duration).await?)),
            (Some(postgres), None) => (
                "pgbench",
                pgbench::orders_per_second(postgres, counts, stage.customers, duration).await?,
            ),
        };
        match measured {
            Some(per_second) => yardsticks.push(yardstick(name, *stage, result, per_second)),
            None => notes.push("pgbench is not installed, so there is no yardstick of PostgreSQL.".to_owned()),
        }
    }
    Ok(yardsticks)
}

fn yardstick(name: &str, stage: Stage, result: &StageResult, per_second: f64) -> Yardstick {
    Yardstick {
        name: name.to_owned(),
        stage: stage.name(),
        per_second,
        share: result.per_second / per_second,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_spread_evenly_over_the_transactions() {
        let split = |statements, transactions| {
            let counts = OrderCounts {
                statements,
                transactions,
            };
            counts.split().collect::<Vec<_>>()
        };
        assert_eq!(split(7, 3), [3, 2, 2]);
        assert_eq!(split(2, 5), [1, 1]);
        assert_eq!(split(113, 25).iter().sum::<usize>(), 113);
    }
}
