//! What the shipment of an order costs PostgreSQL, and the shipments of older versions.

use std::{sync::Arc, time::Duration};

use banyan_core::{Call, RandomIds, SystemClock};
use banyan_durable::{Connection, Migration, Schema, migrate};
use banyan_durable_testing::{PostgresHome, SqliteHome, StatementLog, open, settings};
use banyan_http_testing::{Site, get};
use sea_orm::ConnectionTrait;
use shared_kernel::Role;
use shipping::{Needs, Offers, start};
use shipping_contract::{Address, ReadyShipment, ScheduleShipment, ShipmentLine};
use uuid::Uuid;

async fn offers(db: banyan_durable::Db) -> Offers {
    let needs = Needs {
        db,
        clock: Arc::new(SystemClock),
        ids: Arc::new(RandomIds),
    };
    start(needs).await.expect("shipping starts")
}

fn id() -> String {
    Uuid::new_v4().to_string()
}

#[tokio::test]
async fn a_command_has_few_statements() {
    let home = PostgresHome::new().await;
    let (log, storage) = StatementLog::before(&home.storage("shipping").await, Duration::ZERO).await;
    let db = open(shipping::SCHEMA, &storage, settings()).await;
    let (shipping, call, order_id) = (offers(db.clone()).await.contract, Call::by_module("orders"), id());
    let schedule = ScheduleShipment {
        command_id: id(),
        order_id: order_id.clone(),
        user_id: id(),
        address: Some(Address::default()),
        lines: vec![ShipmentLine {
            sku: "fig".into(),
            quantity: 2,
        }],
    };
    log.take();
    shipping.schedule_shipment(&call, schedule).await.expect("scheduled");
    let statements = log.take();
    assert_eq!(statements.len(), 3, "{statements:#?}");
    let ready = ReadyShipment {
        command_id: id(),
        order_id,
    };
    shipping.ready_shipment(&call, ready).await.expect("ready");
    let statements = log.take();
    assert_eq!(statements.len(), 3, "{statements:#?}");
    db.close().await;
    home.remove().await;
}

/// The first version stored the history of a shipment in a table of its own.
#[tokio::test]
async fn the_history_of_a_shipment_from_the_first_version_is_kept() {
    let (sqlite, postgres) = (SqliteHome::new(), PostgresHome::new().await);
    for storage in [sqlite.storage("shipping"), postgres.storage("shipping").await] {
        let first: &'static [Migration] = &shipping::SCHEMA.migrations[..1];
        let first = Schema {
            module: "shipping",
            migrations: first,
        };
        let connection = Connection::open(&storage, "shipping").await.expect("a connection");
        migrate::up(&connection, &first)
            .await
            .expect("the first migration runs");
        // As text, an id is written the same way on neither database: as bytes on SQLite.
        let shipment = "11111111-1111-4111-8111-111111111111";
        let uuid = match connection.get_database_backend() {
            sea_orm::DbBackend::Sqlite => format!("x'{}'", shipment.replace('-', "")),
            _ => format!("'{shipment}'"),
        };
        let rows = format!(
            "insert into shipment (id, order_id, user_id, status, address, lines, tracking_number, version, created_at)
             values ({uuid}, {uuid}, {uuid}, 'dispatched', '{{\"name\":\"\",\"line1\":\"\",\"city\":\"\",\"postal_code\":\"\",\"country\":\"\"}}', '[]', 'BN1', 3, 1000);
             insert into shipment_step (shipment_id, version, status, at)
             values ({uuid}, 1, 'scheduled', 1000), ({uuid}, 2, 'ready', 2000), ({uuid}, 3, 'dispatched', 3000)"
        );
        connection
            .execute_unprepared(&rows)
            .await
            .expect("the old rows are inserted");
        connection.close().await;
        let db = open(shipping::SCHEMA, &storage, settings()).await;
        let site = Site::of(offers(db.clone()).await.routes);
        let shown = site
            .send_as(
                Uuid::new_v4(),
                &[Role::Staff],
                get(&format!("/api/v1/shipments/{shipment}")),
            )
            .await;
        let steps = shown.json()["history"].clone();
        let steps = steps.as_array().expect("a history").iter().map(|step| {
            let text = |name: &str| step[name].as_str().expect("a text").to_owned();
            (text("status"), text("at"))
        });
        let expected = [("scheduled", "01"), ("ready", "02"), ("dispatched", "03")]
            .map(|(status, second)| (status.to_owned(), format!("1970-01-01T00:00:{second}.000Z")));
        assert_eq!(steps.collect::<Vec<_>>(), expected);
        db.close().await;
    }
    postgres.remove().await;
}
