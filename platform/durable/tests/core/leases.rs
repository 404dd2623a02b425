//! `hold`: work that one instance does at a time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use banyan_core::Timestamp;
use banyan_durable::{Db, Machinery, Settings, hold};
use banyan_durable_testing::{ManualClock, PostgresHome, SqliteHome, eventually, on_both_with};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::{Running, SOON, TestBus, count, execute, note, open_as, quick};

/// How many work now, the most that ever did, and how often work began.
#[derive(Clone, Default)]
struct Watch {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    begun: Arc<AtomicUsize>,
}

impl Watch {
    fn enter(&self) {
        self.most
            .fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        self.begun.fetch_add(1, Ordering::SeqCst);
    }

    fn now(&self) -> usize {
        self.now.load(Ordering::SeqCst)
    }
}

fn work(db: &Db, watch: &Watch, stop: &CancellationToken) -> JoinHandle<()> {
    let (db, watch, stop) = (db.clone(), watch.clone(), stop.clone());
    tokio::spawn(async move {
        let run = |held: CancellationToken| {
            let watch = watch.clone();
            async move {
                watch.enter();
                held.cancelled().await;
                watch.now.fetch_sub(1, Ordering::SeqCst);
            }
        };
        hold(&db, "work", &stop, run).await;
    })
}

#[tokio::test]
async fn of_two_instances_one_works_for_longer_than_a_lease() {
    of_two_instances_one_works_until_it_ends(quick(), Duration::from_millis(2_500)).await;
}

#[tokio::test]
async fn a_lease_that_is_released_is_taken_before_it_expires() {
    let settings = Settings {
        lease_ms: 120_000,
        ..quick()
    };
    of_two_instances_one_works_until_it_ends(settings, Duration::ZERO).await;
}

async fn of_two_instances_one_works_until_it_ends(settings: Settings, works_for: Duration) {
    let home = PostgresHome::new().await;
    let place = home.storage("durable").await;
    let (one, two) = (
        banyan_durable_testing::open("durable", &place, settings.clone()).await,
        banyan_durable_testing::open("durable", &place, settings).await,
    );
    let watch = Watch::default();
    let (stop_one, stop_two) = (CancellationToken::new(), CancellationToken::new());
    let first = work(&one, &watch, &stop_one);
    eventually("one works", SOON, || async { watch.now() == 1 }).await;
    let second = work(&two, &watch, &stop_two);
    tokio::time::sleep(works_for).await;
    assert_eq!((watch.now(), watch.begun.load(Ordering::SeqCst)), (1, 1));
    stop_one.cancel();
    first.await.unwrap();
    eventually("the other works", 3 * SOON, || async {
        watch.begun.load(Ordering::SeqCst) == 2
    })
    .await;
    stop_two.cancel();
    second.await.unwrap();
    assert_eq!(watch.most.load(Ordering::SeqCst), 1, "never both");
    one.close().await;
    two.close().await;
    home.remove().await;
}

#[tokio::test]
async fn the_lease_of_a_crashed_instance_expires() {
    on_both_with("durable", quick(), |db| async move {
        let watch = Watch::default();
        let stop = CancellationToken::new();
        let dies = work(&db, &watch, &stop);
        eventually("one works", SOON, || async { watch.now() == 1 }).await;
        dies.abort();
        let _ = dies.await;
        watch.now.store(0, Ordering::SeqCst);
        let heir = work(&db, &watch, &stop);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(watch.now(), 0, "not before its time is over");
        eventually("the heir works", SOON, || async { watch.now() == 1 }).await;
        stop.cancel();
        heir.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_lease_is_judged_by_the_databases_clock_and_not_by_an_instances() {
    let home = PostgresHome::new().await;
    let place = home.storage("durable").await;
    // Some seventy years ahead: by this clock every lease has run out.
    let ahead = ManualClock::at(Timestamp::from_ms(4_000_000_000_000));
    let (one, two) = (
        banyan_durable_testing::open("durable", &place, quick()).await,
        open_as("durable", &place, quick(), ahead).await,
    );
    let (watch, stop) = (Watch::default(), CancellationToken::new());
    let first = work(&one, &watch, &stop);
    eventually("one works", SOON, || async { watch.now() == 1 }).await;
    let second = work(&two, &watch, &stop);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(
        (watch.now(), watch.begun.load(Ordering::SeqCst)),
        (1, 1),
        "the other tried many times, and the lease holds"
    );
    stop.cancel();
    first.await.unwrap();
    second.await.unwrap();
    one.close().await;
    two.close().await;
    home.remove().await;
}

#[tokio::test]
async fn a_lease_found_in_an_sqlite_file_at_the_start_is_void() {
    let home = SqliteHome::new();
    let db = banyan_durable_testing::open("orders", &home.storage("orders"), quick()).await;
    execute(
        &db,
        "insert into lease (name, owner, token, until) values ('relay', 'a crashed process', 7, 9999999999999)",
    )
    .await;
    note(&db, "order/1", "x").await;
    let running = Running::start(&Arc::new(TestBus::default()), vec![Machinery::new(db.clone())]).await;
    eventually("it is relayed", SOON, || async {
        count(&db, "select count(*) from outbox where state = 'sent'").await == 1
    })
    .await;
    running.stop().await;
    db.close().await;
}

#[tokio::test]
async fn work_is_cancelled_when_its_lease_is_lost() {
    on_both_with("durable", quick(), |db| async move {
        let (watch, stop) = (Watch::default(), CancellationToken::new());
        let loser = work(&db, &watch, &stop);
        eventually("it works", SOON, || async { watch.now() == 1 }).await;
        // Somebody else took it: another token, until the end of its time.
        execute(&db, "update lease set token = token + 1, until = until + 1000").await;
        eventually("it stops", SOON, || async { watch.now() == 0 }).await;
        stop.cancel();
        loser.await.unwrap();
        assert_eq!(
            count(&db, "select count(*) from lease where until > 0").await,
            1,
            "it gives back only its own"
        );
    })
    .await;
}

#[tokio::test]
async fn work_that_panics_releases_the_lease_and_is_restarted() {
    on_both_with("durable", quick(), |db| async move {
        let (begun, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let (seen, token) = (begun.clone(), stop.clone());
        let holder = tokio::spawn(async move {
            let run = |held: CancellationToken| {
                let seen = seen.clone();
                async move {
                    assert!(seen.fetch_add(1, Ordering::SeqCst) > 0, "on purpose");
                    held.cancelled().await;
                }
            };
            hold(&db, "work", &token, run).await;
        });
        eventually("it began again", Duration::from_millis(1_000), || async {
            begun.load(Ordering::SeqCst) == 2
        })
        .await;
        stop.cancel();
        holder.await.unwrap();
    })
    .await;
}
