//! Notifications through events and its contract, on both databases, without a mail server.

mod support;

use banyan_core::{Actor, Call};
use banyan_durable_testing::{on_both, published};
use notifications_contract::ListNotifications;
use orders_contract::{OrderCancelled, OrderConfirmed, OrderDelivered, OrderItem, OrderPlaced, OrderShipped};
use payments_contract::{PaymentCaptured, PaymentRefunded};
use shared_kernel::{Money, Role};
use support::{Module, NOBODY, envelope, quick};
use users_contract::UserProfileChanged;
use uuid::Uuid;

fn euros(amount: i64) -> Option<Money> {
    Some(Money::new(amount, "EUR").unwrap())
}

fn placed(order: Uuid, user: Uuid) -> OrderPlaced {
    let items = vec![OrderItem {
        sku: "fig".into(),
        name: "Rare fig".into(),
        quantity: 2,
        unit_price: euros(1_999),
    }];
    OrderPlaced {
        order_id: order.to_string(),
        user_id: user.to_string(),
        items,
        total: euros(3_998),
    }
}

async fn kinds(module: &Module, user: Uuid) -> Vec<String> {
    module.list(user).await.into_iter().map(|item| item.kind).collect()
}

#[tokio::test]
async fn each_step_of_an_order_is_notified_newest_first() {
    on_both(notifications::SCHEMA, |db| async move {
        let module = Module::open(db, quick()).await;
        let (user, order) = (Uuid::new_v4(), Uuid::new_v4());
        let (order_id, user_id) = (order.to_string(), user.to_string());
        let on = format!("order/{order}");
        module.deliver(envelope("orders", &on, 1, &placed(order, user))).await;
        let event = OrderConfirmed {
            order_id: order_id.clone(),
            user_id: user_id.clone(),
            items: vec![],
            total: euros(3_998),
        };
        module.deliver(envelope("orders", &on, 2, &event)).await;
        let event = OrderShipped {
            order_id: order_id.clone(),
            user_id: user_id.clone(),
            tracking_number: "BN1".into(),
        };
        module.deliver(envelope("orders", &on, 3, &event)).await;
        module
            .deliver(envelope("orders", &on, 4, &OrderDelivered { order_id, user_id }))
            .await;
        assert_eq!(
            kinds(&module, user).await,
            ["order_delivered", "order_shipped", "order_confirmed", "order_placed"]
        );
    })
    .await;
}

#[tokio::test]
async fn refunds_cancellations_and_registrations_are_notified_and_nothing_else_is() {
    on_both(notifications::SCHEMA, |db| async move {
        let module = Module::open(db, quick()).await;
        let (user, order, payment) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        let (order_id, user_id, payment_id) = (order.to_string(), user.to_string(), payment.to_string());
        module.welcome(user).await;
        let event = UserProfileChanged {
            user_id: user_id.clone(),
            name: "Ada L.".into(),
        };
        module
            .deliver(envelope("users", &format!("user/{user}"), 2, &event))
            .await;
        let event = PaymentCaptured {
            payment_id: payment_id.clone(),
            order_id: order_id.clone(),
            user_id: user_id.clone(),
            amount: euros(3_998),
        };
        module
            .deliver(envelope("payments", &format!("payment/{payment}"), 1, &event))
            .await;
        let reason = "customer".to_owned();
        let event = PaymentRefunded {
            payment_id,
            order_id: order_id.clone(),
            user_id: user_id.clone(),
            amount: euros(3_998),
            refunded: euros(3_998),
            reason: reason.clone(),
        };
        module
            .deliver(envelope("payments", &format!("payment/{payment}"), 2, &event))
            .await;
        let event = OrderCancelled {
            order_id,
            user_id,
            reason,
            refunded: euros(3_998),
        };
        module
            .deliver(envelope("orders", &format!("order/{order}"), 1, &event))
            .await;
        assert_eq!(
            kinds(&module, user).await,
            ["order_cancelled", "payment_refunded", "welcome"]
        );
    })
    .await;
}

#[tokio::test]
async fn an_event_received_again_is_not_notified_again() {
    on_both(notifications::SCHEMA, |db| async move {
        let module = Module::open(db, quick()).await;
        let (user, order) = (Uuid::new_v4(), Uuid::new_v4());
        let event = envelope("orders", &format!("order/{order}"), 1, &placed(order, user));
        for _ in 0..3 {
            module.deliver(event.clone()).await;
        }
        // Even if the lanes were lost, as after a restored backup: the same event under a new subject.
        let mut replayed = event;
        replayed.subject = format!("order/{}", Uuid::new_v4());
        module.deliver(replayed).await;
        assert_eq!(module.list(user).await.len(), 1);
        // All were handled without a fault: nothing is waiting to be retried.
        let counts = module.offers.machinery.ops().counts().await.unwrap();
        assert_eq!((counts.waiting, counts.retrying, counts.dead_letters), (0, 0, 0));
    })
    .await;
}

#[tokio::test]
async fn without_a_mail_server_mails_are_captured_and_no_mail_sent_is_published() {
    on_both(notifications::SCHEMA, |db| async move {
        let mut module = Module::open(db.clone(), quick()).await;
        let user = Uuid::new_v4();
        module.welcome(user).await;
        assert_eq!(module.list(user).await[0].status, "queued");
        module.run();
        module.all_become(user, "captured").await;
        assert!(published(&db).await.is_empty());
        module.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_mail_waits_while_users_is_unavailable_and_is_given_up_if_there_is_no_such_user() {
    on_both(notifications::SCHEMA, |db| async move {
        // Users is unavailable for more attempts than the allowed refusals.
        let mut settings = quick();
        settings.timing.max_refusals = 2;
        let mut module = Module::open(db, settings).await;
        module.users.unavailable.store(5, std::sync::atomic::Ordering::SeqCst);
        let user = Uuid::new_v4();
        module.welcome(user).await;
        module.run();
        module.all_become(user, "captured").await;
        module.welcome(NOBODY).await;
        module.all_become(NOBODY, "failed").await;
        module.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_list_shows_an_actor_only_what_they_may_see() {
    on_both(notifications::SCHEMA, |db| async move {
        let module = Module::open(db, quick()).await;
        let user = Uuid::new_v4();
        module.welcome(user).await;
        let by = |id: Uuid, role| Call::by(Actor::user(id, [role]));
        for (call, sees) in [
            (by(user, Role::Customer), 1),
            (by(Uuid::new_v4(), Role::Staff), 1),
            (Call::by_module("orders"), 1),
            (by(Uuid::new_v4(), Role::Customer), 0),
            (by(Uuid::new_v4(), Role::Ops), 0),
            (Call::default(), 0),
        ] {
            let request = ListNotifications {
                user_id: user.to_string(),
                limit: 10,
            };
            let listed = module.offers.contract.list_notifications(&call, request).await.unwrap();
            assert_eq!(listed.items.len(), sees, "{:?}", call.actor);
        }
        for (user_id, limit) in [(user.to_string(), 0), (user.to_string(), 101), ("me".to_owned(), 10)] {
            let request = ListNotifications { user_id, limit };
            assert!(
                module
                    .offers
                    .contract
                    .list_notifications(&Call::by_module("orders"), request)
                    .await
                    .unwrap_err()
                    .is_refusal()
            );
        }
    })
    .await;
}
