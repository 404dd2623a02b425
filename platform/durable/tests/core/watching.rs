//! Waiting for changes of single topics.

use std::{sync::Arc, time::Duration};

use banyan_durable::{Change, Db, Watchers};
use banyan_durable_testing::{PostgresHome, on_both, open, settings};
use futures::future::join_all;
use tokio::{sync::broadcast::Receiver, time::timeout};

use crate::harness::SOON;

async fn wake(db: &Db, topic: &str) {
    let topic: Arc<str> = topic.into();
    let woken = db.write(topic, |tx, topic| async move {
        tx.wake(topic);
        Ok(())
    });
    woken.await.unwrap();
}

#[tokio::test]
async fn whoever_watches_a_topic_is_woken_by_its_changes_and_by_no_others() {
    on_both("durable", |db| async move {
        let watchers = Watchers::new(db.clone());
        for _ in 0..3 {
            let watching: Vec<_> = (0..20)
                .map(|number| watchers.watch(format!("order/{}", number / 2)))
                .collect();
            // Before anybody waits: it is not missed.
            wake(&db, "order/3").await;
            wake(&db, "order/30").await;
            let woken = join_all(
                watching
                    .iter()
                    .map(|watcher| timeout(Duration::from_millis(300), watcher.changed())),
            )
            .await;
            let woken: Vec<usize> = (0..20).filter(|number| woken[*number].is_ok()).collect();
            assert_eq!(woken, [6, 7]);
        }
        // All have left; the next one is served again.
        wake(&db, "order/1").await;
        let watcher = watchers.watch("order/1");
        wake(&db, "order/1").await;
        timeout(SOON, watcher.changed()).await.expect("it is woken");
    })
    .await;
}

async fn received(changes: &mut Receiver<Change>, topic: &str) -> Vec<String> {
    let mut received = Vec::new();
    let until = async {
        loop {
            let change = changes.recv().await.unwrap();
            received.push(change.topic.to_string());
            if &*change.topic == topic {
                return;
            }
        }
    };
    timeout(SOON, until).await.expect("it is received");
    received
}

#[tokio::test]
async fn a_process_on_postgresql_is_woken_once_by_what_it_committed_itself() {
    let home = PostgresHome::new().await;
    let storage = home.storage("durable").await;
    let (one, other) = (
        open("durable", &storage, settings()).await,
        open("durable", &storage, settings()).await,
    );
    let (mut of_one, mut of_other) = (one.changes(), other.changes());
    // Until each listens to the other.
    for (from, to, topic) in [(&other, &mut of_one, "of other"), (&one, &mut of_other, "of one")] {
        while timeout(Duration::from_millis(50), received(to, topic)).await.is_err() {
            wake(from, topic).await;
        }
    }
    wake(&one, "mine").await;
    received(&mut of_other, "mine").await;
    wake(&other, "last").await;
    let received = received(&mut of_one, "last").await;
    assert_eq!(
        received.iter().filter(|topic| *topic == "mine").count(),
        1,
        "{received:?}"
    );
    one.close().await;
    other.close().await;
    home.remove().await;
}
