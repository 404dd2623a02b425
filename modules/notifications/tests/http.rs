//! The list of notifications over HTTP.

mod support;

use banyan_durable_testing::on_both;
use banyan_http_testing::{Site, get};
use orders_contract::OrderDelivered;
use serde_json::json;
use shared_kernel::Role;
use support::{Module, envelope, quick};
use uuid::Uuid;

#[tokio::test]
async fn each_user_sees_only_their_own_notifications() {
    on_both(notifications::SCHEMA, |db| async move {
        let mut module = Module::open(db, quick()).await;
        let site = Site::of(module.offers.routes.clone());
        let (ada, bob) = (Uuid::new_v4(), Uuid::new_v4());
        module.welcome(ada).await;
        let queued = site
            .send_as(ada, &[Role::Customer], get("/api/v1/notifications"))
            .await
            .json();
        assert_eq!(
            (&queued["items"][0]["status"], queued["items"][0].get("to")),
            (&json!("queued"), None)
        );
        module.run();
        module.all_become(ada, "captured").await;

        let shown = site
            .send_as(ada, &[Role::Customer], get("/api/v1/notifications"))
            .await
            .json();
        let item = &shown["items"][0];
        assert_eq!(
            (shown["items"].as_array().unwrap().len(), &shown["next_cursor"]),
            (1, &json!(null))
        );
        assert_eq!(
            (&item["kind"], &item["subject"]),
            (&json!("welcome"), &json!("Welcome to Banyan"))
        );
        assert_eq!(
            (&item["to"], &item["status"], item.get("sent_at")),
            (&json!(format!("{ada}@example.com")), &json!("captured"), None)
        );
        assert!(item["body"].as_str().unwrap().starts_with("Hello,"));
        for role in [Role::Customer, Role::Staff, Role::Ops] {
            let reply = site.send_as(bob, &[role], get("/api/v1/notifications")).await;
            assert_eq!(
                (reply.status, reply.json()["items"].as_array().unwrap().len()),
                (200, 0)
            );
        }
        assert_eq!(site.send(get("/api/v1/notifications")).await.status, 401);
        module.stop().await;
    })
    .await;
}

#[tokio::test]
async fn the_list_is_newest_first_page_by_page() {
    on_both(notifications::SCHEMA, |db| async move {
        let module = Module::open(db, quick()).await;
        let site = Site::of(module.offers.routes.clone());
        let ada = Uuid::new_v4();
        let mut orders = Vec::new();
        for _ in 0..5 {
            let order = Uuid::now_v7().to_string();
            let event = OrderDelivered {
                order_id: order.clone(),
                user_id: ada.to_string(),
            };
            module
                .deliver(envelope("orders", &format!("order/{order}"), 1, &event))
                .await;
            orders.insert(0, order);
        }
        let (mut seen, mut path) = (Vec::new(), "/api/v1/notifications?limit=2".to_owned());
        loop {
            let page = site.send_as(ada, &[Role::Customer], get(&path)).await.json();
            let items = page["items"].as_array().unwrap();
            let order = |body: &str| {
                body.lines()
                    .find_map(|line| line.strip_prefix("Order: ").map(str::to_owned))
            };
            seen.extend(items.iter().filter_map(|item| order(item["body"].as_str().unwrap())));
            let Some(next) = page["next_cursor"].as_str() else {
                break;
            };
            path = format!("/api/v1/notifications?limit=2&cursor={next}");
        }
        assert_eq!(seen, orders);
        for bad in ["limit=0", "limit=101", "limit=x", "cursor=YWJj", "user_id=7"] {
            let reply = site
                .send_as(ada, &[Role::Customer], get(&format!("/api/v1/notifications?{bad}")))
                .await;
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
