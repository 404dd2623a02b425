//! The rules of `payment.rs` as tables: every state meets every command and every news.

use super::*;
use Status::{
    Authorised, Authorising, Captured, Capturing, Created, Declined, PartiallyRefunded, Refunded, Voided, Voiding,
};

/// A payment of 100 in `status`, with 30 of it on their way back where money was taken (and 20 back already where some was).
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

fn all_news() -> [News; 8] {
    [
        News::Authorised {
            authorisation: "auth_1".into(),
        },
        News::AuthorisationDeclined {
            code: "card_declined".into(),
        },
        News::Captured,
        News::CaptureDeclined,
        News::Voided,
        News::VoidDeclined,
        News::Refunded { amount: 30 },
        News::RefundDeclined { amount: 30 },
    ]
}

#[test]
fn every_state_hears_its_own_news_and_no_other() {
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
        Status::ALL,
        "the table names every state"
    );
    for (status, row) in table {
        for (news, expected) in all_news().iter().zip(row) {
            let heard = payment(status).hear(news);
            assert_eq!(
                heard.as_ref().ok().map(|heard| heard.payment.status),
                expected,
                "{status:?} hears {news:?}"
            );
            if let Ok(heard) = heard {
                assert_amounts(&heard.payment);
            }
        }
    }
}

#[test]
fn a_requested_void_follows_whatever_was_on_its_way() {
    let authorised = News::Authorised {
        authorisation: "auth_1".into(),
    };
    let declined = News::AuthorisationDeclined {
        code: "card_declined".into(),
    };
    for (status, news, becomes, voids) in [
        (Authorising, &authorised, Voiding, Voids::Start),
        (Authorising, &declined, Declined, Voids::Done),
        (Capturing, &News::CaptureDeclined, Voiding, Voids::Start),
        (Capturing, &News::Captured, Captured, Voids::Refused("already_captured")),
    ] {
        let waiting = Payment {
            void_requested: true,
            ..payment(status)
        };
        let heard = waiting.hear(news).unwrap();
        assert_eq!(
            (heard.payment.status, heard.voids, heard.payment.void_requested),
            (becomes, voids, false),
            "{status:?} hears {news:?}"
        );
    }
}

#[test]
fn a_capture_starts_from_authorised_alone() {
    for status in Status::ALL {
        let answer = payment(status).capture();
        let expected = match status {
            Authorised => "capturing",
            Created | Authorising => "not yet",
            Voiding | Voided => "payment_voided",
            Declined => "payment_declined",
            Capturing => "capture_in_progress",
            Captured | PartiallyRefunded | Refunded => "already_captured",
        };
        let got = match answer {
            Ok(payment) => payment.status.as_str(),
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
    assert_eq!(voided.hear(&News::Captured), Err(Unexpected));
}

#[test]
fn a_void_starts_waits_or_finds_nothing_to_do() {
    for status in Status::ALL {
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
fn a_refund_reserves_what_is_left_at_most() {
    let code = |answer: Result<(Payment, i64), Refusal>| match answer {
        Ok((payment, amount)) => {
            assert_amounts(&payment);
            format!("{amount}")
        }
        Err(Refusal::Conflict { code, .. }) => code.to_owned(),
        Err(other) => format!("{other:?}"),
    };
    for status in Status::ALL {
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
fn the_remaining_refund_waits_for_refunds_on_their_way() {
    for status in Status::ALL {
        let answer = payment(status).refund_remaining();
        match status {
            Declined | Voided => assert_eq!(answer, Ok((payment(status), 0)), "{status:?}"),
            Refunded => assert_eq!(answer.map(|(_, amount)| amount), Ok(0), "{status:?}"),
            Capturing | Captured | PartiallyRefunded => assert_eq!(answer, Err(Refusal::NotYet), "{status:?}"),
            Created | Authorising | Authorised | Voiding => assert_eq!(answer, Err(NOT_CAPTURED), "{status:?}"),
        }
    }
    let quiet = Payment {
        refunding: 0,
        ..payment(PartiallyRefunded)
    };
    let (reserved, amount) = quiet.refund_remaining().unwrap();
    assert_eq!((amount, reserved.refunding), (80, 80));
    let heard = reserved.hear(&News::Refunded { amount: 80 }).unwrap();
    assert_eq!(heard.payment.status, Refunded);
}

#[test]
fn a_refund_beyond_its_reservation_is_unexpected() {
    assert_eq!(payment(Captured).hear(&News::Refunded { amount: 31 }), Err(Unexpected));
}

#[test]
fn every_status_reads_back_what_it_writes() {
    for status in Status::ALL {
        assert_eq!(Status::find(status.as_str()), Some(status));
        assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
    }
    assert_eq!(Status::find("lost"), None);
}

fn assert_amounts(payment: &Payment) {
    assert!(0 <= payment.refunded && 0 <= payment.refunding, "{payment:?}");
    assert!(payment.refunded + payment.refunding <= payment.captured, "{payment:?}");
    assert!(
        payment.captured <= payment.authorised && payment.authorised <= payment.amount.amount,
        "{payment:?}"
    );
}
