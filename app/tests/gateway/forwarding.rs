//! What is forwarded to an instance and what is not.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use super::{
    instance::{Behaviour, Instance, ok},
    test_gateway::TestGateway,
};

#[tokio::test(flavor = "multi_thread")]
async fn path_and_query_arrive_byte_for_byte() {
    let catalog = Instance::responding("{}").await;
    let gateway = TestGateway::in_front_of("catalog", &[&catalog], &[]).await;
    let targets = [
        "/api/v1/products/a%2Fb%2e%2e",
        "/api/v1/products/..%2f..%2fmetrics",
        "/api/v1/products/..",
        "/api/v1/products/%2e%2e",
        "/api/v1/products?q=a%20b+c&q=%C3%A4&x=/../y&&=",
        "/api/v1/products/a;b,c'(d)!$*~?|^[]",
    ];
    for target in targets {
        assert_eq!(gateway.get(target).await.status, 200, "{target}");
    }
    let lines: Vec<String> = catalog
        .received()
        .iter()
        .map(|received| received.line().to_owned())
        .collect();
    assert_eq!(lines, targets.map(|target| format!("GET {target} HTTP/1.1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absolute_target_does_not_change_the_host() {
    let catalog = Instance::responding("{}").await;
    let gateway = TestGateway::in_front_of("catalog", &[&catalog], &[]).await;
    assert_eq!(gateway.get("http://evil.example/api/v1/products?q=1").await.status, 421);
    assert_eq!(gateway.get("http://localhost:1/api/v1/products?q=1").await.status, 200);
    let received = catalog.received_once();
    assert_eq!(received.line(), "GET /api/v1/products?q=1 HTTP/1.1");
    assert_eq!(format!("http://{}", received.header("host")), catalog.base);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_arrives_with_its_body_and_without_connection_headers() {
    let orders = Instance::responding("{}").await;
    let gateway = TestGateway::in_front_of("orders", &[&orders], &[]).await;
    let headers = [
        ("connection", "X-Hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("upgrade", "h2c"),
        ("proxy-authorization", "Basic eDp5"),
        ("forwarded", "for=1.2.3.4"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-real-ip", "1.2.3.4"),
        ("banyan-actor", "ops"),
        ("content-type", "application/json"),
        ("idempotency-key", "k-1"),
        ("x-request-id", "mine"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("tracestate", "vendor=1"),
    ];
    let reply = gateway.send("POST /api/v1/orders", &headers, "{\"items\":[]}").await;
    let received = orders.received_once();
    assert_eq!(
        (received.line(), received.body.as_str()),
        ("POST /api/v1/orders HTTP/1.1", "{\"items\":[]}")
    );
    let mut names: Vec<String> = received
        .head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.to_lowercase())
        .collect();
    names.sort_unstable();
    let expected = [
        "content-length",
        "content-type",
        "forwarded",
        "host",
        "idempotency-key",
        "traceparent",
        "tracestate",
        "via",
        "x-request-id",
    ];
    assert_eq!(names, expected);
    assert_eq!(
        received.header("forwarded"),
        "for=127.0.0.1;host=\"shop.example\";proto=http"
    );
    assert_eq!(
        (received.header("x-request-id"), received.header("tracestate")),
        ("mine", "vendor=1")
    );
    let trace = received.header("traceparent");
    assert!(
        trace.contains("4bf92f3577b34da6a3ce929d0e0e4736") && !trace.contains("00f067aa0ba902b7"),
        "{trace}"
    );
    assert_eq!((reply.status, reply.header("x-request-id")), (200, "mine"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_arrives_complete_with_its_length() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let orders = Instance::responding("{}").await;
    let gateway = TestGateway::in_front_of("orders", &[&orders], &[]).await;
    let mut connection = gateway.connect().await;
    let head = "POST /api/v1/orders HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    connection
        .write_all(format!("{head}3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").as_bytes())
        .await
        .unwrap();
    connection.read_to_end(&mut Vec::new()).await.unwrap();
    let received = orders.received_once();
    assert_eq!(
        (
            received.header("content-length"),
            received.header("transfer-encoding"),
            received.body.as_str()
        ),
        ("5", "", "abcde")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_is_passed_back_except_the_headers_the_gateway_sets() {
    let response = "HTTP/1.1 201 Created\r\nlocation: /api/v1/orders/7\r\netag: \"7\"\r\nconnection: X-Hop\r\nx-hop: 1\r\n\
                  keep-alive: timeout=5\r\nx-request-id: inner\r\nratelimit: \"caller\";r=1;t=1\r\nx-content-type-options: nosniff\r\n\
                  content-type: application/json\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 8\r\n\r\n{\"a\": 1}";
    let orders = Instance::start(Behaviour::Respond(response.to_owned())).await;
    let gateway = TestGateway::in_front_of("orders", &[&orders], &[]).await;
    let reply = gateway.send("POST /api/v1/orders", &[], "{}").await;
    assert_eq!((reply.status, reply.body.as_str()), (201, "{\"a\": 1}"));
    assert_eq!(
        (reply.header("location"), reply.header("etag")),
        ("/api/v1/orders/7", "\"7\"")
    );
    assert_eq!(
        (reply.header("content-length"), reply.header("transfer-encoding")),
        ("8", "")
    );
    assert_eq!(
        (
            reply.count("x-hop"),
            reply.count("keep-alive"),
            reply.count("set-cookie")
        ),
        (0, 0, 2)
    );
    assert_eq!(
        (
            reply.count("x-request-id"),
            reply.count("x-content-type-options"),
            reply.count("ratelimit")
        ),
        (1, 1, 1)
    );
    assert!(
        reply.header("x-request-id") != "inner" && !reply.header("ratelimit").contains("r=1;"),
        "{}",
        reply.head
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn head_304_and_204_have_no_body_and_keep_their_headers() {
    for (line, response, status, length) in [
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-type: application/json\r\n\r\n",
            200,
            "5",
        ),
        ("GET", "HTTP/1.1 304 Not Modified\r\netag: \"7\"\r\n\r\n", 304, ""),
        ("DELETE", "HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
    ] {
        let catalog = Instance::start(Behaviour::Respond(response.to_owned())).await;
        let gateway = TestGateway::in_front_of("catalog", &[&catalog], &[]).await;
        let reply = gateway
            .send(&format!("{line} /api/v1/products/a"), &[("if-none-match", "\"7\"")], "")
            .await;
        assert_eq!(
            (reply.status, reply.body.as_str(), reply.header("content-length")),
            (status, "", length),
            "{line}"
        );
        assert_eq!(reply.header("transfer-encoding"), "", "{line}");
        assert_eq!(
            catalog.received_once().line(),
            format!("{line} /api/v1/products/a HTTP/1.1")
        );
        assert_eq!(catalog.received_once().header("if-none-match"), "\"7\"");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_response_stays_compressed() {
    let response = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nzzzz";
    let catalog = Instance::start(Behaviour::Respond(response.to_owned())).await;
    let gateway = TestGateway::in_front_of("catalog", &[&catalog], &[]).await;
    let reply = gateway.get("/api/v1/products").await;
    assert_eq!(
        (reply.header("content-encoding"), reply.body.as_str()),
        ("gzip", "zzzz")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undocumented_path_is_not_forwarded() {
    let catalog = Instance::responding("{}").await;
    let gateway = TestGateway::in_front_of("catalog", &[&catalog], &[]).await;
    for path in [
        "/api/v1/nothing",
        "/api/v1/products/",
        "/api/v1/%70roducts",
        "/api/v1//products",
        "/api/v1/ops/nobody/sagas",
    ] {
        let reply = gateway.get(path).await;
        assert_eq!((reply.status, reply.code().as_str()), (404, "not_found"), "{path}");
    }
    let reply = gateway.send("PUT /api/v1/products/a", &[], "{}").await;
    assert_eq!((reply.status, reply.code().as_str()), (405, "method_not_allowed"));
    assert_eq!(reply.header("allow"), "DELETE, GET, HEAD, PATCH");
    assert_eq!(gateway.get("/health/live").await.body, r#"{"status":"live"}"#);
    assert_eq!(catalog.received().len(), 0);
    let served: serde_json::Value = serde_json::from_str(&gateway.get("/openapi.json").await.body).unwrap();
    let committed: serde_json::Value = serde_json::from_str(banyan::shop::SHOP.document).unwrap();
    assert!(
        served == committed,
        "the gateway serves another document than that of all modules"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_requests_go_to_the_module_in_the_path() {
    let payments = Instance::responding("{}").await;
    let gateway = TestGateway::in_front_of("payments", &[&payments], &[]).await;
    assert_eq!(gateway.get("/api/v1/ops/payments/sagas?limit=1").await.status, 200);
    assert_eq!(
        payments.received_once().line(),
        "GET /api/v1/ops/payments/sagas?limit=1 HTTP/1.1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_token_and_a_large_body_are_not_forwarded() {
    let orders = Instance::responding("{}").await;
    let gateway = TestGateway::in_front_of("orders", &[&orders], &[]).await;
    let reply = gateway
        .send("GET /api/v1/orders", &[("authorization", "Bearer rubbish")], "")
        .await;
    assert_eq!((reply.status, reply.code().as_str()), (401, "invalid_token"));
    let reply = gateway
        .send("POST /api/v1/orders", &[], &"x".repeat(64 * 1024 + 1))
        .await;
    assert_eq!((reply.status, reply.code().as_str()), (413, "body_too_large"));
    assert_eq!(orders.received().len(), 0);
    assert_eq!(
        gateway
            .send("POST /api/v1/orders", &[], &"x".repeat(64 * 1024))
            .await
            .status,
        200
    );
    assert_eq!(orders.received_once().body.len(), 64 * 1024);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_token_is_forwarded_where_tokens_are_not_read() {
    let old = ("authorization", "Bearer rubbish");
    for (module, path) in [
        ("users", "/api/v1/sessions"),
        ("users", "/api/v1/sessions/refresh"),
        ("payments", "/api/v1/payments/webhooks/sandbox"),
    ] {
        let instance = Instance::responding("{}").await;
        let gateway = TestGateway::in_front_of(module, &[&instance], &[]).await;
        assert_eq!(
            gateway.send(&format!("POST {path}"), &[old], "{}").await.status,
            200,
            "{path}"
        );
        assert_eq!(instance.received_once().header("authorization"), "Bearer rubbish");
    }
}

/// A service's own server, which trusts the gateway alone and responds with the address it sees as the client's.
async fn service_that_names_its_client() -> (String, actix_web::dev::ServerHandle) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let gateway: IpAddr = Ipv4Addr::LOCALHOST.into();
    let server = actix_web::HttpServer::new(move || {
        let client = |request: actix_web::HttpRequest| async move { banyan_http::client_address(&request) };
        actix_web::App::new()
            .app_data(banyan_http::TrustedProxies(Arc::new([gateway.into()])))
            .default_service(actix_web::web::to(client))
    });
    let server = server.workers(1).disable_signals().listen(listener).unwrap().run();
    let handle = server.handle();
    tokio::spawn(server);
    (base, handle)
}

/// On other systems loopback is a single address.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_and_the_gateway_a_service_sees_each_clients_address() {
    let (service, handle) = service_that_names_its_client().await;
    let gateway = TestGateway::with_endpoints("catalog", &service, &[("BANYAN__HTTP__TRUSTED_PROXIES", "127.0.0.2")])
        .await
        .unwrap();
    let (proxy, stranger): (IpAddr, IpAddr) = (Ipv4Addr::new(127, 0, 0, 2).into(), Ipv4Addr::new(127, 0, 0, 3).into());
    let seen = async |client, header| gateway.get_from(client, "/api/v1/products", &[header]).await.body;
    assert_eq!(seen(proxy, ("x-forwarded-for", "203.0.113.9")).await, "203.0.113.9");
    assert_eq!(
        seen(proxy, ("forwarded", "for=\"[2001:db8:1:2::7]:4711\";proto=https")).await,
        "2001:db8:1:2::/64"
    );
    // What a client claims about its own address, through the proxy or without it, changes nothing.
    assert_eq!(
        seen(proxy, ("x-forwarded-for", "1.1.1.1, 203.0.113.10")).await,
        "203.0.113.10"
    );
    assert_eq!(
        seen(proxy, ("forwarded", "for=127.0.0.1, for=203.0.113.10")).await,
        "203.0.113.10"
    );
    assert_eq!(seen(stranger, ("x-forwarded-for", "203.0.113.9")).await, "127.0.0.3");
    assert_eq!(seen(stranger, ("forwarded", "for=203.0.113.9")).await, "127.0.0.3");
    handle.stop(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_can_fetch_json_from_a_module() {
    let response = |status: &str, body: &str| ok(body).replacen("200 OK", status, 1);
    let request = actix_web::test::TestRequest::get()
        .insert_header(("authorization", "Bearer t"))
        .insert_header(("content-type", "text/plain"))
        .insert_header(("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"))
        .to_http_request();
    let orders = Instance::responding(r#"{"items": []}"#).await;
    let gateway = TestGateway::in_front_of("orders", &[&orders], &[]).await;
    let fetched = banyan_host::fetch_own_view(&gateway.proxy, "orders", &request)
        .await
        .unwrap();
    assert_eq!(fetched, serde_json::json!({"items": []}));
    let received = orders.received_once();
    assert_eq!(
        (received.line(), received.header("authorization")),
        ("GET /api/v1/ops/modules?here=true HTTP/1.1", "Bearer t")
    );
    assert_eq!(
        (received.header("content-type"), received.header("accept")),
        ("", "application/json")
    );
    let refusing = Instance::start(Behaviour::Respond(response("403 Forbidden", "{}"))).await;
    let gateway = TestGateway::in_front_of("orders", &[&refusing], &[]).await;
    let failed_fetch = async |module| {
        gateway
            .proxy
            .get_json(module, "/api/v1/ops/modules", &request)
            .await
            .unwrap_err()
            .to_string()
    };
    assert_eq!(failed_fetch("orders").await, "orders responded with 403 Forbidden");
    assert!(failed_fetch("users").await.contains("module_unavailable"));
    let malformed = Instance::responding("{").await;
    let gateway = TestGateway::in_front_of("orders", &[&malformed], &[]).await;
    let unreadable = gateway
        .proxy
        .get_json("orders", "/api/v1/ops/modules", &request)
        .await
        .unwrap_err();
    assert_eq!(unreadable.to_string(), "the response is not JSON");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_names_modules_without_a_healthy_instance_and_the_gateway_stays_ready() {
    let catalog = Instance::responding("{}").await;
    let endpoints = ("BANYAN__MODULES__ORDERS__HTTP_ENDPOINT", "http://127.0.0.1:1");
    let gateway = TestGateway::in_front_of("catalog", &[&catalog], &[endpoints]).await;
    let health = async || {
        let reply = gateway.get("/health/ready").await;
        assert_eq!(reply.status, 200, "{reply:?}");
        serde_json::from_str::<serde_json::Value>(&reply.body).unwrap()["checks"].clone()
    };
    // Until its first probe an instance counts as healthy.
    let probed = async {
        loop {
            let checks = health().await;
            if checks["http:orders"] != "ok" {
                return checks;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let checks = tokio::time::timeout(Duration::from_secs(10), probed)
        .await
        .expect("health says that orders is unavailable");
    let state = checks["http:orders"].as_str().unwrap();
    assert!(
        state.starts_with("0 of 1 instances are healthy; http://127.0.0.1:1: ") && state.contains("refused"),
        "{state}"
    );
    assert_eq!(
        (&checks["http:catalog"], &checks["http:users"]),
        (&"ok".into(), &"0 of 0 instances are healthy".into())
    );
}
