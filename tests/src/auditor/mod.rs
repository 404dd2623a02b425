//! Checks from outside that nothing was lost, charged twice or oversold: the invariants of RELIABILITY.md, over the databases (read-only) and
//! the payment provider's own records.

mod databases;
mod effects;
mod events;
mod money;
mod orders;
mod seeded;
mod stock;

use banyan::MODULES;
pub use databases::Databases;
pub use seeded::trials;

/// Everything that is wrong, each with the invariant's name. Empty when the shop is consistent. Call it when nothing is in progress.
pub async fn audit(databases: &Databases) -> Vec<String> {
    let mut wrong = audit_always(databases).await;
    wrong.extend(money::audit_quiet(databases).await);
    wrong.extend(stock::audit_quiet(databases).await);
    wrong.extend(orders::audit_quiet(databases).await);
    wrong.extend(events::audit_quiet(databases).await);
    wrong.extend(effects::audit_quiet(databases).await);
    wrong
}

/// The invariants that hold at any time, also while work is in progress.
pub async fn audit_always(databases: &Databases) -> Vec<String> {
    let mut wrong = money::audit_always(databases).await;
    wrong.extend(stock::audit_always(databases).await);
    wrong.extend(events::audit_always(databases).await);
    wrong
}

/// What needs an operator: nothing should, when the only failures were killed processes.
pub async fn stuck(databases: &Databases) -> Vec<String> {
    let mut stuck = Vec::new();
    for module in MODULES {
        for (table, state) in [("saga", "parked"), ("retry", "dead")] {
            let count = databases.count(module, table, &format!("state = '{state}'")).await;
            if count > 0 {
                stuck.push(format!("{module}: {count} rows of {table} are {state}"));
            }
        }
    }
    let unsent = databases
        .count("notifications", "notification", "status = 'failed'")
        .await;
    if unsent > 0 {
        stuck.push(format!("notifications: {unsent} mails were given up"));
    }
    stuck
}

/// Work that is still in progress.
pub async fn unfinished(databases: &Databases) -> Vec<String> {
    let mut pending = Vec::new();
    for module in MODULES {
        for (table, waiting) in [
            ("outbox", "state = 'pending'"),
            ("saga", "state in ('running', 'compensating')"),
            ("retry", "state in ('waiting', 'retrying')"),
        ] {
            let count = databases.count(module, table, waiting).await;
            if count > 0 {
                pending.push(format!("{module}: {count} in {table}"));
            }
        }
    }
    let open = databases
        .count("payments", "money_command", "state <> 'answered'")
        .await;
    if open > 0 {
        pending.push(format!("payments: {open} commands without an outcome"));
    }
    let unsent = databases
        .count("notifications", "notification", "status = 'queued'")
        .await;
    if unsent > 0 {
        pending.push(format!("notifications: {unsent} mails are not sent"));
    }
    pending.extend(events::behind(databases).await);
    pending
}
