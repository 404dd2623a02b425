//! A client of the shop: plain HTTP and JSON, with as little logic as possible.

use std::time::{Duration, Instant};

use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};
use uuid::Uuid;

/// A healthy shop may say for a moment that a module is unavailable: on a busy machine the response to a probe came too late.
const AVAILABLE_LIMIT: Duration = Duration::from_secs(15);

/// A response with its body.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
}

impl Response {
    /// # Panics
    /// If the body is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| {
            panic!(
                "{} is not JSON: {error}; {}",
                self.status,
                String::from_utf8_lossy(&self.bytes)
            )
        })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// # Panics
    /// If the status is a different one; with the body.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.bytes));
        self
    }

    /// Expects a problem of this status and code.
    ///
    /// # Panics
    /// If it is a different one, or not problem+json.
    #[track_caller]
    pub fn expect_problem(self, status: u16, code: &str) -> Self {
        let response = self.expect(status);
        assert_eq!(response.header("content-type"), Some("application/problem+json"));
        let problem = response.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        for member in ["type", "title", "detail", "instance", "trace_id"] {
            assert!(problem[member].is_string(), "no {member} in {problem}");
        }
        response
    }
}

/// A caller of the API: anonymous, or logged in.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl Client {
    pub fn new(base: &str) -> Self {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(60))
            // The shop closes idle connections after five seconds, and a request written at that moment would be lost: this side closes first.
            .pool_idle_timeout(Duration::from_secs(4))
            .build()
            .expect("a HTTP client");
        Client {
            http,
            base: base.to_owned(),
            token: None,
        }
    }

    pub fn with_token(&self, token: &str) -> Self {
        Client {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    /// The address of the shop.
    pub fn base(&self) -> &str {
        &self.base
    }

    pub fn token(&self) -> &str {
        self.token.as_deref().expect("logged in")
    }

    /// Logs in with the demo password.
    pub async fn log_in(&self, email: &str) -> Client {
        self.log_in_with(email, "banyan-demo").await
    }

    pub async fn log_in_with(&self, email: &str, password: &str) -> Client {
        let body = json!({"email": email, "password": password});
        let session = self
            .send_when_available(Method::POST, "/api/v1/sessions", &[], Some(&body))
            .await
            .expect(201)
            .json();
        self.with_token(session["access_token"].as_str().expect("an access token"))
    }

    pub async fn customer(&self) -> Client {
        self.log_in("demo@banyan.example").await
    }

    pub async fn staff(&self) -> Client {
        self.log_in("staff@banyan.example").await
    }

    pub async fn ops(&self) -> Client {
        self.log_in("ops@banyan.example").await
    }

    /// A new customer, for this test alone.
    pub async fn new_customer(&self) -> Client {
        let email = format!("customer-{}@shop.example", Uuid::new_v4().simple());
        let password = "correct horse battery";
        self.post(
            "/api/v1/users",
            &json!({"email": email, "password": password, "name": "A New Customer"}),
        )
        .await
        .expect(201);
        self.log_in_with(&email, password).await
    }

    pub async fn get(&self, path: &str) -> Response {
        self.send(Method::GET, path, &[], None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Response {
        self.send(Method::POST, path, &[], Some(body)).await
    }

    /// With a new Idempotency-Key.
    pub async fn post_keyed(&self, path: &str, body: &Value) -> Response {
        self.send(Method::POST, path, &[("Idempotency-Key", &new_key())], Some(body))
            .await
    }

    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Response {
        self.try_send(method, path, headers, body)
            .await
            .unwrap_or_else(|error| panic!("{path}: {error:?}"))
    }

    /// As [`send`](Self::send), but made again while a module is unavailable or does not respond in time: only for what may be done twice.
    pub async fn send_when_available(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Response {
        let started = Instant::now();
        loop {
            let response = self.send(method.clone(), path, headers, body).await;
            if ![503, 504].contains(&response.status) || started.elapsed() > AVAILABLE_LIMIT {
                return response;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// As [`send`](Self::send), for a shop that may be down.
    pub async fn try_send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> reqwest::Result<Response> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Response {
            status,
            headers,
            bytes: response.bytes().await?.to_vec(),
        })
    }

    /// Any other request, for which [`send`](Self::send) has no parameter.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Places an order for one product and waits for its outcome.
    pub async fn order(&self, sku: &str, quantity: u32, payment_method: &str) -> Value {
        let key = new_key();
        let headers = [("Idempotency-Key", key.as_str()), ("Prefer", "wait=20")];
        self.send(
            Method::POST,
            "/api/v1/orders",
            &headers,
            Some(&order_body(sku, quantity, payment_method)),
        )
        .await
        .expect(201)
        .json()
    }
}

/// A body that places an order.
pub fn order_body(sku: &str, quantity: u32, payment_method: &str) -> Value {
    json!({
        "items": [{"sku": sku, "quantity": quantity}],
        "shipping_address": {"name": "Ada Fig", "line1": "1 Banyan Row", "city": "Berlin", "postal_code": "10115", "country": "DE"},
        "payment_method": payment_method,
    })
}

/// A new Idempotency-Key.
pub fn new_key() -> String {
    Uuid::new_v4().to_string()
}
