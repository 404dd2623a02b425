//! The demo products: `rare-fig`, the oldest, then `<word>-01` to `<word>-17` for each of seven words, 120 in all.
//!
//! Inventory adds its demo stock by the same scheme (its `seed.rs`). Neither module may call the other, so each has the list of words, and a
//! test in each pins the result.

use std::{sync::Arc, time::Duration};

use banyan_core::{Call, Fault, Timestamp};
use banyan_durable::{Command, Outcome};
use shared_kernel::{Money, Sku};

use crate::{
    demo_products::{RAREST, SHELVES},
    product::Product,
    service::Service,
};

/// 2025-01-01T00:00:00Z: the time of creation of `rare-fig`. Each further product is an hour younger than the one before.
const OPENING: Timestamp = Timestamp::from_ms(1_735_689_600_000);
const HOUR: Duration = Duration::from_secs(3_600);
/// The number of products added per transaction, whose duration is limited.
const BATCH: usize = 40;

/// Every demo product with its time of creation.
fn products() -> Result<Vec<(Product, Timestamp)>, Fault> {
    let (sku, category, (name, description, price)) = RAREST;
    let rarest = (sku.to_owned(), category, name, description, price);
    let numbered = SHELVES.iter().flat_map(|(word, category, products)| {
        let number = move |(index, (name, description, price)): (usize, &(&'static str, &'static str, i64))| {
            (
                format!("{word}-{:02}", index + 1),
                *category,
                *name,
                *description,
                *price,
            )
        };
        products.iter().enumerate().map(number)
    });
    let mut created_at = OPENING;
    let mut products = Vec::new();
    for (sku, category, name, description, price) in std::iter::once(rarest).chain(numbered) {
        let price = Money::new(price, "EUR").map_err(|error| Fault::internal("broken_seed", error.to_string()))?;
        let product = Product {
            sku: Sku::parse(&sku)?,
            name: name.to_owned(),
            description: description.to_owned(),
            category: category.to_owned(),
            price,
            active: true,
        };
        products.push((product, created_at));
        created_at = created_at.plus(HOUR);
    }
    Ok(products)
}

/// Adds the demo products, exactly once: later changes by staff are kept.
pub async fn add_demo_products(service: &Arc<Service>) -> Result<(), Fault> {
    for (number, batch) in products()?.chunks(BATCH).enumerate() {
        // The fingerprint does not depend on the contents, so that a later version with other demo data does not change an existing shop.
        let command = Command::new("seed", format!("banyan:products:{number}"), b"");
        let context = (service.clone(), batch.to_vec());
        banyan_durable::once(service.db(), command, context, |tx, (service, batch)| async move {
            service.add_all(&tx, &Call::by_module(tx.module()), batch).await?;
            Ok(Outcome::Done(()))
        })
        .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use uuid::{Uuid, uuid};

    /// The same list and the same fingerprint are pinned in inventory's `seed.rs`.
    #[test]
    fn the_demo_products_have_the_skus_of_inventorys_demo_stock() {
        let skus: Vec<String> = products()
            .unwrap()
            .into_iter()
            .map(|(product, _)| product.sku.into())
            .collect();
        assert_eq!(skus.len(), 120);
        let fingerprint = Uuid::new_v5(&Uuid::NAMESPACE_URL, skus.join("\n").as_bytes());
        assert_eq!(fingerprint, uuid!("cb9815da-08d0-55c7-8835-261ff6def25a"));
    }

    #[test]
    fn the_oldest_product_is_the_rare_fig_and_all_times_differ() {
        let products = products().unwrap();
        assert_eq!(products[0].0.sku.as_str(), "rare-fig");
        assert!(products.is_sorted_by(|(_, earlier), (_, later)| earlier < later));
    }

    #[test]
    fn no_two_products_have_the_same_name() {
        let names: BTreeSet<String> = products()
            .unwrap()
            .into_iter()
            .map(|(product, _)| product.name)
            .collect();
        assert_eq!(names.len(), 120);
    }
}
