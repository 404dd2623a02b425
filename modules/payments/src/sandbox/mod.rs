//! A payment provider that needs no account: the payment method decides what happens, as with Stripe's test cards.
//!
//! It stands in for a third party's system, so it behaves like one: it keeps its own books in its own database and commits them separately, it is
//! idempotent by key, it may not respond although it acted, and it reports every outcome again by a signed webhook. Its books and ours can
//! therefore disagree after a crash, which is what the protocol around them is for.

mod store;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use banyan_core::{Clock, Fault, Ids, Secrets, Timestamp};
use banyan_durable::{Db, Storage};
use secrecy::{ExposeSecret, SecretString};
use shared_kernel::Money;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    commands::{Kind, fingerprint},
    provider::{AuthorisationRequest, BookedMovement, Period, Position, Provider, Response, Totals, WebhookEvent},
    settings::Settings,
    timing::Timing,
    webhook,
};

/// Its name in `/payments/webhooks/{provider}`.
pub const NAME: &str = "sandbox";
/// The maximum number of webhooks that wait to be received. More are dropped, as networks do.
const WEBHOOK_QUEUE: usize = 1_024;

/// A webhook as it arrives.
#[derive(Clone, Debug)]
pub struct SignedWebhook {
    pub signature: String,
    pub body: Vec<u8>,
}

#[derive(Clone)]
pub struct Sandbox {
    books: Db,
    /// The delay before `pm_card_slow` takes effect.
    slow: Duration,
    timing: Timing,
    secret: SecretString,
    webhooks: mpsc::Sender<SignedWebhook>,
}

impl Sandbox {
    /// Opens the provider's books and creates their tables if necessary; `database` is used but for the pool, which is small. The receiver gets its webhooks.
    ///
    /// # Errors
    /// `unavailable`, with what could not be reached; `no_randomness`.
    pub async fn open(
        storage: &Storage,
        database: &banyan_durable::Settings,
        settings: &Settings,
        timing: Timing,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
        secrets: &dyn Secrets,
    ) -> Result<(Sandbox, mpsc::Receiver<SignedWebhook>), Fault> {
        store::create_tables(storage).await?;
        // A few connections are enough for a stand-in.
        let pool = banyan_durable::Settings {
            pool: 2,
            ..database.clone()
        };
        let secret = match settings.webhook_secret.clone() {
            Some(secret) => secret,
            None => hex::encode(secrets.new_secret()?).into(),
        };
        let books = Db::open("sandbox_provider", storage, pool, clock, ids).await?;
        let (webhooks, received) = mpsc::channel(WEBHOOK_QUEUE);
        let slow = Duration::from_millis(settings.sandbox.slow_ms);
        let sandbox = Sandbox {
            books,
            slow,
            timing,
            secret,
            webhooks,
        };
        Ok((sandbox, received))
    }

    /// Handles a request as a server does: a caller that disconnects does not stop it.
    async fn handle(&self, key: Uuid, request: Request) -> Result<Response, Fault> {
        let sandbox = self.clone();
        let handling = tokio::spawn(async move { sandbox.carry_out(key, request).await });
        handling
            .await
            .map_err(|_| Fault::timeout("The sandbox provider closed the connection."))?
    }

    /// Carries out one request, once: the effect and the record of its key are one transaction of the provider's own.
    async fn carry_out(&self, key: Uuid, request: Request) -> Result<Response, Fault> {
        if let Request::Authorise(wanted) = &request
            && wanted.method == "pm_card_slow"
            && store::find_response(&self.books, key).await?.is_none()
        {
            tokio::time::sleep(self.slow).await;
        }
        let silent = matches!(&request, Request::Authorise(wanted) if wanted.method == "pm_card_timeout");
        let done = store::carry_out(&self.books, key, request).await?;
        if done.first && silent {
            tokio::time::sleep(self.timing.sandbox_timeout).await;
        }
        if done.first {
            self.send_webhook(key, &done.response);
        }
        Ok(done.response)
    }

    /// Sends the webhook about a command, after its delay.
    fn send_webhook(&self, key: Uuid, response: &Response) {
        let event = WebhookEvent {
            id: self.books.ids().new_id(),
            reference: key,
            answer: response.clone(),
        };
        let Ok(body) = serde_json::to_vec(&event) else { return };
        let signature = webhook::sign(self.secret.expose_secret().as_bytes(), &body, self.books.clock().now());
        let (webhooks, delay) = (self.webhooks.clone(), self.timing.sandbox_webhook_delay);
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            if webhooks.try_send(SignedWebhook { signature, body }).is_err() {
                tracing::debug!(%key, "a webhook of the sandbox provider was dropped; the reconciler finds the outcome");
            }
        });
    }

    /// Its own database.
    pub fn books(&self) -> &Db {
        &self.books
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

/// A request to the provider.
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

    /// The response unless the books say otherwise.
    fn expected_response(&self, key: Uuid) -> Response {
        match self {
            Request::Authorise(wanted) => match authorisation_of(&wanted.method) {
                Ok(()) => Response::Accepted {
                    id: effect_id(Kind::Authorise, key),
                },
                Err(decline) => decline.into(),
            },
            other => Response::Accepted {
                id: effect_id(other.kind(), key),
            },
        }
    }

    /// The same key with another fingerprint is refused.
    fn fingerprint(&self) -> String {
        fingerprint(format!("{self:?}").as_bytes())
    }
}

/// The provider's name for the effect of a request.
fn effect_id(kind: Kind, key: Uuid) -> String {
    let kind = match kind {
        Kind::Authorise => "auth",
        Kind::Capture => "cap",
        Kind::Void => "void",
        Kind::Refund => "re",
    };
    format!("{kind}_{}", key.simple())
}

/// Whether a payment method can be authorised.
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

/// A final refusal: a code and a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Decline(&'static str, &'static str);

impl From<Decline> for Response {
    fn from(Decline(code, detail): Decline) -> Self {
        Response::Declined {
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

    async fn authorise(&self, key: Uuid, request: &AuthorisationRequest) -> Result<Response, Fault> {
        self.handle(key, Request::Authorise(request.clone())).await
    }

    async fn capture(&self, key: Uuid, authorisation: &str, amount: &Money) -> Result<Response, Fault> {
        self.handle(
            key,
            Request::Capture {
                authorisation: authorisation.to_owned(),
                amount: amount.clone(),
            },
        )
        .await
    }

    async fn void(&self, key: Uuid, authorisation: &str) -> Result<Response, Fault> {
        self.handle(
            key,
            Request::Void {
                authorisation: authorisation.to_owned(),
            },
        )
        .await
    }

    async fn refund(&self, key: Uuid, authorisation: &str, amount: &Money) -> Result<Response, Fault> {
        self.handle(
            key,
            Request::Refund {
                authorisation: authorisation.to_owned(),
                amount: amount.clone(),
            },
        )
        .await
    }

    async fn find(&self, key: Uuid) -> Result<Option<Response>, Fault> {
        store::find_response(&self.books, key).await
    }

    fn read_webhook(&self, signature: &str, body: &[u8], now: Timestamp) -> Result<WebhookEvent, Fault> {
        webhook::read(self.secret.expose_secret().as_bytes(), signature, body, now)
    }

    async fn list_movements(
        &self,
        period: Period,
        after: Option<Position>,
        limit: u64,
    ) -> Result<Vec<BookedMovement>, Fault> {
        store::movements::list(&self.books, period, after, limit).await
    }

    async fn find_movement(&self, key: Uuid) -> Result<Option<BookedMovement>, Fault> {
        store::movements::find(&self.books, key).await
    }

    async fn totals(&self) -> Result<Vec<Totals>, Fault> {
        store::totals(&self.books).await
    }
}
