//! Receipts, adjustments and reservations. Each method that writes is one transaction, which includes its events.
//!
//! Items are always locked in the order of their skus, so that transactions cannot deadlock.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use banyan_core::{Actor, Call, Clock, Fault, FaultKind, Ids, Page, PageRequest, parse_id};
use banyan_durable::{
    Command, Db, Memory, Outcome, Remembered, Tx, Versioned, audit_operator,
    outbox::{self, NewEvent},
};
use banyan_http::IfMatch;
use inventory_contract::{
    AlreadyUndone, CommitStock, FindReservation, FindStock, FoundReservation, FoundStock, InsufficientStock, Inventory,
    OrderReservation, ReleaseStock, Reservation, ReserveStock, RestockOrder, Restocking, StockCommitment, StockLevel,
    StockLevelChanged, StockLine, StockRelease, StockReserved, reservation,
};
use prost::Message;
use shared_kernel::Sku;
use uuid::Uuid;

use crate::{
    reservation::{Lines, ReservationState, Transition},
    stock::{Movement, StockItem},
    store,
};

/// The command kind of a reservation, which a release refers to.
const RESERVE_STOCK: &str = "reserve_stock";
const RELEASE_STOCK: &str = "release_stock";

#[derive(Clone)]
pub struct Service {
    db: Db,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    publishes_levels: bool,
    /// By order: a checkout reserves and commits within a second.
    remembered: Remembered<store::Reservation>,
}

/// A held reservation is the first version; whatever becomes of it is the second.
impl Versioned for store::Reservation {
    fn version(&self) -> i64 {
        if self.state == ReservationState::Held { 1 } else { 2 }
    }
}

/// One movement of several items.
pub struct Moved<'a> {
    pub kind: Movement,
    /// The units moved of each item.
    pub lines: &'a Lines,
    /// The levels after the movement.
    pub items: &'a [StockItem],
    /// The order they were moved for.
    pub order_id: Option<Uuid>,
    pub reason: Option<String>,
}

/// Why a command was given, if an operator gave it.
#[derive(Clone, Default)]
struct Why {
    reason: Option<String>,
    comment: Option<String>,
}

impl Service {
    pub fn new(db: Db, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>, publishes_levels: bool) -> Self {
        Service {
            db,
            clock,
            ids,
            publishes_levels,
            remembered: Remembered::default(),
        }
    }

    pub fn db(&self) -> &Db {
        &self.db
    }

    pub async fn find_item(&self, sku: &Sku) -> Result<Option<StockItem>, Fault> {
        store::find_item(self.db.read(), sku).await
    }

    /// # Errors
    /// `invalid_parameter` for a cursor of another list.
    pub async fn list_items(&self, page: &PageRequest) -> Result<Page<StockItem>, Fault> {
        store::list_items(self.db.read(), page).await
    }

    /// Refuses a change of a level that is not the one which the client has read.
    ///
    /// # Errors
    /// `precondition_failed`, also for a sku that was never received.
    pub async fn check_version(&self, tx: &Tx, sku: &Sku, version: &IfMatch) -> Result<(), Fault> {
        if !version.is_present() {
            return Ok(());
        }
        match store::lock_item(tx.conn(), sku).await? {
            Some(item) => version.check(&banyan_http::etag(item.version)),
            None => Err(Fault::new(
                FaultKind::PreconditionFailed,
                "precondition_failed",
                "There is no stock of this sku yet.",
            )),
        }
    }

    /// Books received units. The first receipt of a sku creates its item, whether or not the catalog has such a product.
    pub async fn receive(
        &self,
        tx: &Tx,
        call: &Call,
        sku: &Sku,
        quantity: i64,
        reason: Option<String>,
    ) -> Result<StockItem, Fault> {
        let items = self.receive_all(tx, call, &Lines::of(sku, quantity), reason).await?;
        let item = items.into_iter().next();
        item.ok_or_else(|| Fault::internal("broken_stock", format!("a receipt of {sku} returned no level")))
    }

    /// As [`receive`](Service::receive), for several items.
    pub async fn receive_all(
        &self,
        tx: &Tx,
        call: &Call,
        lines: &Lines,
        reason: Option<String>,
    ) -> Result<Vec<StockItem>, Fault> {
        let items = store::receive_units(tx.conn(), lines).await?;
        let moved = Moved {
            kind: Movement::Received,
            lines,
            items: &items,
            order_id: None,
            reason,
        };
        self.record(tx, call, moved).await?;
        Ok(items)
    }

    /// Books the difference between counted and booked units; `difference` is not zero.
    ///
    /// # Errors
    /// `not_found` for a sku that was never received; `below_reserved` if fewer units would be left than are reserved.
    pub async fn adjust(
        &self,
        tx: &Tx,
        call: &Call,
        sku: &Sku,
        difference: i64,
        reason: Option<String>,
    ) -> Result<StockItem, Fault> {
        let (kind, quantity) = Movement::from_difference(difference);
        let lines = Lines::of(sku, quantity);
        let items = store::move_units(tx.conn(), kind, lines.iter()).await?;
        let Some(item) = items.first() else {
            let item = store::find_item(tx.conn(), sku)
                .await?
                .ok_or_else(|| Fault::not_found("stock item"))?;
            let detail = format!("Of {} on hand {} are reserved for orders.", item.on_hand, item.reserved);
            return Err(Fault::conflict("below_reserved", detail));
        };
        let moved = Moved {
            kind,
            lines: &lines,
            items: &items,
            order_id: None,
            reason,
        };
        self.record(tx, call, moved).await?;
        Ok(item.clone())
    }

    /// Writes a movement to the ledger, and publishes the new levels if a module subscribes to them.
    async fn record(&self, tx: &Tx, call: &Call, moved: Moved<'_>) -> Result<(), Fault> {
        let (actor, at) = (call.actor.label(), self.clock.now());
        let entries = moved.lines.iter().map(|(sku, quantity)| store::LedgerEntry {
            id: self.ids.new_id(),
            sku: sku.clone(),
            kind: moved.kind,
            quantity,
            order_id: moved.order_id,
            actor: actor.clone(),
            reason: moved.reason.clone(),
            at,
        });
        store::append_movements(tx.conn(), entries.collect()).await?;
        if !self.publishes_levels {
            return Ok(());
        }
        let events = moved.items.iter().map(|item| {
            let event = StockLevelChanged {
                sku: item.sku.to_string(),
                on_hand: item.on_hand,
                reserved: item.reserved,
                movement: moved.kind.into_str().to_owned(),
            };
            NewEvent::new(call, format!("stock/{}", item.sku), &event)
        });
        outbox::append_all(tx, events.collect::<Result<Vec<_>, Fault>>()?)
            .await
            .map(drop)
    }

    /// Reserves all lines, or returns the first that cannot be reserved; the refusal then rolls the transaction back.
    async fn reserve(
        &self,
        tx: &Tx,
        call: &Call,
        order_id: Uuid,
        command_id: Uuid,
        lines: &Lines,
    ) -> Result<Outcome<Reservation>, Fault> {
        if !store::insert_reservation(tx.conn(), order_id, command_id, self.clock.now()).await? {
            // The command may be forgotten; its reservation never is.
            let known = store::find_reservation(tx.conn(), order_id).await?;
            if known.is_some_and(|known| known.command_id == command_id) {
                return Ok(Outcome::Done(reserved()));
            }
            return Err(Fault::conflict(
                "already_reserved",
                "The order has a reservation, made by another command.",
            ));
        }
        let items = store::move_units(tx.conn(), Movement::Reserved, lines.iter()).await?;
        if let Some((sku, quantity)) = first_missing(lines, &items) {
            let item = store::find_item(tx.conn(), sku).await?;
            let available = item.map_or(0, |item| item.available());
            return Ok(Outcome::Refused(insufficient(sku, quantity, available)));
        }
        store::insert_lines(tx.conn(), order_id, lines).await?;
        let moved = Moved {
            kind: Movement::Reserved,
            lines,
            items: &items,
            order_id: Some(order_id),
            reason: None,
        };
        self.record(tx, call, moved).await?;
        let held = store::Reservation {
            command_id,
            state: ReservationState::Held,
            lines: lines.clone(),
        };
        self.remembered.remember(tx, order_id, held);
        Ok(Outcome::Done(reserved()))
    }

    /// Makes a transition of a reservation and moves the stock of its lines.
    async fn apply(
        &self,
        tx: &Tx,
        call: &Call,
        order_id: Uuid,
        lines: &Lines,
        transition: Transition,
        reason: Option<String>,
    ) -> Result<(), Fault> {
        store::update_state(tx.conn(), order_id, transition, self.clock.now()).await?;
        let items = store::move_units(tx.conn(), transition.movement, lines.iter()).await?;
        if let Some((sku, quantity)) = first_missing(lines, &items) {
            let movement = transition.movement.into_str();
            let detail = format!("{quantity} of {sku} of order {order_id} cannot be {movement}");
            return Err(Fault::internal("broken_stock", detail));
        }
        let moved = Moved {
            kind: transition.movement,
            lines,
            items: &items,
            order_id: Some(order_id),
            reason,
        };
        self.record(tx, call, moved).await
    }

    /// Makes the transition that `decide` returns for the order's reservation, once for this command.
    async fn transition_once<A>(
        &self,
        call: &Call,
        (command, why): (Command, Why),
        order_id: Uuid,
        decide: fn(ReservationState) -> Result<Option<Transition>, Fault>,
        done: A,
    ) -> Result<A, Fault>
    where
        A: Clone + serde::Serialize + serde::de::DeserializeOwned + Send + Sync + 'static,
    {
        let kind = command.kind();
        let context = (self.clone(), call.clone(), why, done.clone());
        let memory = banyan_durable::once(
            &self.db,
            command.expecting(&done)?,
            context,
            move |tx, (service, call, why, done)| async move {
                // Storing a transition finds out whether the remembered reservation has changed since; anything else is decided on the stored one.
                let remembered = service.remembered.recall(&tx, order_id);
                let reservation = match remembered.filter(|held| matches!(decide(held.state), Ok(Some(_)))) {
                    Some(held) => held,
                    None => Arc::new(store::find_reservation(tx.conn(), order_id).await?.ok_or_else(|| {
                        Fault::conflict("unknown_reservation", "Nothing was ever reserved for this order.")
                    })?),
                };
                if let Some(transition) = decide(reservation.state)? {
                    service
                        .apply(&tx, &call, order_id, &reservation.lines, transition, why.reason.clone())
                        .await?;
                }
                audit_command(&tx, &call, kind, order_id, &why).await?;
                Ok(Outcome::Done(done))
            },
        );
        match memory.await? {
            Memory::First(done) | Memory::Again(done) => Ok(done),
            Memory::Undone => Err(Fault::internal(
                "undone_command",
                "only a reservation can be undone before it arrives",
            )),
        }
    }
}

/// The audit row of an operator's command.
async fn audit_command(tx: &Tx, call: &Call, kind: &str, order_id: Uuid, why: &Why) -> Result<(), Fault> {
    let target = format!("order/{order_id}");
    audit_operator(
        tx,
        &call.actor,
        kind,
        &target,
        why.reason.as_deref(),
        why.comment.as_deref(),
    )
    .await
}

/// The first line whose item was not moved. Both are in the order of the skus.
fn first_missing<'a>(lines: &'a Lines, moved: &[StockItem]) -> Option<(&'a Sku, i64)> {
    if lines.len() == moved.len() {
        return None;
    }
    let is_moved = |sku: &Sku| moved.binary_search_by(|item| item.sku.cmp(sku)).is_ok();
    lines.iter().find(|(sku, _)| !is_moved(sku))
}

fn reserved() -> Reservation {
    Reservation {
        outcome: Some(reservation::Outcome::Reserved(StockReserved {})),
    }
}

fn insufficient(sku: &Sku, wanted: i64, available: i64) -> Reservation {
    let insufficient = InsufficientStock {
        sku: sku.to_string(),
        wanted: units(wanted),
        available: units(available),
    };
    Reservation {
        outcome: Some(reservation::Outcome::Insufficient(insufficient)),
    }
}

/// A count as the contract has it.
fn units(count: i64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Reservations stay for ever, and know by their state and their command's id what was done to them.
fn command(kind: &'static str, id: &str, message: &impl Message) -> Result<Command, Fault> {
    let id = parse_id("command_id", id)?.to_string();
    Ok(Command::new(kind, id, &message.encode_to_vec()).remembered_by_its_aggregate())
}

#[async_trait]
impl Inventory for Service {
    async fn reserve_stock(&self, call: &Call, request: ReserveStock) -> Result<Reservation, Fault> {
        let command = command(RESERVE_STOCK, &request.command_id, &request)?;
        let (command_id, order_id) = (
            parse_id("command_id", &request.command_id)?,
            parse_id("order_id", &request.order_id)?,
        );
        let lines = Lines::parse(&request.lines)?;
        let context = (self.clone(), call.clone(), lines);
        let memory = banyan_durable::once(
            &self.db,
            command.expecting(&reserved())?,
            context,
            move |tx, (service, call, lines)| async move { service.reserve(&tx, &call, order_id, command_id, &lines).await },
        );
        Ok(match memory.await? {
            Memory::First(reservation) | Memory::Again(reservation) => reservation,
            Memory::Undone => Reservation {
                outcome: Some(reservation::Outcome::Undone(AlreadyUndone {})),
            },
        })
    }

    async fn release_stock(&self, call: &Call, request: ReleaseStock) -> Result<StockRelease, Fault> {
        let undo = command(RELEASE_STOCK, &request.command_id, &request)?;
        let (undoes, order_id) = (
            parse_id("undoes", &request.undoes)?,
            parse_id("order_id", &request.order_id)?,
        );
        let ReleaseStock { reason, comment, .. } = request;
        let context = (self.clone(), call.clone(), Why { reason, comment });
        let undone = (RESERVE_STOCK, undoes.to_string());
        banyan_durable::undo_once(
            &self.db,
            undo.expecting(&StockRelease { released: true })?,
            undone,
            context,
            move |tx, (service, call, why), _| async move {
                // A reservation that was refused or never arrived has no row. One of another command is not undone.
                let reservation = store::find_reservation(tx.conn(), order_id)
                    .await?
                    .filter(|reservation| reservation.command_id == undoes);
                let mut released = false;
                if let Some(reservation) = reservation
                    && let Some(transition) = reservation.state.release()?
                {
                    let (lines, reason) = (&reservation.lines, why.reason.clone());
                    service.apply(&tx, &call, order_id, lines, transition, reason).await?;
                    released = true;
                }
                audit_command(&tx, &call, RELEASE_STOCK, order_id, &why).await?;
                Ok(StockRelease { released })
            },
        )
        .await
    }

    async fn commit_stock(&self, call: &Call, request: CommitStock) -> Result<StockCommitment, Fault> {
        let command = command("commit_stock", &request.command_id, &request)?;
        let order_id = parse_id("order_id", &request.order_id)?;
        let command = (command, Why::default());
        self.transition_once(call, command, order_id, ReservationState::commit, StockCommitment {})
            .await
    }

    async fn restock_order(&self, call: &Call, request: RestockOrder) -> Result<Restocking, Fault> {
        let command = command("restock_order", &request.command_id, &request)?;
        let order_id = parse_id("order_id", &request.order_id)?;
        let RestockOrder { reason, comment, .. } = request;
        let command = (command, Why { reason, comment });
        self.transition_once(call, command, order_id, ReservationState::restock, Restocking {})
            .await
    }

    async fn find_reservation(&self, call: &Call, request: FindReservation) -> Result<FoundReservation, Fault> {
        let order_id = parse_id("order_id", &request.order_id)?;
        // A reservation does not know whose order it is for, so only modules see it.
        if !matches!(call.actor, Actor::Module { .. }) {
            return Ok(FoundReservation { reservation: None });
        }
        let Some(reservation) = store::find_reservation(self.db.read(), order_id).await? else {
            return Ok(FoundReservation { reservation: None });
        };
        let line = |(sku, quantity): (&Sku, i64)| StockLine {
            sku: sku.to_string(),
            quantity: units(quantity),
        };
        let reservation = OrderReservation {
            state: reservation.state.into_str().to_owned(),
            lines: reservation.lines.iter().map(line).collect(),
        };
        Ok(FoundReservation {
            reservation: Some(reservation),
        })
    }

    async fn find_stock(&self, _call: &Call, request: FindStock) -> Result<FoundStock, Fault> {
        // Nothing is ever received under an invalid sku.
        let Ok(sku) = Sku::parse(&request.sku) else {
            return Ok(FoundStock { level: None });
        };
        let level = self.find_item(&sku).await?.map(|item| StockLevel {
            available: item.available(),
            sku: item.sku.into(),
            on_hand: item.on_hand,
            reserved: item.reserved,
        });
        Ok(FoundStock { level })
    }
}
