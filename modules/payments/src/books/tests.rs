//! Comparing the books: what is sealed, what is told, and what a round costs.

use std::{sync::atomic::Ordering, time::Duration};

use banyan_core::{Fault, Timestamp};
use banyan_durable::{Db, fault};
use sea_orm::{ConnectionTrait, FromQueryResult, Statement};
use uuid::Uuid;

use super::{OVERDUE_AFTER, report, round, store};
use crate::commands::tests::{Failure, Home, Order, Shop, on_both};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// A shop with an order in each of the last hours, by both clocks, captured at half past; the first is refunded. With the time, which is half past, too.
async fn shop_with_history(home: &Home, hours: i64) -> (Shop, Timestamp) {
    let shop = home.open_impatient().await;
    let half_past = now().as_ms() / 3_600_000 * 3_600_000 + 1_800_000;
    for hour in 0..hours {
        let order = Order::new();
        assert_eq!(Order::until_known(|| order.authorise(&shop)).await, "authorised");
        assert_eq!(Order::until_known(|| order.capture(&shop)).await, "captured");
        if hour == 0 {
            assert_eq!(Order::until_known(|| order.refund(&shop)).await, "refunded 10000");
        }
        // Of what was booked so far, the new has the time of now.
        book_at(&shop, half_past - (hours - hour) * 3_600_000, half_past).await;
    }
    (shop, Timestamp::from_ms(half_past))
}

/// What was booked after the hours of this test was booked at `at`.
async fn book_at(shop: &Shop, at: i64, half_past: i64) {
    let is_new = format!("created_at > {}", half_past - 1_800_001);
    run(
        &shop.db,
        &format!("update ledger_transaction set created_at = {at} where {is_new}"),
    )
    .await;
    for effect in ["authorisation", "capture", "void", "refund"] {
        let update = format!("update {effect} set created_at = {at} where {is_new}");
        run(shop.sandbox.books(), &update).await;
    }
}

async fn run(db: &Db, sql: &str) {
    let done = db.write(sql.to_owned(), |tx, sql| async move {
        tx.conn().execute_unprepared(&sql).await.map_err(fault).map(drop)
    });
    done.await.unwrap();
}

/// The provider books a refund beside the first capture that nobody asked for.
async fn book_refund(books: &Db, key: Uuid) {
    let booked = books.write((), move |tx, ()| async move {
        let sql = "insert into refund (id, key, authorisation_id, amount, currency, created_at)
                   select 'correction', $1, authorisation_id, 7, currency, created_at from capture order by created_at limit 1";
        let statement = Statement::from_sql_and_values(tx.conn().get_database_backend(), sql, [key.into()]);
        tx.conn().execute_raw(statement).await.map_err(fault).map(drop)
    });
    booked.await.unwrap();
}

fn now() -> Timestamp {
    Timestamp::from_datetime(std::time::SystemTime::now().into())
}

async fn differences(shop: &Shop) -> Vec<String> {
    #[derive(FromQueryResult)]
    struct Row {
        description: String,
    }
    let sql = Statement::from_string(
        shop.db.backend(),
        "select description from books_difference order by description",
    );
    let rows = Row::find_by_statement(sql).all(shop.db.read()).await.unwrap();
    rows.into_iter().map(|row| row.description).collect()
}

/// The sealed periods, as hours: each begins where the one before it ends.
async fn seals(shop: &Shop) -> usize {
    #[derive(FromQueryResult)]
    struct Row {
        starts_at: i64,
        ends_at: i64,
    }
    let sql = Statement::from_string(
        shop.db.backend(),
        "select starts_at, ends_at from books_period order by starts_at",
    );
    let rows = Row::find_by_statement(sql).all(shop.db.read()).await.unwrap();
    assert!(
        rows.windows(2).all(|pair| pair[0].ends_at == pair[1].starts_at),
        "periods without gaps"
    );
    assert!(
        rows.iter().all(|row| row.ends_at % 3_600_000 == 0),
        "they end at full hours"
    );
    rows.len()
}

fn pages(shop: &Shop) -> usize {
    shop.provider.pages.swap(0, Ordering::SeqCst)
}

/// Reading everything every ten minutes ends at a limit of time one day, and then nobody knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_period_is_compared_once_and_sealed() {
    on_both(|home| async move {
        let (shop, now) = shop_with_history(&home, 6).await;
        round(&shop.service, now.plus(2 * HOUR)).await.unwrap();
        assert_eq!((seals(&shop).await, differences(&shop).await), (6, vec![]));
        pages(&shop);
        round(&shop.service, now.plus(2 * HOUR)).await.unwrap();
        assert_eq!(
            pages(&shop),
            2,
            "what is sealed is not read again: a look for what came since, and a page of the rest"
        );
        shop.assert_books_agree().await;
        shop.crash().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_in_which_a_command_is_always_open_is_compared_and_sealed() {
    on_both(|home| async move {
        let (shop, now) = shop_with_history(&home, 2).await;
        let open = Order::new();
        shop.provider.fail_next(Failure::RequestLost);
        assert_eq!(open.authorise(&shop).await, "in_progress");
        round(&shop.service, now).await.unwrap();
        assert_eq!(
            (seals(&shop).await, differences(&shop).await),
            (1, vec![]),
            "the last hour is not closed yet"
        );
        // A difference in what is not closed yet is found, too.
        run(
            shop.sandbox.books(),
            "update capture set amount = 9999 where created_at = (select max(created_at) from capture)",
        )
        .await;
        round(&shop.service, now).await.unwrap();
        assert_eq!(
            differences(&shop).await,
            ["the ledger has capture of 100.00 EUR, the provider capture of 99.99 EUR"]
        );
        shop.crash().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_money_has_moved_holds_its_period_back_and_is_told_in_the_end() {
    on_both(|home| async move {
        // Patient enough that the command returns when the provider has booked it.
        let (shop, order) = (home.open().await, Order::new());
        shop.provider.fail_next(Failure::ResponseLost);
        assert_eq!(order.authorise(&shop).await, "in_progress");
        let held_back = round(&shop.service, now().plus(3 * HOUR)).await.unwrap_err();
        assert_eq!(held_back.code, "commands_open");
        assert!(held_back.detail.contains(&order.command("authorise")), "{held_back}");
        assert_eq!((seals(&shop).await, differences(&shop).await), (0, vec![]));
        round(&shop.service, now().plus(6 * HOUR)).await.unwrap();
        assert_eq!(
            (seals(&shop).await, differences(&shop).await),
            (
                1,
                vec!["the provider booked authorisation of 100.00 EUR, and the command still has no outcome".into()]
            )
        );
        // It gets its outcome after all.
        assert_eq!(shop.service.reconcile(Duration::ZERO).await, Ok(1));
        round(&shop.service, now().plus(6 * HOUR)).await.unwrap();
        assert_eq!(differences(&shop).await, [""; 0]);
        shop.crash().await;
    })
    .await;
}

/// Each kind of difference is named, and forgotten once it is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_names_its_movement_until_it_is_gone() {
    on_both(|home| async move {
        let (shop, now) = shop_with_history(&home, 1).await;
        let (ours, theirs) = (&shop.db, shop.sandbox.books());
        let wrong = [
            (
                theirs,
                "update capture set amount = 1",
                "update capture set amount = 10000",
                "the ledger has capture of 100.00 EUR, the provider capture of 0.01 EUR",
            ),
            (
                ours,
                "update ledger_entry set amount = 9 where account = 'sales'",
                "update ledger_entry set amount = -10000 where account = 'sales'",
                "the entries of the ledger's capture of 100.00 EUR do not sum to zero",
            ),
            (
                ours,
                "update payment set refunded_amount = 1",
                "update payment set refunded_amount = 10000",
                "has other sums than its ledger transactions",
            ),
        ];
        for (book, change, repair, description) in wrong {
            run(book, change).await;
            run(ours, "delete from books_period").await;
            round(&shop.service, now.plus(3 * HOUR)).await.unwrap();
            let found = differences(&shop).await;
            assert!(
                found.iter().any(|found| found.contains(description)),
                "{change}: {found:#?}"
            );
            run(book, repair).await;
            round(&shop.service, now.plus(3 * HOUR)).await.unwrap();
            assert_eq!(differences(&shop).await, [""; 0], "{repair}");
        }
        shop.crash().await;
    })
    .await;
}

/// A provider's correction, a movement that it lost, and one of ours that comes late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_movement_into_a_sealed_period_is_noticed() {
    on_both(|home| async move {
        let (shop, now) = shop_with_history(&home, 2).await;
        let (ours, theirs) = (&shop.db, shop.sandbox.books());
        round(&shop.service, now.plus(2 * HOUR)).await.unwrap();
        assert_eq!((seals(&shop).await, differences(&shop).await), (2, vec![]));
        book_refund(theirs, Uuid::now_v7()).await;
        run(
            theirs,
            "delete from capture where created_at = (select max(created_at) from capture)",
        )
        .await;
        // Sealed periods are compared again after a day.
        round(&shop.service, now.plus(DAY + 2 * HOUR)).await.unwrap();
        let found = differences(&shop).await;
        assert_eq!(
            found,
            [
                "the ledger has capture of 100.00 EUR, the provider nothing",
                "the provider booked refund of 0.07 EUR, the ledger has nothing"
            ]
        );
        // One of ours needs no such comparison, whatever its date: no provider's movement was found for it.
        run(
            ours,
            "update ledger_transaction set command_id = payment_id, booked_at = null where kind = 'refund'",
        )
        .await;
        round(&shop.service, now.plus(2 * HOUR)).await.unwrap();
        let found = differences(&shop).await;
        assert!(
            found.contains(&"the ledger has refund of 100.00 EUR, the provider nothing".into()),
            "{found:#?}"
        );
        shop.crash().await;
    })
    .await;
}

/// What was sealed before an outage, or a restart, stays sealed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_comparison_goes_on_where_it_was_interrupted() {
    on_both(|home| async move {
        let (shop, now) = shop_with_history(&home, 2).await;
        round(&shop.service, now.plus(HOUR)).await.unwrap();
        let sealed = seals(&shop).await;
        assert!(sealed > 0);
        for _ in 0..3 {
            let order = Order::new();
            assert_eq!(Order::until_known(|| order.authorise(&shop)).await, "authorised");
        }
        shop.provider.books_closed.store(true, Ordering::SeqCst);
        assert!(round(&shop.service, now.plus(4 * HOUR)).await.is_err());
        assert_eq!(seals(&shop).await, sealed);
        shop.crash().await;
        let shop = home.open().await;
        let other = home.open().await;
        let later = now.plus(4 * HOUR);
        let (one, two) = tokio::join!(round(&shop.service, later), round(&other.service, later));
        assert_eq!(
            (one, two),
            (Ok(()), Ok(())),
            "two instances at the same time do no harm"
        );
        assert!(seals(&shop).await > sealed);
        assert_eq!(differences(&shop).await, [""; 0]);
        other.crash().await;
        shop.crash().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_is_told_if_the_books_were_not_compared_for_long() {
    on_both(|home| async move {
        let (shop, _) = shop_with_history(&home, 1).await;
        let begun = self::now();
        shop.provider.books_closed.store(true, Ordering::SeqCst);
        let failed = || Err(Fault::unavailable("The provider's books cannot be read now."));
        assert_eq!(round(&shop.service, begun).await, failed());
        assert!(!report(&shop.service, failed(), begun, false).await);
        assert!(!report(&shop.service, failed(), begun.plus(HOUR), false).await);
        let late = self::now().plus(OVERDUE_AFTER);
        assert!(report(&shop.service, failed(), late, false).await);
        // Also in another process, which has seen none of it.
        assert!(store::completed_at(&shop.db).await.unwrap().is_some());
        shop.provider.books_closed.store(false, Ordering::SeqCst);
        let ended = round(&shop.service, late).await;
        assert!(!report(&shop.service, ended, late, true).await);
        shop.crash().await;
    })
    .await;
}
