//! What an order costs: the statements that reach PostgreSQL, counted. The counts are exact, so each of them is a limit.

mod support;

use std::time::Duration;

use banyan_durable::SagaState;
use banyan_durable_testing::{PostgresHome, StatementLog, eventually, open, settings};
use payments_contract::{PaymentAuthorised, PaymentCaptured};
use shared_kernel::Money;
use support::{ADA, Harness, keyed, two_figs};

const TIMEOUT: Duration = Duration::from_secs(20);

/// The statements with each of these words, without the looks of idle workers.
fn count(statements: &[String], words: &[&str]) -> usize {
    let has = |statement: &&String| words.iter().all(|word| statement.to_lowercase().contains(word));
    statements.iter().filter(has).count()
}

#[tokio::test]
async fn an_order_reads_no_row_for_a_decision_that_it_has_just_written() {
    let home = PostgresHome::new().await;
    let (log, storage) = StatementLog::before(&home.storage("orders").await, Duration::ZERO).await;
    let db = open(orders::SCHEMA, &storage, settings()).await;
    let harness = Harness::running(db.clone()).await;
    log.take();

    let reply = harness
        .as_ada(
            keyed("/api/v1/orders")
                .insert_header(("Prefer", "wait=20"))
                .set_json(two_figs()),
        )
        .await;
    assert_eq!(reply.json()["status"], "confirmed");
    let order = support::id_in(&reply);
    eventually("the checkout has ended", TIMEOUT, || async {
        harness.saga("checkout", order).await.unwrap().state == SagaState::Completed
    })
    .await;
    let statements = log.take();
    let is = |words: &[&str], expected: usize| {
        assert_eq!(count(&statements, words), expected, "{words:?} in {statements:#?}");
    };
    // Six responses of other modules: each is one decision, and five of them are recorded as events.
    is(&["from saga where id = $1"], 0);
    is(&["update saga set state ="], 6);
    is(&["insert into saga ("], 1);
    is(&["saga_log"], 0);
    is(&["clock_timestamp"], 0);
    is(&["from \"order_view\"", "for update"], 0);
    is(&["insert into \"order_event\"", "insert into \"order_view\""], 1);
    is(&["insert into \"order_event\"", "update \"order_view\""], 5);
    is(&["insert into \"order_event\""], 6);
    is(&["from \"order_event\""], 0);
    is(&["insert into outbox"], 2);
    // The client that waited got what was remembered, unless it waited long enough to make sure.
    let looks = count(&statements, &["from \"order_view\""]);
    assert!(looks <= 1, "{looks} looks in {statements:#?}");

    // The same told again by events: a look at the lane, and its advance.
    let total = Some(Money::new(398, "EUR").unwrap());
    let payment_id = support::fakes::id_of("payment", &order.to_string()).to_string();
    let (subject, order_id) = (format!("payment/{payment_id}"), order.to_string());
    let authorised = PaymentAuthorised {
        payment_id: payment_id.clone(),
        order_id: order_id.clone(),
        user_id: ADA.to_string(),
        amount: total.clone(),
    };
    let captured = PaymentCaptured {
        payment_id,
        order_id,
        user_id: ADA.to_string(),
        amount: total,
    };
    harness.deliver("payments", &subject, 1, &authorised).await;
    harness.deliver("payments", &subject, 2, &captured).await;
    let statements = log.take();
    let of_deliveries = count(&statements, &["lane"]) + count(&statements, &["order_"]);
    assert_eq!(of_deliveries, 2 * 2, "{statements:#?}");
    harness.close().await;
    db.close().await;
    home.remove().await;
}

#[tokio::test]
async fn an_idle_module_asks_the_database_about_once_a_second() {
    let home = PostgresHome::new().await;
    let (log, storage) = StatementLog::before(&home.storage("orders").await, Duration::ZERO).await;
    let db = open(orders::SCHEMA, &storage, settings()).await;
    let harness = Harness::running(db.clone()).await;
    let order = harness.place().await;
    harness.until_status(order, "confirmed").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    log.take();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let statements = log.take();
    // The leases of the module are renewed together.
    assert!(count(&statements, &["update lease"]) <= 4, "{statements:#?}");
    // Nine on average; each of the timers may fire once more in these ten seconds.
    assert!(statements.len() <= 14, "{} of {statements:#?}", statements.len());
    harness.close().await;
    db.close().await;
    home.remove().await;
}
