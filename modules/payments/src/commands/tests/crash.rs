//! A process crashes between starting a command and completing it. However the call to the provider had failed, each command has exactly one
//! effect in the end.

use banyan_core::FaultKind;

use super::{Failure, Home, Order, Shop, on_both};

#[derive(Clone, Copy, Debug)]
enum Step {
    Authorise,
    Capture,
    Void,
    Refund,
}

impl Step {
    const ALL: [Step; 4] = [Step::Authorise, Step::Capture, Step::Void, Step::Refund];

    async fn send(self, order: &Order, shop: &Shop) -> String {
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

/// Sends everything of `order` before this step, and then the step itself, whose call fails before the process crashes.
async fn crash_during(step: Step, failure: Failure, home: &Home, order: &Order) {
    let shop = home.open().await;
    for earlier in step.before() {
        assert_eq!(earlier.send(order, &shop).await, earlier.granted());
    }
    shop.crash().await;
    let shop = home.open_impatient().await;
    shop.provider.fail_next(failure);
    assert_eq!(step.send(order, &shop).await, "in_progress", "{step:?} {failure:?}");
    shop.crash().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_repeated_after_a_crash_has_exactly_one_effect() {
    on_both(|home| async move {
        let mut expected = [0; 4];
        for step in Step::ALL {
            for failure in Failure::NETWORK {
                let order = Order::new();
                crash_during(step, failure, &home, &order).await;
                let shop = home.open().await;
                assert_eq!(step.send(&order, &shop).await, step.granted(), "{step:?} {failure:?}");
                assert_eq!(
                    step.send(&order, &shop).await,
                    step.granted(),
                    "{step:?} {failure:?}, once more"
                );
                let known_to_the_provider = matches!(failure, Failure::ResponseLost | Failure::ResponseHangs);
                assert_eq!(
                    shop.provider.requests(),
                    usize::from(!known_to_the_provider),
                    "what took effect is queried, not sent again"
                );
                expected = std::array::from_fn(|at| expected[at] + step.effects()[at]);
                assert_eq!(shop.effects().await, expected, "{step:?} {failure:?}");
                shop.assert_books_agree().await;
                shop.crash().await;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reconciler_completes_commands_that_no_caller_repeats() {
    on_both(|home| async move {
        let mut expected = [0; 4];
        for step in Step::ALL {
            for failure in [Failure::RequestLost, Failure::ResponseHangs] {
                let order = Order::new();
                crash_during(step, failure, &home, &order).await;
                let shop = home.open().await;
                let a_minute = std::time::Duration::from_secs(60);
                assert_eq!(
                    shop.service.reconcile(a_minute).await.unwrap(),
                    0,
                    "young commands are left alone"
                );
                assert_eq!(shop.service.reconcile(std::time::Duration::ZERO).await.unwrap(), 1);
                expected = std::array::from_fn(|at| expected[at] + step.effects()[at]);
                assert_eq!(shop.effects().await, expected, "{step:?} {failure:?}");
                shop.assert_books_agree().await;
                assert_eq!(step.send(&order, &shop).await, step.granted(), "the outcome is stored");
                assert_eq!(shop.effects().await, expected, "{step:?} {failure:?}");
                shop.crash().await;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_requested_void_survives_the_crash_of_its_authorisation() {
    on_both(|home| async move {
        for (at, failure) in Failure::NETWORK.into_iter().enumerate() {
            let order = Order::new();
            let shop = home.open_impatient().await;
            shop.provider.fail_next(failure);
            assert_eq!(order.authorise(&shop).await, "in_progress");
            // The void would find the outcome by itself if the connection were not still broken.
            shop.provider.fail_next(failure);
            let first = order.void(&shop).await;
            assert!(["in_progress", "voided"].contains(&first.as_str()), "{first}");
            shop.crash().await;

            let shop = home.open().await;
            assert_eq!(order.void(&shop).await, "voided", "{failure:?}");
            assert_eq!(order.capture(&shop).await, "payment_voided", "{failure:?}");
            assert_eq!(shop.status(&order).await, "voided", "{failure:?}");
            let times = i64::try_from(at).unwrap() + 1;
            assert_eq!(shop.effects().await, [times, 0, times, 0], "{failure:?}");
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
        shop.provider.fail_next(Failure::ResponseHangs);
        assert_eq!(order.authorise(&shop).await, "in_progress");
        assert_eq!(order.void(&shop).await, "in_progress");
        // The response to the authorisation arrives; the void that it starts hangs, and the process crashes.
        shop.provider.repair_then_fail(Failure::RequestHangs);
        banyan_durable_testing::eventually("the void is under way", std::time::Duration::from_secs(5), || async {
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
async fn a_bug_is_reported_to_the_caller_and_is_not_a_refusal() {
    on_both(|home| async move {
        let (shop, order) = (home.open().await, Order::new());
        assert_eq!(order.authorise(&shop).await, "authorised");
        shop.provider.fail_next(Failure::Bug);
        let fault = order.request_capture(&shop).await.unwrap_err();
        assert_eq!((fault.code.as_str(), fault.kind), ("confused", FaultKind::Internal));
        assert!(!fault.is_refusal(), "the outcome is unknown");
        assert_eq!(shop.status(&order).await, "capturing");
        // A void that waits for it meets the bug too, and completes once the bug is fixed.
        shop.provider.fail_next(Failure::Bug);
        assert_eq!(order.void(&shop).await, "confused");
        assert_eq!(order.capture(&shop).await, "captured");
        assert_eq!(shop.effects().await, [1, 1, 0, 0]);
        shop.assert_books_agree().await;
        shop.crash().await;
    })
    .await;
}
