//! The reconciler asks the provider for every open command in turn.

use std::time::Duration;

use super::{Failure, Order, on_both};

/// With a limit of two commands a round, two that never complete would be the oldest of every round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_never_complete_do_not_keep_the_reconciler_from_the_others() {
    on_both(|home| async move {
        let shop = home.open_impatient().await;
        let (broken, other) = ([Order::new(), Order::new()], Order::new());
        for order in broken.iter().chain([&other]) {
            shop.provider.fail_next(Failure::RequestLost);
            assert_eq!(order.authorise(&shop).await, "in_progress");
        }
        for _ in &broken {
            shop.provider.fail_next(Failure::Bug);
        }
        assert_eq!(shop.service.reconcile_some(Duration::ZERO, 2).await, Ok(2));
        // The second round begins where the first ended; whatever it asks the provider for now works.
        assert_eq!(shop.service.reconcile_some(Duration::ZERO, 2).await, Ok(1));
        assert_eq!(shop.status(&other).await, "authorised");
        assert_eq!(shop.status(&broken[0]).await, "authorising");
        // And then it begins again.
        assert_eq!(shop.service.reconcile_some(Duration::ZERO, 2).await, Ok(2));
        assert_eq!(shop.status(&broken[0]).await, "authorised");
        assert_eq!(shop.service.reconcile_some(Duration::ZERO, 2).await, Ok(0));
        shop.crash().await;
    })
    .await;
}

/// What hangs in the reconciler must leave the provider to those who pay now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_hang_in_the_reconciler_do_not_keep_new_ones_from_the_provider() {
    on_both(|home| async move {
        let shop = home.open_impatient().await;
        let hanging: Vec<Order> = (0..70).map(|_| Order::new()).collect();
        for order in &hanging {
            shop.provider.fail_next(Failure::RequestLost);
            assert_eq!(order.authorise(&shop).await, "in_progress");
        }
        for _ in &hanging {
            shop.provider.fail_next(Failure::RequestHangs);
        }
        let sent = shop.provider.requests();
        let service = shop.service.clone();
        let reconciling = tokio::spawn(async move { service.reconcile(Duration::ZERO).await });
        while shop.provider.requests() == sent {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        let asked = shop.provider.requests() - sent;
        assert!(asked <= 32, "{asked} commands hang at the provider");
        reconciling.abort();
        shop.provider.repair();
        shop.crash().await;
    })
    .await;
}
