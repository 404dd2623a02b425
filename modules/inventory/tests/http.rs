//! Stock over HTTP: permissions, limits, conditional and repeated requests.

use std::sync::Arc;

use banyan_core::{Call, RandomIds, SystemClock};
use banyan_durable::Db;
use banyan_durable_testing::on_both;
use banyan_http_testing::{Reply, Site, TestRequest, get, post};
use inventory::{Needs, start};
use inventory_contract::{Inventory, ReserveStock, StockLine};
use serde_json::{Value, json};
use shared_kernel::Role;
use uuid::Uuid;

struct Shop {
    site: Site,
    inventory: Arc<dyn Inventory>,
}

impl Shop {
    async fn open(db: Db) -> Self {
        let offers = start(Needs {
            db,
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
            publishes_levels: true,
        })
        .await
        .expect("inventory starts");
        Shop {
            site: Site::of(offers.routes.clone()),
            inventory: offers.contract,
        }
    }

    async fn as_staff(&self, request: TestRequest) -> Reply {
        self.site.send_as(Uuid::from_u128(9), &[Role::Staff], request).await
    }

    async fn book(&self, path: &str, body: Value) -> Reply {
        self.as_staff(keyed(path).set_json(body)).await
    }

    async fn receive(&self, sku: &str, quantity: i64) -> Reply {
        self.book(
            &format!("/api/v1/stock/{sku}/receipts"),
            json!({ "quantity": quantity }),
        )
        .await
    }

    async fn reserve(&self, sku: &str, quantity: u32) {
        let request = ReserveStock {
            command_id: Uuid::new_v4().to_string(),
            order_id: Uuid::new_v4().to_string(),
            lines: vec![StockLine {
                sku: sku.to_owned(),
                quantity,
            }],
        };
        self.inventory
            .reserve_stock(&Call::by_module("orders"), request)
            .await
            .unwrap();
    }
}

fn keyed(path: &str) -> TestRequest {
    post(path).insert_header(("Idempotency-Key", Uuid::new_v4().to_string()))
}

#[tokio::test]
async fn the_first_receipt_creates_the_item_and_anybody_sees_it() {
    on_both(inventory::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let path = "/api/v1/stock/rare-fig";
        assert_eq!(shop.site.send(get(path)).await.status, 404);
        let booked = shop
            .book(
                &format!("{path}/receipts"),
                json!({ "quantity": 3, "reason": "delivery 4711" }),
            )
            .await;
        assert_eq!((booked.status, booked.header("location")), (201, path));
        shop.reserve("rare-fig", 2).await;
        let shown = shop.site.send(get(path)).await;
        assert_eq!(
            shown.json(),
            json!({ "sku": "rare-fig", "on_hand": 3, "reserved": 2, "available": 1 })
        );
        let etag = shown.header("etag").to_owned();
        assert_eq!(
            shop.site
                .send(get(path).insert_header(("If-None-Match", etag)))
                .await
                .status,
            304
        );
        assert_eq!(shop.site.send(get("/api/v1/stock/Rare_Fig")).await.status, 404);
    })
    .await;
}

#[tokio::test]
async fn staff_list_all_stock_page_by_page() {
    on_both(inventory::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let path = "/api/v1/stock";
        assert_eq!(shop.site.send(get(path)).await.status, 401);
        let customer = shop.site.send_as(Uuid::from_u128(8), &[Role::Customer], get(path));
        assert_eq!(customer.await.status, 403);
        let empty = shop.as_staff(get(path)).await.json();
        assert_eq!(empty, json!({ "items": [], "next_cursor": null }));
        let skus: Vec<String> = (0..7).map(|number| format!("fig-{number}")).collect();
        for sku in skus.iter().rev() {
            shop.receive(sku, 3).await;
        }
        shop.reserve("fig-3", 2).await;
        let (mut listed, mut cursor) = (Vec::new(), String::new());
        for expected in [3, 3, 1] {
            let page = shop.as_staff(get(&format!("{path}?limit=3{cursor}"))).await.json();
            let items = page["items"].as_array().unwrap().clone();
            assert_eq!(items.len(), expected);
            listed.extend(items);
            cursor = match page["next_cursor"].as_str() {
                Some(next) => format!("&cursor={next}"),
                None => String::new(),
            };
            // What comes in before the page that is read next does not move it.
            shop.receive("aloe", 1).await;
        }
        assert_eq!(cursor, "", "the last page has no next one");
        let order: Vec<&str> = listed.iter().map(|level| level["sku"].as_str().unwrap()).collect();
        assert_eq!(order, skus);
        assert_eq!(
            listed[3],
            json!({ "sku": "fig-3", "on_hand": 3, "reserved": 2, "available": 1 })
        );
        for (query, code) in [
            ("limit=0", "invalid_parameter"),
            ("limit=101", "invalid_parameter"),
            // "17 fig", the cursor of a list that is sorted by time.
            ("cursor=MTcgZmln", "invalid_parameter"),
        ] {
            let reply = shop.as_staff(get(&format!("{path}?{query}"))).await;
            assert_eq!((reply.status, reply.code().as_str()), (400, code), "{query}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_level_that_has_changed_since_it_was_read_is_not_corrected() {
    on_both(inventory::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let path = "/api/v1/stock/rare-fig";
        let book = |action: &str, tag: &str| {
            let request = keyed(&format!("{path}/{action}")).insert_header(("If-Match", tag.to_owned()));
            shop.as_staff(request.set_json(json!({ "quantity": 1, "reason": "a count" })))
        };
        assert_eq!(book("receipts", "*").await.status, 412, "there is no level yet");
        shop.receive("rare-fig", 3).await;
        let read = shop.site.send(get(path)).await.header("etag").to_owned();
        shop.receive("rare-fig", 1).await;
        for action in ["receipts", "adjustments"] {
            let stale = book(action, &read).await;
            assert_eq!((stale.status, stale.code().as_str()), (412, "precondition_failed"));
            let read = shop.site.send(get(path)).await.header("etag").to_owned();
            assert_eq!(book(action, &read).await.status, 201);
        }
    })
    .await;
}

#[tokio::test]
async fn receipts_are_for_staff_and_need_a_key() {
    on_both(inventory::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        for action in ["receipts", "adjustments"] {
            let path = format!("/api/v1/stock/tea-01/{action}");
            let body = json!({ "quantity": 1 });
            assert_eq!(shop.site.send(keyed(&path).set_json(&body)).await.status, 401);
            for role in [Role::Customer, Role::Ops] {
                assert_eq!(
                    shop.site
                        .send_as(Uuid::new_v4(), &[role], keyed(&path).set_json(&body))
                        .await
                        .status,
                    403
                );
            }
            let keyless = shop.as_staff(post(&path).set_json(&body)).await;
            assert_eq!(
                (keyless.status, keyless.code().as_str()),
                (400, "idempotency_key_required")
            );
        }
        assert_eq!(shop.site.send(get("/api/v1/stock/tea-01")).await.status, 404);
    })
    .await;
}

#[tokio::test]
async fn a_receipt_sent_twice_is_booked_once() {
    on_both(inventory::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let request = |quantity: i64| {
            let keyed = post("/api/v1/stock/tea-01/receipts").insert_header(("Idempotency-Key", "delivery-1"));
            keyed.set_json(json!({ "quantity": quantity }))
        };
        let first = shop.as_staff(request(5)).await;
        let again = shop.as_staff(request(5)).await;
        assert_eq!((first.status, again.status, &first.body), (201, 201, &again.body));
        assert_eq!(
            (
                first.header("idempotency-replayed"),
                again.header("idempotency-replayed")
            ),
            ("", "true")
        );
        let other = shop.as_staff(request(6)).await;
        assert_eq!((other.status, other.code().as_str()), (422, "idempotency_key_reused"));
        assert_eq!(shop.site.send(get("/api/v1/stock/tea-01")).await.json()["on_hand"], 5);
    })
    .await;
}

#[tokio::test]
async fn documented_limits_are_enforced() {
    on_both(inventory::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let receipts = "/api/v1/stock/tea-01/receipts";
        for body in [
            json!({}),
            json!({ "quantity": 0 }),
            json!({ "quantity": -1 }),
            json!({ "quantity": 1_000_001 }),
            json!({ "quantity": 1.5 }),
            json!({ "quantity": "1" }),
            json!({ "quantity": 1, "reason": "" }),
            json!({ "quantity": 1, "reason": "r".repeat(501) }),
            json!({ "quantity": 1, "reasons": "typo" }),
        ] {
            let reply = shop.book(receipts, body.clone()).await;
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (422, "invalid_body"),
                "{body}: {}",
                reply.body
            );
        }
        assert_eq!(shop.receive("tea-01", 1_000_000).await.status, 201);
        let adjustments = "/api/v1/stock/tea-01/adjustments";
        for quantity in [
            json!(0),
            json!(1_000_001),
            json!(-1_000_001),
            json!(0.5),
            json!(null),
            json!("1"),
        ] {
            let reply = shop.book(adjustments, json!({ "quantity": quantity })).await;
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (422, "invalid_body"),
                "{quantity}: {}",
                reply.body
            );
        }
        for (quantity, left) in [
            (json!(-1_000_000), 0),
            (json!(1_000_000), 1_000_000),
            (json!(-1.0), 999_999),
        ] {
            let reply = shop
                .book(adjustments, json!({ "quantity": quantity, "reason": null }))
                .await;
            assert_eq!(
                (reply.status, reply.json()["on_hand"].as_i64()),
                (201, Some(left)),
                "{}",
                reply.body
            );
        }
        assert_eq!(
            shop.book("/api/v1/stock/No_Sku/receipts", json!({ "quantity": 1 }))
                .await
                .status,
            404
        );
    })
    .await;
}

#[tokio::test]
async fn reserved_units_cannot_be_written_off() {
    on_both(inventory::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let path = "/api/v1/stock/tea-01/adjustments";
        assert_eq!(shop.book(path, json!({ "quantity": 1 })).await.status, 404);
        shop.receive("tea-01", 10).await;
        shop.reserve("tea-01", 4).await;
        let refused = shop.book(path, json!({ "quantity": -7 })).await;
        assert_eq!((refused.status, refused.code().as_str()), (409, "below_reserved"));
        let adjusted = shop.book(path, json!({ "quantity": -6 })).await;
        assert_eq!(
            adjusted.json(),
            json!({ "sku": "tea-01", "on_hand": 4, "reserved": 4, "available": 0 })
        );
    })
    .await;
}

#[tokio::test]
async fn the_document_has_the_enforced_limits() {
    on_both(inventory::SCHEMA, |db| async move {
        let offers = start(Needs {
            db,
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
            publishes_levels: true,
        })
        .await
        .expect("inventory starts");
        let api = banyan_http::openapi::document(Default::default(), &[offers.routes]);
        assert_eq!(banyan_http::openapi::dangling_references(&api), Vec::<String>::new());
        let document = serde_json::to_value(&api).unwrap();
        let paths = document["paths"].as_object().unwrap();
        assert!(
            paths.keys().eq([
                "/api/v1/stock",
                "/api/v1/stock/{sku}",
                "/api/v1/stock/{sku}/adjustments",
                "/api/v1/stock/{sku}/receipts"
            ]),
            "{paths:?}"
        );
        let schemas = &document["components"]["schemas"];
        assert_eq!(schemas["StockReceipt"]["properties"]["quantity"]["maximum"], 1_000_000);
        let branches = schemas["StockAdjustment"]["properties"]["quantity"]["oneOf"]
            .as_array()
            .unwrap();
        assert_eq!(
            (branches[0]["minimum"].as_i64(), branches[1]["maximum"].as_i64()),
            (Some(1), Some(-1))
        );
        let sku = &paths["/api/v1/stock/{sku}"]["get"]["parameters"][0];
        assert_eq!(sku["schema"]["pattern"], "^[a-z0-9][a-z0-9-]{0,63}$");
        let adjusting = paths["/api/v1/stock/{sku}/adjustments"]["post"]["responses"]
            .as_object()
            .unwrap();
        assert!(
            ["201", "400", "401", "403", "404", "409", "422"]
                .iter()
                .all(|status| adjusting.contains_key(*status)),
            "{adjusting:?}"
        );
    })
    .await;
}
