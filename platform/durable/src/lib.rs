//! Everything of a module that must survive a crash, written once for all modules.
//!
//! The rules are those of RELIABILITY.md; the first carries the rest: **a state change, its events, the memory of the command that caused it,
//! and its saga's progress share one local transaction.**
//!
//! - [`Db`]: one module's database; [`Db::write`] is the only way to change anything.
//! - [`once`], [`undo_once`]: a request is carried out once, and its result is remembered.
//! - [`outbox`]: events are stored in the transaction that made them true; the relay publishes them until the bus confirms.
//! - [`Reactions`]: the events of other modules, each once and in order per subject; retries, dead letters.
//! - [`Sagas`]: processes across modules that are completed or undone, whatever crashes in between.
//! - [`Machinery`]: all of the above for one module, started by the process it runs in.
//!
//! Invariant: nothing here knows what a product is about, and nothing here uses a network other than the database's.

mod audit;
mod connection;
mod db;
mod echoes;
mod fault;
mod feed;
mod file_check;
mod gauges;
mod horizon;
pub mod installation;
mod job;
mod lease;
mod list;
mod listen;
mod machinery;
pub mod marks;
pub mod migrate;
mod notify;
mod once;
mod ops;
pub mod outbox;
mod overdue;
#[cfg(test)]
mod plan;
mod postgres;
mod prune;
mod query;
mod reactions;
mod relay;
mod remembered;
pub mod saga;
mod settings;
mod sqlite;
mod subscribers;
mod time;
mod together;
mod tx;
mod watch;

pub use audit::{audit, audit_operator};
pub use connection::{
    Connection, Reads, refuse_transaction_pooling,
    servers::{first_host, with_hosts_of},
};
pub use db::{Change, Db, Storage, changed};
pub use fault::{fault, is_locked, is_unique_violation, lost_race};
pub use file_check::FileCheck;
pub use lease::hold;
pub use list::{newest_first, newest_ids_first};
pub use machinery::{Feeds, Machinery, Seed};
pub use migrate::{Migration, Schema};
pub use once::{Command, Memory, Outcome, once, recall, undo_once};
pub use ops::{AuditEntry, Counts, DeadLetter, DeadLetterEvent, KnownSubscriber, Ops, OutboxEntry, OutboxEvent};
pub use reactions::{Incoming, Reactions};
pub use remembered::{Remembered, Versioned};
pub use saga::{
    Decision, Input, Leftover, Leftovers, Progress, Saga, SagaDetails, SagaFilter, SagaOps, SagaState, SagaView, Sagas,
    UndoLeftover, Undone,
};
pub use settings::{MachineryLimits, Settings};
pub use together::insert_and;
pub use tx::Tx;
pub use watch::{Watcher, Watchers};
