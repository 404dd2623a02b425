//! What is passed on and what is not.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use super::{
    edge::Edge,
    instance::{Deed, Instance, ok},
};

#[tokio::test(flavor = "multi_thread")]
async fn path_and_query_arrive_byte_for_byte() {
    let catalog = Instance::answering("{}").await;
    let edge = Edge::before("catalog", &[&catalog], &[]).await;
    let targets = [
        "/api/v1/products/a%2Fb%2e%2e",
        "/api/v1/products/..%2f..%2fmetrics",
        "/api/v1/products/..",
        "/api/v1/products/%2e%2e",
        "/api/v1/products?q=a%20b+c&q=%C3%A4&x=/../y&&=",
        "/api/v1/products/a;b,c'(d)!$*~?|^[]",
    ];
    for target in targets {
        assert_eq!(edge.get(target).await.status, 200, "{target}");
    }
    let lines: Vec<String> = catalog.heard().iter().map(|heard| heard.line().to_owned()).collect();
    assert_eq!(lines, targets.map(|target| format!("GET {target} HTTP/1.1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absolute_target_names_no_other_host() {
    let catalog = Instance::answering("{}").await;
    let edge = Edge::before("catalog", &[&catalog], &[]).await;
    assert_eq!(edge.get("http://evil.example/api/v1/products?q=1").await.status, 200);
    let heard = catalog.heard_once();
    assert_eq!(heard.line(), "GET /api/v1/products?q=1 HTTP/1.1");
    assert_eq!(format!("http://{}", heard.header("host")), catalog.base);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_arrives_with_its_body_and_without_its_connection() {
    let orders = Instance::answering("{}").await;
    let edge = Edge::before("orders", &[&orders], &[]).await;
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
    let reply = edge.ask("POST /api/v1/orders", &headers, "{\"items\":[]}").await;
    let heard = orders.heard_once();
    assert_eq!(
        (heard.line(), heard.body.as_str()),
        ("POST /api/v1/orders HTTP/1.1", "{\"items\":[]}")
    );
    let mut names: Vec<String> = heard
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
        heard.header("forwarded"),
        "for=127.0.0.1;host=\"shop.example\";proto=http"
    );
    assert_eq!(
        (heard.header("x-request-id"), heard.header("tracestate")),
        ("mine", "vendor=1")
    );
    let trace = heard.header("traceparent");
    assert!(
        trace.contains("4bf92f3577b34da6a3ce929d0e0e4736") && !trace.contains("00f067aa0ba902b7"),
        "{trace}"
    );
    assert_eq!((reply.status, reply.header("x-request-id")), (200, "mine"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_arrives_whole_and_with_its_length() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let orders = Instance::answering("{}").await;
    let edge = Edge::before("orders", &[&orders], &[]).await;
    let mut connection = edge.connect().await;
    let head = "POST /api/v1/orders HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    connection
        .write_all(format!("{head}3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").as_bytes())
        .await
        .unwrap();
    connection.read_to_end(&mut Vec::new()).await.unwrap();
    let heard = orders.heard_once();
    assert_eq!(
        (
            heard.header("content-length"),
            heard.header("transfer-encoding"),
            heard.body.as_str()
        ),
        ("5", "", "abcde")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_comes_back_as_it_is_but_for_what_is_said_in_front() {
    let answer = "HTTP/1.1 201 Created\r\nlocation: /api/v1/orders/7\r\netag: \"7\"\r\nconnection: X-Hop\r\nx-hop: 1\r\n\
                  keep-alive: timeout=5\r\nx-request-id: inner\r\nratelimit: \"caller\";r=1;t=1\r\nx-content-type-options: nosniff\r\n\
                  content-type: application/json\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 8\r\n\r\n{\"a\": 1}";
    let orders = Instance::that(Deed::Answer(answer.to_owned())).await;
    let edge = Edge::before("orders", &[&orders], &[]).await;
    let reply = edge.ask("POST /api/v1/orders", &[], "{}").await;
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
    for (line, answer, status, length) in [
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-type: application/json\r\n\r\n",
            200,
            "5",
        ),
        ("GET", "HTTP/1.1 304 Not Modified\r\netag: \"7\"\r\n\r\n", 304, ""),
        ("DELETE", "HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
    ] {
        let catalog = Instance::that(Deed::Answer(answer.to_owned())).await;
        let edge = Edge::before("catalog", &[&catalog], &[]).await;
        let reply = edge
            .ask(&format!("{line} /api/v1/products/a"), &[("if-none-match", "\"7\"")], "")
            .await;
        assert_eq!(
            (reply.status, reply.body.as_str(), reply.header("content-length")),
            (status, "", length),
            "{line}"
        );
        assert_eq!(reply.header("transfer-encoding"), "", "{line}");
        assert_eq!(
            catalog.heard_once().line(),
            format!("{line} /api/v1/products/a HTTP/1.1")
        );
        assert_eq!(catalog.heard_once().header("if-none-match"), "\"7\"");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_answer_stays_compressed() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nzzzz";
    let catalog = Instance::that(Deed::Answer(answer.to_owned())).await;
    let edge = Edge::before("catalog", &[&catalog], &[]).await;
    let reply = edge.get("/api/v1/products").await;
    assert_eq!(
        (reply.header("content-encoding"), reply.body.as_str()),
        ("gzip", "zzzz")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_documents_is_answered_here() {
    let catalog = Instance::answering("{}").await;
    let edge = Edge::before("catalog", &[&catalog], &[]).await;
    for path in [
        "/api/v1/nothing",
        "/api/v1/products/",
        "/api/v1/%70roducts",
        "/api/v1//products",
        "/api/v1/ops/nobody/sagas",
    ] {
        let reply = edge.get(path).await;
        assert_eq!((reply.status, reply.code().as_str()), (404, "not_found"), "{path}");
    }
    let reply = edge.ask("PUT /api/v1/products/a", &[], "{}").await;
    assert_eq!((reply.status, reply.code().as_str()), (405, "method_not_allowed"));
    assert_eq!(reply.header("allow"), "DELETE, GET, HEAD, PATCH");
    assert_eq!(edge.get("/health/live").await.body, r#"{"status":"live"}"#);
    assert_eq!(catalog.heard().len(), 0);
    let served: serde_json::Value = serde_json::from_str(&edge.get("/openapi.json").await.body).unwrap();
    let committed: serde_json::Value = serde_json::from_str(banyan::shop::SHOP.document).unwrap();
    assert!(
        served == committed,
        "the edge serves another document than that of all modules"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_operators_ask_goes_to_the_module_in_the_path() {
    let payments = Instance::answering("{}").await;
    let edge = Edge::before("payments", &[&payments], &[]).await;
    assert_eq!(edge.get("/api/v1/ops/payments/sagas?limit=1").await.status, 200);
    assert_eq!(
        payments.heard_once().line(),
        "GET /api/v1/ops/payments/sagas?limit=1 HTTP/1.1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_token_and_a_large_body_get_no_further() {
    let orders = Instance::answering("{}").await;
    let edge = Edge::before("orders", &[&orders], &[]).await;
    let reply = edge
        .ask("GET /api/v1/orders", &[("authorization", "Bearer rubbish")], "")
        .await;
    assert_eq!((reply.status, reply.code().as_str()), (401, "invalid_token"));
    let reply = edge.ask("POST /api/v1/orders", &[], &"x".repeat(64 * 1024 + 1)).await;
    assert_eq!((reply.status, reply.code().as_str()), (413, "body_too_large"));
    assert_eq!(orders.heard().len(), 0);
    assert_eq!(
        edge.ask("POST /api/v1/orders", &[], &"x".repeat(64 * 1024))
            .await
            .status,
        200
    );
    assert_eq!(orders.heard_once().body.len(), 64 * 1024);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_looks_at_a_token_a_bad_one_is_passed_on() {
    let old = ("authorization", "Bearer rubbish");
    for (module, path) in [
        ("users", "/api/v1/sessions"),
        ("users", "/api/v1/sessions/refresh"),
        ("payments", "/api/v1/payments/webhooks/sandbox"),
    ] {
        let instance = Instance::answering("{}").await;
        let edge = Edge::before(module, &[&instance], &[]).await;
        assert_eq!(
            edge.ask(&format!("POST {path}"), &[old], "{}").await.status,
            200,
            "{path}"
        );
        assert_eq!(instance.heard_once().header("authorization"), "Bearer rubbish");
    }
}

/// A service's own server, which trusts the gateway alone and answers with whom it takes for the client.
async fn service_that_names_its_client() -> (String, actix_web::dev::ServerHandle) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let gateway: IpAddr = Ipv4Addr::LOCALHOST.into();
    let server = actix_web::HttpServer::new(move || {
        let client = |request: actix_web::HttpRequest| async move { banyan_http::client_address(&request) };
        actix_web::App::new()
            .app_data(banyan_http::TrustedProxies(Arc::new([gateway])))
            .default_service(actix_web::web::to(client))
    });
    let server = server.workers(1).disable_signals().listen(listener).unwrap().run();
    let handle = server.handle();
    tokio::spawn(server);
    (base, handle)
}

/// Elsewhere loopback is one address.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_and_the_gateway_a_service_knows_its_clients_apart() {
    let (service, handle) = service_that_names_its_client().await;
    let edge = Edge::of("catalog", &service, &[("BANYAN__HTTP__TRUSTED_PROXIES", "127.0.0.2")])
        .await
        .unwrap();
    let (proxy, stranger): (IpAddr, IpAddr) = (Ipv4Addr::new(127, 0, 0, 2).into(), Ipv4Addr::new(127, 0, 0, 3).into());
    let seen = async |client, header| edge.get_from(client, "/api/v1/products", &[header]).await.body;
    assert_eq!(seen(proxy, ("x-forwarded-for", "203.0.113.9")).await, "203.0.113.9");
    assert_eq!(
        seen(proxy, ("forwarded", "for=\"[2001:db8:1:2::7]:4711\";proto=https")).await,
        "2001:db8:1:2::/64"
    );
    // What a client says of itself, through the proxy or without it, changes nothing.
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
async fn another_part_of_the_edge_can_ask_a_module_itself() {
    let answer = |status: &str, body: &str| ok(body).replacen("200 OK", status, 1);
    let request = actix_web::test::TestRequest::get()
        .insert_header(("authorization", "Bearer t"))
        .insert_header(("content-type", "text/plain"))
        .insert_header(("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"))
        .to_http_request();
    let orders = Instance::answering(r#"{"items": []}"#).await;
    let edge = Edge::before("orders", &[&orders], &[]).await;
    let answered = banyan_host::fetch_own_view(&edge.proxy, "orders", &request)
        .await
        .unwrap();
    assert_eq!(answered, serde_json::json!({"items": []}));
    let heard = orders.heard_once();
    assert_eq!(
        (heard.line(), heard.header("authorization")),
        ("GET /api/v1/ops/modules?here=true HTTP/1.1", "Bearer t")
    );
    assert_eq!(
        (heard.header("content-type"), heard.header("accept")),
        ("", "application/json")
    );
    let refusing = Instance::that(Deed::Answer(answer("403 Forbidden", "{}"))).await;
    let edge = Edge::before("orders", &[&refusing], &[]).await;
    let asked_in_vain = async |module| {
        edge.proxy
            .get_json(module, "/api/v1/ops/modules", &request)
            .await
            .unwrap_err()
            .to_string()
    };
    assert_eq!(asked_in_vain("orders").await, "orders responded with 403 Forbidden");
    assert!(asked_in_vain("users").await.contains("module_unavailable"));
    let babbling = Instance::answering("{").await;
    let edge = Edge::before("orders", &[&babbling], &[]).await;
    let unreadable = edge
        .proxy
        .get_json("orders", "/api/v1/ops/modules", &request)
        .await
        .unwrap_err();
    assert_eq!(unreadable.to_string(), "the response is not JSON");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_which_modules_have_no_instance_that_answers_and_the_edge_stays_ready() {
    let catalog = Instance::answering("{}").await;
    let endpoints = ("BANYAN__MODULES__ORDERS__HTTP_ENDPOINT", "http://127.0.0.1:1");
    let edge = Edge::before("catalog", &[&catalog], &[endpoints]).await;
    let health = async || {
        let reply = edge.get("/health/ready").await;
        assert_eq!(reply.status, 200, "{reply:?}");
        serde_json::from_str::<serde_json::Value>(&reply.body).unwrap()["checks"].clone()
    };
    // Until the first probe an instance counts as well.
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
        .expect("health says that orders is away");
    let away = checks["http:orders"].as_str().unwrap();
    assert!(
        away.starts_with("0 of 1 instances are healthy; http://127.0.0.1:1: ") && away.contains("refused"),
        "{away}"
    );
    assert_eq!(
        (&checks["http:catalog"], &checks["http:users"]),
        (&"ok".into(), &"0 of 0 instances are healthy".into())
    );
}
