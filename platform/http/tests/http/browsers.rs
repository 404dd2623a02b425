//! What the shell tells browsers.

use actix_web::{App, HttpResponse, test, web};
use banyan_http::{AllowedHosts, ShellSettings, ok_with_etag};

async fn page(request: actix_web::HttpRequest) -> HttpResponse {
    match request.query_string() {
        "html" => HttpResponse::Ok().content_type("text/html").body("<p>figs</p>"),
        "text" => HttpResponse::Ok().content_type("text/plain").body("figs"),
        "stream" => HttpResponse::Ok()
            .content_type("text/event-stream")
            .body("data: figs\n\n"),
        "panic" => panic!("a test's"),
        _ => ok_with_etag(&request, "\"1\"", &1),
    }
}

async fn header(settings: ShellSettings, query: &str, token: bool, name: &str) -> Option<String> {
    let app = App::new()
        .route("/page", web::get().to(page))
        .wrap(banyan_http::shell(settings));
    let app = test::init_service(app).await;
    let mut request = test::TestRequest::get()
        .uri(&format!("/page?{query}"))
        .insert_header(("Host", "shop.example"));
    if token {
        request = request.insert_header(("Authorization", "Bearer x"));
    }
    let headers = match test::try_call_service(&app, request.to_request()).await {
        Ok(response) => response.headers().clone(),
        Err(error) => error.error_response().headers().clone(),
    };
    headers.get(name).map(|value| value.to_str().unwrap().to_owned())
}

#[actix_web::test]
async fn every_kind_of_response_has_a_policy_and_texts_have_a_charset() {
    for query in ["html", "text", "stream", "json", "panic"] {
        let policy = header(ShellSettings::default(), query, false, "content-security-policy")
            .await
            .unwrap();
        assert!(policy.contains("frame-ancestors 'none'"), "{query}: {policy}");
        assert_eq!(policy.contains("'self'"), query == "html", "{query}: {policy}");
    }
    for (query, kind) in [
        ("html", "text/html; charset=utf-8"),
        ("text", "text/plain; charset=utf-8"),
        ("stream", "text/event-stream"),
    ] {
        assert_eq!(
            header(ShellSettings::default(), query, false, "content-type")
                .await
                .as_deref(),
            Some(kind)
        );
    }
}

#[actix_web::test]
async fn browsers_are_told_to_use_tls_alone_where_there_is_tls_on_errors_too() {
    let with_tls = || ShellSettings {
        tls_only: true,
        ..ShellSettings::default()
    };
    for query in ["html", "json", "panic"] {
        assert_eq!(
            header(with_tls(), query, false, "strict-transport-security")
                .await
                .as_deref(),
            Some("max-age=31536000")
        );
        assert_eq!(
            header(ShellSettings::default(), query, false, "strict-transport-security").await,
            None
        );
    }
}

#[actix_web::test]
async fn what_is_shown_to_a_user_is_stored_nowhere() {
    for (token, keeps) in [(true, "no-store"), (false, "private, no-cache")] {
        assert_eq!(
            header(ShellSettings::default(), "json", token, "cache-control")
                .await
                .as_deref(),
            Some(keeps)
        );
    }
}

#[actix_web::test]
async fn a_request_for_another_host_is_refused_with_all_headers() {
    let elsewhere = ShellSettings {
        hosts: AllowedHosts::only(["other.example".to_owned()]),
        ..ShellSettings::default()
    };
    let kind = header(elsewhere, "json", false, "content-type").await;
    assert_eq!(kind.as_deref(), Some("application/problem+json"));
}
