//! The last version of a subject of another module that this module has handled. One row per subject, kept for ever, so that a duplicate is recognised
//! for ever.

use banyan_core::Fault;

use crate::{Tx, lost_race, query};

/// The last version that was handled or skipped; 0 before the first.
pub(crate) async fn reached(tx: &Tx, source: &str, subject: &str) -> Result<i64, Fault> {
    let sql = "select last_version from lane where source = $1 and subject = $2";
    let version = query::scalar(tx.conn(), sql, [source.into(), subject.into()]).await?;
    Ok(version.unwrap_or(0))
}

/// Moves the lane from `from` to `to`, and locks it until the transaction ends.
///
/// # Errors
/// A lost race if it is not at `from` any more: another instance handled the event, and the job is repeated.
pub(crate) async fn advance(tx: &Tx, source: &str, subject: &str, from: i64, to: i64) -> Result<(), Fault> {
    let sql = if from == 0 {
        "insert into lane (source, subject, last_version) values ($1, $2, $3)
         on conflict (source, subject) do update set last_version = excluded.last_version where lane.last_version = $4"
    } else {
        "update lane set last_version = $3 where source = $1 and subject = $2 and last_version = $4"
    };
    match tx
        .execute(sql, [source.into(), subject.into(), to.into(), from.into()])
        .await?
    {
        1 => Ok(()),
        _ => Err(lost_race("another instance advanced this lane meanwhile")),
    }
}
