//! The four modules that orders asks, as one town that a test can lay low: each answer can be lost, delayed or refused.
//!
//! Like the real ones it remembers commands by their id, and an undo that comes first leaves a tombstone.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use banyan_core::{Call, Fault};
use catalog_contract::{Catalog, ListPopularProducts, ListProducts, Product, Products};
use inventory_contract::{
    AlreadyUndone, CommitStock, FindStock, FoundStock, InsufficientStock, Inventory, ReleaseStock, Reservation,
    ReserveStock, RestockOrder, Restocking, StockCommitment, StockRelease, StockReserved, reservation,
};
use payments_contract::{
    AlreadyVoided, Authorisation, AuthorisePayment, Capture, CapturePayment, Decline, FindPayment, FoundPayment,
    InProgress, PaymentReference, Payments, Refund, RefundRemaining, Refunded, Void, VoidPayment, Voided,
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

/// What a command meets once.
#[derive(Clone)]
pub enum Meets {
    /// It takes effect, and its answer is lost.
    LostAnswer,
    /// It is lost on its way.
    LostCommand,
    /// The contract's own "no".
    Refusal,
    /// A fault that is a refusal.
    FaultForGood,
    /// Not yet done: ask again.
    InProgress,
    /// It waits until the test opens the gate, then goes on as usual.
    Gate(Arc<Semaphore>),
}

#[derive(Default)]
pub struct Neighbours {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    products: HashMap<String, Product>,
    catalog_away: bool,
    shipping_knows: bool,
    script: HashMap<&'static str, VecDeque<Meets>>,
    /// What a command meets from now on, every time.
    always: HashMap<&'static str, Meets>,
    /// Answers by command id; a tombstone for one whose undo came first.
    done: HashMap<String, Answered>,
    /// The bytes each id was sent with.
    sent: HashMap<String, String>,
    effects: HashMap<String, HashSet<&'static str>>,
    log: Vec<(&'static str, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answered {
    Yes,
    No,
    Tombstone,
}

/// How a command goes, after the script was asked.
enum Goes {
    Yes,
    No,
    Undone,
    InProgress,
}

impl Neighbours {
    pub fn new() -> Arc<Self> {
        let town = Neighbours::default();
        for (sku, amount, currency) in [("fig", 199, "EUR"), ("mug", 1_250, "EUR"), ("dollar-mug", 900, "USD")] {
            town.sell(sku, amount, currency, true);
        }
        town.sell("old-mug", 100, "EUR", false);
        town.state().shipping_knows = true;
        Arc::new(town)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
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

    pub fn catalog_is_away(&self, away: bool) {
        self.state().catalog_away = away;
    }

    /// `FindShipment` does not answer: whether a parcel has left is found out by the cancellation alone.
    pub fn shipping_does_not_say(&self) {
        self.state().shipping_knows = false;
    }

    /// The next command of this name meets this; then the next in the list.
    pub fn let_meet(&self, command: &'static str, meets: impl IntoIterator<Item = Meets>) {
        self.state().script.entry(command).or_default().extend(meets);
    }

    pub fn let_always_meet(&self, command: &'static str, meets: Meets) {
        self.state().always.insert(command, meets);
    }

    /// All commands are as they should be again.
    pub fn calm(&self) {
        let mut state = self.state();
        state.script.clear();
        state.always.clear();
    }

    /// The next command of this name waits; the gate opens with `add_permits`.
    pub fn gate(&self, command: &'static str) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.let_meet(command, [Meets::Gate(gate.clone())]);
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

    /// The commands that came in for the order, repeats and all.
    pub fn commands(&self, order: Uuid) -> Vec<&'static str> {
        self.state()
            .log
            .iter()
            .filter(|(_, of)| *of == order.to_string())
            .map(|(command, _)| *command)
            .collect()
    }

    /// How often a command came in, for whatever order.
    pub fn times_asked(&self, command: &str) -> usize {
        self.state().log.iter().filter(|(asked, _)| *asked == command).count()
    }

    pub fn was_asked(&self, order: Uuid, command: &str) -> bool {
        self.commands(order).contains(&command)
    }

    /// Staff sends the parcel off.
    pub fn dispatch(&self, order: Uuid) {
        self.state()
            .effects
            .entry(order.to_string())
            .or_default()
            .insert("dispatched");
    }

    /// Takes a command: once per id, as the script says.
    async fn take(
        &self,
        command: &'static str,
        id: &str,
        bytes: String,
        order: &str,
        effect: Effect,
    ) -> Result<Goes, Fault> {
        let meets = {
            let mut state = self.state();
            let known = state.sent.entry(id.to_owned()).or_insert_with(|| bytes.clone());
            assert_eq!(*known, bytes, "{command} {id} was sent with other bytes");
            state.log.push((command, order.to_owned()));
            let scripted = state.script.get_mut(command).and_then(VecDeque::pop_front);
            scripted.or_else(|| state.always.get(command).cloned())
        };
        match meets {
            Some(Meets::LostCommand) => return Err(Fault::unavailable("it was lost on its way")),
            Some(Meets::FaultForGood) => return Err(Fault::invalid("never", "this will never be done")),
            Some(Meets::InProgress) => return Ok(Goes::InProgress),
            Some(Meets::Gate(gate)) => gate.acquire().await.unwrap().forget(),
            Some(Meets::Refusal) => return Ok(self.settle(id, order, &effect, Answered::No)),
            Some(Meets::LostAnswer) => {
                self.settle(id, order, &effect, Answered::Yes);
                return Err(Fault::timeout("the answer was lost"));
            }
            None => {}
        }
        Ok(self.settle(id, order, &effect, Answered::Yes))
    }

    fn settle(&self, id: &str, order: &str, effect: &Effect, answer: Answered) -> Goes {
        let mut state = self.state();
        if let Effect::Undo { undoes, .. } = effect
            && !undoes.is_empty()
        {
            state.done.entry(undoes.clone()).or_insert(Answered::Tombstone);
        }
        let first = !state.done.contains_key(id);
        let answer = *state.done.entry(id.to_owned()).or_insert(answer);
        if first && answer == Answered::Yes {
            let effects = state.effects.entry(order.to_owned()).or_default();
            match effect {
                Effect::Do(what) => assert!(effects.insert(what), "{what} took effect twice"),
                Effect::Undo { what, .. } => _ = effects.remove(what),
                Effect::Turn { from, to } => {
                    assert!(
                        effects.remove(from),
                        "nothing is {from} that could be {to}: it took effect twice"
                    );
                    effects.insert(to);
                }
            }
        }
        match answer {
            Answered::Yes => Goes::Yes,
            Answered::No => Goes::No,
            Answered::Tombstone => Goes::Undone,
        }
    }
}

/// What a command does to what is held for the order.
enum Effect {
    Do(&'static str),
    Undo { what: &'static str, undoes: String },
    Turn { from: &'static str, to: &'static str },
}

fn wait() -> InProgress {
    InProgress { retry_after_ms: 20 }
}

fn out_of_script() -> Fault {
    Fault::internal("test", "the script does not fit the command")
}

/// The id a module would give what it makes for an order.
pub fn id_of(what: &str, order: &str) -> Uuid {
    Uuid::new_v5(&Uuid::parse_str(order).unwrap(), what.as_bytes())
}

#[async_trait]
impl Catalog for Neighbours {
    async fn list_products(&self, _: &Call, request: ListProducts) -> Result<Products, Fault> {
        assert!(request.skus.len() <= 100, "the contract's limit");
        let state = self.state();
        if state.catalog_away {
            return Err(Fault::unavailable("the catalog is away"));
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
        Err(out_of_script())
    }
}

#[async_trait]
impl Inventory for Neighbours {
    async fn reserve_stock(&self, _: &Call, request: ReserveStock) -> Result<Reservation, Fault> {
        let ReserveStock {
            command_id, order_id, ..
        } = &request;
        let goes = self
            .take(
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
        let outcome = match goes {
            Goes::Yes => reservation::Outcome::Reserved(StockReserved {}),
            Goes::No => reservation::Outcome::Insufficient(insufficient),
            Goes::Undone => reservation::Outcome::Undone(AlreadyUndone {}),
            Goes::InProgress => return Err(Fault::unavailable("busy")),
        };
        Ok(Reservation { outcome: Some(outcome) })
    }

    async fn release_stock(&self, _: &Call, request: ReleaseStock) -> Result<StockRelease, Fault> {
        let effect = Effect::Undo {
            what: "reserved",
            undoes: request.undoes.clone(),
        };
        self.take(
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
        let effect = Effect::Turn {
            from: "reserved",
            to: "committed",
        };
        match self
            .take(
                "commit_stock",
                &request.command_id,
                format!("{request:?}"),
                &request.order_id,
                effect,
            )
            .await?
        {
            Goes::Yes => Ok(StockCommitment {}),
            _ => Err(Fault::unavailable("busy")),
        }
    }

    async fn restock_order(&self, _: &Call, request: RestockOrder) -> Result<Restocking, Fault> {
        let effect = Effect::Undo {
            what: "committed",
            undoes: String::new(),
        };
        self.take(
            "restock_order",
            &request.command_id,
            format!("{request:?}"),
            &request.order_id,
            effect,
        )
        .await?;
        Ok(Restocking {})
    }

    async fn find_stock(&self, _: &Call, _: FindStock) -> Result<FoundStock, Fault> {
        Err(out_of_script())
    }
}

#[async_trait]
impl Payments for Neighbours {
    async fn authorise_payment(&self, _: &Call, request: AuthorisePayment) -> Result<Authorisation, Fault> {
        let AuthorisePayment {
            command_id, order_id, ..
        } = &request;
        let goes = self
            .take(
                "authorise_payment",
                command_id,
                format!("{request:?}"),
                order_id,
                Effect::Do("authorised"),
            )
            .await?;
        let outcome = match goes {
            Goes::Yes => authorisation::Outcome::Authorised(payment_of(order_id)),
            Goes::No => authorisation::Outcome::Declined(decline(order_id)),
            Goes::Undone => authorisation::Outcome::Undone(AlreadyVoided {}),
            Goes::InProgress => authorisation::Outcome::InProgress(wait()),
        };
        Ok(Authorisation { outcome: Some(outcome) })
    }

    async fn capture_payment(&self, _: &Call, request: CapturePayment) -> Result<Capture, Fault> {
        let effect = Effect::Turn {
            from: "authorised",
            to: "captured",
        };
        let goes = self
            .take(
                "capture_payment",
                &request.command_id,
                format!("{request:?}"),
                &request.order_id,
                effect,
            )
            .await?;
        let outcome = match goes {
            Goes::Yes => capture::Outcome::Captured(payment_of(&request.order_id)),
            Goes::No => capture::Outcome::Declined(decline(&request.order_id)),
            Goes::InProgress => capture::Outcome::InProgress(wait()),
            Goes::Undone => return Err(out_of_script()),
        };
        Ok(Capture { outcome: Some(outcome) })
    }

    async fn void_payment(&self, _: &Call, request: VoidPayment) -> Result<Void, Fault> {
        let effect = Effect::Undo {
            what: "authorised",
            undoes: request.undoes.clone(),
        };
        let goes = self
            .take(
                "void_payment",
                &request.command_id,
                format!("{request:?}"),
                &request.order_id,
                effect,
            )
            .await?;
        let outcome = match goes {
            Goes::InProgress => void::Outcome::InProgress(wait()),
            // Remembered under this id for ever.
            Goes::No => return Err(Fault::conflict("void_declined", "The provider declined.")),
            _ => void::Outcome::Voided(Voided {}),
        };
        Ok(Void { outcome: Some(outcome) })
    }

    async fn refund_remaining(&self, _: &Call, request: RefundRemaining) -> Result<Refund, Fault> {
        let effect = Effect::Undo {
            what: "captured",
            undoes: String::new(),
        };
        let goes = self
            .take(
                "refund_remaining",
                &request.command_id,
                format!("{request:?}"),
                &request.order_id,
                effect,
            )
            .await?;
        let outcome = match goes {
            Goes::InProgress => refund::Outcome::InProgress(wait()),
            Goes::No => return Err(Fault::conflict("refund_declined", "The provider declined.")),
            _ => refund::Outcome::Refunded(Refunded {
                amount: Some(Money {
                    amount: 398,
                    currency: "EUR".to_owned(),
                }),
            }),
        };
        Ok(Refund { outcome: Some(outcome) })
    }

    async fn find_payment(&self, _: &Call, _: FindPayment) -> Result<FoundPayment, Fault> {
        Err(out_of_script())
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
impl Shipping for Neighbours {
    async fn schedule_shipment(&self, _: &Call, request: ScheduleShipment) -> Result<Schedule, Fault> {
        let ScheduleShipment {
            command_id, order_id, ..
        } = &request;
        let goes = self
            .take(
                "schedule_shipment",
                command_id,
                format!("{request:?}"),
                order_id,
                Effect::Do("scheduled"),
            )
            .await?;
        let outcome = match goes {
            Goes::Yes => schedule::Outcome::Scheduled(ShipmentReference {
                shipment_id: id_of("shipment", order_id).to_string(),
            }),
            Goes::Undone => schedule::Outcome::Undone(AlreadyCancelled {}),
            Goes::No | Goes::InProgress => return Err(Fault::unavailable("busy")),
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
        let what = if request.undoes.is_empty() {
            "ready"
        } else {
            "scheduled"
        };
        let effect = Effect::Undo {
            what,
            undoes: request.undoes.clone(),
        };
        match self
            .take(
                "cancel_shipment",
                &request.command_id,
                format!("{request:?}"),
                order_id,
                effect,
            )
            .await?
        {
            Goes::Yes => Ok(ShipmentCancellation {
                outcome: Some(shipment_cancellation::Outcome::Cancelled(Cancelled {})),
            }),
            _ => Err(Fault::unavailable("busy")),
        }
    }

    async fn ready_shipment(&self, _: &Call, request: ReadyShipment) -> Result<Readiness, Fault> {
        let effect = Effect::Turn {
            from: "scheduled",
            to: "ready",
        };
        match self
            .take(
                "ready_shipment",
                &request.command_id,
                format!("{request:?}"),
                &request.order_id,
                effect,
            )
            .await?
        {
            Goes::Yes => Ok(Readiness {}),
            _ => Err(Fault::unavailable("busy")),
        }
    }

    async fn find_shipment(&self, _: &Call, request: FindShipment) -> Result<FoundShipment, Fault> {
        let state = self.state();
        if !state.shipping_knows {
            return Err(Fault::unavailable("shipping is away"));
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

/// How long tests wait for what must happen.
pub const LIMIT: Duration = Duration::from_secs(20);
