//! What a module does on hearing other modules' events: once each, in order per subject.
//!
//! A `lane` row per subject remembers how far it was followed and advances in the reaction's own transaction. Whatever cannot be handled when it
//! comes (its reaction failed, an earlier version is missing, it is unreadable) is kept in the `retry` table, and the bus is told "taken".

mod catch_up;
mod delivery;
mod lane;
pub(crate) mod retry;
mod runner;

use std::{future::Future, sync::Arc};

use banyan_core::{Call, Envelope, Event, Fault, TraceParent};
use futures::future::BoxFuture;

use crate::{Db, Tx};

pub(crate) use delivery::Deliveries;
pub(crate) use lane::{advance, reached};

/// An event with the envelope it came in.
#[derive(Clone, Debug)]
pub struct Incoming<E> {
    pub event: E,
    pub envelope: Envelope,
}

impl<E> Incoming<E> {
    /// The context for what the reacting module does: its own doing, in the event's trace.
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
}

impl Reactions {
    pub fn new(db: Db) -> Self {
        Reactions { db, on: Vec::new() }
    }

    /// Reacts to events of type `E` on `topic`. `react` runs in **one transaction** with the lane that remembers how far the subject was
    /// followed: it must not call other modules, and it need not fear seeing an event twice. Its fault rolls it back, and it is tried again.
    pub fn on<E, F, Fut>(mut self, topic: &'static str, react: F) -> Self
    where
        E: Event,
        F: Fn(Tx, Incoming<E>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        let react = Arc::new(react);
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

    /// What is listened to, each topic once, sorted.
    pub(crate) fn topics(&self) -> Vec<String> {
        let mut topics: Vec<String> = self.on.iter().map(|(topic, ..)| (*topic).to_owned()).collect();
        topics.sort();
        topics.dedup();
        topics
    }

    pub(crate) fn listens_to(&self, topic: &str) -> bool {
        self.on.iter().any(|(of, ..)| *of == topic)
    }

    /// Does everything that is to be done on hearing this event; nothing if it is of no interest.
    pub(crate) async fn react(&self, tx: &Tx, envelope: &Envelope) -> Result<(), Fault> {
        let topic = envelope.topic();
        for (of, kind, react) in &self.on {
            if *of == topic && *kind == envelope.kind {
                react(tx.clone(), envelope.clone()).await?;
            }
        }
        Ok(())
    }
}
