//! Payments through its contract: calls, events, and every payment method of the sandbox provider.

mod support;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use banyan_core::{Actor, Bus, Call, Envelope, Fault, FaultKind, OPERATOR, Subscriber, TraceParent};
use banyan_durable_testing::{audited, eventually, on_both, published};
use payments_contract::{
    PaymentReference, PaymentRefunded, RefundRemaining, VoidPayment, authorisation, capture, refund, void,
};
use shared_kernel::{Money, Role};
use support::{Order, Shop, euros, orders, settings, timing};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(10);

/// The outcome: `authorised`, `in_progress`, `undone`, or the code of a decline or fault.
async fn authorise(order: &Order, shop: &Shop) -> String {
    use authorisation::Outcome;
    match order.authorise(shop).await {
        Ok(Outcome::Authorised(_)) => "authorised".into(),
        Ok(Outcome::InProgress(_)) => "in_progress".into(),
        Ok(Outcome::Undone(_)) => "undone".into(),
        Ok(Outcome::Declined(decline)) => decline.code,
        Err(fault) => fault.code,
    }
}

async fn capture(order: &Order, shop: &Shop) -> String {
    use capture::Outcome;
    match order.capture(shop).await {
        Ok(Outcome::Captured(_)) => "captured".into(),
        Ok(Outcome::InProgress(_)) => "in_progress".into(),
        Ok(Outcome::Declined(decline)) => decline.code,
        Err(fault) => fault.code,
    }
}

async fn void(order: &Order, shop: &Shop) -> String {
    match order.void(shop).await {
        Ok(void::Outcome::Voided(_)) => "voided".into(),
        Ok(void::Outcome::InProgress(_)) => "in_progress".into(),
        Err(fault) => fault.code,
    }
}

async fn refund(order: &Order, shop: &Shop) -> String {
    match order.refund(shop).await {
        Ok(refund::Outcome::Refunded(_)) => "refunded".into(),
        Ok(refund::Outcome::InProgress(_)) => "in_progress".into(),
        Err(fault) => fault.code,
    }
}

async fn until_known<Fut: Future<Output = String>>(send: impl Fn() -> Fut) -> String {
    let mut outcome = send().await;
    for _ in 0..500 {
        if outcome != "in_progress" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        outcome = send().await;
    }
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_is_authorised_captured_and_refunded_and_each_step_is_published() {
    on_both(payments::SCHEMA, |db| async move {
        let (shop, order) = (Shop::open(db).await, Order::paying_by("pm_card_visa"));
        assert_eq!(until_known(|| authorise(&order, &shop)).await, "authorised");
        let payment = order.payment(&shop).await;
        assert_eq!(
            (payment.status.as_str(), payment.amount, payment.captured),
            ("authorised", Some(euros(10_000)), Some(euros(0)))
        );
        assert_eq!(until_known(|| capture(&order, &shop)).await, "captured");
        assert_eq!(order.payment(&shop).await.captured, Some(euros(10_000)));
        assert_eq!(until_known(|| refund(&order, &shop)).await, "refunded");
        let payment = order.payment(&shop).await;
        assert_eq!(
            (payment.status.as_str(), payment.refunded),
            ("refunded", Some(euros(10_000)))
        );

        let events = published(&shop.db).await;
        let kinds: Vec<_> = events
            .iter()
            .map(|event| event.kind.rsplit('.').next().unwrap().to_owned())
            .collect();
        assert_eq!(kinds, ["PaymentAuthorised", "PaymentCaptured", "PaymentRefunded"]);
        assert_eq!(events.iter().map(|event| event.version).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(
            events
                .iter()
                .all(|event| event.subject == format!("payment/{}", payment.id))
        );
        let refunded: PaymentRefunded = events[2].find().unwrap().unwrap();
        assert_eq!(
            (refunded.amount, refunded.refunded, refunded.reason.as_str()),
            (Some(euros(10_000)), Some(euros(10_000)), "cancelled")
        );
        assert!(shop.offers.books.compare().await.unwrap().agrees());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_sandbox_method_does_what_its_name_says() {
    on_both(payments::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let mut expected_effects = 0;
        for (method, first_outcome, authorised, captured, status) in [
            ("pm_card_visa", "authorised", "authorised", "captured", "captured"),
            (
                "pm_card_declined",
                "card_declined",
                "card_declined",
                "payment_declined",
                "declined",
            ),
            (
                "pm_card_insufficient_funds",
                "insufficient_funds",
                "insufficient_funds",
                "payment_declined",
                "declined",
            ),
            ("pm_card_timeout", "in_progress", "authorised", "captured", "captured"),
            ("pm_card_slow", "in_progress", "authorised", "captured", "captured"),
            (
                "pm_card_capture_fails_once",
                "authorised",
                "authorised",
                "captured",
                "captured",
            ),
            (
                "pm_card_capture_declined",
                "authorised",
                "authorised",
                "capture_declined",
                "authorised",
            ),
            (
                "pm_card_of_nobody",
                "invalid_payment_method",
                "invalid_payment_method",
                "payment_declined",
                "declined",
            ),
        ] {
            let order = Order::paying_by(method);
            let outcome = authorise(&order, &shop).await;
            // A busy machine may take longer than the 200 ms of the timeout, but never less than the provider's 400.
            assert!(
                outcome == first_outcome || outcome == "in_progress",
                "{method}: {outcome}"
            );
            assert!(
                first_outcome != "in_progress" || outcome == first_outcome,
                "{method}: {outcome}"
            );
            assert_eq!(until_known(|| authorise(&order, &shop)).await, authorised, "{method}");
            if method == "pm_card_capture_fails_once" {
                assert_eq!(
                    capture(&order, &shop).await,
                    "in_progress",
                    "the first capture meets a 503"
                );
            }
            assert_eq!(until_known(|| capture(&order, &shop)).await, captured, "{method}");
            assert_eq!(order.payment(&shop).await.status, status, "{method}");
            if method == "pm_card_capture_declined" {
                assert_eq!(until_known(|| void(&order, &shop)).await, "voided");
            }
            expected_effects += i64::from(status == "captured") * 10_000;
        }
        let found = shop.offers.books.compare().await.unwrap();
        assert!(found.quiet && found.agrees(), "{found:?}");
        assert_eq!(
            (found.provider[0].captured, found.provider[0].authorised),
            (expected_effects, 0)
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_command_has_the_same_outcome_and_another_command_with_its_id_is_refused() {
    on_both(payments::SCHEMA, |db| async move {
        let (shop, order) = (Shop::open(db).await, Order::paying_by("pm_card_visa"));
        until_known(|| authorise(&order, &shop)).await;
        let first = order.authorise(&shop).await.unwrap();
        assert_eq!(order.authorise(&shop).await.unwrap(), first);
        assert!(
            matches!(&first, authorisation::Outcome::Authorised(PaymentReference { payment_id }) if *payment_id != Uuid::nil().to_string())
        );
        let cheaper = Order { amount: Some(euros(1)), ..order.clone() };
        assert_eq!(authorise(&cheaper, &shop).await, "command_reused");
        // The id of the authorisation for a capture.
        let request = payments_contract::CapturePayment { command_id: order.command("authorise"), order_id: order.id.to_string() };
        assert_eq!(shop.offers.contract.capture_payment(&orders(), request).await.unwrap_err().code, "command_reused");
        assert_eq!(order.payment(&shop).await.status, "authorised");
        // Another command for the same order.
        let twice = payments_contract::AuthorisePayment { command_id: Uuid::new_v4().to_string(), ..order.authorisation() };
        assert_eq!(shop.offers.contract.authorise_payment(&orders(), twice).await.unwrap_err().code, "payment_exists");
        let another = payments_contract::VoidPayment {
            command_id: Uuid::new_v4().to_string(),
            undoes: order.command("authorise"),
            order_id: Uuid::new_v4().to_string(),
            ..Default::default()
        };
        assert_eq!(shop.offers.contract.void_payment(&orders(), another).await.unwrap_err().code, "undoes_another");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_request_is_refused_and_not_stored() {
    on_both(payments::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let good = Order::paying_by("pm_card_visa");
        let money = |amount, currency: &str| {
            Some(Money {
                amount,
                currency: currency.into(),
            })
        };
        for (order, code) in [
            (
                Order {
                    amount: None,
                    ..good.clone()
                },
                "invalid_amount",
            ),
            (
                Order {
                    amount: money(-1, "EUR"),
                    ..good.clone()
                },
                "invalid_amount",
            ),
            (
                Order {
                    amount: money(1, "QQQ"),
                    ..good.clone()
                },
                "invalid_amount",
            ),
            (
                Order {
                    method: String::new(),
                    ..good.clone()
                },
                "invalid_payment_method",
            ),
            (
                Order {
                    method: "x".repeat(201),
                    ..good.clone()
                },
                "invalid_payment_method",
            ),
        ] {
            assert_eq!(authorise(&order, &shop).await, code, "{order:?}");
        }
        let bad_id = payments_contract::AuthorisePayment {
            command_id: "one".into(),
            ..good.authorisation()
        };
        assert_eq!(
            shop.offers
                .contract
                .authorise_payment(&orders(), bad_id)
                .await
                .unwrap_err()
                .code,
            "invalid_id"
        );
        for fault in [
            good.capture(&shop).await.unwrap_err(),
            good.refund(&shop).await.unwrap_err(),
        ] {
            assert_eq!(fault.kind, FaultKind::NotFound);
        }
        assert_eq!(
            until_known(|| authorise(&good, &shop)).await,
            "authorised",
            "nothing of the invalid requests was stored"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_free_order_goes_through_the_same_steps() {
    on_both(payments::SCHEMA, |db| async move {
        let (shop, order) = (
            Shop::open(db).await,
            Order {
                amount: Some(euros(0)),
                ..Order::paying_by("pm_card_visa")
            },
        );
        assert_eq!(until_known(|| authorise(&order, &shop)).await, "authorised");
        assert_eq!(until_known(|| capture(&order, &shop)).await, "captured");
        assert_eq!(refund(&order, &shop).await, "refunded");
        let found = shop.offers.books.compare().await.unwrap();
        assert!(found.quiet && found.agrees(), "{found:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_is_visible_to_its_owner_to_staff_and_to_modules() {
    on_both(payments::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let order = Order::captured(&shop).await;
        let user = |id, role| Call::by(Actor::user(id, [role]));
        for (call, sees) in [
            (orders(), true),
            (user(order.user, Role::Customer), true),
            (user(Uuid::new_v4(), Role::Staff), true),
            (user(Uuid::new_v4(), Role::Customer), false),
            (user(Uuid::new_v4(), Role::Ops), false),
            (Call::default(), false),
        ] {
            assert_eq!(order.find_as(&shop, &call).await.is_some(), sees, "{:?}", call.actor);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_belong_to_the_trace_of_the_caller() {
    on_both(payments::SCHEMA, |db| async move {
        let (shop, order) = (Shop::open(db).await, Order::paying_by("pm_card_visa"));
        let trace = TraceParent::start(Uuid::new_v4(), 7);
        let call = orders().traced(Some(trace.clone()));
        shop.offers
            .contract
            .authorise_payment(&call, order.authorisation())
            .await
            .unwrap();
        until_known(|| authorise(&order, &shop)).await;
        assert_eq!(published(&shop.db).await[0].traceparent, Some(trace.to_string()));
    })
    .await;
}

/// Accepts every event and delivers none.
struct NoBus;

#[async_trait]
impl Bus for NoBus {
    async fn publish(&self, _: &Envelope) -> Result<(), Fault> {
        Ok(())
    }

    async fn subscribe(&self, _: Arc<dyn Subscriber>) -> Result<(), Fault> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_machinery_completes_commands_that_no_caller_repeats() {
    on_both(payments::SCHEMA, |db| async move {
        let quick = payments::Settings {
            reconcile_every_ms: 50,
            reconcile_after_ms: 0,
            ..settings()
        };
        let (shop, order) = (
            Shop::open_with(db, quick, timing()).await,
            Order::paying_by("pm_card_capture_fails_once"),
        );
        until_known(|| authorise(&order, &shop)).await;
        assert_eq!(capture(&order, &shop).await, "in_progress");
        let stop = CancellationToken::new();
        let running = shop
            .offers
            .machinery
            .clone()
            .run(Arc::new(NoBus), HashMap::new(), stop.clone());
        eventually("the reconciler captures", SOON, || async {
            order.payment(&shop).await.status == "captured"
        })
        .await;
        stop.cancel();
        tokio::time::timeout(SOON, running)
            .await
            .expect("the machinery stops")
            .unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_reports_an_outcome_whose_response_was_lost() {
    on_both(payments::SCHEMA, |db| async move {
        // The call is aborted long before the provider responds, and the reconciler does not run: only the webhook is left.
        let without_reconciler = payments::Settings {
            reconcile_every_ms: 600_000,
            ..settings()
        };
        let short = payments::Timing {
            provider_timeout: Duration::from_millis(100),
            sandbox_timeout: Duration::from_millis(300),
            ..timing()
        };
        let (shop, order) = (
            Shop::open_with(db, without_reconciler, short).await,
            Order::paying_by("pm_card_timeout"),
        );
        let stop = CancellationToken::new();
        let running = shop
            .offers
            .machinery
            .clone()
            .run(Arc::new(NoBus), HashMap::new(), stop.clone());
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(authorise(&order, &shop).await, "in_progress");
        eventually("the webhook is received", SOON, || async {
            order.payment(&shop).await.status == "authorised"
        })
        .await;
        stop.cancel();
        tokio::time::timeout(SOON, running)
            .await
            .expect("the machinery stops")
            .unwrap();
    })
    .await;
}

/// The outcome of a void by an operator, until it is known.
async fn void_given_up(order: &Order, shop: &Shop, command: &str) -> String {
    let request = VoidPayment {
        command_id: order.command(command),
        undoes: order.command("authorise"),
        order_id: order.id.to_string(),
        reason: Some("given up".to_owned()),
        comment: Some("see ticket 7".to_owned()),
    };
    until_known(|| async {
        match shop
            .offers
            .contract
            .void_payment(&operator(), request.clone())
            .await
            .map(|void| void.outcome)
        {
            Ok(Some(void::Outcome::Voided(_))) => "voided".into(),
            Ok(_) => "in_progress".into(),
            Err(fault) => fault.code,
        }
    })
    .await
}

fn operator() -> Call {
    Call::by(Actor::user(Uuid::from_u128(7), [OPERATOR]))
}

#[tokio::test]
async fn an_operator_voids_and_refunds_as_a_saga_does_and_leaves_audit_rows() {
    on_both(payments::SCHEMA, |db| async move {
        let shop = Shop::open(db.clone()).await;
        let audit = |action: &str, target: String, comment: &str| {
            (
                action.to_owned(),
                target,
                "given up".to_owned(),
                Some(comment.to_owned()),
            )
        };

        // Authorised: voided, once.
        let order = Order::paying_by("pm_card_visa");
        until_known(|| authorise(&order, &shop)).await;
        for _ in 0..2 {
            assert_eq!(void_given_up(&order, &shop, "give up").await, "voided");
        }
        assert_eq!(order.payment(&shop).await.status, "voided");
        assert_eq!(
            capture(&order, &shop).await,
            "payment_voided",
            "a late capture takes nothing"
        );
        let mut expected = vec![audit("void", format!("order/{}", order.id), "see ticket 7")];
        assert_eq!(audited(&shop.offers.machinery).await, expected);

        // Captured: not voided, but refunded. Nothing is left for a second refund.
        let order = Order::captured(&shop).await;
        assert_eq!(void_given_up(&order, &shop, "give up").await, "already_captured");
        assert_eq!(
            audited(&shop.offers.machinery).await,
            expected,
            "what was refused was not done"
        );
        let payment = order.payment(&shop).await.id;
        for (command, amount) in [("refund", 10_000), ("refund", 10_000), ("refund again", 0)] {
            let request = RefundRemaining {
                command_id: order.command(command),
                order_id: order.id.to_string(),
                reason: "given up".to_owned(),
                comment: Some("see ticket 7".to_owned()),
            };
            let refunded = until_known(|| async {
                match shop
                    .offers
                    .contract
                    .refund_remaining(&operator(), request.clone())
                    .await
                    .map(|refund| refund.outcome)
                {
                    Ok(Some(refund::Outcome::Refunded(refunded))) => refunded.amount.unwrap_or_default().to_string(),
                    Ok(_) => "in_progress".into(),
                    Err(fault) => fault.code,
                }
            });
            assert_eq!(refunded.await, euros(amount).to_string());
        }
        assert_eq!(order.payment(&shop).await.status, "refunded");
        for amount in ["100.00 EUR", "0.00 EUR"] {
            let comment = format!("{amount}; see ticket 7");
            expected.push(audit("refund", format!("payment/{payment}"), &comment));
        }
        assert_eq!(audited(&shop.offers.machinery).await, expected);

        // Still on its way: it does nothing when it arrives.
        let order = Order::paying_by("pm_card_visa");
        assert_eq!(void_given_up(&order, &shop, "give up").await, "voided");
        assert_eq!(authorise(&order, &shop).await, "undone");
        expected.push(audit("void", format!("order/{}", order.id), "see ticket 7"));

        // A saga is no operator.
        let order = Order::paying_by("pm_card_visa");
        until_known(|| authorise(&order, &shop)).await;
        assert_eq!(until_known(|| void(&order, &shop)).await, "voided");
        assert_eq!(audited(&shop.offers.machinery).await, expected);

        let events = published(&db).await;
        let of = |kind: &str| events.iter().filter(|event| event.kind.ends_with(kind)).count();
        assert_eq!((of("PaymentVoided"), of("PaymentRefunded")), (2, 1));
        let books = shop.offers.books.compare().await.unwrap();
        assert!(books.quiet && books.agrees(), "{books:?}");
    })
    .await;
}
