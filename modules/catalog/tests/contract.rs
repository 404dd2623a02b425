//! Catalog through its contract and the events it consumes and publishes, on both databases.

use std::sync::Arc;

use banyan_core::{Call, Envelope, RandomIds, SystemClock};
use banyan_durable::Db;
use banyan_durable_testing::{RecordingBus, envelope, on_both, published};
use banyan_http_testing::{Site, TestRequest, post};
use catalog::{Needs, Offers, start};
use catalog_contract::{ListPopularProducts, ListProducts, ProductAdded, ProductChanged};
use orders_contract::{OrderConfirmed, OrderItem};
use serde_json::{Value, json};
use shared_kernel::{Money, Role};
use uuid::Uuid;

struct Shop {
    offers: Offers,
    site: Site,
    bus: Arc<RecordingBus>,
}

impl Shop {
    /// A shop with these products, each for 10 EUR.
    async fn selling(db: Db, skus: &[&str]) -> Self {
        let offers = start(Needs {
            db,
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
        })
        .await
        .expect("catalog starts");
        let shop = Shop {
            site: Site::of(offers.routes.clone()),
            bus: RecordingBus::of(&offers.machinery).await,
            offers,
        };
        for sku in skus {
            let body = json!({ "sku": sku, "name": format!("The {sku}"), "category": "plants", "price": { "amount": 1000, "currency": "EUR" } });
            shop.as_staff(post("/api/v1/products").set_json(body), 201).await;
        }
        shop
    }

    async fn as_staff(&self, request: TestRequest, expected: u16) {
        let reply = self.site.send_as(Uuid::new_v4(), &[Role::Staff], request).await;
        assert_eq!(reply.status, expected, "{}", reply.body);
    }

    async fn patch(&self, sku: &str, body: Value) {
        self.as_staff(
            TestRequest::patch()
                .uri(&format!("/api/v1/products/{sku}"))
                .set_json(body),
            200,
        )
        .await;
    }

    async fn archive(&self, sku: &str) {
        self.as_staff(TestRequest::delete().uri(&format!("/api/v1/products/{sku}")), 204)
            .await;
    }

    async fn popular(&self, limit: u32) -> Vec<String> {
        let products = self
            .offers
            .contract
            .list_popular_products(&call(), ListPopularProducts { limit })
            .await
            .unwrap();
        products.items.into_iter().map(|product| product.sku).collect()
    }
}

fn call() -> Call {
    Call::by_module("orders")
}

/// The confirmation of a new order, as orders publishes it.
fn confirmed(lines: &[(&str, u32)]) -> Envelope {
    let order = Uuid::new_v4();
    let price = Money::new(1_000, "EUR").unwrap();
    let items = lines.iter().map(|(sku, quantity)| OrderItem {
        sku: (*sku).to_owned(),
        name: String::new(),
        quantity: *quantity,
        unit_price: Some(price.clone()),
    });
    let event = OrderConfirmed {
        order_id: order.to_string(),
        user_id: String::new(),
        items: items.collect(),
        total: Some(price.clone()),
    };
    envelope("orders", &format!("order/{order}"), 1, &event)
}

#[tokio::test]
async fn unknown_products_are_left_out_and_archived_ones_are_marked() {
    on_both(catalog::SCHEMA, |db| async move {
        let shop = Shop::selling(db, &["fig", "fern"]).await;
        shop.archive("fern").await;
        let skus = ["fern", "unheard-of", "No Sku", "fig", "fig"]
            .map(str::to_owned)
            .to_vec();
        let mut found = shop
            .offers
            .contract
            .list_products(&call(), ListProducts { skus })
            .await
            .unwrap()
            .items;
        found.sort_by(|one, other| one.sku.cmp(&other.sku));
        let found: Vec<_> = found
            .iter()
            .map(|product| (product.sku.as_str(), product.active))
            .collect();
        assert_eq!(found, [("fern", false), ("fig", true)]);
        assert_eq!(
            shop.offers
                .contract
                .list_products(&call(), ListProducts { skus: vec![] })
                .await
                .unwrap()
                .items,
            []
        );
    })
    .await;
}

#[tokio::test]
async fn a_product_is_returned_with_name_and_price() {
    on_both(catalog::SCHEMA, |db| async move {
        let shop = Shop::selling(db, &["fig"]).await;
        shop.patch("fig", json!({ "price": { "amount": 1250, "currency": "USD" } }))
            .await;
        let found = shop
            .offers
            .contract
            .list_products(
                &call(),
                ListProducts {
                    skus: vec!["fig".into()],
                },
            )
            .await
            .unwrap();
        let fig = &found.items[0];
        assert_eq!((fig.name.as_str(), fig.category.as_str()), ("The fig", "plants"));
        assert_eq!(fig.price, Some(Money::new(1_250, "USD").unwrap()));
    })
    .await;
}

#[tokio::test]
async fn requests_have_limits() {
    on_both(catalog::SCHEMA, |db| async move {
        let shop = Shop::selling(db, &[]).await;
        let catalog = &shop.offers.contract;
        let named = |count: usize| ListProducts {
            skus: (0..count).map(|number| format!("sku-{number}")).collect(),
        };
        assert!(catalog.list_products(&call(), named(100)).await.is_ok());
        assert_eq!(
            catalog.list_products(&call(), named(101)).await.unwrap_err().code,
            "too_many_skus"
        );
        for limit in [0, 101] {
            assert_eq!(
                catalog
                    .list_popular_products(&call(), ListPopularProducts { limit })
                    .await
                    .unwrap_err()
                    .code,
                "invalid_limit"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn products_are_ranked_by_units_sold_and_each_sale_counts_once() {
    on_both(catalog::SCHEMA, |db| async move {
        let shop = Shop::selling(db, &["fig", "fern", "aloe", "unsold"]).await;
        assert_eq!(shop.offers.machinery.topics(), ["orders.order"]);
        let first = confirmed(&[("fig", 2), ("fern", 1), ("fig", 1)]);
        for envelope in [
            first.clone(),
            confirmed(&[("fern", 3), ("aloe", 1), ("unheard-of", 99)]),
            first.clone(),
            first,
        ] {
            shop.bus.deliver(envelope).await.unwrap();
        }
        assert_eq!(shop.popular(10).await, ["fern", "fig", "aloe"]);
        assert_eq!(shop.popular(1).await, ["fern"]);
        shop.archive("fern").await;
        assert_eq!(shop.popular(10).await, ["fig", "aloe"]);
    })
    .await;
}

#[tokio::test]
async fn changes_of_a_product_are_published_and_requests_without_effect_are_not() {
    on_both(catalog::SCHEMA, |db| async move {
        let shop = Shop::selling(db.clone(), &["fig"]).await;
        shop.patch("fig", json!({ "name": "Fig tree" })).await;
        shop.patch("fig", json!({ "name": "Fig tree", "active": true })).await;
        shop.archive("fig").await;
        shop.archive("fig").await;
        shop.patch("fig", json!({ "active": true })).await;
        let envelopes = published(&db).await;
        let kinds: Vec<_> = envelopes
            .iter()
            .map(|envelope| envelope.kind.rsplit('.').next().unwrap())
            .collect();
        assert_eq!(
            kinds,
            ["ProductAdded", "ProductChanged", "ProductArchived", "ProductRestored"]
        );
        assert!(envelopes.iter().all(|envelope| envelope.subject == "product/fig"));
        assert_eq!(envelopes[0].find::<ProductAdded>().unwrap().unwrap().name, "The fig");
        assert_eq!(envelopes[1].find::<ProductChanged>().unwrap().unwrap().name, "Fig tree");
    })
    .await;
}

#[tokio::test]
async fn the_demo_products_are_added_once_and_changes_by_staff_are_kept() {
    on_both(catalog::SCHEMA, |db| async move {
        // A sku that staff took before the seed stays theirs.
        let shop = Shop::selling(db.clone(), &["tea-01"]).await;
        let began = std::time::Instant::now();
        (shop.offers.seed)().await.unwrap();
        println!("{:?}: the products were added in {:?}", db.backend(), began.elapsed());
        shop.patch("rare-fig", json!({ "name": "Common fig" })).await;
        (shop.offers.seed)().await.unwrap();
        assert_eq!(published(&db).await.len(), 121);
        let skus = ["rare-fig", "tea-01"].map(str::to_owned).to_vec();
        let mut found = shop
            .offers
            .contract
            .list_products(&call(), ListProducts { skus })
            .await
            .unwrap()
            .items;
        found.sort_by(|one, other| one.sku.cmp(&other.sku));
        assert_eq!(
            (found[0].name.as_str(), found[1].name.as_str()),
            ("Common fig", "The tea-01")
        );
    })
    .await;
}
