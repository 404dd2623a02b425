//! Waiting for changes of single topics, however many wait.
//!
//! A receiver of [`Db::changes`](crate::Db::changes) is woken by every commit. That suits a few workers; hundreds of requests that each wait for a topic
//! of their own would all be woken for each other's. Here one receiver serves all of them and wakes only those concerned.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast};

use crate::{Change, Db};

/// Those who wait in this process for topics of one module.
#[derive(Clone)]
pub struct Watchers {
    db: Db,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    by_topic: HashMap<Arc<str>, Vec<Weak<Notify>>>,
    /// Whether the task that wakes them runs; it ends when nobody waits.
    served: bool,
}

/// One who waits for a topic, until dropped.
pub struct Watcher {
    topic: Arc<str>,
    woken: Arc<Notify>,
    waiting: Arc<Mutex<Waiting>>,
}

impl Watchers {
    pub fn new(db: Db) -> Self {
        Watchers {
            db,
            waiting: Arc::default(),
        }
    }

    /// Waits from now on: a commit after this call is not missed, also before [`Watcher::changed`] is called.
    pub fn watch(&self, topic: impl Into<Arc<str>>) -> Watcher {
        let (topic, woken) = (topic.into(), Arc::new(Notify::new()));
        let mut waiting = self.waiting.lock();
        waiting
            .by_topic
            .entry(topic.clone())
            .or_default()
            .push(Arc::downgrade(&woken));
        if !waiting.served {
            waiting.served = true;
            tokio::spawn(serve(
                self.db.changes(),
                Served {
                    waiting: self.waiting.clone(),
                    has_ended: false,
                },
            ));
        }
        Watcher {
            topic,
            woken,
            waiting: self.waiting.clone(),
        }
    }
}

impl Watcher {
    /// Returns once something was committed that concerns the topic, or may have been.
    pub async fn changed(&self) {
        self.woken.notified().await;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut waiting = self.waiting.lock();
        if let Some(watchers) = waiting.by_topic.get_mut(&self.topic) {
            watchers
                .retain(|other| other.strong_count() > 0 && !std::ptr::eq(other.as_ptr(), Arc::as_ptr(&self.woken)));
            if watchers.is_empty() {
                waiting.by_topic.remove(&self.topic);
            }
        }
    }
}

/// The task's own part. If it is dropped with its runtime, whoever waits is woken, looks once more and may wait again.
struct Served {
    waiting: Arc<Mutex<Waiting>>,
    has_ended: bool,
}

impl Served {
    /// Without a topic: everybody.
    fn wake(&self, topic: Option<&str>) {
        let waiting = self.waiting.lock();
        let notify = |watchers: &Vec<Weak<Notify>>| {
            watchers
                .iter()
                .filter_map(Weak::upgrade)
                .for_each(|woken| woken.notify_one())
        };
        match topic {
            Some(topic) => waiting.by_topic.get(topic).into_iter().for_each(notify),
            None => waiting.by_topic.values().for_each(notify),
        }
    }

    /// Whether nobody waits any more; the task then ends.
    fn is_idle(&mut self) -> bool {
        let mut waiting = self.waiting.lock();
        self.has_ended = waiting.by_topic.is_empty();
        waiting.served = !self.has_ended;
        self.has_ended
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if !self.has_ended {
            self.waiting.lock().served = false;
            self.wake(None);
        }
    }
}

async fn serve(mut changes: broadcast::Receiver<Change>, mut served: Served) {
    loop {
        match changes.recv().await {
            Ok(change) => served.wake(Some(&change.topic)),
            Err(broadcast::error::RecvError::Lagged(_)) => served.wake(None),
            Err(broadcast::error::RecvError::Closed) => return,
        }
        if served.is_idle() {
            return;
        }
    }
}
