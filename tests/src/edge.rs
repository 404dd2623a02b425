//! What browsers are told, and what they could be made to do: host names, headers of pages, what is stored.

use libtest_mimic::{Failed, Trial};
use reqwest::Method;
use serde_json::Value;

use crate::{
    commands::installation::{Installation, signing_key},
    harness::{Client, Shop, Stage, free_port, runtime},
};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "edge::a_demo_shop_is_reached_under_the_names_of_this_machine_alone",
            a_foreign_host_is_refused,
        ),
        Trial::test(
            "edge::every_response_tells_browsers_what_they_may_do",
            browsers_are_told,
        ),
        Trial::test(
            "edge::nobody_stores_what_is_shown_to_a_user",
            personal_data_is_not_stored,
        ),
        Trial::test(
            "edge::pages_of_the_origins_that_are_set_may_read_every_response_and_no_others",
            pages_of_other_origins,
        ),
        Trial::test(
            "edge::in_prod_strangers_see_neither_metrics_nor_documentation_nor_what_readiness_depends_on",
            operations_are_not_public,
        ),
    ]
}

/// DNS rebinding: a page of another site gave its own name the address of this machine.
fn a_foreign_host_is_refused() -> Result<(), Failed> {
    runtime().block_on(async {
        let shop = Shop::start(Stage::Sqlite).await;
        let client = shop.client();
        let port = client
            .base()
            .rsplit_once(':')
            .map(|(_, port)| port.to_owned())
            .unwrap_or_default();
        let log_in = serde_json::json!({"email": "demo@banyan.example", "password": "banyan-demo"});
        for path in [
            "/api/v1/products",
            "/openapi.json",
            "/docs/",
            "/",
            "/metrics",
            "/nowhere",
            "/.well-known/jwks.json",
        ] {
            let foreign = [("Host", "evil.example:8080")];
            client
                .send(Method::GET, path, &foreign, None)
                .await
                .expect_problem(421, "misdirected_request");
        }
        let rebound = format!("rebound.evil.example:{port}");
        let foreign = [("Host", rebound.as_str())];
        client
            .send(Method::POST, "/api/v1/sessions", &foreign, Some(&log_in))
            .await
            .expect_problem(421, "misdirected_request");
        for own in [
            format!("localhost:{port}"),
            format!("shop.localhost:{port}"),
            format!("[::1]:{port}"),
        ] {
            client
                .send(Method::POST, "/api/v1/sessions", &[("Host", &own)], Some(&log_in))
                .await
                .expect(201);
        }
        client
            .send(Method::GET, "/health/live", &[("Host", "10.0.0.7:8080")], None)
            .await
            .expect(200);
        shop.remove().await;
    });
    Ok(())
}

fn browsers_are_told() -> Result<(), Failed> {
    runtime().block_on(async {
        let shop = Shop::start(Stage::Sqlite).await;
        let client = shop.client();
        for path in [
            "/docs/",
            "/docs/swagger-ui.css",
            "/docs/swagger-ui-bundle.js",
            "/openapi.json",
            "/",
            "/metrics",
            "/health/ready",
            "/nowhere",
            "/api/v1/products",
            "/api/v1/users/me",
        ] {
            let response = client.send(Method::GET, path, &[], None).await;
            let header = |name: &str| response.header(name).unwrap_or_default().to_owned();
            let (kind, policy) = (header("content-type"), header("content-security-policy"));
            assert!(
                policy.contains("frame-ancestors 'none'") && policy.contains("default-src"),
                "{path}: {policy}"
            );
            assert!(
                !policy.contains("http") && !policy.contains("unsafe-eval"),
                "{path}: {policy}"
            );
            assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
            assert!(
                !kind.starts_with("text/") || kind.contains("charset=utf-8"),
                "{path}: {kind}"
            );
            assert_eq!(
                header("strict-transport-security"),
                "",
                "{path}: a demo shop has no TLS"
            );
        }
        let docs = client.get("/docs/").await.expect(200);
        assert!(
            docs.header("content-type")
                .is_some_and(|kind| kind.starts_with("text/html"))
        );
        shop.remove().await;
    });
    Ok(())
}

/// Every operation that needs a token and can be called without knowing an id, and the objects of an order.
fn personal_data_is_not_stored() -> Result<(), Failed> {
    runtime().block_on(async {
        let shop = Shop::start(Stage::Sqlite).await;
        let (customer, ops) = (shop.client().customer().await, shop.client().ops().await);
        let document = customer.get("/openapi.json").await.expect(200).json();
        let order = customer.order("rare-fig", 1, "pm_card_visa").await;
        let id = |value: &Value| value.as_str().expect("an id").to_owned();
        let mut paths: Vec<String> = ["orders", "order-details"]
            .map(|kind| format!("/api/v1/{kind}/{}", id(&order["id"])))
            .into();
        paths.push(format!("/api/v1/payments/{}", id(&order["payment"]["id"])));
        paths.push(format!("/api/v1/shipments/{}", id(&order["shipment"]["id"])));
        let anonymous = serde_json::json!({});
        let listed = crate::openapi::operations(&document)
            .into_iter()
            .filter(|(path, method, operation)| {
                let needs_token = operation["security"]
                    .as_array()
                    .is_some_and(|any_of| !any_of.is_empty() && !any_of.contains(&anonymous));
                method == "get" && needs_token && !path.contains('{')
            });
        paths.extend(listed.map(|(path, ..)| path));
        assert!(paths.len() >= 10, "{paths:?}");
        let mut checked = 0;
        for path in &paths {
            for caller in [&customer, &ops] {
                checked += usize::from(is_not_stored(caller, path).await);
            }
        }
        assert!(checked >= 10, "{checked} responses with data");
        shop.remove().await;
    });
    Ok(())
}

/// Whether there was something to see.
async fn is_not_stored(caller: &Client, path: &str) -> bool {
    let response = caller.get(path).await;
    assert_eq!(
        response.header("cache-control"),
        Some("no-store"),
        "{path} {}",
        response.status
    );
    response.status == 200
}

fn operations_are_not_public() -> Result<(), Failed> {
    runtime().block_on(async {
        let installation = Installation::new(Stage::Sqlite).await;
        let key = installation.file("key.pem", &signing_key());
        let prod = [
            ("BANYAN__PROFILE", "prod"),
            ("BANYAN__AUTH__SIGNING_KEY_FILE", key.as_str()),
            ("BANYAN__AUTH__ISSUER", "https://shop.example"),
            ("BANYAN__PAYMENTS__ALLOW_SANDBOX", "true"),
        ];
        let inside = ["/metrics", "/openapi.json", "/docs/"];
        let shop = installation.serve_with(&prod).await;
        for path in inside {
            shop.client.get(path).await.expect_problem(404, "not_found");
        }
        shop.client.get("/health/live").await.expect(200);
        let ready = shop.client.get("/health/ready").await.expect(200).json();
        assert_eq!(ready, serde_json::json!({"status": "ready", "checks": {}}));
        shop.client.get("/api/v1/products").await.expect(200);
        shop.stop().await;

        let admin = format!("127.0.0.1:{}", free_port());
        let with_admin = [&prod[..], &[("BANYAN__ADMIN__LISTEN", admin.as_str())]].concat();
        let shop = installation.serve_with(&with_admin).await;
        let operator = Client::new(&format!("http://{admin}"));
        for path in inside {
            shop.client.get(path).await.expect_problem(404, "not_found");
            operator.get(path).await.expect(200);
        }
        let ready = operator.get("/health/ready").await.expect(200).json();
        assert_eq!(ready["checks"]["database:orders"], "ok", "{ready}");
        shop.stop().await;

        let on_api = [&prod[..], &[("BANYAN__ADMIN__ON_API", "true")]].concat();
        let shop = installation.serve_with(&on_api).await;
        for path in inside {
            shop.client.get(path).await.expect(200);
        }
        shop.stop().await;
        installation.remove().await;
    });
    Ok(())
}

const SHOP_PAGE: &str = "https://shop.example";

fn pages_of_other_origins() -> Result<(), Failed> {
    runtime().block_on(async {
        let shop = Shop::start_with(Stage::Sqlite, &[("BANYAN__HTTP__CORS_ORIGINS", SHOP_PAGE)]).await;
        let client = shop.client();
        let preflight = |origin: &'static str| {
            [
                ("Origin", origin),
                ("Access-Control-Request-Method", "POST"),
                (
                    "Access-Control-Request-Headers",
                    "authorization,content-type,idempotency-key",
                ),
            ]
        };
        let allowed = client
            .send(Method::OPTIONS, "/api/v1/orders", &preflight(SHOP_PAGE), None)
            .await
            .expect(200);
        assert_eq!(allowed.header("access-control-allow-origin"), Some(SHOP_PAGE));
        let list = |name: &str| allowed.header(name).unwrap_or_default().to_ascii_lowercase();
        assert!(list("access-control-allow-methods").contains("patch"));
        assert!(list("access-control-allow-headers").contains("idempotency-key"));
        assert_eq!(allowed.header("access-control-allow-credentials"), None);
        let refused = client
            .send(
                Method::OPTIONS,
                "/api/v1/orders",
                &preflight("https://evil.example"),
                None,
            )
            .await;
        assert_eq!(refused.header("access-control-allow-origin"), None);

        // Also problems of every layer: the handler's, the shell's, and that of a path that does not exist.
        for (path, headers) in [
            ("/api/v1/products", &[][..]),
            ("/api/v1/orders", &[]),
            ("/api/v1/nowhere", &[]),
            ("/api/v1/products?limit=0", &[]),
            ("/api/v1/products", &[("Host", "evil.example")]),
        ] {
            let from = |origin: &'static str| [headers, &[("Origin", origin)]].concat();
            let ours = client.send(Method::GET, path, &from(SHOP_PAGE), None).await;
            assert_eq!(ours.header("access-control-allow-origin"), Some(SHOP_PAGE), "{path}");
            let exposed = ours.header("access-control-expose-headers").unwrap_or_default();
            assert!(exposed.contains("x-request-id"), "{path}: {exposed}");
            assert!(
                ours.header("vary")
                    .unwrap_or_default()
                    .to_ascii_lowercase()
                    .contains("origin"),
                "{path}"
            );
            let theirs = client
                .send(Method::GET, path, &from("https://evil.example"), None)
                .await;
            assert_eq!(theirs.header("access-control-allow-origin"), None, "{path}");
            assert_eq!(theirs.status, ours.status, "{path}");
        }
        shop.remove().await;

        let shop = Shop::start(Stage::Sqlite).await;
        let response = shop
            .client()
            .send(Method::GET, "/api/v1/products", &[("Origin", SHOP_PAGE)], None)
            .await;
        assert_eq!(
            response.header("access-control-allow-origin"),
            None,
            "without the setting"
        );
        shop.remove().await;
    });
    Ok(())
}
