//! A process dies between `started` and `answered`. Whatever had happened on the line, each command has exactly one effect in the end.

use banyan_core::FaultKind;

use super::{Home, Mishap, Order, Shop, on_both};

#[derive(Clone, Copy, Debug)]
enum Step {
    Authorise,
    Capture,
    Void,
    Refund,
}

impl Step {
    const ALL: [Step; 4] = [Step::Authorise, Step::Capture, Step::Void, Step::Refund];

    async fn ask(self, order: &Order, shop: &Shop) -> String {
        match self {
            Step::Authorise => order.authorise(shop).await,
            Step::Capture => order.capture(shop).await,
            Step::Void => order.void(shop).await,
            Step::Refund => order.refund(shop).await,
        }
    }

    /// What must have happened before.
    fn before(self) -> &'static [Step] {
        match self {
            Step::Authorise => &[],
            Step::Capture | Step::Void => &[Step::Authorise],
            Step::Refund => &[Step::Authorise, Step::Capture],
        }
    }

    fn granted(self) -> &'static str {
        match self {
            Step::Authorise => "authorised",
            Step::Capture => "captured",
            Step::Void => "voided",
            Step::Refund => "refunded 10000",
        }
    }

    /// Authorisations, captures, voids, refunds at the provider in the end.
    fn effects(self) -> [i64; 4] {
        match self {
            Step::Authorise => [1, 0, 0, 0],
            Step::Capture => [1, 1, 0, 0],
            Step::Void => [1, 0, 1, 0],
            Step::Refund => [1, 1, 0, 1],
        }
    }
}

/// Everything of `order` before this step, and then the step itself, which meets a mishap and the process's end.
async fn die_during(step: Step, mishap: Mishap, home: &Home, order: &Order) {
    let shop = home.open().await;
    for earlier in step.before() {
        assert_eq!(earlier.ask(order, &shop).await, earlier.granted());
    }
    shop.crash().await;
    let shop = home.open_impatient().await;
    shop.line.next(mishap);
    assert_eq!(step.ask(order, &shop).await, "in_progress", "{step:?} {mishap:?}");
    shop.crash().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asked_again_after_a_crash_each_command_has_exactly_one_effect() {
    on_both(|home| async move {
        let mut expected = [0; 4];
        for step in Step::ALL {
            for mishap in Mishap::ALL {
                let order = Order::new();
                die_during(step, mishap, &home, &order).await;
                let shop = home.open().await;
                assert_eq!(step.ask(&order, &shop).await, step.granted(), "{step:?} {mishap:?}");
                assert_eq!(
                    step.ask(&order, &shop).await,
                    step.granted(),
                    "{step:?} {mishap:?}, once more"
                );
                let known_to_the_provider = matches!(mishap, Mishap::LostAfter | Mishap::HangsAfter);
                assert_eq!(
                    shop.line.requests(),
                    usize::from(!known_to_the_provider),
                    "what took effect is asked about, not sent again"
                );
                expected = std::array::from_fn(|at| expected[at] + step.effects()[at]);
                assert_eq!(shop.effects().await, expected, "{step:?} {mishap:?}");
                shop.assert_books_agree().await;
                shop.crash().await;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reconciler_ends_what_nobody_asks_for_again() {
    on_both(|home| async move {
        let mut expected = [0; 4];
        for step in Step::ALL {
            for mishap in [Mishap::LostBefore, Mishap::HangsAfter] {
                let order = Order::new();
                die_during(step, mishap, &home, &order).await;
                let shop = home.open().await;
                let a_minute = std::time::Duration::from_secs(60);
                assert_eq!(
                    shop.service.reconcile(a_minute).await.unwrap(),
                    0,
                    "what is young is left alone"
                );
                assert_eq!(shop.service.reconcile(std::time::Duration::ZERO).await.unwrap(), 1);
                expected = std::array::from_fn(|at| expected[at] + step.effects()[at]);
                assert_eq!(shop.effects().await, expected, "{step:?} {mishap:?}");
                shop.assert_books_agree().await;
                assert_eq!(
                    step.ask(&order, &shop).await,
                    step.granted(),
                    "the outcome is remembered"
                );
                assert_eq!(shop.effects().await, expected, "{step:?} {mishap:?}");
                shop.crash().await;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_requested_void_survives_the_crash_of_its_authorisation() {
    on_both(|home| async move {
        for (at, mishap) in Mishap::ALL.into_iter().enumerate() {
            let order = Order::new();
            let shop = home.open_impatient().await;
            shop.line.next(mishap);
            assert_eq!(order.authorise(&shop).await, "in_progress");
            // The void would find out by itself if the line were not still broken.
            shop.line.next(mishap);
            let first = order.void(&shop).await;
            assert!(["in_progress", "voided"].contains(&first.as_str()), "{first}");
            shop.crash().await;

            let shop = home.open().await;
            assert_eq!(order.void(&shop).await, "voided", "{mishap:?}");
            assert_eq!(order.capture(&shop).await, "payment_voided", "{mishap:?}");
            assert_eq!(shop.status(&order).await, "voided", "{mishap:?}");
            let times = i64::try_from(at).unwrap() + 1;
            assert_eq!(shop.effects().await, [times, 0, times, 0], "{mishap:?}");
            shop.assert_books_agree().await;
            shop.crash().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_void_started_by_the_outcome_it_waited_for_is_sent_by_the_reconciler_after_a_crash() {
    on_both(|home| async move {
        let order = Order::new();
        let shop = home.open_impatient().await;
        shop.line.next(Mishap::HangsAfter);
        assert_eq!(order.authorise(&shop).await, "in_progress");
        assert_eq!(order.void(&shop).await, "in_progress");
        // The authorisation's answer comes; the void it starts hangs, and the process dies.
        shop.line.repair_until(Mishap::HangsBefore);
        banyan_durable_testing::eventually("the void is on its way", std::time::Duration::from_secs(5), || async {
            shop.status(&order).await == "voiding"
        })
        .await;
        shop.crash().await;
        let shop = home.open().await;
        assert_eq!(shop.effects().await, [1, 0, 0, 0]);
        shop.service.reconcile(std::time::Duration::ZERO).await.unwrap();
        assert_eq!(shop.status(&order).await, "voided");
        assert_eq!(shop.effects().await, [1, 0, 1, 0]);
        assert_eq!(order.void(&shop).await, "voided");
        shop.assert_books_agree().await;
        shop.crash().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bug_is_told_to_whoever_asks_and_is_no_refusal() {
    on_both(|home| async move {
        let (shop, order) = (home.open().await, Order::new());
        assert_eq!(order.authorise(&shop).await, "authorised");
        shop.line.next(Mishap::Bug);
        let fault = order.ask_for_capture(&shop).await.unwrap_err();
        assert_eq!((fault.code.as_str(), fault.kind), ("confused", FaultKind::Internal));
        assert!(!fault.is_refusal(), "the outcome is unknown");
        assert_eq!(shop.status(&order).await, "capturing");
        // A void that waits for it hears of the bug too, and has its turn once that is mended.
        shop.line.next(Mishap::Bug);
        assert_eq!(order.void(&shop).await, "confused");
        assert_eq!(order.capture(&shop).await, "captured");
        assert_eq!(shop.effects().await, [1, 1, 0, 0]);
        shop.assert_books_agree().await;
        shop.crash().await;
    })
    .await;
}
