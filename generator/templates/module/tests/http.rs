//! Items over HTTP: listing, showing, adding, and permissions.

use std::sync::Arc;

use banyan_core::{RandomIds, SystemClock};
use banyan_durable::Db;
use banyan_durable_testing::{default_settings, on_both, published};
use banyan_http_testing::{Reply, Site, TestRequest, get, post};
use {module}::{Needs, start};
use serde_json::json;
use shared_kernel::Role;
use uuid::Uuid;

async fn open(db: Db) -> Site {
    let needs = Needs {
        db,
        clock: Arc::new(SystemClock),
        ids: Arc::new(RandomIds),
        settings: default_settings(include_str!("../config/default.toml"), "{module}"),
    };
    Site::of(start(needs).await.expect("{module} starts").routes)
}

fn add(name: &str) -> TestRequest {
    post("/api/v1/{module}").set_json(json!({ "name": name }))
}

async fn as_role(site: &Site, role: Role, request: TestRequest) -> Reply {
    site.send_as(Uuid::from_u128(9), &[role], request).await
}

#[tokio::test]
async fn an_item_is_added_by_staff_and_shown_to_anybody() {
    on_both({module}::SCHEMA, |db| async move {
        let site = open(db).await;
        let added = as_role(&site, Role::Staff, add("Fig")).await;
        assert_eq!(added.status, 201, "{}", added.body);
        let shown = site.send(get(added.header("location"))).await;
        assert_eq!((shown.status, shown.json()), (200, added.json()));
        assert_eq!(shown.json()["name"], "Fig");
        let missing = site.send(get(&format!("/api/v1/{module}/{}", Uuid::now_v7()))).await;
        assert_eq!((missing.status, missing.code().as_str()), (404, "not_found"));
    })
    .await;
}

#[tokio::test]
async fn only_staff_adds_items() {
    on_both({module}::SCHEMA, |db| async move {
        let site = open(db.clone()).await;
        assert_eq!(site.send(add("Fig")).await.status, 401);
        assert_eq!(as_role(&site, Role::Customer, add("Fig")).await.status, 403);
        assert!(published(&db).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn wrong_names_are_refused_with_the_field_and_the_rule() {
    on_both({module}::SCHEMA, |db| async move {
        let site = open(db).await;
        for name in ["", " Fig"] {
            let refused = as_role(&site, Role::Staff, add(name)).await;
            assert_eq!(refused.status, 422, "{name:?}: {}", refused.body);
            assert_eq!(refused.json()["errors"][0]["pointer"], "/name");
        }
        assert_eq!(as_role(&site, Role::Staff, add("Fig")).await.status, 201);
        let taken = as_role(&site, Role::Staff, add("Fig")).await;
        assert_eq!((taken.status, taken.code().as_str()), (409, "name_taken"));
    })
    .await;
}

#[tokio::test]
async fn a_repeated_request_with_the_same_key_adds_one_item() {
    on_both({module}::SCHEMA, |db| async move {
        let site = open(db.clone()).await;
        let keyed = || add("Fig").insert_header(("Idempotency-Key", "one-key"));
        let first = as_role(&site, Role::Staff, keyed()).await;
        let again = as_role(&site, Role::Staff, keyed()).await;
        assert_eq!((first.status, again.status), (201, 201));
        assert_eq!(first.json(), again.json());
        assert_eq!(published(&db).await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn pages_lead_from_the_newest_to_the_oldest_item() {
    on_both({module}::SCHEMA, |db| async move {
        let site = open(db).await;
        let names = ["one", "two", "three", "four", "five"];
        for name in names {
            assert_eq!(as_role(&site, Role::Staff, add(name)).await.status, 201);
        }
        let (mut seen, mut path) = (Vec::new(), "/api/v1/{module}?limit=2".to_owned());
        loop {
            let page = site.send(get(&path)).await.json();
            let items = page["items"].as_array().expect("items").clone();
            seen.extend(items.iter().map(|item| item["name"].as_str().unwrap().to_owned()));
            match page["next_cursor"].as_str() {
                Some(cursor) => path = format!("/api/v1/{module}?limit=2&cursor={cursor}"),
                None => break,
            }
        }
        seen.reverse();
        assert_eq!(seen, names);
    })
    .await;
}
