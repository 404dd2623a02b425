//! The queue of mails: what it costs, and which clock it follows.

mod support;

use std::{sync::Arc, time::Duration};

use banyan_durable::Db;
use banyan_durable_testing::{AheadClock, PostgresHome, StatementLog, eventually, on_both, open, open_with, settings};
use notifications::Settings;
use sea_orm::ConnectionTrait;
use support::{LIMIT, Module, quick, smtp::FakeMailServer};
use uuid::Uuid;

/// The statements since the last call that name the table of mails.
fn of_mails(log: &StatementLog) -> Vec<String> {
    let mut statements = log.take();
    statements.retain(|statement| statement.contains("notification"));
    statements
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_mails_are_captured_by_two_statements_and_none_runs_while_there_is_no_mail() {
    let home = PostgresHome::new().await;
    let (log, storage) = StatementLog::before(&home.storage("notifications").await, Duration::ZERO).await;
    let db = open(notifications::SCHEMA, &storage, settings()).await;
    let mut settings = Settings {
        concurrency: 50,
        ..quick()
    };
    settings.timing.poll_interval = Duration::from_secs(60);
    let mut module = Module::open(db.clone(), settings).await;
    let users: Vec<Uuid> = (0..40).map(|_| Uuid::new_v4()).collect();
    for user in &users {
        module.welcome(*user).await;
    }
    // PostgreSQL also notifies the process that wrote.
    tokio::time::sleep(Duration::from_millis(300)).await;
    log.take();
    module.run();
    for user in &users {
        module.all_become(*user, "captured").await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut statements = of_mails(&log);
    // Those of this test, which lists mails, and the look for mails of long ago, which is made every ten minutes.
    statements.retain(|statement| !statement.starts_with("SELECT") && !statement.starts_with("delete"));
    assert_eq!(statements.len(), 2, "{statements:#?}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(of_mails(&log), Vec::<String>::new());
    module.stop().await;
    db.close().await;
    home.remove().await;
}

async fn postpone(db: &Db, seconds: i64) {
    let postponed = db.write((), move |tx, ()| async move {
        let now = tx.database_now().await?.as_ms();
        let sql = format!("update notification set next_attempt_at = {}", now + seconds * 1_000);
        tx.conn().execute_unprepared(&sql).await.map_err(banyan_durable::fault)
    });
    postponed.await.expect("the mails are postponed");
}

/// After a clock was set back by an hour, what was due in a second is due in an hour and a second by that clock.
#[tokio::test]
async fn a_mail_from_before_the_clock_was_set_back_is_sent() {
    on_both(notifications::SCHEMA, |db| async move {
        let server = FakeMailServer::start(&[]).await;
        let settings = Settings {
            smtp_url: Some(server.url().into()),
            ..quick()
        };
        let mut module = Module::open(db.clone(), settings).await;
        let (before, waiting) = (Uuid::new_v4(), Uuid::new_v4());
        module.welcome(before).await;
        postpone(&db, 3_600).await;
        module.run();
        module.all_become(before, "sent").await;
        module.stop().await;
        let mut module = Module::open(
            db.clone(),
            Settings {
                smtp_url: Some(server.url().into()),
                ..quick()
            },
        )
        .await;
        module.welcome(waiting).await;
        postpone(&db, 3).await;
        module.run();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(
            module.list(waiting).await[0].status,
            "queued",
            "a usual wait is waited for"
        );
        module.all_become(waiting, "sent").await;
        module.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_mail_that_failed_in_an_instance_whose_clock_is_ahead_is_sent_in_time() {
    let home = PostgresHome::new().await;
    let storage = home.storage("notifications").await;
    let server = FakeMailServer::start(&["451 try later"]).await;
    let mut settings = Settings {
        smtp_url: Some(server.url().into()),
        ..quick()
    };
    // The first retry is due in a second. Waits up to an hour are usual: none of them is taken for one from before a clock was set back.
    settings.timing.retry_delays = vec![Duration::from_secs(1), Duration::from_secs(3_600)];
    let databases = [
        open_with(
            notifications::SCHEMA,
            &storage,
            banyan_durable_testing::settings(),
            Arc::new(AheadClock),
        )
        .await,
        open(notifications::SCHEMA, &storage, banyan_durable_testing::settings()).await,
    ];
    let mut ahead = Module::open_with(databases[0].clone(), settings.clone(), Arc::new(AheadClock)).await;
    let user = Uuid::new_v4();
    ahead.welcome(user).await;
    ahead.run();
    eventually("it fails", LIMIT, || async { server.mails().len() == 1 }).await;
    ahead.stop().await;
    let mut on_time = Module::open(databases[1].clone(), settings).await;
    on_time.run();
    on_time.all_become(user, "sent").await;
    on_time.stop().await;
    for db in databases {
        db.close().await;
    }
    home.remove().await;
}

#[tokio::test]
async fn mails_are_deleted_after_ninety_days_unless_they_are_still_queued() {
    on_both(notifications::SCHEMA, |db| async move {
        let settings = Settings {
            give_up_hours: 100 * 24,
            ..quick()
        };
        let mut module = Module::open(db.clone(), settings).await;
        // What is queued stays so.
        module.users.unavailable.store(u32::MAX, std::sync::atomic::Ordering::SeqCst);
        let [old, young, queued] = [Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4()];
        for (user, status, days) in [(old, "captured", 91), (young, "captured", 89), (queued, "queued", 91)] {
            module.welcome(user).await;
            let aged = db.write((), move |tx, ()| async move {
                let now = tx.clock().now().as_ms();
                let sql = format!(
                    "update notification set status = '{status}', recipient = 'a@b', created_at = {} where created_at > {}",
                    now - days * 86_400_000,
                    now - 60_000
                );
                tx.conn().execute_unprepared(&sql).await.map_err(banyan_durable::fault)
            });
            aged.await.unwrap();
        }
        module.run();
        eventually("the old mail is deleted", Duration::from_secs(10), || async {
            module.list(old).await.is_empty()
        })
        .await;
        assert_eq!((module.list(young).await.len(), module.list(queued).await.len()), (1, 1));
        module.stop().await;
    })
    .await;
}
