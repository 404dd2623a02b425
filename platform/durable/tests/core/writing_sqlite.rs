//! `Db::write` on SQLite: one writer, many jobs in one commit.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use banyan_core::{Fault, FaultKind};
use banyan_durable::{Connection, Db, MachineryLimits, Settings, Storage};
use banyan_durable_testing::SqliteHome;
use sea_orm::ConnectionTrait;
use tokio::sync::Notify;

use crate::{
    harness::count,
    writing::{say, with_table},
};

/// Keeps the writer busy until notified, so that other jobs wait.
fn hold_writer(db: &Db) -> (Arc<Notify>, tokio::task::JoinHandle<Result<(), Fault>>) {
    let (go, db) = (Arc::new(Notify::new()), db.clone());
    let wait = go.clone();
    let held = tokio::spawn(async move {
        db.write(wait, |tx, wait| async move {
            wait.notified().await;
            say(&tx, "insert into word values ('first')").await
        })
        .await
    });
    (go, held)
}

async fn sqlite() -> (SqliteHome, Db) {
    let home = SqliteHome::new();
    let db =
        banyan_durable_testing::open("durable", &home.storage("durable"), banyan_durable_testing::settings()).await;
    with_table(&db).await;
    (home, db)
}

#[tokio::test]
async fn waiting_jobs_share_one_commit_and_no_job_returns_before_it() {
    let (_home, db) = sqlite().await;
    let (go, first) = hold_writer(&db);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let committed = Arc::new(AtomicUsize::new(0));
    let mut jobs = Vec::new();
    for _ in 0..20 {
        let (db, committed) = (db.clone(), committed.clone());
        jobs.push(tokio::spawn(async move {
            let (inside, seen) = (db.clone(), committed.clone());
            let counted = db
                .write((inside, seen), |tx, (db, seen)| async move {
                    say(&tx, "insert into word values ('more')").await?;
                    // Another connection sees what is committed: nothing while the batch is open.
                    Ok((
                        count(&db, "select count(*) from word").await,
                        seen.load(Ordering::SeqCst),
                    ))
                })
                .await
                .unwrap();
            assert_eq!(
                count(&db, "select count(*) from word").await,
                21,
                "it returns after the commit"
            );
            committed.fetch_add(1, Ordering::SeqCst);
            counted
        }));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    go.notify_one();
    first.await.unwrap().unwrap();
    for job in jobs {
        assert_eq!(
            job.await.unwrap(),
            (0, 0),
            "all jobs ran in the transaction of the first"
        );
    }
    db.close().await;
}

#[tokio::test]
async fn a_full_disk_fails_the_whole_batch_and_the_writer_recovers() {
    let (_home, db) = sqlite().await;
    // As many pages as there are, and a few: the next large row does not fit any more.
    db.write((), move |tx, ()| async move {
        let row = tx
            .conn()
            .query_one_raw(sea_orm::Statement::from_string(
                sea_orm::DbBackend::Sqlite,
                "pragma page_count",
            ))
            .await;
        let pages: i64 = row
            .map_err(banyan_durable::fault)?
            .unwrap()
            .try_get_by_index(0)
            .unwrap();
        say(&tx, &format!("pragma max_page_count = {}", pages + 2)).await
    })
    .await
    .unwrap();
    let (go, first) = hold_writer(&db);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let small = tokio::spawn({
        let db = db.clone();
        async move {
            db.write((), |tx, ()| async move {
                say(&tx, "insert into word values ('small')").await
            })
            .await
        }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    // It finds what another job of the batch wrote, and refuses because of it.
    let refused = tokio::spawn({
        let db = db.clone();
        async move {
            db.write((), |tx, ()| async move {
                let statement = sea_orm::Statement::from_string(
                    sea_orm::DbBackend::Sqlite,
                    "select 1 from word where word = 'small'",
                );
                let written = tx
                    .conn()
                    .query_one_raw(statement)
                    .await
                    .map_err(banyan_durable::fault)?;
                if written.is_some() {
                    Err(Fault::conflict("taken", "The word is taken."))
                } else {
                    Ok(())
                }
            })
            .await
        }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    let large = tokio::spawn({
        let db = db.clone();
        async move {
            db.write((), |tx, ()| async move {
                say(&tx, "insert into word values (hex(zeroblob(1000000)))").await
            })
            .await
        }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    go.notify_one();
    for job in [first, small, refused, large] {
        assert_eq!(job.await.unwrap().unwrap_err().kind, FaultKind::Unavailable);
    }
    assert_eq!(
        count(&db, "select count(*) from word").await,
        0,
        "nothing of the batch stays"
    );
    for _ in 0..3 {
        db.write((), |tx, ()| async move {
            say(&tx, "insert into word values ('after')").await
        })
        .await
        .unwrap();
    }
    // The limit belonged to the connection that was given up with the batch; the new one does without.
    db.write((), |tx, ()| async move {
        say(&tx, "insert into word values (hex(zeroblob(1000000)))").await
    })
    .await
    .unwrap();
    assert_eq!(count(&db, "select count(*) from word").await, 4);
    db.close().await;
}

#[tokio::test]
async fn an_orderly_end_leaves_the_file_and_no_wal() {
    let (home, db) = sqlite().await;
    db.write((), |tx, ()| async move {
        say(&tx, "insert into word values ('last')").await
    })
    .await
    .unwrap();
    assert_eq!(count(&db, "select count(*) from word").await, 1);
    let Storage::Sqlite { path } = home.storage("durable") else {
        panic!("a file")
    };
    let wal = path.with_extension("db-wal");
    assert!(wal.exists());
    // A read under way is the last connection to close, unless the end waits for it.
    let reading = tokio::spawn({
        let db = db.clone();
        async move {
            let slow = "with recursive n (i) as (select 1 union all select i + 1 from n where i < 500000) select count(*) from n";
            count(&db, slow).await
        }
    });
    tokio::task::yield_now().await;
    assert!(!reading.is_finished());
    db.close().await;
    assert!(!wal.exists(), "who copies the file has everything");
    assert_eq!(reading.await.unwrap(), 500_000);
}

#[tokio::test]
async fn after_a_full_disk_only_a_write_shows_that_the_database_is_ready() {
    let (_home, db) = sqlite().await;
    db.write((), |tx, ()| async move {
        say(&tx, "pragma max_page_count = 1").await?;
        say(&tx, "insert into word values (hex(zeroblob(1000000)))").await
    })
    .await
    .unwrap_err();
    // A transaction that wrote nothing can be committed on a full disk, too.
    db.write((), |_, ()| async move { Ok(()) }).await.unwrap();
    let probes = "select count(*) from mark where name = '(probe)'";
    assert_eq!(count(&db, probes).await, 0);
    db.ping().await.unwrap();
    assert_eq!(count(&db, probes).await, 1);
    db.close().await;
}

#[tokio::test]
async fn a_write_on_sqlite_locks_the_file_from_its_beginning_and_is_synced() {
    let (home, db) = sqlite().await;
    let outside = Arc::new(Connection::open(&home.storage("durable"), "outside").await.unwrap());
    outside.execute_unprepared("pragma busy_timeout = 0").await.unwrap();
    let inside = outside.clone();
    let (synchronous, shut_out) = db
        .write(inside, |tx, outside| async move {
            // Nothing was written yet: only a transaction that began as IMMEDIATE keeps others out.
            let shut_out = outside.execute_unprepared("begin immediate").await.is_err();
            let statement = sea_orm::Statement::from_string(sea_orm::DbBackend::Sqlite, "pragma synchronous");
            let row = tx
                .conn()
                .query_one_raw(statement)
                .await
                .map_err(banyan_durable::fault)?
                .unwrap();
            Ok((row.try_get_by_index::<i64>(0).unwrap(), shut_out))
        })
        .await
        .unwrap();
    assert_eq!((synchronous, shut_out), (2, true), "2 is FULL");
    outside
        .execute_unprepared("begin immediate")
        .await
        .expect("after the write the file is free");
    outside.execute_unprepared("rollback").await.unwrap();
    db.close().await;
}

#[tokio::test]
async fn a_commit_and_the_queue_of_writes_are_limited() {
    let home = SqliteHome::new();
    let settings = Settings {
        limits: MachineryLimits {
            write_queue: 3,
            commit_batch: 2,
            ..MachineryLimits::default()
        },
        ..banyan_durable_testing::settings()
    };
    let db = banyan_durable_testing::open("durable", &home.storage("durable"), settings).await;
    with_table(&db).await;
    let (began, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (at_work, may_end, writer) = (began.clone(), go.clone(), db.clone());
    let first = tokio::spawn(async move {
        writer
            .write((at_work, may_end), |tx, (at_work, may_end)| async move {
                at_work.notify_one();
                may_end.notified().await;
                say(&tx, "insert into word values ('first')").await
            })
            .await
    });
    began.notified().await;
    // Each says how many words were committed when its turn came.
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let reader = db.clone();
        let mut write = Box::pin(db.write(reader, |tx, db| async move {
            say(&tx, "insert into word values ('more')").await?;
            Ok(count(&db, "select count(*) from word").await)
        }));
        assert!(futures::poll!(&mut write).is_pending(), "it waits");
        waiting.push(write);
    }
    let refused = db
        .write((), |tx, ()| async move {
            say(&tx, "insert into word values ('too many')").await
        })
        .await
        .unwrap_err();
    assert_eq!(refused.kind, FaultKind::Unavailable, "{refused}");
    go.notify_one();
    first.await.unwrap().unwrap();
    let seen: Vec<i64> = futures::future::join_all(waiting)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(seen, [0, 2, 2], "two share a commit, and the next two the next");
    assert_eq!(count(&db, "select count(*) from word").await, 4);
    db.close().await;
}

const ENDLESS: &str =
    "with recursive number(n) as (select 1 union all select n + 1 from number) select count(*) from number";

#[tokio::test]
async fn a_long_read_ends_at_its_limit_and_leaves_connections_to_the_others() {
    let home = SqliteHome::new();
    let settings = Settings {
        pool: 2,
        limits: MachineryLimits {
            read_timeout: Duration::from_millis(500),
            ..MachineryLimits::default()
        },
        ..banyan_durable_testing::settings()
    };
    let db = banyan_durable_testing::open("durable", &home.storage("durable"), settings).await;
    let endless = || sea_orm::Statement::from_string(sea_orm::DbBackend::Sqlite, ENDLESS);
    let mut long = Vec::new();
    for _ in 0..4 {
        let db = db.clone();
        long.push(tokio::spawn(async move { db.read().query_all_raw(endless()).await }));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(count(&db, "select count(*) from subject").await, 0, "short reads go on");
    assert!(long.iter().any(|read| !read.is_finished()), "beside the long ones");
    for read in long {
        let fault = banyan_durable::fault(read.await.unwrap().unwrap_err());
        assert_eq!(fault.kind, FaultKind::Unavailable, "{fault}");
    }
    db.close().await;
}

#[tokio::test]
async fn a_write_that_is_interrupted_fails_alone() {
    let home = SqliteHome::new();
    let settings = Settings {
        limits: MachineryLimits {
            job_timeout: Duration::from_millis(300),
            ..MachineryLimits::default()
        },
        ..banyan_durable_testing::settings()
    };
    let db = banyan_durable_testing::open("durable", &home.storage("durable"), settings).await;
    with_table(&db).await;
    let (go, first) = hold_writer(&db);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let writer = db.clone();
    let endless = tokio::spawn(async move {
        writer
            .write((), |tx, ()| async move {
                say(&tx, &format!("insert into word {ENDLESS}")).await
            })
            .await
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    go.notify_one();
    // SQLite ends the transaction of both; the first one is run again.
    let again = go.clone();
    let notified = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            again.notify_one();
        }
    });
    first.await.unwrap().unwrap();
    assert_eq!(endless.await.unwrap().unwrap_err().kind, FaultKind::Unavailable);
    notified.abort();
    assert_eq!(count(&db, "select count(*) from word").await, 1);
    db.close().await;
}

#[tokio::test]
async fn a_file_that_is_missing_is_not_made_anew() {
    let (home, db) = sqlite().await;
    db.close().await;
    let path = home.path().join("durable.db");
    std::fs::remove_file(&path).unwrap();
    let storage = home.storage("durable");
    let (clock, ids) = (Arc::new(banyan_core::SystemClock), Arc::new(banyan_core::RandomIds));
    let opened = Db::open("durable", &storage, banyan_durable_testing::settings(), clock, ids);
    let fault = opened.await.unwrap_err();
    assert!(fault.detail.contains(&path.display().to_string()), "{fault}");
    assert!(!path.exists());
}

#[tokio::test]
async fn after_a_failed_commit_only_a_write_makes_the_database_ready_again() {
    let (_home, db) = sqlite().await;
    db.ping().await.unwrap();
    let run = |sql: &'static str| db.write(sql, |tx, sql| async move { say(&tx, sql).await });
    run("create table leaf (twig text references word (word) deferrable initially deferred)")
        .await
        .unwrap();
    run("create unique index one_word on word (word)").await.unwrap();
    // Without this table the check cannot write.
    run("alter table mark rename to elsewhere").await.unwrap();
    let failed = run("insert into leaf values ('no such word')").await;
    assert_eq!(failed.unwrap_err().kind, FaultKind::Unavailable);
    // Nothing is written, so it says nothing of the disk.
    run("delete from word where word = 'none'").await.unwrap();
    assert!(count(&db, "select count(*) from word").await == 0, "reads go on");
    db.ping().await.unwrap_err();
    run("alter table elsewhere rename to mark").await.unwrap();
    // Further storage of a module has no leases, and is ready again all the same.
    run("drop table lease").await.unwrap();
    let failed = run("insert into leaf values ('no such word')").await;
    assert_eq!(failed.unwrap_err().kind, FaultKind::Unavailable);
    db.ping().await.unwrap();
    db.close().await;
}
