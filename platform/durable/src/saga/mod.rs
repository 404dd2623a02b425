//! Processes across modules that are completed or undone, whatever crashes in between.
//!
//! A saga is a row, with a log that only grows. A runner claims it by a lease, sends the command in the row, and stores the response, the next decision
//! and the next command's bytes in one transaction. See RELIABILITY.md, Sagas.
//!
//! - A response or a refusal is passed to the definition at once.
//! - After an unknown outcome the command is sent again with the same id and the same bytes, without limit; before each such repeat the definition gets
//!   a waiting signal and, once, a deadline that has passed.
//! - A bug (undecodable data, a panic, a broken invariant) is retried a few times and then parks this saga, and no other.
//!
//! Invariant: a runner writes under the lease token of its claim. One that lost its lease, or that an operator overruled, writes nothing.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use banyan_core::{Call, Fault};
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Db, Tx};

mod advance;
mod definition;
pub(crate) mod fold;
pub(crate) mod handover;
mod leftovers;
mod log;
mod ops;
mod rules;
mod runner;
mod store;

pub use leftovers::{Leftover, Leftovers, UndoLeftover, Undone};
pub use log::SagaLogEntry;
pub use ops::{SagaDetails, SagaFilter, SagaOps, SagaView};
pub use store::SagaState;

/// Woken when a saga may be due.
pub(crate) const TOPIC: &str = "saga";

/// One kind of process, in one version of its definition.
#[async_trait]
pub trait Saga: Send + Sync + 'static {
    const KIND: &'static str;
    /// A saga ends under the version it was started with: a changed definition is a new version beside the old one.
    const VERSION: i64;
    /// What the process has learned so far.
    type State: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;
    /// A command to another module. Its bytes are stored before it is first sent, and sent unchanged ever after.
    type Command: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;
    /// What the response to a command means. Its JSON is what operators read in the saga's log: `{"outcome": "declined", "detail": ...}`.
    type News: Clone + Serialize + Send + Sync + 'static;

    /// Calls another module. No transaction is open; the same command may be sent again, so it contains its id:
    /// [`command_id`] or [`attempt_id`].
    ///
    /// # Errors
    /// A fault other than a refusal leaves the outcome open, and the command is sent again.
    async fn send(&self, call: &Call, command: &Self::Command) -> Result<Self::News, Fault>;

    /// The first step with its command, if the state alone decides on it: it is then stored with the saga, and the definition gets no
    /// [`Input::Started`]. It may change the state, which is stored after it.
    fn begin(id: Uuid, state: &mut Self::State) -> Option<(&'static str, Self::Command)> {
        let _ = (id, state);
        None
    }

    /// Processes an input and decides what comes next. Runs inside the transaction that stores both, so it may change the module's own state there.
    /// It may run more than once for one input, because the saga got a signal or somebody else acted on it meanwhile; only its last run counts, and that is
    /// on the state as stored.
    ///
    /// # Errors
    /// A transient fault: it is retried. Any other fault counts as a bug, and too many park the saga.
    async fn decide(
        &self,
        tx: &Tx,
        saga: &mut Progress<Self::State>,
        input: Input<Self::News>,
    ) -> Result<Decision<Self::Command>, Fault>;

    /// What operators may see of its state: steps, ids and outcomes. Never personal data, which an operator need not be allowed to see.
    fn shown(state: &Self::State) -> serde_json::Value {
        let _ = state;
        serde_json::Value::Null
    }

    /// An operator abandons the saga as it is: what that means for the module's own state, in the transaction that ends the saga. It does not get the
    /// saga's state, which may be the very thing that cannot be read.
    ///
    /// # Errors
    /// Shown to the operator; the saga stays parked.
    async fn abandon(&self, tx: &Tx, call: &Call, business_key: &str) -> Result<(), Fault> {
        let _ = (tx, call, business_key);
        Ok(())
    }

    /// What a process about this key has in other modules now, for operators; asked of them, by the key alone. No transaction is open. A module that does
    /// not respond is named in the result.
    async fn leftovers(&self, call: &Call, business_key: &str) -> Leftovers {
        let _ = (call, business_key);
        Leftovers::default()
    }

    /// An operator, who is the caller, undoes something that an abandoned saga has left. No transaction is open, and no saga about the key will ever go
    /// on. The same command may be sent again.
    ///
    /// # Errors
    /// `not_found` for an undo that it does not know; a refusal, which is shown to the operator; any other fault leaves the outcome open.
    async fn undo_leftover(&self, db: &Db, call: &Call, undo: UndoLeftover) -> Result<Undone, Fault> {
        let _ = (db, call, undo);
        Err(Fault::not_found("undo of this saga"))
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
    /// A waiting signal, also while another input is processed. It is cleared after this decision.
    pub signal: Option<String>,
    /// The context for what the saga writes: the module acts as itself, in the trace of the request that started the saga.
    pub call: Call,
}

/// What a saga decides on.
#[derive(Clone, Debug)]
pub enum Input<N> {
    /// It begins, unless [`Saga::begin`] has decided on its first step.
    Started,
    /// The response to its command.
    News(N),
    /// Its command was finally refused with a fault: the other module will never carry it out.
    Refused(Fault),
    /// A signal, while the outcome of a command is unknown.
    Signal(String),
    /// The deadline passed while the outcome of a command is unknown. It comes once.
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
    /// The other module is still working: the same command again, after a delay.
    Repeat { after: Duration },
    /// Continues with the command under way; for signals, deadlines and requests of operators that come too late.
    Continue,
    /// All is done.
    Complete,
    /// All is undone, or nothing had been done.
    Compensated,
    /// An operator must decide.
    Park { reason: String },
    /// An operator must decide, because the command under way was finally refused. The refusal may be remembered under the command's id, so that the
    /// same command would be refused again even after its cause was fixed: retried by an operator, the saga sends this one, under the id of this attempt.
    ParkRefused { reason: String, attempt: u32, command: C },
}

/// Starts a saga in the caller's transaction. `business_key` says what it is about and is unique per kind; the topic of this name is woken when the saga
/// ends. The deadline counts from now, by the database's clock.
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
    let id = tx.ids().new_id();
    let mut state = state.clone();
    let first = match S::begin(id, &mut state) {
        Some((step, command)) => Some((step, definition::write("command", &command)?)),
        None => None,
    };
    let payload = definition::write("state", &state)?;
    let reserved = tx.handover().reserve(S::KIND, S::VERSION);
    let new = store::New {
        id,
        kind: S::KIND,
        version: S::VERSION,
        business_key,
        payload: &payload,
        first,
        deadline,
        call,
        owner: reserved.as_ref().map(|reserved| &*reserved.owner),
    };
    let Some(row) = store::insert(tx, new).await? else {
        return Err(Fault::internal(
            "saga_exists",
            format!("there is a saga {} for {business_key} already", S::KIND),
        ));
    };
    match reserved {
        Some(reserved) => reserved.hand_over(tx, row),
        None => tx.wake(TOPIC),
    }
    Ok(id)
}

/// Sends a signal to a saga, in the caller's transaction. False: there is no unfinished saga of this kind and key. A later signal replaces one that
/// was not processed yet.
///
/// It locks the saga's row, and the runner locks that row after whatever `decide` changes: so signal **after** changing what `decide`
/// changes too, or the two may deadlock on PostgreSQL and one of them is repeated.
///
/// # Errors
/// As any query.
pub async fn signal(tx: &Tx, kind: &str, business_key: &str, signal: &str) -> Result<bool, Fault> {
    let found = store::signal(tx, kind, business_key, signal).await?;
    if found {
        tx.wake(TOPIC);
    }
    Ok(found)
}

/// The number of sagas of this kind that are running, up to `most`. Those that are compensated do not count: they may have to wait for a module that is away, and
/// what is refused meanwhile would not help them. Parked ones wait for an operator, cost nothing and do not count.
///
/// It reads at most `most` rows and locks none: several callers that check before they start a saga may together start a few more.
///
/// # Errors
/// As any query.
pub async fn count_under_way<S: Saga>(db: &Db, most: u64) -> Result<u64, Fault> {
    store::count_under_way(db, S::KIND, most).await
}

/// The id of a step's command: the same for every attempt.
pub fn command_id(saga: Uuid, step: &str, undo: bool) -> Uuid {
    let direction = if undo { "undo" } else { "do" };
    Uuid::new_v5(&saga, format!("{step}/{direction}").as_bytes())
}

/// The id of a command that is sent anew after it was finally refused `refusals` times; for 0 it is [`command_id`].
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

    /// Adds a definition. Sagas of other kinds and versions are left to a binary that knows them.
    pub fn with<S: Saga>(mut self, saga: S) -> Self {
        self.definitions.add(Arc::new(definition::Defined(saga)));
        self
    }

    /// What operators can see of them, and do to one.
    pub(crate) fn ops(&self) -> SagaOps {
        SagaOps::new(self.db.clone(), self.definitions.clone())
    }

    /// Runs this module's due sagas until `stop`; then gives the commands under way a short time to end, releases the leases and returns.
    /// Dropping the future instead is like a crash: the leases expire.
    pub async fn run(&self, stop: CancellationToken) {
        runner::run(self.db.clone(), self.definitions.clone(), stop).await;
    }
}
