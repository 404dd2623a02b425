//! What the log tells of who came in, and of who was refused.

use reqwest::Method;
use serde_json::{Value, json};

use super::{checks, installation::Installation};
use crate::harness::Stage;

checks![who_came_in_and_who_was_refused_are_security_events];

async fn who_came_in_and_who_was_refused_are_security_events() {
    let installation = Installation::new(Stage::Sqlite).await;
    let shop = installation.serve_with(&[("BANYAN__LOG__FORMAT", "json")]).await;
    let client = &shop.client;
    for email in ["demo@banyan.example", "nobody@banyan.example"] {
        let wrong = json!({ "email": email, "password": "not-the-password" });
        client.post("/api/v1/sessions", &wrong).await.expect(401);
    }
    let (customer, ops) = (client.customer().await, client.ops().await);
    let id = customer.get("/api/v1/users/me").await.expect(200).json()["id"].clone();
    let id = id.as_str().expect("an id");
    customer.get("/api/v1/users").await.expect(403);
    let operator = ops.get("/api/v1/users/me").await.expect(200).json()["id"].clone();
    let sessions = format!("/api/v1/users/{id}/sessions");
    let ended = ops.send(Method::DELETE, &sessions, &[], None).await;
    ended.expect(204);
    shop.logged("ended_by_operator").await;
    let log = shop.log();
    let events: Vec<Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line["target"] == "security")
        .collect();
    let by = format!("user:{}", operator.as_str().expect("an id"));
    for wanted in [
        json!({ "event": "log_in_failed", "user": id, "address": "127.0.0.1", "reason": "wrong_password" }),
        json!({ "event": "log_in_failed", "user": "", "address": "127.0.0.1", "reason": "unknown_account" }),
        json!({ "event": "log_in", "user": id, "by": format!("user:{id}"), "address": "127.0.0.1" }),
        json!({ "event": "access_refused", "user": id, "address": "127.0.0.1", "reason": "staff", "path": "/api/v1/users" }),
        json!({ "event": "session_ended", "user": id, "by": by, "reason": "ended_by_operator" }),
    ] {
        let is_wanted = |event: &&Value| {
            let fields = wanted.as_object().expect("an object");
            fields.iter().all(|(name, value)| event[name] == *value)
        };
        assert!(
            events.iter().any(|event| is_wanted(&event)),
            "{wanted} is not among {events:#?}"
        );
    }
    assert!(!log.contains("nobody@banyan.example"), "no email address is logged");
    shop.stop().await;
    installation.remove().await;
}
