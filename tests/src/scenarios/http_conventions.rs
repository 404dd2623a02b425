//! HTTP conventions: what every response has in common, and the responses to bad input.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use flate2::read::GzDecoder;
use reqwest::Method;
use serde_json::{Value, json};

use super::{new_product, scenarios};
use crate::harness::{Client, new_key, order_body};

scenarios![
    an_unknown_path_is_a_problem,
    a_wrong_method_is_405_and_lists_the_allowed_ones,
    malformed_json_is_a_problem,
    an_unknown_field_is_refused_by_name,
    a_wrong_type_is_refused_by_name,
    quantities_outside_their_limits_are_refused,
    a_body_of_ten_megabytes_is_refused,
    headers_over_sixteen_kibibytes_are_refused,
    an_unknown_currency_is_refused,
    another_content_type_is_refused,
    forged_tokens_are_refused,
    every_response_has_a_request_id,
    an_incoming_trace_is_continued,
    responses_carry_rate_limit_headers,
    an_unchanged_resource_is_not_sent_again,
    a_stale_change_is_refused,
    page_sizes_are_limited,
    the_openapi_document_and_swagger_ui_are_served,
    an_invalid_id_is_not_found,
];

async fn an_unknown_path_is_a_problem(client: Client) {
    for path in ["/nothing", "/api/v1/nothing", "/api/v2/orders"] {
        let problem = client.get(path).await.expect_problem(404, "not_found").json();
        assert_eq!(problem["instance"], path);
    }
}

async fn a_wrong_method_is_405_and_lists_the_allowed_ones(client: Client) {
    let response = client
        .send(Method::DELETE, "/api/v1/orders", &[], None)
        .await
        .expect_problem(405, "method_not_allowed");
    let allow = response.header("allow").expect("Allow");
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
}

async fn malformed_json_is_a_problem(client: Client) {
    let response = client
        .request(Method::POST, "/api/v1/sessions")
        .header("content-type", "application/json")
        .body("{\"email\":")
        .send()
        .await
        .expect("a response");
    assert_eq!(response.status(), 400);
    assert_eq!(response.json::<Value>().await.expect("JSON")["code"], "malformed_json");
}

fn pointers(problem: &Value) -> Vec<&str> {
    problem["errors"]
        .as_array()
        .expect("errors")
        .iter()
        .filter_map(|error| error["pointer"].as_str())
        .collect()
}

async fn an_unknown_field_is_refused_by_name(client: Client) {
    let problem = client
        .post(
            "/api/v1/sessions",
            &json!({"email": "demo@banyan.example", "password": "banyan-demo", "pasword": "x"}),
        )
        .await
        .expect(422)
        .json();
    assert!(problem["errors"].to_string().contains("pasword"), "{problem}");
}

async fn a_wrong_type_is_refused_by_name(client: Client) {
    let customer = client.customer().await;
    let mut body = order_body("rare-fig", 1, "pm_card_visa");
    body["items"][0]["quantity"] = json!("two");
    let problem = customer.post_keyed("/api/v1/orders", &body).await.expect(422).json();
    assert_eq!(pointers(&problem), ["/items/0/quantity"], "{problem}");
}

async fn quantities_outside_their_limits_are_refused(client: Client) {
    let customer = client.customer().await;
    for quantity in [json!(-1), json!(0), json!(1000), json!(1e30), json!(1.5)] {
        let mut body = order_body("rare-fig", 1, "pm_card_visa");
        body["items"][0]["quantity"] = quantity.clone();
        let problem = customer.post_keyed("/api/v1/orders", &body).await.expect(422).json();
        assert_eq!(pointers(&problem), ["/items/0/quantity"], "{quantity}: {problem}");
    }
}

async fn a_body_of_ten_megabytes_is_refused(client: Client) {
    let body = format!("{{\"email\": \"{}\"}}", "x".repeat(10_000_000));
    let response = client
        .request(Method::POST, "/api/v1/sessions")
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await;
    // The server may close the connection before all is sent, which a client sees as an error of the transport.
    if let Ok(response) = response {
        assert_eq!(response.status(), 413);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }
    client.get("/health/live").await.expect(200);
    let body = format!("{{\"email\": \"{}\"}}", "x".repeat(70_000));
    let response = client
        .request(Method::POST, "/api/v1/sessions")
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await
        .expect("a response");
    assert_eq!(response.status(), 413);
}

async fn headers_over_sixteen_kibibytes_are_refused(client: Client) {
    let long = "x".repeat(17_000);
    client
        .send(Method::GET, "/api/v1/products", &[("X-Long", &long)], None)
        .await
        .expect_problem(431, "header_fields_too_large");
    client
        .send(Method::GET, "/api/v1/products", &[("X-Long", &long[..12_000])], None)
        .await
        .expect(200);
}

async fn an_unknown_currency_is_refused(client: Client) {
    let staff = client.staff().await;
    for currency in ["QQQ", "eur", "EURO", "XXX", "XAU", "HRK"] {
        let product = json!({"sku": "never-made", "name": "x", "description": "x", "category": "figs", "price": {"amount": 1, "currency": currency}});
        staff.post("/api/v1/products", &product).await.expect(422);
    }
}

async fn another_content_type_is_refused(client: Client) {
    let response = client
        .request(Method::POST, "/api/v1/sessions")
        .header("content-type", "text/plain")
        .body("{}")
        .send()
        .await
        .expect("a response");
    assert_eq!(response.status(), 415);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
}

async fn forged_tokens_are_refused(client: Client) {
    let customer = client.customer().await;
    customer.get("/api/v1/users/me").await.expect(200);
    let parts: Vec<&str> = customer.token().split('.').collect();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({"sub": "01890000-0000-7000-8000-000000000000", "roles": ["ops"], "iss": "http://localhost:8080", "aud": "banyan", "iat": now, "nbf": now, "exp": now + 900, "jti": "x"});
    let forged = [
        format!("{}.{}.", encode(&json!({"alg": "none", "typ": "JWT"})), encode(&claims)),
        format!(
            "{}.{}.{}",
            encode(&json!({"alg": "HS256", "typ": "JWT"})),
            encode(&claims),
            parts[2]
        ),
        format!("{}.{}.{}", parts[0], encode(&claims), parts[2]),
        format!("{}.{}.{}", parts[0], parts[1], URL_SAFE_NO_PAD.encode([0; 64])),
        "nonsense".to_owned(),
    ];
    for token in forged {
        let response = client.with_token(&token).get("/api/v1/users/me").await;
        assert!(
            response
                .header("www-authenticate")
                .is_some_and(|header| header.starts_with("Bearer")),
            "{token}"
        );
        assert_eq!(response.status, 401, "{token}");
        assert_eq!(response.header("content-type"), Some("application/problem+json"));
        // Also where no token is needed: a bad one is an error, not an anonymous caller.
        client.with_token(&token).get("/api/v1/products").await.expect(401);
    }
}

async fn every_response_has_a_request_id(client: Client) {
    for path in ["/api/v1/products", "/nothing", "/health/live"] {
        assert!(client.get(path).await.header("x-request-id").is_some(), "{path}");
    }
    let named = client
        .send(Method::GET, "/api/v1/products", &[("X-Request-Id", "mine-1")], None)
        .await;
    assert_eq!(named.header("x-request-id"), Some("mine-1"));
}

async fn an_incoming_trace_is_continued(client: Client) {
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let problem = client
        .send(Method::GET, "/nothing", &[("traceparent", trace)], None)
        .await
        .expect(404)
        .json();
    assert_eq!(problem["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
}

async fn responses_carry_rate_limit_headers(client: Client) {
    let response = client.get("/api/v1/products").await.expect(200);
    assert!(
        response.header("ratelimit").is_some() && response.header("ratelimit-policy").is_some(),
        "{:?}",
        response.headers
    );
}

async fn an_unchanged_resource_is_not_sent_again(client: Client) {
    let response = client.get("/api/v1/products/rare-fig").await.expect(200);
    let etag = response.header("etag").expect("an ETag").to_owned();
    let again = client
        .send(
            Method::GET,
            "/api/v1/products/rare-fig",
            &[("If-None-Match", &etag)],
            None,
        )
        .await
        .expect(304);
    assert!(again.bytes.is_empty());
}

async fn a_stale_change_is_refused(client: Client) {
    let sku = new_product(&client, 100, 0).await;
    let staff = client.staff().await;
    let path = format!("/api/v1/products/{sku}");
    let etag = staff
        .get(&path)
        .await
        .expect(200)
        .header("etag")
        .expect("an ETag")
        .to_owned();
    let change = json!({"name": "A Renamed Fig"});
    staff
        .send(Method::PATCH, &path, &[("If-Match", &etag)], Some(&change))
        .await
        .expect(200);
    staff
        .send(Method::PATCH, &path, &[("If-Match", &etag)], Some(&change))
        .await
        .expect(412);
}

async fn page_sizes_are_limited(client: Client) {
    for limit in ["0", "101", "-1", "many"] {
        let problem = client
            .get(&format!("/api/v1/products?limit={limit}"))
            .await
            .expect(400)
            .json();
        assert_eq!(problem["errors"][0]["pointer"], "limit", "{problem}");
    }
    client.get("/api/v1/products?cursor=%00broken").await.expect(400);
    assert_eq!(
        client.get("/api/v1/products").await.expect(200).json()["items"]
            .as_array()
            .map(Vec::len),
        Some(20)
    );
}

async fn the_openapi_document_and_swagger_ui_are_served(client: Client) {
    let document = client.get("/openapi.json").await.expect(200).json();
    assert!(
        document["openapi"]
            .as_str()
            .is_some_and(|version| version.starts_with("3.1"))
    );
    let response = client.get("/docs/").await.expect(200);
    assert_eq!(response.header("content-encoding"), Some("gzip"));
    let page = std::io::read_to_string(GzDecoder::new(&response.bytes[..])).expect("a page in gzip");
    assert!(page.contains("swagger"), "the page is Swagger UI");
    assert!(
        !page.contains("https://") && !page.contains("http://"),
        "the page loads nothing from other hosts: {page}"
    );
}

async fn an_invalid_id_is_not_found(client: Client) {
    let customer = client.customer().await;
    customer
        .get("/api/v1/orders/not-an-id")
        .await
        .expect_problem(404, "not_found");
    let key = new_key();
    customer
        .send(
            Method::POST,
            "/api/v1/orders/not-an-id/cancel",
            &[("Idempotency-Key", &key)],
            Some(&json!({})),
        )
        .await
        .expect_problem(404, "not_found");
}
