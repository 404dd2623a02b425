//! The limits on what requests to one module can use of the gateway: permits and time.

use std::{future::pending, time::Duration};

use actix_web::{App, HttpResponse, body::to_bytes, http::StatusCode, middleware::from_fn, test};
use banyan_host::settings::Settings;
use banyan_http::ShellSettings;

use super::{
    instance::{Behaviour, Instance},
    test_gateway::TestGateway,
};

const EVENTS: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n";

/// Waits until this number of requests has arrived.
async fn wait_for_requests(instance: &Instance, requests: usize) {
    let waiting = async {
        while instance.received().len() < requests {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), waiting)
        .await
        .expect("the requests arrive");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_module_uses_its_permits_and_no_more() {
    let (hanging, healthy) = (Instance::start(Behaviour::Hang).await, Instance::responding("{}").await);
    let settings = [
        ("BANYAN__MODULES__CATALOG__HTTP_ENDPOINT", healthy.base.as_str()),
        ("BANYAN__GATEWAY__CONCURRENCY", "2"),
        ("BANYAN__GATEWAY__QUEUE", "0"),
        ("BANYAN__GATEWAY__TIMEOUT_MS", "2000"),
    ];
    let gateway = TestGateway::in_front_of("orders", &[&hanging], &settings).await;
    let beyond = async {
        wait_for_requests(&hanging, 2).await;
        let refused = gateway.get("/api/v1/orders").await;
        assert_eq!(
            (refused.status, refused.code().as_str(), refused.header("retry-after")),
            (503, "module_busy", "2"),
            "{refused:?}"
        );
        assert!(refused.body.contains("orders"), "{}", refused.body);
        assert_eq!(
            gateway.get("/api/v1/products").await.status,
            200,
            "other modules have their own permits"
        );
        assert_eq!(hanging.received().len(), 2);
    };
    let (one, other, ()) = tokio::join!(gateway.get("/api/v1/orders"), gateway.get("/api/v1/orders"), beyond);
    assert_eq!((one.status, other.status), (504, 504));
    let again = gateway.get("/api/v1/orders").await;
    assert_eq!(
        (again.status, hanging.received().len()),
        (504, 3),
        "a request that timed out released its permit"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_request_gets_the_permit_that_another_releases() {
    let hanging = Instance::start(Behaviour::Hang).await;
    let settings = [("BANYAN__GATEWAY__CONCURRENCY", "1"), ("BANYAN__GATEWAY__QUEUE", "1")];
    let gateway = TestGateway::in_front_of("orders", &[&hanging], &settings).await;
    let send = async || {
        let mut client = gateway.connect().await;
        let request = b"GET /api/v1/orders HTTP/1.1\r\nhost: a\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut client, request).await.unwrap();
        client
    };
    let first = send().await;
    wait_for_requests(&hanging, 1).await;
    let _second = send().await;
    drop(first);
    wait_for_requests(&hanging, 2).await;
}

/// With two permits one request may wait; the other is left to requests that do not.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_may_not_wait_is_forwarded_without_its_preference() {
    let hanging = Instance::start(Behaviour::Hang).await;
    let settings = [
        ("BANYAN__GATEWAY__CONCURRENCY", "2"),
        ("BANYAN__GATEWAY__TIMEOUT_MS", "500"),
    ];
    let gateway = TestGateway::in_front_of("orders", &[&hanging], &settings).await;
    let send = async || {
        let mut client = gateway.connect().await;
        let request = b"GET /api/v1/orders HTTP/1.1\r\nhost: a\r\nprefer: wait=20\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut client, request).await.unwrap();
        client
    };
    let _first = send().await;
    wait_for_requests(&hanging, 1).await;
    let _second = send().await;
    wait_for_requests(&hanging, 2).await;
    // The second has timed out and released its permit, which a third gets.
    let third = gateway.get("/api/v1/orders").await;
    assert_eq!(third.status, 504, "{third:?}");
    let waiting = hanging
        .received()
        .iter()
        .map(|received| received.header("prefer").to_owned())
        .collect::<Vec<_>>();
    assert_eq!(waiting, ["wait=20", "", ""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_has_begun_holds_no_permit() {
    let orders = Instance::start(Behaviour::StartResponse(EVENTS.to_owned())).await;
    let settings = [("BANYAN__GATEWAY__CONCURRENCY", "1"), ("BANYAN__GATEWAY__QUEUE", "0")];
    let quick = |settings: &mut Settings| settings.gateway.limits.response_silence = Duration::from_millis(500);
    let gateway = TestGateway::tuned("orders", &orders.base, &settings, quick)
        .await
        .unwrap();
    let stream = async || gateway.get("/api/v1/orders/1/events").await;
    let second = async {
        wait_for_requests(&orders, 1).await;
        // The permit is released just after the head of the response has arrived.
        let refused = async { while gateway.get("/api/v1/orders/1/events").await.status == 503 {} };
        tokio::time::timeout(Duration::from_secs(10), refused)
            .await
            .expect("a permit while the first response goes on");
    };
    let (first, ()) = tokio::join!(stream(), second);
    assert_eq!(first.status, 200);
}

#[actix_web::test]
async fn a_forwarded_request_has_the_modules_timeout_and_a_local_one_the_shells() {
    let hanging = Instance::start(Behaviour::Hang).await;
    let gateway = TestGateway::in_front_of("orders", &[&hanging], &[("BANYAN__GATEWAY__TIMEOUT_MS", "300")]).await;
    let proxy = gateway.proxy.clone();
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
    let send = async |path: &str| {
        let result = test::try_call_service(&app, test::TestRequest::with_uri(path).to_request()).await;
        let response = result.map_or_else(
            |error| error.error_response(),
            |response| response.into_parts().1.map_into_boxed_body(),
        );
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        String::from_utf8(to_bytes(response.into_body()).await.unwrap().to_vec()).unwrap()
    };
    assert!(
        send("/api/v1/orders")
            .await
            .contains("The module orders did not respond in time")
    );
    let begun = std::time::Instant::now();
    send("/api/v1/dashboard").await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
