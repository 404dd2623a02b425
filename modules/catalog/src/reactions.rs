//! The reactions to other modules' events: sales are counted.

use std::collections::BTreeMap;

use banyan_core::Fault;
use banyan_durable::{Db, Incoming, Reactions, Tx};
use orders_contract::OrderConfirmed;

use crate::store;

pub fn reactions(db: &Db) -> Reactions {
    Reactions::new(db.clone()).on("orders.order", count_sales)
}

/// Counts the units of a confirmed order. A later cancellation is not subtracted: demand makes a product popular.
async fn count_sales(tx: Tx, incoming: Incoming<OrderConfirmed>) -> Result<(), Fault> {
    let mut units = BTreeMap::new();
    for item in incoming.event.items {
        *units.entry(item.sku).or_insert(0) += i64::from(item.quantity);
    }
    store::add_sales(tx.conn(), units).await
}
