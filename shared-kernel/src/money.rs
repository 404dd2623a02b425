//! Money: an amount in a currency's minor units.

use std::{borrow::Cow, fmt};

use iso_currency::Currency;
use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

/// An amount in integer minor units (cents for EUR, yen for JPY) with its ISO 4217 code. It is also the protobuf message
/// `banyan.kernel.v1.Money`, so contracts carry it without mapping.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message, Serialize, Deserialize)]
pub struct Money {
    /// Integer minor units: 1999 is 19.99 EUR.
    #[prost(int64, tag = "1")]
    pub amount: i64,
    /// ISO 4217 code, upper case.
    #[prost(string, tag = "2")]
    pub currency: String,
}

/// The OpenAPI schema of [`Money`], against which request bodies are validated. It is stricter than deserialising: an event or a stored row of a
/// newer version may have fields that this one does not know.
#[derive(utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(
    description = "An amount in integer minor units (cents for EUR, yen for JPY) with its ISO 4217 code. It is also the protobuf message\n`banyan.kernel.v1.Money`, so contracts carry it without mapping."
)]
#[allow(dead_code, reason = "nothing but its schema is used")]
struct MoneySchema {
    /// Integer minor units: 1999 is 19.99 EUR.
    #[schema(minimum = 0, maximum = 1_000_000_000_000_i64, example = 1999)]
    amount: i64,
    /// ISO 4217 code, upper case.
    #[schema(pattern = "^[A-Z]{3}$", min_length = 3, max_length = 3, example = "EUR")]
    currency: String,
}

impl PartialSchema for Money {
    fn schema() -> RefOr<Schema> {
        MoneySchema::schema()
    }
}

impl ToSchema for Money {
    fn name() -> Cow<'static, str> {
        "Money".into()
    }
}

/// Why an amount cannot be computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    #[error("{0} is not an ISO 4217 currency code")]
    UnknownCurrency(String),
    #[error("{0} is a metal, a fund or a unit of account, in which nobody pays a price")]
    NotOfPrices(String),
    #[error("{0} has been withdrawn; its successor is {1}")]
    Withdrawn(String, String),
    #[error("{0} and {1} cannot be added")]
    MixedCurrencies(String, String),
    #[error("the amount is too large")]
    Overflow,
}

impl Money {
    /// The largest amount of a price or a total, as the document promises.
    pub const MAX_AMOUNT: i64 = 1_000_000_000_000;

    /// # Errors
    /// `UnknownCurrency` unless `currency` is an upper-case code of ISO 4217.
    pub fn new(amount: i64, currency: &str) -> Result<Self, MoneyError> {
        let known = Currency::from_code(currency).ok_or_else(|| MoneyError::UnknownCurrency(currency.to_owned()))?;
        Ok(Money {
            amount,
            currency: known.code().to_owned(),
        })
    }

    /// A price to be: in a currency in which people pay today. What was stored while a currency was valid is read by [`Money::new`].
    ///
    /// # Errors
    /// As [`Money::new`]; `NotOfPrices` for codes of metals, funds and tests, `Withdrawn` for a currency that has been replaced.
    pub fn price(amount: i64, currency: &str) -> Result<Self, MoneyError> {
        let price = Money::new(amount, currency)?;
        match Currency::from_code(currency) {
            Some(known) if known.is_special() || known.is_fund() => Err(MoneyError::NotOfPrices(price.currency)),
            // ISO 4217 lists the bolivar under both codes: VED came beside VES, and did not replace it.
            Some(Currency::VES) => Ok(price),
            Some(known) => match known.is_superseded() {
                Some(successor) => Err(MoneyError::Withdrawn(price.currency, successor.code().to_owned())),
                None => Ok(price),
            },
            None => Ok(price),
        }
    }

    /// The same currency, another amount.
    pub fn with_amount(&self, amount: i64) -> Self {
        Money {
            amount,
            currency: self.currency.clone(),
        }
    }

    /// # Errors
    /// `MixedCurrencies`, `Overflow`.
    pub fn checked_add(&self, other: &Money) -> Result<Money, MoneyError> {
        if self.currency != other.currency {
            return Err(MoneyError::MixedCurrencies(
                self.currency.clone(),
                other.currency.clone(),
            ));
        }
        self.amount
            .checked_add(other.amount)
            .map(|amount| self.with_amount(amount))
            .ok_or(MoneyError::Overflow)
    }

    /// # Errors
    /// `Overflow`.
    pub fn checked_mul(&self, quantity: u32) -> Result<Money, MoneyError> {
        self.amount
            .checked_mul(i64::from(quantity))
            .map(|amount| self.with_amount(amount))
            .ok_or(MoneyError::Overflow)
    }
}

impl fmt::Display for Money {
    /// In major units: `19.99 EUR`, `500 JPY`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exponent = Currency::from_code(&self.currency)
            .and_then(Currency::exponent)
            .unwrap_or(0);
        if exponent == 0 {
            return write!(f, "{} {}", self.amount, self.currency);
        }
        let unit = 10_u64.pow(u32::from(exponent));
        let sign = if self.amount < 0 { "-" } else { "" };
        let amount = self.amount.unsigned_abs();
        write!(
            f,
            "{sign}{}.{:0width$} {}",
            amount / unit,
            amount % unit,
            self.currency,
            width = usize::from(exponent)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_are_accepted_when_reading_and_refused_in_requests() {
        let newer: Money =
            serde_json::from_str(r#"{"amount": 1999, "currency": "EUR", "rounding": "half_even"}"#).unwrap();
        assert_eq!(
            newer,
            Money {
                amount: 1999,
                currency: "EUR".to_owned()
            }
        );
        let schema = serde_json::to_value(Money::schema()).unwrap();
        assert_eq!(
            (&schema["additionalProperties"], &schema["required"][1]),
            (&false.into(), &"currency".into())
        );
    }

    #[test]
    fn amounts_of_one_currency_add_up_and_others_do_not() {
        let euros = Money::new(1999, "EUR").unwrap();
        assert_eq!(euros.checked_add(&euros).unwrap().amount, 3998);
        assert!(matches!(
            euros.checked_add(&Money::new(1, "USD").unwrap()),
            Err(MoneyError::MixedCurrencies(..))
        ));
        assert_eq!(euros.with_amount(i64::MAX).checked_mul(2), Err(MoneyError::Overflow));
    }

    #[test]
    fn only_iso_4217_codes_are_currencies() {
        assert!(Money::new(1, "EUR").is_ok());
        assert!(Money::new(1, "eur").is_err());
        assert!(Money::new(1, "QQQ").is_err());
    }

    #[test]
    fn prices_are_in_currencies_in_which_people_pay() {
        for current in ["EUR", "JPY", "XAF", "XCD", "XOF", "XPF", "VES", "VED", "ZWG"] {
            assert!(Money::price(1, current).is_ok(), "{current}");
        }
        for unpaid in [
            "XXX", "XTS", "XAU", "XAG", "XPT", "XPD", "XDR", "XSU", "XUA", "XBA", "CLF", "USN", "CHE",
        ] {
            assert_eq!(
                Money::price(1, unpaid),
                Err(MoneyError::NotOfPrices(unpaid.to_owned())),
                "{unpaid}"
            );
        }
        for (withdrawn, successor) in [
            ("HRK", "EUR"),
            ("BGN", "EUR"),
            ("SLL", "SLE"),
            ("ZWL", "ZWG"),
            ("CUC", "CUP"),
        ] {
            let expected = MoneyError::Withdrawn(withdrawn.to_owned(), successor.to_owned());
            assert_eq!(Money::price(1, withdrawn), Err(expected));
            assert!(
                Money::new(1, withdrawn).is_ok(),
                "what was stored in {withdrawn} is read"
            );
        }
        for unknown in ["QQQ", "eur", "DEM", "ANG"] {
            assert_eq!(
                Money::price(1, unknown),
                Err(MoneyError::UnknownCurrency(unknown.to_owned()))
            );
        }
    }

    #[test]
    fn amounts_are_displayed_in_major_units() {
        assert_eq!(Money::new(1999, "EUR").unwrap().to_string(), "19.99 EUR");
        assert_eq!(Money::new(-5, "EUR").unwrap().to_string(), "-0.05 EUR");
        assert_eq!(Money::new(500, "JPY").unwrap().to_string(), "500 JPY");
    }
}
