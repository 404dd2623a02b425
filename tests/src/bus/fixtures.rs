//! Buses to check, and subscribers that record what they receive.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use banyan_bus::{Carrier, InProcessBus, Limits, QueueType, RabbitBus, Settings, Topology};
use banyan_core::{Envelope, Fault, Subscriber};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The subscribers of these checks, with their topics.
pub const SUBSCRIBERS: &[(&str, &[&str])] = &[
    ("shipping", &["orders.order"]),
    ("mails", &["orders.order", "users.user"]),
    ("never", &["stock.item"]),
];
/// The timeout for everything the broker does, with room for a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    InProcess,
    Rabbit(QueueType),
}

impl Kind {
    pub const ALL: [Kind; 3] = [
        Kind::InProcess,
        Kind::Rabbit(QueueType::Quorum),
        Kind::Rabbit(QueueType::Classic),
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::InProcess => "in process",
            Kind::Rabbit(QueueType::Quorum) => "rabbitmq, quorum",
            Kind::Rabbit(QueueType::Classic) => "rabbitmq, classic",
        }
    }

    /// A bus of its own.
    pub async fn bus(self) -> Arc<dyn Carrier> {
        match self {
            Kind::InProcess => Arc::new(InProcessBus::new()),
            Kind::Rabbit(queue_type) => Fixture::new(&shared_broker(), queue_type).bus().await,
        }
    }
}

/// The broker `scripts/test.sh` has started for all tests.
pub fn shared_broker() -> String {
    std::env::var("BANYAN_TEST_RABBITMQ")
        .expect("BANYAN_TEST_RABBITMQ names a RabbitMQ, amqp://user:password@host:port/%2f; scripts/test.sh starts one")
}

/// An exchange of one test, with its queues. Processes of the same shop share it.
pub struct Fixture {
    pub settings: Settings,
    pub topology: Topology,
}

impl Fixture {
    pub fn new(url: &str, queue_type: QueueType) -> Fixture {
        let settings = Settings {
            url: Some(url.to_owned().into()),
            exchange: format!("test.{}", Uuid::new_v4().simple()),
            queue_type,
            limits: Limits {
                reconnect: Duration::from_millis(50),
                ..Limits::default()
            },
            ..banyan::settings(None, []).expect("the defaults").bus
        };
        let topology = Topology::new(&settings, SUBSCRIBERS);
        Fixture { settings, topology }
    }

    /// One process's bus, connected.
    pub async fn bus(&self) -> Arc<dyn Carrier> {
        let bus = self.starting_bus(&CancellationToken::new());
        connected(&*bus).await;
        bus
    }

    /// One process's bus; the broker may be down.
    pub fn starting_bus(&self, stop: &CancellationToken) -> Arc<dyn Carrier> {
        RabbitBus::start(self.settings.clone(), self.topology.clone(), stop).expect("the settings are right")
    }

    /// A channel of the test's own, to change the broker from outside.
    pub async fn admin_channel(&self) -> lapin::Channel {
        use secrecy::ExposeSecret;
        let url = self.settings.url.as_ref().expect("a URL").expose_secret();
        let connection = lapin::Connection::connect(url, lapin::ConnectionProperties::default())
            .await
            .expect("a connection");
        connection.create_channel().await.expect("a channel")
    }

    pub fn queue(&self, module: &str) -> String {
        self.topology
            .queue_of(module)
            .expect("the module is a subscriber")
            .name
            .clone()
    }
}

pub async fn connected(bus: &dyn Carrier) {
    banyan_durable_testing::eventually("the bus is connected", SOON, || async { bus.state().is_connected() }).await;
}

/// A module that subscribes and records what it receives.
pub struct RecordingSubscriber {
    module: &'static str,
    received: Mutex<Vec<Envelope>>,
    rejected: Mutex<Vec<Vec<u8>>>,
    caught_up: AtomicUsize,
    refusing: AtomicUsize,
    /// If there is one, each delivery waits for a permit of it.
    gate: Mutex<Option<Arc<Semaphore>>>,
    pub offered: AtomicUsize,
}

impl RecordingSubscriber {
    pub fn new(module: &'static str) -> Arc<RecordingSubscriber> {
        Arc::new(RecordingSubscriber {
            module,
            received: Mutex::default(),
            rejected: Mutex::default(),
            caught_up: AtomicUsize::new(0),
            refusing: AtomicUsize::new(0),
            gate: Mutex::default(),
            offered: AtomicUsize::new(0),
        })
    }

    /// Fails this number of the next deliveries, as a module does whose database is down.
    pub fn refuse(&self, deliveries: usize) {
        self.refusing.store(deliveries, Ordering::SeqCst);
    }

    /// Blocks deliveries; each permit added lets one of them continue.
    pub fn close_gate(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        *self.gate.lock() = Some(gate.clone());
        gate
    }

    pub fn received(&self) -> Vec<Envelope> {
        self.received.lock().clone()
    }

    pub fn rejected(&self) -> Vec<Vec<u8>> {
        self.rejected.lock().clone()
    }

    pub fn caught_up(&self) -> usize {
        self.caught_up.load(Ordering::SeqCst)
    }

    pub async fn receives(&self, events: usize) {
        let what = format!("{} receives {events} events", self.module);
        banyan_durable_testing::eventually(&what, SOON, || async { self.distinct() >= events }).await;
    }

    /// The number of different events it has received.
    pub fn distinct(&self) -> usize {
        let ids: std::collections::HashSet<Uuid> = self.received.lock().iter().map(|event| event.id).collect();
        ids.len()
    }

    /// The versions of each subject, in the order of their first delivery.
    pub fn versions(&self) -> HashMap<String, Vec<i64>> {
        let mut versions: HashMap<String, Vec<i64>> = HashMap::new();
        for event in self.received() {
            let of_subject = versions.entry(event.subject).or_default();
            if !of_subject.contains(&event.version) {
                of_subject.push(event.version);
            }
        }
        versions
    }

    fn refuses(&self) -> bool {
        let less_one = |left: usize| left.checked_sub(1);
        self.refusing
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less_one)
            .is_ok()
    }
}

#[async_trait]
impl Subscriber for RecordingSubscriber {
    fn module(&self) -> &str {
        self.module
    }

    fn topics(&self) -> Vec<String> {
        let (_, topics) = SUBSCRIBERS
            .iter()
            .find(|(module, _)| *module == self.module)
            .expect("the module is in the table");
        topics.iter().map(|topic| (*topic).to_owned()).collect()
    }

    async fn deliver(&self, envelope: Envelope) -> Result<(), Fault> {
        self.offered.fetch_add(1, Ordering::SeqCst);
        // Long enough for a later event of the same subject to overtake this one, if the bus allowed that.
        tokio::time::sleep(Duration::from_millis(envelope.version.rem_euclid(3).unsigned_abs())).await;
        let gate = self.gate.lock().clone();
        if let Some(gate) = gate {
            gate.acquire().await.expect("the semaphore is never closed").forget();
        }
        if self.refuses() {
            return Err(Fault::unavailable("the database is down"));
        }
        self.received.lock().push(envelope);
        Ok(())
    }

    async fn reject(&self, frame: &[u8], _: &Fault) -> Result<(), Fault> {
        if self.refuses() {
            return Err(Fault::unavailable("the database is down"));
        }
        self.rejected.lock().push(frame.to_owned());
        Ok(())
    }

    fn catch_up(&self) {
        self.caught_up.fetch_add(1, Ordering::SeqCst);
    }
}
