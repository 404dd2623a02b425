//! Folds sagas that ended long ago: the row stays, with what it was about and how it ended; its state, its command and its log are deleted.
//!
//! The row itself stays for ever: while it is there, no second saga is started for its key. An abandoned saga is not folded, because an operator may
//! still have to find out what it left behind.

use std::time::Duration;

use banyan_core::Fault;
use sea_orm::Value;
use uuid::Uuid;

use super::SagaState;
use crate::{Tx, horizon, query};

/// The time a finished saga is kept with its state and its log.
pub(crate) const KEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The second condition is that of the index `saga_to_fold`, so that both databases use it.
fn expired(state: SagaState) -> String {
    format!(
        "select id from saga where state = '{state}' and state in ('completed', 'compensated') and payload <> '' and updated_at < $1
         order by updated_at limit $2"
    )
}

/// Folds some of the sagas that ended before [`KEEP`]; returns their number.
pub(crate) async fn fold(tx: &Tx, limit: i64) -> Result<u64, Fault> {
    let before = horizon::advance(tx).await?.minus(KEEP);
    let mut expired: Vec<Uuid> = Vec::new();
    for state in [SagaState::Completed, SagaState::Compensated] {
        let values = [before.as_ms().into(), (limit - expired.len() as i64).into()];
        expired.extend(query::scalars::<Uuid>(tx.conn(), &self::expired(state), values).await?);
    }
    if expired.is_empty() {
        return Ok(0);
    }
    let ids = || expired.iter().map(|id| Value::from(*id));
    let these = query::placeholders(1, expired.len());
    tx.execute(&format!("delete from saga_log where saga_id in ({these})"), ids())
        .await?;
    let fold = format!(
        "update saga set payload = '', log = '', command = null, command_id = null, signal = null, traceparent = null where id in ({these})"
    );
    tx.execute(&fold, ids()).await
}

#[cfg(test)]
mod tests {
    use super::{SagaState, expired};
    use crate::plan::steps;

    #[tokio::test]
    async fn sagas_to_fold_are_found_without_reading_the_others() {
        let steps = steps(&expired(SagaState::Completed), [1_i64.into(), 10_i64.into()]).await;
        assert_eq!(
            steps,
            ["SEARCH saga USING INDEX saga_to_fold (state=? AND updated_at<?)"]
        );
    }
}
