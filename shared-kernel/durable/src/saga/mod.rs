//! Processes across modules that finish or are undone, whatever dies in between.
//!
//! A saga is a row, and a log beside it that only grows. A runner claims it by a lease, sends the command that stands in it, and stores the
//! answer, the next decision and the next command's bytes in one transaction. See RELIABILITY.md, Sagas.

use std::{fmt::Debug, time::Duration};

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use shared_kernel::{Call, Fault};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Db, Tx};

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
    /// What the answer to a command means.
    type News: Clone + Debug + Send + Sync + 'static;

    /// Asks another module. No transaction is open; the same command may be sent again with the same `command_id`.
    ///
    /// # Errors
    /// A fault that is no refusal leaves the outcome open, and the command is sent again.
    async fn send(&self, call: &Call, command_id: Uuid, command: &Self::Command) -> Result<Self::News, Fault>;

    /// Takes an input and says what comes next. Runs inside the transaction that stores both, so it may change the module's own state there.
    ///
    /// # Errors
    /// A fault that is no refusal: tried again; a refusal or an internal one counts as a bug, and too many park the saga.
    async fn decide(&self, tx: &Tx, saga: &mut Progress<Self::State>, input: Input<Self::News>) -> Result<Decision<Self::Command>, Fault>;
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
    /// Sends a command forward.
    Do { step: &'static str, command: C },
    /// Sends the undo of `step`; from here on the saga compensates.
    Undo { step: &'static str, command: C },
    /// The other module is still at work: the same command again, after a while.
    Repeat { after: Duration },
    /// Goes on with the command under way; for signals and deadlines that come too late.
    Continue,
    /// All is done.
    Complete,
    /// All is undone.
    Compensated,
    /// A person must look.
    Park { reason: String },
}

/// Begins a saga in the caller's transaction. `business_key` is unique per kind: what it is about.
///
/// # Errors
/// `internal` if there is one already for this key; as any query.
pub async fn start<S: Saga>(tx: &Tx, call: &Call, business_key: &str, state: &S::State, deadline: Option<Duration>) -> Result<Uuid, Fault> {
    let _ = (tx, call, business_key, state, deadline);
    Err(Fault::internal("not_yet", "the saga runner is being built"))
}

/// Tells a saga something, in the caller's transaction. False: there is no unfinished saga of this kind and key.
///
/// # Errors
/// As any query.
pub async fn signal(tx: &Tx, kind: &str, business_key: &str, signal: &str) -> Result<bool, Fault> {
    let _ = (tx, kind, business_key, signal);
    Ok(false)
}

/// The id of a step's command: the same whenever and by whomever it is sent.
pub fn command_id(saga: Uuid, step: &str, undo: bool) -> Uuid {
    let direction = if undo { "undo" } else { "do" };
    Uuid::new_v5(&saga, format!("{step}/{direction}").as_bytes())
}

/// The sagas a module owns.
#[derive(Clone)]
pub struct Sagas {
    pub(crate) db: Db,
}

impl Sagas {
    pub fn new(db: Db) -> Self {
        Sagas { db }
    }

    pub fn with<S: Saga>(self, saga: S) -> Self {
        let _ = saga;
        self
    }

    /// Drives this module's due sagas until `stop`; then lets the commands under way end, gives the leases back and returns.
    pub async fn run(&self, stop: CancellationToken) {
        stop.cancelled().await;
    }
}
