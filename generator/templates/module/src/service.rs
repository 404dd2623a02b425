//! Queries and changes of items, and the contract. Each method that writes is one transaction, which includes its events.

use std::sync::Arc;

use async_trait::async_trait;
use banyan_core::{Call, Clock, Fault, Ids, Page, PageRequest, parse_id};
use banyan_durable::{Db, Tx, outbox};
use {module}_contract::{FindItem, FoundItem, Item as ItemMessage, ItemAdded, {Module}};
use uuid::Uuid;

use crate::{
    item::{Item, NewItem},
    store,
};

pub struct Service {
    db: Db,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
}

impl Service {
    pub fn new(db: Db, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        Service { db, clock, ids }
    }

    pub fn db(&self) -> &Db {
        &self.db
    }

    pub async fn list(&self, page: &PageRequest) -> Result<Page<Item>, Fault> {
        store::list(self.db.read(), page).await
    }

    /// # Errors
    /// `not_found`.
    pub async fn load(&self, id: Uuid) -> Result<Item, Fault> {
        let found = store::find(self.db.read(), id).await?;
        found.ok_or_else(|| Fault::not_found("item"))
    }

    /// Adds an item and publishes it; `None` if there is one of this name already.
    ///
    /// # Errors
    /// `invalid_name`.
    pub async fn add(&self, tx: &Tx, call: &Call, new: NewItem) -> Result<Option<Item>, Fault> {
        let item = new.into_item(self.ids.new_id(), self.clock.now())?;
        if !store::insert(tx.conn(), &item).await? {
            return Ok(None);
        }
        let event = ItemAdded {
            item_id: item.id.to_string(),
            name: item.name.clone(),
        };
        outbox::append(tx, call, &format!("item/{}", item.id), &event).await?;
        Ok(Some(item))
    }
}

#[async_trait]
impl {Module} for Service {
    async fn find_item(&self, _call: &Call, request: FindItem) -> Result<FoundItem, Fault> {
        let id = parse_id("item_id", &request.item_id)?;
        let found = store::find(self.db.read(), id).await?;
        Ok(FoundItem {
            item: found.map(message_of),
        })
    }
}

fn message_of(item: Item) -> ItemMessage {
    ItemMessage {
        id: item.id.to_string(),
        name: item.name,
        created_at_ms: item.created_at.as_ms(),
    }
}
