//! The reactions to other modules' events: each new product adds an item.

use std::sync::Arc;

use banyan_core::{Call, Fault};
use banyan_durable::{Db, Incoming, Reactions, Tx};
use catalog_contract::ProductAdded;

use crate::{item::NewItem, service::Service, settings::Settings};

pub fn reactions(db: Db, service: &Arc<Service>, settings: &Settings) -> Reactions {
    let (service, add_products) = (service.clone(), settings.add_products);
    Reactions::new(db).on("catalog.product", move |tx: Tx, incoming: Incoming<ProductAdded>| {
        let service = service.clone();
        async move {
            if add_products {
                add_product(&service, &tx, incoming).await?;
            }
            Ok(())
        }
    })
}

/// Adds an item with the product's name, unless there is one. The transaction also stores that the event was received, so that it has its effect once.
async fn add_product(service: &Service, tx: &Tx, incoming: Incoming<ProductAdded>) -> Result<(), Fault> {
    let new = NewItem::named(incoming.event.name);
    service.add(tx, &Call::by_module(tx.module()), new).await?;
    Ok(())
}
