//! The demo stock: 100,000 units of every demo product, and 3 of `rare-fig`.
//!
//! Catalog seeds the products by the same scheme (its `seed.rs`): `rare-fig`, then `<word>-01` to `<word>-17` for each of seven words, 120 in
//! all. Neither module may call the other, so each has the list of words, and a test in each pins the result.

use banyan_core::{Call, Fault};
use banyan_durable::{Command, Outcome};
use shared_kernel::Sku;

use crate::{reservation::Lines, service::Service};

const WORDS: [&str; 7] = ["plant", "seed", "pot", "tool", "tea", "book", "kitchen"];
const PER_WORD: usize = 17;
const RAREST: &str = "rare-fig";

const UNITS: i64 = 100_000;
const RAREST_UNITS: i64 = 3;
/// The number of items added per transaction, whose duration is limited.
const BATCH: usize = 40;

/// Every demo sku with its units.
fn demo_stock() -> Vec<(String, i64)> {
    let numbered = |word: &'static str| (1..=PER_WORD).map(move |number| (format!("{word}-{number:02}"), UNITS));
    std::iter::once((RAREST.to_owned(), RAREST_UNITS))
        .chain(WORDS.into_iter().flat_map(numbered))
        .collect()
}

/// Adds the demo stock, exactly once: later changes by staff are kept.
pub async fn add_demo_stock(service: &Service) -> Result<(), Fault> {
    let stock = demo_stock()
        .into_iter()
        .map(|(sku, units)| Ok((Sku::parse(&sku)?, units)));
    let stock = stock.collect::<Result<Vec<_>, Fault>>()?;
    for (number, batch) in stock.chunks(BATCH).enumerate() {
        // The fingerprint does not depend on the contents, so that a later version with other demo data does not change an existing shop.
        let command = Command::new("seed", format!("banyan:stock:{number}"), b"");
        let context = (service.clone(), Lines::from_rows(batch.to_vec()));
        banyan_durable::once(service.db(), command, context, |tx, (service, lines)| async move {
            let call = Call::by_module(tx.module());
            let reason = Some("demo data".to_owned());
            service.receive_all(&tx, &call, &lines, reason).await?;
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
    fn the_demo_stock_has_the_skus_of_the_catalogs_demo_products() {
        let skus: Vec<String> = demo_stock().into_iter().map(|(sku, _)| sku).collect();
        assert_eq!(skus.len(), 120);
        let fingerprint = Uuid::new_v5(&Uuid::NAMESPACE_URL, skus.join("\n").as_bytes());
        assert_eq!(fingerprint, uuid!("cb9815da-08d0-55c7-8835-261ff6def25a"));
    }

    #[test]
    fn only_the_rare_fig_is_scarce() {
        let rare: Vec<_> = demo_stock()
            .into_iter()
            .filter(|(_, units)| *units != 100_000)
            .collect();
        assert_eq!(rare, [("rare-fig".to_owned(), 3)]);
    }
}
