//! The protocol under fire: a provider whose answers get lost, processes that die, two instances on one database.

mod crash;
mod provider;
mod races;
mod refunds;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use banyan_core::{Call, Fault, RandomIds, RandomSecrets, SystemClock, Timestamp};
use banyan_durable::{Db, Storage};
use banyan_durable_testing::{PostgresHome, SqliteHome};
use payments_contract::{
    Authorisation, AuthorisePayment, Capture, CapturePayment, FindPayment, Payments, Refund, RefundRemaining, Void,
    VoidPayment, authorisation, capture, refund, void,
};
use shared_kernel::Money;
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    provider::{Answer, AuthorisationRequest, Provider, Totals, WebhookEvent},
    reconcile::Books,
    sandbox::Sandbox,
    service::Service,
    settings::Settings,
};

/// Where a shop's data is: ours and the provider's.
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
    // The provider makes its own schema.
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
    pub line: Arc<Line>,
    pub sandbox: Arc<Sandbox>,
    pub db: Db,
}

impl Home {
    pub async fn open(&self) -> Shop {
        let mut settings = Settings {
            call_limit_ms: 3_000,
            ..Settings::default()
        };
        settings.sandbox.webhook_delay_ms = 0;
        self.open_with(settings).await
    }

    /// An instance whose callers lose patience at once, so that a lost answer costs no time.
    pub async fn open_impatient(&self) -> Shop {
        self.open_with(Settings {
            call_limit_ms: 60,
            ..Settings::default()
        })
        .await
    }

    pub async fn open_with(&self, settings: Settings) -> Shop {
        let pool = banyan_durable::Settings {
            pool: 4,
            ..banyan_durable::Settings::default()
        };
        let db = banyan_durable_testing::open(crate::SCHEMA, &self.payments, pool).await;
        let opened = Sandbox::open(
            &self.books,
            settings.clone(),
            Arc::new(SystemClock),
            Arc::new(RandomIds),
            &RandomSecrets,
        )
        .await;
        let (sandbox, _) = opened.expect("the provider opens its books");
        let sandbox = Arc::new(sandbox);
        let line = Arc::new(Line {
            sandbox: sandbox.clone(),
            mishaps: Mutex::default(),
            repairs: watch::Sender::default(),
            requests: AtomicUsize::new(0),
        });
        Shop {
            service: Arc::new(Service::new(db.clone(), line.clone(), settings)),
            line,
            sandbox,
            db,
        }
    }
}

impl Shop {
    /// The process dies: whatever it had under way is lost, what is committed stays.
    pub async fn crash(self) {
        let Shop {
            service,
            line,
            sandbox,
            db,
        } = self;
        drop((service, line));
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

/// What may happen to a request on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// The provider never sees it, and we know that something went wrong.
    LostBefore,
    /// The provider acts, and its answer is lost.
    LostAfter,
    /// Nothing comes back, and the provider has not seen it until the line is repaired.
    HangsBefore,
    /// Nothing comes back until the line is repaired, although the provider acted.
    HangsAfter,
    /// Our side of the line is wrong, and calls it a conflict.
    Bug,
}

impl Mishap {
    pub const ALL: [Mishap; 4] = [
        Mishap::LostBefore,
        Mishap::LostAfter,
        Mishap::HangsBefore,
        Mishap::HangsAfter,
    ];
}

/// The line to the provider, with mishaps to come. Asking what came of a command always works.
pub struct Line {
    sandbox: Arc<Sandbox>,
    /// Each with the repairs done when it was planned: it lasts until the next one.
    mishaps: Mutex<VecDeque<(Mishap, u64)>>,
    repairs: watch::Sender<u64>,
    requests: AtomicUsize,
}

impl Line {
    /// The next request meets this.
    pub fn next(&self, mishap: Mishap) {
        let repairs = *self.repairs.borrow();
        self.mishaps.lock().unwrap().push_back((mishap, repairs));
    }

    /// Requests that hang go through, and the next one after them meets this.
    pub fn repair_until(&self, mishap: Mishap) {
        let repairs = *self.repairs.borrow();
        self.mishaps.lock().unwrap().push_back((mishap, repairs + 1));
        self.repair();
    }

    /// Requests that hang go through.
    pub fn repair(&self) {
        self.repairs.send_modify(|repairs| *repairs += 1);
    }

    /// Commands sent so far; asking what came of one is none.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    async fn pass<Fut: Future<Output = Result<Answer, Fault>>>(&self, request: Fut) -> Result<Answer, Fault> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let Some((mishap, planned_at)) = self.mishaps.lock().unwrap().pop_front() else {
            return request.await;
        };
        let lost = || Fault::timeout("the line broke");
        let mut repairs = self.repairs.subscribe();
        let repaired = repairs.wait_for(|repairs| *repairs > planned_at);
        match mishap {
            Mishap::LostBefore => Err(lost()),
            Mishap::Bug => Err(Fault::conflict("confused", "as told")),
            Mishap::LostAfter => request.await.and_then(|_| Err(lost())),
            Mishap::HangsBefore => {
                repaired.await.map(drop).map_err(|_| lost())?;
                request.await
            }
            Mishap::HangsAfter => {
                let answer = request.await;
                repaired.await.map(drop).map_err(|_| lost())?;
                answer
            }
        }
    }
}

#[async_trait]
impl Provider for Line {
    fn name(&self) -> &'static str {
        self.sandbox.name()
    }

    async fn authorise(&self, key: Uuid, request: &AuthorisationRequest) -> Result<Answer, Fault> {
        self.pass(self.sandbox.authorise(key, request)).await
    }

    async fn capture(&self, key: Uuid, authorisation: &str, amount: &Money) -> Result<Answer, Fault> {
        self.pass(self.sandbox.capture(key, authorisation, amount)).await
    }

    async fn void(&self, key: Uuid, authorisation: &str) -> Result<Answer, Fault> {
        self.pass(self.sandbox.void(key, authorisation)).await
    }

    async fn refund(&self, key: Uuid, authorisation: &str, amount: &Money) -> Result<Answer, Fault> {
        self.pass(self.sandbox.refund(key, authorisation, amount)).await
    }

    async fn find(&self, key: Uuid) -> Result<Option<Answer>, Fault> {
        self.sandbox.find(key).await
    }

    fn read_webhook(&self, signature: &str, body: &[u8], now: Timestamp) -> Result<WebhookEvent, Fault> {
        self.sandbox.read_webhook(signature, body, now)
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

    fn command(&self, step: &str) -> String {
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

    pub async fn ask_for_capture(&self, shop: &Shop) -> Result<capture::Outcome, Fault> {
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
        match self.ask_for_capture(shop).await {
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

    /// Asks the same again until there is an outcome, as a saga does.
    pub async fn until_known<Fut: Future<Output = String>>(ask: impl Fn() -> Fut) -> String {
        for _ in 0..200 {
            let answer = ask().await;
            if answer != "in_progress" {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no outcome");
    }
}
