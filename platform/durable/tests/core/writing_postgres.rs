//! `Db::write` on PostgreSQL: a transaction for each job, repeated when it lost a race; changes of other processes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use banyan_core::{Fault, FaultKind};
use banyan_durable::{Db, MachineryLimits, Settings};
use banyan_durable_testing::{PostgresHome, eventually};
use sea_orm::ConnectionTrait;

use crate::{
    harness::{SOON, count, execute},
    writing::say,
};

#[tokio::test]
async fn a_job_that_lost_a_race_runs_again_on_postgresql() {
    let home = PostgresHome::new().await;
    let db = banyan_durable_testing::open(
        "durable",
        &home.storage("durable").await,
        banyan_durable_testing::settings(),
    )
    .await;
    execute(&db, "create table counter (n bigint not null, version bigint not null)").await;
    execute(&db, "insert into counter values (0, 0)").await;
    let add = |db: Db| async move {
        db.write((), |tx, ()| async move {
            let sql = "select n, version from counter";
            let row = tx
                .conn()
                .query_one_raw(sea_orm::Statement::from_string(sea_orm::DbBackend::Postgres, sql))
                .await;
            let row = row.map_err(banyan_durable::fault)?.unwrap();
            let (n, version): (i64, i64) = (row.try_get_by_index(0).unwrap(), row.try_get_by_index(1).unwrap());
            let update = format!(
                "update counter set n = {}, version = version + 1 where version = {version}",
                n + 1
            );
            match tx
                .conn()
                .execute_unprepared(&update)
                .await
                .map_err(banyan_durable::fault)?
                .rows_affected()
            {
                1 => Ok(()),
                _ => Err(banyan_durable::lost_race("counter")),
            }
        })
        .await
    };
    let done = futures::future::join_all((0..12).map(|_| add(db.clone()))).await;
    let counted = done.iter().filter(|done| done.is_ok()).count();
    assert!(counted > 4, "jobs that lost run again");
    assert_eq!(
        count(&db, "select n from counter").await,
        counted as i64,
        "no update is lost"
    );
    let ran = Arc::new(AtomicUsize::new(0));
    let lose_three_times = db.write(ran.clone(), |tx, ran| async move {
        match ran.fetch_add(1, Ordering::SeqCst) {
            0 => {
                say(
                    &tx,
                    "do $$ begin raise exception 'a serialisation failure' using errcode = '40001'; end $$",
                )
                .await
            }
            1 => {
                say(
                    &tx,
                    "do $$ begin raise exception 'a deadlock' using errcode = '40P01'; end $$",
                )
                .await
            }
            2 => Err(banyan_durable::lost_race("on purpose")),
            _ => Ok(()),
        }
    });
    lose_three_times.await.unwrap();
    assert_eq!(ran.load(Ordering::SeqCst), 4);
    db.close().await;
    home.remove().await;
}

#[tokio::test]
async fn a_job_that_loses_every_race_fails_after_the_maximum_of_attempts() {
    let home = PostgresHome::new().await;
    let settings = Settings {
        limits: MachineryLimits {
            write_attempts: 3,
            ..MachineryLimits::default()
        },
        ..banyan_durable_testing::settings()
    };
    let db = banyan_durable_testing::open("durable", &home.storage("durable").await, settings).await;
    let ran = Arc::new(AtomicUsize::new(0));
    let lost: Result<(), Fault> = db
        .write(ran.clone(), |_, ran| async move {
            ran.fetch_add(1, Ordering::SeqCst);
            Err(banyan_durable::lost_race("on purpose"))
        })
        .await;
    assert_eq!(
        (lost.unwrap_err().kind, ran.load(Ordering::SeqCst)),
        (FaultKind::Unavailable, 3)
    );
    db.close().await;
    home.remove().await;
}

#[tokio::test]
async fn changes_of_another_process_are_received_on_postgresql() {
    let home = PostgresHome::new().await;
    let place = home.storage("durable").await;
    let one = banyan_durable_testing::open("durable", &place, banyan_durable_testing::settings()).await;
    let two = banyan_durable_testing::open("durable", &place, banyan_durable_testing::settings()).await;
    let changes = std::sync::Mutex::new(two.changes());
    // `LISTEN` starts concurrently with opening, so the change is repeated until it is received.
    eventually("it is received", SOON, || {
        let came = changes
            .lock()
            .unwrap()
            .try_recv()
            .is_ok_and(|change| &*change.topic == "order/7");
        let one = one.clone();
        async move {
            one.write((), |tx, ()| async move {
                tx.wake("order/7");
                Ok(())
            })
            .await
            .unwrap();
            came
        }
    })
    .await;
    one.close().await;
    two.close().await;
    home.remove().await;
}

#[tokio::test]
async fn a_transaction_that_postgresql_ended_as_idle_may_be_retried() {
    let home = PostgresHome::new().await;
    let db = banyan_durable_testing::open(
        "durable",
        &home.storage("durable").await,
        banyan_durable_testing::settings(),
    )
    .await;
    let stood_idle: Result<(), Fault> = db
        .write((), |tx, ()| async move {
            // The session has such a limit anyway; a shorter one spares the wait.
            say(&tx, "set local idle_in_transaction_session_timeout = 50").await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
            say(&tx, "select 1").await
        })
        .await;
    assert_eq!(stood_idle.unwrap_err().kind, FaultKind::Unavailable);
    db.close().await;
    home.remove().await;
}

/// Its last commit releases the leases that other processes wait for.
#[tokio::test]
async fn what_a_process_commits_before_it_closes_is_received_by_the_others() {
    let home = PostgresHome::new().await;
    let storage = home.storage("durable").await;
    let settings = banyan_durable_testing::settings();
    let other = banyan_durable_testing::open("durable", &storage, settings.clone()).await;
    let mut changes = other.changes();
    let one_connection = Settings { pool: 1, ..settings };
    let closing = banyan_durable_testing::open("durable", &storage, one_connection).await;
    let (writer, commit) = (closing.clone(), std::sync::Arc::new(tokio::sync::Notify::new()));
    let may_commit = commit.clone();
    let write = tokio::spawn(async move {
        writer
            .write(may_commit, |tx, may_commit| async move {
                may_commit.notified().await;
                tx.wake("last");
                Ok(())
            })
            .await
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    // It gets the one connection after the write, so that the notification still waits for it when the process closes.
    let reader = closing.clone();
    let read = tokio::spawn(async move { count(&reader, "select count(*) from pg_sleep(0.3)").await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    commit.notify_one();
    write.await.unwrap().unwrap();
    closing.close().await;
    tokio::time::timeout(SOON, banyan_durable::changed(&mut changes, "last"))
        .await
        .expect("the others are notified");
    read.await.unwrap();
    other.close().await;
    home.remove().await;
}
