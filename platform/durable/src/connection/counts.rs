//! Counts what a module asks of its database. The counts of an order are compared with a budget, so they are exact.

use metrics::Counter;

/// The counters of one module. Statements do not include `begin`, `commit` and `rollback`.
#[derive(Clone)]
pub(crate) struct Counts {
    statements: Counter,
    transactions: Counter,
}

impl Counts {
    pub fn of(module: &str) -> Self {
        Counts {
            statements: metrics::counter!("banyan_database_statements_total", "module" => module.to_owned()),
            transactions: metrics::counter!("banyan_database_transactions_total", "module" => module.to_owned()),
        }
    }

    pub fn statement(&self) {
        self.statements.increment(1);
    }

    pub fn transaction(&self) {
        self.transactions.increment(1);
    }
}
