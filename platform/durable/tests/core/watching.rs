//! Waiting for changes of single topics.

use std::{sync::Arc, time::Duration};

use banyan_durable::{Db, Watchers};
use banyan_durable_testing::on_both;
use futures::future::join_all;
use tokio::time::timeout;

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
