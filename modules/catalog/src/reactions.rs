//! What catalog does on hearing of other modules' events: it counts what is sold.

use std::collections::BTreeMap;

use banyan_core::Fault;
use banyan_durable::{Db, Incoming, Reactions, Tx};
use orders_contract::OrderConfirmed;

use crate::store;

pub fn reactions(db: &Db) -> Reactions {
    Reactions::new(db.clone()).on("orders.order", count_sales)
}

/// A confirmed order is sold. A later cancellation is not subtracted: what people wanted is what makes a product popular.
async fn count_sales(tx: Tx, incoming: Incoming<OrderConfirmed>) -> Result<(), Fault> {
    // In the order of skus, so that two orders counted at the same time cannot wait for each other's rows.
    let mut units = BTreeMap::new();
    for item in incoming.event.items {
        *units.entry(item.sku).or_insert(0) += i64::from(item.quantity);
    }
    for (sku, units) in units {
        store::add_sales(tx.conn(), &sku, units).await?;
    }
    Ok(())
}
