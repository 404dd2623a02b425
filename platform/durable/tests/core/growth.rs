//! What the machinery keeps has an end.

use std::sync::Arc;

use banyan_core::PageRequest;
use banyan_durable::{Machinery, SagaFilter};
use banyan_durable_testing::{eventually, on_both_with};
use sea_orm::DbBackend;

use crate::harness::{Running, SOON, TestBus, count, execute, quick, texts};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

#[tokio::test]
async fn a_finished_saga_is_folded_into_its_row_after_30_days() {
    on_both_with("durable", quick(), |db| async move {
        let now = db.clock().now().as_ms();
        for (number, key, state, days) in [
            (1, "old", "completed", 31),
            (2, "undone", "compensated", 31),
            (3, "young", "completed", 29),
            (4, "given-up", "abandoned", 31),
            (5, "open", "parked", 31),
        ] {
            let id = match db.backend() {
                DbBackend::Sqlite => format!("x'{number:032x}'"),
                _ => format!("'{number:032x}'::uuid"),
            };
            let at = now - days * DAY_MS;
            let saga = format!(
                "insert into saga (id, kind, definition_version, business_key, state, step, payload, command, lease_token, lease_until, next_run_at,
                     attempts, failures, deadline_told, compensate_asked, created_at, updated_at)
                 values ({id}, 'checkout', 1, '{key}', '{state}', 'last', '{{}}', '{{}}', 0, 0, 0, 0, 0, false, false, {at}, {at})"
            );
            execute(&db, saga).await;
            let log = format!("insert into saga_log (saga_id, seq, at, entry, step, detail) values ({id}, 1, {at}, 'started', '', '')");
            execute(&db, log).await;
        }
        let machinery = Machinery::new(db.clone());
        let sagas = machinery.ops().sagas();
        let running = Running::start(&Arc::new(TestBus::default()), vec![machinery]).await;
        eventually("the old ones are folded", SOON, || async {
            count(&db, "select count(*) from saga_log").await == 3
        })
        .await;
        running.stop().await;
        assert_eq!(
            texts(&db, "select business_key from saga where payload <> '' and command is not null order by id").await,
            ["young", "given-up", "open"]
        );
        // Operators still see what it was about and how it ended.
        let old = SagaFilter {
            business_key: Some("old".to_owned()),
            ..SagaFilter::default()
        };
        let mut listed = sagas.list(&old, &PageRequest::default()).await.unwrap();
        let folded = listed.items.remove(0);
        let shown = sagas.show(folded.id).await.unwrap();
        assert_eq!((shown.saga.state.to_string(), shown.saga.step.as_str(), shown.log.len()), ("completed".to_owned(), "last", 0));
        assert_eq!((shown.payload, shown.command), (serde_json::Value::Null, None));
    })
    .await;
}
