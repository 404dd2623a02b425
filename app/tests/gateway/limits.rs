//! How much of this process one module can take, and how long.

use std::{future::pending, time::Duration};

use actix_web::{App, HttpResponse, body::to_bytes, http::StatusCode, middleware::from_fn, test};
use banyan_host::settings::Settings;
use banyan_http::ShellSettings;

use super::{
    edge::Edge,
    instance::{Deed, Instance},
};

const EVENTS: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n";

/// Waits until so many requests have arrived.
async fn heard(instance: &Instance, requests: usize) {
    let waiting = async {
        while instance.heard().len() < requests {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), waiting)
        .await
        .expect("they arrive");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_hangs_takes_its_places_and_no_more() {
    let (hanging, well) = (Instance::that(Deed::Silence).await, Instance::answering("{}").await);
    let settings = [
        ("BANYAN__MODULES__CATALOG__HTTP_ENDPOINT", well.base.as_str()),
        ("BANYAN__GATEWAY__CONCURRENCY", "2"),
        ("BANYAN__GATEWAY__QUEUE", "0"),
        ("BANYAN__GATEWAY__TIMEOUT_MS", "2000"),
    ];
    let edge = Edge::before("orders", &[&hanging], &settings).await;
    let beyond = async {
        heard(&hanging, 2).await;
        let refused = edge.get("/api/v1/orders").await;
        assert_eq!(
            (refused.status, refused.code().as_str(), refused.header("retry-after")),
            (503, "module_busy", "2"),
            "{refused:?}"
        );
        assert!(refused.body.contains("orders"), "{}", refused.body);
        assert_eq!(
            edge.get("/api/v1/products").await.status,
            200,
            "other modules have places of their own"
        );
        assert_eq!(hanging.heard().len(), 2);
    };
    let (one, other, ()) = tokio::join!(edge.get("/api/v1/orders"), edge.get("/api/v1/orders"), beyond);
    assert_eq!((one.status, other.status), (504, 504));
    let again = edge.get("/api/v1/orders").await;
    assert_eq!(
        (again.status, hanging.heard().len()),
        (504, 3),
        "who was given up gave its place back"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_place_gets_it_when_another_leaves() {
    let hanging = Instance::that(Deed::Silence).await;
    let settings = [("BANYAN__GATEWAY__CONCURRENCY", "1"), ("BANYAN__GATEWAY__QUEUE", "1")];
    let edge = Edge::before("orders", &[&hanging], &settings).await;
    let ask = async || {
        let mut client = edge.connect().await;
        let question = b"GET /api/v1/orders HTTP/1.1\r\nhost: a\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut client, question)
            .await
            .unwrap();
        client
    };
    let first = ask().await;
    heard(&hanging, 1).await;
    let _second = ask().await;
    drop(first);
    heard(&hanging, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_has_begun_takes_no_place() {
    let orders = Instance::that(Deed::Begin(EVENTS.to_owned())).await;
    let settings = [("BANYAN__GATEWAY__CONCURRENCY", "1"), ("BANYAN__GATEWAY__QUEUE", "0")];
    let quick = |settings: &mut Settings| settings.gateway.limits.response_silence = Duration::from_millis(500);
    let edge = Edge::tuned("orders", &orders.base, &settings, quick).await.unwrap();
    let stream = async || edge.get("/api/v1/orders/1/events").await;
    let second = async {
        heard(&orders, 1).await;
        // The place is given back just after the head has come.
        let refused = async { while edge.get("/api/v1/orders/1/events").await.status == 503 {} };
        tokio::time::timeout(Duration::from_secs(10), refused)
            .await
            .expect("a place while the first answer goes on");
    };
    let (first, ()) = tokio::join!(stream(), second);
    assert_eq!(first.status, 200);
}

#[actix_web::test]
async fn a_request_that_is_passed_on_may_take_as_long_as_its_module_and_one_for_us_no_longer_for_it() {
    let hanging = Instance::that(Deed::Silence).await;
    let edge = Edge::before("orders", &[&hanging], &[("BANYAN__GATEWAY__TIMEOUT_MS", "300")]).await;
    let proxy = edge.proxy.clone();
    let shell = ShellSettings {
        time_limit: Duration::from_millis(50),
        ..ShellSettings::default()
    };
    let app = App::new()
        .default_service(actix_web::web::to(pending::<HttpResponse>))
        .wrap(from_fn(move |request, next| {
            banyan_gateway::dispatch(proxy.clone(), request, next)
        }))
        .wrap(banyan_http::shell(shell));
    let app = test::init_service(app).await;
    let ask = async |path: &str| {
        let answer = test::try_call_service(&app, test::TestRequest::with_uri(path).to_request()).await;
        let response = answer.map_or_else(
            |error| error.error_response(),
            |answer| answer.into_parts().1.map_into_boxed_body(),
        );
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        String::from_utf8(to_bytes(response.into_body()).await.unwrap().to_vec()).unwrap()
    };
    assert!(
        ask("/api/v1/orders")
            .await
            .contains("The module orders did not answer in time")
    );
    let begun = std::time::Instant::now();
    ask("/api/v1/dashboard").await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
