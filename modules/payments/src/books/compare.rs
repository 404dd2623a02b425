//! Compares movements of money one by one: what the provider booked with what our ledger has for the same command.
//!
//! It needs no quiet shop. The outcome of a command and its ledger transaction are committed together, and before that the provider has booked the movement.
//! So if the provider has it, and our ledger, read later, has not, then either the command has no outcome yet, or the books differ.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use banyan_core::{Fault, Timestamp};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{Difference, Sums, store};
use crate::{
    provider::{BookedMovement, Period, Position},
    service::Service,
};

/// The number of movements in a page.
const PAGE: u64 = 500;
/// With more differences than this something else is wrong than single movements, and naming each helps nobody.
pub const MAX_DIFFERENCES: u64 = 1_000;

/// The number of differences stored in one transaction.
const STORED_AT_ONCE: usize = 25;

/// What came of comparing some movements.
#[derive(Debug, Default)]
struct Judged {
    /// The same in both books, and when the provider booked them; those that are not marked with it yet.
    found: BTreeMap<Uuid, Timestamp>,
    same: Vec<Uuid>,
    /// The provider has them; their commands have no outcome yet.
    open: Vec<Uuid>,
    differences: Vec<Difference>,
}

/// What a walk through a period came to.
#[derive(Debug, Default)]
pub struct Walked {
    /// What the provider has booked.
    pub sums: Sums,
    /// Movements whose commands have no outcome yet.
    pub open: Vec<Uuid>,
    pub pages: u64,
    /// False if the walk ended at its limit of pages.
    pub is_whole: bool,
}

/// Compares all movements that the provider booked in the period, in at most `pages` pages. After each page it pauses for as long as the page took, so that
/// however much there is to compare, customers get their share of the machine. `patient`: a command may still get its outcome.
pub async fn walk(service: &Service, period: Period, pages: u64, patient: bool) -> Result<Walked, Fault> {
    let mut walked = Walked::default();
    let mut after: Option<Position> = None;
    while walked.pages < pages {
        let begun_at = Instant::now();
        let page = service.provider.list_movements(period, after, PAGE).await?;
        walked.pages += 1;
        walked.is_whole = u64::try_from(page.len()).is_ok_and(|movements| movements < PAGE);
        let reached = match page.last() {
            Some(last) if !walked.is_whole => last.position(),
            _ => (period.until, Uuid::nil()),
        };
        for movement in &page {
            walked.sums.add(movement);
        }
        let mut judged = judge(service, &page, patient).await?;
        walked.open.append(&mut judged.open);
        record(service, judged).await?;
        vanished(service, after.unwrap_or((period.from, Uuid::nil())), reached, &page).await?;
        if walked.is_whole {
            break;
        }
        after = Some(reached);
        sleep(begun_at.elapsed().min(Duration::from_secs(10))).await;
    }
    Ok(walked)
}

/// Looks for movements that were once found in this part of the provider's books, and are not there now.
async fn vanished(service: &Service, after: Position, until: Position, page: &[BookedMovement]) -> Result<(), Fault> {
    let found = store::found_between(&service.db, after, until, 2 * PAGE).await?;
    let there: HashSet<Uuid> = page.iter().map(|movement| movement.reference).collect();
    for reference in found.into_iter().filter(|reference| !there.contains(reference)) {
        examine(service, reference).await?;
    }
    Ok(())
}

/// Compares one movement, wherever the two books have it.
pub async fn examine(service: &Service, reference: Uuid) -> Result<(), Fault> {
    // Ours first: what our ledger has, the provider has booked before.
    let ours = store::ledger_movements(&service.db, &[reference])
        .await?
        .remove(&reference);
    let judged = match (service.provider.find_movement(reference).await?, ours) {
        (Some(theirs), _) => judge(service, &[theirs], false).await?,
        (None, Some(ours)) => Judged {
            differences: vec![Difference {
                reference,
                description: format!("the ledger has {}, the provider nothing", describe(&ours)),
            }],
            ..Judged::default()
        },
        (None, None) => Judged {
            same: vec![reference],
            ..Judged::default()
        },
    };
    record(service, judged).await
}

/// `patient`: what has no outcome yet is no difference.
async fn judge(service: &Service, theirs: &[BookedMovement], patient: bool) -> Result<Judged, Fault> {
    let db = &service.db;
    let references: Vec<Uuid> = theirs.iter().map(|movement| movement.reference).collect();
    let mut ours = store::ledger_movements(db, &references).await?;
    let missing: Vec<Uuid> = references.into_iter().filter(|id| !ours.contains_key(id)).collect();
    let open = store::without_outcome(db, &missing).await?;
    // Some may have got their outcome since the ledger was read.
    let completed: Vec<Uuid> = missing.into_iter().filter(|id| !open.contains(id)).collect();
    ours.extend(store::ledger_movements(db, &completed).await?);
    let payments: HashSet<Uuid> = ours.values().map(|movement| movement.payment_id).collect();
    let wrong_payments = store::payments_unlike_their_ledger(db, &payments).await?;

    let mut judged = Judged::default();
    for theirs in theirs {
        let reference = theirs.reference;
        let booked = || format!("{} of {}", theirs.kind.into_str(), theirs.amount);
        let description = match ours.get(&reference) {
            None if open.contains(&reference) && patient => {
                judged.open.push(reference);
                continue;
            }
            None if open.contains(&reference) => {
                format!("the provider booked {}, and the command still has no outcome", booked())
            }
            None => format!("the provider booked {}, the ledger has nothing", booked()),
            Some(ours) if !is_same(ours, theirs) => {
                format!("the ledger has {}, the provider {}", describe(ours), booked())
            }
            Some(ours) if ours.balance != 0 => {
                format!("the entries of the ledger's {} do not sum to zero", describe(ours))
            }
            Some(ours) if wrong_payments.contains(&ours.payment_id) => {
                format!(
                    "payment {} has other sums than its ledger transactions",
                    ours.payment_id
                )
            }
            Some(ours) => {
                judged.same.push(reference);
                if ours.booked_at != Some(theirs.booked_at.as_ms()) {
                    judged.found.insert(reference, theirs.booked_at);
                }
                continue;
            }
        };
        judged.differences.push(Difference { reference, description });
    }
    Ok(judged)
}

fn is_same(ours: &store::LedgerMovement, theirs: &BookedMovement) -> bool {
    ours.kind() == Some(theirs.kind)
        && ours.amount == theirs.amount.amount
        && ours.currency.as_ref() == Some(&theirs.amount.currency)
}

fn describe(ours: &store::LedgerMovement) -> String {
    let kind = ours
        .kind()
        .map_or("a movement of no known kind", |kind| kind.into_str());
    let amount = ours.currency.clone().map(|currency| shared_kernel::Money {
        amount: ours.amount,
        currency,
    });
    amount.map_or_else(
        || format!("{kind} without entries"),
        |amount| format!("{kind} of {amount}"),
    )
}

/// Stores what changes: marks, and differences that came or went. Nothing is written if nothing did.
async fn record(service: &Service, judged: Judged) -> Result<(), Fault> {
    let db = &service.db;
    let Judged {
        found,
        same,
        mut differences,
        ..
    } = judged;
    let known = store::count_differences(db).await?;
    let settled = if known == 0 { Vec::new() } else { same };
    if !found.is_empty() || !settled.is_empty() {
        let recorded = db.write((found, settled), |tx, (found, settled)| async move {
            store::mark_found(&tx, &found).await?;
            store::delete_differences(&tx, &settled).await
        });
        recorded.await?;
    }
    let (wanted, room) = (differences.len(), MAX_DIFFERENCES.saturating_sub(known));
    differences.truncate(usize::try_from(room).unwrap_or(usize::MAX));
    let are_all = wanted == differences.len();
    for some in differences.chunks(STORED_AT_ONCE) {
        let stored = db.write(some.to_vec(), |tx, some| async move {
            store::insert_differences(&tx, some).await
        });
        for Difference { reference, description } in stored.await? {
            tracing::error!(%reference, "our books and the provider's differ, an operator must look into it: {description}");
        }
    }
    if are_all {
        return Ok(());
    }
    let detail = format!("more than {MAX_DIFFERENCES} movements differ; no others are looked for until fewer do");
    Err(Fault::internal("books_differ", detail))
}
