//! A payment provider that needs no account: the payment method decides what happens, as with Stripe's test cards.
//!
//! It stands in for somebody else's system, so it behaves like one: it keeps its own books in its own database and commits them separately, it
//! is idempotent by key, it can be silent although it acted, and it tells its news once more by a signed webhook. Its books and ours can
//! therefore disagree after a crash, which is what the protocol around them is for.

mod store;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use banyan_core::{Clock, Fault, Ids, Secrets, Timestamp};
use banyan_durable::{Db, Storage};
use secrecy::{ExposeSecret, SecretString};
use shared_kernel::Money;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    command::{Kind, fingerprint},
    provider::{Answer, AuthorisationRequest, Provider, Totals, WebhookEvent},
    settings::Settings,
    webhook,
};

/// Its place in `/payments/webhooks/{provider}`, and the name of its schema.
pub const NAME: &str = "sandbox";
/// Webhooks on their way; more are dropped, as networks do.
const DELIVERIES: usize = 1_024;

/// A webhook as it arrives.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub signature: String,
    pub body: Vec<u8>,
}

#[derive(Clone)]
pub struct Sandbox {
    books: Db,
    settings: Settings,
    secret: SecretString,
    deliveries: mpsc::Sender<Delivery>,
}

impl Sandbox {
    /// Opens the provider's books, making their tables if need be. The receiver gets its webhooks.
    ///
    /// # Errors
    /// `unavailable`, with what could not be reached; `no_randomness`.
    pub async fn open(
        place: &Storage,
        settings: Settings,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
        secrets: &dyn Secrets,
    ) -> Result<(Sandbox, mpsc::Receiver<Delivery>), Fault> {
        store::create_tables(place).await?;
        let pool = banyan_durable::Settings {
            pool: 2,
            ..banyan_durable::Settings::default()
        };
        let secret = match settings.webhook_secret.clone() {
            Some(secret) => secret,
            None => hex::encode(secrets.new_secret()?).into(),
        };
        let books = Db::open("sandbox_provider", place, pool, clock, ids).await?;
        let (deliveries, received) = mpsc::channel(DELIVERIES);
        Ok((
            Sandbox {
                books,
                settings,
                secret,
                deliveries,
            },
            received,
        ))
    }

    /// Takes a request as a server does: a caller that hangs up does not stop it.
    async fn take(&self, key: Uuid, request: Request) -> Result<Answer, Fault> {
        let sandbox = self.clone();
        let working = tokio::spawn(async move { sandbox.carry_out(key, request).await });
        working
            .await
            .map_err(|_| Fault::timeout("The sandbox provider broke off."))?
    }

    /// Carries out one request, once: the effect and the memory of its key are one transaction of the provider's own.
    async fn carry_out(&self, key: Uuid, request: Request) -> Result<Answer, Fault> {
        if let Request::Authorise(wanted) = &request
            && wanted.method == "pm_card_slow"
            && store::find_answer(&self.books, key).await?.is_none()
        {
            sleep_ms(self.settings.sandbox.slow_ms).await;
        }
        let silent = matches!(&request, Request::Authorise(wanted) if wanted.method == "pm_card_timeout");
        let done = store::carry_out(&self.books, key, request).await?;
        if done.first && silent {
            sleep_ms(self.settings.sandbox.timeout_ms).await;
        }
        if done.first {
            self.tell(key, &done.answer);
        }
        Ok(done.answer)
    }

    /// Sends the webhook about a command, a little later.
    fn tell(&self, key: Uuid, answer: &Answer) {
        let event = WebhookEvent {
            id: self.books.ids().new_id(),
            reference: key,
            answer: answer.clone(),
        };
        let Ok(body) = serde_json::to_vec(&event) else { return };
        let signature = webhook::sign(self.secret.expose_secret().as_bytes(), &body, self.books.clock().now());
        let (deliveries, delay_ms) = (self.deliveries.clone(), self.settings.sandbox.webhook_delay_ms);
        tokio::spawn(async move {
            sleep_ms(delay_ms).await;
            if deliveries.try_send(Delivery { signature, body }).is_err() {
                tracing::debug!(%key, "nobody takes the sandbox provider's webhook; the reconciler does without");
            }
        });
    }

    #[cfg(test)]
    pub async fn effects(&self) -> Result<store::Effects, Fault> {
        store::count_effects(&self.books).await
    }

    #[cfg(test)]
    pub async fn close(&self) {
        self.books.close().await;
    }
}

async fn sleep_ms(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// What is asked of the provider.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Authorise(AuthorisationRequest),
    Capture { authorisation: String, amount: Money },
    Void { authorisation: String },
    Refund { authorisation: String, amount: Money },
}

impl Request {
    fn kind(&self) -> Kind {
        match self {
            Request::Authorise(_) => Kind::Authorise,
            Request::Capture { .. } => Kind::Capture,
            Request::Void { .. } => Kind::Void,
            Request::Refund { .. } => Kind::Refund,
        }
    }

    /// The same key with another fingerprint is refused.
    fn fingerprint(&self) -> String {
        fingerprint(format!("{self:?}").as_bytes())
    }
}

/// What the method chosen does to its authorisation.
fn authorisation_of(method: &str) -> Result<(), Decline> {
    match method {
        "pm_card_visa"
        | "pm_card_timeout"
        | "pm_card_slow"
        | "pm_card_capture_fails_once"
        | "pm_card_capture_declined" => Ok(()),
        "pm_card_declined" => Err(Decline("card_declined", "The card was declined.")),
        "pm_card_insufficient_funds" => Err(Decline("insufficient_funds", "The card has insufficient funds.")),
        _ => Err(Decline("invalid_payment_method", "There is no such payment method.")),
    }
}

/// A "no" for good: a code and a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Decline(&'static str, &'static str);

impl From<Decline> for Answer {
    fn from(Decline(code, detail): Decline) -> Self {
        Answer::Declined {
            code: code.to_owned(),
            detail: detail.to_owned(),
        }
    }
}

#[async_trait]
impl Provider for Sandbox {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn authorise(&self, key: Uuid, request: &AuthorisationRequest) -> Result<Answer, Fault> {
        self.take(key, Request::Authorise(request.clone())).await
    }

    async fn capture(&self, key: Uuid, authorisation: &str, amount: &Money) -> Result<Answer, Fault> {
        self.take(
            key,
            Request::Capture {
                authorisation: authorisation.to_owned(),
                amount: amount.clone(),
            },
        )
        .await
    }

    async fn void(&self, key: Uuid, authorisation: &str) -> Result<Answer, Fault> {
        self.take(
            key,
            Request::Void {
                authorisation: authorisation.to_owned(),
            },
        )
        .await
    }

    async fn refund(&self, key: Uuid, authorisation: &str, amount: &Money) -> Result<Answer, Fault> {
        self.take(
            key,
            Request::Refund {
                authorisation: authorisation.to_owned(),
                amount: amount.clone(),
            },
        )
        .await
    }

    async fn find(&self, key: Uuid) -> Result<Option<Answer>, Fault> {
        store::find_answer(&self.books, key).await
    }

    fn read_webhook(&self, signature: &str, body: &[u8], now: Timestamp) -> Result<WebhookEvent, Fault> {
        let tolerance = self.settings.webhook_tolerance();
        webhook::read(self.secret.expose_secret().as_bytes(), signature, body, now, tolerance)
    }

    async fn totals(&self) -> Result<Vec<Totals>, Fault> {
        store::totals(&self.books).await
    }
}
