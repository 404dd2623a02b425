//! `once`: a command is carried out once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use banyan_core::Fault;
use banyan_durable::{Command, Db, Memory, Outcome, Tx, once, recall, undo_once};
use banyan_durable_testing::{PostgresHome, on_both};
use sea_orm::ConnectionTrait;

use crate::harness::{count, execute};

async fn with_table(db: &Db) {
    execute(db, "create table word (word text not null)").await;
}

async fn effect(tx: &Tx) -> Result<(), Fault> {
    tx.conn()
        .execute_unprepared("insert into word values ('a')")
        .await
        .map(drop)
        .map_err(banyan_durable::fault)
}

async fn effects(db: &Db) -> i64 {
    count(db, "select count(*) from word").await
}

fn command(bytes: &str) -> Command {
    Command::new("reserve", "c-1", bytes.as_bytes())
}

async fn reserve(db: &Db, bytes: &str) -> Result<Memory<String>, Fault> {
    once(db, command(bytes), (), |tx, ()| async move {
        effect(&tx).await?;
        Ok(Outcome::Done("reserved".to_owned()))
    })
    .await
}

async fn release(db: &Db, id: &str) -> Result<bool, Fault> {
    undo_once(
        db,
        Command::new("release", id, b"r"),
        ("reserve", "c-1".to_owned()),
        (),
        |_, (), took_part| async move { Ok(took_part) },
    )
    .await
}

#[tokio::test]
async fn a_command_is_carried_out_once_and_then_returns_its_remembered_result() {
    on_both("durable", |db| async move {
        with_table(&db).await;
        assert_eq!(recall::<String>(&db, &command("x")).await.unwrap(), None);
        assert_eq!(reserve(&db, "x").await.unwrap(), Memory::First("reserved".to_owned()));
        assert_eq!(reserve(&db, "x").await.unwrap(), Memory::Again("reserved".to_owned()));
        assert_eq!(
            recall::<String>(&db, &command("x")).await.unwrap(),
            Some(Memory::Again("reserved".to_owned()))
        );
        assert_eq!(effects(&db).await, 1);
    })
    .await;
}

#[tokio::test]
async fn a_command_is_remembered_with_its_result_whatever_was_expected() {
    on_both("durable", |db| async move {
        let outcomes = [
            ("c-1", Outcome::Done("reserved")),
            ("c-2", Outcome::Done("something else")),
            ("c-3", Outcome::Refused("sold out")),
        ];
        for (id, outcome) in outcomes {
            let carry_out = async || {
                let command = Command::new("reserve", id, b"x").expecting(&"reserved").unwrap();
                let outcome = match &outcome {
                    Outcome::Done(result) => Outcome::Done((*result).to_owned()),
                    Outcome::Refused(result) => Outcome::Refused((*result).to_owned()),
                };
                let memory = once(&db, command, outcome, |_, outcome| async move { Ok(outcome) });
                memory.await.unwrap()
            };
            let (Outcome::Done(result) | Outcome::Refused(result)) = outcome.clone();
            assert_eq!(carry_out().await, Memory::First(result.to_owned()));
            assert_eq!(carry_out().await, Memory::Again(result.to_owned()));
        }
        let failed: Result<Memory<String>, Fault> = {
            let command = Command::new("reserve", "c-4", b"x").expecting(&"reserved").unwrap();
            once(
                &db,
                command,
                (),
                |_, ()| async move { Err(Fault::unavailable("not now")) },
            )
            .await
        };
        assert_eq!(failed.unwrap_err().code, "unavailable");
        assert_eq!(count(&db, "select count(*) from inbox where id = 'c-4'").await, 0);
    })
    .await;
}

#[tokio::test]
async fn a_command_is_remembered_for_ever_unless_it_has_a_retention() {
    on_both("durable", |db| async move {
        with_table(&db).await;
        reserve(&db, "x").await.unwrap();
        assert_eq!(
            count(&db, "select count(*) from inbox where expires_at is null").await,
            1
        );
        let brief = Command::new("request", "r-1", b"x").keep_for(std::time::Duration::from_secs(60));
        once(&db, brief, (), |_, ()| async { Ok(Outcome::Done(())) })
            .await
            .unwrap();
        assert_eq!(
            count(&db, "select expires_at - created_at from inbox where kind = 'request'").await,
            60_000
        );
    })
    .await;
}

#[tokio::test]
async fn the_same_id_with_other_bytes_is_refused() {
    on_both("durable", |db| async move {
        with_table(&db).await;
        reserve(&db, "x").await.unwrap();
        assert_eq!(reserve(&db, "y").await.unwrap_err().code, "command_reused");
        assert_eq!(
            recall::<String>(&db, &command("y")).await.unwrap_err().code,
            "command_reused"
        );
        assert_eq!(effects(&db).await, 1);
    })
    .await;
}

#[tokio::test]
async fn a_command_that_arrives_after_its_undo_does_nothing() {
    on_both("durable", |db| async move {
        with_table(&db).await;
        assert!(!release(&db, "u-1").await.unwrap(), "the do had not come");
        assert_eq!(reserve(&db, "x").await.unwrap(), Memory::Undone);
        assert_eq!(reserve(&db, "other bytes").await.unwrap(), Memory::Undone);
        assert_eq!(
            recall::<String>(&db, &command("x")).await.unwrap(),
            Some(Memory::Undone)
        );
        assert!(!release(&db, "u-1").await.unwrap(), "a repeated undo returns the same");
        assert!(!release(&db, "u-2").await.unwrap(), "another undo meets the tombstone");
        assert_eq!(effects(&db).await, 0);
    })
    .await;
}

#[tokio::test]
async fn an_undo_learns_that_its_command_was_carried_out() {
    on_both("durable", |db| async move {
        with_table(&db).await;
        reserve(&db, "x").await.unwrap();
        assert!(release(&db, "u-1").await.unwrap());
        assert_eq!(
            reserve(&db, "x").await.unwrap(),
            Memory::Again("reserved".to_owned()),
            "the command keeps its result"
        );
    })
    .await;
}

#[tokio::test]
async fn a_refusal_rolls_its_work_back_and_is_remembered() {
    on_both("durable", |db| async move {
        with_table(&db).await;
        let refuse = || {
            once(&db, command("x"), (), |tx, ()| async move {
                effect(&tx).await?;
                Ok(Outcome::Refused("out of stock".to_owned()))
            })
        };
        assert_eq!(refuse().await.unwrap(), Memory::First("out of stock".to_owned()));
        assert_eq!(effects(&db).await, 0, "what it wrote is rolled back");
        assert_eq!(
            reserve(&db, "x").await.unwrap(),
            Memory::Again("out of stock".to_owned()),
            "the refusal remains"
        );
    })
    .await;
}

#[tokio::test]
async fn a_fault_is_not_remembered() {
    on_both("durable", |db| async move {
        with_table(&db).await;
        let failed = once::<String, _, _, _>(&db, command("x"), (), |tx, ()| async move {
            effect(&tx).await?;
            Err(Fault::unavailable("It is down."))
        });
        assert_eq!(failed.await.unwrap_err().code, "unavailable");
        assert_eq!(
            (effects(&db).await, count(&db, "select count(*) from inbox").await),
            (0, 0)
        );
        assert_eq!(reserve(&db, "x").await.unwrap(), Memory::First("reserved".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn of_equal_commands_at_the_same_time_one_does_the_work() {
    let home = PostgresHome::new().await;
    let place = home.storage("durable").await;
    let one = banyan_durable_testing::open("durable", &place, banyan_durable_testing::settings()).await;
    let other = banyan_durable_testing::open("durable", &place, banyan_durable_testing::settings()).await;
    with_table(&one).await;
    let worked = Arc::new(AtomicUsize::new(0));
    let twins = [&one, &other, &one, &other].map(|db| {
        once(db, command("x"), worked.clone(), |tx, worked| async move {
            effect(&tx).await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(Outcome::Done(worked.fetch_add(1, Ordering::SeqCst)))
        })
    });
    let memories = futures::future::join_all(twins).await;
    let firsts = memories
        .iter()
        .filter(|memory| matches!(memory, Ok(Memory::First(0))))
        .count();
    let agains = memories
        .iter()
        .filter(|memory| matches!(memory, Ok(Memory::Again(0))))
        .count();
    assert_eq!((firsts, agains, effects(&one).await), (1, 3, 1), "{memories:?}");
    one.close().await;
    other.close().await;
    home.remove().await;
}

#[tokio::test]
async fn a_command_and_its_undo_at_the_same_time_agree_on_which_was_first() {
    let home = PostgresHome::new().await;
    let db = banyan_durable_testing::open(
        "durable",
        &home.storage("durable").await,
        banyan_durable_testing::settings(),
    )
    .await;
    with_table(&db).await;
    for round in 0..20 {
        let id = format!("c-{round}");
        let done = once(
            &db,
            Command::new("reserve", id.as_str(), b"x"),
            (),
            |tx, ()| async move {
                effect(&tx).await?;
                Ok(Outcome::Done(()))
            },
        );
        let undone = undo_once(
            &db,
            Command::new("release", id.as_str(), b"x"),
            ("reserve", id.clone()),
            (),
            |_, (), took_part| async move { Ok(took_part) },
        );
        let (done, took_part) = tokio::join!(done, undone);
        match done.unwrap() {
            Memory::First(()) => assert!(took_part.unwrap(), "the do took effect and its undo does not know"),
            Memory::Undone => assert!(!took_part.unwrap()),
            Memory::Again(()) => panic!("it was not carried out before"),
        }
    }
    db.close().await;
    home.remove().await;
}

#[tokio::test]
async fn a_command_that_its_aggregate_remembers_is_forgotten_and_a_refusal_and_a_tombstone_are_not() {
    on_both("durable", |db| async move {
        let of_aggregate = |id: &str| Command::new("reserve", id, b"x").remembered_by_its_aggregate();
        for (id, outcome) in [
            ("done", Outcome::Done("reserved".to_owned())),
            ("refused", Outcome::Refused("sold out".to_owned())),
        ] {
            let memory = once(&db, of_aggregate(id), outcome, |_, outcome| async move { Ok(outcome) });
            memory.await.unwrap();
        }
        let undo = Command::new("release", "undo", b"x").remembered_by_its_aggregate();
        let undoes = ("reserve", "never came".to_owned());
        let undone = banyan_durable::undo_once(&db, undo, undoes, (), |_, (), took_part| async move { Ok(took_part) });
        assert!(!undone.await.unwrap());
        assert_eq!(
            count(
                &db,
                "select count(*) from inbox where id in ('done', 'undo') and expires_at - created_at = 2592000000"
            )
            .await,
            2
        );
        assert_eq!(
            count(
                &db,
                "select count(*) from inbox where id in ('refused', 'never came') and expires_at is null"
            )
            .await,
            2
        );
    })
    .await;
}
