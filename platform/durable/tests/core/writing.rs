//! `Db::write`: one transaction, answered after its commit, whatever happens to the others.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use banyan_core::{Fault, FaultKind, outside_transaction};
use banyan_durable::{Db, MachineryLimits, Settings, Tx};
use banyan_durable_testing::{SqliteHome, eventually, on_both};
use sea_orm::ConnectionTrait;
use tokio::sync::Notify;

use crate::house::{SOON, count, execute, texts};

async fn say(tx: &Tx, sql: &str) -> Result<(), Fault> {
    tx.conn()
        .execute_unprepared(sql)
        .await
        .map(drop)
        .map_err(banyan_durable::fault)
}

async fn with_table(db: &Db) {
    execute(db, "create table word (word text not null)").await;
}

/// Keeps the writer busy until told, so that other jobs gather behind it.
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
async fn jobs_that_wait_share_one_commit_and_none_is_answered_before_it() {
    let (_home, db) = sqlite().await;
    let (go, first) = hold_writer(&db);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let answered = Arc::new(AtomicUsize::new(0));
    let mut jobs = Vec::new();
    for _ in 0..20 {
        let (db, answered) = (db.clone(), answered.clone());
        jobs.push(tokio::spawn(async move {
            let (inside, seen) = (db.clone(), answered.clone());
            let told = db
                .write((inside, seen), |tx, (db, seen)| async move {
                    say(&tx, "insert into word values ('more')").await?;
                    // Another connection sees what is committed: nothing, as long as the batch is open.
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
                "the answer comes after the commit"
            );
            answered.fetch_add(1, Ordering::SeqCst);
            told
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
async fn the_error_of_one_job_rolls_back_that_job_alone() {
    on_both("durable", |db| async move {
        with_table(&db).await;
        let write = |word: &'static str, fails: bool| {
            let db = db.clone();
            async move {
                db.write((), move |tx, ()| async move {
                    say(&tx, &format!("insert into word values ('{word}')")).await?;
                    if fails {
                        Err(Fault::conflict("as_told", "no"))
                    } else {
                        Ok(())
                    }
                })
                .await
            }
        };
        let (a, b, c) = tokio::join!(write("a", false), write("b", true), write("c", false));
        assert!(a.is_ok() && c.is_ok());
        assert_eq!(b.unwrap_err().code, "as_told");
        assert_eq!(texts(&db, "select word from word order by word").await, ["a", "c"]);
    })
    .await;
}

#[tokio::test]
async fn a_panic_in_a_job_is_its_own() {
    on_both("durable", |db| async move {
        with_table(&db).await;
        let panics = db.write((), move |tx, ()| async move {
            say(&tx, "insert into word values ('a')").await?;
            if count_args() == usize::MAX {
                return Ok(());
            }
            panic!("as told")
        });
        let fine = db.write((), move |tx, ()| async move {
            say(&tx, "insert into word values ('b')").await
        });
        let (panicked, fine): (Result<(), Fault>, _) = tokio::join!(panics, fine);
        assert_eq!(panicked.unwrap_err().code, "write_panicked");
        fine.unwrap();
        assert_eq!(texts(&db, "select word from word").await, ["b"]);
    })
    .await;
}

#[tokio::test]
async fn inside_a_job_nothing_else_is_written_or_asked() {
    on_both("durable", |db| async move {
        with_table(&db).await;
        let inside = db.clone();
        let (written, asked) = db
            .write(inside, |_, db| async move {
                let written = db
                    .write((), |tx, ()| async move {
                        say(&tx, "insert into word values ('inside')").await
                    })
                    .await;
                Ok((written, outside_transaction("a neighbour")))
            })
            .await
            .unwrap();
        assert_eq!(written.unwrap_err().code, "inside_transaction");
        assert_eq!(asked.unwrap_err().code, "inside_transaction");
        assert_eq!(outside_transaction("a neighbour"), Ok(()), "the transaction has ended");
        assert!(texts(&db, "select word from word").await.is_empty());
    })
    .await;
}

/// Something the compiler cannot foresee, so that code after it counts as reachable.
fn count_args() -> usize {
    std::env::args().count()
}

#[tokio::test]
async fn a_job_that_takes_too_long_is_rolled_back() {
    banyan_durable_testing::on_both_with(
        "durable",
        Settings {
            limits: MachineryLimits {
                job_timeout: Duration::from_millis(200),
                ..MachineryLimits::default()
            },
            ..banyan_durable_testing::settings()
        },
        |db| async move {
            with_table(&db).await;
            let slow = db.write((), move |tx, ()| async move {
                say(&tx, "insert into word values ('a')").await?;
                tokio::time::sleep(Duration::from_secs(5)).await;
                Ok(())
            });
            assert_eq!(slow.await.unwrap_err().kind, FaultKind::Unavailable);
            assert_eq!(count(&db, "select count(*) from word").await, 0);
            db.write((), move |tx, ()| async move {
                say(&tx, "insert into word values ('b')").await
            })
            .await
            .unwrap();
        },
    )
    .await;
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
                let asked = sea_orm::Statement::from_string(
                    sea_orm::DbBackend::Sqlite,
                    "select 1 from word where word = 'small'",
                );
                let written = tx.conn().query_one_raw(asked).await.map_err(banyan_durable::fault)?;
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
async fn a_caller_that_goes_away_cancels_nothing() {
    on_both("durable", |db| async move {
        with_table(&db).await;
        let began = Arc::new(Notify::new());
        let (inside, writer) = (began.clone(), db.clone());
        let caller = tokio::spawn(async move {
            writer
                .write(inside, |tx, began| async move {
                    say(&tx, "insert into word values ('a')").await?;
                    began.notify_one();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    say(&tx, "insert into word values ('b')").await
                })
                .await
        });
        began.notified().await;
        // Another goes away before its turn has come.
        let mut waiting = Box::pin(db.write(
            (),
            |tx, ()| async move { say(&tx, "insert into word values ('c')").await },
        ));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(waiting);
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        eventually("all words", SOON, || async {
            count(&db, "select count(*) from word").await == 3
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn topics_are_woken_after_the_commit_and_never_for_what_was_rolled_back() {
    on_both("durable", |db| async move {
        with_table(&db).await;
        let mut changes = db.changes();
        let failed: Result<(), Fault> = db
            .write((), |tx, ()| async move {
                tx.wake("rolled-back");
                Err(Fault::conflict("as_told", "no"))
            })
            .await;
        assert!(failed.is_err());
        // That the parent is missing shows at the commit, and not before.
        execute(&db, "create table parent (n integer primary key)").await;
        execute(
            &db,
            "create table child (n integer references parent (n) deferrable initially deferred)",
        )
        .await;
        let uncommitted = db.write((), |tx, ()| async move {
            tx.wake("not-committed");
            say(&tx, "insert into child values (1)").await
        });
        assert!(uncommitted.await.is_err());
        let early = Arc::new(AtomicBool::new(false));
        let listening = Arc::new(tokio::sync::Mutex::new(db.changes()));
        db.write((early.clone(), listening), |tx, (seen, listening)| async move {
            tx.wake("committed");
            say(&tx, "insert into word values ('a')").await?;
            tokio::time::sleep(Duration::from_millis(30)).await;
            seen.store(listening.lock().await.try_recv().is_ok(), Ordering::SeqCst);
            Ok(())
        })
        .await
        .unwrap();
        assert!(!early.load(Ordering::SeqCst), "woken before the commit");
        assert_eq!(&*changes.recv().await.unwrap().topic, "committed");
    })
    .await;
}

#[tokio::test]
async fn a_job_that_lost_a_race_runs_again_on_postgresql() {
    let home = banyan_durable_testing::PostgresHome::new().await;
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
            2 => Err(banyan_durable::lost_race("as told")),
            _ => Ok(()),
        }
    });
    lose_three_times.await.unwrap();
    assert_eq!(ran.load(Ordering::SeqCst), 4);
    db.close().await;
    home.remove().await;
}

#[tokio::test]
async fn a_write_on_sqlite_has_the_file_to_itself_from_its_beginning_and_is_synced() {
    let (home, db) = sqlite().await;
    let mut options = sea_orm::ConnectOptions::new(format!("sqlite://{}", home.path().join("durable.db").display()));
    options.max_connections(1).sqlx_logging(false);
    let outside = sea_orm::Database::connect(options).await.unwrap();
    outside.execute_unprepared("pragma busy_timeout = 0").await.unwrap();
    let inside = outside.clone();
    let (synchronous, shut_out) = db
        .write(inside, |tx, outside| async move {
            // Nothing was written yet: only a transaction that began as IMMEDIATE keeps others out.
            let shut_out = outside.execute_unprepared("begin immediate").await.is_err();
            let asked = sea_orm::Statement::from_string(sea_orm::DbBackend::Sqlite, "pragma synchronous");
            let row = tx
                .conn()
                .query_one_raw(asked)
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
    outside.close().await.unwrap();
    db.close().await;
}

#[tokio::test]
async fn so_many_writes_share_a_commit_and_more_than_may_wait_are_refused() {
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

#[tokio::test]
async fn a_job_that_loses_every_race_is_given_up_after_so_many_attempts() {
    let home = banyan_durable_testing::PostgresHome::new().await;
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
            Err(banyan_durable::lost_race("as told"))
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
async fn what_another_process_commits_is_heard_on_postgresql() {
    let home = banyan_durable_testing::PostgresHome::new().await;
    let place = home.storage("durable").await;
    let one = banyan_durable_testing::open("durable", &place, banyan_durable_testing::settings()).await;
    let two = banyan_durable_testing::open("durable", &place, banyan_durable_testing::settings()).await;
    let heard = std::sync::Mutex::new(two.changes());
    // Listening begins beside opening, so it is said until it is heard.
    eventually("it is heard", SOON, || {
        let came = heard
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
async fn a_transaction_that_postgresql_ended_because_it_stood_idle_may_be_tried_again() {
    let home = banyan_durable_testing::PostgresHome::new().await;
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
