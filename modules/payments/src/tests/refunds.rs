//! Refunds that run at the same time never give back more than was taken.

use std::sync::Arc;

use banyan_core::{Actor, Call};
use payments_contract::{FindPayment, Payments};
use shared_kernel::Role;
use uuid::Uuid;

use super::{Mishap, Order, Shop, euros, on_both, on_postgres, orders};
use crate::command::{Asked, Kind, Outcome, State};

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

async fn give_back(order: &Order, shop: &Shop, amount: Option<i64>) -> String {
    give_back_as(order, shop, amount, Uuid::new_v4()).await
}

async fn give_back_as(order: &Order, shop: &Shop, amount: Option<i64>, id: Uuid) -> String {
    let payment: Uuid = payment(order, shop).await.id.parse().unwrap();
    let asked = Asked::new(id, Kind::Refund, format!("{amount:?}").as_bytes()).because("damaged");
    match shop
        .service
        .refund_payment(&staff(), payment, asked, amount.map(euros))
        .await
    {
        Ok(command) => match command.state {
            State::Answered(Outcome::Accepted) => format!("refunded {}", command.amount.amount),
            State::Answered(outcome) => format!("{outcome:?}"),
            State::Started | State::Requested => "in_progress".into(),
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

/// Ten refunds of 30.00 out of 100.00: three fit.
async fn race(shops: &[Arc<Shop>; 2], order: &Order) {
    let asking = (0..10).map(|at| {
        let (shop, order) = (shops[at % 2].clone(), order.clone());
        tokio::spawn(async move { give_back(&order, &shop, Some(3_000)).await })
    });
    let mut answers = Vec::new();
    for answer in asking.collect::<Vec<_>>() {
        answers.push(answer.await.unwrap());
    }
    let count = |wanted: &str| answers.iter().filter(|answer| *answer == wanted).count();
    assert_eq!(
        (count("refunded 3000"), count("exceeds_captured")),
        (3, 7),
        "{answers:?}"
    );
    assert_eq!(shops[0].effects().await[3], 3);
    assert_eq!(payment(order, &shops[0]).await.refunded, Some(euros(9_000)));
    assert_eq!(give_back(order, &shops[0], None).await, "refunded 1000", "the rest");
    assert_eq!(shops[0].status(order).await, "refunded");
    assert_eq!(give_back(order, &shops[0], None).await, "nothing_to_refund");
    shops[0].assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_without_an_outcome_keeps_its_amount_reserved() {
    on_both(|home| async move {
        let shop = home.open_impatient().await;
        let order = captured(&shop).await;
        shop.line.next(Mishap::HangsBefore);
        assert_eq!(give_back(&order, &shop, Some(8_000)).await, "in_progress");
        assert_eq!(payment(&order, &shop).await.refunded, Some(euros(0)));
        assert_eq!(give_back(&order, &shop, Some(3_000)).await, "exceeds_captured");
        assert_eq!(
            order.refund(&shop).await,
            "in_progress",
            "the remaining is not known yet"
        );
        shop.line.repair();
        assert_eq!(Order::until_known(|| order.refund(&shop)).await, "refunded 2000");
        assert_eq!(shop.status(&order).await, "refunded");
        assert_eq!(shop.effects().await, [1, 1, 0, 2]);
        shop.assert_books_agree().await;
        shop.crash().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_refund_stays_refused_whatever_comes_later() {
    on_both(|home| async move {
        let shop = home.open().await;
        let order = captured(&shop).await;
        let id = Uuid::new_v4();
        assert_eq!(give_back_as(&order, &shop, Some(10_001), id).await, "exceeds_captured");
        assert_eq!(give_back_as(&order, &shop, Some(10_001), id).await, "exceeds_captured");
        assert_eq!(give_back_as(&order, &shop, Some(1), id).await, "command_reused");
        assert_eq!(shop.effects().await[3], 0);
        shop.crash().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_given_back_before_money_was_taken() {
    on_both(|home| async move {
        let (shop, order, declined) = (home.open().await, Order::new(), Order::paying_by("pm_card_declined"));
        assert_eq!(order.authorise(&shop).await, "authorised");
        assert_eq!(give_back(&order, &shop, None).await, "not_captured");
        assert_eq!(order.refund(&shop).await, "not_captured");
        assert_eq!(declined.authorise(&shop).await, "card_declined");
        assert_eq!(declined.refund(&shop).await, "refunded 0");
        assert_eq!(shop.effects().await, [1, 0, 0, 0]);
        shop.crash().await;
    })
    .await;
}
