//! Events of other modules that could not be handled: seen, replayed, discarded.

use std::sync::Arc;

use banyan_core::{Actor, Fault, Page, PageRequest, Timestamp};
use sea_orm::FromQueryResult;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Ops, before, event_of, known_state};
use crate::{
    Tx, audit,
    query::{self, StoredTime},
    reactions::{
        advance, is_gap, pass, reached,
        retry::{self, RetryState},
        skipped_to,
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
    /// The event's type; empty for a frame that is not an event. `missing`: versions that nobody can deliver. `went_back`: the module it happened in lost
    /// what it had committed, and gives versions out again.
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
    /// The CloudEvent as it came; a text if it is not one.
    #[schema(value_type = Object)]
    pub event: serde_json::Value,
}

const COLUMNS: &str = "id, source, subject, version, kind, state, attempts, failures, next_attempt_at, created_at, last_error, until_version";

fn newest(state: Option<RetryState>) -> String {
    let in_state = state.map_or_else(String::new, |state| format!("state = '{state}' and"));
    format!("select {COLUMNS} from retry where {in_state} id < $1 order by id desc limit $2")
}

impl Ops {
    /// The newest first; those in one state, or all. Only `dead` ones wait for an operator.
    ///
    /// # Errors
    /// `invalid_state`, `invalid_cursor`; as any query.
    pub async fn list_dead_letters(&self, state: Option<&str>, page: &PageRequest) -> Result<Page<DeadLetter>, Fault> {
        let state = state.map(known_state::<RetryState>).transpose()?;
        let values = [before(page)?.into(), query::limit(page.fetch_limit())];
        let rows: Vec<DeadLetterRow> = query::all(self.db.read(), &newest(state), values).await?;
        Ok(page.page(rows, |row| row.id).map(DeadLetter::from))
    }

    /// What waits for a person, the newest first: dead letters, and events that hold back their subject and have been tried for long.
    ///
    /// # Errors
    /// `invalid_cursor`; as any query.
    pub async fn list_stuck_events(&self, page: &PageRequest) -> Result<Page<DeadLetter>, Fault> {
        let sql = format!(
            "select {COLUMNS} from retry where state in ('dead', 'retrying', 'waiting') and id < $1
                 and (state = 'dead' or (created_at < $2
                     and not exists (select 1 from retry earlier where earlier.source = retry.source and earlier.subject = retry.subject
                                     and earlier.version < retry.version and earlier.state <> 'discarded')))
             order by id desc limit $3"
        );
        let overdue_before = self.db.clock().now().minus(self.db.settings().limits.alert_after);
        let values = [
            before(page)?.into(),
            overdue_before.as_ms().into(),
            query::limit(page.fetch_limit()),
        ];
        let rows: Vec<DeadLetterRow> = query::all(self.db.read(), &sql, values).await?;
        Ok(page.page(rows, |row| row.id).map(DeadLetter::from))
    }

    /// # Errors
    /// `not_found`; as any query.
    pub async fn find_dead_letter(&self, id: Uuid) -> Result<DeadLetterEvent, Fault> {
        let sql = format!("select {COLUMNS}, body from retry where id = $1");
        let row: Option<DeadLetterWithBody> = query::one(self.db.read(), &sql, [id.into()]).await?;
        let DeadLetterWithBody { letter, body } = row.ok_or_else(|| Fault::not_found("dead letter"))?;
        Ok(DeadLetterEvent {
            letter: letter.into(),
            event: event_of(body),
        })
    }

    /// Retries a dead letter at once, with its failures reset.
    ///
    /// # Errors
    /// `not_found`; `not_dead` if it is not dead.
    pub async fn replay_dead_letter(
        &self,
        actor: &Actor,
        id: Uuid,
        reason: &str,
        comment: Option<&str>,
    ) -> Result<DeadLetter, Fault> {
        let action = DeadLetterAction::new(actor, id, reason, comment);
        let write = self.db.write(action, |tx, action| async move {
                let letter = load(&tx, action.id).await?;
                if letter.state != RetryState::Dead {
                    return Err(Fault::conflict("not_dead", format!("This event is {} and needs no replay.", letter.state)));
                }
                let replayed = "update retry set state = 'retrying', failures = 0, next_attempt_at = $2 where id = $1 and state = 'dead'";
                action.change(&tx, replayed, tx.database_now().await?).await?;
                action.audit(&tx, "dead_letter.replay").await?;
                load(&tx, action.id).await.map(DeadLetter::from)
            });
        write.await
    }

    /// Gives an event up: it will never be handled, and the later ones of its subject go on. Of missing versions all are given up. If the source went
    /// back, its events go on being handled with the first that is certainly new.
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
        let action = DeadLetterAction::new(actor, id, reason, comment);
        let write = self.db.write(action, |tx, action| async move {
                let letter = load(&tx, action.id).await?;
                let waits = letter.state == RetryState::Waiting && !is_gap(&letter.kind);
                if waits || letter.state == RetryState::Discarded {
                    return Err(Fault::conflict("not_discardable", format!("This event is {}.", letter.state)));
                }
                let discarded =
                    "update retry set state = 'discarded', next_attempt_at = $2 where id = $1 and state in ('dead', 'retrying', 'waiting')";
                action.change(&tx, discarded, tx.clock().now()).await?;
                letter.pass(&tx).await?;
                action.audit(&tx, "dead_letter.discard").await?;
                load(&tx, action.id).await.map(DeadLetter::from)
            });
        write.await
    }
}

/// An operator's action on a dead letter.
#[derive(Clone)]
struct DeadLetterAction {
    actor: Arc<Actor>,
    id: Uuid,
    reason: Arc<str>,
    comment: Option<Arc<str>>,
}

impl DeadLetterAction {
    fn new(actor: &Actor, id: Uuid, reason: &str, comment: Option<&str>) -> Self {
        DeadLetterAction {
            actor: Arc::new(actor.clone()),
            id,
            reason: reason.into(),
            comment: comment.map(Into::into),
        }
    }

    /// Changes the row. If it has changed since it was loaded, the job is repeated.
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

async fn load(tx: &Tx, id: Uuid) -> Result<DeadLetterRow, Fault> {
    let sql = format!("select {COLUMNS} from retry where id = $1");
    let row = query::one(tx.conn(), &sql, [id.into()]).await?;
    row.ok_or_else(|| Fault::not_found("dead letter"))
}

#[derive(FromQueryResult)]
struct DeadLetterRow {
    id: Uuid,
    source: String,
    subject: String,
    version: i64,
    kind: String,
    state: RetryState,
    attempts: i64,
    failures: i64,
    next_attempt_at: StoredTime,
    created_at: StoredTime,
    last_error: Option<String>,
    until_version: Option<i64>,
}

impl DeadLetterRow {
    /// Moves the lane past what is given up.
    async fn pass(&self, tx: &Tx) -> Result<(), Fault> {
        // A frame that is not an event has no lane.
        if self.version == 0 {
            return Ok(());
        }
        let lane = reached(tx, &self.source, &self.subject).await?.version;
        if lane + 1 < self.version {
            return Err(Fault::conflict(
                "not_discardable",
                "An earlier version must be handled or discarded first.",
            ));
        }
        if lane >= self.version {
            return Ok(());
        }
        match self.until_version {
            Some(until) => pass(tx, &self.source, &self.subject, &self.kind, until).await,
            None => advance(tx, &self.source, &self.subject, lane, skipped_to(self.version)).await,
        }
    }
}

#[derive(FromQueryResult)]
struct DeadLetterWithBody {
    #[sea_orm(nested)]
    letter: DeadLetterRow,
    body: String,
}

impl From<DeadLetterRow> for DeadLetter {
    fn from(row: DeadLetterRow) -> Self {
        DeadLetter {
            id: row.id,
            source: row.source,
            subject: row.subject,
            version: row.version,
            kind: row.kind,
            state: row.state.to_string(),
            attempts: row.attempts,
            failures: row.failures,
            next_attempt_at: row.next_attempt_at.into(),
            created_at: row.created_at.into(),
            last_error: row.last_error,
        }
    }
}
