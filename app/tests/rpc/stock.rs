//! An inventory stub whose behaviour the test sets, and that records its calls.

use std::{
    future::pending,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use banyan_core::{Call, Fault};
use banyan_event_feed_contract::{
    ConfirmHandled, Confirmed, EventFeed, Events, ListEvents, ListSubjects, Subject, Subjects,
};
use inventory_contract::{
    CommitStock, FindReservation, FindStock, FoundReservation, FoundStock, Inventory, ReleaseStock, Reservation,
    ReserveStock, RestockOrder, Restocking, StockCommitment, StockLevel, StockRelease, StockReserved, reservation,
};
use tokio_util::sync::CancellationToken;

/// What it does with a call.
#[derive(Clone, Default)]
pub enum Behaviour {
    #[default]
    Responds,
    Fails(Fault),
    /// Never returns.
    Hangs,
    /// Returns once this is cancelled.
    WaitsFor(CancellationToken),
}

#[derive(Default)]
pub struct Stock {
    behaviour: Mutex<Behaviour>,
    calls: Mutex<Vec<Call>>,
    cancelled: Mutex<usize>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stock {
    pub fn set(&self, behaviour: Behaviour) {
        *lock(&self.behaviour) = behaviour;
    }

    pub fn calls(&self) -> Vec<Call> {
        lock(&self.calls).clone()
    }

    /// The number of calls that were cancelled before they returned.
    pub fn cancelled(&self) -> usize {
        *lock(&self.cancelled)
    }

    async fn respond<T>(&self, call: &Call, response: T) -> Result<T, Fault> {
        struct Count<'a>(&'a Mutex<usize>);
        impl Drop for Count<'_> {
            fn drop(&mut self) {
                *lock(self.0) += 1;
            }
        }
        lock(&self.calls).push(call.clone());
        let behaviour = lock(&self.behaviour).clone();
        match behaviour {
            Behaviour::Responds => Ok(response),
            Behaviour::Fails(fault) => Err(fault),
            Behaviour::WaitsFor(gate) => {
                gate.cancelled().await;
                Ok(response)
            }
            Behaviour::Hangs => {
                let _count = Count(&self.cancelled);
                pending().await
            }
        }
    }
}

#[async_trait]
impl Inventory for Stock {
    async fn reserve_stock(&self, call: &Call, _: ReserveStock) -> Result<Reservation, Fault> {
        self.respond(
            call,
            Reservation {
                outcome: Some(reservation::Outcome::Reserved(StockReserved {})),
            },
        )
        .await
    }

    async fn release_stock(&self, call: &Call, _: ReleaseStock) -> Result<StockRelease, Fault> {
        self.respond(call, StockRelease::default()).await
    }

    async fn commit_stock(&self, call: &Call, _: CommitStock) -> Result<StockCommitment, Fault> {
        self.respond(call, StockCommitment::default()).await
    }

    async fn restock_order(&self, call: &Call, _: RestockOrder) -> Result<Restocking, Fault> {
        self.respond(call, Restocking::default()).await
    }

    async fn find_reservation(&self, call: &Call, _: FindReservation) -> Result<FoundReservation, Fault> {
        self.respond(call, FoundReservation::default()).await
    }

    async fn find_stock(&self, call: &Call, request: FindStock) -> Result<FoundStock, Fault> {
        let level = StockLevel {
            sku: request.sku,
            available: 3,
            ..StockLevel::default()
        };
        self.respond(call, FoundStock { level: Some(level) }).await
    }
}

#[async_trait]
impl EventFeed for Stock {
    async fn list_subjects(&self, call: &Call, _: ListSubjects) -> Result<Subjects, Fault> {
        self.respond(
            call,
            Subjects {
                items: vec![Subject {
                    subject: "stock/tea-01".to_owned(),
                    last_version: 3,
                    ..Subject::default()
                }],
                ..Subjects::default()
            },
        )
        .await
    }

    async fn list_events(&self, call: &Call, _: ListEvents) -> Result<Events, Fault> {
        self.respond(call, Events::default()).await
    }

    async fn confirm_handled(&self, call: &Call, _: ConfirmHandled) -> Result<Confirmed, Fault> {
        self.respond(call, Confirmed::default()).await
    }
}
