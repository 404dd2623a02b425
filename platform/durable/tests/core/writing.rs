//! `Db::write`: one transaction that returns after its commit, whatever happens to other jobs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use banyan_core::{Fault, FaultKind, outside_transaction};
use banyan_durable::{Db, MachineryLimits, Settings, Tx};
use banyan_durable_testing::{eventually, on_both};
use sea_orm::ConnectionTrait;
use tokio::sync::Notify;

use crate::harness::{SOON, count, execute, texts};

pub async fn say(tx: &Tx, sql: &str) -> Result<(), Fault> {
    tx.conn()
        .execute_unprepared(sql)
        .await
        .map(drop)
        .map_err(banyan_durable::fault)
}

pub async fn with_table(db: &Db) {
    execute(db, "create table word (word text not null)").await;
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
                        Err(Fault::conflict("on_purpose", "no"))
                    } else {
                        Ok(())
                    }
                })
                .await
            }
        };
        let (a, b, c) = tokio::join!(write("a", false), write("b", true), write("c", false));
        assert!(a.is_ok() && c.is_ok());
        assert_eq!(b.unwrap_err().code, "on_purpose");
        assert_eq!(texts(&db, "select word from word order by word").await, ["a", "c"]);
    })
    .await;
}

#[tokio::test]
async fn a_panic_in_a_job_fails_that_job_alone() {
    on_both("durable", |db| async move {
        with_table(&db).await;
        let panics = db.write((), move |tx, ()| async move {
            say(&tx, "insert into word values ('a')").await?;
            if count_args() == usize::MAX {
                return Ok(());
            }
            panic!("on purpose")
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
async fn inside_a_job_nothing_else_is_written_or_called() {
    on_both("durable", |db| async move {
        with_table(&db).await;
        let inside = db.clone();
        let (written, called) = db
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
        assert_eq!(called.unwrap_err().code, "inside_transaction");
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
async fn dropping_a_caller_cancels_nothing() {
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
        // Another caller is dropped before its job has begun.
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
                Err(Fault::conflict("on_purpose", "no"))
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

/// PostgreSQL would report success for the commit of such a transaction, and commit nothing.
#[tokio::test]
async fn a_job_that_goes_on_after_a_failed_statement_is_refused() {
    on_both("durable", |db| async move {
        with_table(&db).await;
        let swallowed = db.write((), |tx, ()| async move {
            say(&tx, "insert into word values ('a')").await?;
            let _ = say(&tx, "insert into no_such_table values ('b')").await;
            Ok(())
        });
        assert_eq!(swallowed.await.unwrap_err().code, "failed_statement_ignored");
        assert_eq!(count(&db, "select count(*) from word").await, 0);
    })
    .await;
}

/// It would run out of its time whenever the database is some milliseconds away. As an outage it would be repeated for ever.
#[tokio::test]
async fn a_job_of_very_many_statements_that_takes_too_long_is_a_bug() {
    let settings = Settings {
        limits: MachineryLimits {
            job_timeout: Duration::from_secs(2),
            ..MachineryLimits::default()
        },
        ..banyan_durable_testing::settings()
    };
    banyan_durable_testing::on_both_with("durable", settings, |db| async move {
        let long = db.write((), |tx, ()| async move {
            loop {
                say(&tx, "select 1").await?;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            #[allow(unreachable_code, reason = "it names the type of the result")]
            Ok(())
        });
        let fault = long.await.unwrap_err();
        assert_eq!((fault.kind, &*fault.code), (FaultKind::Internal, "write_too_long"));
    })
    .await;
}
