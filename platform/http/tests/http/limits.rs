//! Rate limits.

use std::time::Duration;

use actix_web::{HttpResponse, get};
use banyan_http::{Anyone, Routes, ShellSettings, rate_limit::Limiter, rate_limit::RateLimit};

use crate::support::{Server, problem};

#[utoipa::path(responses((status = 200)))]
#[get("/thing")]
async fn thing(_: Anyone) -> HttpResponse {
    HttpResponse::Ok().finish()
}

fn routes() -> Routes {
    Routes::new(|config| _ = config.service(thing))
}

#[actix_web::test]
async fn a_caller_over_its_limit_gets_a_429_and_others_are_not_affected() {
    let server = Server::start_with(routes(), ShellSettings::default(), RateLimit::new(1, 3)).await;
    let token = server.signer.token(&["customer"]);
    for remaining in [2, 1, 0] {
        let response = server
            .request("GET", "/api/v1/thing")
            .bearer_auth(&token)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["ratelimit-policy"], "\"caller\";q=3;w=3");
        assert!(
            response.headers()["ratelimit"]
                .to_str()
                .unwrap()
                .starts_with(&format!("\"caller\";r={remaining};t="))
        );
    }
    let refused = server
        .request("GET", "/api/v1/thing")
        .bearer_auth(&token)
        .send()
        .await
        .unwrap();
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(refused.headers()["ratelimit"], "\"caller\";r=0;t=1");
    problem(refused, 429, "too_many_requests").await;

    let other = server
        .signer
        .token_with(|claims| claims["sub"] = serde_json::json!(uuid::Uuid::from_u128(9)));
    assert_eq!(
        server
            .request("GET", "/api/v1/thing")
            .bearer_auth(&other)
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    assert_eq!(
        server.request("GET", "/api/v1/thing").send().await.unwrap().status(),
        200,
        "the address has a limit of its own"
    );
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(
        server
            .request("GET", "/api/v1/thing")
            .bearer_auth(&token)
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    server.stop().await;
}

#[actix_web::test]
async fn invalid_tokens_count_against_their_address() {
    let server = Server::start_with(routes(), ShellSettings::default(), RateLimit::new(1, 3)).await;
    let mut statuses = Vec::new();
    for number in 0..4 {
        statuses.push(
            server
                .request("GET", "/api/v1/thing")
                .bearer_auth(format!("made-up-{number}"))
                .send()
                .await
                .unwrap()
                .status()
                .as_u16(),
        );
    }
    assert_eq!(statuses, [401, 401, 401, 429]);
    assert_eq!(
        server.request("GET", "/health/live").send().await.unwrap().status(),
        404,
        "requests outside the API are not counted"
    );
    server.stop().await;
}

#[test]
fn a_limiter_can_be_used_directly() {
    let limiter = Limiter::per_minute(5, 2);
    let clone = limiter.clone();
    assert_eq!(limiter.check("ada").unwrap().remaining, 1);
    assert_eq!(clone.check("ada").unwrap().remaining, 0);
    let fault = limiter.check("ada").unwrap_err();
    assert_eq!(banyan_http::status_of(&fault), 429);
    assert!(
        fault
            .retry_after
            .is_some_and(|wait| wait > Duration::from_secs(10) && wait <= Duration::from_secs(12)),
        "{fault:?}"
    );
    assert!(limiter.check("bob").is_ok());
}
