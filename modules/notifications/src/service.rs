//! What notifications does when asked, and on hearing an event.

use std::sync::Arc;

use async_trait::async_trait;
use banyan_core::{Actor, Call, Clock, Envelope, Fault, Ids, Page, PageRequest, parse_id};
use banyan_durable::{Db, Tx};
use notifications_contract::{ListNotifications, NotificationList, Notifications};
use uuid::Uuid;

use crate::{
    notification::{Mail, Notification},
    store,
};

/// Woken when there is a mail to send.
pub const MAIL: &str = "mail";

pub struct Service {
    db: Db,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
}

impl Service {
    pub fn new(db: Db, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        Service { db, clock, ids }
    }

    /// Stores the mail to send, in the transaction that hears its cause. A cause that was heard before has its mail.
    pub async fn queue(&self, tx: &Tx, cause: &Envelope, mail: Mail) -> Result<(), Fault> {
        let traceparent = cause.traceparent.clone();
        if store::insert(
            tx.conn(),
            self.ids.new_id(),
            cause.id,
            traceparent,
            &mail,
            self.clock.now(),
        )
        .await?
        {
            tx.wake(MAIL);
        }
        Ok(())
    }

    /// What this user was told, newest first; nothing if `actor` may not see it.
    pub async fn list_visible(
        &self,
        actor: &Actor,
        user_id: Uuid,
        page: &PageRequest,
    ) -> Result<Page<Notification>, Fault> {
        store::list_visible(self.db.read(), actor, user_id, page).await
    }
}

#[async_trait]
impl Notifications for Service {
    async fn list_notifications(&self, call: &Call, request: ListNotifications) -> Result<NotificationList, Fault> {
        let user_id = parse_id("user_id", &request.user_id)?;
        if !(1..=PageRequest::MAX_LIMIT).contains(&request.limit) {
            return Err(
                Fault::invalid("invalid_limit", "limit must be from 1 to 100.").at("/limit", "must be from 1 to 100")
            );
        }
        let page = PageRequest {
            limit: request.limit,
            after: None,
        };
        let listed = self.list_visible(&call.actor, user_id, &page).await?;
        Ok(NotificationList {
            items: listed.items.into_iter().map(message_of).collect(),
        })
    }
}

fn message_of(notification: Notification) -> notifications_contract::Notification {
    notifications_contract::Notification {
        id: notification.id.to_string(),
        kind: notification.kind.as_str().to_owned(),
        subject: notification.subject,
        status: notification.status.as_str().to_owned(),
        created_at_ms: notification.created_at.as_ms(),
    }
}
