//! {Module} through its contract and the events it consumes and publishes, on both databases.

use std::sync::Arc;

use banyan_core::{Call, RandomIds, SystemClock};
use banyan_durable::Db;
use banyan_durable_testing::{RecordingBus, default_settings, envelope, on_both, published};
use catalog_contract::ProductAdded;
use {module}::{Needs, Offers, Settings, start};
use {module}_contract::{FindItem, Item, ItemAdded};

async fn open(db: Db, settings: Settings) -> Offers {
    let needs = Needs {
        db,
        clock: Arc::new(SystemClock),
        ids: Arc::new(RandomIds),
        settings,
    };
    start(needs).await.expect("{module} starts")
}

fn settings() -> Settings {
    default_settings(include_str!("../config/default.toml"), "{module}")
}

fn product(name: &str) -> ProductAdded {
    ProductAdded {
        sku: "fig".to_owned(),
        name: name.to_owned(),
        ..ProductAdded::default()
    }
}

async fn find(offers: &Offers, item_id: &str) -> Option<Item> {
    let request = FindItem {
        item_id: item_id.to_owned(),
    };
    let found = offers.contract.find_item(&Call::by_module("orders"), request).await;
    found.expect("a response").item
}

#[tokio::test]
async fn a_new_product_adds_an_item_once() {
    on_both({module}::SCHEMA, |db| async move {
        let offers = open(db.clone(), settings()).await;
        assert_eq!(offers.machinery.topics(), ["catalog.product"]);
        let bus = RecordingBus::of(&offers.machinery).await;
        let first = envelope("catalog", "product/fig", 1, &product("Fig tree"));
        let same_name = envelope("catalog", "product/fig-2", 1, &product("Fig tree"));
        for event in [first.clone(), first, same_name] {
            bus.deliver(event).await.unwrap();
        }
        let envelopes = published(&db).await;
        assert_eq!(envelopes.len(), 1);
        let added: ItemAdded = envelopes[0].find().unwrap().unwrap();
        assert_eq!(envelopes[0].subject, format!("item/{}", added.item_id));
        let item = find(&offers, &added.item_id).await.expect("the item");
        assert_eq!((item.id, item.name), (added.item_id, "Fig tree".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn products_add_no_items_if_the_settings_say_so() {
    on_both({module}::SCHEMA, |db| async move {
        let offers = open(db.clone(), Settings { add_products: false }).await;
        let bus = RecordingBus::of(&offers.machinery).await;
        let event = envelope("catalog", "product/fig", 1, &product("Fig tree"));
        bus.deliver(event).await.unwrap();
        assert!(published(&db).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn an_unknown_item_is_absent_and_an_invalid_id_is_refused() {
    on_both({module}::SCHEMA, |db| async move {
        let offers = open(db, settings()).await;
        assert_eq!(find(&offers, "01890000-0000-7000-8000-000000000000").await, None);
        let request = FindItem {
            item_id: "no id".to_owned(),
        };
        let refused = offers.contract.find_item(&Call::by_module("orders"), request).await;
        assert_eq!(refused.unwrap_err().code, "invalid_id");
    })
    .await;
}

#[tokio::test]
async fn the_demo_items_are_added_once() {
    on_both({module}::SCHEMA, |db| async move {
        let offers = open(db.clone(), settings()).await;
        (offers.seed)().await.unwrap();
        (offers.seed)().await.unwrap();
        assert_eq!(published(&db).await.len(), 3);
    })
    .await;
}
