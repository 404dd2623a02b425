//! The module with fakes of the modules it calls, and what tests do with it.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod fakes;

use std::{sync::Arc, time::Duration};

use banyan_core::{Bus, Event, RandomIds, RandomSecrets, SystemClock};
use banyan_durable::{Db, Feeds};
use banyan_durable_testing::{RecordingBus, default_settings, envelope, eventually};
use banyan_http_testing::{Reply, Site, TestRequest, get, post};
use orders::{Limits, Needs, Offers, Settings, start};
use serde_json::{Value, json};
use shared_kernel::Role;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use fakes::{FakeModules, TIMEOUT};

pub const ADA: Uuid = Uuid::from_u128(0xada);
pub const BOB: Uuid = Uuid::from_u128(0xb0b);
pub const STAFF: Uuid = Uuid::from_u128(0x57a);

pub struct Harness {
    pub modules: Arc<FakeModules>,
    pub site: Site,
    pub offers: Offers,
    bus: Arc<RecordingBus>,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

/// Short intervals, so that tests take little time.
pub fn quick() -> banyan_durable::Settings {
    banyan_durable::Settings {
        pool: 4,
        saga_retry_cap_ms: 20,
        limits: banyan_durable::MachineryLimits {
            poll: Duration::from_millis(20),
            idle_poll: Duration::from_millis(20),
            retry_delays: vec![Duration::from_millis(20)],
            saga_first_retry: Duration::from_millis(5),
            saga_call_timeout: Duration::from_secs(2),
            ..banyan_durable::MachineryLimits::default()
        },
        ..banyan_durable_testing::settings()
    }
}

/// The settings of a shop that configures nothing.
pub fn settings() -> Settings {
    default_settings(include_str!("../../config/default.toml"), "orders")
}

impl Harness {
    pub async fn open(db: Db) -> Self {
        Harness::open_with(db, settings(), Limits::default()).await
    }

    pub async fn open_with(db: Db, settings: Settings, limits: Limits) -> Self {
        let modules = FakeModules::new();
        let needs = Needs {
            db,
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
            secrets: Arc::new(RandomSecrets),
            catalog: modules.clone(),
            inventory: modules.clone(),
            payments: modules.clone(),
            shipping: modules.clone(),
            settings,
            limits,
        };
        let offers = start(needs).await.expect("orders start");
        let bus = RecordingBus::of(&offers.machinery).await;
        Harness {
            modules,
            site: Site::of(offers.routes.clone()),
            offers,
            bus,
            running: None,
        }
    }

    pub async fn running(db: Db) -> Self {
        let mut harness = Harness::open(db).await;
        harness.run();
        harness
    }

    /// Starts the machinery.
    pub fn run(&mut self) {
        let stop = CancellationToken::new();
        let bus: Arc<dyn Bus> = self.bus.clone();
        self.running = Some((stop.clone(), self.offers.machinery.clone().run(bus, Feeds::new(), stop)));
    }

    /// Stops the machinery, after checking that every view is what its stream folds to.
    pub async fn close(mut self) {
        assert_eq!(self.different_views().await, Vec::<String>::new());
        if let Some((stop, running)) = self.running.take() {
            stop.cancel();
            running.await.expect("the machinery ends");
        }
    }

    /// The read models that differ from what their streams fold to, as an operator sees them.
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
        eventually(&what, TIMEOUT, || async { self.show(order).await["status"] == status }).await;
        self.show(order).await
    }

    pub async fn cancel(&self, order: Uuid) -> Reply {
        self.as_ada(keyed(&format!("/api/v1/orders/{order}/cancel"))).await
    }

    /// The types of the order's events.
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

    /// The short names of the events that orders published about this order.
    pub fn published(&self, order: Uuid) -> Vec<String> {
        let published = self.bus.published();
        let of_order = published
            .iter()
            .filter(|envelope| envelope.subject == format!("order/{order}"));
        of_order
            .map(|envelope| envelope.kind.rsplit('.').next().unwrap_or_default().to_owned())
            .collect()
    }

    pub fn published_data(&self, order: Uuid, kind: &str) -> Value {
        let published = self.bus.published();
        let found = published
            .iter()
            .find(|envelope| envelope.subject == format!("order/{order}") && envelope.kind.ends_with(kind));
        found
            .map(|envelope| serde_json::from_str(envelope.data.get()).unwrap())
            .unwrap_or_default()
    }

    /// Delivers an event of another module.
    pub async fn deliver<E: Event>(&self, source: &str, subject: &str, version: i64, event: &E) {
        let envelope = envelope(source, subject, version, event);
        self.bus.deliver(envelope).await.expect("the event is accepted");
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
    json!({ "name": "Ada", "line1": "1 Street", "city": "London", "postal_code": "N1 9GU", "country": "GB" })
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
        .expect("an id in the response")
}
