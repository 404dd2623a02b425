//! Tickets: whoever has one may follow one order, once, within 30 seconds. A browser's `EventSource` cannot send the header with the access token, and
//! an access token in a URL would be written into the logs of every proxy.

use std::time::Duration;

use banyan_core::{Actor, Call, Fault, Timestamp};
use serde::Serialize;
use sha2::{Digest, Sha256};
use shared_kernel::Role;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{service::Service, store::tickets, views::OrderView};

/// How long a ticket can be used.
const LIFE: Duration = Duration::from_secs(30);
/// The number deleted in one transaction.
pub const DELETED_AT_ONCE: u64 = 500;

/// A ticket for following an order without an access token.
#[derive(Clone, Serialize, ToSchema)]
#[schema(as = EventTicket)]
pub struct IssuedTicket {
    /// For the parameter `ticket` of the stream; it can be used once.
    #[schema(example = "5f0c8f3fd0b0a4c3c8d9e1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6")]
    pub ticket: String,
    pub expires_at: Timestamp,
}

impl Service {
    /// The order that the actor may follow.
    ///
    /// # Errors
    /// `not_found`, also for an order of somebody else, staff included: a stream is for its customer.
    pub async fn load_followed(&self, call: &Call, order_id: Uuid) -> Result<OrderView, Fault> {
        let order = self.load(call, order_id).await?;
        if call.actor.user_id() == Some(order.user_id) {
            Ok(order)
        } else {
            Err(Fault::not_found("order"))
        }
    }

    /// # Errors
    /// As [`load_followed`](Self::load_followed).
    pub async fn issue_ticket(&self, call: &Call, order_id: Uuid) -> Result<IssuedTicket, Fault> {
        let user_id = self.load_followed(call, order_id).await?.user_id;
        let ticket = hex::encode(self.secrets.new_secret()?);
        let expires_at = self.clock.now().plus(LIFE);
        let stored = tickets::Ticket {
            hash: hash_of(&ticket),
            order_id,
            user_id,
            expires_at,
        };
        self.db
            .write(
                stored,
                |tx, stored| async move { tickets::insert(tx.conn(), stored).await },
            )
            .await?;
        Ok(IssuedTicket { ticket, expires_at })
    }

    /// The order that a ticket is for.
    ///
    /// # Errors
    /// `invalid_ticket` (401) if it is not one of this order, has been used, or has expired.
    pub async fn take_ticket(&self, order_id: Uuid, ticket: &str) -> Result<OrderView, Fault> {
        let taken = (hash_of(ticket), order_id, self.clock.now());
        let user_id = self
            .db
            .write(taken, |tx, (hash, order_id, now)| async move {
                tickets::take(tx.conn(), hash, order_id, now).await
            })
            .await?;
        let invalid = || {
            let detail = "This ticket is not one of this order, has been used, or has expired. Get another one for each connection.";
            Fault::unauthenticated("invalid_ticket", detail)
        };
        let user_id = user_id.ok_or_else(invalid)?;
        let customer = Actor::user(user_id, [Role::Customer]);
        self.load(&Call::by(customer), order_id).await
    }
}

fn hash_of(ticket: &str) -> String {
    hex::encode(Sha256::digest(ticket))
}
