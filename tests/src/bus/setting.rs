//! Buses to check, and listeners that write down what they hear.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use banyan::bus::{Carrier, InProcessBus, QueueType, RabbitBus, Settings, Topology};
use banyan_core::{Envelope, Fault, Subscriber};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Who listens in these checks.
pub const LISTENERS: &[(&str, &[&str])] = &[
    ("shipping", &["orders.order"]),
    ("mails", &["orders.order", "users.user"]),
    ("never", &["stock.item"]),
];
/// Whatever the broker is asked for happens within so long, on a busy machine too.
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

    /// A bus nobody else is on.
    pub async fn bus(self) -> Arc<dyn Carrier> {
        match self {
            Kind::InProcess => Arc::new(InProcessBus::new()),
            Kind::Rabbit(queue_type) => World::new(&shared_broker(), queue_type).bus().await,
        }
    }
}

/// The broker `scripts/test.sh` has started for all tests.
pub fn shared_broker() -> String {
    std::env::var("BANYAN_TEST_RABBITMQ")
        .expect("BANYAN_TEST_RABBITMQ names a RabbitMQ, amqp://user:password@host:port/%2f; scripts/test.sh starts one")
}

/// An exchange of one test, with its queues. Processes of the same shop share a world.
pub struct World {
    pub settings: Settings,
    pub topology: Topology,
}

impl World {
    pub fn new(url: &str, queue_type: QueueType) -> World {
        let settings = Settings {
            url: Some(url.to_owned().into()),
            exchange: format!("test.{}", Uuid::new_v4().simple()),
            queue_type,
            reconnect_ms: 50,
            ..Settings::default()
        };
        let topology = Topology::new(&settings, LISTENERS);
        World { settings, topology }
    }

    /// One process's bus, connected.
    pub async fn bus(&self) -> Arc<dyn Carrier> {
        let bus = self.starting_bus(&CancellationToken::new());
        connected(&*bus).await;
        bus
    }

    /// One process's bus; the broker may be away.
    pub fn starting_bus(&self, stop: &CancellationToken) -> Arc<dyn Carrier> {
        RabbitBus::start(self.settings.clone(), self.topology.clone(), stop).expect("the settings are right")
    }

    /// A connection behind everybody's back.
    pub async fn back_door(&self) -> lapin::Channel {
        use secrecy::ExposeSecret;
        let url = self.settings.url.as_ref().expect("a URL").expose_secret();
        let connection = lapin::Connection::connect(url, lapin::ConnectionProperties::default())
            .await
            .expect("a connection");
        connection.create_channel().await.expect("a channel")
    }

    pub fn queue(&self, module: &str) -> String {
        self.topology.queue_of(module).expect("it listens").name.clone()
    }
}

pub async fn connected(bus: &dyn Carrier) {
    banyan_durable_testing::eventually("the bus is connected", SOON, || async { bus.state().is_connected() }).await;
}

/// A listening module that writes down what it hears.
pub struct Ear {
    module: &'static str,
    heard: Mutex<Vec<Envelope>>,
    rejected: Mutex<Vec<Vec<u8>>>,
    caught_up: AtomicUsize,
    refusing: AtomicUsize,
    /// Each delivery waits for a permit of it, if there is one.
    gate: Mutex<Option<Arc<Semaphore>>>,
    pub offered: AtomicUsize,
}

impl Ear {
    pub fn of(module: &'static str) -> Arc<Ear> {
        Arc::new(Ear {
            module,
            heard: Mutex::default(),
            rejected: Mutex::default(),
            caught_up: AtomicUsize::new(0),
            refusing: AtomicUsize::new(0),
            gate: Mutex::default(),
            offered: AtomicUsize::new(0),
        })
    }

    /// Fails so many of the next deliveries, as a module does whose database is away.
    pub fn refuse(&self, deliveries: usize) {
        self.refusing.store(deliveries, Ordering::SeqCst);
    }

    /// Lets deliveries wait; each permit added lets one of them go on.
    pub fn close_gate(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        *self.gate.lock().unwrap() = Some(gate.clone());
        gate
    }

    pub fn heard(&self) -> Vec<Envelope> {
        self.heard.lock().unwrap().clone()
    }

    pub fn rejected(&self) -> Vec<Vec<u8>> {
        self.rejected.lock().unwrap().clone()
    }

    pub fn caught_up(&self) -> usize {
        self.caught_up.load(Ordering::SeqCst)
    }

    pub async fn hears(&self, events: usize) {
        let what = format!("{} hears {events} events", self.module);
        banyan_durable_testing::eventually(&what, SOON, || async { self.distinct() >= events }).await;
    }

    /// How many different events it has heard.
    pub fn distinct(&self) -> usize {
        let ids: std::collections::HashSet<Uuid> = self.heard.lock().unwrap().iter().map(|event| event.id).collect();
        ids.len()
    }

    /// Per subject the versions as they came first.
    pub fn versions(&self) -> HashMap<String, Vec<i64>> {
        let mut versions: HashMap<String, Vec<i64>> = HashMap::new();
        for event in self.heard() {
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
impl Subscriber for Ear {
    fn module(&self) -> &str {
        self.module
    }

    fn topics(&self) -> Vec<String> {
        let (_, topics) = LISTENERS
            .iter()
            .find(|(module, _)| *module == self.module)
            .expect("it stands in the table");
        topics.iter().map(|topic| (*topic).to_owned()).collect()
    }

    async fn deliver(&self, envelope: Envelope) -> Result<(), Fault> {
        self.offered.fetch_add(1, Ordering::SeqCst);
        // Long enough for a later event of the same subject to overtake this one, if anything let it.
        tokio::time::sleep(Duration::from_millis(envelope.version.rem_euclid(3).unsigned_abs())).await;
        let gate = self.gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            gate.acquire().await.expect("nobody closes it").forget();
        }
        if self.refuses() {
            return Err(Fault::unavailable("the database is away"));
        }
        self.heard.lock().unwrap().push(envelope);
        Ok(())
    }

    async fn reject(&self, frame: &[u8], _: &Fault) -> Result<(), Fault> {
        if self.refuses() {
            return Err(Fault::unavailable("the database is away"));
        }
        self.rejected.lock().unwrap().push(frame.to_owned());
        Ok(())
    }

    fn catch_up(&self) {
        self.caught_up.fetch_add(1, Ordering::SeqCst);
    }
}
