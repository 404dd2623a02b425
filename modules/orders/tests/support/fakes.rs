//! Fakes of the four modules that orders calls: each command and each response can be lost, delayed or refused.
//!
//! Like the real modules they store commands by their id, and an undo that comes first leaves a tombstone.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use banyan_core::{Call, Fault};
use catalog_contract::{Catalog, ListPopularProducts, ListProducts, Product, Products};
use inventory_contract::{
    AlreadyUndone, CommitStock, FindReservation, FindStock, FoundReservation, FoundStock, InsufficientStock, Inventory,
    OrderReservation, ReleaseStock, Reservation, ReserveStock, RestockOrder, Restocking, StockCommitment, StockLine,
    StockRelease, StockReserved, reservation,
};
use parking_lot::{Mutex, MutexGuard};
use payments_contract::{
    AlreadyVoided, Authorisation, AuthorisePayment, Capture, CapturePayment, Decline, FindPayment, FoundPayment,
    InProgress, Payment, PaymentReference, Payments, Refund, RefundRemaining, Refunded, Void, VoidPayment, Voided,
    authorisation, capture, refund, void,
};
use shared_kernel::Money;
use shipping_contract::{
    AlreadyCancelled, AlreadyDispatched, CancelShipment, Cancelled, FindShipment, FoundShipment, Readiness,
    ReadyShipment, Schedule, ScheduleShipment, Shipment, ShipmentCancellation, ShipmentReference, Shipping, schedule,
    shipment_cancellation,
};
use tokio::sync::Semaphore;
use uuid::Uuid;

/// How one command goes, if not as usual.
#[derive(Clone)]
pub enum Scripted {
    /// It takes effect, and its response is lost.
    ResponseLost,
    /// It is lost before it arrives.
    CommandLost,
    /// The refusal of the contract.
    Refused,
    /// A fault that is a refusal.
    FinalFault,
    /// Not yet done: it must be repeated.
    InProgress,
    /// It waits until the test opens the gate, then goes as usual.
    Gate(Arc<Semaphore>),
}

#[derive(Default)]
pub struct FakeModules {
    state: Mutex<FakeState>,
}

#[derive(Default)]
struct FakeState {
    products: HashMap<String, Product>,
    catalog_available: bool,
    shipment_lookups_fail: bool,
    payment_lookups_fail: bool,
    script: HashMap<&'static str, VecDeque<Scripted>>,
    /// How a command goes from now on, every time.
    always: HashMap<&'static str, Scripted>,
    /// Outcomes by command id; a tombstone for one whose undo came first.
    outcomes: HashMap<String, StoredOutcome>,
    /// The bytes that each id was sent with.
    sent: HashMap<String, String>,
    effects: HashMap<String, HashSet<&'static str>>,
    log: Vec<(&'static str, String)>,
    /// The commands that passed a gate.
    passed: HashSet<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StoredOutcome {
    Done,
    Refused,
    Tombstone,
}

/// What a command came to.
enum CommandOutcome {
    Done,
    Refused,
    Undone,
    InProgress,
}

impl FakeModules {
    pub fn new() -> Arc<Self> {
        let modules = FakeModules::default();
        for (sku, amount, currency) in [("fig", 199, "EUR"), ("mug", 1_250, "EUR"), ("dollar-mug", 900, "USD")] {
            modules.sell(sku, amount, currency, true);
        }
        modules.sell("old-mug", 100, "EUR", false);
        modules.state().catalog_available = true;
        Arc::new(modules)
    }

    fn state(&self) -> MutexGuard<'_, FakeState> {
        self.state.lock()
    }

    pub fn sell(&self, sku: &str, amount: i64, currency: &str, active: bool) {
        let price = Some(Money {
            amount,
            currency: currency.to_owned(),
        });
        let product = Product {
            sku: sku.to_owned(),
            name: sku.to_uppercase(),
            category: "all".to_owned(),
            price,
            active,
        };
        self.state().products.insert(sku.to_owned(), product);
    }

    pub fn set_catalog_available(&self, available: bool) {
        self.state().catalog_available = available;
    }

    /// `FindShipment` fails: only the cancellation finds out whether a parcel was dispatched.
    pub fn fail_shipment_lookups(&self) {
        self.state().shipment_lookups_fail = true;
    }

    /// Whether `FindPayment` fails.
    pub fn fail_payment_lookups(&self, fail: bool) {
        self.state().payment_lookups_fail = fail;
    }

    /// Whether a command of this name passed a gate and was carried out.
    pub fn is_answered(&self, command: &str) -> bool {
        self.state().passed.contains(command)
    }

    /// The first of `effects` that is there for the order.
    fn held(&self, order: &str, effects: &[&'static str]) -> Option<&'static str> {
        let state = self.state();
        let held = state.effects.get(order)?;
        effects.iter().copied().find(|effect| held.contains(effect))
    }

    /// The next commands of this name go like this, one after the other.
    pub fn script(&self, command: &'static str, scripted: impl IntoIterator<Item = Scripted>) {
        self.state().script.entry(command).or_default().extend(scripted);
    }

    pub fn script_always(&self, command: &'static str, scripted: Scripted) {
        self.state().always.insert(command, scripted);
    }

    /// All commands go as usual again.
    pub fn clear_script(&self) {
        let mut state = self.state();
        state.script.clear();
        state.always.clear();
    }

    /// The next command of this name waits; the gate opens with `add_permits`.
    pub fn gate(&self, command: &'static str) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.script(command, [Scripted::Gate(gate.clone())]);
        gate
    }

    /// What the modules hold for the order now, sorted.
    pub fn effects(&self, order: Uuid) -> Vec<&'static str> {
        let mut effects: Vec<_> = self
            .state()
            .effects
            .get(&order.to_string())
            .into_iter()
            .flatten()
            .copied()
            .collect();
        effects.sort_unstable();
        effects
    }

    /// The commands received for the order, including repeats.
    pub fn commands(&self, order: Uuid) -> Vec<&'static str> {
        self.state()
            .log
            .iter()
            .filter(|(_, of)| *of == order.to_string())
            .map(|(command, _)| *command)
            .collect()
    }

    /// How many times a command was received, for any order.
    pub fn times_called(&self, command: &str) -> usize {
        self.state()
            .log
            .iter()
            .filter(|(received, _)| *received == command)
            .count()
    }

    pub fn was_called(&self, order: Uuid, command: &str) -> bool {
        self.commands(order).contains(&command)
    }

    /// Staff dispatches the parcel.
    pub fn dispatch(&self, order: Uuid) {
        self.state()
            .effects
            .entry(order.to_string())
            .or_default()
            .insert("dispatched");
    }

    /// Receives a command: it takes effect once per id, as scripted.
    async fn receive(
        &self,
        command: &'static str,
        id: &str,
        bytes: String,
        order: &str,
        effect: Effect,
    ) -> Result<CommandOutcome, Fault> {
        let scripted = {
            let mut state = self.state();
            let sent = state.sent.entry(id.to_owned()).or_insert_with(|| bytes.clone());
            assert_eq!(*sent, bytes, "{command} {id} was sent with other bytes");
            state.log.push((command, order.to_owned()));
            let next = state.script.get_mut(command).and_then(VecDeque::pop_front);
            next.or_else(|| state.always.get(command).cloned())
        };
        match scripted {
            Some(Scripted::CommandLost) => return Err(Fault::unavailable("the command was lost")),
            Some(Scripted::FinalFault) => return Err(Fault::invalid("never", "this will never be done")),
            Some(Scripted::InProgress) => return Ok(CommandOutcome::InProgress),
            Some(Scripted::Gate(gate)) => {
                gate.acquire().await.unwrap().forget();
                let outcome = self.settle(id, order, &effect, StoredOutcome::Done);
                self.state().passed.insert(command);
                return Ok(outcome);
            }
            Some(Scripted::Refused) => return Ok(self.settle(id, order, &effect, StoredOutcome::Refused)),
            Some(Scripted::ResponseLost) => {
                self.settle(id, order, &effect, StoredOutcome::Done);
                return Err(Fault::timeout("the response was lost"));
            }
            None => {}
        }
        Ok(self.settle(id, order, &effect, StoredOutcome::Done))
    }

    fn settle(&self, id: &str, order: &str, effect: &Effect, outcome: StoredOutcome) -> CommandOutcome {
        let mut state = self.state();
        if let Effect::Undo { undoes, .. } = effect
            && !undoes.is_empty()
        {
            state.outcomes.entry(undoes.clone()).or_insert(StoredOutcome::Tombstone);
        }
        let first = !state.outcomes.contains_key(id);
        let outcome = *state.outcomes.entry(id.to_owned()).or_insert(outcome);
        if first && outcome == StoredOutcome::Done {
            let effects = state.effects.entry(order.to_owned()).or_default();
            match effect {
                Effect::Do(what) => assert!(effects.insert(what), "{what} took effect twice"),
                Effect::Undo { what, .. } => _ = effects.remove(what),
                Effect::Change { from, to } => {
                    assert!(
                        effects.remove(from),
                        "nothing is {from} that could be {to}: it took effect twice"
                    );
                    effects.insert(to);
                }
            }
        }
        match outcome {
            StoredOutcome::Done => CommandOutcome::Done,
            StoredOutcome::Refused => CommandOutcome::Refused,
            StoredOutcome::Tombstone => CommandOutcome::Undone,
        }
    }
}

/// What a command changes in what the modules hold for the order.
enum Effect {
    Do(&'static str),
    Undo { what: &'static str, undoes: String },
    Change { from: &'static str, to: &'static str },
}

fn in_progress() -> InProgress {
    InProgress { retry_after_ms: 20 }
}

fn not_scripted() -> Fault {
    Fault::internal("test", "the fake does not support this")
}

/// The id that a module gives to what it creates for an order.
pub fn id_of(what: &str, order: &str) -> Uuid {
    Uuid::new_v5(&Uuid::parse_str(order).unwrap(), what.as_bytes())
}

#[async_trait]
impl Catalog for FakeModules {
    async fn list_products(&self, _: &Call, request: ListProducts) -> Result<Products, Fault> {
        assert!(request.skus.len() <= 100, "the contract's limit");
        let state = self.state();
        if !state.catalog_available {
            return Err(Fault::unavailable("the catalog is unavailable"));
        }
        Ok(Products {
            items: request
                .skus
                .iter()
                .filter_map(|sku| state.products.get(sku).cloned())
                .collect(),
        })
    }

    async fn list_popular_products(&self, _: &Call, _: ListPopularProducts) -> Result<Products, Fault> {
        Err(not_scripted())
    }
}

#[async_trait]
impl Inventory for FakeModules {
    async fn reserve_stock(&self, _: &Call, request: ReserveStock) -> Result<Reservation, Fault> {
        let ReserveStock {
            command_id, order_id, ..
        } = &request;
        let outcome = self
            .receive(
                "reserve_stock",
                command_id,
                format!("{request:?}"),
                order_id,
                Effect::Do("reserved"),
            )
            .await?;
        let insufficient = InsufficientStock {
            sku: "fig".to_owned(),
            wanted: 2,
            available: 1,
        };
        let outcome = match outcome {
            CommandOutcome::Done => reservation::Outcome::Reserved(StockReserved {}),
            CommandOutcome::Refused => reservation::Outcome::Insufficient(insufficient),
            CommandOutcome::Undone => reservation::Outcome::Undone(AlreadyUndone {}),
            CommandOutcome::InProgress => return Err(Fault::unavailable("busy")),
        };
        Ok(Reservation { outcome: Some(outcome) })
    }

    async fn release_stock(&self, _: &Call, request: ReleaseStock) -> Result<StockRelease, Fault> {
        let effect = Effect::Undo {
            what: "reserved",
            undoes: request.undoes.clone(),
        };
        self.receive(
            "release_stock",
            &request.command_id,
            format!("{request:?}"),
            &request.order_id,
            effect,
        )
        .await?;
        Ok(StockRelease { released: true })
    }

    async fn commit_stock(&self, _: &Call, request: CommitStock) -> Result<StockCommitment, Fault> {
        let effect = Effect::Change {
            from: "reserved",
            to: "committed",
        };
        match self
            .receive(
                "commit_stock",
                &request.command_id,
                format!("{request:?}"),
                &request.order_id,
                effect,
            )
            .await?
        {
            CommandOutcome::Done => Ok(StockCommitment {}),
            _ => Err(Fault::unavailable("busy")),
        }
    }

    async fn restock_order(&self, _: &Call, request: RestockOrder) -> Result<Restocking, Fault> {
        let effect = Effect::Undo {
            what: "committed",
            undoes: String::new(),
        };
        self.receive(
            "restock_order",
            &request.command_id,
            format!("{request:?}"),
            &request.order_id,
            effect,
        )
        .await?;
        Ok(Restocking {})
    }

    async fn find_reservation(&self, _: &Call, request: FindReservation) -> Result<FoundReservation, Fault> {
        let state = match self.held(&request.order_id, &["reserved", "committed"]) {
            Some("reserved") => Some("held"),
            other => other,
        };
        let reservation = state.map(|state| OrderReservation {
            state: state.to_owned(),
            lines: vec![StockLine {
                sku: "fig".to_owned(),
                quantity: 2,
            }],
        });
        Ok(FoundReservation { reservation })
    }

    async fn find_stock(&self, _: &Call, _: FindStock) -> Result<FoundStock, Fault> {
        Err(not_scripted())
    }
}

#[async_trait]
impl Payments for FakeModules {
    async fn authorise_payment(&self, _: &Call, request: AuthorisePayment) -> Result<Authorisation, Fault> {
        let AuthorisePayment {
            command_id, order_id, ..
        } = &request;
        let outcome = self
            .receive(
                "authorise_payment",
                command_id,
                format!("{request:?}"),
                order_id,
                Effect::Do("authorised"),
            )
            .await?;
        let outcome = match outcome {
            CommandOutcome::Done => authorisation::Outcome::Authorised(payment_of(order_id)),
            CommandOutcome::Refused => authorisation::Outcome::Declined(decline(order_id)),
            CommandOutcome::Undone => authorisation::Outcome::Undone(AlreadyVoided {}),
            CommandOutcome::InProgress => authorisation::Outcome::InProgress(in_progress()),
        };
        Ok(Authorisation { outcome: Some(outcome) })
    }

    async fn capture_payment(&self, _: &Call, request: CapturePayment) -> Result<Capture, Fault> {
        let effect = Effect::Change {
            from: "authorised",
            to: "captured",
        };
        let outcome = self
            .receive(
                "capture_payment",
                &request.command_id,
                format!("{request:?}"),
                &request.order_id,
                effect,
            )
            .await?;
        let outcome = match outcome {
            CommandOutcome::Done => capture::Outcome::Captured(payment_of(&request.order_id)),
            CommandOutcome::Refused => capture::Outcome::Declined(decline(&request.order_id)),
            CommandOutcome::InProgress => capture::Outcome::InProgress(in_progress()),
            CommandOutcome::Undone => return Err(not_scripted()),
        };
        Ok(Capture { outcome: Some(outcome) })
    }

    async fn void_payment(&self, _: &Call, request: VoidPayment) -> Result<Void, Fault> {
        let effect = Effect::Undo {
            what: "authorised",
            undoes: request.undoes.clone(),
        };
        let outcome = self
            .receive(
                "void_payment",
                &request.command_id,
                format!("{request:?}"),
                &request.order_id,
                effect,
            )
            .await?;
        let outcome = match outcome {
            CommandOutcome::InProgress => void::Outcome::InProgress(in_progress()),
            // Stored under this id forever.
            CommandOutcome::Refused => return Err(Fault::conflict("void_declined", "The provider declined.")),
            _ => void::Outcome::Voided(Voided {}),
        };
        Ok(Void { outcome: Some(outcome) })
    }

    async fn refund_remaining(&self, _: &Call, request: RefundRemaining) -> Result<Refund, Fault> {
        let effect = Effect::Undo {
            what: "captured",
            undoes: String::new(),
        };
        let outcome = self
            .receive(
                "refund_remaining",
                &request.command_id,
                format!("{request:?}"),
                &request.order_id,
                effect,
            )
            .await?;
        let outcome = match outcome {
            CommandOutcome::InProgress => refund::Outcome::InProgress(in_progress()),
            CommandOutcome::Refused => return Err(Fault::conflict("refund_declined", "The provider declined.")),
            _ => refund::Outcome::Refunded(Refunded {
                amount: Some(Money {
                    amount: 398,
                    currency: "EUR".to_owned(),
                }),
            }),
        };
        Ok(Refund { outcome: Some(outcome) })
    }

    async fn find_payment(&self, _: &Call, request: FindPayment) -> Result<FoundPayment, Fault> {
        if self.state().payment_lookups_fail {
            return Err(Fault::unavailable("payments is unavailable"));
        }
        let status = self.held(&request.order_id, &["authorised", "captured"]);
        let payment = status.map(|status| Payment {
            id: id_of("payment", &request.order_id).to_string(),
            status: status.to_owned(),
            ..Payment::default()
        });
        Ok(FoundPayment { payment })
    }
}

fn payment_of(order: &str) -> PaymentReference {
    PaymentReference {
        payment_id: id_of("payment", order).to_string(),
    }
}

fn decline(order: &str) -> Decline {
    let payment_id = payment_of(order).payment_id;
    Decline {
        code: "card_declined".to_owned(),
        detail: "The card was declined.".to_owned(),
        payment_id,
    }
}

#[async_trait]
impl Shipping for FakeModules {
    async fn schedule_shipment(&self, _: &Call, request: ScheduleShipment) -> Result<Schedule, Fault> {
        let ScheduleShipment {
            command_id, order_id, ..
        } = &request;
        let outcome = self
            .receive(
                "schedule_shipment",
                command_id,
                format!("{request:?}"),
                order_id,
                Effect::Do("scheduled"),
            )
            .await?;
        let outcome = match outcome {
            CommandOutcome::Done => schedule::Outcome::Scheduled(ShipmentReference {
                shipment_id: id_of("shipment", order_id).to_string(),
            }),
            CommandOutcome::Undone => schedule::Outcome::Undone(AlreadyCancelled {}),
            CommandOutcome::Refused | CommandOutcome::InProgress => return Err(Fault::unavailable("busy")),
        };
        Ok(Schedule { outcome: Some(outcome) })
    }

    async fn cancel_shipment(&self, _: &Call, request: CancelShipment) -> Result<ShipmentCancellation, Fault> {
        let order_id = &request.order_id;
        if self
            .state()
            .effects
            .get(order_id)
            .is_some_and(|effects| effects.contains("dispatched"))
        {
            self.state().log.push(("cancel_shipment", order_id.clone()));
            let outcome = shipment_cancellation::Outcome::AlreadyDispatched(AlreadyDispatched {});
            return Ok(ShipmentCancellation { outcome: Some(outcome) });
        }
        let what = self.held(order_id, &["ready", "scheduled"]).unwrap_or("scheduled");
        let effect = Effect::Undo {
            what,
            undoes: request.undoes.clone(),
        };
        match self
            .receive(
                "cancel_shipment",
                &request.command_id,
                format!("{request:?}"),
                order_id,
                effect,
            )
            .await?
        {
            CommandOutcome::Done => Ok(ShipmentCancellation {
                outcome: Some(shipment_cancellation::Outcome::Cancelled(Cancelled {})),
            }),
            _ => Err(Fault::unavailable("busy")),
        }
    }

    async fn ready_shipment(&self, _: &Call, request: ReadyShipment) -> Result<Readiness, Fault> {
        let effect = Effect::Change {
            from: "scheduled",
            to: "ready",
        };
        match self
            .receive(
                "ready_shipment",
                &request.command_id,
                format!("{request:?}"),
                &request.order_id,
                effect,
            )
            .await?
        {
            CommandOutcome::Done => Ok(Readiness {}),
            _ => Err(Fault::unavailable("busy")),
        }
    }

    async fn find_shipment(&self, _: &Call, request: FindShipment) -> Result<FoundShipment, Fault> {
        let state = self.state();
        if state.shipment_lookups_fail {
            return Err(Fault::unavailable("shipping is unavailable"));
        }
        let effects = state.effects.get(&request.order_id).cloned().unwrap_or_default();
        let status = ["dispatched", "ready", "scheduled"]
            .into_iter()
            .find(|status| effects.contains(status));
        let shipment = status.map(|status| Shipment {
            id: id_of("shipment", &request.order_id).to_string(),
            order_id: request.order_id.clone(),
            user_id: String::new(),
            status: status.to_owned(),
            tracking_number: None,
        });
        Ok(FoundShipment { shipment })
    }
}

/// The timeout for what must happen.
pub const TIMEOUT: Duration = Duration::from_secs(20);
