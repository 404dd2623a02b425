//! Products over HTTP: searching, changing, and permissions.

use std::sync::Arc;

use banyan_core::{RandomIds, SystemClock};
use banyan_durable::Db;
use banyan_durable_testing::on_both;
use banyan_http_testing::{Reply, Site, TestRequest, get, post};
use catalog::{Needs, start};
use serde_json::{Value, json};
use shared_kernel::Role;
use uuid::Uuid;

struct Shop {
    site: Site,
}

impl Shop {
    async fn empty(db: Db) -> Self {
        let offers = start(Needs {
            db,
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
        })
        .await
        .expect("catalog starts");
        Shop {
            site: Site::of(offers.routes),
        }
    }

    async fn seeded(db: Db) -> Self {
        let offers = start(Needs {
            db,
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
        })
        .await
        .expect("catalog starts");
        (offers.seed)().await.unwrap();
        Shop {
            site: Site::of(offers.routes),
        }
    }

    async fn as_staff(&self, request: TestRequest) -> Reply {
        self.site.send_as(Uuid::from_u128(9), &[Role::Staff], request).await
    }

    async fn add(&self, sku: &str, name: &str, description: &str, price: i64) {
        let body = json!({ "sku": sku, "name": name, "description": description, "category": "plants", "price": euros(price) });
        let reply = self.as_staff(post("/api/v1/products").set_json(body)).await;
        assert_eq!(reply.status, 201, "{}", reply.body);
    }

    /// The skus of a list, in its order.
    async fn skus(&self, query: &str) -> Vec<String> {
        let reply = self.site.send(get(&format!("/api/v1/products?{query}"))).await;
        assert_eq!(reply.status, 200, "{query}: {}", reply.body);
        skus(&reply.json())
    }
}

fn euros(cents: i64) -> Value {
    json!({ "amount": cents, "currency": "EUR" })
}

fn skus(list: &Value) -> Vec<String> {
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["sku"].as_str().unwrap().to_owned())
        .collect()
}

fn patch(path: &str, body: Value) -> TestRequest {
    TestRequest::patch().uri(path).set_json(body)
}

fn fig() -> Value {
    json!({ "sku": "fig", "name": "Fig", "description": "A tree.", "category": "plants", "price": euros(2490) })
}

#[tokio::test]
async fn pages_lead_from_the_newest_to_the_oldest_product() {
    on_both(catalog::SCHEMA, |db| async move {
        let shop = Shop::seeded(db).await;
        let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = shop
                .site
                .send(get(&format!("/api/v1/products?limit=50{cursor}")))
                .await
                .json();
            seen.extend(skus(&page));
            pages += 1;
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!((seen.len(), pages), (120, 3));
        assert_eq!((seen[0].as_str(), seen[119].as_str()), ("kitchen-17", "rare-fig"));
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 120);
        assert_eq!(shop.skus("").await.len(), 20);
    })
    .await;
}

#[tokio::test]
async fn products_created_at_the_same_time_are_not_lost_between_pages() {
    on_both(catalog::SCHEMA, |db| async move {
        let clock = banyan_durable_testing::ManualClock::at(banyan_core::Timestamp::from_ms(1_800_000_000_000));
        let offers = start(Needs {
            db,
            clock,
            ids: Arc::new(RandomIds),
        })
        .await
        .expect("catalog starts");
        let shop = Shop {
            site: Site::of(offers.routes),
        };
        for sku in ["a", "b", "c"] {
            shop.add(sku, sku, "", 1).await;
        }
        let first = shop.site.send(get("/api/v1/products?limit=2")).await.json();
        assert_eq!(skus(&first), ["c", "b"]);
        let next = first["next_cursor"].as_str().unwrap();
        assert_eq!(shop.skus(&format!("limit=2&cursor={next}")).await, ["a"]);
    })
    .await;
}

#[tokio::test]
async fn a_search_finds_parts_of_words_in_any_case_and_all_words_must_occur() {
    on_both(catalog::SCHEMA, |db| async move {
        let shop = Shop::empty(db).await;
        shop.add("fig", "Weeping fig", "Likes 100% light", 2_490).await;
        shop.add("fern", "Königsfarn", "ÜPPIG und GRÜN", 1_490).await;
        shop.add("mug", "Mug", "for_tea!", 990).await;
        for (query, found) in [
            ("q=FIG", &["fig"][..]),
            ("q=weep", &["fig"]),
            ("q=light%20weeping", &["fig"]),
            ("q=light%20fern", &[]),
            ("q=%C3%9Cppig", &["fern"]),
            ("q=gr%C3%BCn%20K%C3%96NIG", &["fern"]),
            ("q=100%25", &["fig"]),
            ("q=%25", &[]),
            ("q=_", &[]),
            ("q=for_tea!", &["mug"]),
            ("q=tea%20for", &["mug"]),
            ("q=%20", &["mug", "fern", "fig"]),
            ("q=m%27%20or%201=1", &[]),
            ("min_price=1490", &["fern", "fig"]),
            ("max_price=1490", &["mug", "fern"]),
            ("min_price=1000&max_price=2000", &["fern"]),
            ("min_price=2000&max_price=1000", &[]),
            ("category=plants&q=mug", &["mug"]),
            ("category=pots", &[]),
        ] {
            assert_eq!(shop.skus(query).await, found, "{query}");
        }
    })
    .await;
}

#[tokio::test]
async fn parameters_have_limits() {
    on_both(catalog::SCHEMA, |db| async move {
        let shop = Shop::empty(db).await;
        let long = format!("q={}", "w".repeat(201));
        for query in [
            "limit=0",
            "limit=101",
            "cursor=!",
            "cursor=Zm9v",
            "min_price=-1",
            "min_price=x",
            "max_price=1000000000001",
            "category=Plants!",
            "include_archived=maybe",
            "sort=price",
            "q=",
            &long,
        ] {
            let reply = shop.site.send(get(&format!("/api/v1/products?{query}"))).await;
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (400, "invalid_parameter"),
                "{query}: {}",
                reply.body
            );
        }
    })
    .await;
}

#[tokio::test]
async fn a_product_is_added_once() {
    on_both(catalog::SCHEMA, |db| async move {
        let shop = Shop::empty(db).await;
        let request = |body: &Value| {
            post("/api/v1/products")
                .insert_header(("Idempotency-Key", "k-1"))
                .set_json(body)
        };
        let added = shop.as_staff(request(&fig())).await;
        assert_eq!(
            (added.status, added.header("location"), added.header("etag")),
            (201, "/api/v1/products/fig", "\"1\"")
        );
        let again = shop.as_staff(request(&fig())).await;
        assert_eq!(
            (again.status, again.header("idempotency-replayed"), &again.body),
            (201, "true", &added.body)
        );
        assert_eq!(shop.as_staff(request(&json!({ "sku": "other" }))).await.status, 422);
        let taken = shop.as_staff(post("/api/v1/products").set_json(fig())).await;
        assert_eq!((taken.status, taken.code().as_str()), (409, "sku_taken"));

        let shown = shop.site.send(get("/api/v1/products/fig")).await;
        let mut expected = fig();
        expected["active"] = json!(true);
        assert_eq!((shown.json(), shown.header("etag")), (expected, "\"1\""));
        assert_eq!(
            shop.site
                .send(get("/api/v1/products/fig").insert_header(("If-None-Match", "\"1\"")))
                .await
                .status,
            304
        );
        assert_eq!(shop.site.send(get("/api/v1/products/unheard-of")).await.status, 404);
        assert_eq!(shop.site.send(get("/api/v1/products/No%20Sku")).await.status, 404);
    })
    .await;
}

#[tokio::test]
async fn bodies_are_checked() {
    on_both(catalog::SCHEMA, |db| async move {
        let shop = Shop::empty(db).await;
        let with = |field: &str, value: Value| {
            let mut body = fig();
            body[field] = value;
            body
        };
        for (body, code) in [
            (with("sku", json!("Fig Tree")), "invalid_body"),
            (with("name", json!("")), "invalid_body"),
            (with("name", json!("n".repeat(201))), "invalid_body"),
            (with("name", json!("nul\u{0}")), "invalid_body"),
            (with("description", json!(null)), "invalid_body"),
            (with("category", json!("Plants & more")), "invalid_body"),
            (with("price", euros(-1)), "invalid_body"),
            (
                with("price", json!({ "amount": 1.5, "currency": "EUR" })),
                "invalid_body",
            ),
            (
                with("price", json!({ "amount": 1, "currency": "euro" })),
                "invalid_body",
            ),
            (
                with("price", json!({ "amount": 1, "currency": "EUR", "scale": 2 })),
                "invalid_body",
            ),
            (
                with("price", json!({ "amount": 1, "currency": "QQQ" })),
                "unknown_currency",
            ),
            (
                with("price", json!({ "amount": 1, "currency": "XXX" })),
                "unknown_currency",
            ),
            (
                with("price", json!({ "amount": 1, "currency": "HRK" })),
                "unknown_currency",
            ),
            (with("colour", json!("green")), "invalid_body"),
            (with("active", json!(false)), "invalid_body"),
        ] {
            let reply = shop.as_staff(post("/api/v1/products").set_json(&body)).await;
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (422, code),
                "{body}: {}",
                reply.body
            );
            assert!(!reply.json()["errors"].as_array().unwrap().is_empty(), "{}", reply.body);
        }
        let mut sparse = fig();
        sparse.as_object_mut().unwrap().remove("description");
        assert_eq!(
            shop.as_staff(post("/api/v1/products").set_json(sparse)).await.json()["description"],
            ""
        );
        for body in [
            json!({ "sku": "other" }),
            json!({ "name": null }),
            json!({ "price": null }),
            json!([]),
        ] {
            let reply = shop.as_staff(patch("/api/v1/products/fig", body.clone())).await;
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (422, "invalid_body"),
                "{body}: {}",
                reply.body
            );
        }
    })
    .await;
}

#[tokio::test]
async fn a_change_of_an_outdated_version_is_refused() {
    on_both(catalog::SCHEMA, |db| async move {
        let shop = Shop::empty(db).await;
        shop.add("fig", "Fig", "", 2_490).await;
        let path = "/api/v1/products/fig";
        let changed = shop
            .as_staff(patch(path, json!({ "price": euros(1990) })).insert_header(("If-Match", "\"1\"")))
            .await;
        assert_eq!(
            (changed.status, changed.header("etag"), &changed.json()["price"]),
            (200, "\"2\"", &euros(1990))
        );
        let late = shop
            .as_staff(patch(path, json!({ "price": euros(2990) })).insert_header(("If-Match", "\"1\"")))
            .await;
        assert_eq!((late.status, late.code().as_str()), (412, "precondition_failed"));
        let late = shop
            .as_staff(TestRequest::delete().uri(path).insert_header(("If-Match", "\"1\"")))
            .await;
        assert_eq!(late.status, 412);
        let unconditional = shop.as_staff(patch(path, json!({}))).await;
        assert_eq!((unconditional.status, unconditional.header("etag")), (200, "\"2\""));
        assert_eq!(
            shop.as_staff(patch("/api/v1/products/fern", json!({}))).await.status,
            404
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_at_the_same_time_all_count() {
    on_both(catalog::SCHEMA, |db| async move {
        let shop = Shop::empty(db).await;
        shop.add("fig", "Fig", "", 1).await;
        let change =
            |number: i64| shop.as_staff(patch("/api/v1/products/fig", json!({ "price": euros(100 + number) })));
        let (a, b, c, d) = tokio::join!(change(1), change(2), change(3), change(4));
        assert!([a, b, c, d].iter().all(|reply| reply.status == 200));
        assert_eq!(
            shop.site.send(get("/api/v1/products/fig")).await.header("etag"),
            "\"5\""
        );
    })
    .await;
}

#[tokio::test]
async fn an_archived_product_is_not_listed_but_can_be_linked_to() {
    on_both(catalog::SCHEMA, |db| async move {
        let shop = Shop::empty(db).await;
        shop.add("fig", "Fig", "", 2_490).await;
        let archive = || TestRequest::delete().uri("/api/v1/products/fig");
        for _ in 0..2 {
            let reply = shop.as_staff(archive()).await;
            assert_eq!((reply.status, reply.body.as_str()), (204, ""));
        }
        assert!(shop.skus("").await.is_empty());
        assert_eq!(
            shop.site.send(get("/api/v1/products/fig")).await.json()["active"],
            false
        );
        let all = get("/api/v1/products?include_archived=true");
        assert_eq!(skus(&shop.as_staff(all).await.json()), ["fig"]);
        let customer = shop
            .site
            .send_as(
                Uuid::new_v4(),
                &[Role::Customer],
                get("/api/v1/products?include_archived=true"),
            )
            .await;
        assert_eq!(customer.status, 403);
        assert!(shop.skus("include_archived=false").await.is_empty());
        let taken = shop.as_staff(post("/api/v1/products").set_json(fig())).await;
        assert_eq!(taken.code(), "sku_taken");
        assert_eq!(
            shop.as_staff(patch("/api/v1/products/fig", json!({ "active": true })))
                .await
                .status,
            200
        );
        assert_eq!(shop.skus("").await, ["fig"]);
    })
    .await;
}

#[tokio::test]
async fn only_staff_can_change_the_catalog() {
    on_both(catalog::SCHEMA, |db| async move {
        let shop = Shop::empty(db).await;
        shop.add("fig", "Fig", "", 2_490).await;
        let requests = [
            || post("/api/v1/products").set_json(fig()),
            || patch("/api/v1/products/fig", json!({ "name": "Mine" })),
            || TestRequest::delete().uri("/api/v1/products/fig"),
        ];
        for request in requests {
            assert_eq!(shop.site.send(request()).await.status, 401);
            for role in [Role::Customer, Role::Ops] {
                assert_eq!(shop.site.send_as(Uuid::new_v4(), &[role], request()).await.status, 403);
            }
        }
        assert_eq!(
            shop.site.send(get("/api/v1/products/fig")).await.header("etag"),
            "\"1\""
        );
    })
    .await;
}

#[tokio::test]
async fn the_document_has_every_route_and_parameter() {
    on_both(catalog::SCHEMA, |db| async move {
        let offers = start(Needs {
            db,
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
        })
        .await
        .expect("catalog starts");
        let api = banyan_http::openapi::document(Default::default(), &[offers.routes]);
        assert_eq!(banyan_http::openapi::dangling_references(&api), Vec::<String>::new());
        let document = serde_json::to_value(&api).unwrap();
        let paths = document["paths"].as_object().unwrap();
        assert!(
            paths.keys().eq(["/api/v1/products", "/api/v1/products/{sku}"]),
            "{paths:?}"
        );
        let parameters = paths["/api/v1/products"]["get"]["parameters"].as_array().unwrap();
        let names: Vec<_> = parameters
            .iter()
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "q",
                "category",
                "min_price",
                "max_price",
                "include_archived",
                "limit",
                "cursor"
            ]
        );
        let one = &paths["/api/v1/products/{sku}"];
        for (method, statuses) in [
            ("get", &["200", "304", "404"][..]),
            ("patch", &["200", "401", "403", "404", "412", "422"]),
            ("delete", &["204", "412"]),
        ] {
            let responses = one[method]["responses"].as_object().unwrap();
            assert!(
                statuses.iter().all(|status| responses.contains_key(*status)),
                "{method}: {responses:?}"
            );
        }
        let price = &document["components"]["schemas"]["ProductChange"]["properties"]["price"];
        assert!(!price.is_null() && !price.to_string().contains("\"null\""), "{price}");
    })
    .await;
}
