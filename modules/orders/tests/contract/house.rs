//! The module with its neighbours, running or not, and the ways a test asks it.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use banyan_core::{Bus, Envelope, Event, Fault, Listener, RandomIds, SystemClock, Timestamp};
use banyan_durable::{Db, Feeds};
use banyan_durable_testing::eventually;
use banyan_http_testing::{Reply, Site, TestRequest, get, post};
use orders::{Needs, Offers, Settings, start};
use serde_json::{Value, json};
use shared_kernel::Role;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::neighbours::{LIMIT, Neighbours};

pub const ADA: Uuid = Uuid::from_u128(0xada);
pub const BOB: Uuid = Uuid::from_u128(0xb0b);
pub const STAFF: Uuid = Uuid::from_u128(0x57a);

pub struct House {
    pub town: Arc<Neighbours>,
    pub site: Site,
    pub offers: Offers,
    pub wire: Arc<Wire>,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

/// The bus: keeps what orders tells, and lets the test tell orders.
#[derive(Default)]
pub struct Wire {
    listeners: Mutex<Vec<Arc<dyn Listener>>>,
    told: Mutex<Vec<Envelope>>,
}

#[async_trait]
impl Bus for Wire {
    async fn publish(&self, envelope: &Envelope) -> Result<(), Fault> {
        self.told.lock().unwrap().push(envelope.clone());
        Ok(())
    }

    async fn subscribe(&self, listener: Arc<dyn Listener>) -> Result<(), Fault> {
        self.listeners.lock().unwrap().push(listener);
        Ok(())
    }
}

/// Everything at test speed.
pub fn quick() -> banyan_durable::Settings {
    banyan_durable::Settings {
        pool: 4,
        poll_ms: 20,
        retry_ms: vec![20],
        saga_retry_ms: 5,
        saga_retry_cap_ms: 20,
        saga_call_ms: 2_000,
        ..banyan_durable::Settings::default()
    }
}

impl House {
    pub async fn open(db: Db) -> Self {
        House::open_with(db, Settings::default()).await
    }

    pub async fn open_with(db: Db, settings: Settings) -> Self {
        let town = Neighbours::new();
        let needs = Needs {
            db,
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
            catalog: town.clone(),
            inventory: town.clone(),
            payments: town.clone(),
            shipping: town.clone(),
            settings,
        };
        let offers = start(needs).await.expect("orders start");
        let wire = Arc::new(Wire::default());
        let bus: Arc<dyn Bus> = wire.clone();
        offers.machinery.connect(&bus).await.expect("it listens");
        House {
            town,
            site: Site::of(offers.routes.clone()),
            offers,
            wire,
            running: None,
        }
    }

    pub async fn running(db: Db) -> Self {
        let mut house = House::open(db).await;
        house.run();
        house
    }

    /// Starts the machinery.
    pub fn run(&mut self) {
        let stop = CancellationToken::new();
        let bus: Arc<dyn Bus> = self.wire.clone();
        self.running = Some((stop.clone(), self.offers.machinery.clone().run(bus, Feeds::new(), stop)));
    }

    /// Stops it, having looked that every view is what its stream folds to.
    pub async fn close(mut self) {
        assert_eq!(self.different_views().await, Vec::<String>::new());
        if let Some((stop, running)) = self.running.take() {
            stop.cancel();
            running.await.expect("the machinery ends");
        }
    }

    /// What an operator sees of read models that are not what their streams fold to.
    pub async fn different_views(&self) -> Vec<String> {
        let reply = self.as_ops(get("/api/v1/ops/orders/views")).await;
        serde_json::from_value(reply.json()["different"].clone()).expect("a comparison")
    }

    pub async fn as_ops(&self, request: TestRequest) -> Reply {
        self.site.send_as(BOB, &[Role::Ops], request).await
    }

    pub async fn as_ada(&self, request: TestRequest) -> Reply {
        self.site.send_as(ADA, &[Role::Customer], request).await
    }

    pub async fn as_bob(&self, request: TestRequest) -> Reply {
        self.site.send_as(BOB, &[Role::Customer], request).await
    }

    pub async fn as_staff(&self, request: TestRequest) -> Reply {
        self.site.send_as(STAFF, &[Role::Staff], request).await
    }

    /// Ada orders two figs.
    pub async fn place(&self) -> Uuid {
        let reply = self.as_ada(keyed("/api/v1/orders").set_json(two_figs())).await;
        assert_eq!(reply.status, 201, "{}", reply.body);
        id_in(&reply)
    }

    pub async fn show(&self, order: Uuid) -> Value {
        self.as_staff(get(&format!("/api/v1/orders/{order}"))).await.json()
    }

    pub async fn until_status(&self, order: Uuid, status: &str) -> Value {
        let what = format!("order {order} is {status}");
        eventually(&what, LIMIT, || async { self.show(order).await["status"] == status }).await;
        self.show(order).await
    }

    pub async fn cancel(&self, order: Uuid) -> Reply {
        self.as_ada(keyed(&format!("/api/v1/orders/{order}/cancel"))).await
    }

    /// The types of everything that happened to the order.
    pub async fn history(&self, order: Uuid) -> Vec<String> {
        let reply = self
            .as_staff(get(&format!("/api/v1/orders/{order}/history")))
            .await
            .json();
        let items = reply["items"].as_array().cloned().unwrap_or_default();
        items
            .iter()
            .map(|entry| entry["type"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// The events orders told of this order, by their short names.
    pub fn told(&self, order: Uuid) -> Vec<String> {
        let told = self.wire.told.lock().unwrap();
        let of_order = told
            .iter()
            .filter(|envelope| envelope.subject == format!("order/{order}"));
        of_order
            .map(|envelope| envelope.kind.rsplit('.').next().unwrap_or_default().to_owned())
            .collect()
    }

    pub fn told_data(&self, order: Uuid, kind: &str) -> Value {
        let told = self.wire.told.lock().unwrap();
        let found = told
            .iter()
            .find(|envelope| envelope.subject == format!("order/{order}") && envelope.kind.ends_with(kind));
        found
            .map(|envelope| serde_json::from_str(envelope.data.get()).unwrap())
            .unwrap_or_default()
    }

    /// Another module tells something.
    pub async fn hear<E: Event>(&self, source: &str, subject: &str, version: i64, event: &E) {
        let envelope = Envelope {
            specversion: "1.0".to_owned(),
            id: Uuid::new_v4(),
            source: source.to_owned(),
            kind: E::TYPE.to_owned(),
            subject: subject.to_owned(),
            time: Timestamp::from_ms(0),
            datacontenttype: "application/json".to_owned(),
            version,
            traceparent: None,
            data: serde_json::value::to_raw_value(event).unwrap(),
        };
        let listener = self.wire.listeners.lock().unwrap()[0].clone();
        listener.deliver(envelope).await.expect("the event is taken");
    }

    /// The state of the order's saga of this kind.
    pub async fn saga(&self, kind: &str, order: Uuid) -> Option<banyan_durable::SagaView> {
        let filter = banyan_durable::SagaFilter {
            kind: Some(kind.to_owned()),
            business_key: Some(order.to_string()),
            state: None,
        };
        let page = self
            .offers
            .machinery
            .ops()
            .sagas()
            .list(&filter, &Default::default())
            .await
            .expect("the sagas");
        page.items.into_iter().next()
    }
}

pub fn keyed(path: &str) -> TestRequest {
    post(path).insert_header(("Idempotency-Key", Uuid::new_v4().to_string()))
}

pub fn address() -> Value {
    json!({ "name": "Ada", "line1": "1 Street", "city": "London", "postal_code": "N1", "country": "GB" })
}

pub fn order_of(items: Value) -> Value {
    json!({ "items": items, "shipping_address": address(), "payment_method": "pm_card_visa" })
}

pub fn two_figs() -> Value {
    order_of(json!([{ "sku": "fig", "quantity": 2 }]))
}

pub fn id_in(reply: &Reply) -> Uuid {
    reply.json()["id"]
        .as_str()
        .and_then(|id| Uuid::parse_str(id).ok())
        .expect("an id in the answer")
}
