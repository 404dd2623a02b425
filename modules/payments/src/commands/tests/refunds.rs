//! Concurrent refunds never exceed what was captured.

use std::sync::Arc;

use banyan_core::{Actor, Call};
use banyan_http::IfMatch;
use payments_contract::{FindPayment, Payments};
use shared_kernel::Role;
use uuid::Uuid;

use super::{Failure, Order, Shop, euros, on_both, on_postgres, orders};
use crate::{
    commands::{CommandRequest, CommandState, Kind, Outcome},
    store,
};

fn staff() -> Call {
    Call::by(Actor::user(Uuid::from_u128(9), [Role::Staff]))
}

async fn payment(order: &Order, shop: &Shop) -> payments_contract::Payment {
    shop.service
        .find_payment(
            &orders(),
            FindPayment {
                order_id: order.id.to_string(),
            },
        )
        .await
        .unwrap()
        .payment
        .unwrap()
}

async fn refund(order: &Order, shop: &Shop, amount: Option<i64>) -> String {
    refund_with_id(order, shop, amount, Uuid::new_v4()).await
}

async fn refund_with_id(order: &Order, shop: &Shop, amount: Option<i64>, id: Uuid) -> String {
    let payment: Uuid = payment(order, shop).await.id.parse().unwrap();
    let request = CommandRequest::new(id, Kind::Refund, format!("{amount:?}").as_bytes()).because("damaged");
    match shop
        .service
        .refund_payment(&staff(), (payment, IfMatch::default()), request, amount.map(euros))
        .await
    {
        Ok(command) => match command.state {
            CommandState::Completed(Outcome::Accepted) => format!("refunded {}", command.amount.amount),
            CommandState::Completed(outcome) => format!("{outcome:?}"),
            CommandState::Started | CommandState::Requested => "in_progress".into(),
        },
        Err(fault) => fault.code,
    }
}

async fn captured(shop: &Shop) -> Order {
    let order = Order::new();
    assert_eq!(Order::until_known(|| order.authorise(shop)).await, "authorised");
    assert_eq!(Order::until_known(|| order.capture(shop)).await, "captured");
    order
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_refunds_never_exceed_what_was_captured() {
    on_both(|home| async move {
        let shop = Arc::new(home.open().await);
        let order = captured(&shop).await;
        race(&[shop.clone(), shop.clone()], &order).await;
        Arc::into_inner(shop).unwrap().crash().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_refunds_in_two_instances_never_exceed_what_was_captured() {
    on_postgres(|home| async move {
        let shops = [Arc::new(home.open().await), Arc::new(home.open().await)];
        let order = captured(&shops[0]).await;
        race(&shops, &order).await;
        for shop in shops {
            Arc::into_inner(shop).unwrap().crash().await;
        }
    })
    .await;
}

/// With the amount, the times and the payment's user the row of a command is its audit row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_money_command_is_stored_with_who_gave_it() {
    on_both(|home| async move {
        let shop = home.open().await;
        let order = captured(&shop).await;
        let refunded = Uuid::new_v4();
        assert_eq!(
            refund_with_id(&order, &shop, Some(3_000), refunded).await,
            "refunded 3000"
        );
        let stored = |id: Uuid| {
            let db = shop.service.db.clone();
            async move {
                let command = store::find_command(db.read(), id).await.unwrap().unwrap();
                (command.actor.unwrap_or_default(), command.amount.amount)
            }
        };
        for step in ["authorise", "capture"] {
            let id = order.command(step).parse().unwrap();
            assert_eq!(stored(id).await, ("module:orders".to_owned(), 10_000), "{step}");
        }
        assert_eq!(stored(refunded).await, (staff().actor.label(), 3_000));
        shop.crash().await;
    })
    .await;
}

/// Ten refunds of 30.00 out of 100.00: three fit.
async fn race(shops: &[Arc<Shop>; 2], order: &Order) {
    let refunds = (0..10).map(|at| {
        let (shop, order) = (shops[at % 2].clone(), order.clone());
        tokio::spawn(async move { refund(&order, &shop, Some(3_000)).await })
    });
    let mut outcomes = Vec::new();
    for refund in refunds.collect::<Vec<_>>() {
        outcomes.push(refund.await.unwrap());
    }
    let count = |wanted: &str| outcomes.iter().filter(|outcome| *outcome == wanted).count();
    assert_eq!(
        (count("refunded 3000"), count("exceeds_captured")),
        (3, 7),
        "{outcomes:?}"
    );
    assert_eq!(shops[0].effects().await[3], 3);
    assert_eq!(payment(order, &shops[0]).await.refunded, Some(euros(9_000)));
    assert_eq!(refund(order, &shops[0], None).await, "refunded 1000", "the rest");
    assert_eq!(shops[0].status(order).await, "refunded");
    assert_eq!(refund(order, &shops[0], None).await, "nothing_to_refund");
    shops[0].assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_without_an_outcome_keeps_its_amount_reserved() {
    on_both(|home| async move {
        let shop = home.open_impatient().await;
        let order = captured(&shop).await;
        shop.provider.fail_next(Failure::RequestHangs);
        assert_eq!(refund(&order, &shop, Some(8_000)).await, "in_progress");
        assert_eq!(payment(&order, &shop).await.refunded, Some(euros(0)));
        assert_eq!(refund(&order, &shop, Some(3_000)).await, "exceeds_captured");
        assert_eq!(
            order.refund(&shop).await,
            "in_progress",
            "the remaining amount is not known yet"
        );
        shop.provider.repair();
        assert_eq!(Order::until_known(|| order.refund(&shop)).await, "refunded 2000");
        assert_eq!(shop.status(&order).await, "refunded");
        assert_eq!(shop.effects().await, [1, 1, 0, 2]);
        shop.assert_books_agree().await;
        shop.crash().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_refund_stays_refused() {
    on_both(|home| async move {
        let shop = home.open().await;
        let order = captured(&shop).await;
        let id = Uuid::new_v4();
        assert_eq!(
            refund_with_id(&order, &shop, Some(10_001), id).await,
            "exceeds_captured"
        );
        assert_eq!(
            refund_with_id(&order, &shop, Some(10_001), id).await,
            "exceeds_captured"
        );
        assert_eq!(refund_with_id(&order, &shop, Some(1), id).await, "command_reused");
        assert_eq!(shop.effects().await[3], 0);
        shop.crash().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_refunded_before_a_capture() {
    on_both(|home| async move {
        let (shop, order, declined) = (home.open().await, Order::new(), Order::paying_by("pm_card_declined"));
        assert_eq!(order.authorise(&shop).await, "authorised");
        assert_eq!(refund(&order, &shop, None).await, "not_captured");
        assert_eq!(order.refund(&shop).await, "not_captured");
        assert_eq!(declined.authorise(&shop).await, "card_declined");
        assert_eq!(declined.refund(&shop).await, "refunded 0");
        assert_eq!(shop.effects().await, [1, 0, 0, 0]);
        shop.crash().await;
    })
    .await;
}
