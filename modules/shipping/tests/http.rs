//! Shipments over HTTP: who may do what, tracking, conditional and repeated requests.

use std::sync::Arc;

use banyan_core::{Call, RandomIds, SystemClock};
use banyan_durable::Db;
use banyan_durable_testing::{on_both, published};
use banyan_http_testing::{Reply, Site, get, post};
use serde_json::{Value, json};
use shared_kernel::Role;
use shipping::{Needs, Offers, start};
use shipping_contract::{Address, ReadyShipment, ScheduleShipment, ShipmentLine, schedule};
use uuid::Uuid;

/// Shipping with one shipment of Ada's.
struct Shop {
    offers: Offers,
    site: Site,
    ada: Uuid,
    order: Uuid,
    shipment: String,
}

impl Shop {
    async fn open(db: Db) -> Self {
        let offers = start(Needs {
            db,
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
        })
        .await
        .expect("shipping starts");
        let site = Site::of(offers.routes.clone());
        let (ada, order) = (Uuid::new_v4(), Uuid::new_v4());
        let shipment = schedule(&offers, ada, order).await;
        Shop {
            offers,
            site,
            ada,
            order,
            shipment,
        }
    }

    async fn make_ready(&self) {
        let request = ReadyShipment {
            command_id: Uuid::new_v4().to_string(),
            order_id: self.order.to_string(),
        };
        self.offers
            .contract
            .ready_shipment(&Call::by_module("orders"), request)
            .await
            .unwrap();
    }

    fn path(&self, action: &str) -> String {
        format!("/api/v1/shipments/{}{action}", self.shipment)
    }

    async fn as_staff(&self, request: banyan_http_testing::TestRequest) -> Reply {
        self.site.send_as(Uuid::from_u128(9), &[Role::Staff], request).await
    }

    async fn show(&self) -> Value {
        self.site
            .send_as(self.ada, &[Role::Customer], get(&self.path("")))
            .await
            .json()
    }
}

async fn schedule(offers: &Offers, user: Uuid, order: Uuid) -> String {
    let address = Address {
        name: "Ada".into(),
        line1: "Fig Lane 1".into(),
        city: "Berlin".into(),
        ..Address::default()
    };
    let request = ScheduleShipment {
        command_id: Uuid::new_v4().to_string(),
        order_id: order.to_string(),
        user_id: user.to_string(),
        address: Some(Address {
            postal_code: "10115".into(),
            region: None,
            phone: None,
            country: "DE".into(),
            ..address
        }),
        lines: vec![ShipmentLine {
            sku: "fig".into(),
            quantity: 2,
        }],
    };
    let scheduled = offers
        .contract
        .schedule_shipment(&Call::by_module("orders"), request)
        .await
        .unwrap();
    let Some(schedule::Outcome::Scheduled(reference)) = scheduled.outcome else {
        panic!("not scheduled: {scheduled:?}")
    };
    reference.shipment_id
}

fn states(shipment: &Value) -> Vec<&str> {
    shipment["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["status"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_shipment_is_dispatched_with_tracking_and_delivered() {
    on_both(shipping::SCHEMA, |db| async move {
        let shop = Shop::open(db.clone()).await;
        let early = shop.as_staff(post(&shop.path("/dispatch"))).await;
        assert_eq!((early.status, early.code().as_str()), (409, "not_ready"));
        shop.make_ready().await;
        let early = shop.as_staff(post(&shop.path("/deliver"))).await;
        assert_eq!((early.status, early.code().as_str()), (409, "not_dispatched"));

        let body = json!({ "tracking_number": "00340434161094042557", "carrier": "DHL" });
        let dispatch = |tag: &'static str| {
            let request = post(&shop.path("/dispatch")).insert_header(("If-Match", tag));
            request.set_json(&body)
        };
        let stale = shop.as_staff(dispatch("\"1\"")).await;
        assert_eq!((stale.status, stale.code().as_str()), (412, "precondition_failed"));
        let sent = shop.as_staff(dispatch("\"2\"")).await;
        assert_eq!(sent.status, 200, "{}", sent.body);
        assert_eq!(
            (sent.json()["tracking_number"].as_str(), sent.json()["carrier"].as_str()),
            (Some("00340434161094042557"), Some("DHL"))
        );
        assert_eq!(sent.header("etag"), "\"3\"");
        let twice = shop.as_staff(post(&shop.path("/dispatch"))).await;
        assert_eq!((twice.status, twice.code().as_str()), (409, "not_ready"));

        let stale = post(&shop.path("/deliver")).insert_header(("If-Match", "\"2\""));
        assert_eq!(shop.as_staff(stale).await.status, 412);
        assert_eq!(shop.as_staff(post(&shop.path("/deliver"))).await.status, 200);
        let shown = shop.show().await;
        assert_eq!(states(&shown), ["scheduled", "ready", "dispatched", "delivered"]);
        assert_eq!(
            (shown["status"].as_str(), shown["version"].as_i64()),
            (Some("delivered"), Some(4))
        );
        let published = published(&db).await;
        let event = published[2]
            .find::<shipping_contract::ShipmentDispatched>()
            .unwrap()
            .unwrap();
        assert_eq!(
            (event.tracking_number.as_str(), event.user_id),
            ("00340434161094042557", shop.ada.to_string())
        );
        assert!(published[3].kind.ends_with("ShipmentDelivered"));
    })
    .await;
}

#[tokio::test]
async fn without_a_tracking_number_a_parcel_gets_one_of_the_shops_own() {
    on_both(shipping::SCHEMA, |db| async move {
        for body in [None, Some("{}"), Some("null")] {
            let shop = Shop::open(db.clone()).await;
            shop.make_ready().await;
            let request = post(&shop.path("/dispatch"));
            let request = match body {
                Some(body) => request
                    .insert_header(("content-type", "application/json"))
                    .set_payload(body),
                None => request,
            };
            let sent = shop.as_staff(request).await;
            assert_eq!(sent.status, 200, "{body:?}: {}", sent.body);
            assert!(
                sent.json()["tracking_number"].as_str().unwrap().starts_with("BN"),
                "{}",
                sent.body
            );
        }
    })
    .await;
}

#[tokio::test]
async fn a_dispatch_with_a_key_happens_once_and_its_repeat_gets_the_same_response() {
    on_both(shipping::SCHEMA, |db| async move {
        let shop = Shop::open(db.clone()).await;
        shop.make_ready().await;
        let dispatch = || post(&shop.path("/dispatch")).insert_header(("Idempotency-Key", "\"one\""));
        let first = shop.as_staff(dispatch()).await;
        let again = shop.as_staff(dispatch()).await;
        assert_eq!(
            (first.status, again.status, again.header("idempotency-replayed")),
            (200, 200, "true")
        );
        assert_eq!(first.body, again.body);
        let other = shop.as_staff(dispatch().set_json(json!({ "carrier": "DHL" }))).await;
        assert_eq!((other.status, other.code().as_str()), (422, "idempotency_key_reused"));
        assert_eq!(published(&db).await.len(), 3);
    })
    .await;
}

#[tokio::test]
async fn invalid_details_are_refused_and_nothing_is_dispatched() {
    on_both(shipping::SCHEMA, |db| async move {
        let shop = Shop::open(db.clone()).await;
        shop.make_ready().await;
        for (body, status) in [
            (json!({ "trackingnumber": "1" }), 422),
            (json!({ "tracking_number": "" }), 422),
            (json!({ "tracking_number": "a b" }), 422),
            (json!({ "tracking_number": 7 }), 422),
            (json!({ "carrier": "x".repeat(65) }), 422),
            (json!([]), 422),
        ] {
            let reply = shop.as_staff(post(&shop.path("/dispatch")).set_json(&body)).await;
            assert_eq!(reply.status, status, "{body}: {}", reply.body);
        }
        let broken = post(&shop.path("/dispatch"))
            .insert_header(("content-type", "application/json"))
            .set_payload("{");
        assert_eq!(shop.as_staff(broken).await.status, 400);
        assert_eq!(
            shop.as_staff(post(&shop.path("/dispatch")).set_payload("x=1"))
                .await
                .status,
            415
        );
        assert_eq!(shop.show().await["status"], "ready");
    })
    .await;
}

#[tokio::test]
async fn users_see_their_own_shipments_and_only_staff_changes_them() {
    on_both(shipping::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        shop.make_ready().await;
        let path = shop.path("");
        assert_eq!(shop.site.send(get(&path)).await.status, 401);
        let other = Uuid::new_v4();
        let theirs = shop.site.send_as(other, &[Role::Customer], get(&path)).await;
        let missing = shop
            .site
            .send_as(other, &[Role::Customer], get(&format!("/api/v1/shipments/{other}")))
            .await;
        assert_eq!((theirs.status, missing.status), (404, 404));
        assert_eq!(theirs.json()["detail"], missing.json()["detail"]);
        assert_eq!(
            shop.site
                .send_as(shop.ada, &[Role::Customer], get("/api/v1/shipments/nonsense"))
                .await
                .status,
            404
        );
        assert_eq!(
            shop.site.send_as(shop.ada, &[Role::Customer], get(&path)).await.status,
            200
        );
        assert_eq!(shop.as_staff(get(&path)).await.status, 200);
        for request in [
            |path: &str| post(&format!("{path}/dispatch")),
            |path: &str| post(&format!("{path}/deliver")),
        ] {
            assert_eq!(shop.site.send(request(&path)).await.status, 401);
            for role in [Role::Customer, Role::Ops] {
                assert_eq!(shop.site.send_as(shop.ada, &[role], request(&path)).await.status, 403);
            }
        }
        assert_eq!(
            shop.site
                .send_as(shop.ada, &[Role::Customer], get("/api/v1/shipments"))
                .await
                .status,
            403
        );
        assert_eq!(shop.show().await["status"], "ready");
    })
    .await;
}

#[tokio::test]
async fn a_client_that_has_this_version_gets_304() {
    on_both(shipping::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let conditional = || get(&shop.path("")).insert_header(("If-None-Match", "\"1\""));
        assert_eq!(shop.as_staff(conditional()).await.status, 304);
        shop.make_ready().await;
        let changed = shop.as_staff(conditional()).await;
        assert_eq!((changed.status, changed.header("etag")), (200, "\"2\""));
    })
    .await;
}

#[tokio::test]
async fn the_list_is_newest_first_page_by_page_and_filtered() {
    on_both(shipping::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let mut ids = vec![shop.shipment.clone()];
        for _ in 0..4 {
            ids.push(schedule(&shop.offers, shop.ada, Uuid::new_v4()).await);
        }
        ids.reverse();
        let mut seen: Vec<String> = Vec::new();
        let mut path = "/api/v1/shipments?limit=2".to_owned();
        loop {
            let page = shop.as_staff(get(&path)).await.json();
            seen.extend(
                page["items"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|item| item["id"].as_str().unwrap().to_owned()),
            );
            let Some(next) = page["next_cursor"].as_str() else {
                break;
            };
            path = format!("/api/v1/shipments?limit=2&cursor={next}");
        }
        assert_eq!(seen, ids);

        shop.make_ready().await;
        let ready = shop.as_staff(get("/api/v1/shipments?status=ready")).await.json();
        assert_eq!(
            (ready["items"].as_array().unwrap().len(), &ready["items"][0]["id"]),
            (1, &json!(shop.shipment))
        );
        assert_eq!(states(&ready["items"][0]), ["scheduled", "ready"]);
        let of_order = shop
            .as_staff(get(&format!("/api/v1/shipments?order_id={}", shop.order)))
            .await
            .json();
        assert_eq!(of_order["items"].as_array().unwrap().len(), 1);
        for bad in [
            "status=lost",
            "limit=0",
            "limit=101",
            "cursor=%21",
            "cursor=YWJj",
            "colour=red",
            "order_id=7",
        ] {
            let reply = shop.as_staff(get(&format!("/api/v1/shipments?{bad}"))).await;
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (400, "invalid_parameter"),
                "{bad}: {}",
                reply.body
            );
        }
    })
    .await;
}

#[tokio::test]
async fn the_openapi_document_describes_what_is_enforced() {
    on_both(shipping::SCHEMA, |db| async move {
        let shop = Shop::open(db).await;
        let document = shop.site.document();
        let dispatch = &document["paths"]["/api/v1/shipments/{id}/dispatch"]["post"];
        assert_ne!(dispatch["requestBody"]["required"], json!(true), "{dispatch}");
        let details = &document["components"]["schemas"]["DispatchShipment"];
        assert_eq!(details["additionalProperties"], json!(false), "{document}");
        assert_eq!(details["properties"]["tracking_number"]["maxLength"], 64);
        let required = document["components"]["schemas"]["Shipment"]["required"]
            .as_array()
            .unwrap()
            .clone();
        for name in shop.show().await.as_object().unwrap().keys() {
            assert!(
                required.contains(&json!(name)),
                "{name} is always present, and the document does not say so"
            );
        }
    })
    .await;
}
