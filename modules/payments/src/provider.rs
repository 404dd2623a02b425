//! The interface of a payment provider, whichever it is.

use std::borrow::Cow;

use async_trait::async_trait;
use banyan_core::{Fault, Timestamp};
use banyan_durable::Storage;
use serde::{Deserialize, Serialize};
use shared_kernel::Money;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};
use uuid::Uuid;

use crate::ledger::Movement;

/// Which provider moves the money.
#[derive(Clone, Debug)]
pub enum ProviderConfig {
    /// The built-in provider, with its own books in this storage: its own file or schema.
    Sandbox { books: Storage },
}

/// A service that moves money. Every command carries a key: repeated with the same key, a provider does nothing new and responds as before.
///
/// A `Fault` means that the outcome is **unknown**: the command may have taken effect. Only a [`Response`] says what happened.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// Its name in `/payments/webhooks/{provider}`.
    fn name(&self) -> &'static str;

    async fn authorise(&self, key: Uuid, request: &AuthorisationRequest) -> Result<Response, Fault>;

    /// `authorisation` is the id that [`authorise`](Provider::authorise) was accepted with.
    async fn capture(&self, key: Uuid, authorisation: &str, amount: &Money) -> Result<Response, Fault>;

    async fn void(&self, key: Uuid, authorisation: &str) -> Result<Response, Fault>;

    async fn refund(&self, key: Uuid, authorisation: &str, amount: &Money) -> Result<Response, Fault>;

    /// The response to the command with this key; `None` if the provider never saw it.
    async fn find(&self, key: Uuid) -> Result<Option<Response>, Fault>;

    /// Reads a webhook after verifying that the provider signed it recently.
    ///
    /// # Errors
    /// `invalid_signature` (unauthenticated), `malformed_webhook`.
    fn read_webhook(&self, signature: &str, body: &[u8], now: Timestamp) -> Result<WebhookEvent, Fault>;

    /// What it booked in the period, in the order of time and reference, at most `limit`; from the position on that is behind `after`.
    async fn list_movements(
        &self,
        period: Period,
        after: Option<Position>,
        limit: u64,
    ) -> Result<Vec<BookedMovement>, Fault>;

    /// What it booked for the command with this key.
    async fn find_movement(&self, key: Uuid) -> Result<Option<BookedMovement>, Fault>;

    /// The provider's own totals, per currency, ordered by currency. Reads everything: for tests and auditors.
    async fn totals(&self) -> Result<Vec<Totals>, Fault>;
}

/// A part of the provider's time: from the first moment until before the second one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    pub from: Timestamp,
    pub until: Timestamp,
}

/// A place in the provider's books: when a movement was booked, and its reference.
pub type Position = (Timestamp, Uuid);

/// A movement of money in the provider's books. It stays as it was booked: what a provider corrects, it books anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BookedMovement {
    /// The key of the command that moved it.
    pub reference: Uuid,
    pub kind: Movement,
    pub amount: Money,
    /// By the provider's clock.
    pub booked_at: Timestamp,
}

impl BookedMovement {
    pub fn position(&self) -> Position {
        (self.booked_at, self.reference)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorisationRequest {
    pub order_id: Uuid,
    pub amount: Money,
    pub method: String,
}

/// What a provider said. Its schema is [`schemas::ProviderAnswer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// It took effect; `id` is the provider's name for the effect.
    Accepted { id: String },
    /// It did not, and never will.
    Declined { code: String, detail: String },
}

impl PartialSchema for Response {
    fn schema() -> RefOr<Schema> {
        schemas::ProviderAnswer::schema()
    }
}

impl ToSchema for Response {
    fn name() -> Cow<'static, str> {
        schemas::ProviderAnswer::name()
    }

    fn schemas(all: &mut Vec<(String, RefOr<Schema>)>) {
        schemas::ProviderAnswer::schemas(all);
    }
}

/// Each part has a name of its own: generators of clients do not know what to call the parts of a union.
#[allow(dead_code, reason = "nothing but its schema is used")]
mod schemas {
    use utoipa::ToSchema;

    /// What a provider said.
    #[derive(ToSchema)]
    #[serde(rename_all = "snake_case")]
    pub enum ProviderAnswer {
        /// It took effect.
        Accepted(ProviderEffect),
        /// It did not, and never will.
        Declined(ProviderRefusal),
    }

    /// The effect of a payment command.
    #[derive(ToSchema)]
    pub struct ProviderEffect {
        /// The provider's name for the effect.
        #[schema(max_length = 200, example = "ch_4711")]
        id: String,
    }

    /// Why a payment command had no effect.
    #[derive(ToSchema)]
    pub struct ProviderRefusal {
        #[schema(max_length = 200, example = "card_declined")]
        code: String,
        #[schema(max_length = 1000, example = "The card was declined.")]
        detail: String,
    }
}

/// What a webhook tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookEvent {
    /// The provider's name for this event; the same when it is delivered again.
    pub id: Uuid,
    /// The key of the command it is about.
    pub reference: Uuid,
    pub answer: Response,
}

/// Money in one currency, as one side has it in its books. Integer minor units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub currency: String,
    /// Blocked and not taken.
    pub authorised: i64,
    /// Taken, refunds not subtracted.
    pub captured: i64,
    pub refunded: i64,
}
