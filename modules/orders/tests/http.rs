//! Orders and carts over HTTP: limits, repeats, waiting, who may see what.

mod support;

use std::time::Duration;

use banyan_durable::SagaState;
use banyan_durable_testing::{eventually, on_both_with};
use banyan_http_testing::{TestRequest, get, post};
use futures::future::join_all;
use orders::{Limits, Settings};
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use shared_kernel::Role;
use uuid::Uuid;

use support::{
    ADA, BOB, Harness, address,
    fakes::{Scripted, TIMEOUT},
    id_in, keyed, order_of, quick, settings, two_figs,
};

const ORDERS: &str = "/api/v1/orders";

fn with_key(key: &str) -> TestRequest {
    post(ORDERS).insert_header(("Idempotency-Key", key))
}

#[tokio::test]
async fn a_placed_order_is_returned_as_pending_at_once_and_a_replay_is_the_same_bytes() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db).await;
        let first = harness.as_ada(with_key("k1").set_json(two_figs())).await;
        let db = harness.offers.machinery.db();
        let kept =
            sea_orm::Statement::from_string(db.backend(), "select expires_at - created_at as kept_ms from inbox");
        let kept = db.read().query_one_raw(kept).await.unwrap().unwrap();
        assert_eq!(
            kept.try_get::<i64>("", "kept_ms").unwrap(),
            30 * 86_400_000,
            "the response is stored for 30 days"
        );
        let order = id_in(&first);
        assert_eq!(
            (first.status, first.header("location")),
            (201, format!("{ORDERS}/{order}").as_str())
        );
        assert_eq!(first.header("etag"), "\"1\"");
        let body = first.json();
        assert_eq!(
            (&body["status"], &body["payment"], &body["shipment"]),
            (&json!("pending"), &Value::Null, &Value::Null)
        );
        let item =
            json!({ "sku": "fig", "name": "FIG", "quantity": 2, "unit_price": { "amount": 199, "currency": "EUR" } });
        assert_eq!(
            (&body["items"], &body["total"]),
            (&json!([item]), &json!({ "amount": 398, "currency": "EUR" }))
        );
        assert_eq!(body.get("cancel_reason"), None);

        harness.until_status(order, "confirmed").await;
        let again = harness.as_ada(with_key("k1").set_json(two_figs())).await;
        assert_eq!(
            (again.status, &again.body, again.header("idempotency-replayed")),
            (201, &first.body, "true")
        );
        let waiting = harness
            .as_ada(with_key("k1").set_json(two_figs()).insert_header(("Prefer", "wait=5")))
            .await;
        assert_eq!((waiting.status, &waiting.json()["status"]), (201, &json!("confirmed")));
        assert_eq!(
            (waiting.header("idempotency-replayed"), waiting.header("location")),
            ("true", first.header("location"))
        );
        let other = harness
            .as_ada(with_key("k1").set_json(order_of(json!([{ "sku": "fig", "quantity": 3 }]))))
            .await;
        assert_eq!((other.status, other.code().as_str()), (422, "idempotency_key_reused"));
        let of_bob = harness.as_bob(with_key("k1").set_json(two_figs())).await;
        assert_ne!(id_in(&of_bob), order, "a key belongs to its caller");
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn with_too_many_unfinished_checkouts_new_orders_are_refused_and_accepted_ones_are_finished() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let mut harness = Harness::open_with(
            db,
            Settings {
                open_checkouts: 2,
                ..settings()
            },
            Limits::default(),
        )
        .await;
        let cart = id_in(&harness.as_ada(post("/api/v1/carts")).await);
        harness
            .as_ada(
                TestRequest::put()
                    .uri(&format!("/api/v1/carts/{cart}/items/fig"))
                    .set_json(json!({ "quantity": 1 })),
            )
            .await;
        let check_out = || {
            let terms = json!({ "shipping_address": address(), "payment_method": "pm_card_visa" });
            post(&format!("/api/v1/carts/{cart}/checkout"))
                .insert_header(("Idempotency-Key", "c1"))
                .set_json(terms)
        };
        let first = harness.as_ada(with_key("k1").set_json(two_figs())).await;
        let second = harness.as_ada(with_key("k2").set_json(two_figs())).await;
        assert_eq!((first.status, second.status), (201, 201));
        for refused in [
            harness.as_ada(with_key("k3").set_json(two_figs())).await,
            harness.as_ada(check_out()).await,
        ] {
            assert_eq!((refused.status, refused.code().as_str()), (503, "too_many_open_orders"));
            assert_eq!(refused.header("retry-after"), "5");
        }
        let again = harness.as_ada(with_key("k2").set_json(two_figs())).await;
        assert_eq!(
            (again.status, &again.body),
            (201, &second.body),
            "an accepted order is returned as before"
        );
        assert_eq!(
            harness.as_ada(get(ORDERS)).await.json()["items"]
                .as_array()
                .unwrap()
                .len(),
            2,
            "nothing was stored"
        );

        harness.run();
        for order in [&first, &second] {
            harness.until_status(id_in(order), "confirmed").await;
        }
        eventually("the checkouts have ended", TIMEOUT, || async {
            let states = [
                harness.saga("checkout", id_in(&first)).await,
                harness.saga("checkout", id_in(&second)).await,
            ];
            states
                .into_iter()
                .flatten()
                .all(|saga| saga.state == SagaState::Completed)
        })
        .await;
        let third = harness.as_ada(with_key("k3").set_json(two_figs())).await;
        assert_eq!(
            third.status, 201,
            "the key of a refused order can be used again: {}",
            third.body
        );
        harness.until_status(id_in(&third), "confirmed").await;
        eventually("the cart is accepted", TIMEOUT, || async {
            harness.as_ada(check_out()).await.status == 201
        })
        .await;
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_parked_checkout_does_not_count_as_unfinished() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let mut harness = Harness::open_with(
            db,
            Settings {
                open_checkouts: 1,
                ..settings()
            },
            Limits::default(),
        )
        .await;
        harness.run();
        harness.modules.script("capture_payment", [Scripted::FinalFault]);
        let stuck = harness.place().await;
        let parked = || async {
            harness
                .saga("checkout", stuck)
                .await
                .is_some_and(|saga| saga.state == SagaState::Parked)
        };
        eventually("it is parked", TIMEOUT, parked).await;
        let next = harness.place().await;
        harness.until_status(next, "confirmed").await;
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_client_that_prefers_to_wait_gets_the_outcome() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db).await;
        let waiting = || keyed(ORDERS).insert_header(("Prefer", "wait=10")).set_json(two_figs());
        let reply = harness.as_ada(waiting()).await;
        assert_eq!((reply.status, &reply.json()["status"]), (201, &json!("confirmed")));
        assert_eq!(reply.header("preference-applied"), "wait=10");
        assert_eq!(reply.header("etag"), format!("\"{}\"", reply.json()["version"]));
        harness.modules.script("reserve_stock", [Scripted::Refused]);
        let reply = harness.as_ada(waiting()).await;
        assert_eq!(
            (&reply.json()["status"], &reply.json()["cancel_reason"]),
            (&json!("cancelled"), &json!("out_of_stock"))
        );
        harness.modules.script_always("authorise_payment", Scripted::InProgress);
        let begun = std::time::Instant::now();
        let reply = harness
            .as_ada(keyed(ORDERS).insert_header(("Prefer", "wait=1")).set_json(two_figs()))
            .await;
        assert_eq!(
            (reply.status, &reply.json()["status"]),
            (201, &json!("pending")),
            "the wait is limited"
        );
        assert!(begun.elapsed() >= Duration::from_secs(1));
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn while_the_catalog_is_unavailable_nothing_is_stored_and_the_same_request_works_later() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::open(db).await;
        harness.modules.set_catalog_available(false);
        let reply = harness.as_ada(with_key("k1").set_json(two_figs())).await;
        assert_eq!(
            (reply.status, reply.header("retry-after")),
            (503, "1"),
            "{}",
            reply.body
        );
        assert_eq!(harness.as_ada(get(ORDERS)).await.json()["items"], json!([]));
        harness.modules.set_catalog_available(true);
        let reply = harness.as_ada(with_key("k1").set_json(two_figs())).await;
        assert_eq!((reply.status, reply.header("idempotency-replayed")), (201, ""));
        harness.modules.set_catalog_available(false);
        let replay = harness.as_ada(with_key("k1").set_json(two_figs())).await;
        assert_eq!(
            (replay.status, replay.body),
            (201, reply.body),
            "a replay needs no catalog"
        );
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn an_error_points_at_the_line_that_cannot_be_ordered() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::open(db).await;
        let line = |sku: &str, quantity: i64| json!({ "sku": sku, "quantity": quantity });
        for (items, code, pointer) in [
            (
                json!([line("fig", 1), line("ghost", 1)]),
                "product_unavailable",
                "/items/1/sku",
            ),
            (json!([line("old-mug", 1)]), "product_unavailable", "/items/0/sku"),
            (
                json!([line("fig", 600), line("fig", 400)]),
                "invalid_quantity",
                "/items/1/quantity",
            ),
            (json!([line("fig", 0)]), "invalid_body", "/items/0/quantity"),
            (json!([line("fig", 1000)]), "invalid_body", "/items/0/quantity"),
            (json!([line("fig", -1)]), "invalid_body", "/items/0/quantity"),
            (json!([line("Fig", 1)]), "invalid_body", "/items/0/sku"),
            (json!([]), "invalid_body", "/items"),
            (Value::Array(vec![line("fig", 1); 101]), "invalid_body", "/items"),
        ] {
            let reply = harness.as_ada(keyed(ORDERS).set_json(order_of(items.clone()))).await;
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (422, code),
                "{items}: {}",
                reply.body
            );
            assert_eq!(reply.json()["errors"][0]["pointer"], pointer, "{items}: {}", reply.body);
        }
        let mixed = order_of(json!([line("fig", 1), line("dollar-mug", 1)]));
        let reply = harness.as_ada(with_key("mixed").set_json(&mixed)).await;
        assert_eq!((reply.status, reply.code().as_str()), (422, "mixed_currencies"));
        let replay = harness.as_ada(with_key("mixed").set_json(&mixed)).await;
        assert_eq!(
            (replay.status, replay.header("idempotency-replayed")),
            (422, "true"),
            "a refusal is stored as the response"
        );
        assert_eq!(harness.as_ada(get(ORDERS)).await.json()["items"], json!([]));
        let reply = harness
            .as_ada(keyed(ORDERS).set_json(order_of(json!([line("fig", 1), line("mug", 1), line("fig", 2)]))))
            .await;
        let quantities: Vec<_> = reply.json()["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["quantity"].clone())
            .collect();
        assert_eq!(
            (quantities, &reply.json()["total"]["amount"]),
            (vec![json!(3), json!(1)], &json!(1_847))
        );
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn the_address_and_the_payment_method_are_validated() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::open(db).await;
        for (field, value) in [
            ("payment_method", json!("visa")),
            ("payment_method", json!("pm_")),
            ("payment_method", json!("pm_Visa")),
            ("payment_method", json!(null)),
            ("coupon", json!("x")),
            ("shipping_address", json!("home")),
            ("shipping_address", json!({ "name": "Ada" })),
        ] {
            let mut body = two_figs();
            body[field] = value.clone();
            let reply = harness.as_ada(keyed(ORDERS).set_json(&body)).await;
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (422, "invalid_body"),
                "{field} {value}: {}",
                reply.body
            );
        }
        for (field, value) in [
            ("country", "gb"),
            ("country", "XX"),
            ("name", ""),
            ("city", "Lon\ndon"),
            ("planet", "earth"),
            ("line1", "\u{0}"),
        ] {
            let mut body = two_figs();
            body["shipping_address"][field] = json!(value);
            let reply = harness.as_ada(keyed(ORDERS).set_json(&body)).await;
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (422, "invalid_body"),
                "{field} {value:?}: {}",
                reply.body
            );
        }
        for (address, blamed) in [
            (json!({ "name": "Ada", "line1": "1", "country": "GB" }), &["/city", "/postal_code"][..]),
            (json!({ "name": "Ada", "line1": "1", "city": " ", "postal_code": "10115", "country": "DE" }), &["/city"]),
            (json!({ "name": "Ada", "line1": "1", "city": "Austin", "postal_code": "73301", "country": "US" }), &["/region"]),
        ] {
            let mut body = two_figs();
            body["shipping_address"] = address;
            let reply = harness.as_ada(keyed(ORDERS).set_json(&body)).await;
            assert_eq!((reply.status, reply.code().as_str()), (422, "invalid_address"), "{}", reply.body);
            let problem: Value = serde_json::from_str(&reply.body).unwrap();
            let pointers = problem["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap().to_owned());
            assert_eq!(pointers.collect::<Vec<_>>(), blamed.iter().map(|part| format!("/shipping_address{part}")).collect::<Vec<_>>());
        }
        for address in [
            json!({ "name": "Ada", "line1": "1", "line2": "c/o Babbage", "city": "London", "postal_code": "n1 9gu", "country": "GB" }),
            json!({ "name": "Ada", "line1": "1", "region": "Kowloon", "country": "HK", "phone": "+852 2345 6789" }),
            json!({ "name": "Ada", "line1": "1", "city": "Prishtina", "country": "XK" }),
        ] {
            let mut body = two_figs();
            body["shipping_address"] = address;
            assert_eq!(harness.as_ada(keyed(ORDERS).set_json(&body)).await.status, 201, "{body}");
        }
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn an_order_of_another_user_looks_like_a_missing_one() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::open(db).await;
        let order = harness.place().await;
        let cart = id_in(&harness.as_ada(post("/api/v1/carts")).await);
        let quantity = json!({ "quantity": 1 });
        let checkout = json!({ "shipping_address": address(), "payment_method": "pm_card_visa" });
        for id in [order, cart, Uuid::from_u128(7)] {
            let put = |path: String| TestRequest::put().uri(&path).set_json(&quantity);
            let requests = [
                get(&format!("{ORDERS}/{id}")),
                get(&format!("{ORDERS}/{id}/history")),
                get(&format!("{ORDERS}/{id}/events")),
                keyed(&format!("{ORDERS}/{id}/cancel")),
                get(&format!("/api/v1/carts/{id}")),
                put(format!("/api/v1/carts/{id}/items/fig")),
                put(format!("/api/v1/carts/{id}/items/fig")).insert_header(("If-Match", "\"1\"")),
                TestRequest::delete().uri(&format!("/api/v1/carts/{id}/items/fig")),
                keyed(&format!("/api/v1/carts/{id}/checkout")).set_json(&checkout),
            ];
            for (at, request) in requests.into_iter().enumerate() {
                let reply = harness.as_bob(request).await;
                assert_eq!(
                    (reply.status, reply.code().as_str()),
                    (404, "not_found"),
                    "request {at}: {}",
                    reply.body
                );
                assert!(!reply.body.contains(&ADA.to_string()));
            }
        }
        assert_eq!(harness.as_bob(get(ORDERS)).await.json()["items"], json!([]));
        assert_eq!(
            harness.as_bob(get(&format!("{ORDERS}?user_id={ADA}"))).await.status,
            403
        );
        assert_eq!(harness.show(order).await["status"], "pending", "it is not cancelled");
        assert_eq!(
            harness.as_staff(get(&format!("{ORDERS}/{order}/events"))).await.status,
            404,
            "the stream is the owner's"
        );
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn each_route_says_who_may_call_it() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::open(db).await;
        let id = harness.place().await;
        let anonymous = harness.site.send(keyed(ORDERS).set_json(two_figs())).await;
        assert_eq!((anonymous.status, anonymous.code().as_str()), (401, "unauthenticated"));
        for path in [
            ORDERS.to_owned(),
            format!("{ORDERS}/{id}"),
            format!("{ORDERS}/{id}/history"),
            format!("{ORDERS}/{id}/events"),
        ] {
            assert_eq!(harness.site.send(get(&path)).await.status, 401, "{path}");
        }
        assert_eq!(
            harness.site.send(keyed(&format!("{ORDERS}/{id}/cancel"))).await.status,
            401
        );
        for role in [Role::Staff, Role::Ops] {
            let reply = harness
                .site
                .send_as(BOB, &[role], keyed(ORDERS).set_json(two_figs()))
                .await;
            assert_eq!((reply.status, reply.code().as_str()), (403, "insufficient_role"));
            assert_eq!(
                harness.site.send_as(BOB, &[role], post("/api/v1/carts")).await.status,
                403
            );
        }
        let ops = harness
            .site
            .send_as(BOB, &[Role::Ops], get(&format!("{ORDERS}/{id}")))
            .await;
        assert_eq!(ops.status, 404, "ops runs the machinery, and sees no customer's orders");
        for path in [ORDERS.to_owned(), format!("{ORDERS}/{id}/cancel")] {
            let keyless = harness.as_ada(post(&path).set_json(two_figs())).await;
            assert_eq!(
                (keyless.status, keyless.code().as_str()),
                (400, "idempotency_key_required")
            );
        }
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn lists_are_newest_first_paged_and_filtered() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::open(db).await;
        let mut placed = Vec::new();
        for _ in 0..5 {
            placed.insert(0, harness.place().await.to_string());
        }
        harness.as_bob(keyed(ORDERS).set_json(two_figs())).await;
        harness.as_ada(post("/api/v1/carts")).await;
        let ids = |body: &Value| -> Vec<String> {
            body["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|order| order["id"].as_str().unwrap().to_owned())
                .collect()
        };
        let mut seen = Vec::new();
        let mut path = format!("{ORDERS}?limit=2");
        loop {
            let page = harness.as_ada(get(&path)).await.json();
            seen.extend(ids(&page));
            let Some(cursor) = page["next_cursor"].as_str() else {
                break;
            };
            path = format!("{ORDERS}?limit=2&cursor={cursor}");
        }
        assert_eq!(seen, placed);
        assert_eq!(
            ids(&harness.as_staff(get(ORDERS)).await.json()).len(),
            6,
            "staff sees everybody's"
        );
        assert_eq!(
            ids(&harness.as_staff(get(&format!("{ORDERS}?user_id={BOB}"))).await.json()).len(),
            1
        );
        assert_eq!(
            ids(&harness
                .as_ada(get(&format!("{ORDERS}?user_id={ADA}&status=pending")))
                .await
                .json()),
            placed
        );
        assert!(ids(&harness.as_ada(get(&format!("{ORDERS}?status=confirmed"))).await.json()).is_empty());
        for bad in [
            "status=lost",
            "limit=0",
            "limit=101",
            "cursor=AAAA",
            "user_id=7",
            "colour=red",
        ] {
            let reply = harness.as_ada(get(&format!("{ORDERS}?{bad}"))).await;
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (400, "invalid_parameter"),
                "{bad}"
            );
        }
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_client_that_has_the_current_version_gets_304() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::open(db).await;
        let order = harness.place().await;
        let path = format!("{ORDERS}/{order}");
        let etag = harness.as_ada(get(&path)).await.header("etag").to_owned();
        let unchanged = harness
            .as_ada(get(&path).insert_header(("If-None-Match", etag.clone())))
            .await;
        assert_eq!((unchanged.status, unchanged.body.as_str()), (304, ""));
        harness.cancel(order).await;
        assert_eq!(
            harness
                .as_ada(get(&path).insert_header(("If-None-Match", etag)))
                .await
                .status,
            200
        );
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn the_history_can_be_streamed_and_resumed() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db).await;
        harness.modules.script(
            "reserve_stock",
            [Scripted::CommandLost, Scripted::CommandLost, Scripted::Refused],
        );
        let order = harness.place().await;
        let path = format!("{ORDERS}/{order}/events");
        // It ends by itself when the order is cancelled.
        let stream = tokio::time::timeout(TIMEOUT, harness.as_ada(get(&path)))
            .await
            .expect("the stream ends");
        assert_eq!(
            (stream.status, stream.header("content-type")),
            (200, "text/event-stream")
        );
        let events: Vec<_> = stream
            .body
            .lines()
            .filter(|line| line.starts_with("id:") || line.starts_with("event:"))
            .collect();
        assert_eq!(events, ["id: 1", "event: placed", "id: 2", "event: cancelled"]);
        let data = stream.body.lines().rfind(|line| line.starts_with("data:")).unwrap();
        let entry: Value = serde_json::from_str(&data[5..]).unwrap();
        let history = harness.as_ada(get(&format!("{ORDERS}/{order}/history"))).await.json();
        assert_eq!(entry, history["items"][1], "the same as in the history");
        assert_eq!(entry["data"]["reason"], "out_of_stock");
        let resumed = harness.as_ada(get(&path).insert_header(("Last-Event-ID", "1"))).await;
        assert!(
            !resumed.body.contains("id: 1\n") && resumed.body.contains("id: 2\n"),
            "{}",
            resumed.body
        );
        assert_eq!(
            harness
                .as_ada(get(&path).insert_header(("Last-Event-ID", "2")))
                .await
                .status,
            204
        );
        for invalid in ["3", "9223372036854775807", "-1", "x"] {
            let whole = harness
                .as_ada(get(&path).insert_header(("Last-Event-ID", invalid)))
                .await;
            assert!(
                whole.status == 200 && whole.body.contains("id: 1\n"),
                "{invalid}: {} {}",
                whole.status,
                whole.body
            );
        }
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_limited_number_of_requests_per_user_wait_and_the_next_gets_its_response_at_once() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let mut harness = Harness::open_with(
            db,
            settings(),
            Limits {
                waits_per_user: 1,
                ..Limits::default()
            },
        )
        .await;
        harness.run();
        let waiting = || harness.as_ada(keyed(ORDERS).insert_header(("Prefer", "wait=20")).set_json(two_figs()));
        for _ in 0..2 {
            let calls_before = harness.modules.times_called("reserve_stock");
            let gate = harness.modules.gate("reserve_stock");
            let first = waiting();
            let second = async {
                eventually("the first waits", TIMEOUT, || async {
                    harness.modules.times_called("reserve_stock") > calls_before
                })
                .await;
                let second = waiting().await;
                assert_eq!(
                    (second.status, &second.json()["status"]),
                    (201, &json!("pending")),
                    "{}",
                    second.body
                );
                assert_eq!(second.header("preference-applied"), "");
                gate.add_permits(1);
            };
            let (first, ()) = tokio::join!(first, second);
            assert_eq!(
                (first.json()["status"].as_str(), first.header("preference-applied")),
                (Some("confirmed"), "wait=20")
            );
        }
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_cart_becomes_an_order_with_the_same_id() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db).await;
        let begun = harness.as_ada(post("/api/v1/carts")).await;
        let id = id_in(&begun);
        let cart = format!("/api/v1/carts/{id}");
        assert_eq!((begun.status, begun.header("location")), (201, cart.as_str()));
        assert_eq!(
            (&begun.json()["status"], &begun.json()["items"], &begun.json()["total"]),
            (&json!("draft"), &json!([]), &Value::Null)
        );
        let put = |sku: &str, quantity: u32| {
            TestRequest::put()
                .uri(&format!("{cart}/items/{sku}"))
                .set_json(json!({ "quantity": quantity }))
        };
        harness.as_ada(put("fig", 1)).await;
        harness.as_ada(put("mug", 1)).await;
        let changed = harness.as_ada(put("fig", 2)).await;
        assert_eq!(
            (
                changed.status,
                &changed.json()["version"],
                &changed.json()["total"]["amount"]
            ),
            (200, &json!(4), &json!(1_648))
        );
        assert_eq!(
            harness.as_ada(put("fig", 2)).await.header("etag"),
            changed.header("etag"),
            "setting the same quantity changes nothing"
        );
        let stale = harness.as_ada(put("fig", 3).insert_header(("If-Match", "\"3\""))).await;
        assert_eq!((stale.status, stale.code().as_str()), (412, "precondition_failed"));
        let remove = || TestRequest::delete().uri(&format!("{cart}/items/mug"));
        assert_eq!(
            harness
                .as_ada(remove().insert_header(("If-Match", changed.header("etag"))))
                .await
                .status,
            204
        );
        assert_eq!(harness.as_ada(remove()).await.status, 404);
        harness.modules.set_catalog_available(false);
        let shown = harness.as_ada(get(&cart)).await;
        let unpriced = json!([{ "sku": "fig", "name": null, "quantity": 2, "unit_price": null }]);
        assert_eq!(
            (shown.status, &shown.json()["items"]),
            (200, &unpriced),
            "a cart can be read without the catalog"
        );
        harness.modules.set_catalog_available(true);
        assert_eq!(
            harness.as_ada(get(&format!("{ORDERS}/{id}"))).await.status,
            404,
            "a cart is not an order yet"
        );

        let checkout = json!({ "shipping_address": address(), "payment_method": "pm_card_visa" });
        let path = format!("{cart}/checkout");
        let request = || {
            post(&path)
                .insert_header(("Idempotency-Key", "checkout"))
                .set_json(&checkout)
        };
        let placed = harness.as_ada(request()).await;
        assert_eq!(
            (placed.status, id_in(&placed), placed.header("location")),
            (201, id, format!("{ORDERS}/{id}").as_str())
        );
        assert_eq!(
            (&placed.json()["status"], &placed.json()["total"]["amount"]),
            (&json!("pending"), &json!(398))
        );
        assert_eq!(harness.as_ada(request()).await.body, placed.body);
        harness.until_status(id, "confirmed").await;
        let again = harness.as_ada(keyed(&path).set_json(&checkout)).await;
        assert_eq!((again.status, again.code().as_str()), (409, "not_a_cart"));
        assert_eq!(harness.as_ada(put("fig", 1)).await.code(), "not_a_cart");
        assert_eq!(harness.as_ada(get(&cart)).await.status, 404);
        assert_eq!(harness.history(id).await[..3], ["drafted", "item_added", "item_added"]);
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_cart_is_checked_when_it_is_checked_out() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::open(db).await;
        let id = id_in(&harness.as_ada(post("/api/v1/carts")).await);
        let path = format!("/api/v1/carts/{id}/checkout");
        let checkout =
            || keyed(&path).set_json(json!({ "shipping_address": address(), "payment_method": "pm_card_visa" }));
        assert_eq!(harness.as_ada(checkout()).await.code(), "empty_cart");
        let put = TestRequest::put()
            .uri(&format!("/api/v1/carts/{id}/items/ghost"))
            .set_json(json!({ "quantity": 1 }));
        assert_eq!(harness.as_ada(put).await.status, 200);
        let reply = harness.as_ada(checkout()).await;
        assert_eq!((reply.status, reply.code().as_str()), (422, "product_unavailable"));
        for quantity in [json!(0), json!(1000), json!(1.5), json!("1")] {
            let put = TestRequest::put()
                .uri(&format!("/api/v1/carts/{id}/items/fig"))
                .set_json(json!({ "quantity": quantity }));
            assert_eq!(harness.as_ada(put).await.status, 422, "{quantity}");
        }
        assert_eq!(
            harness
                .as_ada(
                    TestRequest::put()
                        .uri(&format!("/api/v1/carts/{id}/items/No"))
                        .set_json(json!({ "quantity": 1 }))
                )
                .await
                .status,
            404
        );
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn concurrent_changes_of_one_cart_are_all_kept() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::open(db).await;
        let cart = format!("/api/v1/carts/{}", id_in(&harness.as_ada(post("/api/v1/carts")).await));
        let put = |sku: String| {
            TestRequest::put()
                .uri(&format!("{cart}/items/{sku}"))
                .set_json(json!({ "quantity": 1 }))
        };
        let replies = join_all((0..8).map(|n| harness.as_ada(put(format!("p{n}"))))).await;
        assert!(replies.iter().all(|reply| reply.status == 200), "{replies:?}");
        let shown = harness.as_ada(get(&cart)).await;
        assert_eq!(
            (
                shown.json()["items"].as_array().unwrap().len(),
                &shown.json()["version"]
            ),
            (8, &json!(9))
        );

        // Of concurrent changes that require the same version, exactly one succeeds.
        let tag = shown.header("etag");
        let conditional = (0..8).map(|n| harness.as_ada(put(format!("q{n}")).insert_header(("If-Match", tag))));
        let mut statuses: Vec<u16> = join_all(conditional).await.iter().map(|reply| reply.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 412, 412, 412, 412, 412, 412, 412]);
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_customer_pays_no_other_price_than_they_were_shown() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::running(db).await;
        let begin = async || {
            let cart = format!("/api/v1/carts/{}", id_in(&harness.as_ada(post("/api/v1/carts")).await));
            let put = TestRequest::put().uri(&format!("{cart}/items/plum"));
            harness.as_ada(put.set_json(json!({ "quantity": 2 }))).await;
            cart
        };
        let check_out = |cart: &str, expected: Value| {
            let mut body = json!({ "shipping_address": address(), "payment_method": "pm_card_visa" });
            if !expected.is_null() {
                body["expected_total"] = expected;
            }
            keyed(&format!("{cart}/checkout")).set_json(body)
        };
        let euros = |amount: i64| json!({ "amount": amount, "currency": "EUR" });

        // The ETag is that of what is shown, so a new price makes it stale, and so does another product.
        harness.modules.sell("plum", 100, "EUR", true);
        let cart = begin().await;
        let shown = harness.as_ada(get(&cart)).await;
        let tag = shown.header("etag");
        let unchanged = harness.as_ada(get(&cart).insert_header(("If-None-Match", tag))).await;
        assert_eq!((unchanged.status, &shown.json()["total"]), (304, &euros(200)));
        harness.modules.sell("plum", 150, "EUR", true);
        let reply = harness.as_ada(get(&cart).insert_header(("If-None-Match", tag))).await;
        assert_eq!((reply.status, &reply.json()["total"]), (200, &euros(300)));
        assert_ne!(reply.header("etag"), tag);
        let stale = check_out(&cart, Value::Null).insert_header(("If-Match", tag));
        let stale = harness.as_ada(stale).await;
        assert_eq!((stale.status, stale.code().as_str()), (412, "precondition_failed"));

        // Another total than the expected one is refused, and the cart stays a cart.
        let changed = harness.as_ada(check_out(&cart, euros(200))).await;
        assert_eq!((changed.status, changed.code().as_str()), (409, "total_changed"));
        assert_eq!(harness.as_ada(get(&cart)).await.status, 200);
        let order = check_out(&cart, euros(300)).insert_header(("If-Match", reply.header("etag")));
        let order = harness.as_ada(order).await;
        assert_eq!((order.status, &order.json()["total"]), (201, &euros(300)));

        // The same for an order without a cart.
        let place = |expected: Value| {
            let mut body = order_of(json!([{ "sku": "plum", "quantity": 2 }]));
            body["expected_total"] = expected;
            keyed(ORDERS).set_json(body)
        };
        let other_currency = json!({ "amount": 300, "currency": "USD" });
        for expected in [euros(299), other_currency] {
            let changed = harness.as_ada(place(expected)).await;
            assert_eq!((changed.status, changed.code().as_str()), (409, "total_changed"));
        }
        assert_eq!(harness.as_ada(place(euros(300))).await.status, 201);
        harness.close().await;
    })
    .await;
}

#[tokio::test]
async fn an_order_is_cancelled_only_at_the_version_that_the_client_requires() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let harness = Harness::open(db).await;
        let order = harness.place().await;
        let path = format!("{ORDERS}/{order}");
        let cancel = |tag: &str| keyed(&format!("{path}/cancel")).insert_header(("If-Match", tag.to_owned()));
        let stale = harness.as_ada(cancel("\"77\"")).await;
        assert_eq!((stale.status, stale.code().as_str()), (412, "precondition_failed"));
        let shown = harness.as_ada(get(&path)).await;
        assert_eq!(harness.as_ada(cancel(shown.header("etag"))).await.status, 200);
        harness.close().await;
    })
    .await;
}
