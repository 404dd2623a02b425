//! What shipping does: each method loads, decides by the rules, stores and publishes, in one transaction.

use std::sync::Arc;

use async_trait::async_trait;
use banyan_core::{Call, Clock, Fault, Ids, Page, PageRequest, parse_id};
use banyan_durable::{
    Command, Db, Memory, Outcome, Remembered, Tx, Versioned, audit_operator, once, outbox, undo_once,
};
use banyan_http::IfMatch;
use prost::Message;
use shipping_contract::{
    AlreadyCancelled, AlreadyDispatched, CancelShipment, Cancelled, FindShipment, FoundShipment, Readiness,
    ReadyShipment, Schedule, ScheduleShipment, ShipmentCancellation, ShipmentCancelled, ShipmentDelivered,
    ShipmentDispatched, ShipmentMadeReady, ShipmentReference, ShipmentScheduled, Shipping, schedule,
    shipment_cancellation,
};
use uuid::Uuid;

use crate::{
    shipment::{Address, Consignment, Line, Refusal, Shipment, Status, Tracking},
    store::{self, Filter},
};

/// The kinds under which the module's commands are stored.
const SCHEDULE: &str = "schedule_shipment";
const CANCEL: &str = "cancel_shipment";
const READY: &str = "ready_shipment";

#[derive(Clone)]
pub struct Service {
    db: Db,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    /// By order: a checkout schedules a shipment and makes it ready within a second.
    remembered: Remembered<Shipment>,
}

impl Versioned for Shipment {
    fn version(&self) -> i64 {
        self.version
    }
}

impl Service {
    pub fn new(db: Db, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        Service {
            db,
            clock,
            ids,
            remembered: Remembered::default(),
        }
    }

    pub fn db(&self) -> &Db {
        &self.db
    }

    /// # Errors
    /// `not_found`, also if the actor may not see it.
    pub async fn load(&self, call: &Call, id: Uuid) -> Result<Shipment, Fault> {
        let found = store::find_visible(self.db.read(), id, &call.actor).await?;
        found.ok_or_else(|| Fault::not_found("shipment"))
    }

    /// The shipments of all users, newest first; the route admits only staff.
    pub async fn list_all(&self, filter: &Filter, page: &PageRequest) -> Result<Page<Shipment>, Fault> {
        store::list_all(self.db.read(), filter, page).await
    }

    /// Hands the parcel to the carrier, inside the transaction that stores the response. Without a number it gets one of the shop's own.
    ///
    /// # Errors
    /// `not_found`, `not_ready`.
    pub async fn dispatch(
        &self,
        tx: &Tx,
        call: &Call,
        (id, version): (Uuid, &IfMatch),
        number: Option<String>,
        carrier: Option<String>,
    ) -> Result<Shipment, Fault> {
        let shipment = self.load_in(tx, call, id, version).await?;
        let number = number.unwrap_or_else(|| Tracking::number_of(self.ids.new_id()));
        let dispatched = shipment.dispatch(Tracking { number, carrier }, self.clock.now())?;
        self.store_change(tx, call, &dispatched).await?;
        Ok(dispatched)
    }

    /// The parcel has arrived, inside the transaction that stores the response.
    ///
    /// # Errors
    /// `not_found`, `precondition_failed`, `not_dispatched`.
    pub async fn deliver(&self, tx: &Tx, call: &Call, (id, version): (Uuid, &IfMatch)) -> Result<Shipment, Fault> {
        let shipment = self.load_in(tx, call, id, version).await?;
        let delivered = shipment.deliver(self.clock.now())?;
        self.store_change(tx, call, &delivered).await?;
        Ok(delivered)
    }

    /// The shipment that is to be changed, if it has the version that the client requires.
    async fn load_in(&self, tx: &Tx, call: &Call, id: Uuid, version: &IfMatch) -> Result<Shipment, Fault> {
        let found = store::find_visible(tx.conn(), id, &call.actor).await?;
        let shipment = found.ok_or_else(|| Fault::not_found("shipment"))?;
        version.check(&banyan_http::etag(shipment.version))?;
        Ok(shipment)
    }

    async fn schedule(
        &self,
        tx: &Tx,
        call: &Call,
        (id, command): (Uuid, Uuid),
        consignment: Consignment,
    ) -> Result<ShipmentReference, Fault> {
        let shipment = Shipment::schedule(id, consignment, self.clock.now());
        if !store::insert(tx.conn(), &shipment, command).await? {
            // The command may be forgotten; its shipment never is.
            if let Some(known) = store::find_scheduled_by(tx.conn(), shipment.order_id, command).await? {
                return Ok(reference(known));
            }
            return Err(Fault::conflict("shipment_exists", "The order already has a shipment."));
        }
        publish(tx, call, &shipment).await?;
        self.remembered.remember(tx, shipment.order_id, shipment);
        Ok(reference(id))
    }

    async fn cancel(&self, tx: &Tx, call: &Call, order_id: Uuid) -> Result<ShipmentCancellation, Fault> {
        let Some(shipment) = store::find_of_order(tx.conn(), order_id).await? else {
            return Ok(cancelled());
        };
        match shipment.cancel(self.clock.now()) {
            Ok(changed) => {
                if let Some(shipment) = changed {
                    self.store_change(tx, call, &shipment).await?;
                }
                Ok(cancelled())
            }
            Err(Refusal::AlreadyDispatched) => Ok(ShipmentCancellation {
                outcome: Some(shipment_cancellation::Outcome::AlreadyDispatched(AlreadyDispatched {})),
            }),
            Err(refusal) => Err(refusal.into()),
        }
    }

    async fn make_ready(&self, tx: &Tx, call: &Call, order_id: Uuid) -> Result<Readiness, Fault> {
        let now = self.clock.now();
        // Storing finds out whether the remembered one was changed since; anything but a change must be decided on the stored one.
        let remembered = self.remembered.recall(tx, order_id);
        let ready = match remembered.and_then(|shipment| shipment.make_ready(now).ok().flatten()) {
            Some(ready) => Some(ready),
            None => {
                let shipment = store::find_of_order(tx.conn(), order_id).await?;
                shipment.ok_or_else(|| Fault::not_found("shipment"))?.make_ready(now)?
            }
        };
        if let Some(ready) = ready {
            self.store_change(tx, call, &ready).await?;
        }
        Ok(Readiness {})
    }

    async fn store_change(&self, tx: &Tx, call: &Call, next: &Shipment) -> Result<(), Fault> {
        store::update(tx.conn(), next).await?;
        publish(tx, call, next).await
    }
}

#[async_trait]
impl Shipping for Service {
    async fn schedule_shipment(&self, call: &Call, request: ScheduleShipment) -> Result<Schedule, Fault> {
        let consignment = consignment_of(&request)?;
        let ids = (self.ids.new_id(), parse_id("command_id", &request.command_id)?);
        let command = command(SCHEDULE, &request.command_id, &request)?.expecting(&reference(ids.0))?;
        let context = (self.clone(), call.clone(), consignment);
        let memory = once(
            &self.db,
            command,
            context,
            move |tx, (service, call, consignment)| async move {
                service.schedule(&tx, &call, ids, consignment).await.map(Outcome::Done)
            },
        );
        let outcome = match memory.await? {
            Memory::First(reference) | Memory::Again(reference) => schedule::Outcome::Scheduled(reference),
            Memory::Undone => schedule::Outcome::Undone(AlreadyCancelled {}),
        };
        Ok(Schedule { outcome: Some(outcome) })
    }

    async fn cancel_shipment(&self, call: &Call, request: CancelShipment) -> Result<ShipmentCancellation, Fault> {
        let order_id = parse_id("order_id", &request.order_id)?;
        let command = command(CANCEL, &request.command_id, &request)?;
        let CancelShipment {
            undoes,
            reason,
            comment,
            ..
        } = request;
        let context = (self.clone(), call.clone(), (reason, comment));
        if undoes.is_empty() {
            let memory = once(
                &self.db,
                command,
                context,
                move |tx, (service, call, (reason, comment))| async move {
                    let cancellation = service.cancel(&tx, &call, order_id).await?;
                    audit_cancellation(&tx, &call, order_id, &cancellation, reason, comment).await?;
                    Ok(Outcome::Done(cancellation))
                },
            );
            return completed(memory.await?);
        }
        let schedule = parse_id("undoes", &undoes)?;
        let undoes = (SCHEDULE, schedule.to_string());
        let undone = undo_once(
            &self.db,
            command,
            undoes,
            context,
            move |tx, (service, call, (reason, comment)), is_remembered| async move {
                let took_effect =
                    is_remembered || store::find_scheduled_by(tx.conn(), order_id, schedule).await?.is_some();
                let cancellation = if took_effect {
                    service.cancel(&tx, &call, order_id).await?
                } else {
                    cancelled()
                };
                audit_cancellation(&tx, &call, order_id, &cancellation, reason, comment).await?;
                Ok(cancellation)
            },
        );
        undone.await
    }

    async fn ready_shipment(&self, call: &Call, request: ReadyShipment) -> Result<Readiness, Fault> {
        let order_id = parse_id("order_id", &request.order_id)?;
        let command = command(READY, &request.command_id, &request)?.expecting(&Readiness {})?;
        let context = (self.clone(), call.clone());
        let memory = once(&self.db, command, context, move |tx, (service, call)| async move {
            service.make_ready(&tx, &call, order_id).await.map(Outcome::Done)
        });
        completed(memory.await?)
    }

    async fn find_shipment(&self, call: &Call, request: FindShipment) -> Result<FoundShipment, Fault> {
        let order_id = parse_id("order_id", &request.order_id)?;
        let found = store::find_visible_of_order(self.db.read(), order_id, &call.actor).await?;
        Ok(FoundShipment {
            shipment: found.map(message_of),
        })
    }
}

/// The audit row of an operator's cancellation, unless it came too late and did nothing.
async fn audit_cancellation(
    tx: &Tx,
    call: &Call,
    order_id: Uuid,
    cancellation: &ShipmentCancellation,
    reason: Option<String>,
    comment: Option<String>,
) -> Result<(), Fault> {
    if *cancellation != cancelled() {
        return Ok(());
    }
    let target = format!("order/{order_id}");
    audit_operator(tx, &call.actor, CANCEL, &target, reason.as_deref(), comment.as_deref()).await
}

/// The id is normalised, so that one command cannot hide behind two spellings. Shipments stay for ever, and know by their status and their command's id what
/// was done to them.
fn command(kind: &'static str, id: &str, request: &impl Message) -> Result<Command, Fault> {
    let id = parse_id("command_id", id)?.to_string();
    Ok(Command::new(kind, id, &request.encode_to_vec()).remembered_by_its_aggregate())
}

/// The result of a command that the contract cannot undo.
fn completed<A>(memory: Memory<A>) -> Result<A, Fault> {
    match memory {
        Memory::First(result) | Memory::Again(result) => Ok(result),
        Memory::Undone => Err(Fault::internal(
            "undone_without_undo",
            "a command that has no undo was undone",
        )),
    }
}

fn reference(shipment: Uuid) -> ShipmentReference {
    ShipmentReference {
        shipment_id: shipment.to_string(),
    }
}

/// The shipment will not be dispatched, or there never was one.
fn cancelled() -> ShipmentCancellation {
    ShipmentCancellation {
        outcome: Some(shipment_cancellation::Outcome::Cancelled(Cancelled {})),
    }
}

fn consignment_of(request: &ScheduleShipment) -> Result<Consignment, Fault> {
    let order_id = parse_id("order_id", &request.order_id)?;
    let user_id = parse_id("user_id", &request.user_id)?;
    let address = request
        .address
        .clone()
        .ok_or_else(|| invalid("/address", "must be given"))?;
    if request.lines.is_empty() {
        return Err(invalid("/lines", "must not be empty"));
    }
    if let Some(at) = request
        .lines
        .iter()
        .position(|line| line.sku.is_empty() || line.quantity == 0)
    {
        return Err(invalid(
            &format!("/lines/{at}"),
            "must name a sku and a quantity of at least 1",
        ));
    }
    let lines = request
        .lines
        .iter()
        .map(|line| Line {
            sku: line.sku.clone(),
            quantity: line.quantity,
        })
        .collect();
    let address = Address {
        name: address.name,
        line1: address.line1,
        line2: address.line2,
        city: Some(address.city).filter(|city| !city.is_empty()),
        region: address.region,
        postal_code: Some(address.postal_code).filter(|code| !code.is_empty()),
        country: address.country,
        phone: address.phone,
    };
    Ok(Consignment {
        order_id,
        user_id,
        address,
        lines,
    })
}

fn invalid(pointer: &str, detail: &str) -> Fault {
    Fault::invalid("invalid_shipment", "This cannot be shipped.").at(pointer, detail)
}

fn message_of(shipment: Shipment) -> shipping_contract::Shipment {
    shipping_contract::Shipment {
        id: shipment.id.to_string(),
        order_id: shipment.order_id.to_string(),
        user_id: shipment.user_id.to_string(),
        status: shipment.status.into_str().to_owned(),
        tracking_number: shipment.tracking_number,
    }
}

/// Publishes the event of the status that the shipment entered.
async fn publish(tx: &Tx, call: &Call, shipment: &Shipment) -> Result<(), Fault> {
    let subject = format!("shipment/{}", shipment.id);
    let (shipment_id, order_id, user_id) = (
        shipment.id.to_string(),
        shipment.order_id.to_string(),
        shipment.user_id.to_string(),
    );
    match shipment.status {
        Status::Scheduled => {
            let event = ShipmentScheduled {
                shipment_id,
                order_id,
                user_id,
            };
            outbox::append(tx, call, &subject, &event).await?;
        }
        Status::Ready => {
            let event = ShipmentMadeReady {
                shipment_id,
                order_id,
                user_id,
            };
            outbox::append(tx, call, &subject, &event).await?;
        }
        Status::Dispatched => {
            let event = ShipmentDispatched {
                shipment_id,
                order_id,
                user_id,
                tracking_number: shipment.tracking_number.clone().unwrap_or_default(),
            };
            outbox::append(tx, call, &subject, &event).await?;
        }
        Status::Delivered => {
            let event = ShipmentDelivered {
                shipment_id,
                order_id,
                user_id,
            };
            outbox::append(tx, call, &subject, &event).await?;
        }
        Status::Cancelled => {
            let event = ShipmentCancelled {
                shipment_id,
                order_id,
                user_id,
            };
            outbox::append(tx, call, &subject, &event).await?;
        }
    }
    Ok(())
}
