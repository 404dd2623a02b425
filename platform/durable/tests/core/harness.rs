//! Two modules, a bus with faults, and what the tests inspect.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use banyan_core::{Bus, Call, Clock, Envelope, Event, Fault, RandomIds, Subscriber, SystemClock};
use banyan_durable::{Db, Feeds, Incoming, Machinery, MachineryLimits, Reactions, Settings, Storage, outbox};
use banyan_durable_testing::{PostgresHome, SqliteHome};
use sea_orm::{ConnectionTrait, Statement, Value};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const SOON: Duration = Duration::from_secs(10);

pub fn quick() -> Settings {
    Settings {
        lease_ms: 1_500,
        feed_compare_ms: 150,
        limits: MachineryLimits {
            poll: Duration::from_millis(50),
            idle_poll: Duration::from_millis(50),
            retry_delays: vec![
                Duration::from_millis(20),
                Duration::from_millis(40),
                Duration::from_millis(60),
            ],
            max_failures: 3,
            renewals_per_lease: 5,
            ..MachineryLimits::default()
        },
        ..banyan_durable_testing::settings()
    }
}

/// Something that happened in a test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Noted {
    pub text: String,
}

impl Event for Noted {
    const TYPE: &'static str = "banyan.test.v1.Noted";
    const ALL_TYPES: &'static [&'static str] = &[Self::TYPE, Ignored::TYPE];
}

/// An event without a reaction.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ignored {}

impl Event for Ignored {
    const TYPE: &'static str = "banyan.test.v1.Ignored";
}

/// The machinery's tables in `storage`, opened under the name of a module.
pub async fn open_as(module: &str, storage: &Storage, settings: Settings, clock: Arc<dyn Clock>) -> Db {
    banyan_durable_testing::open("durable", storage, settings.clone())
        .await
        .close()
        .await;
    Db::open(module, storage, settings, clock, Arc::new(RandomIds))
        .await
        .unwrap()
}

/// Runs a test with a producing and a listening module, on SQLite and on PostgreSQL.
pub async fn with_two<F, Fut>(settings: Settings, test: F)
where
    F: Fn(Db, Db) -> Fut,
    Fut: Future<Output = ()>,
{
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let home = SqliteHome::new();
    let orders = open_as("orders", &home.storage("orders"), settings.clone(), clock.clone()).await;
    let mails = open_as("mails", &home.storage("mails"), settings.clone(), clock.clone()).await;
    prepare(&mails).await;
    test(orders.clone(), mails.clone()).await;
    orders.close().await;
    mails.close().await;

    let home = PostgresHome::new().await;
    let orders = open_as("orders", &home.storage("orders").await, settings.clone(), clock.clone()).await;
    let mails = open_as("mails", &home.storage("mails").await, settings, clock).await;
    prepare(&mails).await;
    test(orders.clone(), mails.clone()).await;
    orders.close().await;
    mails.close().await;
    home.remove().await;
}

/// A table of the handled events; without a unique key over them, so that a doubled effect shows.
pub async fn prepare(db: &Db) {
    let number = match db.backend() {
        sea_orm::DbBackend::Sqlite => "integer primary key autoincrement",
        _ => "bigserial primary key",
    };
    execute(
        db,
        format!(
            "create table handled (number {number}, subject text not null, version bigint not null, text text not null)"
        ),
    )
    .await;
}

pub async fn execute(db: &Db, sql: impl Into<String>) {
    db.write(sql.into(), |tx, sql| async move {
        tx.conn()
            .execute_unprepared(&sql)
            .await
            .map(drop)
            .map_err(banyan_durable::fault)
    })
    .await
    .unwrap()
}

pub async fn rows(db: &Db, sql: &str) -> Vec<sea_orm::QueryResult> {
    db.read()
        .query_all_raw(Statement::from_string(db.backend(), sql))
        .await
        .unwrap()
}

pub async fn count(db: &Db, sql: &str) -> i64 {
    rows(db, sql).await[0].try_get_by_index(0).unwrap()
}

pub async fn texts(db: &Db, sql: &str) -> Vec<String> {
    rows(db, sql)
        .await
        .iter()
        .map(|row| row.try_get_by_index(0).unwrap())
        .collect()
}

pub async fn note(db: &Db, subject: &str, text: &str) -> i64 {
    append(db, subject, Noted { text: text.to_owned() }).await
}

pub async fn append<E: Event + Clone>(db: &Db, subject: &str, event: E) -> i64 {
    let subject = subject.to_owned();
    db.write((subject, event), |tx, (subject, event)| async move {
        outbox::append(&tx, &Call::by_module("orders"), &subject, &event).await
    })
    .await
    .unwrap()
}

/// Records an event in the lane's transaction.
pub async fn record(tx: &banyan_durable::Tx, incoming: &Incoming<Noted>) -> Result<(), Fault> {
    let values: [Value; 3] = [
        incoming.envelope.subject.as_str().into(),
        incoming.envelope.version.into(),
        incoming.event.text.as_str().into(),
    ];
    let statement = Statement::from_sql_and_values(
        tx.conn().get_database_backend(),
        "insert into handled (subject, version, text) values ($1, $2, $3)",
        values,
    );
    tx.conn()
        .execute_raw(statement)
        .await
        .map(drop)
        .map_err(banyan_durable::fault)
}

/// The faults of reactions, by the text of the event.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<HashMap<String, Fault>>>);

impl Faults {
    pub fn set(&self, text: &str, fault: Fault) {
        self.0.lock().unwrap().insert(text.to_owned(), fault);
    }

    pub fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    fn of(&self, text: &str) -> Option<Fault> {
        self.0.lock().unwrap().get(text).cloned()
    }
}

/// A module with a reaction to `orders.order` that records the event, and then fails as set.
pub fn subscribed(db: &Db, faults: &Faults) -> Machinery {
    let faults = faults.clone();
    let reactions = Reactions::new(db.clone()).on::<Noted, _, _>("orders.order", move |tx, incoming| {
        let faults = faults.clone();
        async move {
            record(&tx, &incoming).await?;
            match faults.of(&incoming.event.text) {
                Some(fault) if fault.code == "panic" => panic!("on purpose"),
                Some(fault) => Err(fault),
                None => Ok(()),
            }
        }
    });
    Machinery::new(db.clone()).reactions(reactions)
}

/// The handled events of a subject, in the order in which they were handled.
pub async fn handled(db: &Db, subject: &str) -> Vec<String> {
    texts(
        db,
        &format!("select text from handled where subject = '{subject}' order by number"),
    )
    .await
}

/// A bus with faults.
#[derive(Default)]
pub struct TestBus {
    subscribers: Mutex<Vec<Arc<dyn Subscriber>>>,
    /// Confirms without delivering, as a broker that loses its data.
    pub losing: AtomicBool,
    /// Confirms nothing.
    pub down: AtomicBool,
    /// Refuses these subjects, or `<subject>:<version>`.
    pub refused: Mutex<Vec<String>>,
    /// The delay before a confirmation.
    pub slow_ms: AtomicUsize,
    /// `<subject>:<version>` as published.
    pub published: Mutex<Vec<String>>,
    under_way: Mutex<Vec<String>>,
    /// The maximum number of publications under way at the same time.
    pub most: AtomicUsize,
    /// Two of one subject were under way at the same time.
    pub overtook: AtomicBool,
}

#[async_trait]
impl Bus for TestBus {
    async fn publish(&self, envelope: &Envelope) -> Result<(), Fault> {
        let name = format!("{}:{}", envelope.subject, envelope.version);
        let refused = self
            .refused
            .lock()
            .unwrap()
            .iter()
            .any(|refused| *refused == envelope.subject || *refused == name);
        if refused || self.down.load(Ordering::SeqCst) {
            return Err(Fault::unavailable("the bus is down"));
        }
        {
            let mut under_way = self.under_way.lock().unwrap();
            if under_way.contains(&envelope.subject) {
                self.overtook.store(true, Ordering::SeqCst);
            }
            under_way.push(envelope.subject.clone());
            self.most.fetch_max(under_way.len(), Ordering::SeqCst);
        }
        self.published.lock().unwrap().push(name);
        let slow_ms = self.slow_ms.load(Ordering::SeqCst);
        if slow_ms > 0 {
            tokio::time::sleep(Duration::from_millis(slow_ms as u64)).await;
        }
        let subscribers = self.subscribers.lock().unwrap().clone();
        let mut delivered = Ok(());
        for subscriber in subscribers {
            if subscriber.topics().contains(&envelope.topic()) && !self.losing.load(Ordering::SeqCst) {
                delivered = delivered.and(subscriber.deliver(envelope.clone()).await);
            }
        }
        self.under_way
            .lock()
            .unwrap()
            .retain(|subject| *subject != envelope.subject);
        delivered
    }

    async fn subscribe(&self, subscriber: Arc<dyn Subscriber>) -> Result<(), Fault> {
        self.subscribers.lock().unwrap().push(subscriber);
        Ok(())
    }
}

impl TestBus {
    pub fn published(&self) -> Vec<String> {
        self.published.lock().unwrap().clone()
    }

    pub fn subscriber(&self) -> Arc<dyn Subscriber> {
        self.subscribers.lock().unwrap()[0].clone()
    }
}

/// Running machineries.
pub struct Running {
    stop: CancellationToken,
    handles: Vec<JoinHandle<()>>,
}

impl Running {
    /// Starts these modules on this bus; each has the feeds of the others.
    pub async fn start(bus: &Arc<TestBus>, machineries: Vec<Machinery>) -> Self {
        let feeds: Feeds = machineries
            .iter()
            .map(|machinery| (machinery.db().module().to_owned(), machinery.feed()))
            .collect();
        Self::start_with(bus, machineries, feeds).await
    }

    pub async fn start_with(bus: &Arc<TestBus>, machineries: Vec<Machinery>, feeds: Feeds) -> Self {
        let bus: Arc<dyn Bus> = bus.clone();
        for machinery in &machineries {
            machinery.connect(&bus).await.unwrap();
        }
        let stop = CancellationToken::new();
        let handles = machineries
            .into_iter()
            .map(|machinery| machinery.run(bus.clone(), feeds.clone(), stop.clone()))
            .collect();
        Running { stop, handles }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        for handle in self.handles {
            tokio::time::timeout(SOON, handle)
                .await
                .expect("the machinery ends")
                .unwrap();
        }
    }
}

/// The lane of a subject of orders.
pub async fn lane(db: &Db, subject: &str) -> i64 {
    let sql =
        format!("select coalesce(max(last_version), 0) from lane where source = 'orders' and subject = '{subject}'");
    count(db, &sql).await
}

/// The events kept for a retry, as `<subject>:<version> <state>`.
pub async fn retries(db: &Db) -> Vec<String> {
    texts(
        db,
        "select subject || ':' || version || ' ' || state from retry order by subject, version",
    )
    .await
}

/// The events in a module's outbox, as they are published.
pub async fn outbox_of(db: &Db) -> Vec<Envelope> {
    let bodies = texts(db, "select body from outbox order by subject, version").await;
    bodies
        .iter()
        .map(|body| Envelope::from_bytes(body.as_bytes()).unwrap())
        .collect()
}

/// A subscriber whose machinery does not run: only `deliver` has an effect.
pub async fn subscriber(db: &Db, faults: &Faults) -> Arc<dyn Subscriber> {
    let bus = Arc::new(TestBus::default());
    let transport: Arc<dyn banyan_core::Bus> = bus.clone();
    subscribed(db, faults).connect(&transport).await.unwrap();
    bus.subscriber()
}
