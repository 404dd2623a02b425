//! The text of the mail for each event: plain text, amounts in major units.

use banyan_core::{Fault, parse_id};
use orders_contract::{OrderCancelled, OrderConfirmed, OrderDelivered, OrderItem, OrderPlaced, OrderShipped};
use payments_contract::PaymentRefunded;
use shared_kernel::Money;
use users_contract::{AccountMailRequested, UserRegistered};

use crate::notification::{Kind, Mail, SECRET};

pub fn order_placed(event: &OrderPlaced) -> Result<Mail, Fault> {
    let order = short(&event.order_id);
    let items = item_list(&event.items, event.total.as_ref());
    mail(
        Kind::OrderPlaced,
        &event.user_id,
        format!("We have received your order {order}"),
        &format!(
            "Thank you for your order. We are checking stock and payment and will write again shortly.\n\n{items}"
        ),
        &event.order_id,
    )
}

pub fn order_confirmed(event: &OrderConfirmed) -> Result<Mail, Fault> {
    let order = short(&event.order_id);
    let items = item_list(&event.items, event.total.as_ref());
    mail(
        Kind::OrderConfirmed,
        &event.user_id,
        format!("Your order {order} is confirmed"),
        &format!("Your payment has been taken, and your order is being packed.\n\n{items}"),
        &event.order_id,
    )
}

pub fn order_cancelled(event: &OrderCancelled) -> Result<Mail, Fault> {
    let order = short(&event.order_id);
    let why = match event.reason.as_str() {
        "out_of_stock" => "We are sorry: what you ordered is no longer in stock.",
        "payment_declined" => "Your payment was declined.",
        "customer" => "As you asked, we have cancelled your order.",
        "expired" => "We could not complete your order in time.",
        _ => "We have cancelled your order.",
    };
    let money = match &event.refunded {
        Some(refunded) if refunded.amount > 0 => format!("{refunded} will be returned to your payment method."),
        Some(_) => "What you paid has been returned to you before.".to_owned(),
        // An operator may have ended it at any point, also after the payment.
        None if event.reason == "operator" => {
            "Should anything have been charged, we write to you when it is returned.".to_owned()
        }
        None => "Nothing has been charged.".to_owned(),
    };
    mail(
        Kind::OrderCancelled,
        &event.user_id,
        format!("Your order {order} was cancelled"),
        &format!("{why} {money}"),
        &event.order_id,
    )
}

pub fn order_shipped(event: &OrderShipped) -> Result<Mail, Fault> {
    let order = short(&event.order_id);
    let number = &event.tracking_number;
    mail(
        Kind::OrderShipped,
        &event.user_id,
        format!("Your order {order} is on its way"),
        &format!("Your order has left the house. Its tracking number is {number}."),
        &event.order_id,
    )
}

pub fn order_delivered(event: &OrderDelivered) -> Result<Mail, Fault> {
    let order = short(&event.order_id);
    mail(
        Kind::OrderDelivered,
        &event.user_id,
        format!("Your order {order} has arrived"),
        "Your order has been delivered. We hope you like it.",
        &event.order_id,
    )
}

pub fn payment_refunded(event: &PaymentRefunded) -> Result<Mail, Fault> {
    let order = short(&event.order_id);
    let amount = event
        .amount
        .as_ref()
        .map_or_else(|| "Your payment".to_owned(), Money::to_string);
    let so_far = match (&event.amount, &event.refunded) {
        (Some(amount), Some(all)) if all.amount > amount.amount => {
            format!(" Together with earlier refunds that makes {all}.")
        }
        _ => String::new(),
    };
    mail(
        Kind::PaymentRefunded,
        &event.user_id,
        format!("A refund for your order {order}"),
        &format!("{amount} has been returned to your payment method.{so_far}"),
        &event.order_id,
    )
}

/// Without the user's name: whoever registers chooses it, and may register the address of somebody else, who would read it.
pub fn welcome(event: &UserRegistered) -> Result<Mail, Fault> {
    Ok(Mail {
        kind: Kind::Welcome,
        user_id: parse_id("user_id", &event.user_id)?,
        subject: "Welcome to Banyan".to_owned(),
        body: "Hello,\n\nyour account is ready. We are glad to have you.\n\nYour Banyan shop\n".to_owned(),
        account_mail: None,
    })
}

/// A mail about the account itself. Its text contains nothing that whoever caused it has chosen.
pub fn account_mail(event: &AccountMailRequested) -> Result<Mail, Fault> {
    let kind = event.kind.parse();
    let kind = kind.map_err(|_| Fault::internal("unknown_kind", format!("{} is not a kind of mail", event.kind)))?;
    let (subject, text) = match kind {
        Kind::PasswordReset => (
            "Choose a new password",
            format!(
                "Somebody, we hope you, wants to choose a new password for your account. This does it, once and within 30 minutes:\n\n{SECRET}\n\nIf it was \
                 not you, ignore this mail: your password stays as it is."
            ),
        ),
        Kind::PasswordChanged => (
            "Your password was changed",
            "The password of your account is a new one. If it was not you who changed it, request a new password at once: that ends all sessions of \
             your account."
                .to_owned(),
        ),
        Kind::EmailVerification => (
            "Confirm your email address",
            format!(
                "Welcome to Banyan. Somebody, we hope you, has registered with this address. This confirms it, once and within a day:\n\n{SECRET}\n\nIf it \
                 was not you, ignore this mail. To make the account yours instead, request a new password."
            ),
        ),
        Kind::EmailChange => (
            "Confirm your new email address",
            format!(
                "Somebody, we hope you, wants to use this address for their account. This confirms it, once and within a day:\n\n{SECRET}\n\nIf it was not \
                 you, ignore this mail: nothing changes."
            ),
        ),
        Kind::EmailChanged => (
            "Your account has another email address",
            "Your account has another email address now, and no mail will be sent to this one any more. If it was not you who changed it, write to \
             the shop at once."
                .to_owned(),
        ),
        Kind::AlreadyRegistered => (
            "You have an account already",
            "Somebody, perhaps you, has tried to register with this address, which has an account already. Log in with it, or request a new password. \
             If it was not you, ignore this mail: nothing has changed."
                .to_owned(),
        ),
        other => {
            let detail = format!("{} is not a mail about an account", other.into_str());
            return Err(Fault::internal("unknown_kind", detail));
        }
    };
    Ok(Mail {
        kind,
        user_id: parse_id("user_id", &event.user_id)?,
        subject: subject.to_owned(),
        body: format!("Hello,\n\n{text}\n\nYour Banyan shop\n"),
        account_mail: Some(parse_id("mail_id", &event.mail_id)?),
    })
}

fn mail(kind: Kind, user_id: &str, subject: String, text: &str, order_id: &str) -> Result<Mail, Fault> {
    let body = format!("Hello,\n\n{text}\n\nOrder: {order_id}\n\nYour Banyan shop\n");
    Ok(Mail {
        kind,
        user_id: parse_id("user_id", user_id)?,
        subject,
        body,
        account_mail: None,
    })
}

/// The last characters of an order's id, which are random: enough for a user to distinguish their orders.
fn short(order_id: &str) -> String {
    let start = order_id.char_indices().rev().nth(7).map_or(0, |(at, _)| at);
    order_id[start..].to_uppercase()
}

fn item_list(items: &[OrderItem], total: Option<&Money>) -> String {
    let mut lines: Vec<String> = items.iter().map(item_line).collect();
    lines.extend(total.map(|total| format!("Total: {total}")));
    lines.join("\n")
}

fn item_line(item: &OrderItem) -> String {
    let price = item
        .unit_price
        .as_ref()
        .and_then(|price| price.checked_mul(item.quantity).ok());
    let price = price.map(|price| format!(": {price}")).unwrap_or_default();
    format!("{} x {}{price}", item.quantity, item.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: &str = "0193a5b8-0000-7000-8000-0000deadbeef";
    const USER: &str = "0193a5b8-0000-7000-8000-000000000001";

    fn money(amount: i64, currency: &str) -> Option<Money> {
        Some(Money::new(amount, currency).unwrap())
    }

    #[test]
    fn the_mail_of_a_placed_order_lists_items_and_prices() {
        let fig = OrderItem {
            sku: "fig".into(),
            name: "Rare fig".into(),
            quantity: 2,
            unit_price: money(1_999, "EUR"),
        };
        let placed = OrderPlaced {
            order_id: ORDER.into(),
            user_id: USER.into(),
            items: vec![fig],
            total: money(3_998, "EUR"),
        };
        let mail = order_placed(&placed).unwrap();
        assert_eq!(mail.subject, "We have received your order DEADBEEF");
        assert!(
            mail.body.contains("2 x Rare fig: 39.98 EUR\nTotal: 39.98 EUR"),
            "{}",
            mail.body
        );
        assert_eq!(
            (mail.kind, mail.user_id.to_string().as_str()),
            (Kind::OrderPlaced, USER)
        );
    }

    #[test]
    fn the_mail_of_a_cancellation_states_the_reason_and_the_refund() {
        let event = |reason: &str, refunded| OrderCancelled {
            order_id: ORDER.into(),
            user_id: USER.into(),
            reason: reason.into(),
            refunded,
        };
        let declined = order_cancelled(&event("payment_declined", None)).unwrap().body;
        assert!(declined.contains("declined. Nothing has been charged."), "{declined}");
        let late = order_cancelled(&event("customer", money(500, "JPY"))).unwrap().body;
        assert!(late.contains("500 JPY will be returned"), "{late}");
        let before = order_cancelled(&event("customer", money(0, "EUR"))).unwrap().body;
        assert!(
            before.contains("returned to you before") && !before.contains("0.00"),
            "{before}"
        );
        let given_up = order_cancelled(&event("operator", None)).unwrap().body;
        assert!(
            !given_up.contains("Nothing has been charged") && given_up.contains("when it is returned"),
            "{given_up}"
        );
        // A reason that this version does not know is still a cancellation.
        assert!(order_cancelled(&event("meteor", None)).is_ok());
    }

    #[test]
    fn the_mail_of_a_second_refund_states_the_total() {
        let event = |refunded| PaymentRefunded {
            payment_id: ORDER.into(),
            order_id: ORDER.into(),
            user_id: USER.into(),
            amount: money(500, "EUR"),
            refunded,
            reason: "broken".into(),
        };
        assert!(
            !payment_refunded(&event(money(500, "EUR")))
                .unwrap()
                .body
                .contains("Together")
        );
        assert!(
            payment_refunded(&event(money(1_500, "EUR")))
                .unwrap()
                .body
                .contains("that makes 15.00 EUR.")
        );
    }

    #[test]
    fn a_mail_needs_a_valid_user_id() {
        assert!(
            order_delivered(&OrderDelivered {
                order_id: ORDER.into(),
                user_id: "somebody".into()
            })
            .is_err()
        );
        // Any order id results in a readable mail.
        assert!(
            order_delivered(&OrderDelivered {
                order_id: "äöü".into(),
                user_id: USER.into()
            })
            .is_ok()
        );
    }
}
