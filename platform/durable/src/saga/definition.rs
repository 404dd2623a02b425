//! Definitions of different types behind one trait: what the runner calls without knowing the types of a saga's state, commands and news.

use std::{any::Any, sync::Arc};

use async_trait::async_trait;
use banyan_core::{Call, Fault, Timestamp, TraceParent};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Decision, Input, Leftovers, Progress, Saga, UndoLeftover, Undone,
    store::{Row, SagaState},
};
use crate::{Db, Tx};

/// News of whatever type the definition has for it, and its text in the log: JSON.
#[derive(Clone)]
pub(super) struct ErasedNews {
    news: Arc<dyn Any + Send + Sync>,
    pub text: String,
}

/// What a definition decided: the state to store, and the decision with its command as bytes.
pub(super) struct Decided {
    pub payload: String,
    pub decision: Decision<String>,
}

#[async_trait]
pub(super) trait Definition: Send + Sync {
    fn kind(&self) -> &'static str;
    fn version(&self) -> i64;
    async fn send(&self, call: &Call, command: &str) -> Result<ErasedNews, Fault>;
    async fn decide(&self, tx: &Tx, row: &Row, now: Timestamp, input: Input<ErasedNews>) -> Result<Decided, Fault>;
    async fn abandon(&self, tx: &Tx, row: &Row) -> Result<(), Fault>;
    async fn leftovers(&self, call: &Call, business_key: &str) -> Leftovers;
    async fn undo_leftover(&self, db: &Db, call: &Call, undo: UndoLeftover) -> Result<Undone, Fault>;
    fn shown(&self, payload: &str) -> serde_json::Value;
}

pub(super) struct Defined<S>(pub S);

#[async_trait]
impl<S: Saga> Definition for Defined<S> {
    fn kind(&self) -> &'static str {
        S::KIND
    }

    fn version(&self) -> i64 {
        S::VERSION
    }

    async fn send(&self, call: &Call, command: &str) -> Result<ErasedNews, Fault> {
        let command: S::Command = read("command", command)?;
        let news = self.0.send(call, &command).await?;
        Ok(ErasedNews {
            text: write("news", &news)?,
            news: Arc::new(news),
        })
    }

    async fn decide(&self, tx: &Tx, row: &Row, now: Timestamp, input: Input<ErasedNews>) -> Result<Decided, Fault> {
        let mut progress = Progress {
            id: row.id,
            business_key: row.business_key.clone(),
            state: read("state", &row.payload)?,
            step: row.step.clone(),
            compensating: row.state == SagaState::Compensating,
            deadline_passed: row.deadline_passed(now),
            signal: row.signal.clone(),
            call: call(tx.module(), row),
        };
        let decision = self.0.decide(tx, &mut progress, typed::<S>(input)?).await?;
        Ok(Decided {
            payload: write("state", &progress.state)?,
            decision: as_bytes(decision)?,
        })
    }

    async fn abandon(&self, tx: &Tx, row: &Row) -> Result<(), Fault> {
        self.0.abandon(tx, &call(tx.module(), row), &row.business_key).await
    }

    async fn leftovers(&self, call: &Call, business_key: &str) -> Leftovers {
        self.0.leftovers(call, business_key).await
    }

    async fn undo_leftover(&self, db: &Db, call: &Call, undo: UndoLeftover) -> Result<Undone, Fault> {
        self.0.undo_leftover(db, call, undo).await
    }

    fn shown(&self, payload: &str) -> serde_json::Value {
        match serde_json::from_str::<S::State>(payload) {
            Ok(state) => S::shown(&state),
            // That may be the very reason to look. The text itself is not shown.
            Err(error) => format!("unreadable at line {} column {}", error.line(), error.column()).into(),
        }
    }
}

/// The context of what a saga sends and writes: its module acts as itself, in the trace of the request that started the saga.
pub(super) fn call(module: &str, row: &Row) -> Call {
    Call::by_module(module).traced(row.traceparent.as_deref().and_then(TraceParent::parse))
}

fn typed<S: Saga>(input: Input<ErasedNews>) -> Result<Input<S::News>, Fault> {
    Ok(match input {
        Input::News(erased) => {
            let news = erased.news.downcast_ref::<S::News>();
            Input::News(
                news.cloned()
                    .ok_or_else(|| Fault::internal("foreign_news", "news of another saga's type"))?,
            )
        }
        Input::Started => Input::Started,
        Input::Refused(fault) => Input::Refused(fault),
        Input::Signal(signal) => Input::Signal(signal),
        Input::DeadlinePassed => Input::DeadlinePassed,
        Input::Compensate => Input::Compensate,
    })
}

fn as_bytes<C: Serialize>(decision: Decision<C>) -> Result<Decision<String>, Fault> {
    Ok(match decision {
        Decision::Do { step, command } => Decision::Do {
            step,
            command: write("command", &command)?,
        },
        Decision::Undo { step, command } => Decision::Undo {
            step,
            command: write("command", &command)?,
        },
        Decision::Repeat { after } => Decision::Repeat { after },
        Decision::Continue => Decision::Continue,
        Decision::Complete => Decision::Complete,
        Decision::Compensated => Decision::Compensated,
        Decision::Park { reason } => Decision::Park { reason },
        Decision::ParkRefused {
            reason,
            attempt,
            command,
        } => Decision::ParkRefused {
            reason,
            attempt,
            command: write("command", &command)?,
        },
    })
}

fn read<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, Fault> {
    serde_json::from_str(text)
        .map_err(|error| Fault::internal("unreadable_saga", format!("its {what} cannot be read: {error}")))
}

pub(super) fn write<T: Serialize>(what: &str, value: &T) -> Result<String, Fault> {
    serde_json::to_string(value)
        .map_err(|error| Fault::internal("unwritable_saga", format!("its {what} cannot be written: {error}")))
}

/// The definitions of one module.
#[derive(Clone, Default)]
pub(super) struct Definitions(Vec<Arc<dyn Definition>>);

impl Definitions {
    pub fn add(&mut self, definition: Arc<dyn Definition>) {
        self.0.push(definition);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn find(&self, kind: &str, version: i64) -> Option<&Arc<dyn Definition>> {
        self.0
            .iter()
            .find(|known| known.kind() == kind && known.version() == version)
    }

    /// The newest definition of this kind.
    pub fn find_kind(&self, kind: &str) -> Option<&Arc<dyn Definition>> {
        self.0
            .iter()
            .filter(|known| known.kind() == kind)
            .max_by_key(|known| known.version())
    }

    /// The kinds and versions that this binary knows.
    pub fn known(&self) -> Vec<(&'static str, i64)> {
        self.0.iter().map(|known| (known.kind(), known.version())).collect()
    }
}
