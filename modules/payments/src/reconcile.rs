//! The reconciler: queries the provider for the outcome of commands that have been open too long, and compares our books with the provider's.

use std::{fmt, sync::Arc, time::Duration};

use banyan_core::{Fault, Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{ledger, provider::Totals, service::Service, store};

/// The interval between comparisons of the books. Each reads all of both books, and a difference is settled by an operator, not within seconds.
const COMPARE_BOOKS_EVERY: Duration = Duration::from_secs(600);

/// Our books beside the provider's, for auditors and tests.
#[derive(Clone)]
pub struct Books {
    service: Arc<Service>,
}

/// What a comparison found. Only a quiet one says anything: while a command is open the two must differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// No command was open, before and after, and nothing moved in between.
    pub quiet: bool,
    pub ledger: Vec<Totals>,
    pub payments: Vec<Totals>,
    pub provider: Vec<Totals>,
    /// Ledger transactions that do not sum to zero.
    pub unbalanced: i64,
}

impl Comparison {
    pub fn agrees(&self) -> bool {
        self.ledger == self.provider && self.ledger == self.payments && self.unbalanced == 0
    }
}

impl Books {
    pub(crate) fn new(service: Arc<Service>) -> Self {
        Books { service }
    }

    /// Compares the ledger, the payments' rows and the provider's own sums. Reads only.
    ///
    /// # Errors
    /// `unavailable` if a side cannot be read.
    pub async fn compare(&self) -> Result<Comparison, Fault> {
        let db = &self.service.db;
        let open_before = store::count_open(db.read()).await?;
        let before = ledger::store::totals(db).await?;
        let provider = self.service.provider.totals().await?;
        let payments = ledger::store::totals_of_payments(db).await?;
        let ledger = ledger::store::totals(db).await?;
        let unbalanced = ledger::store::count_unbalanced(db).await?;
        let quiet = open_before == 0 && store::count_open(db.read()).await? == 0 && before == ledger;
        Ok(Comparison {
            quiet,
            ledger,
            payments,
            provider,
            unbalanced,
        })
    }

    /// Queries the provider now for every command without an outcome, whatever its age; returns the number of such commands.
    ///
    /// # Errors
    /// As any query.
    pub async fn reconcile(&self) -> Result<usize, Fault> {
        self.service.reconcile(Duration::ZERO).await
    }
}

impl fmt::Debug for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Books")
    }
}

/// Runs until `stop`, on one instance at a time. The first round queries every open command: what is open then was left by a process that crashed.
pub async fn run(service: Arc<Service>, stop: CancellationToken) {
    let db = service.db.clone();
    banyan_durable::hold(&db, "payments-reconciler", &stop, |stop| rounds(service.clone(), stop)).await;
}

async fn rounds(service: Arc<Service>, stop: CancellationToken) {
    let books = Books::new(service.clone());
    let settings = &service.settings;
    let mut age = Duration::ZERO;
    let mut compare_at = Instant::now() + settings.reconcile_every();
    while !stop.is_cancelled() {
        tokio::select! {
            reconciled = service.reconcile(age) => match reconciled {
                Ok(0) => {}
                Ok(open) => tracing::info!(open, "queried the provider for money commands without an outcome"),
                Err(fault) => tracing::warn!(%fault, "the reconciler failed and will run again"),
            },
            () = stop.cancelled() => return,
        }
        age = settings.reconcile_after();
        if Instant::now() >= compare_at {
            compare_at = Instant::now() + COMPARE_BOOKS_EVERY;
            report(books.compare().await, service.db.clock().now());
        }
        tokio::select! {
            () = tokio::time::sleep(settings.reconcile_every()) => {}
            () = stop.cancelled() => {}
        }
    }
}

fn report(comparison: Result<Comparison, Fault>, now: Timestamp) {
    match comparison {
        Ok(found) if found.quiet => {
            metrics::gauge!("banyan_payments_books_differ").set(if found.agrees() { 0.0 } else { 1.0 });
            // A busy shop may not be quiet for a long time: that the books do not differ says little then.
            metrics::gauge!("banyan_payments_books_compared_timestamp_seconds").set(now.as_ms() as f64 / 1_000.0);
            if !found.agrees() {
                tracing::error!(
                    ?found,
                    "our books and the provider's differ: an operator must look into it"
                );
            }
        }
        Ok(_) => tracing::debug!("the books are not compared while a money command is open"),
        Err(fault) => tracing::warn!(%fault, "the books could not be compared"),
    }
}
