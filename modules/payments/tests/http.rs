//! Payments over HTTP: who may see and do what, refunds and their keys, signed webhooks.

mod support;

use std::time::Duration;

use banyan_core::{Clock, SystemClock};
use banyan_durable::Db;
use banyan_durable_testing::{eventually, on_both, published};
use banyan_http_testing::{Reply, Site, TestRequest, get, post};
use hmac::{Hmac, Mac};
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use sha2::Sha256;
use shared_kernel::Role;
use support::{Order, SECRET, Shop};
use uuid::Uuid;

/// Payments with its HTTP interface.
struct Desk {
    shop: Shop,
    site: Site,
}

impl Desk {
    async fn open(db: Db) -> Self {
        let patient = payments::Timing {
            command_timeout: Duration::from_secs(3),
            ..support::timing()
        };
        let shop = Shop::open_with(db, support::settings(), patient).await;
        let site = Site::of(shop.offers.routes.clone());
        Desk { shop, site }
    }

    async fn as_staff(&self, request: TestRequest) -> Reply {
        self.site.send_as(Uuid::from_u128(9), &[Role::Staff], request).await
    }

    async fn refund(&self, payment: &str, key: &str, body: Value) -> Reply {
        let request = post(&format!("/api/v1/payments/{payment}/refunds"))
            .insert_header(("Idempotency-Key", key))
            .set_json(body);
        self.as_staff(request).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_owner_and_staff_may_read_a_payment() {
    on_both(payments::SCHEMA, |db| async move {
        let desk = Desk::open(db).await;
        let order = Order::captured(&desk.shop).await;
        let payment = order.payment(&desk.shop).await.id;
        let path = format!("/api/v1/payments/{payment}");
        let customer = [Role::Customer];
        let shown = desk.site.send_as(order.user, &customer, get(&path)).await;
        assert_eq!(shown.status, 200, "{}", shown.body);
        let mut body = shown.json();
        body.as_object_mut()
            .unwrap()
            .remove("created_at")
            .expect("it has a date");
        let euros = |amount: i64| json!({ "amount": amount, "currency": "EUR" });
        let expected = json!({ "id": payment, "order_id": order.id, "status": "captured", "amount": euros(10_000),
            "captured": euros(10_000), "refunded": euros(0) });
        assert_eq!(body, expected);
        let cached = get(&path).insert_header(("If-None-Match", shown.header("etag")));
        assert_eq!(desk.site.send_as(order.user, &customer, cached).await.status, 304);

        assert_eq!(desk.as_staff(get(&path)).await.status, 200);
        let strangers = desk.site.send_as(Uuid::new_v4(), &customer, get(&path)).await;
        assert_eq!((strangers.status, strangers.code().as_str()), (404, "not_found"));
        assert_eq!(desk.site.send(get(&path)).await.status, 401);
        assert_eq!(desk.as_staff(get("/api/v1/payments/not-an-id")).await.status, 404);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_contains_what_its_reader_may_see_newest_first() {
    on_both(payments::SCHEMA, |db| async move {
        let desk = Desk::open(db).await;
        let (one, two) = (Order::captured(&desk.shop).await, Order::captured(&desk.shop).await);
        let ids = |reply: &Reply| -> Vec<String> {
            let items = reply.json()["items"].as_array().cloned().unwrap_or_default();
            items
                .iter()
                .map(|item| item["order_id"].as_str().unwrap().to_owned())
                .collect()
        };
        let own = desk
            .site
            .send_as(one.user, &[Role::Customer], get("/api/v1/payments"))
            .await;
        assert_eq!(ids(&own), [one.id.to_string()]);
        assert_eq!(
            ids(&desk.as_staff(get("/api/v1/payments")).await),
            [two.id.to_string(), one.id.to_string()]
        );
        let filtered = get(&format!("/api/v1/payments?order_id={}", one.id));
        assert_eq!(ids(&desk.as_staff(filtered).await), [one.id.to_string()]);
        let somebody_elses = get(&format!("/api/v1/payments?order_id={}", two.id));
        assert_eq!(
            ids(&desk.site.send_as(one.user, &[Role::Customer], somebody_elses).await),
            Vec::<String>::new()
        );

        let first = desk.as_staff(get("/api/v1/payments?limit=1")).await;
        assert_eq!(ids(&first), [two.id.to_string()]);
        let cursor = first.json()["next_cursor"].as_str().unwrap().to_owned();
        let second = desk
            .as_staff(get(&format!("/api/v1/payments?limit=1&cursor={cursor}")))
            .await;
        assert_eq!(
            (ids(&second), second.json()["next_cursor"].clone()),
            (vec![one.id.to_string()], Value::Null)
        );
        for bad in ["?order_id=x", "?cursor=eA", "?limit=0", "?colour=red"] {
            assert_eq!(
                desk.as_staff(get(&format!("/api/v1/payments{bad}"))).await.status,
                400,
                "{bad}"
            );
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn staff_refunds_a_part_and_then_the_rest() {
    on_both(payments::SCHEMA, |db| async move {
        let desk = Desk::open(db).await;
        let order = Order::captured(&desk.shop).await;
        let payment = order.payment(&desk.shop).await.id;
        let part = json!({ "amount": { "amount": 2_500, "currency": "EUR" }, "reason": "one fig was rotten" });
        let made = desk.refund(&payment, "k1", part.clone()).await;
        assert_eq!(made.status, 201, "{}", made.body);
        assert_eq!(made.json()["status"], "succeeded");
        let location = made.header("location").to_owned();
        assert_eq!(desk.as_staff(get(&location)).await.json(), made.json());
        assert_eq!(order.payment(&desk.shop).await.status, "partially_refunded");

        let again = desk.refund(&payment, "k1", part).await;
        assert_eq!(
            (again.status, &again.body, again.header("idempotency-replayed")),
            (201, &made.body, "true")
        );
        let other = desk.refund(&payment, "k1", json!({ "reason": "all of it" })).await;
        assert_eq!((other.status, other.code().as_str()), (422, "idempotency_key_reused"));

        let rest = desk
            .refund(&payment, "k2", json!({ "reason": "and the others too" }))
            .await;
        assert_eq!((rest.status, &rest.json()["amount"]["amount"]), (201, &json!(7_500)));
        assert_eq!(order.payment(&desk.shop).await.status, "refunded");
        let listed = desk
            .site
            .send_as(
                order.user,
                &[Role::Customer],
                get(&format!("/api/v1/payments/{payment}/refunds")),
            )
            .await;
        let amounts: Vec<_> = listed.json()["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["amount"]["amount"].clone())
            .collect();
        assert_eq!(amounts, [json!(7_500), json!(2_500)]);
        let kinds = published(&desk.shop.db)
            .await
            .iter()
            .filter(|event| event.kind.ends_with("PaymentRefunded"))
            .count();
        assert_eq!(kinds, 2);
        assert!(desk.shop.offers.books.compare().await.unwrap().agrees());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_refund_says_why_and_its_repeat_too() {
    on_both(payments::SCHEMA, |db| async move {
        let desk = Desk::open(db).await;
        let order = Order::captured(&desk.shop).await;
        let payment = order.payment(&desk.shop).await.id;
        let of = |amount: i64, currency: &str| json!({ "amount": { "amount": amount, "currency": currency }, "reason": "r" });
        for (at, (body, status, code)) in [
            (of(10_001, "EUR"), 409, "exceeds_captured"),
            (of(1, "USD"), 422, "currency_mismatch"),
            (of(0, "EUR"), 422, "invalid_body"),
            (of(-1, "EUR"), 422, "invalid_body"),
            (json!({}), 422, "invalid_body"),
            (json!({ "reason": "" }), 422, "invalid_body"),
            (json!({ "reason": "r", "sum": 1 }), 422, "invalid_body"),
        ]
        .into_iter()
        .enumerate()
        {
            let key = format!("bad-{at}");
            for time in ["first", "second"] {
                let reply = desk.refund(&payment, &key, body.clone()).await;
                assert_eq!((reply.status, reply.code().as_str()), (status, code), "{body} {time}");
                let remembered = time == "second" && code != "invalid_body";
                assert_eq!(reply.header("idempotency-replayed") == "true", remembered, "{body} {time}");
            }
        }
        let path = format!("/api/v1/payments/{payment}/refunds");
        let keyless = desk.as_staff(post(&path).set_json(json!({ "reason": "r" }))).await;
        assert_eq!((keyless.status, keyless.code().as_str()), (400, "idempotency_key_required"));
        let by_owner = post(&path).insert_header(("Idempotency-Key", "k")).set_json(json!({ "reason": "r" }));
        assert_eq!(desk.site.send_as(order.user, &[Role::Customer], by_owner).await.status, 403);
        assert_eq!(desk.refund(&Uuid::new_v4().to_string(), "k", json!({ "reason": "r" })).await.status, 404);
        assert_eq!(order.payment(&desk.shop).await.status, "captured");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_of_a_payment_that_has_changed_is_refused_and_its_own_repetition_is_not() {
    on_both(payments::SCHEMA, |db| async move {
        let desk = Desk::open(db).await;
        let order = Order::captured(&desk.shop).await;
        let payment = order.payment(&desk.shop).await.id;
        let path = format!("/api/v1/payments/{payment}");
        let refund = |key: &'static str, tag: &str| {
            post(&format!("{path}/refunds"))
                .insert_header(("Idempotency-Key", key))
                .insert_header(("If-Match", tag.to_owned()))
                .set_json(json!({ "amount": { "amount": 100, "currency": "EUR" }, "reason": "a bruise" }))
        };
        let read = desk.as_staff(get(&path)).await;
        let tag = read.header("etag");
        assert_eq!(desk.as_staff(refund("k1", tag)).await.status, 201);
        assert_eq!(
            desk.as_staff(refund("k1", tag)).await.header("idempotency-replayed"),
            "true"
        );
        let stale = desk.as_staff(refund("k2", tag)).await;
        assert_eq!((stale.status, stale.code().as_str()), (412, "precondition_failed"));
        // It is not stored, so the same key is good for another try.
        let read = desk.as_staff(get(&path)).await;
        assert_eq!(desk.as_staff(refund("k2", read.header("etag"))).await.status, 201);
        assert_eq!(refunds(&desk, &payment).await.len(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_refunds_at_the_same_time_are_one_refund() {
    on_both(payments::SCHEMA, |db| async move {
        let desk = Desk::open(db).await;
        let order = Order::captured(&desk.shop).await;
        let payment = order.payment(&desk.shop).await.id;
        let body = json!({ "amount": { "amount": 1_000, "currency": "EUR" }, "reason": "twice" });
        let send = || desk.refund(&payment, "twin", body.clone());
        let (one, two, three) = tokio::join!(send(), send(), send());
        assert_eq!([one.status, two.status, three.status], [201; 3]);
        assert_eq!((&one.body, &one.body), (&two.body, &three.body));
        assert_eq!(order.payment(&desk.shop).await.refunded.unwrap().amount, 1_000);
    })
    .await;
}

/// The amounts of the payment's refunds, pending ones included.
async fn refunds(desk: &Desk, payment: &str) -> Vec<i64> {
    let listed = desk.as_staff(get(&format!("/api/v1/payments/{payment}/refunds"))).await;
    listed.json()["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["amount"]["amount"].as_i64().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_used_for_two_payments_at_the_same_time_refunds_one() {
    on_both(payments::SCHEMA, |db| async move {
        let desk = Desk::open(db).await;
        let (one, two) = (Order::captured(&desk.shop).await, Order::captured(&desk.shop).await);
        let (one, two) = (one.payment(&desk.shop).await.id, two.payment(&desk.shop).await.id);
        let body = |currency: &str| json!({ "amount": { "amount": 1_000, "currency": currency }, "reason": "r" });
        let mut refunded = 0;
        // A refused request owns its key as well: the other one must then not have been carried out.
        for (at, currency) in ["EUR", "USD", "EUR", "USD", "EUR", "USD"].into_iter().enumerate() {
            let key = format!("shared-{at}");
            let (first, second) = tokio::join!(
                desk.refund(&one, &key, body("EUR")),
                desk.refund(&two, &key, body(currency))
            );
            let reused = [&first, &second]
                .into_iter()
                .filter(|reply| reply.code() == "idempotency_key_reused")
                .count();
            assert_eq!(reused, 1, "{} {}", first.body, second.body);
            let mut made = 0;
            for (payment, body, reply) in [(&one, body("EUR"), &first), (&two, body(currency), &second)] {
                assert!([201, 422].contains(&reply.status), "{}", reply.body);
                made += usize::from(reply.status == 201);
                let again = desk.refund(payment, &key, body).await;
                assert_eq!((again.status, again.code()), (reply.status, reply.code()));
                if reply.code() != "idempotency_key_reused" {
                    assert_eq!(
                        (&again.body, again.header("idempotency-replayed")),
                        (&reply.body, "true")
                    );
                }
            }
            let now = refunds(&desk, &one).await.len() + refunds(&desk, &two).await.len();
            assert_eq!(
                now - refunded,
                made,
                "a refund exists exactly if its response was 201: {} {}",
                first.body,
                second.body
            );
            refunded = now;
        }
        assert!(desk.shop.offers.books.compare().await.unwrap().agrees());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_whose_response_was_lost_is_found_by_its_key() {
    on_both(payments::SCHEMA, |db| async move {
        let desk = Desk::open(db).await;
        let (one, two) = (Order::captured(&desk.shop).await, Order::captured(&desk.shop).await);
        let (one, two) = (one.payment(&desk.shop).await.id, two.payment(&desk.shop).await.id);
        let body = json!({ "amount": { "amount": 1_000, "currency": "EUR" }, "reason": "r" });
        let made = desk.refund(&one, "k", body.clone()).await;
        assert_eq!(made.status, 201, "{}", made.body);
        // As if the process had crashed before it stored the response; then as if the key had been deleted altogether.
        for lost in ["delete from inbox where kind = 'http'", "delete from inbox"] {
            let deleting = desk.shop.db.write((), move |tx, ()| async move {
                tx.conn().execute_unprepared(lost).await.map_err(banyan_durable::fault)
            });
            assert!(deleting.await.unwrap().rows_affected() > 0, "{lost}");
            let other = desk.refund(&two, "k", body.clone()).await;
            assert_eq!(
                (other.status, other.code().as_str()),
                (422, "idempotency_key_reused"),
                "{lost}"
            );
            if lost == "delete from inbox" {
                break;
            }
            let again = desk.refund(&one, "k", body.clone()).await;
            assert_eq!(
                (again.status, &again.body, again.header("location")),
                (201, &made.body, made.header("location")),
                "{lost}"
            );
            let replay = desk.refund(&one, "k", body.clone()).await;
            assert_eq!(
                (replay.status, &replay.body, replay.header("idempotency-replayed")),
                (201, &made.body, "true"),
                "{lost}"
            );
        }
        assert_eq!(
            (refunds(&desk, &one).await, refunds(&desk, &two).await),
            (vec![1_000], vec![])
        );
    })
    .await;
}

fn signed(secret: &str, body: &str, age_s: i64) -> TestRequest {
    let at = SystemClock.now().as_ms() / 1_000 - age_s;
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{at}.{body}").as_bytes());
    let signature = format!("t={at},v1={}", hex::encode(mac.finalize().into_bytes()));
    post("/api/v1/payments/webhooks/sandbox")
        .insert_header(("Webhook-Signature", signature))
        .set_payload(body.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_webhook_with_a_recent_signature_of_its_provider_is_accepted() {
    on_both(payments::SCHEMA, |db| async move {
        let desk = Desk::open(db).await;
        let order = Order::paying_by("pm_card_capture_fails_once");
        order.authorise(&desk.shop).await.unwrap();
        // The capture is open: the provider responded with 503.
        order.capture(&desk.shop).await.unwrap();
        let event =
            json!({ "id": Uuid::new_v4(), "reference": order.command("capture"), "answer": { "accepted": { "id": "cap_1" } } }).to_string();
        for (request, status) in [
            (signed("somebody else's", &event, 0), 401),
            (signed(SECRET, &event, 301), 401),
            (signed(SECRET, &event, -310), 401),
            (post("/api/v1/payments/webhooks/sandbox").set_payload(event.clone()), 401),
            (signed(SECRET, "{}", 0), 400),
            (signed(SECRET, &event, 0).uri("/api/v1/payments/webhooks/stripe"), 404),
        ] {
            let reply = desk.site.send(request).await;
            assert_eq!(reply.status, status, "{}", reply.body);
        }
        assert_eq!(order.payment(&desk.shop).await.status, "capturing");
        for _ in 0..2 {
            assert_eq!(desk.site.send(signed(SECRET, &event, 0)).await.status, 200);
            assert_eq!(order.payment(&desk.shop).await.status, "captured");
        }
        assert_eq!(published(&desk.shop.db).await.len(), 2, "a repeated webhook changes nothing");
        let unknown = json!({ "id": Uuid::new_v4(), "reference": Uuid::new_v4(), "answer": { "accepted": { "id": "x" } } }).to_string();
        assert_eq!(desk.site.send(signed(SECRET, &unknown, 0)).await.status, 200);
        let found = desk.shop.offers.books.compare().await.unwrap();
        assert!(found.quiet && !found.agrees(), "the provider's books do not contain this capture: {found:?}");
    })
    .await;
}

/// Only the requests themselves call the provider here: no reconciler runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_whose_client_disconnects_completes_or_never_begins() {
    on_both(payments::SCHEMA, |db| async move {
        let desk = Desk::open(db).await;
        let mut payments = Vec::new();
        for attempt in 0..40 {
            let payment = Order::captured(&desk.shop).await.payment(&desk.shop).await.id;
            let timeout = Duration::from_micros(attempt * 400);
            let _ = tokio::time::timeout(
                timeout,
                desk.refund(&payment, &format!("k{attempt}"), json!({ "reason": "disconnected" })),
            )
            .await;
            payments.push(payment);
        }
        let last = Order::captured(&desk.shop).await.payment(&desk.shop).await.id;
        assert_eq!(
            desk.refund(&last, "last", json!({ "reason": "waits" })).await.json()["status"],
            "succeeded"
        );
        let open = async || {
            let mut open = 0;
            for payment in &payments {
                let refunds = desk
                    .as_staff(get(&format!("/api/v1/payments/{payment}/refunds")))
                    .await
                    .json();
                open += refunds["items"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter(|refund| refund["status"] != "succeeded")
                    .count();
            }
            open
        };
        eventually("every refund is complete", Duration::from_secs(20), || async {
            open().await == 0
        })
        .await;
    })
    .await;
}
