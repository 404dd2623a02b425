//! The reconciler asks the provider for every open command in turn.

use std::time::Duration;

use sea_orm::ConnectionTrait;

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

/// After a clock was set back by an hour, a command that was started before has a start that lies ahead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_from_before_the_clock_was_set_back_is_reconciled() {
    on_both(|home| async move {
        let (shop, order) = (home.open_impatient().await, Order::new());
        shop.provider.fail_next(Failure::RequestLost);
        assert_eq!(order.authorise(&shop).await, "in_progress");
        let age = Duration::from_secs(30);
        assert_eq!(shop.service.reconcile(age).await, Ok(0), "it is too young");
        let set_back = shop.db.write((), |tx, ()| async move {
            let sql = "update money_command set started_at = started_at + 3600000";
            tx.conn().execute_unprepared(sql).await.map_err(banyan_durable::fault)
        });
        set_back.await.unwrap();
        assert_eq!(shop.service.reconcile(age).await, Ok(1));
        assert_eq!(shop.status(&order).await, "authorised");
        shop.crash().await;
    })
    .await;
}
