//! Double entry: every movement of money is a transaction whose entries sum to zero per currency. Pure; the store only appends.
//!
//! Debits are positive, credits negative. `authorised` against `authorised_offset` is a memorandum of what is blocked and not taken; `provider`
//! is what the provider holds for us; `sales` and `refunds` say why. So what was captured and not refunded is the balance of `provider`.

use std::collections::BTreeMap;

use shared_kernel::Money;

use crate::payment::{News, Payment};

pub mod store;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Account {
    Authorised,
    AuthorisedOffset,
    Provider,
    Sales,
    Refunds,
}

impl Account {
    pub fn as_str(self) -> &'static str {
        match self {
            Account::Authorised => "authorised",
            Account::AuthorisedOffset => "authorised_offset",
            Account::Provider => "provider",
            Account::Sales => "sales",
            Account::Refunds => "refunds",
        }
    }
}

/// What a transaction records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Movement {
    Authorisation,
    Void,
    Capture,
    Refund,
}

impl Movement {
    pub fn as_str(self) -> &'static str {
        match self {
            Movement::Authorisation => "authorisation",
            Movement::Void => "void",
            Movement::Capture => "capture",
            Movement::Refund => "refund",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub account: Account,
    /// Debit positive, credit negative.
    pub amount: Money,
}

/// Entries that sum to zero per currency; there is no other way to make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    movement: Movement,
    entries: Vec<Entry>,
}

/// The entries do not sum to zero in this currency, or overflow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the entries in {0} do not sum to zero")]
pub struct Unbalanced(pub String);

impl Transaction {
    /// # Errors
    /// [`Unbalanced`].
    pub fn new(movement: Movement, entries: Vec<Entry>) -> Result<Self, Unbalanced> {
        let mut sums: BTreeMap<&str, i64> = BTreeMap::new();
        for Entry { amount, .. } in &entries {
            let sum = sums.entry(&amount.currency).or_default();
            *sum = sum
                .checked_add(amount.amount)
                .ok_or_else(|| Unbalanced(amount.currency.clone()))?;
        }
        if let Some((currency, _)) = sums.into_iter().find(|(_, sum)| *sum != 0) {
            return Err(Unbalanced(currency.to_owned()));
        }
        Ok(Transaction { movement, entries })
    }

    pub fn movement(&self) -> Movement {
        self.movement
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

/// What `news` moves, seen from the payment after it heard them; `None` if no money moved.
///
/// # Errors
/// [`Unbalanced`] would be a bug here; the caller's transaction then fails and nothing is recorded.
pub fn transaction_of(news: &News, after: &Payment) -> Result<Option<Transaction>, Unbalanced> {
    let entry = |account, amount| Entry {
        account,
        amount: after.amount.with_amount(amount),
    };
    let hold = |sign: i64| {
        [
            entry(Account::Authorised, sign * after.authorised),
            entry(Account::AuthorisedOffset, -sign * after.authorised),
        ]
    };
    let (movement, entries) = match news {
        News::Authorised { .. } => (Movement::Authorisation, hold(1).to_vec()),
        News::Voided => (Movement::Void, hold(-1).to_vec()),
        // Taking the money ends the authorisation, also the part of it that is not taken.
        News::Captured => {
            let taken = [
                entry(Account::Provider, after.captured),
                entry(Account::Sales, -after.captured),
            ];
            (Movement::Capture, [hold(-1), taken].concat())
        }
        News::Refunded { amount } => (
            Movement::Refund,
            vec![entry(Account::Refunds, *amount), entry(Account::Provider, -amount)],
        ),
        News::AuthorisationDeclined { .. }
        | News::CaptureDeclined
        | News::VoidDeclined
        | News::RefundDeclined { .. } => return Ok(None),
    };
    Transaction::new(movement, entries).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use banyan_core::Timestamp;
    use uuid::Uuid;

    fn euros(account: Account, amount: i64) -> Entry {
        Entry {
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
        assert!(Transaction::new(Movement::Capture, balanced).is_ok());
        let unbalanced = vec![euros(Account::Provider, 5), euros(Account::Sales, -4)];
        assert_eq!(
            Transaction::new(Movement::Capture, unbalanced),
            Err(Unbalanced("EUR".into()))
        );
        let overflowing = vec![euros(Account::Provider, i64::MAX), euros(Account::Sales, 1)];
        assert_eq!(
            Transaction::new(Movement::Capture, overflowing),
            Err(Unbalanced("EUR".into()))
        );
    }

    #[test]
    fn currencies_balance_each_for_itself() {
        let dollars = Entry {
            account: Account::Sales,
            amount: Money {
                amount: -5,
                currency: "USD".into(),
            },
        };
        assert_eq!(
            Transaction::new(Movement::Capture, vec![euros(Account::Provider, 5), dollars]),
            Err(Unbalanced("EUR".into()))
        );
    }

    #[test]
    fn a_whole_life_leaves_only_what_was_kept() {
        let id = Uuid::from_u128;
        let amount = Money {
            amount: 100,
            currency: "EUR".into(),
        };
        let mut payment = Payment::authorise(id(1), id(2), id(3), amount, "pm".into(), Timestamp::from_ms(0));
        let mut balances: BTreeMap<Account, i64> = BTreeMap::new();
        let mut live = |payment: &Payment, news: News| {
            let after = payment.hear(&news).unwrap().payment;
            for Entry { account, amount } in transaction_of(&news, &after).unwrap().unwrap().entries() {
                *balances.entry(*account).or_default() += amount.amount;
            }
            after
        };
        payment = live(
            &payment,
            News::Authorised {
                authorisation: "a".into(),
            },
        );
        payment = live(&payment.capture().unwrap(), News::Captured);
        live(&payment.refund(Some(30)).unwrap().0, News::Refunded { amount: 30 });
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
    fn a_refusal_moves_no_money() {
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
        for news in [
            News::AuthorisationDeclined { code: "x".into() },
            News::CaptureDeclined,
            News::VoidDeclined,
            News::RefundDeclined { amount: 1 },
        ] {
            assert_eq!(transaction_of(&news, &payment), Ok(None));
        }
    }
}
