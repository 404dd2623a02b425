//! The demo items.

use std::sync::Arc;

use banyan_core::{Call, Fault};
use banyan_durable::{Command, Outcome};

use crate::{item::NewItem, service::Service};

const NAMES: [&str; 3] = ["First item", "Second item", "Third item"];

/// Adds the demo items, exactly once.
pub async fn add_demo_items(service: &Arc<Service>) -> Result<(), Fault> {
    // The fingerprint does not depend on the contents, so that a later version with other demo data does not change an existing shop.
    let command = Command::new("seed", "banyan:{module}", b"");
    banyan_durable::once(service.db(), command, service.clone(), |tx, service| async move {
        for name in NAMES {
            service
                .add(&tx, &Call::by_module(tx.module()), NewItem::named(name))
                .await?;
        }
        Ok(Outcome::Done(()))
    })
    .await?;
    Ok(())
}
