//! Who subscribes to a module's events, as operators see it.

use std::sync::Arc;

use banyan_core::{Actor, Fault, Timestamp};
use sea_orm::FromQueryResult;
use serde::{Deserialize, Serialize};

use super::Ops;
use crate::{
    audit,
    query::{self, StoredTime},
    subscribers::running_for,
};

/// A module that subscribes to an aggregate of this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KnownSubscriber {
    pub module: String,
    pub aggregate: String,
    /// Everything that happened before this time was handled, or is stored by the subscriber. Null: it has confirmed nothing yet.
    pub confirmed_before: Option<Timestamp>,
    /// The outbox keeps nothing for it.
    pub given_up: bool,
}

impl Ops {
    /// The subscribers to this module's events, by name.
    ///
    /// # Errors
    /// As any query.
    pub async fn list_subscribers(&self) -> Result<Vec<KnownSubscriber>, Fault> {
        let sql = "select module, aggregate, confirmed_before, given_up from subscriber where module <> '' order by module, aggregate";
        let rows: Vec<SubscriberRow> = query::all(self.db.read(), sql, []).await?;
        Ok(rows.into_iter().map(KnownSubscriber::from).collect())
    }

    /// Keeps events for this subscriber no longer. If it comes back, what it can no longer fetch are dead letters there, and events are kept for it again.
    ///
    /// # Errors
    /// `not_found`; `subscriber_running` if it asked for events, or confirmed some, a short time ago; as any query.
    pub async fn give_up_subscriber(
        &self,
        actor: &Actor,
        subscriber: &str,
        reason: &str,
        comment: Option<&str>,
    ) -> Result<Vec<KnownSubscriber>, Fault> {
        self.refuse_if_it_runs(subscriber).await?;
        let context = (
            Arc::new(actor.clone()),
            Arc::<str>::from(subscriber),
            Arc::<str>::from(reason),
            comment.map(Arc::<str>::from),
        );
        let given_up = self
            .db
            .write(context, |tx, (actor, subscriber, reason, comment)| async move {
                // What is deleted from now on was meant for it.
                let sql = "update subscriber set given_up = true, begins_at = 0 where module = $1";
                if subscriber.is_empty() || tx.execute(sql, [(*subscriber).into()]).await? == 0 {
                    return Err(Fault::not_found("subscriber"));
                }
                audit(
                    &tx,
                    &actor,
                    "subscriber.give_up",
                    &format!("subscriber/{subscriber}"),
                    &reason,
                    comment.as_deref(),
                )
                .await
            });
        given_up.await?;
        let all = self.list_subscribers().await?;
        Ok(all.into_iter().filter(|row| row.module == subscriber).collect())
    }

    /// Its next confirmation would take it back, without a word to whoever gave it up.
    async fn refuse_if_it_runs(&self, subscriber: &str) -> Result<(), Fault> {
        let (now, patience) = (self.db.clock().now(), running_for(&self.db));
        let sql = "select max(confirmed_before) from subscriber where module = $1";
        let confirmed: Option<Option<StoredTime>> = query::scalar(self.db.read(), sql, [subscriber.into()]).await?;
        let asked = self.db.asking().last(subscriber);
        let last = confirmed.flatten().map(Timestamp::from).into_iter().chain(asked).max();
        match last.filter(|last| *last > now.minus(patience)) {
            None => Ok(()),
            Some(last) => Err(Fault::conflict(
                "subscriber_running",
                format!(
                    "{subscriber} asked for events {} s ago, so it runs, and its next confirmation would take this back. Stop it, wait {} s, and repeat this.",
                    now.since(last).as_secs(),
                    patience.as_secs()
                ),
            )),
        }
    }
}

#[derive(FromQueryResult)]
struct SubscriberRow {
    module: String,
    aggregate: String,
    confirmed_before: StoredTime,
    given_up: bool,
}

impl From<SubscriberRow> for KnownSubscriber {
    fn from(row: SubscriberRow) -> Self {
        KnownSubscriber {
            module: row.module,
            aggregate: row.aggregate,
            confirmed_before: (row.confirmed_before > StoredTime::default()).then(|| row.confirmed_before.into()),
            given_up: row.given_up,
        }
    }
}
