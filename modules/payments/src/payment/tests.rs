//! The rules of `payment.rs` as tables: every state with every command and every update.

use strum::VariantArray;

use super::*;
use Status::{
    Authorised, Authorising, Captured, Capturing, Created, Declined, PartiallyRefunded, Refunded, Voided, Voiding,
};

/// A payment of 100 in `status`, with a refund of 30 under way where money was captured (and 20 refunded before where some was).
fn payment(status: Status) -> Payment {
    let amount = Money {
        amount: 100,
        currency: "EUR".into(),
    };
    let id = Uuid::from_u128;
    let mut payment = Payment::authorise(
        id(1),
        id(2),
        id(3),
        amount,
        "pm_card_visa".into(),
        Timestamp::from_ms(0),
    );
    payment.status = status;
    if !matches!(status, Created | Authorising | Declined) {
        payment.authorised = 100;
        payment.authorisation = Some("auth_1".into());
    }
    (payment.captured, payment.refunded, payment.refunding) = match status {
        Captured => (100, 0, 30),
        PartiallyRefunded => (100, 20, 30),
        Refunded => (100, 100, 0),
        _ => (0, 0, 0),
    };
    payment
}

fn all_updates() -> [PaymentUpdate; 8] {
    [
        PaymentUpdate::Authorised {
            authorisation: "auth_1".into(),
        },
        PaymentUpdate::AuthorisationDeclined {
            code: "card_declined".into(),
        },
        PaymentUpdate::Captured,
        PaymentUpdate::CaptureDeclined,
        PaymentUpdate::Voided,
        PaymentUpdate::VoidDeclined,
        PaymentUpdate::Refunded { amount: 30 },
        PaymentUpdate::RefundDeclined { amount: 30 },
    ]
}

#[test]
fn every_state_accepts_its_own_updates_and_no_other() {
    let no = None;
    let table: [(Status, [Option<Status>; 8]); 10] = [
        //                   authorised        declined        captured        refused           voided        not voided        refunded                 not refunded
        (Created, [no, no, no, no, no, no, no, no]),
        (Authorising, [Some(Authorised), Some(Declined), no, no, no, no, no, no]),
        (Authorised, [no, no, no, no, no, no, no, no]),
        (Capturing, [no, no, Some(Captured), Some(Authorised), no, no, no, no]),
        (
            Captured,
            [no, no, no, no, no, no, Some(PartiallyRefunded), Some(Captured)],
        ),
        (
            PartiallyRefunded,
            [no, no, no, no, no, no, Some(PartiallyRefunded), Some(PartiallyRefunded)],
        ),
        (Refunded, [no, no, no, no, no, no, no, no]),
        (Declined, [no, no, no, no, no, no, no, no]),
        (Voiding, [no, no, no, no, Some(Voided), Some(Authorised), no, no]),
        (Voided, [no, no, no, no, no, no, no, no]),
    ];
    assert_eq!(
        table.map(|(status, _)| status),
        Status::VARIANTS,
        "the table names every state"
    );
    for (status, row) in table {
        for (update, expected) in all_updates().iter().zip(row) {
            let applied = payment(status).apply(update);
            assert_eq!(
                applied.as_ref().ok().map(|applied| applied.payment.status),
                expected,
                "{status:?} with {update:?}"
            );
            if let Ok(applied) = applied {
                assert_amounts(&applied.payment);
            }
        }
    }
}

#[test]
fn a_requested_void_follows_the_command_that_was_under_way() {
    let authorised = PaymentUpdate::Authorised {
        authorisation: "auth_1".into(),
    };
    let declined = PaymentUpdate::AuthorisationDeclined {
        code: "card_declined".into(),
    };
    for (status, update, becomes, voids) in [
        (Authorising, &authorised, Voiding, Voids::Start),
        (Authorising, &declined, Declined, Voids::Done),
        (Capturing, &PaymentUpdate::CaptureDeclined, Voiding, Voids::Start),
        (
            Capturing,
            &PaymentUpdate::Captured,
            Captured,
            Voids::Refused("already_captured"),
        ),
    ] {
        let waiting = Payment {
            void_requested: true,
            ..payment(status)
        };
        let applied = waiting.apply(update).unwrap();
        assert_eq!(
            (applied.payment.status, applied.voids, applied.payment.void_requested),
            (becomes, voids, false),
            "{status:?} with {update:?}"
        );
    }
}

#[test]
fn only_an_authorised_payment_can_be_captured() {
    for &status in Status::VARIANTS {
        let capture = payment(status).capture();
        let expected = match status {
            Authorised => "capturing",
            Created | Authorising => "not yet",
            Voiding | Voided => "payment_voided",
            Declined => "payment_declined",
            Capturing => "capture_in_progress",
            Captured | PartiallyRefunded | Refunded => "already_captured",
        };
        let got = match capture {
            Ok(payment) => payment.status.into_str(),
            Err(Refusal::NotYet) => "not yet",
            Err(Refusal::Declined { code, .. } | Refusal::Conflict { code, .. }) => code,
        };
        assert_eq!(got, expected, "{status:?}");
    }
    let voided_meanwhile = Payment {
        void_requested: true,
        ..payment(Authorising)
    };
    assert!(matches!(
        voided_meanwhile.capture(),
        Err(Refusal::Declined {
            code: "payment_voided",
            ..
        })
    ));
}

#[test]
fn a_late_capture_after_a_void_changes_nothing() {
    let voided = payment(Voided);
    assert!(matches!(
        voided.capture(),
        Err(Refusal::Declined {
            code: "payment_voided",
            ..
        })
    ));
    assert_eq!(voided.apply(&PaymentUpdate::Captured), Err(UnexpectedUpdate));
}

#[test]
fn a_void_starts_waits_or_finds_nothing_to_do() {
    for &status in Status::VARIANTS {
        let found = payment(status).void();
        let fits = match status {
            Authorised => matches!(found, VoidStep::Start(ref next) if next.status == Voiding),
            Created | Authorising | Capturing => {
                matches!(found, VoidStep::Wait(ref next) if next.void_requested && next.status == status)
            }
            Voiding => matches!(found, VoidStep::Wait(ref next) if !next.void_requested),
            Declined | Voided => found == VoidStep::Nothing,
            Captured | PartiallyRefunded | Refunded => found == VoidStep::Refused(ALREADY_CAPTURED),
        };
        assert!(fits, "{status:?}: {found:?}");
    }
}

#[test]
fn a_refund_reserves_at_most_what_is_left() {
    let code = |refund: Result<(Payment, i64), Refusal>| match refund {
        Ok((payment, amount)) => {
            assert_amounts(&payment);
            format!("{amount}")
        }
        Err(Refusal::Conflict { code, .. }) => code.to_owned(),
        Err(other) => format!("{other:?}"),
    };
    for &status in Status::VARIANTS {
        let expected = match status {
            Captured => ["70", "70", "exceeds_captured", "1"],
            PartiallyRefunded => ["50", "exceeds_captured", "exceeds_captured", "1"],
            Refunded => [
                "nothing_to_refund",
                "exceeds_captured",
                "exceeds_captured",
                "exceeds_captured",
            ],
            _ => ["not_captured"; 4],
        };
        for (wanted, expected) in [None, Some(70), Some(71), Some(1)].into_iter().zip(expected) {
            assert_eq!(
                code(payment(status).refund(wanted)),
                expected,
                "{status:?}, {wanted:?} wanted"
            );
        }
    }
    assert_eq!(code(payment(Captured).refund(Some(0))), "nothing_to_refund");
    assert_eq!(code(payment(Captured).refund(Some(-5))), "nothing_to_refund");
}

#[test]
fn the_remaining_refund_waits_for_refunds_under_way() {
    for &status in Status::VARIANTS {
        let refund = payment(status).refund_remaining();
        match status {
            Declined | Voided => assert_eq!(refund, Ok((payment(status), 0)), "{status:?}"),
            Refunded => assert_eq!(refund.map(|(_, amount)| amount), Ok(0), "{status:?}"),
            Capturing | Captured | PartiallyRefunded => assert_eq!(refund, Err(Refusal::NotYet), "{status:?}"),
            Created | Authorising | Authorised | Voiding => assert_eq!(refund, Err(NOT_CAPTURED), "{status:?}"),
        }
    }
    let quiet = Payment {
        refunding: 0,
        ..payment(PartiallyRefunded)
    };
    let (reserved, amount) = quiet.refund_remaining().unwrap();
    assert_eq!((amount, reserved.refunding), (80, 80));
    let applied = reserved.apply(&PaymentUpdate::Refunded { amount: 80 }).unwrap();
    assert_eq!(applied.payment.status, Refunded);
}

#[test]
fn a_refund_beyond_its_reservation_is_unexpected() {
    assert_eq!(
        payment(Captured).apply(&PaymentUpdate::Refunded { amount: 31 }),
        Err(UnexpectedUpdate)
    );
}

#[test]
fn a_status_has_one_name_in_the_table_and_in_json() {
    for &status in Status::VARIANTS {
        assert_eq!(status.into_str().parse(), Ok(status));
        assert_eq!(serde_json::to_value(status).unwrap(), status.into_str());
    }
    assert!("lost".parse::<Status>().is_err());
}

fn assert_amounts(payment: &Payment) {
    assert!(0 <= payment.refunded && 0 <= payment.refunding, "{payment:?}");
    assert!(payment.refunded + payment.refunding <= payment.captured, "{payment:?}");
    assert!(
        payment.captured <= payment.authorised && payment.authorised <= payment.amount.amount,
        "{payment:?}"
    );
}
