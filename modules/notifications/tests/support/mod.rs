//! What the tests of notifications share: users to write to, events to hear, a mail server to talk to.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod smtp;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use banyan_core::{Bus, Call, Clock, Envelope, Event, Fault, RandomIds, Subscriber, SystemClock};
use banyan_durable::{Db, Feeds};
use notifications::{Needs, Offers, Settings, start};
use notifications_contract::{ListNotifications, Notification};
use serde_json::value::to_raw_value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use users_contract::{FindUser, FoundUser, ListSigningKeys, SigningKeys, User, UserRegistered, Users};
use uuid::Uuid;

pub const LIMIT: Duration = Duration::from_secs(10);

/// Users who all exist, but for `NOBODY`; they are away as often as the test says.
#[derive(Default)]
pub struct Everybody {
    pub away: AtomicU32,
    /// They never answer.
    pub never: AtomicBool,
    pub asked: AtomicU32,
}

/// There is no such user.
pub const NOBODY: Uuid = Uuid::nil();
/// Asking for this one panics.
pub const CURSED: Uuid = Uuid::max();

#[async_trait]
impl Users for Everybody {
    async fn find_user(&self, call: &Call, request: FindUser) -> Result<FoundUser, Fault> {
        assert_eq!(call.actor.label(), "module:notifications");
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.never.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        assert_ne!(request.user_id, CURSED.to_string(), "the test wants a panic here");
        if self
            .away
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok()
        {
            return Err(Fault::unavailable("users are away"));
        }
        let user = (request.user_id != NOBODY.to_string()).then(|| User {
            email: format!("{}@example.com", request.user_id),
            id: request.user_id,
            name: "Ada".to_owned(),
            roles: vec!["customer".to_owned()],
        });
        Ok(FoundUser { user })
    }

    async fn list_signing_keys(&self, _: &Call, _: ListSigningKeys) -> Result<SigningKeys, Fault> {
        Err(Fault::unavailable("nobody asks for keys here"))
    }
}

/// Keeps who listens, so that a test can be the bus.
#[derive(Default)]
struct Ears(Mutex<Vec<Arc<dyn Subscriber>>>);

#[async_trait]
impl Bus for Ears {
    async fn publish(&self, _: &Envelope) -> Result<(), Fault> {
        Ok(())
    }

    async fn subscribe(&self, listener: Arc<dyn Subscriber>) -> Result<(), Fault> {
        self.0.lock().unwrap().push(listener);
        Ok(())
    }
}

/// The module, hearing what the test tells it, and sending if it runs.
pub struct Module {
    pub offers: Offers,
    pub users: Arc<Everybody>,
    ears: Arc<Ears>,
    running: Vec<(CancellationToken, JoinHandle<()>)>,
}

/// Everything at test speed.
pub fn quick() -> Settings {
    Settings {
        poll_ms: 20,
        retry_ms: vec![20],
        lease_ms: 5_000,
        ..Settings::default()
    }
}

impl Module {
    pub async fn open(db: Db, settings: Settings) -> Self {
        let users = Arc::new(Everybody::default());
        let needs = Needs {
            db,
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
            users: users.clone(),
            settings,
        };
        let offers = start(needs).await.expect("notifications start");
        let ears = Arc::new(Ears::default());
        let bus: Arc<dyn Bus> = ears.clone();
        offers.machinery.connect(&bus).await.expect("it listens");
        Module {
            offers,
            users,
            ears,
            running: Vec::new(),
        }
    }

    /// Starts the machinery; may be called again for one more instance.
    pub fn run(&mut self) {
        let stop = CancellationToken::new();
        let bus: Arc<dyn Bus> = self.ears.clone();
        self.running
            .push((stop.clone(), self.offers.machinery.clone().run(bus, Feeds::new(), stop)));
    }

    pub async fn stop(self) {
        for (stop, running) in self.running {
            stop.cancel();
            running.await.expect("the machinery ends");
        }
    }

    /// Ends it as a crash would: nothing more is stored.
    pub fn abort(self) {
        for (_, running) in self.running {
            running.abort();
        }
    }

    pub async fn hear(&self, envelope: Envelope) {
        let listener = self.ears.0.lock().unwrap()[0].clone();
        listener.deliver(envelope).await.expect("the event is taken");
    }

    /// Registers a user, which is a mail.
    pub async fn welcome(&self, user: Uuid) {
        let event = UserRegistered {
            user_id: user.to_string(),
            name: "Ada".into(),
        };
        self.hear(envelope("users", &format!("user/{user}"), 1, &event)).await;
    }

    pub async fn list(&self, user: Uuid) -> Vec<Notification> {
        let request = ListNotifications {
            user_id: user.to_string(),
            limit: 100,
        };
        self.offers
            .contract
            .list_notifications(&Call::by_module("test"), request)
            .await
            .expect("the list")
            .items
    }

    /// Waits until all of the user's mails are in this state.
    pub async fn all_become(&self, user: Uuid, status: &str) {
        banyan_durable_testing::eventually(status, LIMIT, || async {
            let listed = self.list(user).await;
            !listed.is_empty() && listed.iter().all(|item| item.status == status)
        })
        .await;
    }
}

/// An event as it comes over the bus.
pub fn envelope<E: Event>(source: &str, subject: &str, version: i64, event: &E) -> Envelope {
    Envelope {
        specversion: "1.0".to_owned(),
        id: Uuid::now_v7(),
        source: source.to_owned(),
        kind: E::TYPE.to_owned(),
        subject: subject.to_owned(),
        time: SystemClock.now(),
        datacontenttype: "application/json".to_owned(),
        version,
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
        data: to_raw_value(event).expect("the event is JSON"),
    }
}
