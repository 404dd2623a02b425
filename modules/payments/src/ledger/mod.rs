//! Double entry: every movement of money is a transaction whose entries sum to zero per currency. Pure; the store only appends.
//!
//! Debits are positive, credits negative. `authorised` against `authorised_offset` is a memorandum of what is blocked and not taken; `provider`
//! is what the provider holds for us; `sales` and `refunds` say why. So what was captured and not refunded is the balance of `provider`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared_kernel::Money;

use crate::payment::{Payment, PaymentUpdate};

pub mod store;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, strum::IntoStaticStr)]
#[strum(const_into_str, serialize_all = "snake_case")]
pub enum Account {
    Authorised,
    AuthorisedOffset,
    Provider,
    Sales,
    Refunds,
}

/// What a ledger transaction records.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, strum::EnumString, strum::IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(const_into_str, serialize_all = "snake_case")]
pub enum Movement {
    Authorisation,
    Void,
    Capture,
    Refund,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerEntry {
    pub account: Account,
    /// Debit positive, credit negative.
    pub amount: Money,
}

/// Entries that sum to zero per currency; there is no other way to make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerTransaction {
    movement: Movement,
    entries: Vec<LedgerEntry>,
}

/// The entries do not sum to zero in this currency, or overflow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the entries in {0} do not sum to zero")]
pub struct Unbalanced(pub String);

impl LedgerTransaction {
    /// # Errors
    /// [`Unbalanced`].
    pub fn new(movement: Movement, entries: Vec<LedgerEntry>) -> Result<Self, Unbalanced> {
        let mut sums: BTreeMap<&str, i64> = BTreeMap::new();
        for LedgerEntry { amount, .. } in &entries {
            let sum = sums.entry(&amount.currency).or_default();
            *sum = sum
                .checked_add(amount.amount)
                .ok_or_else(|| Unbalanced(amount.currency.clone()))?;
        }
        if let Some((currency, _)) = sums.into_iter().find(|(_, sum)| *sum != 0) {
            return Err(Unbalanced(currency.to_owned()));
        }
        Ok(LedgerTransaction { movement, entries })
    }

    pub fn movement(&self) -> Movement {
        self.movement
    }

    pub fn entries(&self) -> &[LedgerEntry] {
        &self.entries
    }
}

/// What `update` moved, given the payment after it; `None` if no money moved.
///
/// # Errors
/// [`Unbalanced`] would be a bug here; the caller's transaction then fails and nothing is recorded.
pub fn transaction_of(update: &PaymentUpdate, after: &Payment) -> Result<Option<LedgerTransaction>, Unbalanced> {
    let entry = |account, amount| LedgerEntry {
        account,
        amount: after.amount.with_amount(amount),
    };
    let hold = |sign: i64| {
        [
            entry(Account::Authorised, sign * after.authorised),
            entry(Account::AuthorisedOffset, -sign * after.authorised),
        ]
    };
    let (movement, entries) = match update {
        PaymentUpdate::Authorised { .. } => (Movement::Authorisation, hold(1).to_vec()),
        PaymentUpdate::Voided => (Movement::Void, hold(-1).to_vec()),
        // Capturing ends the authorisation, including the part of it that is not captured.
        PaymentUpdate::Captured => {
            let taken = [
                entry(Account::Provider, after.captured),
                entry(Account::Sales, -after.captured),
            ];
            (Movement::Capture, [hold(-1), taken].concat())
        }
        PaymentUpdate::Refunded { amount } => (
            Movement::Refund,
            vec![entry(Account::Refunds, *amount), entry(Account::Provider, -amount)],
        ),
        PaymentUpdate::AuthorisationDeclined { .. }
        | PaymentUpdate::CaptureDeclined
        | PaymentUpdate::VoidDeclined
        | PaymentUpdate::RefundDeclined { .. } => return Ok(None),
    };
    LedgerTransaction::new(movement, entries).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use banyan_core::Timestamp;
    use uuid::Uuid;

    fn euros(account: Account, amount: i64) -> LedgerEntry {
        LedgerEntry {
            account,
            amount: Money {
                amount,
                currency: "EUR".into(),
            },
        }
    }

    #[test]
    fn a_transaction_that_does_not_sum_to_zero_cannot_be_made() {
        let balanced = vec![euros(Account::Provider, 5), euros(Account::Sales, -5)];
        assert!(LedgerTransaction::new(Movement::Capture, balanced).is_ok());
        let unbalanced = vec![euros(Account::Provider, 5), euros(Account::Sales, -4)];
        assert_eq!(
            LedgerTransaction::new(Movement::Capture, unbalanced),
            Err(Unbalanced("EUR".into()))
        );
        let overflowing = vec![euros(Account::Provider, i64::MAX), euros(Account::Sales, 1)];
        assert_eq!(
            LedgerTransaction::new(Movement::Capture, overflowing),
            Err(Unbalanced("EUR".into()))
        );
    }

    #[test]
    fn each_currency_balances_by_itself() {
        let dollars = LedgerEntry {
            account: Account::Sales,
            amount: Money {
                amount: -5,
                currency: "USD".into(),
            },
        };
        assert_eq!(
            LedgerTransaction::new(Movement::Capture, vec![euros(Account::Provider, 5), dollars]),
            Err(Unbalanced("EUR".into()))
        );
    }

    #[test]
    fn after_capture_and_partial_refund_the_balances_are_what_was_kept() {
        let id = Uuid::from_u128;
        let amount = Money {
            amount: 100,
            currency: "EUR".into(),
        };
        let mut payment = Payment::authorise(id(1), id(2), id(3), amount, "pm".into(), Timestamp::from_ms(0));
        let mut balances: BTreeMap<Account, i64> = BTreeMap::new();
        let mut update = |payment: &Payment, update: PaymentUpdate| {
            let after = payment.apply(&update).unwrap().payment;
            for LedgerEntry { account, amount } in transaction_of(&update, &after).unwrap().unwrap().entries() {
                *balances.entry(*account).or_default() += amount.amount;
            }
            after
        };
        payment = update(
            &payment,
            PaymentUpdate::Authorised {
                authorisation: "a".into(),
            },
        );
        payment = update(&payment.capture().unwrap(), PaymentUpdate::Captured);
        update(
            &payment.refund(Some(30)).unwrap().0,
            PaymentUpdate::Refunded { amount: 30 },
        );
        let expected = [
            (Account::Authorised, 0),
            (Account::AuthorisedOffset, 0),
            (Account::Provider, 70),
            (Account::Sales, -100),
            (Account::Refunds, 30),
        ];
        assert_eq!(balances, BTreeMap::from(expected));
    }

    #[test]
    fn a_declined_command_moves_no_money() {
        let id = Uuid::from_u128;
        let payment = Payment::authorise(
            id(1),
            id(2),
            id(3),
            Money {
                amount: 1,
                currency: "EUR".into(),
            },
            "pm".into(),
            Timestamp::from_ms(0),
        );
        for update in [
            PaymentUpdate::AuthorisationDeclined { code: "x".into() },
            PaymentUpdate::CaptureDeclined,
            PaymentUpdate::VoidDeclined,
            PaymentUpdate::RefundDeclined { amount: 1 },
        ] {
            assert_eq!(transaction_of(&update, &payment), Ok(None));
        }
    }
}
