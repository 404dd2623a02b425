//! Users and their sessions.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use super::scenarios;
use crate::harness::Client;

scenarios![
    a_user_registers_logs_in_and_is_welcomed,
    an_email_is_unique_regardless_of_case,
    a_wrong_password_and_an_unknown_user_look_alike,
    a_refresh_token_rotates_and_a_second_use_at_the_same_moment_ends_nothing,
    logging_out_ends_the_session_and_its_access_tokens_in_every_process,
    a_profile_is_changed_by_its_owner,
    staff_can_list_users_and_customers_cannot,
    the_public_keys_of_tokens_are_served,
];

/// Far above the promised 5 s, because the machine may be busy.
const TIMEOUT: Duration = Duration::from_secs(60);

fn address() -> String {
    format!("fig-{}@shop.example", Uuid::new_v4().simple())
}

const PASSWORD: &str = "correct horse battery";

async fn register(client: &Client, email: &str) -> crate::harness::Response {
    client
        .post(
            "/api/v1/users",
            &json!({"email": email, "password": PASSWORD, "name": "Ada Fig"}),
        )
        .await
}

async fn a_user_registers_logs_in_and_is_welcomed(client: Client) {
    let email = address();
    let user = register(&client, &email).await.expect(201).json();
    assert_eq!(
        (user["email"].as_str(), &user["roles"]),
        (Some(email.as_str()), &json!(["customer"]))
    );
    assert!(
        user.get("password").is_none() && user["created_at"].is_string(),
        "{user}"
    );
    let customer = client.log_in_with(&email, PASSWORD).await;
    let me = customer.get("/api/v1/users/me").await.expect(200).json();
    assert_eq!(me["id"], user["id"]);
    let welcomed = |list: &serde_json::Value| {
        list["items"].as_array().is_some_and(|items| {
            items
                .iter()
                .any(|mail| mail["kind"] == "welcome" && mail["status"] == "captured")
        })
    };
    super::eventually(&customer, "/api/v1/notifications", "a welcome is sent", welcomed).await;
}

async fn an_email_is_unique_regardless_of_case(client: Client) {
    let email = address();
    register(&client, &email).await.expect(201);
    register(&client, &email.to_uppercase())
        .await
        .expect_problem(409, "email_taken");
    client
        .post(
            "/api/v1/users",
            &json!({"email": "no address", "password": PASSWORD, "name": "x"}),
        )
        .await
        .expect(422);
    client
        .post(
            "/api/v1/users",
            &json!({"email": address(), "password": "short", "name": "x"}),
        )
        .await
        .expect(422);
}

async fn a_wrong_password_and_an_unknown_user_look_alike(client: Client) {
    let email = address();
    register(&client, &email).await.expect(201);
    let wrong = client
        .post(
            "/api/v1/sessions",
            &json!({"email": email, "password": "wrong password"}),
        )
        .await
        .expect(401)
        .json();
    let unknown = client
        .post(
            "/api/v1/sessions",
            &json!({"email": address(), "password": "wrong password"}),
        )
        .await
        .expect(401)
        .json();
    assert_eq!(
        (&wrong["code"], &wrong["detail"]),
        (&unknown["code"], &unknown["detail"])
    );
}

async fn a_refresh_token_rotates_and_a_second_use_at_the_same_moment_ends_nothing(client: Client) {
    let email = address();
    register(&client, &email).await.expect(201);
    let session = client
        .post("/api/v1/sessions", &json!({"email": email, "password": PASSWORD}))
        .await
        .expect(201)
        .json();
    assert_eq!(
        session["token_type"].as_str().map(str::to_lowercase),
        Some("bearer".to_owned())
    );
    let first = session["refresh_token"].as_str().expect("a refresh token").to_owned();
    let refresh = |token: String| {
        let client = client.clone();
        async move {
            client
                .post("/api/v1/sessions/refresh", &json!({"refresh_token": token}))
                .await
        }
    };
    let next = refresh(first.clone()).await;
    assert!([200, 201].contains(&next.status), "{}", next.status);
    let second = next.json()["refresh_token"]
        .as_str()
        .expect("a refresh token")
        .to_owned();
    assert_ne!(first, second);
    refresh(first).await.expect_problem(409, "already_refreshed");
    refresh(second).await.expect(200);
}

async fn logging_out_ends_the_session_and_its_access_tokens_in_every_process(client: Client) {
    let email = address();
    register(&client, &email).await.expect(201);
    let session = client
        .post("/api/v1/sessions", &json!({"email": email, "password": PASSWORD}))
        .await
        .expect(201)
        .json();
    let customer = client.with_token(session["access_token"].as_str().expect("a token"));
    // Each of another module, which has a process of its own where the shop is split.
    let paths = [
        "/api/v1/users/me",
        "/api/v1/orders",
        "/api/v1/payments",
        "/api/v1/notifications",
    ];
    for path in paths {
        customer.get(path).await.expect(200);
    }
    customer
        .send(Method::DELETE, "/api/v1/sessions/current", &[], None)
        .await
        .expect(204);
    client
        .post(
            "/api/v1/sessions/refresh",
            &json!({"refresh_token": session["refresh_token"]}),
        )
        .await
        .expect(401);
    let started = Instant::now();
    for path in paths {
        while customer.get(path).await.status != 401 {
            assert!(
                started.elapsed() < TIMEOUT,
                "{path} still accepts the token of an ended session"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn a_profile_is_changed_by_its_owner(client: Client) {
    let customer = client.new_customer().await;
    let address =
        json!({"name": "Ada Fig", "line1": "1 Banyan Row", "city": "Berlin", "postal_code": "10115", "country": "DE"});
    let changed = customer
        .send(
            Method::PATCH,
            "/api/v1/users/me",
            &[],
            Some(&json!({"name": "Ada F.", "addresses": [address]})),
        )
        .await
        .expect(200)
        .json();
    assert_eq!(changed["name"], "Ada F.");
    assert_eq!(
        customer.get("/api/v1/users/me").await.expect(200).json()["addresses"][0]["city"],
        "Berlin"
    );
    customer
        .send(Method::PATCH, "/api/v1/users/me", &[], Some(&json!({"roles": ["ops"]})))
        .await
        .expect(422);
    client.get("/api/v1/users/me").await.expect(401);
}

async fn staff_can_list_users_and_customers_cannot(client: Client) {
    let customer = client.new_customer().await;
    let me = customer.get("/api/v1/users/me").await.expect(200).json();
    let path = format!("/api/v1/users/{}", me["id"].as_str().expect("an id"));
    customer
        .get("/api/v1/users")
        .await
        .expect_problem(403, "insufficient_role");
    let staff = client.staff().await;
    assert!(
        !staff.get("/api/v1/users").await.expect(200).json()["items"]
            .as_array()
            .expect("items")
            .is_empty()
    );
    assert_eq!(staff.get(&path).await.expect(200).json()["email"], me["email"]);
    client.new_customer().await.get(&path).await.expect(404);
}

async fn the_public_keys_of_tokens_are_served(client: Client) {
    let keys = client.get("/.well-known/jwks.json").await.expect(200).json();
    let key = &keys["keys"][0];
    assert_eq!((&key["kty"], &key["crv"]), (&json!("OKP"), &json!("Ed25519")), "{keys}");
    assert!(
        key["kid"].is_string() && key["x"].is_string() && key.get("d").is_none(),
        "{keys}"
    );
}
