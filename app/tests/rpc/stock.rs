//! An inventory that does as it is told, and remembers how it was asked.

use std::{
    future::pending,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use banyan_core::{Call, Fault};
use banyan_event_feed_contract::{EventFeed, Events, ListEvents, ListSubjects, Subject, Subjects};
use inventory_contract::{
    CommitStock, FindStock, FoundStock, Inventory, ReleaseStock, Reservation, ReserveStock, RestockOrder, Restocking,
    StockCommitment, StockLevel, StockRelease, StockReserved, reservation,
};
use tokio_util::sync::CancellationToken;

/// What it does with a question.
#[derive(Clone, Default)]
pub enum Mood {
    #[default]
    Answers,
    Fails(Fault),
    /// Never answers.
    Ponders,
    /// Answers then.
    WaitsFor(CancellationToken),
}

#[derive(Default)]
pub struct Stock {
    mood: Mutex<Mood>,
    calls: Mutex<Vec<Call>>,
    given_up: Mutex<usize>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stock {
    pub fn is(&self, mood: Mood) {
        *lock(&self.mood) = mood;
    }

    pub fn calls(&self) -> Vec<Call> {
        lock(&self.calls).clone()
    }

    /// How many questions were dropped before they were answered.
    pub fn given_up(&self) -> usize {
        *lock(&self.given_up)
    }

    async fn answer<T>(&self, call: &Call, answer: T) -> Result<T, Fault> {
        struct Count<'a>(&'a Mutex<usize>);
        impl Drop for Count<'_> {
            fn drop(&mut self) {
                *lock(self.0) += 1;
            }
        }
        lock(&self.calls).push(call.clone());
        let mood = lock(&self.mood).clone();
        match mood {
            Mood::Answers => Ok(answer),
            Mood::Fails(fault) => Err(fault),
            Mood::WaitsFor(gate) => {
                gate.cancelled().await;
                Ok(answer)
            }
            Mood::Ponders => {
                let _count = Count(&self.given_up);
                pending().await
            }
        }
    }
}

#[async_trait]
impl Inventory for Stock {
    async fn reserve_stock(&self, call: &Call, _: ReserveStock) -> Result<Reservation, Fault> {
        self.answer(
            call,
            Reservation {
                outcome: Some(reservation::Outcome::Reserved(StockReserved {})),
            },
        )
        .await
    }

    async fn release_stock(&self, call: &Call, _: ReleaseStock) -> Result<StockRelease, Fault> {
        self.answer(call, StockRelease::default()).await
    }

    async fn commit_stock(&self, call: &Call, _: CommitStock) -> Result<StockCommitment, Fault> {
        self.answer(call, StockCommitment::default()).await
    }

    async fn restock_order(&self, call: &Call, _: RestockOrder) -> Result<Restocking, Fault> {
        self.answer(call, Restocking::default()).await
    }

    async fn find_stock(&self, call: &Call, request: FindStock) -> Result<FoundStock, Fault> {
        let level = StockLevel {
            sku: request.sku,
            available: 3,
            ..StockLevel::default()
        };
        self.answer(call, FoundStock { level: Some(level) }).await
    }
}

#[async_trait]
impl EventFeed for Stock {
    async fn list_subjects(&self, call: &Call, _: ListSubjects) -> Result<Subjects, Fault> {
        self.answer(
            call,
            Subjects {
                items: vec![Subject {
                    subject: "stock/tea-01".to_owned(),
                    last_version: 3,
                }],
            },
        )
        .await
    }

    async fn list_events(&self, call: &Call, _: ListEvents) -> Result<Events, Fault> {
        self.answer(call, Events::default()).await
    }
}
