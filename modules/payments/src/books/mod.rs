//! Our books beside the provider's.
//!
//! A round compares what was booked, movement by movement (`compare.rs`):
//!
//! 1. Periods that are closed are compared once and sealed, in the order of time. A period is closed an hour after its end, and held back for a few hours
//!    more by commands without an outcome whose money the provider has moved in it.
//! 2. What our ledger has, and no period brought, is looked up at the provider.
//! 3. Known differences are looked at again; those that are gone are forgotten.
//! 4. Some of the sealed periods are compared again.
//! 5. What the provider booked since the last sealed period is compared, up to a number of pages.
//!
//! Invariant: a movement that comes late into a sealed period is noticed. One of our ledger is not marked as found at the provider, and so taken up by step 2,
//! whatever its date. One of the provider is found when the period is compared again.
//!
//! A round is worked off in pages and may end anywhere: what is sealed, marked or told stays so, and the next round goes on from there, here or in another
//! instance.

mod compare;
mod store;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use banyan_core::{Fault, Timestamp};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    ledger::{self, Movement},
    provider::{BookedMovement, Period, Totals},
    service::Service,
    store as commands,
};

/// The interval between rounds: a difference is settled by an operator, not within seconds.
const EVERY: Duration = Duration::from_secs(600);
/// Periods end at full hours: a few thousand pages in the busiest shop, so that a round that is interrupted loses little.
const PERIOD: Duration = Duration::from_secs(3_600);
/// A period is closed this long after its end: providers list a movement within minutes, and clocks differ by less.
const CLOSED_AFTER: Duration = Duration::from_secs(3_600);
/// A command whose outcome is unknown holds a period back this long, counted from the period's end. The reconciler asks for it every minute, so by then it is
/// broken, and its movement a difference.
const HELD_BACK_FOR: Duration = Duration::from_secs(4 * 3_600);
/// An operator is told if no round has come to its end for this time. An hour's outage of a provider's reports, or the first rounds of a large shop, which may
/// take hours with a distant provider, need nobody.
const OVERDUE_AFTER: Duration = Duration::from_secs(6 * 3_600);
/// The minimum time between two comparisons of a sealed period.
const VERIFY_AGAIN_AFTER: Duration = Duration::from_secs(86_400);
/// The pages that a round reads to compare sealed periods again, and those that it reads of what is not closed.
const VERIFIED_PAGES: u64 = 50;
const OPEN_PAGES: u64 = 20;
/// The movements, or differences, that a round looks up one by one at a time.
const EXAMINED: u64 = 100;

/// Our books beside the provider's, for auditors and tests.
#[derive(Clone)]
pub struct Books {
    service: Arc<Service>,
}

/// What a comparison of all totals found. Only a quiet one says anything: while a command is open the two must differ.
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

/// A movement that is not the same in both books.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Difference {
    /// The id of its command.
    reference: Uuid,
    description: String,
}

/// What was booked in a period: the number of movements and their amounts in minor units, by kind and currency.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sums(BTreeMap<(Movement, String), (u64, i64)>);

#[derive(Serialize, Deserialize)]
struct Sum {
    kind: Movement,
    currency: String,
    movements: u64,
    amount: i64,
}

impl Sums {
    fn add(&mut self, movement: &BookedMovement) {
        let (movements, amount) = self
            .0
            .entry((movement.kind, movement.amount.currency.clone()))
            .or_default();
        *movements += 1;
        *amount = amount.saturating_add(movement.amount.amount);
    }

    fn read(json: &str) -> serde_json::Result<Self> {
        let sums: Vec<Sum> = serde_json::from_str(json)?;
        let key = |sum: Sum| ((sum.kind, sum.currency), (sum.movements, sum.amount));
        Ok(Sums(sums.into_iter().map(key).collect()))
    }

    fn write(&self) -> String {
        let sum = |((kind, currency), (movements, amount)): (&(Movement, String), &(u64, i64))| Sum {
            kind: *kind,
            currency: currency.clone(),
            movements: *movements,
            amount: *amount,
        };
        let sums: Vec<Sum> = self.0.iter().map(sum).collect();
        serde_json::to_string(&sums).unwrap_or_default()
    }
}

impl Books {
    pub(crate) fn new(service: Arc<Service>) -> Self {
        Books { service }
    }

    /// Compares the totals of the ledger, the payments' rows and the provider. Reads all of them: for tests and auditors.
    ///
    /// # Errors
    /// `unavailable` if a side cannot be read.
    pub async fn compare(&self) -> Result<Comparison, Fault> {
        let db = &self.service.db;
        let open_before = commands::count_open(db.read()).await?;
        let before = ledger::store::totals(db).await?;
        let provider = self.service.provider.totals().await?;
        let payments = ledger::store::totals_of_payments(db).await?;
        let ledger = ledger::store::totals(db).await?;
        let unbalanced = ledger::store::count_unbalanced(db).await?;
        let quiet = open_before == 0 && commands::count_open(db.read()).await? == 0 && before == ledger;
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

/// Compares until `stop`, on one instance at a time.
pub async fn run(service: Arc<Service>, stop: CancellationToken) {
    let db = service.db.clone();
    banyan_durable::hold(&db, "payments-books", &stop, |stop| rounds(service.clone(), stop)).await;
}

async fn rounds(service: Arc<Service>, stop: CancellationToken) {
    let mut told = false;
    // The reconciler settles first what a crash left.
    let mut pause = service.settings.reconcile_every();
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        pause = EVERY;
        let now = service.db.clock().now();
        let ended = tokio::select! {
            ended = round(&service, now) => ended,
            // Nothing is lost: the next round goes on.
            () = stop.cancelled() => return,
        };
        told = report(&service, ended, now, told).await;
    }
}

/// Shows how a round ended; returns whether an operator was told that the comparison is overdue.
async fn report(service: &Service, ended: Result<(), Fault>, now: Timestamp, told: bool) -> bool {
    if let Ok(differences) = store::count_differences(&service.db).await {
        metrics::gauge!("banyan_payments_books_differ").set(differences as f64);
        if differences > 0 {
            tracing::warn!(differences, "movements differ between our books and the provider's");
        }
    }
    let (late, fault) = match ended {
        Ok(()) => {
            metrics::gauge!("banyan_payments_books_compared_timestamp_seconds").set(now.as_ms() as f64 / 1_000.0);
            (Duration::ZERO, None)
        }
        Err(fault) => (overdue(service, now).await.unwrap_or_default(), Some(fault)),
    };
    metrics::gauge!("banyan_payments_books_overdue_seconds").set(late.as_secs_f64());
    let Some(fault) = fault else { return false };
    tracing::warn!(%fault, "the books could not be compared to the end; the next round goes on");
    let is_overdue = late >= OVERDUE_AFTER;
    if is_overdue && !told {
        tracing::error!(
            %fault,
            hours = late.as_secs() / 3_600,
            "the books were not compared to the end for long, so nobody would know if they differ: see that the provider's list of movements can be read, \
             and that the commands named get an outcome"
        );
    }
    is_overdue
}

/// The time since the last round that came to its end, or since the first attempt.
async fn overdue(service: &Service, now: Timestamp) -> Result<Duration, Fault> {
    if let Some(at) = store::completed_at(&service.db).await?.filter(|at| *at <= now) {
        return Ok(now.since(at));
    }
    let begin = |tx, ()| async move { store::begin(&tx).await };
    service.db.write((), begin).await.map(|()| Duration::ZERO)
}

/// One round.
///
/// # Errors
/// What kept it from coming to its end: the provider or the database cannot be read, a command holds a period back, or very many movements differ.
async fn round(service: &Service, now: Timestamp) -> Result<(), Fault> {
    let closed_until = full_hour(now.minus(CLOSED_AFTER));
    let held_back = seal_closed(service, closed_until, now).await?;
    let sealed_until = store::sealed_until(&service.db).await?.unwrap_or_default();
    let compared_until = if held_back.is_some() {
        sealed_until
    } else {
        closed_until
    };
    examine_unmatched(service, compared_until).await?;
    for reference in store::differences_to_check(&service.db, EXAMINED).await? {
        compare::examine(service, reference).await?;
    }
    verify_sealed(service, now).await?;
    let open = Period {
        from: sealed_until,
        until: Timestamp::from_ms(i64::MAX),
    };
    compare::walk(service, open, OPEN_PAGES, true).await?;
    match held_back {
        Some(commands) => {
            let detail = format!(
                "commands whose money the provider moved have no outcome: {}",
                commands.join(", ")
            );
            Err(Fault::conflict("commands_open", detail))
        }
        None => {
            service
                .db
                .write((), |tx, ()| async move { store::complete(&tx).await })
                .await
        }
    }
}

fn full_hour(at: Timestamp) -> Timestamp {
    let hour = i64::try_from(PERIOD.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_ms(at.as_ms() - at.as_ms().rem_euclid(hour))
}

/// Seals the closed periods, one after the other; returns the commands that hold one back. A period ends with the hour of its first movement, so hours in which
/// nothing moved need none.
async fn seal_closed(service: &Service, closed_until: Timestamp, now: Timestamp) -> Result<Option<Vec<String>>, Fault> {
    loop {
        let from = store::sealed_until(&service.db).await?.unwrap_or_default();
        let unsealed = Period {
            from,
            until: closed_until,
        };
        let first = service.provider.list_movements(unsealed, None, 1).await?;
        let Some(first) = first.first() else { return Ok(None) };
        let period = Period {
            from,
            until: full_hour(first.booked_at).plus(PERIOD),
        };
        let patient = now.since(period.until) < HELD_BACK_FOR;
        let walked = compare::walk(service, period, u64::MAX, patient).await?;
        if !walked.open.is_empty() {
            let some = walked.open.iter().take(10).map(Uuid::to_string);
            return Ok(Some(some.collect()));
        }
        let sums = walked.sums.write();
        service
            .db
            .write(
                sums,
                move |tx, sums| async move { store::seal(&tx, period, &sums).await },
            )
            .await?;
    }
}

/// Looks up at the provider what our ledger has since before this time and no period brought.
async fn examine_unmatched(service: &Service, before: Timestamp) -> Result<(), Fault> {
    loop {
        let unmatched = store::unmatched(&service.db, before, EXAMINED).await?;
        for reference in &unmatched {
            compare::examine(service, *reference).await?;
        }
        if u64::try_from(unmatched.len()).is_ok_and(|movements| movements < EXAMINED) {
            return Ok(());
        }
    }
}

/// Compares sealed periods again, those first that were not compared for longest.
async fn verify_sealed(service: &Service, now: Timestamp) -> Result<(), Fault> {
    let mut pages = 0;
    while pages < VERIFIED_PAGES
        && let Some(sealed) = store::to_verify(&service.db, now.minus(VERIFY_AGAIN_AFTER), now).await?
    {
        let period = sealed.period;
        let walked = compare::walk(service, period, u64::MAX, true).await?;
        pages += walked.pages;
        let sums = walked.sums.write();
        if walked.sums != sealed.sums {
            tracing::warn!(
                from = %period.from,
                until = %period.until,
                before = sealed.sums.write(),
                now = sums,
                "the provider's books of a period that was compared have changed; each movement in it was compared again"
            );
        }
        service
            .db
            .write(sums, move |tx, sums| async move {
                store::verified(&tx, period, &sums).await
            })
            .await?;
    }
    Ok(())
}
