//! What the tests of notifications share: a fake of users, a fake bus, a fake mail server.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod smtp;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use banyan_core::{Bus, Call, Clock, Envelope, Fault, RandomIds, SystemClock};
use banyan_durable::{Db, Feeds};
use banyan_durable_testing::RecordingBus;
pub use banyan_durable_testing::envelope;
use notifications::{Needs, Offers, Settings, start};
use notifications_contract::{ListNotifications, Notification};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use users_contract::{
    AccountMail, AccountMailRequested, EndedSessions, FindUser, FoundUser, ListEndedSessions, ListSigningKeys,
    PrepareAccountMail, PreparedAccountMail, SigningKeys, User, UserRegistered, Users,
};
use uuid::Uuid;

pub const LIMIT: Duration = Duration::from_secs(10);

/// A fake of users in which every user exists except `NOBODY`.
#[derive(Default)]
pub struct FakeUsers {
    /// The number of calls that still fail as unavailable.
    pub unavailable: AtomicU32,
    /// Whether calls never return.
    pub hangs: AtomicBool,
    /// The number of calls received.
    pub calls: AtomicU32,
}

/// There is no such user.
pub const NOBODY: Uuid = Uuid::nil();
/// Looking up this one panics.
pub const PANICS: Uuid = Uuid::max();

#[async_trait]
impl Users for FakeUsers {
    async fn find_user(&self, call: &Call, request: FindUser) -> Result<FoundUser, Fault> {
        assert_eq!(call.actor.label(), "module:notifications");
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        assert_ne!(request.user_id, PANICS.to_string(), "the test provokes a panic");
        if self
            .unavailable
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok()
        {
            return Err(Fault::unavailable("users is unavailable"));
        }
        let user = (request.user_id != NOBODY.to_string()).then(|| User {
            email: format!("{}@example.com", request.user_id),
            id: request.user_id,
            name: "Ada".to_owned(),
            roles: vec!["customer".to_owned()],
        });
        Ok(FoundUser { user })
    }

    async fn list_ended_sessions(&self, _: &Call, _: ListEndedSessions) -> Result<EndedSessions, Fault> {
        Ok(EndedSessions::default())
    }

    async fn prepare_account_mail(
        &self,
        call: &Call,
        request: PrepareAccountMail,
    ) -> Result<PreparedAccountMail, Fault> {
        assert_eq!(call.actor.label(), "module:notifications");
        let nth = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let mail = (request.mail_id != NOBODY.to_string()).then(|| AccountMail {
            address: "new@example.com".to_owned(),
            token: Some(format!("token-{nth}")),
        });
        Ok(PreparedAccountMail { mail })
    }

    async fn list_signing_keys(&self, _: &Call, _: ListSigningKeys) -> Result<SigningKeys, Fault> {
        Err(Fault::unavailable("notifications needs no keys"))
    }
}

/// The module with its fakes. It sends mails once [`run`](Self::run) was called.
pub struct Module {
    pub offers: Offers,
    pub users: Arc<FakeUsers>,
    bus: Arc<RecordingBus>,
    running: Vec<(CancellationToken, JoinHandle<()>)>,
}

/// The default settings with short delays.
pub fn quick() -> Settings {
    let file = include_str!("../../config/default.toml");
    let mut settings: Settings = banyan_durable_testing::default_settings(file, "notifications");
    settings.timing.poll_interval = Duration::from_millis(20);
    settings.timing.retry_delays = vec![Duration::from_millis(20)];
    settings.timing.lease = Duration::from_secs(5);
    settings
}

/// What the module requires, with fakes.
pub fn needs(db: Db, settings: Settings) -> Needs {
    Needs {
        db,
        clock: Arc::new(SystemClock),
        ids: Arc::new(RandomIds),
        users: Arc::new(FakeUsers::default()),
        demo: true,
        settings,
    }
}

impl Module {
    pub async fn open(db: Db, settings: Settings) -> Self {
        Module::open_with(db, settings, Arc::new(SystemClock)).await
    }

    /// In an instance with a clock of its own.
    pub async fn open_with(db: Db, settings: Settings, clock: Arc<dyn Clock>) -> Self {
        let users = Arc::new(FakeUsers::default());
        let needs = Needs {
            clock,
            users: users.clone(),
            ..needs(db, settings)
        };
        let offers = start(needs).await.expect("notifications start");
        Module {
            bus: RecordingBus::of(&offers.machinery).await,
            offers,
            users,
            running: Vec::new(),
        }
    }

    /// Starts the machinery. Each further call starts one more instance.
    pub fn run(&mut self) {
        let stop = CancellationToken::new();
        let bus: Arc<dyn Bus> = self.bus.clone();
        self.running
            .push((stop.clone(), self.offers.machinery.clone().run(bus, Feeds::new(), stop)));
    }

    pub async fn stop(self) {
        for (stop, running) in self.running {
            stop.cancel();
            running.await.expect("the machinery ends");
        }
    }

    /// Ends the machinery as a crash would: nothing more is stored.
    pub fn abort(self) {
        for (_, running) in self.running {
            running.abort();
        }
    }

    /// Delivers an event to the module.
    pub async fn deliver(&self, envelope: Envelope) {
        self.bus.deliver(envelope).await.expect("the event is accepted");
    }

    /// Delivers the registration of a user, which queues a mail.
    pub async fn welcome(&self, user: Uuid) {
        let event = UserRegistered {
            user_id: user.to_string(),
            name: "Ada".into(),
            unverified: false,
        };
        self.deliver(envelope("users", &format!("user/{user}"), 1, &event))
            .await;
    }

    /// Delivers the request for a mail about the account of a user.
    pub async fn account_mail(&self, user: Uuid, kind: &str, mail_id: Uuid) {
        let event = AccountMailRequested {
            user_id: user.to_string(),
            mail_id: mail_id.to_string(),
            kind: kind.to_owned(),
        };
        self.deliver(envelope("users", &format!("user/{user}"), 1, &event))
            .await;
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

    /// Waits until all mails of the user have this status.
    pub async fn all_become(&self, user: Uuid, status: &str) {
        banyan_durable_testing::eventually(status, LIMIT, || async {
            let listed = self.list(user).await;
            !listed.is_empty() && listed.iter().all(|item| item.status == status)
        })
        .await;
    }
}
