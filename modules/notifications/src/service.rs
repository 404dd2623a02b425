//! Queues mails and lists them.

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

/// The change signal that wakes the worker when a mail is queued.
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

    /// Queues a mail, in the transaction that receives its cause. An event that was received before has its mail already.
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

    /// The notifications of a user, newest first; none if `actor` may not see them.
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
        kind: notification.kind.into_str().to_owned(),
        subject: notification.subject,
        status: notification.status.into_str().to_owned(),
        created_at_ms: notification.created_at.as_ms(),
    }
}
