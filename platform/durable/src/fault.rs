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
    if is_lock_timeout(&error) {
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

/// PostgreSQL: the lock was not available in time.
pub(crate) fn is_lock_timeout(error: &DbErr) -> bool {
    code(error).as_deref() == Some("55P03")
}

/// PostgreSQL aborted this transaction in favour of another.
fn is_conflict(error: &DbErr) -> bool {
    matches!(code(error).as_deref(), Some("40001" | "40P01"))
}

fn is_transient(error: &DbErr) -> bool {
    match sqlx_error(error) {
        Some(error) => is_outage(error) || is_limit(error),
        None => matches!(error, DbErr::ConnectionAcquire(_) | DbErr::Conn(_)),
    }
}

/// The database refused or could not, whatever was asked of it; it may be able to later.
fn is_outage(error: &sqlx::Error) -> bool {
    match error {
        // PostgreSQL: connection exceptions, a login that is refused, out of resources, shut down; read-only; a right that was withdrawn. Without the
        // right to a schema its tables do not exist; those that are missing otherwise are noticed at the start.
        // SQLite: BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, CORRUPT, FULL, CANTOPEN, NOTADB with all their extended codes.
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            match sqlite_code(&code) {
                Some(code) => matches!(code, 5..=11 | 13 | 14 | 26),
                None => {
                    ["08", "28", "53", "57", "58"]
                        .iter()
                        .any(|class| code.starts_with(class))
                        || matches!(&*code, "25006" | "42501" | "42P01" | "3D000" | "3F000")
                }
            }
        }
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Protocol(_)
        | sqlx::Error::Tls(_) => true,
        _ => false,
    }
}

/// A lock that was not available in time; the limits we set on idle transactions.
fn is_limit(error: &sqlx::Error) -> bool {
    let code = error
        .as_database_error()
        .and_then(|error| error.code())
        .unwrap_or_default();
    sqlite_code(&code).is_none() && (code.starts_with("55") || matches!(&*code, "25P03" | "25P04"))
}

/// SQLite's codes are numbers, PostgreSQL's have five characters. The extended codes of a kind share its lowest byte.
fn sqlite_code(code: &str) -> Option<i64> {
    if code.len() == 5 {
        return None;
    }
    code.parse::<i64>().ok().map(|code| code & 0xff)
}

/// Whether a session of PostgreSQL is of no more use after this error: the server closes it, or another one may do better. A statement that was cancelled
/// leaves its session as it was.
pub(crate) fn ends_session(error: &sqlx::Error) -> bool {
    is_outage(error)
        && !matches!(
            error.as_database_error().and_then(|error| error.code()).as_deref(),
            Some("57014" | "42501" | "42P01")
        )
}

/// Whether the server had closed the session before it read the statement, so that the statement did nothing.
pub(crate) fn was_dropped(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => error
            .code()
            .is_some_and(|code| code.starts_with("57P") || code.starts_with("08")),
        sqlx::Error::Io(error) => error.kind() != std::io::ErrorKind::TimedOut,
        _ => false,
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
