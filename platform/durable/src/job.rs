//! A write job: what both writers do with it.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use banyan_core::{Fault, inside_transaction};
use futures::{FutureExt, future::BoxFuture};

use crate::Tx;

/// The result of a write job without its value: the writers need not know the type.
pub(crate) type JobResult = Result<(), Fault>;
/// A write job that puts its value into a slot of its own. It can be run again.
pub(crate) type Job = Arc<dyn Fn(Tx) -> BoxFuture<'static, JobResult> + Send + Sync>;

/// Runs a job. A panic in it fails this job and no other.
///
/// A job that went on after a failed statement is refused: PostgreSQL would commit nothing of it and report success.
pub(crate) async fn run(job: &Job, tx: &Tx) -> JobResult {
    let work = AssertUnwindSafe(inside_transaction(async { job(tx.clone()).await })).catch_unwind();
    match work.await {
        Ok(Ok(())) if tx.conn().has_failed() => Err(Fault::internal(
            "failed_statement_ignored",
            format!(
                "a write job of {} went on after one of its statements had failed",
                tx.module()
            ),
        )),
        Ok(done) => done,
        Err(_) => Err(Fault::internal(
            "write_panicked",
            format!("a write job of {} panicked", tx.module()),
        )),
    }
}

/// A job of more statements than this is too long by itself: a list has to be written by one statement.
const MANY_STATEMENTS: u64 = 100;

/// The fault of a job that was stopped after `limit`. It is certainly rolled back, so the outcome is known.
///
/// The database may be slow or busy, and then the job can be run again. But a job of very many statements would run out of its time whenever the
/// database is some milliseconds away: that is a bug, which does not heal.
pub(crate) fn too_long(tx: &Tx, limit: Duration) -> Fault {
    let statements = tx.conn().statements();
    let text = format!("A write of {} took longer than {} ms.", tx.module(), limit.as_millis());
    if statements > MANY_STATEMENTS {
        Fault::internal("write_too_long", format!("{text} It ran {statements} statements."))
    } else {
        Fault::unavailable(text)
    }
}
