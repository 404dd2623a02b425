//! The protocol under failures: a provider whose responses get lost, processes that crash, two instances on one database.

mod crash;
mod races;
mod reconciling;
mod refunds;
mod statements;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use banyan_core::{Call, Fault, RandomIds, RandomSecrets, SystemClock, Timestamp};
use banyan_durable::{Db, Storage};
use banyan_durable_testing::{PostgresHome, SqliteHome, default_settings};
use parking_lot::Mutex;
use payments_contract::{
    Authorisation, AuthorisePayment, Capture, CapturePayment, FindPayment, Payments, Refund, RefundRemaining, Void,
    VoidPayment, authorisation, capture, refund, void,
};
use shared_kernel::Money;
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    books::Books,
    provider::{AuthorisationRequest, BookedMovement, Period, Position, Provider, Response, Totals, WebhookEvent},
    sandbox::Sandbox,
    service::Service,
    settings::Settings,
    timing::Timing,
};

/// The settings of a shop that configures nothing.
pub fn default_payments() -> Settings {
    default_settings(include_str!("../../../config/default.toml"), "payments")
}

/// The storage of our data and of the provider's.
#[derive(Clone)]
pub struct Home {
    payments: Storage,
    pub books: Storage,
}

/// Runs a test on SQLite files and on PostgreSQL schemas.
pub async fn on_both<F, Fut>(test: F)
where
    F: Fn(Home) -> Fut,
    Fut: Future<Output = ()>,
{
    let sqlite = SqliteHome::new();
    test(Home {
        payments: sqlite.storage("payments"),
        books: sqlite.storage("sandbox-provider"),
    })
    .await;
    drop(sqlite);
    on_postgres(test).await;
}

pub async fn on_postgres<F, Fut>(test: F)
where
    F: Fn(Home) -> Fut,
    Fut: Future<Output = ()>,
{
    let postgres = PostgresHome::new().await;
    // The provider creates its own schema.
    let books = Storage::Postgres {
        url: postgres.url(),
        schema: "sandbox_provider".into(),
    };
    test(Home {
        payments: postgres.storage("payments").await,
        books,
    })
    .await;
    postgres.remove().await;
}

/// One instance of payments, with the provider's process beside it.
pub struct Shop {
    pub service: Arc<Service>,
    pub provider: Arc<UnreliableProvider>,
    pub sandbox: Arc<Sandbox>,
    pub db: Db,
}

impl Home {
    pub async fn open(&self) -> Shop {
        self.open_with(Timing {
            command_timeout: Duration::from_secs(3),
            sandbox_webhook_delay: Duration::ZERO,
            ..Timing::default()
        })
        .await
    }

    /// An instance with a short command timeout, so that a lost response costs no time.
    pub async fn open_impatient(&self) -> Shop {
        self.open_with(Timing {
            command_timeout: Duration::from_millis(60),
            ..Timing::default()
        })
        .await
    }

    async fn open_with(&self, timing: Timing) -> Shop {
        let settings = default_payments();
        let pool = banyan_durable::Settings {
            pool: 4,
            ..banyan_durable_testing::settings()
        };
        let db = banyan_durable_testing::open(crate::SCHEMA, &self.payments, pool).await;
        let opened = Sandbox::open(
            &self.books,
            db.settings(),
            &settings,
            timing,
            Arc::new(SystemClock),
            Arc::new(RandomIds),
            &RandomSecrets,
        )
        .await;
        let (sandbox, _) = opened.expect("the provider opens its books");
        let sandbox = Arc::new(sandbox);
        let provider = Arc::new(UnreliableProvider {
            sandbox: sandbox.clone(),
            failures: Mutex::default(),
            repairs: watch::Sender::default(),
            requests: AtomicUsize::new(0),
            books_closed: AtomicBool::new(false),
            pages: AtomicUsize::new(0),
        });
        Shop {
            service: Arc::new(Service::new(db.clone(), provider.clone(), settings, timing)),
            provider,
            sandbox,
            db,
        }
    }
}

impl Shop {
    /// The process crashes: whatever it had under way is lost, what is committed stays.
    pub async fn crash(self) {
        let Shop {
            service,
            provider,
            sandbox,
            db,
        } = self;
        drop((service, provider));
        db.close().await;
        sandbox.close().await;
    }

    /// Both sides' books agree, and nothing is open.
    pub async fn assert_books_agree(&self) {
        let found = Books::new(self.service.clone())
            .compare()
            .await
            .expect("both sides can be read");
        assert!(found.quiet && found.agrees(), "{found:#?}");
    }

    /// Effects at the provider: authorisations, captures, voids, refunds.
    pub async fn effects(&self) -> [i64; 4] {
        let effects = self.sandbox.effects().await.expect("the provider's books can be read");
        [effects.authorisations, effects.captures, effects.voids, effects.refunds]
    }

    pub async fn status(&self, order: &Order) -> String {
        let found = self
            .service
            .find_payment(
                &orders(),
                FindPayment {
                    order_id: order.id.to_string(),
                },
            )
            .await
            .unwrap();
        found.payment.map_or("none".into(), |payment| payment.status)
    }
}

/// How a request to the provider fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The provider never receives it, and the client sees an error.
    RequestLost,
    /// The provider acts, and its response is lost.
    ResponseLost,
    /// The provider does not receive it until the connection is repaired; the client sees nothing until then.
    RequestHangs,
    /// The provider acts, and its response does not arrive until the connection is repaired.
    ResponseHangs,
    /// Our own client has a bug, and reports a conflict.
    Bug,
}

impl Failure {
    /// Those of the network.
    pub const NETWORK: [Failure; 4] = [
        Failure::RequestLost,
        Failure::ResponseLost,
        Failure::RequestHangs,
        Failure::ResponseHangs,
    ];
}

/// The sandbox behind a connection that fails as planned. Querying the outcome of a command always works.
pub struct UnreliableProvider {
    sandbox: Arc<Sandbox>,
    /// Each with the number of repairs at the time it was planned: it lasts until the next repair.
    failures: Mutex<VecDeque<(Failure, u64)>>,
    repairs: watch::Sender<u64>,
    requests: AtomicUsize,
    /// Whether its lists of movements cannot be read.
    pub books_closed: AtomicBool,
    /// The pages of its books that were read.
    pub pages: AtomicUsize,
}

impl UnreliableProvider {
    /// The next request fails like this.
    pub fn fail_next(&self, failure: Failure) {
        let repairs = *self.repairs.borrow();
        self.failures.lock().push_back((failure, repairs));
    }

    /// Requests that hang go through, and the next one after them fails like this.
    pub fn repair_then_fail(&self, failure: Failure) {
        let repairs = *self.repairs.borrow();
        self.failures.lock().push_back((failure, repairs + 1));
        self.repair();
    }

    /// Requests that hang go through.
    pub fn repair(&self) {
        self.repairs.send_modify(|repairs| *repairs += 1);
    }

    /// The number of commands sent so far, without queries.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    async fn pass<Fut: Future<Output = Result<Response, Fault>>>(&self, request: Fut) -> Result<Response, Fault> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let Some((failure, planned_at)) = self.failures.lock().pop_front() else {
            return request.await;
        };
        let lost = || Fault::timeout("the connection was lost");
        let mut repairs = self.repairs.subscribe();
        let repaired = repairs.wait_for(|repairs| *repairs > planned_at);
        match failure {
            Failure::RequestLost => Err(lost()),
            Failure::Bug => Err(Fault::conflict("confused", "a bug of the client")),
            Failure::ResponseLost => request.await.and_then(|_| Err(lost())),
            Failure::RequestHangs => {
                repaired.await.map(drop).map_err(|_| lost())?;
                request.await
            }
            Failure::ResponseHangs => {
                let response = request.await;
                repaired.await.map(drop).map_err(|_| lost())?;
                response
            }
        }
    }
}

#[async_trait]
impl Provider for UnreliableProvider {
    fn name(&self) -> &'static str {
        self.sandbox.name()
    }

    async fn authorise(&self, key: Uuid, request: &AuthorisationRequest) -> Result<Response, Fault> {
        self.pass(self.sandbox.authorise(key, request)).await
    }

    async fn capture(&self, key: Uuid, authorisation: &str, amount: &Money) -> Result<Response, Fault> {
        self.pass(self.sandbox.capture(key, authorisation, amount)).await
    }

    async fn void(&self, key: Uuid, authorisation: &str) -> Result<Response, Fault> {
        self.pass(self.sandbox.void(key, authorisation)).await
    }

    async fn refund(&self, key: Uuid, authorisation: &str, amount: &Money) -> Result<Response, Fault> {
        self.pass(self.sandbox.refund(key, authorisation, amount)).await
    }

    async fn find(&self, key: Uuid) -> Result<Option<Response>, Fault> {
        self.sandbox.find(key).await
    }

    fn read_webhook(&self, signature: &str, body: &[u8], now: Timestamp) -> Result<WebhookEvent, Fault> {
        self.sandbox.read_webhook(signature, body, now)
    }

    async fn list_movements(
        &self,
        period: Period,
        after: Option<Position>,
        limit: u64,
    ) -> Result<Vec<BookedMovement>, Fault> {
        if self.books_closed.load(Ordering::SeqCst) {
            return Err(Fault::unavailable("The provider's books cannot be read now."));
        }
        self.pages.fetch_add(1, Ordering::SeqCst);
        self.sandbox.list_movements(period, after, limit).await
    }

    async fn find_movement(&self, key: Uuid) -> Result<Option<BookedMovement>, Fault> {
        self.sandbox.find_movement(key).await
    }

    async fn totals(&self) -> Result<Vec<Totals>, Fault> {
        self.sandbox.totals().await
    }
}

/// An order that pays 100.00 EUR, and the ids of its commands.
#[derive(Clone)]
pub struct Order {
    pub id: Uuid,
    user: Uuid,
    method: &'static str,
    commands: Uuid,
}

pub fn orders() -> Call {
    Call::by_module("orders")
}

pub fn euros(amount: i64) -> Money {
    Money {
        amount,
        currency: "EUR".into(),
    }
}

impl Order {
    pub fn paying_by(method: &'static str) -> Self {
        Order {
            id: Uuid::now_v7(),
            user: Uuid::new_v4(),
            method,
            commands: Uuid::new_v4(),
        }
    }

    pub fn new() -> Self {
        Order::paying_by("pm_card_visa")
    }

    pub fn command(&self, step: &str) -> String {
        Uuid::new_v5(&self.commands, step.as_bytes()).to_string()
    }

    pub async fn authorise(&self, shop: &Shop) -> String {
        let request = AuthorisePayment {
            command_id: self.command("authorise"),
            order_id: self.id.to_string(),
            user_id: self.user.to_string(),
            amount: Some(euros(10_000)),
            payment_method: self.method.into(),
        };
        use authorisation::Outcome;
        match shop
            .service
            .authorise_payment(&orders(), request)
            .await
            .map(|Authorisation { outcome }| outcome.unwrap())
        {
            Ok(Outcome::Authorised(_)) => "authorised".into(),
            Ok(Outcome::Declined(decline)) => decline.code,
            Ok(Outcome::InProgress(_)) => "in_progress".into(),
            Ok(Outcome::Undone(_)) => "undone".into(),
            Err(fault) => fault.code,
        }
    }

    pub async fn request_capture(&self, shop: &Shop) -> Result<capture::Outcome, Fault> {
        let request = CapturePayment {
            command_id: self.command("capture"),
            order_id: self.id.to_string(),
        };
        shop.service
            .capture_payment(&orders(), request)
            .await
            .map(|Capture { outcome }| outcome.unwrap())
    }

    pub async fn capture(&self, shop: &Shop) -> String {
        use capture::Outcome;
        match self.request_capture(shop).await {
            Ok(Outcome::Captured(_)) => "captured".into(),
            Ok(Outcome::Declined(decline)) => decline.code,
            Ok(Outcome::InProgress(_)) => "in_progress".into(),
            Err(fault) => fault.code,
        }
    }

    pub async fn void(&self, shop: &Shop) -> String {
        let (command_id, undoes) = (self.command("void"), self.command("authorise"));
        let request = VoidPayment {
            command_id,
            undoes,
            order_id: self.id.to_string(),
            ..VoidPayment::default()
        };
        use void::Outcome;
        match shop
            .service
            .void_payment(&orders(), request)
            .await
            .map(|Void { outcome }| outcome.unwrap())
        {
            Ok(Outcome::Voided(_)) => "voided".into(),
            Ok(Outcome::InProgress(_)) => "in_progress".into(),
            Err(fault) => fault.code,
        }
    }

    pub async fn refund(&self, shop: &Shop) -> String {
        let request = RefundRemaining {
            command_id: self.command("refund"),
            order_id: self.id.to_string(),
            reason: "cancelled".into(),
            comment: None,
        };
        use refund::Outcome;
        match shop
            .service
            .refund_remaining(&orders(), request)
            .await
            .map(|Refund { outcome }| outcome.unwrap())
        {
            Ok(Outcome::Refunded(refunded)) => format!("refunded {}", refunded.amount.unwrap().amount),
            Ok(Outcome::InProgress(_)) => "in_progress".into(),
            Err(fault) => fault.code,
        }
    }

    /// Repeats the command until there is an outcome, as a saga does.
    pub async fn until_known<Fut: Future<Output = String>>(send: impl Fn() -> Fut) -> String {
        for _ in 0..200 {
            let outcome = send().await;
            if outcome != "in_progress" {
                return outcome;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no outcome");
    }
}
