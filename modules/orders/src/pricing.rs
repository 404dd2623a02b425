//! Turns the lines a customer sent into the items of an order: lines merged, names and prices taken from the catalog.

use std::collections::HashMap;

use banyan_core::FieldError;
use catalog_contract::Product;
use shared_kernel::Money;

use crate::{
    event::{Item, Line},
    order::Refusal,
};

/// One line per product, in the order in which the products first appear.
///
/// # Errors
/// `LineTooLarge` if the lines of one product are together more than one line may hold.
pub fn merge(lines: &[Line]) -> Result<Vec<Line>, Refusal> {
    let mut merged: Vec<Line> = Vec::with_capacity(lines.len());
    let mut positions: HashMap<&str, usize> = HashMap::new();
    let mut errors = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let position = *positions.entry(line.sku.as_str()).or_insert(merged.len());
        match merged.get_mut(position) {
            None => merged.push(line.clone()),
            Some(known) => match known.quantity.plus(line.quantity) {
                Ok(sum) => known.quantity = sum,
                Err(fault) => errors.push(FieldError {
                    pointer: format!("/items/{at}/quantity"),
                    detail: fault.detail,
                }),
            },
        }
    }
    if errors.is_empty() {
        Ok(merged)
    } else {
        Err(Refusal::LineTooLarge(errors))
    }
}

/// Refuses another total than the customer was shown. They may have been shown none.
///
/// # Errors
/// `TotalChanged`.
pub fn check_total(total: &Money, expected: Option<&Money>) -> Result<(), Refusal> {
    match expected {
        Some(expected) if expected != total => Err(Refusal::TotalChanged(total.clone())),
        _ => Ok(()),
    }
}

/// The merged lines with their names and prices in the catalog, and their total. Errors point into `sent`, the lines of the request.
///
/// # Errors
/// `EmptyCart`, `ProductUnavailable`, `MixedCurrencies`, `TotalTooLarge`.
pub fn price(merged: &[Line], sent: &[Line], products: &[Product]) -> Result<(Vec<Item>, Money), Refusal> {
    let known: HashMap<&str, &Product> = products.iter().map(|product| (product.sku.as_str(), product)).collect();
    let mut items = Vec::with_capacity(merged.len());
    let mut errors = Vec::new();
    for line in merged {
        match known.get(line.sku.as_str()) {
            Some(Product {
                active: true,
                name,
                price: Some(price),
                ..
            }) => {
                items.push(Item {
                    sku: line.sku.clone(),
                    name: name.clone(),
                    quantity: line.quantity,
                    unit_price: price.clone(),
                });
            }
            Some(_) => errors.extend(point_at(sent, line, "is no longer sold")),
            None => errors.extend(point_at(sent, line, "is not a product of this shop")),
        }
    }
    if !errors.is_empty() {
        return Err(Refusal::ProductUnavailable(errors));
    }
    let total = total(&items)?.ok_or(Refusal::EmptyCart)?;
    Ok((items, total))
}

/// The sum over all items; `None` if there are none.
///
/// # Errors
/// `MixedCurrencies`, `TotalTooLarge`.
pub fn total(items: &[Item]) -> Result<Option<Money>, Refusal> {
    let refusal = |error| match error {
        shared_kernel::MoneyError::MixedCurrencies(..) => Refusal::MixedCurrencies,
        _ => Refusal::TotalTooLarge,
    };
    let mut total: Option<Money> = None;
    for item in items {
        let line = item.unit_price.checked_mul(item.quantity.get()).map_err(refusal)?;
        total = Some(match total {
            None => line,
            Some(sum) => sum.checked_add(&line).map_err(refusal)?,
        });
        if total.as_ref().is_some_and(|total| total.amount > Money::MAX_AMOUNT) {
            return Err(Refusal::TotalTooLarge);
        }
    }
    Ok(total)
}

fn point_at(sent: &[Line], line: &Line, what: &str) -> Option<FieldError> {
    let at = sent.iter().position(|one| one.sku == line.sku)?;
    Some(FieldError {
        pointer: format!("/items/{at}/sku"),
        detail: format!("{} {what}", line.sku),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_kernel::{Quantity, Sku};

    fn line(sku: &str, quantity: u32) -> Line {
        Line {
            sku: Sku::parse(sku).unwrap(),
            quantity: Quantity::new(quantity).unwrap(),
        }
    }

    fn product(sku: &str, amount: i64, currency: &str) -> Product {
        Product {
            sku: sku.to_owned(),
            name: sku.to_uppercase(),
            category: "fruit".to_owned(),
            price: Some(Money::new(amount, currency).unwrap()),
            active: true,
        }
    }

    #[test]
    fn lines_of_the_same_product_become_one() {
        let merged = merge(&[line("fig", 2), line("mug", 1), line("fig", 3)]).unwrap();
        assert_eq!(merged, [line("fig", 5), line("mug", 1)]);
    }

    #[test]
    fn merged_lines_keep_the_limit_of_one_line() {
        let Err(Refusal::LineTooLarge(errors)) = merge(&[line("fig", 999), line("mug", 1), line("fig", 1)]) else {
            panic!("it was taken")
        };
        assert_eq!(errors[0].pointer, "/items/2/quantity");
    }

    #[test]
    fn names_and_prices_come_from_the_catalog() {
        let lines = [line("fig", 2), line("mug", 1)];
        let (items, total) = price(
            &lines,
            &lines,
            &[product("mug", 500, "EUR"), product("fig", 199, "EUR")],
        )
        .unwrap();
        assert_eq!(
            (items[0].name.as_str(), items[0].unit_price.amount, total.amount),
            ("FIG", 199, 898)
        );
    }

    #[test]
    fn unknown_and_archived_products_are_pointed_at() {
        let sent = [line("fig", 1), line("mug", 1), line("fig", 1), line("ghost", 1)];
        let merged = merge(&sent).unwrap();
        let archived = Product {
            active: false,
            ..product("mug", 1, "EUR")
        };
        let Err(Refusal::ProductUnavailable(errors)) = price(&merged, &sent, &[product("fig", 1, "EUR"), archived])
        else {
            panic!("it was taken")
        };
        let pointers: Vec<_> = errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(pointers, ["/items/1/sku", "/items/3/sku"]);
    }

    #[test]
    fn no_total_exceeds_what_the_document_allows() {
        let lines = [line("fig", 2), line("mug", 1)];
        let at = |fig: i64, mug: i64| {
            price(
                &lines,
                &lines,
                &[product("fig", fig, "EUR"), product("mug", mug, "EUR")],
            )
        };
        let half = Money::MAX_AMOUNT / 2;
        assert_eq!(at(half, 0).map(|(_, total)| total.amount), Ok(Money::MAX_AMOUNT));
        assert_eq!(at(half, 1), Err(Refusal::TotalTooLarge));
        assert_eq!(at(Money::MAX_AMOUNT, 0), Err(Refusal::TotalTooLarge));
    }

    #[test]
    fn an_order_has_one_currency_and_a_total_that_does_not_overflow() {
        let lines = [line("fig", 1), line("mug", 1)];
        assert_eq!(
            price(&lines, &lines, &[product("fig", 1, "EUR"), product("mug", 1, "USD")]),
            Err(Refusal::MixedCurrencies)
        );
        let dear = [line("fig", 999)];
        assert_eq!(
            price(&dear, &dear, &[product("fig", i64::MAX / 2, "EUR")]),
            Err(Refusal::TotalTooLarge)
        );
        assert_eq!(price(&[], &[], &[]), Err(Refusal::EmptyCart));
    }
}
