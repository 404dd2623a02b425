//! The last version of a subject of another module that this module has handled, and the id of that event. One row per subject, kept for ever, so that
//! a duplicate is recognised for ever.
//!
//! A version alone does not tell two events apart: a source whose database was restored, or lost a commit in a failover, gives versions out again.

use banyan_core::{Envelope, Fault};
use sea_orm::{FromQueryResult, Value};
use uuid::Uuid;

use crate::{Tx, lost_race, query};

/// How far the events of a subject were handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromQueryResult)]
pub(crate) struct Lane {
    /// The last version that was handled or skipped; 0 before the first.
    #[sea_orm(from_alias = "last_version")]
    pub version: i64,
    /// The event of that version. None if it was skipped, or handled by an earlier version of this program.
    pub event_id: Option<Uuid>,
}

impl Lane {
    /// Whether this event belongs to another history of its subject than the one that was handled.
    pub fn contradicts(&self, envelope: &Envelope) -> bool {
        let Some(handled) = self.event_id else { return false };
        (envelope.version == self.version && envelope.id != handled)
            || (envelope.version == self.version + 1 && envelope.previousid.is_some_and(|previous| previous != handled))
    }
}

pub(crate) async fn reached(tx: &Tx, source: &str, subject: &str) -> Result<Lane, Fault> {
    let sql = "select last_version, case when event_version = last_version then event_id end as event_id from lane where source = $1 and subject = $2";
    let lane = query::one(tx.conn(), sql, [source.into(), subject.into()]).await?;
    Ok(lane.unwrap_or_default())
}

/// Moves the lane from version `from` to `to`, and locks it until the transaction ends.
///
/// # Errors
/// A lost race if it is not at `from` any more: another instance handled the event, and the job is repeated.
pub(crate) async fn advance(tx: &Tx, source: &str, subject: &str, from: i64, to: Lane) -> Result<(), Fault> {
    let sql = if from == 0 {
        "insert into lane (source, subject, last_version, event_version, event_id) values ($1, $2, $3, $3, $4)
         on conflict (source, subject) do update set last_version = excluded.last_version, event_version = excluded.event_version,
             event_id = excluded.event_id where lane.last_version = $5"
    } else {
        "update lane set last_version = $3, event_version = $3, event_id = $4 where source = $1 and subject = $2 and last_version = $5"
    };
    let values: [Value; 5] = [
        source.into(),
        subject.into(),
        to.version.into(),
        to.event_id.into(),
        from.into(),
    ];
    match tx.execute(sql, values).await? {
        1 => Ok(()),
        _ => Err(lost_race("another instance advanced this lane meanwhile")),
    }
}

/// A lane at a version that was skipped.
pub(crate) fn skipped_to(version: i64) -> Lane {
    Lane {
        version,
        event_id: None,
    }
}
