//! Input is validated against the document.

use actix_web::{App, HttpResponse, get, post, test, web::Data};
use banyan_core::{PageRequest, Timestamp};
use banyan_http::{Body, PageQuery, Path, Query, Verifier};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// A type described by another crate.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Money {
    #[schema(minimum = 0)]
    amount: i64,
    #[schema(pattern = "^[A-Z]{3}$")]
    currency: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Wish {
    #[schema(min_length = 2, max_length = 5)]
    name: String,
    #[schema(min_length = 1, format = "line")]
    title: Option<String>,
    #[schema(format = "email")]
    email: String,
    #[schema(minimum = 1, maximum = 999)]
    quantity: u32,
    count: i64,
    #[schema(max_items = 2)]
    tags: Vec<Tag>,
    id: Uuid,
    at: Timestamp,
    price: Money,
    note: Option<String>,
    address: Option<Address>,
    kind: Kind,
    /// A pattern of its own that would allow control characters.
    #[schema(pattern = "^[^x]*$")]
    memo: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Tag {
    #[schema(pattern = "^[a-z]+$")]
    label: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Address {
    #[schema(min_length = 1)]
    city: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Big,
    Small,
}

#[derive(Debug, Deserialize, IntoParams)]
struct Filter {
    /// At least so much.
    #[param(minimum = 0)]
    min_price: Option<i64>,
    #[param(inline)]
    kind: Option<KindParam>,
    active: Option<bool>,
    #[param(max_length = 10)]
    q: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum KindParam {
    Big,
    Small,
}

#[derive(Debug, Deserialize, IntoParams)]
struct Flattened {
    q: Option<String>,
    #[serde(flatten)]
    page: PageQuery,
}

#[post("/wishes")]
async fn wish(body: Body<Wish>) -> HttpResponse {
    HttpResponse::Ok().body(format!("{} {} {:?}", body.quantity, body.count, body.kind))
}

#[get("/list")]
async fn list(filter: Query<Filter>, page: Query<PageQuery>) -> HttpResponse {
    let PageRequest { limit, after } = page.request();
    HttpResponse::Ok().body(format!(
        "{limit} {after:?} {:?} {:?} {:?} {:?}",
        filter.min_price, filter.kind, filter.active, filter.q
    ))
}

#[get("/flattened")]
async fn flattened(query: Query<Flattened>) -> HttpResponse {
    HttpResponse::Ok().body(format!("{:?} {}", query.q, query.page.request().limit))
}

#[get("/things/{id}/{name}")]
async fn thing(path: Path<(Uuid, String)>) -> HttpResponse {
    HttpResponse::Ok().body(path.into_inner().1)
}

async fn send(request: test::TestRequest) -> (u16, Value) {
    let signer = crate::support::Signer::new("k1");
    let verifier: Data<Verifier> = crate::support::verifier(
        crate::support::FakeKeys::of(&[&signer]),
        crate::support::HandClock::new(),
    );
    let app = test::init_service(
        App::new()
            .app_data(verifier)
            .service(wish)
            .service(list)
            .service(flattened)
            .service(thing),
    )
    .await;
    let response = test::call_service(&app, request.to_request()).await;
    let status = response.status().as_u16();
    let body = test::read_body(response).await;
    let text = String::from_utf8(body.to_vec()).unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

async fn post_json(body: impl Into<String>) -> (u16, Value) {
    send(
        test::TestRequest::post()
            .uri("/wishes")
            .insert_header(("Content-Type", "application/json"))
            .set_payload(body.into()),
    )
    .await
}

fn good() -> Value {
    json!({
        "name": "Ada", "email": "ada@banyan.example", "quantity": 2, "count": 5, "tags": [{"label": "x"}],
        "id": Uuid::from_u128(1), "at": "2024-11-21T11:20:00Z", "price": {"amount": 1, "currency": "EUR"}, "kind": "big",
    })
}

fn with(pointer: &str, value: Value) -> Value {
    let mut body = good();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = body.pointer_mut(parent).unwrap();
    match parent {
        Value::Array(all) => all[name.parse::<usize>().unwrap()] = value,
        other => other[name] = value,
    }
    body
}

#[actix_web::test]
async fn a_body_that_is_valid_against_its_schema_is_accepted() {
    assert_eq!(post_json(good().to_string()).await, (200, json!("2 5 Big")));
    for (pointer, value) in [
        ("/note", json!(null)),
        ("/address", json!(null)),
        ("/address", json!({"city": "Köln"})),
        ("/name", json!("äöüßé")),
        ("/note", json!("one\ttab\r\nand a line")),
        ("/title", json!("\u{200f}שלום")),
    ] {
        assert_eq!(
            post_json(with(pointer, value.clone()).to_string()).await.0,
            200,
            "{pointer} {value}"
        );
    }
}

#[actix_web::test]
async fn whole_numbers_are_integers_in_every_notation() {
    let text = good().to_string();
    for (written, status) in [
        ("2.0", 200),
        ("20e-1", 200),
        ("2e0", 200),
        ("2.5", 422),
        ("\"2\"", 422),
        ("true", 422),
        ("1e300", 422),
    ] {
        let text = text.replace("\"quantity\":2", &format!("\"quantity\":{written}"));
        assert_eq!(post_json(text).await.0, status, "{written}");
    }
}

#[actix_web::test]
async fn of_duplicate_keys_the_last_one_is_checked_and_used() {
    let text = good().to_string();
    assert_eq!(
        post_json(text.replace("\"quantity\":2", "\"quantity\":-5,\"quantity\":3")).await,
        (200, json!("3 5 Big"))
    );
    assert_eq!(
        post_json(text.replace("\"quantity\":2", "\"quantity\":3,\"quantity\":-5"))
            .await
            .0,
        422
    );
}

#[actix_web::test]
async fn every_documented_limit_is_enforced_and_named_by_its_pointer() {
    let cases = [
        ("/name", json!("A"), "/name"),
        ("/name", json!("Adaadaa"), "/name"),
        ("/name", json!(7), "/name"),
        ("/name", json!("A\u{0}B"), "/name"),
        ("/email", json!("not an address"), "/email"),
        ("/quantity", json!(0), "/quantity"),
        ("/quantity", json!(1000), "/quantity"),
        ("/quantity", json!(-1), "/quantity"),
        ("/quantity", json!(18_446_744_073_709_551_615_u64), "/quantity"),
        ("/count", json!(9_223_372_036_854_775_808_u64), "/count"),
        (
            "/tags",
            json!([{"label": "a"}, {"label": "b"}, {"label": "c"}]),
            "/tags",
        ),
        ("/tags/0", json!({"label": "UPPER"}), "/tags/0/label"),
        ("/tags/0", json!({"label": "a", "no/t": 1}), "/tags/0/no~1t"),
        ("/tags/0", json!({}), "/tags/0/label"),
        ("/id", json!("not-a-uuid"), "/id"),
        ("/id", json!("00000000000000000000000000000001"), "/id"),
        ("/at", json!("yesterday"), "/at"),
        ("/at", json!("2024-11-21"), "/at"),
        ("/price", json!({"amount": -1, "currency": "EUR"}), "/price/amount"),
        ("/price", json!({"amount": 1, "currency": "eur"}), "/price/currency"),
        ("/price", json!({"amount": 1}), "/price/currency"),
        ("/note", json!(5), "/note"),
        ("/note", json!("a\u{0}"), "/note"),
        ("/note", json!("a\u{1b}[2J"), "/note"),
        ("/note", json!("invoice\u{202e}fdp.exe"), "/note"),
        ("/memo", json!("a\u{0}"), "/memo"),
        ("/memo", json!("a\u{9b}"), "/memo"),
        ("/title", json!("a\nBcc: b"), "/title"),
        ("/title", json!(" "), "/title"),
        ("/title", json!(""), "/title"),
        ("/memo", json!("x"), "/memo"),
        ("/address", json!({"city": ""}), "/address/city"),
        ("/address", json!({"city": "x", "planet": "y"}), "/address/planet"),
        ("/kind", json!("medium"), "/kind"),
        ("/surprise", json!(1), "/surprise"),
    ];
    for (pointer, value, blamed) in cases {
        let (status, problem) = post_json(with(pointer, value.clone()).to_string()).await;
        assert_eq!(
            (status, problem["code"].as_str()),
            (422, Some("invalid_body")),
            "{pointer} {value}: {problem}"
        );
        let pointers: Vec<&str> = problem["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|error| error["pointer"].as_str().unwrap())
            .collect();
        assert_eq!(pointers, [blamed], "{pointer} {value}: {problem}");
    }
    let (status, problem) = post_json("{\"name\": \"A\"}").await;
    assert_eq!(
        (status, problem["errors"].as_array().unwrap().len()),
        (422, 9),
        "each broken rule is named: {problem}"
    );
    assert_eq!(post_json("[]").await.0, 422);
    assert_eq!(post_json("null").await.0, 422);
}

#[actix_web::test]
async fn errors_do_not_repeat_the_invalid_values() {
    let (_, problem) = post_json(with("/name", json!("geheim!")).to_string()).await;
    assert!(!problem.to_string().contains("geheim"), "{problem}");
}

#[actix_web::test]
async fn what_is_no_json_is_400_and_what_does_not_say_json_is_415() {
    let deep = "[".repeat(200) + &"]".repeat(200);
    for text in [
        "",
        "{",
        "{\"a\":}",
        "nonsense",
        "{} {}",
        "{\"a\": 1e999}",
        "\"\\ud800\"",
        deep.as_str(),
    ] {
        let (status, problem) = post_json(text).await;
        assert_eq!(
            (status, problem["code"].as_str()),
            (400, Some("malformed_json")),
            "{text}"
        );
    }
    for kind in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("application/json; charset=latin1"),
        Some("json"),
    ] {
        let request = test::TestRequest::post().uri("/wishes").set_payload(good().to_string());
        let request = kind
            .into_iter()
            .fold(request, |request, kind| request.insert_header(("Content-Type", kind)));
        assert_eq!(send(request).await.0, 415, "{kind:?}");
    }
    for kind in [
        "application/json",
        "Application/JSON; charset=UTF-8",
        "application/json;charset=\"utf-8\"",
    ] {
        let request = test::TestRequest::post()
            .uri("/wishes")
            .insert_header(("Content-Type", kind))
            .set_payload(good().to_string());
        assert_eq!(send(request).await.0, 200, "{kind}");
    }
    let packed = test::TestRequest::post()
        .uri("/wishes")
        .insert_header(("Content-Type", "application/json"));
    assert_eq!(
        send(
            packed
                .insert_header(("Content-Encoding", "gzip"))
                .set_payload(good().to_string())
        )
        .await
        .0,
        415
    );
}

#[actix_web::test]
async fn a_body_over_the_limit_is_413() {
    let fits = format!(
        "{}{}",
        good(),
        " ".repeat(banyan_http::MAX_BODY_BYTES - good().to_string().len())
    );
    assert_eq!(post_json(fits.clone()).await.0, 200);
    let (status, problem) = post_json(fits + " ").await;
    assert_eq!((status, problem["code"].as_str()), (413, Some("body_too_large")));
}

async fn get_query(uri: &str) -> (u16, Value) {
    send(test::TestRequest::get().uri(uri)).await
}

#[actix_web::test]
async fn query_parameters_are_parsed_as_documented() {
    assert_eq!(get_query("/list").await, (200, json!("20 None None None None None")));
    let all = "/list?limit=5&cursor=YWJj&min_price=100&kind=small&active=true&q=a%20b";
    assert_eq!(
        get_query(all).await,
        (
            200,
            json!("5 Some(Cursor(\"abc\")) Some(100) Some(Small) Some(true) Some(\"a b\")")
        )
    );
    assert_eq!(
        get_query("/list?q=5").await.1,
        json!("20 None None None None Some(\"5\")")
    );
    assert_eq!(get_query("/flattened?limit=7&q=x").await, (200, json!("Some(\"x\") 7")));
}

#[actix_web::test]
async fn a_query_parameter_that_breaks_its_rules_is_400_and_named() {
    let cases = [
        ("/list?limit=0", "limit"),
        ("/list?limit=101", "limit"),
        ("/list?limit=-1", "limit"),
        ("/list?limit=ten", "limit"),
        ("/list?limit=", "limit"),
        ("/list?limit=1.5", "limit"),
        ("/list?limit=1&limit=2", "limit"),
        ("/list?limit=99999999999999999999", "limit"),
        ("/list?cursor=%21%21", "cursor"),
        ("/list?cursor=A", "cursor"),
        ("/list?cursor=_w", "cursor"),
        ("/list?cursor=AA", "cursor"),
        ("/list?min_price=-1", "min_price"),
        ("/list?kind=medium", "kind"),
        ("/list?active=yes", "active"),
        ("/list?q=aaaaaaaaaaa", "q"),
        ("/list?q=%00", "q"),
        ("/list?colour=red", "colour"),
        ("/flattened?limit=0", "limit"),
        ("/flattened?page=1", "page"),
    ];
    for (uri, blamed) in cases {
        let (status, problem) = get_query(uri).await;
        assert_eq!(
            (status, problem["code"].as_str()),
            (400, Some("invalid_parameter")),
            "{uri}: {problem}"
        );
        let pointers: Vec<&str> = problem["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|error| error["pointer"].as_str().unwrap())
            .collect();
        assert_eq!(pointers, [blamed], "{uri}: {problem}");
    }
}

#[actix_web::test]
async fn a_path_that_can_name_nothing_is_404() {
    let id = Uuid::from_u128(1);
    assert_eq!(get_query(&format!("/things/{id}/a%20b")).await, (200, json!("a b")));
    for uri in [
        "/things/7/a".to_owned(),
        format!("/things/{id}/a%00b"),
        "/things/%00/a".to_owned(),
    ] {
        let (status, problem) = get_query(&uri).await;
        assert_eq!((status, problem["code"].as_str()), (404, Some("not_found")), "{uri}");
    }
}
