//! What a statement reads does not grow with what the shop has stored.
//!
//! The statements are not listed here: PostgreSQL logs those of a real shop while it starts twice, sells, ships, refunds, and answers every list of the
//! OpenAPI document with every combination of its filters. They run again on tables with very many rows, and on tables with twice as many; what each of
//! them reads must stay the same. SQLite, on which the same shop sends the same statements, gets the same rows and the same values.

mod bytes;
mod fill;
mod replay;
mod statements;
mod traffic;

use std::sync::Arc;

use libtest_mimic::{Failed, Trial};
use sea_orm::ConnectionTrait;

use self::{replay::Replay, statements::Ran};
use crate::{
    data::owners,
    harness::{Plan, Postgres, Shop, Stage, runtime},
};

/// Statements that read much for a purpose of their own, by a part of their text: work of the background, for which no request waits, searches that end
/// after 10,000 rows, which are more than there are of each kind in the first round, and reads of what does not grow in a real shop.
const READ_MUCH: [(&str, &str); 5] = [
    (
        ") as looked_at where kind = ",
        "a page of a search for sagas looks at 10,000 rows",
    ),
    (
        "select id from saga where id < $1",
        "the end of a page of a search for sagas",
    ),
    (
        "from skus_with_grams(",
        "the index of a search, which SQLite has another statement for: the tests of catalog count what both read",
    ),
    (
        "(roles like '%\"ops\"%')",
        "all operators, locked while one exercises a power: the copies make thousands of the few that a shop has",
    ),
    (
        "with changed as materialized",
        "a page of the comparison with a feed: of all subjects that changed since the last comparison",
    ),
];

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "growth::no_statement_reads_more_when_more_is_stored",
            no_statement_reads_more,
        ),
        Trial::test(
            "growth::an_order_leaves_no_more_bytes_than_its_budget",
            bytes::an_order_leaves_no_more_bytes_than_its_budget,
        ),
    ]
}

/// The rows of each table in the first round; the second has twice as many. More than a page of a search looks at.
fn rows() -> u32 {
    let set = std::env::var("BANYAN_TEST_ROWS")
        .ok()
        .and_then(|rows| rows.parse().ok());
    set.unwrap_or(10_500)
}

fn no_statement_reads_more() -> Result<(), Failed> {
    runtime().block_on(async {
        let server = Postgres::start();
        let admin = crate::data::connect(std::path::Path::new(""), Some(&server.url()), "public").await;
        for setting in ["log_line_prefix = '%a|'", "log_statement = 'all'"] {
            let set = format!("alter system set {setting}");
            crate::data::execute(&admin, &set).await?;
        }
        crate::data::execute(&admin, "select pg_reload_conf()").await?;
        let quick = [("BANYAN__PAYMENTS__RECONCILE_EVERY_MS", "1000")];
        let plan = Plan::on(Stage::Postgres).postgres(&server.url()).with(&quick);
        let mut shop = plan.start().await;
        let customers = traffic::sell(&shop.client()).await;
        // Again, with data: what runs at a start must not grow either. The gauges are updated every 10 s.
        shop.kill().await;
        shop.boot().await;
        traffic::lists(&shop.client(), &customers).await;
        tokio::time::sleep(std::time::Duration::from_secs(11)).await;
        shop.kill().await;
        let mut ran = statements::parse(&std::fs::read_to_string(server.log())?);
        ran.retain(|ran| !READ_MUCH.iter().any(|(part, _)| ran.sql.contains(part)));
        assert!(ran.len() > 200, "{} statements were logged", ran.len());

        let sqlite = Shop::start(Stage::Sqlite).await;
        let (directory, url) = (shop.directory(), shop.database_url());
        let mut sqlite = Emptied::of(sqlite).await;
        let mut grown = Vec::new();
        for owner in owners() {
            let of_owner: Vec<&Ran> = ran.iter().filter(|ran| ran.owner == owner).collect();
            let postgres = Arc::new(crate::data::connect(&directory, url.as_deref(), owner).await);
            let file = crate::data::connect(&sqlite.directory(), None, owner).await;
            let tables = fill::Tables::of(&postgres, owner, customers.heavy.id).await;
            tables.copy_to(&postgres, &file).await;
            let mut replay = Replay::new(postgres.clone(), &sqlite.directory(), owner, &of_owner);
            for round in 0..2 {
                tables
                    .fill(&postgres, &file, round * rows() + 1, (round + 1) * rows())
                    .await;
                replay.run().await;
            }
            grown.extend(replay.grown());
            // What a module has is not needed by the next, and fills a disk.
            drop(replay);
            postgres
                .execute_unprepared(&format!("drop schema {owner} cascade"))
                .await?;
            file.close().await;
            sqlite.remove_file(owner)?;
        }
        sqlite.remove().await;
        shop.remove().await;
        admin.close().await;
        if grown.is_empty() {
            Ok(())
        } else {
            Err(format!(
                "{} statements read more when more is stored:\n{}",
                grown.len(),
                grown.join("\n")
            )
            .into())
        }
    })
}

/// A shop on SQLite that does not run: for its tables alone.
struct Emptied(Option<Shop>);

impl Emptied {
    async fn of(mut shop: Shop) -> Self {
        shop.kill().await;
        Emptied(Some(shop))
    }

    fn directory(&self) -> std::path::PathBuf {
        self.0.as_ref().map(Shop::directory).unwrap_or_default()
    }

    fn remove_file(&self, owner: &str) -> std::io::Result<()> {
        std::fs::remove_file(crate::data::file(&self.directory(), owner))
    }

    async fn remove(&mut self) {
        if let Some(shop) = self.0.take() {
            shop.remove().await;
        }
    }
}
