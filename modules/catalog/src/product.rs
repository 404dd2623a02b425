//! Products: their fields, and how they change. Pure rules; no I/O.

use banyan_core::{Fault, Timestamp};
use serde::{Deserialize, Serialize};
use shared_kernel::{Money, MoneyError, Sku};
use utoipa::ToSchema;

/// What the shop sells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Product {
    pub sku: Sku,
    #[schema(min_length = 1, max_length = 200, example = "Rare fig")]
    pub name: String,
    #[schema(max_length = 5000)]
    pub description: String,
    #[schema(pattern = "^[a-z0-9][a-z0-9-]{0,39}$", example = "plants")]
    pub category: String,
    pub price: Money,
    /// False: archived. It is shown where it is linked to, and cannot be ordered.
    pub active: bool,
}

/// A product as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredProduct {
    pub product: Product,
    /// 1 at first, incremented by every change.
    pub version: i64,
    pub created_at: Timestamp,
}

/// A product to be.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewProduct {
    pub sku: Sku,
    #[schema(min_length = 1, max_length = 200, format = "line", example = "Mug, hand-thrown")]
    pub name: String,
    #[serde(default)]
    #[schema(required = false, max_length = 5000, example = "Holds 300 ml.")]
    pub description: String,
    /// Lower-case letters, digits and hyphens.
    #[schema(pattern = "^[a-z0-9][a-z0-9-]{0,39}$", example = "kitchen")]
    pub category: String,
    pub price: Money,
}

/// What is to change; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProductChange {
    #[schema(
        nullable = false,
        min_length = 1,
        max_length = 200,
        format = "line",
        example = "Mug, hand-thrown"
    )]
    pub name: Option<String>,
    #[schema(nullable = false, max_length = 5000, example = "Holds 300 ml.")]
    pub description: Option<String>,
    #[schema(nullable = false, pattern = "^[a-z0-9][a-z0-9-]{0,39}$", example = "kitchen")]
    pub category: Option<String>,
    #[schema(nullable = false)]
    pub price: Option<Money>,
    /// False archives the product, true brings it back.
    #[schema(nullable = false)]
    pub active: Option<bool>,
}

/// The kinds of change of a product. Each is published as its own event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Changed,
    Archived,
    Restored,
}

impl NewProduct {
    /// # Errors
    /// `unknown_currency`.
    pub fn into_product(self) -> Result<Product, Fault> {
        let NewProduct {
            sku,
            name,
            description,
            category,
            price,
        } = self;
        Ok(Product {
            sku,
            name,
            description,
            category,
            price: check_price(price)?,
            active: true,
        })
    }
}

impl ProductChange {
    /// The change that archives a product.
    pub fn archive() -> Self {
        ProductChange {
            active: Some(false),
            ..ProductChange::default()
        }
    }

    /// The product after the change, and the kinds of change; none, if nothing changed.
    ///
    /// # Errors
    /// `unknown_currency`.
    pub fn apply(self, product: &Product) -> Result<(Product, Vec<ChangeKind>), Fault> {
        let price = self.price.map(check_price).transpose()?;
        let changed = Product {
            sku: product.sku.clone(),
            name: self.name.unwrap_or_else(|| product.name.clone()),
            description: self.description.unwrap_or_else(|| product.description.clone()),
            category: self.category.unwrap_or_else(|| product.category.clone()),
            price: price.unwrap_or_else(|| product.price.clone()),
            active: self.active.unwrap_or(product.active),
        };
        let mut kinds = Vec::new();
        if (Product {
            active: product.active,
            ..changed.clone()
        }) != *product
        {
            kinds.push(ChangeKind::Changed);
        }
        match (product.active, changed.active) {
            (true, false) => kinds.push(ChangeKind::Archived),
            (false, true) => kinds.push(ChangeKind::Restored),
            _ => {}
        }
        Ok((changed, kinds))
    }
}

fn check_price(price: Money) -> Result<Money, Fault> {
    match Money::price(price.amount, &price.currency) {
        Ok(price) => Ok(price),
        Err(error @ (MoneyError::UnknownCurrency(_) | MoneyError::NotOfPrices(_) | MoneyError::Withdrawn(..))) => {
            Err(Fault::invalid("unknown_currency", format!("{error}."))
                .at("/price/currency", "must be the ISO 4217 code of a currency in use"))
        }
        Err(error) => Err(Fault::invalid("invalid_price", format!("{error}.")).at("/price", "is not a valid amount")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fig() -> Product {
        Product {
            sku: Sku::parse("rare-fig").unwrap(),
            name: "Rare Fig".to_owned(),
            description: "Ein grüner ZWERG".to_owned(),
            category: "plants".to_owned(),
            price: Money::new(4900, "EUR").unwrap(),
            active: true,
        }
    }

    #[test]
    fn absent_fields_keep_their_values() {
        let change = ProductChange {
            name: Some("Fig".to_owned()),
            ..ProductChange::default()
        };
        let (changed, kinds) = change.apply(&fig()).unwrap();
        assert_eq!(
            changed,
            Product {
                name: "Fig".to_owned(),
                ..fig()
            }
        );
        assert_eq!(kinds, [ChangeKind::Changed]);
    }

    #[test]
    fn a_change_without_effect_has_no_kind() {
        assert_eq!(ProductChange::default().apply(&fig()).unwrap(), (fig(), vec![]));
        let same = ProductChange {
            name: Some(fig().name),
            price: Some(fig().price),
            active: Some(true),
            ..ProductChange::default()
        };
        assert_eq!(same.apply(&fig()).unwrap().1, []);
        let archived = Product { active: false, ..fig() };
        assert_eq!(ProductChange::archive().apply(&archived).unwrap().1, []);
    }

    #[test]
    fn archiving_and_restoring_are_kinds_of_their_own() {
        assert_eq!(
            ProductChange::archive().apply(&fig()).unwrap().1,
            [ChangeKind::Archived]
        );
        let archived = Product { active: false, ..fig() };
        let back = ProductChange {
            active: Some(true),
            name: Some("Fig".to_owned()),
            ..ProductChange::default()
        };
        assert_eq!(
            back.apply(&archived).unwrap().1,
            [ChangeKind::Changed, ChangeKind::Restored]
        );
    }

    #[test]
    fn a_price_needs_a_known_currency() {
        let price = Some(Money {
            amount: 1,
            currency: "QQQ".to_owned(),
        });
        let fault = ProductChange {
            price,
            ..ProductChange::default()
        }
        .apply(&fig())
        .unwrap_err();
        assert_eq!(
            (fault.code.as_str(), fault.errors[0].pointer.as_str()),
            ("unknown_currency", "/price/currency")
        );
    }

    #[test]
    fn a_product_keeps_the_price_of_a_currency_that_was_withdrawn_since() {
        let old = Product {
            price: Money::new(4900, "HRK").unwrap(),
            ..fig()
        };
        let renamed = ProductChange {
            name: Some("Fig".to_owned()),
            ..ProductChange::default()
        };
        assert_eq!(renamed.apply(&old).unwrap().0.price, old.price);
        let repriced = ProductChange {
            price: Some(old.price.with_amount(1)),
            ..ProductChange::default()
        };
        let fault = repriced.apply(&old).unwrap_err();
        assert_eq!(
            (fault.code.as_str(), fault.errors[0].pointer.as_str()),
            ("unknown_currency", "/price/currency")
        );
        assert!(fault.detail.contains("EUR"), "{}", fault.detail);
    }
}
