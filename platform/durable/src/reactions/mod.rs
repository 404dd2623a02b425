//! A module's reactions to the events of other modules: each once, in order per subject.
//!
//! A `lane` row per subject stores the last version that was handled; it advances in the reaction's own transaction. An event that cannot be handled
//! when it arrives (its reaction failed, an earlier version is missing, it cannot be decoded) is kept in the `retry` table, and the bus gets `Ok`.

mod batch;
mod catch_up;
mod compared;
mod confirmed;
mod delivery;
mod gap;
mod lane;
mod restored;
pub(crate) mod retry;
mod runner;

use std::{future::Future, sync::Arc};

use banyan_core::{Call, Envelope, Event, Fault, TraceParent};
use futures::future::BoxFuture;

use crate::{Db, Tx};

pub(crate) use delivery::Deliveries;
pub(crate) use gap::{is_gap, pass};
pub(crate) use lane::{advance, reached, skipped_to};

/// An event that was delivered, with its envelope.
#[derive(Clone, Debug)]
pub struct Incoming<E> {
    pub event: E,
    pub envelope: Envelope,
}

impl<E> Incoming<E> {
    /// The context for what the reacting module does: it acts as itself, in the event's trace.
    pub fn call(&self, module: &str) -> Call {
        Call::by_module(module).traced(self.envelope.traceparent.as_deref().and_then(TraceParent::parse))
    }
}

type React = Arc<dyn Fn(Tx, Envelope) -> BoxFuture<'static, Result<(), Fault>> + Send + Sync>;

/// A module's reactions, by topic (`<module>.<aggregate>`) and event type.
#[derive(Clone)]
pub struct Reactions {
    pub(crate) db: Db,
    pub(crate) on: Vec<(&'static str, &'static str, React)>,
    /// The event types of the modules subscribed to, as this program was compiled: those without a reaction are of no interest, all others are unknown.
    known: Vec<(&'static str, &'static [&'static str])>,
}

impl Reactions {
    pub fn new(db: Db) -> Self {
        Reactions {
            db,
            on: Vec::new(),
            known: Vec::new(),
        }
    }

    /// Reacts to events of type `E` on `topic`. `react` runs in **one transaction** with the lane of the subject: it must not call other modules, and it
    /// takes effect once for each event. Its fault rolls it back, and it is retried.
    pub fn on<E, F, Fut>(mut self, topic: &'static str, react: F) -> Self
    where
        E: Event,
        F: Fn(Tx, Incoming<E>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        let react = Arc::new(react);
        self.known.push((topic, E::ALL_TYPES));
        self.on.push((
            topic,
            E::TYPE,
            Arc::new(move |tx, envelope: Envelope| {
                let react = react.clone();
                Box::pin(async move {
                    match envelope.find::<E>()? {
                        Some(event) => react(tx, Incoming { event, envelope }).await,
                        None => Ok(()),
                    }
                })
            }),
        ));
        self
    }

    /// The topics subscribed to, each once, sorted.
    pub(crate) fn topics(&self) -> Vec<String> {
        let mut topics: Vec<String> = self.on.iter().map(|(topic, ..)| (*topic).to_owned()).collect();
        topics.sort();
        topics.dedup();
        topics
    }

    pub(crate) fn subscribes_to(&self, topic: &str) -> bool {
        self.on.iter().any(|(of, ..)| *of == topic)
    }

    /// Whether the type of this event was known when this program was compiled.
    fn knows(&self, topic: &str, kind: &str) -> bool {
        let mut known = self
            .known
            .iter()
            .filter(|(of, _)| *of == topic)
            .flat_map(|(_, types)| *types);
        known.any(|known| *known == kind)
    }

    /// Runs every reaction to this event; there may be none.
    ///
    /// # Errors
    /// Those of the reactions. `unavailable` for a type that is newer than this program: the event waits until this module is upgraded, because a reaction
    /// that it passed over would never be made good.
    pub(crate) async fn react(&self, tx: &Tx, envelope: &Envelope) -> Result<(), Fault> {
        let topic = envelope.topic();
        if self.subscribes_to(&topic) && !self.knows(&topic, &envelope.kind) {
            let kind = &envelope.kind;
            return Err(Fault::unavailable(format!(
                "This version of the program does not know the event {kind}. Upgrade it."
            )));
        }
        for (of, kind, react) in &self.on {
            if *of == topic && *kind == envelope.kind {
                react(tx.clone(), envelope.clone()).await?;
            }
        }
        Ok(())
    }
}
