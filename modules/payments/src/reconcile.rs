//! The reconciler: asks the provider about whatever has been open too long, and compares our books with the provider's.

use std::{fmt, sync::Arc};

use banyan_core::{Fault, Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{ledger, provider::Totals, service::Service, store};

/// Our books beside the provider's, for auditors and tests.
#[derive(Clone)]
pub struct Books {
    service: Arc<Service>,
}

/// What a comparison found. Only a quiet one says anything: while money is on its way the two must differ.
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

    /// Asks the provider now about every command without an outcome, however young; answers how many there were.
    ///
    /// # Errors
    /// As any query.
    pub async fn reconcile(&self) -> Result<usize, Fault> {
        self.service.reconcile(std::time::Duration::ZERO).await
    }
}

impl fmt::Debug for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Books")
    }
}

/// Runs until `stop`, on one instance at a time. The first round asks about everything: what is open then was left by a process that died.
pub async fn run(service: Arc<Service>, stop: CancellationToken) {
    let db = service.db.clone();
    banyan_durable::hold(&db, "payments-reconciler", &stop, |stop| rounds(service.clone(), stop)).await;
}

async fn rounds(service: Arc<Service>, stop: CancellationToken) {
    let books = Books::new(service.clone());
    let settings = &service.settings;
    let mut age = std::time::Duration::ZERO;
    let mut compare_at = Instant::now() + settings.reconcile_every();
    while !stop.is_cancelled() {
        tokio::select! {
            asked = service.reconcile(age) => match asked {
                Ok(0) => {}
                Ok(open) => tracing::info!(open, "asked the provider about money commands without an outcome"),
                Err(fault) => tracing::warn!(%fault, "cannot reconcile now"),
            },
            () = stop.cancelled() => return,
        }
        age = settings.reconcile_after();
        if Instant::now() >= compare_at {
            compare_at = Instant::now() + settings.compare_books_every();
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
            // A busy shop may find no quiet moment for long: that the books do not differ says little then.
            metrics::gauge!("banyan_payments_books_compared_timestamp_seconds").set(now.as_ms() as f64 / 1_000.0);
            if !found.agrees() {
                tracing::error!(
                    ?found,
                    "our books and the provider's differ: somebody must look into it"
                );
            }
        }
        Ok(_) => tracing::debug!("the books are not compared while money is on its way"),
        Err(fault) => tracing::warn!(%fault, "the books cannot be compared now"),
    }
}
