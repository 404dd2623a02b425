//! What a saga that was given up has left in other modules, and how an operator undoes it.
//!
//! It is found and undone by the saga's business key and id alone: its state may be the very thing that cannot be read. The ids of its commands follow
//! from its own id, so an undo names its do even then, and a do that is still on its way finds its tombstone.
//!
//! Invariant: nothing is undone behind the back of a saga that may still go on. An abandoned saga never does, and all other sagas about its key must
//! have ended; both are final, so they are checked before the call of the other module and hold after it.

use std::time::Duration;

use banyan_core::{Actor, Call, Fault};
use sea_orm::FromQueryResult;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    log::Entries,
    ops::{SagaOps, SagaView},
    store::{self, SagaState},
};
use crate::{Tx, audit, query};

/// What a saga has left in other modules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = SagaLeftovers)]
pub struct Leftovers {
    /// What there is, in the order in which it is best undone. What was undone stays in the list.
    pub items: Vec<Leftover>,
    /// The modules that did not respond: what they have is not known now.
    pub unavailable: Vec<String>,
}

/// Something that a saga has left in another module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = SagaLeftover)]
pub struct Leftover {
    /// The module that has it.
    pub module: String,
    /// What it is, in a word.
    pub what: String,
    /// Its id in its module, if it has one of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// Its state, as its module names it.
    pub state: String,
    /// What it amounts to, in words.
    pub detail: String,
    /// The name under which it is undone once the saga is abandoned; absent if nothing is left of it, or nothing can be undone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undo: Option<String>,
}

/// The undo of a leftover, as its definition gets it.
#[derive(Clone, Debug)]
pub struct UndoLeftover {
    /// As the definition named it in [`Leftover::undo`].
    pub name: String,
    /// The id of the command that undoes it: the same for a repeated request.
    pub command_id: Uuid,
    /// What the saga is about.
    pub business_key: String,
    /// The kind and the id of every saga of this module about that key. All have ended.
    pub sagas: Vec<(String, Uuid)>,
    /// Why, in a word or two; not empty.
    pub reason: String,
    pub comment: Option<String>,
}

impl UndoLeftover {
    /// The saga of this kind, if there is one about the key.
    pub fn saga(&self, kind: &str) -> Option<Uuid> {
        self.sagas.iter().find(|(of, _)| of == kind).map(|(_, id)| *id)
    }
}

/// How far an undo has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undone {
    /// Nothing is left of it, now or before. What was done, in words.
    Done(String),
    /// The other module is still working on it: the same request gets the outcome after this time.
    InProgress(Duration),
}

/// A saga about a business key.
#[derive(FromQueryResult)]
struct SagaOfKey {
    id: Uuid,
    kind: String,
    business_key: String,
    state: SagaState,
}

impl SagaOps {
    /// What a parked or abandoned saga has left in other modules; `None` for any other, which will end by itself or has undone what it did. It asks the
    /// other modules, in this module's own name.
    pub async fn leftovers(&self, call: &Call, saga: &SagaView) -> Option<Leftovers> {
        if !matches!(saga.state, SagaState::Parked | SagaState::Abandoned) {
            return None;
        }
        // By any version: what is left does not depend on the definition that left it.
        let definition = self.definitions.find_kind(&saga.kind)?;
        let call = Call::by_module(self.db.module()).traced(call.trace.clone());
        Some(definition.leftovers(&call, &saga.business_key).await)
    }

    /// Undoes something that an abandoned saga has left, in the operator's name. A repeat with the same `command_id` gets the same outcome.
    ///
    /// # Errors
    /// `not_found` for a saga, or an undo, that does not exist; `saga_not_abandoned`, `saga_unfinished` (conflict): the saga, or another one about the
    /// same key, may still go on; `reason_required` (invalid); as its definition says.
    pub async fn undo_leftover(
        &self,
        call: &Call,
        id: Uuid,
        name: &str,
        command_id: Uuid,
        reason: &str,
        comment: Option<&str>,
    ) -> Result<Undone, Fault> {
        if reason.trim().is_empty() {
            return Err(Fault::invalid("reason_required", "Say why.").at("/reason", "must not be empty"));
        }
        let sagas = self.of_the_key_of(id).await?;
        let saga = check_given_up(id, &sagas)?;
        let definition = self.definitions.find_kind(&saga.kind).ok_or_else(|| {
            let what = format!("No version of {} is known to this process.", saga.kind);
            Fault::conflict("saga_unknown", what)
        })?;
        let undo = UndoLeftover {
            name: name.to_owned(),
            command_id,
            business_key: saga.business_key.clone(),
            sagas: sagas.iter().map(|saga| (saga.kind.clone(), saga.id)).collect(),
            reason: reason.to_owned(),
            comment: comment.map(str::to_owned),
        };
        definition.undo_leftover(&self.db, call, undo).await
    }

    /// The saga, and every other one about its business key.
    async fn of_the_key_of(&self, id: Uuid) -> Result<Vec<SagaOfKey>, Fault> {
        let sql = "select id, kind, business_key, state from saga where business_key = (select business_key from saga where id = $1) order by id";
        query::all(self.db.read(), sql, [id.into()]).await
    }

    /// Records in the saga's log and in the audit log of its module that something it left was undone. The module that had it has an audit row of its own.
    ///
    /// # Errors
    /// As any query.
    pub async fn record_undo(
        tx: &Tx,
        actor: &Actor,
        id: Uuid,
        name: &str,
        detail: &str,
        reason: &str,
        comment: Option<&str>,
    ) -> Result<(), Fault> {
        let Some(mut row) = store::load(tx, id).await? else {
            return Ok(());
        };
        let seen = row.seen();
        row.lease_token += 1;
        let mut log = Entries::default();
        let detail = format!("{name} by {}: {reason}. {detail}", actor.label());
        log.add(tx.clock().now(), "leftover_undone", &row.step, &detail)?;
        store::save(tx, &mut row, &seen, &log).await?;
        audit(
            tx,
            actor,
            &format!("saga.{name}"),
            &format!("saga/{id}"),
            reason,
            comment,
        )
        .await
    }
}

/// The saga, if it was abandoned and no other one about its key may still go on.
fn check_given_up(id: Uuid, sagas: &[SagaOfKey]) -> Result<&SagaOfKey, Fault> {
    let saga = sagas
        .iter()
        .find(|saga| saga.id == id)
        .ok_or_else(|| Fault::not_found("saga"))?;
    if saga.state != SagaState::Abandoned {
        let (what, state) = (&saga.kind, saga.state);
        let what = if state.is_finished() {
            format!("The {what} is {state}: it has left nothing to undo.")
        } else {
            format!(
                "The {what} is {state} and may still go on: only what an abandoned saga has left is undone by an operator."
            )
        };
        return Err(Fault::conflict("saga_not_abandoned", what));
    }
    match sagas.iter().find(|other| !other.state.is_finished()) {
        Some(other) => Err(Fault::conflict(
            "saga_unfinished",
            format!(
                "The {} {} about the same key is {} and may still go on.",
                other.kind, other.id, other.state
            ),
        )),
        None => Ok(saga),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Uuid = Uuid::from_u128(1);

    fn saga(id: Uuid, state: SagaState) -> SagaOfKey {
        SagaOfKey {
            id,
            kind: format!("kind-{}", id.as_u128()),
            business_key: "key".to_owned(),
            state,
        }
    }

    fn refusal(state: SagaState, other: Option<SagaState>) -> Option<String> {
        let mut sagas = vec![saga(ID, state)];
        sagas.extend(other.map(|state| saga(Uuid::from_u128(2), state)));
        check_given_up(ID, &sagas).err().map(|fault| fault.code)
    }

    #[test]
    fn only_what_no_saga_can_still_need_is_undone() {
        use SagaState::{Abandoned, Compensated, Compensating, Completed, Parked, Running};
        for state in [Running, Compensating, Parked, Completed, Compensated] {
            assert_eq!(refusal(state, None).as_deref(), Some("saga_not_abandoned"), "{state}");
        }
        for other in [None, Some(Completed), Some(Compensated), Some(Abandoned)] {
            assert_eq!(refusal(Abandoned, other), None, "{other:?}");
        }
        for other in [Running, Compensating, Parked] {
            assert_eq!(
                refusal(Abandoned, Some(other)).as_deref(),
                Some("saga_unfinished"),
                "{other}"
            );
        }
        assert_eq!(
            check_given_up(ID, &[]).err().map(|fault| fault.code).as_deref(),
            Some("not_found")
        );
    }
}
