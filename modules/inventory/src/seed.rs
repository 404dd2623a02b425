//! The demo's shelves: 100,000 units of every demo product, and 3 of `rare-fig`.
//!
//! Catalog seeds the products by the same scheme (its `seed.rs`): `rare-fig`, then `<word>-01` to `<word>-17` for each of seven words, 120 in
//! all. Neither module may ask the other, so each keeps the words and pins what comes of them in a test.

use banyan_core::{Call, Fault};
use banyan_durable::{Command, Outcome};
use shared_kernel::Sku;

use crate::{
    service::{Moved, Service},
    stock::Movement,
    store,
};

const WORDS: [&str; 7] = ["plant", "seed", "pot", "tool", "tea", "book", "kitchen"];
const PER_WORD: usize = 17;
const RAREST: &str = "rare-fig";

const UNITS: i64 = 100_000;
const RAREST_UNITS: i64 = 3;
/// Items put in by one transaction, which has its limit of time.
const BATCH: usize = 40;

/// Every demo sku with its units.
fn shelves() -> Vec<(String, i64)> {
    let numbered = |word: &'static str| (1..=PER_WORD).map(move |number| (format!("{word}-{number:02}"), UNITS));
    std::iter::once((RAREST.to_owned(), RAREST_UNITS))
        .chain(WORDS.into_iter().flat_map(numbered))
        .collect()
}

/// Puts the demo stock in, once for ever: what staff change afterwards stays changed.
pub async fn fill_the_shelves(service: &Service) -> Result<(), Fault> {
    let shelves = shelves().into_iter().map(|(sku, units)| Ok((Sku::parse(&sku)?, units)));
    let shelves = shelves.collect::<Result<Vec<_>, Fault>>()?;
    for (number, batch) in shelves.chunks(BATCH).enumerate() {
        // The fingerprint says nothing of the contents, so that a later version with other demo data leaves an old shop alone.
        let command = Command::new("seed", format!("banyan:stock:{number}"), b"");
        let context = (service.clone(), batch.to_vec());
        banyan_durable::once(service.db(), command, context, |tx, (service, batch)| async move {
            let mut moved = Vec::with_capacity(batch.len());
            for (sku, quantity) in batch {
                let item = store::receive_units(tx.conn(), &sku, quantity).await?;
                moved.push(Moved {
                    item,
                    kind: Movement::Received,
                    quantity,
                });
            }
            let call = Call::by_module(tx.module());
            service
                .record(&tx, &call, None, Some("demo data".to_owned()), moved)
                .await?;
            Ok(Outcome::Done(()))
        })
        .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::{Uuid, uuid};

    /// The same list and the same fingerprint are pinned in catalog's `seed.rs`.
    #[test]
    fn the_shelves_are_those_of_the_catalogs_demo_products() {
        let skus: Vec<String> = shelves().into_iter().map(|(sku, _)| sku).collect();
        assert_eq!(skus.len(), 120);
        let fingerprint = Uuid::new_v5(&Uuid::NAMESPACE_URL, skus.join("\n").as_bytes());
        assert_eq!(fingerprint, uuid!("cb9815da-08d0-55c7-8835-261ff6def25a"));
    }

    #[test]
    fn only_the_rare_fig_is_rare() {
        let rare: Vec<_> = shelves().into_iter().filter(|(_, units)| *units != 100_000).collect();
        assert_eq!(rare, [("rare-fig".to_owned(), 3)]);
    }
}
