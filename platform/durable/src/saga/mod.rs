//! Processes across modules that finish or are undone, whatever dies in between.
//!
//! A saga is a row, and a log beside it that only grows. A runner claims it by a lease, sends the command that stands in it, and stores the
//! answer, the next decision and the next command's bytes in one transaction. See RELIABILITY.md, Sagas.
//!
//! - An answer, or a refusal, is told to the definition at once.
//! - An outcome that is unknown is asked for again with the same id and the same bytes, without limit; before each such repeat the definition
//!   learns of a signal that waits and, once, of a deadline that passed.
//! - A bug (what cannot be read, a panic, a broken invariant) is tried a few times and then parks this saga, and no other.
//!
//! Invariant: whatever a runner writes says under which lease token it was claimed. One that lost its lease, or that an operator overruled,
//! writes nothing.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use banyan_core::{Call, Fault};
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Db, Tx};

mod advance;
mod definition;
mod ops;
mod rules;
mod runner;
mod store;

pub use ops::{SagaDetails, SagaFilter, SagaLogEntry, SagaOps, SagaView};
pub use store::SagaState;

/// Woken when a saga may have something to do, or has come to its end.
pub(crate) const TOPIC: &str = "saga";

/// One kind of process, in one version of its definition.
#[async_trait]
pub trait Saga: Send + Sync + 'static {
    const KIND: &'static str;
    /// A saga finishes under the version it was born with: a changed definition is a new version beside the old one.
    const VERSION: i64;
    /// What the process has learned so far.
    type State: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;
    /// What it asks of other modules. Its bytes are stored before it is first sent, and sent unchanged ever after.
    type Command: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;
    /// What the answer to a command means. Its JSON is what operators read in the saga's log: `{"outcome": "declined", "detail": ...}`.
    type News: Clone + Serialize + Send + Sync + 'static;

    /// Calls another module. No transaction is open; the same command may be sent again, so it contains its id: [`command_id`] or [`attempt_id`].
    ///
    /// # Errors
    /// A fault that is not a refusal leaves the outcome open, and the command is sent again.
    async fn send(&self, call: &Call, command: &Self::Command) -> Result<Self::News, Fault>;

    /// Takes an input and says what comes next. Runs inside the transaction that stores both, so it may change the module's own state there.
    /// It may run more than once for one input, each time on the state as stored; only its last run counts.
    ///
    /// # Errors
    /// A fault that is not a refusal: tried again; a refusal or an internal one counts as a bug, and too many park the saga.
    async fn decide(
        &self,
        tx: &Tx,
        saga: &mut Progress<Self::State>,
        input: Input<Self::News>,
    ) -> Result<Decision<Self::Command>, Fault>;

    /// What operators may see of its state: steps, ids and outcomes. Never what is personal; an operator need not be allowed to see that.
    fn shown(state: &Self::State) -> serde_json::Value {
        let _ = state;
        serde_json::Value::Null
    }

    /// An operator gives the saga up as it stands: what that means for the module's own state, in the transaction that ends the saga. It is not told
    /// the saga's state, which may be the very thing that cannot be read.
    ///
    /// # Errors
    /// Told to the operator; the saga stays parked.
    async fn abandon(&self, tx: &Tx, call: &Call, business_key: &str) -> Result<(), Fault> {
        let _ = (tx, call, business_key);
        Ok(())
    }
}

/// A saga as its definition sees it.
#[derive(Clone, Debug)]
pub struct Progress<S> {
    pub id: Uuid,
    pub business_key: String,
    pub state: S,
    /// The step under way; empty before the first.
    pub step: String,
    /// Undoing; the decision to do so is committed.
    pub compensating: bool,
    /// Judged by the database's clock, in this transaction.
    pub deadline_passed: bool,
    /// A signal that waits, also while other news is taken. Cleared after the decision that saw it.
    pub signal: Option<String>,
    /// The context for what the saga writes: the module's own doing, in the trace of the request that started it.
    pub call: Call,
}

/// What a saga is told.
#[derive(Clone, Debug)]
pub enum Input<N> {
    /// It begins.
    Started,
    /// Its command was answered.
    News(N),
    /// Its command was refused with a fault for good: the other module will never do it.
    Refused(Fault),
    /// Somebody signalled while a command is on its way (its outcome unknown).
    Signal(String),
    /// The deadline passed while a command is on its way. Told once.
    DeadlinePassed,
    /// An operator wants it undone.
    Compensate,
}

/// What a saga does next.
#[derive(Clone, Debug)]
pub enum Decision<C> {
    /// Sends a command forward. A step is done once and undone once: its name and direction make the command's id.
    Do { step: &'static str, command: C },
    /// Sends the undo of `step`; from here on the saga compensates.
    Undo { step: &'static str, command: C },
    /// The other module is still at work: the same command again, after a while.
    Repeat { after: Duration },
    /// Goes on with the command under way; for signals, deadlines and operators that come too late.
    Continue,
    /// All is done.
    Complete,
    /// All is undone, or nothing had been done.
    Compensated,
    /// A person must look.
    Park { reason: String },
    /// A person must look, because the command under way was refused for good. A refusal may be remembered under the command's id, so that the same
    /// again would be refused even if the cause were mended: retried by an operator, the saga sends this one, under the id of this attempt.
    ParkRefused { reason: String, attempt: u32, command: C },
}

/// Begins a saga in the caller's transaction. `business_key` is unique per kind: what it is about. Topics named like it are woken when the saga
/// comes to its end. The deadline counts from now by the database's clock.
///
/// # Errors
/// `saga_exists` (internal) if there is one already for this key; as any query.
pub async fn start<S: Saga>(
    tx: &Tx,
    call: &Call,
    business_key: &str,
    state: &S::State,
    deadline: Option<Duration>,
) -> Result<Uuid, Fault> {
    let payload = serde_json::to_string(state)
        .map_err(|error| Fault::internal("unwritable_saga", format!("{}: {error}", S::KIND)))?;
    let id = tx.ids().new_id();
    let new = store::New {
        id,
        kind: S::KIND,
        version: S::VERSION,
        business_key,
        payload: &payload,
        deadline,
        call,
    };
    if !store::insert(tx, new).await? {
        return Err(Fault::internal(
            "saga_exists",
            format!("there is a saga {} for {business_key} already", S::KIND),
        ));
    }
    tx.wake(TOPIC);
    Ok(id)
}

/// Tells a saga something, in the caller's transaction. False: there is no unfinished saga of this kind and key. A later signal replaces one
/// that was not heard yet.
///
/// It locks the saga's row, and the runner locks that row before whatever `decide` changes: so signal **before** changing what `decide`
/// changes too, or the two may deadlock on PostgreSQL and one of them has to start over.
///
/// # Errors
/// As any query.
pub async fn signal(tx: &Tx, kind: &str, business_key: &str, signal: &str) -> Result<bool, Fault> {
    let heard = store::signal(tx, kind, business_key, signal).await?;
    if heard {
        tx.wake(TOPIC);
    }
    Ok(heard)
}

/// Whether at least `count` sagas of this kind are running or compensating. Parked ones wait for an operator, cost nothing and do not count.
///
/// It looks at no more rows than `count`, and locks none: several who ask before they start one may together start a few more.
///
/// # Errors
/// As any query.
pub async fn at_least_under_way<S: Saga>(db: &Db, count: u64) -> Result<bool, Fault> {
    store::at_least_under_way(db, S::KIND, count).await
}

/// The id of a step's command: the same whenever and by whomever it is sent.
pub fn command_id(saga: Uuid, step: &str, undo: bool) -> Uuid {
    let direction = if undo { "undo" } else { "do" };
    Uuid::new_v5(&saga, format!("{step}/{direction}").as_bytes())
}

/// The id of a command that is sent anew after this number of definite refusals; after none it is [`command_id`].
pub fn attempt_id(saga: Uuid, step: &str, undo: bool, refusals: u32) -> Uuid {
    let first = command_id(saga, step, undo);
    if refusals == 0 {
        first
    } else {
        Uuid::new_v5(&first, &refusals.to_be_bytes())
    }
}

/// The sagas a module owns.
#[derive(Clone)]
pub struct Sagas {
    pub(crate) db: Db,
    definitions: definition::Definitions,
}

impl Sagas {
    pub fn new(db: Db) -> Self {
        Sagas {
            db,
            definitions: definition::Definitions::default(),
        }
    }

    /// Adds a definition. Sagas of a kind and version that was not added are left to a binary that knows them.
    pub fn with<S: Saga>(mut self, saga: S) -> Self {
        self.definitions.add(Arc::new(definition::Defined(saga)));
        self
    }

    /// What operators see of them, and may do to one.
    pub(crate) fn ops(&self) -> SagaOps {
        SagaOps::new(self.db.clone(), self.definitions.clone())
    }

    /// Drives this module's due sagas until `stop`; then lets the commands under way end for a short while, gives the leases back and returns.
    /// Dropping the future instead is like a crash: the leases end by themselves.
    pub async fn run(&self, stop: CancellationToken) {
        runner::run(self.db.clone(), self.definitions.clone(), stop).await;
    }
}
