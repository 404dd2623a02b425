//! Payments with the sandbox provider, for tests through the module's public interface.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{sync::Arc, time::Duration};

use banyan_core::{Call, Fault, RandomIds, RandomSecrets, SystemClock};
use banyan_durable::Db;
use banyan_durable_testing::{SqliteHome, default_settings};
use payments::{Needs, Offers, ProviderConfig, SandboxSettings, Settings, Timing, start};
use payments_contract::{
    AuthorisePayment, CapturePayment, FindPayment, Payment, RefundRemaining, VoidPayment, authorisation, capture,
    refund, void,
};
use shared_kernel::Money;
use uuid::Uuid;

pub const SECRET: &str = "the provider's secret";

pub struct Shop {
    pub offers: Offers,
    pub db: Db,
    /// The provider's own file.
    _books: SqliteHome,
}

pub fn settings() -> Settings {
    Settings {
        webhook_secret: Some(SECRET.into()),
        sandbox: SandboxSettings { slow_ms: 400 },
        ..default_settings(include_str!("../../config/default.toml"), "payments")
    }
}

/// The provider responds to `pm_card_timeout` and `pm_card_slow` after the command's timeout of 200 ms, as in production.
pub fn timing() -> Timing {
    Timing {
        command_timeout: Duration::from_millis(200),
        retry_after: Duration::from_millis(20),
        sandbox_timeout: Duration::from_millis(400),
        sandbox_webhook_delay: Duration::ZERO,
        ..Timing::default()
    }
}

impl Shop {
    pub async fn open(db: Db) -> Self {
        Shop::open_with(db, settings(), timing()).await
    }

    pub async fn open_with(db: Db, settings: Settings, timing: Timing) -> Self {
        let books = SqliteHome::new();
        let provider = ProviderConfig::Sandbox {
            books: books.storage("sandbox-provider"),
        };
        let needs = Needs {
            db: db.clone(),
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
            secrets: Arc::new(RandomSecrets),
            provider,
            settings,
            timing,
        };
        Shop {
            offers: start(needs).await.expect("payments starts"),
            db,
            _books: books,
        }
    }
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

/// An order that pays 100.00 EUR.
#[derive(Clone, Debug)]
pub struct Order {
    pub id: Uuid,
    pub user: Uuid,
    pub method: String,
    pub amount: Option<Money>,
}

impl Order {
    pub fn paying_by(method: &str) -> Self {
        Order {
            id: Uuid::now_v7(),
            user: Uuid::new_v4(),
            method: method.to_owned(),
            amount: Some(euros(10_000)),
        }
    }

    pub fn command(&self, step: &str) -> String {
        Uuid::new_v5(&self.id, step.as_bytes()).to_string()
    }

    pub fn authorisation(&self) -> AuthorisePayment {
        AuthorisePayment {
            command_id: self.command("authorise"),
            order_id: self.id.to_string(),
            user_id: self.user.to_string(),
            amount: self.amount.clone(),
            payment_method: self.method.clone(),
        }
    }

    pub async fn authorise(&self, shop: &Shop) -> Result<authorisation::Outcome, Fault> {
        shop.offers
            .contract
            .authorise_payment(&orders(), self.authorisation())
            .await
            .map(|response| response.outcome.unwrap())
    }

    pub async fn capture(&self, shop: &Shop) -> Result<capture::Outcome, Fault> {
        let request = CapturePayment {
            command_id: self.command("capture"),
            order_id: self.id.to_string(),
        };
        shop.offers
            .contract
            .capture_payment(&orders(), request)
            .await
            .map(|response| response.outcome.unwrap())
    }

    pub async fn void(&self, shop: &Shop) -> Result<void::Outcome, Fault> {
        let (command_id, undoes) = (self.command("void"), self.command("authorise"));
        let request = VoidPayment {
            command_id,
            undoes,
            order_id: self.id.to_string(),
            ..VoidPayment::default()
        };
        shop.offers
            .contract
            .void_payment(&orders(), request)
            .await
            .map(|response| response.outcome.unwrap())
    }

    pub async fn refund(&self, shop: &Shop) -> Result<refund::Outcome, Fault> {
        let request = RefundRemaining {
            command_id: self.command("refund"),
            order_id: self.id.to_string(),
            reason: "cancelled".into(),
            comment: None,
        };
        shop.offers
            .contract
            .refund_remaining(&orders(), request)
            .await
            .map(|response| response.outcome.unwrap())
    }

    pub async fn find_as(&self, shop: &Shop, call: &Call) -> Option<Payment> {
        shop.offers
            .contract
            .find_payment(
                call,
                FindPayment {
                    order_id: self.id.to_string(),
                },
            )
            .await
            .unwrap()
            .payment
    }

    pub async fn payment(&self, shop: &Shop) -> Payment {
        self.find_as(shop, &orders()).await.expect("the order has a payment")
    }

    /// Authorised and captured.
    pub async fn captured(shop: &Shop) -> Self {
        let order = Order::paying_by("pm_card_visa");
        // A busy machine may take longer than the command's timeout.
        while let Ok(authorisation::Outcome::InProgress(_)) = order.authorise(shop).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(matches!(
            order.authorise(shop).await,
            Ok(authorisation::Outcome::Authorised(_))
        ));
        while let Ok(capture::Outcome::InProgress(_)) = order.capture(shop).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(matches!(order.capture(shop).await, Ok(capture::Outcome::Captured(_))));
        order
    }
}
