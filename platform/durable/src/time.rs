//! Due times: by the database's clock, which all instances share, and with a cap.
//!
//! A clock may be set back. Whatever was stored to happen in a few seconds is then minutes or hours away. So every due time is a wait of a limited length:
//! one that is farther away than the longest wait that is ever stored is due.

use std::time::Duration;

use sea_orm::DbBackend;

use crate::Settings;

/// The database's clock inside a statement, in milliseconds. On PostgreSQL the statement's start, so that indexes on times are used.
pub(crate) fn now(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Sqlite => "cast(unixepoch('now', 'subsec') * 1000 as integer)",
        _ => "cast(extract(epoch from statement_timestamp()) * 1000 as bigint)",
    }
}

/// The condition that the time in `column` has passed, if no wait in it is ever stored longer than `cap`.
pub(crate) fn passed(backend: DbBackend, column: &str, cap: Duration) -> String {
    let (now, cap_ms) = (now(backend), ms_of(cap));
    format!("({column} <= {now} or {column} > {now} + {cap_ms})")
}

/// A lease that ends later than this was granted by a clock that has been set back since. Twice the duration, because a lease may have been granted
/// under longer settings, or just before a small step.
pub(crate) fn longest_lease(settings: &Settings) -> Duration {
    settings.lease() * 2
}

pub(crate) fn ms_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
