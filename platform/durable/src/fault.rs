//! What a database error means to the caller.

use std::time::Duration;

use banyan_core::{Fault, FaultKind};
use sea_orm::{
    DbErr, RuntimeErr,
    sqlx::{self, error::ErrorKind},
};

/// The fault for a database error. A lost connection, a full pool or a full disk are transient (`unavailable`); anything else is a bug.
pub fn fault(error: DbErr) -> Fault {
    if is_conflict(&error) {
        return lost_race(&error.to_string());
    }
    if code(&error).as_deref() == Some("55P03") {
        return Fault::new(FaultKind::Unavailable, LOCKED, "Another request is changing this now.")
            .retry_after(Duration::from_secs(1));
    }
    if is_transient(&error) {
        tracing::warn!(%error, "the database did not respond");
        return Fault::unavailable("The database cannot respond now.");
    }
    Fault::internal("database_error", error.to_string())
}

pub fn is_unique_violation(error: &DbErr) -> bool {
    matches!(sqlx_error(error), Some(sqlx::Error::Database(error)) if error.kind() == ErrorKind::UniqueViolation)
}

const LOST_RACE: &str = "lost_race";
const LOCKED: &str = "locked";

/// On PostgreSQL: another transaction held the row for longer than a write waits for a lock, most likely an equal command in another process.
pub fn is_locked(fault: &Fault) -> bool {
    fault.code == LOCKED
}

/// Another transaction changed what this one had loaded. [`Db::write`](crate::Db::write) then runs the job again from its beginning; so a store returns
/// this when `update ... where version = loaded` touched no row.
pub fn lost_race(what: &str) -> Fault {
    Fault::new(FaultKind::Unavailable, LOST_RACE, what)
}

pub(crate) fn is_lost_race(fault: &Fault) -> bool {
    fault.code == LOST_RACE
}

/// PostgreSQL aborted this transaction in favour of another.
fn is_conflict(error: &DbErr) -> bool {
    matches!(code(error).as_deref(), Some("40001" | "40P01"))
}

fn is_transient(error: &DbErr) -> bool {
    match sqlx_error(error) {
        Some(sqlx::Error::Database(_)) => {
            // PostgreSQL: connection exceptions, out of resources, shut down, lock not available; the limits we set on idle transactions.
            // SQLite: BUSY, LOCKED, NOMEM, IOERR, FULL with all their extended codes.
            let code = code(error).unwrap_or_default();
            let sqlite = code
                .parse::<i64>()
                .ok()
                .filter(|_| code.len() < 5)
                .map(|code| code & 0xff);
            ["08", "53", "57", "55"]
                .iter()
                .any(|class| code.len() == 5 && code.starts_with(class))
                || matches!(code.as_str(), "25P03" | "25P04")
                || matches!(sqlite, Some(5 | 6 | 7 | 10 | 13))
        }
        Some(
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Tls(_),
        ) => true,
        Some(_) => false,
        None => matches!(error, DbErr::ConnectionAcquire(_) | DbErr::Conn(_)),
    }
}

fn code(error: &DbErr) -> Option<String> {
    match sqlx_error(error) {
        Some(sqlx::Error::Database(error)) => error.code().map(|code| code.into_owned()),
        _ => None,
    }
}

fn sqlx_error(error: &DbErr) -> Option<&sqlx::Error> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => Some(error),
        _ => None,
    }
}
