//! What a module does on hearing other modules' events: once each, in order per subject.

use std::{future::Future, sync::Arc};

use futures::future::BoxFuture;
use shared_kernel::{Call, Envelope, Event, Fault, TraceParent};

use crate::{Db, Tx};

/// An event with the envelope it came in.
#[derive(Clone, Debug)]
pub struct Heard<E> {
    pub event: E,
    pub envelope: Envelope,
}

impl<E> Heard<E> {
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
        F: Fn(Tx, Heard<E>) -> Fut + Send + Sync + 'static,
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
                        Some(event) => react(tx, Heard { event, envelope }).await,
                        None => Ok(()),
                    }
                })
            }),
        ));
        self
    }
}
