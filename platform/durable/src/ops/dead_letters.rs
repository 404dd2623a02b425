//! Events of other modules that could not be handled: seen, replayed, discarded.

use std::sync::Arc;

use banyan_core::{Actor, Fault, Page, PageRequest, Timestamp};
use sea_orm::QueryResult;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Ops, before, check_state};
use crate::{
    Tx, audit,
    fault::fault,
    reactions::{
        advance, reached,
        retry::{self, State},
    },
};

/// An event of another module that could not be handled when it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeadLetter {
    pub id: Uuid,
    /// The module it happened in; empty for a frame that is not an event.
    pub source: String,
    /// What it happened to: `<aggregate>/<id>`.
    pub subject: String,
    pub version: i64,
    /// The event's type; empty for a frame that is not an event.
    #[serde(rename = "type")]
    pub kind: String,
    /// `waiting` for an earlier version, `retrying`, `dead`, or `discarded`.
    pub state: String,
    /// How often it was tried.
    pub attempts: i64,
    /// How often it failed other than for want of something that was away.
    pub failures: i64,
    pub next_attempt_at: Timestamp,
    pub created_at: Timestamp,
    /// Why it failed the last time.
    pub last_error: Option<String>,
}

/// An event that could not be handled, with itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeadLetterEvent {
    #[serde(flatten)]
    pub letter: DeadLetter,
    /// The CloudEvent as it was received; a text if it is not one.
    #[schema(value_type = Object)]
    pub event: serde_json::Value,
}

const COLUMNS: &str =
    "id, source, subject, version, kind, state, attempts, failures, next_attempt_at, created_at, last_error";

impl Ops {
    /// The newest first; those in one state, or all. Only `dead` ones wait for a person.
    ///
    /// # Errors
    /// `invalid_state`, `invalid_cursor`; as any query.
    pub async fn list_dead_letters(&self, state: Option<&str>, page: &PageRequest) -> Result<Page<DeadLetter>, Fault> {
        check_state(state, &["waiting", "retrying", "dead", "discarded"])?;
        let limit = i64::try_from(page.fetch_limit()).unwrap_or(i64::MAX);
        let sql =
            format!("select {COLUMNS} from retry where id < $1 and (state = $2 or $2 = '') order by id desc limit $3");
        let rows = self
            .all(
                &sql,
                [before(page)?.into(), state.unwrap_or_default().into(), limit.into()],
            )
            .await?;
        let letters = rows.iter().map(DeadLetter::read).collect::<Result<Vec<_>, Fault>>()?;
        Ok(page.page(letters, |letter| letter.id))
    }

    /// # Errors
    /// `not_found`; as any query.
    pub async fn find_dead_letter(&self, id: Uuid) -> Result<DeadLetterEvent, Fault> {
        let rows = self
            .all(&format!("select {COLUMNS}, body from retry where id = $1"), [id.into()])
            .await?;
        let row = rows.first().ok_or_else(|| Fault::not_found("dead letter"))?;
        let body: String = row.try_get("", "body").map_err(fault)?;
        let event = serde_json::from_str(&body).unwrap_or(serde_json::Value::String(body));
        Ok(DeadLetterEvent {
            letter: DeadLetter::read(row)?,
            event,
        })
    }

    /// Has a dead letter tried again, at once and with a clean record.
    ///
    /// # Errors
    /// `not_found`; `not_dead` if it does not wait for a person.
    pub async fn replay_dead_letter(
        &self,
        actor: &Actor,
        id: Uuid,
        reason: &str,
        comment: Option<&str>,
    ) -> Result<DeadLetter, Fault> {
        let action = Action::new(actor, id, reason, comment);
        let write = self.db.write(action, |tx, action| async move {
                let letter = load(&tx, action.id).await?;
                if letter.state != State::Dead.as_str() {
                    return Err(Fault::conflict("not_dead", format!("This event is {} and needs no replay.", letter.state)));
                }
                let replayed = "update retry set state = 'retrying', failures = 0, next_attempt_at = $2 where id = $1 and state = 'dead'";
                action.change(&tx, replayed, tx.clock().now()).await?;
                action.audit(&tx, "dead_letter.replay").await?;
                load(&tx, action.id).await
            });
        write.await
    }

    /// Gives an event up: it will never be handled, and those behind it go on.
    ///
    /// # Errors
    /// `not_found`; `not_discardable` while it waits for an earlier version, or once it is discarded.
    pub async fn discard_dead_letter(
        &self,
        actor: &Actor,
        id: Uuid,
        reason: &str,
        comment: Option<&str>,
    ) -> Result<DeadLetter, Fault> {
        let action = Action::new(actor, id, reason, comment);
        let write = self.db.write(action, |tx, action| async move {
                let letter = load(&tx, action.id).await?;
                if !matches!(State::parse(&letter.state), Some(State::Dead | State::Retrying)) {
                    return Err(Fault::conflict("not_discardable", format!("This event is {}.", letter.state)));
                }
                // A frame that is not an event has no lane to hold back.
                if letter.version > 0 {
                    let lane = reached(&tx, &letter.source, &letter.subject).await?;
                    if lane + 1 < letter.version {
                        return Err(Fault::conflict("not_discardable", "An earlier version must be handled or discarded first."));
                    }
                    if lane < letter.version {
                        advance(&tx, &letter.source, &letter.subject, lane, letter.version).await?;
                    }
                }
                let discarded =
                    "update retry set state = 'discarded', next_attempt_at = $2 where id = $1 and state in ('dead', 'retrying')";
                action.change(&tx, discarded, tx.clock().now()).await?;
                action.audit(&tx, "dead_letter.discard").await?;
                load(&tx, action.id).await
            });
        write.await
    }
}

/// What an operator does to one dead letter, and why.
#[derive(Clone)]
struct Action {
    actor: Arc<Actor>,
    id: Uuid,
    reason: Arc<str>,
    comment: Option<Arc<str>>,
}

impl Action {
    fn new(actor: &Actor, id: Uuid, reason: &str, comment: Option<&str>) -> Self {
        Action {
            actor: Arc::new(actor.clone()),
            id,
            reason: reason.into(),
            comment: comment.map(Into::into),
        }
    }

    /// Changes the row, which may have changed since it was loaded: then the job looks again.
    async fn change(&self, tx: &Tx, sql: &str, now: Timestamp) -> Result<(), Fault> {
        tx.wake(retry::TOPIC);
        match tx.execute(sql, [self.id.into(), now.as_ms().into()]).await? {
            1 => Ok(()),
            _ => Err(crate::lost_race("this dead letter changed meanwhile")),
        }
    }

    async fn audit(&self, tx: &Tx, action: &str) -> Result<(), Fault> {
        audit(
            tx,
            &self.actor,
            action,
            &format!("dead_letter/{}", self.id),
            &self.reason,
            self.comment.as_deref(),
        )
        .await
    }
}

async fn load(tx: &Tx, id: Uuid) -> Result<DeadLetter, Fault> {
    let row = tx
        .query_one(&format!("select {COLUMNS} from retry where id = $1"), [id.into()])
        .await?;
    DeadLetter::read(&row.ok_or_else(|| Fault::not_found("dead letter"))?)
}

impl DeadLetter {
    fn read(row: &QueryResult) -> Result<Self, Fault> {
        let at = |name: &str| row.try_get("", name).map(Timestamp::from_ms).map_err(fault);
        Ok(DeadLetter {
            id: row.try_get("", "id").map_err(fault)?,
            source: row.try_get("", "source").map_err(fault)?,
            subject: row.try_get("", "subject").map_err(fault)?,
            version: row.try_get("", "version").map_err(fault)?,
            kind: row.try_get("", "kind").map_err(fault)?,
            state: row.try_get("", "state").map_err(fault)?,
            attempts: row.try_get("", "attempts").map_err(fault)?,
            failures: row.try_get("", "failures").map_err(fault)?,
            next_attempt_at: at("next_attempt_at")?,
            created_at: at("created_at")?,
            last_error: row.try_get("", "last_error").map_err(fault)?,
        })
    }
}
