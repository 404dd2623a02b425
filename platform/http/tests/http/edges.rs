//! The edges of the framework, over real connections: every error is a problem, wherever it was detected.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, get, post};
use banyan_core::Fault;
use banyan_http::{Anyone, Body, Prefer, Problem, Routes, ShellSettings, TimeLimit, rate_limit::RateLimit};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Server, problem};

#[derive(serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Note {
    #[allow(dead_code)]
    text: String,
}

#[utoipa::path(responses((status = 200)))]
#[get("/hello/{name}")]
async fn hello(caller: Anyone) -> HttpResponse {
    HttpResponse::Ok().json(json!({"trace": caller.call().trace.as_ref().map(ToString::to_string)}))
}

#[utoipa::path(request_body = Note, responses((status = 200)))]
#[post("/notes")]
async fn note(_: Body<Note>) -> HttpResponse {
    HttpResponse::Ok().finish()
}

#[utoipa::path(responses((status = 200)))]
#[get("/panic")]
async fn panicking() -> HttpResponse {
    panic!("the secret is xyzzy")
}

#[utoipa::path(responses((status = 200)))]
#[get("/broken")]
async fn broken() -> Result<HttpResponse, Problem> {
    Err(Fault::internal("database_on_fire", "password=hunter2").into())
}

#[utoipa::path(responses((status = 200)))]
#[get("/unavailable")]
async fn unavailable() -> Result<HttpResponse, Problem> {
    Err(Fault::unavailable("The database is unavailable.")
        .retry_after(Duration::from_millis(1500))
        .into())
}

#[utoipa::path(responses((status = 200)))]
#[get("/slow")]
async fn slow(prefer: Prefer) -> HttpResponse {
    tokio::time::sleep(Duration::from_secs(2)).await;
    HttpResponse::Ok().json(prefer.wait.map(|wait| wait.as_secs()))
}

/// Needs longer than the others, and raises its limit.
#[utoipa::path(responses((status = 200)))]
#[get("/patient")]
async fn patient(request: HttpRequest) -> HttpResponse {
    TimeLimit::raise(&request, Duration::from_secs(1_000));
    TimeLimit::raise(&request, Duration::from_millis(1));
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    HttpResponse::Ok().finish()
}

#[utoipa::path(responses((status = 200)))]
#[get("/plain")]
async fn plain() -> HttpResponse {
    HttpResponse::Conflict().body("some text")
}

fn routes() -> Routes {
    Routes::new(|config| {
        config
            .service(hello)
            .service(note)
            .service(panicking)
            .service(broken)
            .service(unavailable)
            .service(slow)
            .service(patient)
            .service(plain);
    })
}

async fn server() -> Server {
    let shell = ShellSettings {
        time_limit: Duration::from_secs(1),
        ..ShellSettings::default()
    };
    Server::start_with(routes(), shell, RateLimit::new(1_000, 2_000)).await
}

#[actix_web::test]
async fn every_error_is_a_problem_wherever_it_was_detected() {
    let server = server().await;
    let send = |method: &str, path: &str| server.request(method, path).send();
    let found = problem(send("GET", "/nowhere").await.unwrap(), 404, "not_found").await;
    assert_eq!(found["instance"], "/nowhere");
    assert_eq!(found["type"], "https://banyan.example/problems/not_found");
    problem(send("GET", "/api/v1/nowhere").await.unwrap(), 404, "not_found").await;
    problem(send("GET", "/api/v1/hello/a/b").await.unwrap(), 404, "not_found").await;
    problem(send("GET", "/api/v1/hello//").await.unwrap(), 404, "not_found").await;
    problem(send("GET", "/api/v1/plain").await.unwrap(), 409, "conflict").await;
    problem(
        server
            .request("GET", "/api/v1/hello/a")
            .bearer_auth("x")
            .send()
            .await
            .unwrap(),
        401,
        "invalid_token",
    )
    .await;
    let response = send("GET", "/api/v1/unavailable").await.unwrap();
    assert_eq!(response.headers()["retry-after"], "2");
    problem(response, 503, "unavailable").await;
    let late = problem(send("GET", "/api/v1/slow").await.unwrap(), 504, "timeout").await;
    assert_eq!(late["instance"], "/api/v1/slow");
    for (path, secret) in [("/api/v1/panic", "xyzzy"), ("/api/v1/broken", "hunter2")] {
        let failed = problem(send("GET", path).await.unwrap(), 500, "internal_error").await;
        let text = failed.to_string();
        assert!(
            !text.contains(secret) && !text.contains("database_on_fire"),
            "a 500 reveals no internals: {text}"
        );
    }
    problem(
        send("POST", "/api/v1/notes").await.unwrap(),
        415,
        "unsupported_media_type",
    )
    .await;
    problem(
        server
            .request("POST", "/api/v1/notes")
            .json(&json!({}))
            .send()
            .await
            .unwrap(),
        422,
        "invalid_body",
    )
    .await;
    assert_eq!(
        send("GET", "/api/v1/hello/a").await.unwrap().status(),
        200,
        "the worker survives a panic"
    );
    server.stop().await;
}

#[actix_web::test]
async fn a_known_path_with_another_method_is_405_and_says_which_methods_there_are() {
    let server = server().await;
    for (method, path, allow) in [
        ("DELETE", "/api/v1/hello/a", "GET, HEAD"),
        ("POST", "/api/v1/hello/a", "GET, HEAD"),
        ("OPTIONS", "/api/v1/hello/a", "GET, HEAD"),
        ("TRACE", "/api/v1/hello/a", "GET, HEAD"),
        ("BREW", "/api/v1/hello/a", "GET, HEAD"),
        ("GET", "/api/v1/notes", "POST"),
        ("HEAD", "/api/v1/notes", "POST"),
        ("PUT", "/api/v1/notes", "POST"),
    ] {
        let response = server.request(method, path).send().await.unwrap();
        assert_eq!(response.headers()["allow"], allow, "{method} {path}");
        assert_eq!(response.status(), 405);
        if method != "HEAD" {
            problem(response, 405, "method_not_allowed").await;
        }
    }
    server.stop().await;
}

#[actix_web::test]
async fn head_is_get_without_the_body() {
    let server = server().await;
    let head = server.request("HEAD", "/api/v1/hello/a").send().await.unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!(head.headers()["content-type"], "application/json");
    assert_eq!(head.text().await.unwrap(), "");
    assert_eq!(
        server.request("GET", "/api/v1/hello/a").send().await.unwrap().status(),
        200,
        "the connection is still usable"
    );
    server.stop().await;
}

#[actix_web::test]
async fn a_ten_megabyte_body_gets_its_413_on_every_way_of_sending_it() {
    let server = server().await;
    let huge = vec![b' '; 10 * 1024 * 1024];
    let send = |body: reqwest::Body| {
        server
            .request("POST", "/api/v1/notes")
            .header("Content-Type", "application/json")
            .body(body)
            .send()
    };
    problem(send(huge.clone().into()).await.unwrap(), 413, "body_too_large").await;
    let chunks: Vec<Result<Vec<u8>, std::io::Error>> = huge.chunks(64 * 1024).map(|chunk| Ok(chunk.to_vec())).collect();
    problem(
        send(reqwest::Body::wrap_stream(futures::stream::iter(chunks)))
            .await
            .unwrap(),
        413,
        "body_too_large",
    )
    .await;
    server.stop().await;
}

#[actix_web::test]
async fn a_client_that_sends_it_all_before_it_reads_still_sees_the_413() {
    let server = server().await;
    let mut connection = tokio::net::TcpStream::connect(server.url.trim_start_matches("http://"))
        .await
        .unwrap();
    let length = 10 * 1024 * 1024;
    let head = format!(
        "POST /api/v1/notes HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    connection
        .write_all(&vec![b' '; length])
        .await
        .expect("the connection stays open while the client is sending");
    let mut response = vec![0; 4096];
    let read = connection
        .read(&mut response)
        .await
        .expect("a response and not a reset");
    assert!(
        response[..read].starts_with(b"HTTP/1.1 413"),
        "{}",
        String::from_utf8_lossy(&response[..read])
    );
    server.stop().await;
}

#[actix_web::test]
async fn a_raised_time_limit_does_not_affect_other_requests() {
    let server = server().await;
    let (may, may_not) = futures::join!(
        server.request("GET", "/api/v1/patient").send(),
        server.request("GET", "/api/v1/slow").send()
    );
    assert_eq!(may.unwrap().status(), 200);
    problem(may_not.unwrap(), 504, "timeout").await;
    server.stop().await;
}

#[actix_web::test]
async fn the_wait_that_a_client_prefers_is_added_to_the_time_limit() {
    let server = server().await;
    let response = server
        .request("GET", "/api/v1/slow")
        .header("Prefer", "wait=9")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.json::<Value>().await.unwrap(), json!(9));
    server.stop().await;
}

#[actix_web::test]
async fn every_response_has_its_request_id_and_the_trace_continues() {
    let server = server().await;
    let send =
        |name: &'static str, value: &'static str| server.request("GET", "/api/v1/hello/a").header(name, value).send();
    assert_eq!(
        send("X-Request-Id", "my-id.1").await.unwrap().headers()["x-request-id"],
        "my-id.1"
    );
    for invalid in ["a b", "<script>", ""] {
        let response = send("X-Request-Id", invalid).await.unwrap();
        let id = response.headers()["x-request-id"].to_str().unwrap();
        assert!(uuid::Uuid::parse_str(id).is_ok(), "{invalid:?} became {id}");
    }
    let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let trace = send("traceparent", given).await.unwrap().json::<Value>().await.unwrap()["trace"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(&trace[..36], &given[..36], "the same trace");
    assert_ne!(&trace[36..52], &given[36..52], "with a new span");
    assert_eq!(&trace[52..], "-01");
    let trace = send("traceparent", "nonsense")
        .await
        .unwrap()
        .json::<Value>()
        .await
        .unwrap()["trace"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(banyan_core::TraceParent::parse(&trace).is_some());
    let failed = server
        .request("GET", "/nowhere")
        .header("traceparent", given)
        .send()
        .await
        .unwrap();
    assert_eq!(
        problem(failed, 404, "not_found").await["trace_id"],
        "4bf92f3577b34da6a3ce929d0e0e4736"
    );
    let headers = send("Accept", "*/*").await.unwrap().headers().clone();
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert_eq!(headers["cache-control"], "no-store");
    server.stop().await;
}

#[actix_web::test]
async fn a_body_that_never_comes_is_408() {
    let server = Server::start(routes()).await;
    let mut connection = tokio::net::TcpStream::connect(server.url.trim_start_matches("http://"))
        .await
        .unwrap();
    let head =
        "POST /api/v1/notes HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{";
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut response = vec![0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(20), connection.read(&mut response))
        .await
        .expect("a response")
        .unwrap();
    let text = String::from_utf8_lossy(&response[..read]).into_owned();
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
    assert!(
        text.contains("application/problem+json") && text.contains("request_timeout"),
        "{text}"
    );
    server.stop().await;
}
