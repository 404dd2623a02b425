//! Checks from outside that nothing was lost, charged twice or oversold: the invariants of RELIABILITY.md, over the databases (read-only) and
//! the payment provider's own books.

mod books;
mod events;
mod money;
mod orders;
mod stock;

use banyan::config::MODULES;
pub use books::Books;

/// Everything that is wrong, each with the invariant's name. Empty when the shop is sound. To be asked when the shop is quiet.
pub async fn audit(books: &Books) -> Vec<String> {
    let mut wrong = audit_always(books).await;
    wrong.extend(money::audit_quiet(books).await);
    wrong.extend(stock::audit_quiet(books).await);
    wrong.extend(orders::audit_quiet(books).await);
    wrong.extend(events::audit_quiet(books).await);
    wrong
}

/// The invariants that hold at every moment, also in the middle of everything.
pub async fn audit_always(books: &Books) -> Vec<String> {
    let mut wrong = money::audit_always(books).await;
    wrong.extend(stock::audit_always(books).await);
    wrong.extend(events::audit_always(books).await);
    wrong
}

/// What waits for a person: none of it should, when nothing but processes died.
pub async fn stuck(books: &Books) -> Vec<String> {
    let mut stuck = Vec::new();
    for module in MODULES {
        for (table, state) in [("saga", "parked"), ("retry", "dead")] {
            let count = books
                .count(
                    module,
                    &format!("select count(*) as n from {table} where state = '{state}'"),
                )
                .await;
            if count > 0 {
                stuck.push(format!("{module}: {count} rows of {table} are {state}"));
            }
        }
    }
    stuck
}

/// Whatever is still on its way: a shop is quiet when this is empty.
pub async fn unfinished(books: &Books) -> Vec<String> {
    let mut pending = Vec::new();
    for module in MODULES {
        for (table, waiting) in [
            ("outbox", "state = 'pending'"),
            ("saga", "state in ('running', 'compensating')"),
            ("retry", "state in ('waiting', 'retrying')"),
        ] {
            let count = books
                .count(module, &format!("select count(*) as n from {table} where {waiting}"))
                .await;
            if count > 0 {
                pending.push(format!("{module}: {count} in {table}"));
            }
        }
    }
    let open = books
        .count(
            "payments",
            "select count(*) as n from money_command where state <> 'answered'",
        )
        .await;
    if open > 0 {
        pending.push(format!("payments: {open} commands without an outcome"));
    }
    pending.extend(events::behind(books).await);
    pending
}
