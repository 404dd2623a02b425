//! Tokens and servers for the tests.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
};

use actix_web::{App, HttpServer, dev::ServerHandle, web::Data};
use async_trait::async_trait;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use banyan_core::{Clock, Fault, Timestamp};
use banyan_http::{EndedSession, EndedSessions, KeySource, Routes, Verifier, VerifyingKey};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use utoipa_actix_web::AppExt;
use uuid::Uuid;

pub const NOW_S: i64 = 1_800_000_000;
pub const ISSUER: &str = "https://banyan.example";
pub const AUDIENCE: &str = "banyan";

/// A clock that the test moves by hand.
#[derive(Debug)]
pub struct HandClock(AtomicI64);

impl HandClock {
    pub fn new() -> Arc<Self> {
        Arc::new(HandClock(AtomicI64::new(NOW_S)))
    }

    pub fn advance_s(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_ms(self.0.load(Ordering::SeqCst) * 1000)
    }
}

/// A key pair that signs tokens.
pub struct Signer {
    pub kid: String,
    pub public: String,
    private: EncodingKey,
}

impl Signer {
    pub fn new(kid: &str) -> Self {
        let rng = aws_lc_rs::rand::SystemRandom::new();
        let document = Ed25519KeyPair::generate_pkcs8(&rng).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        Signer {
            kid: kid.to_owned(),
            public: BASE64_URL_SAFE_NO_PAD.encode(pair.public_key().as_ref()),
            private: EncodingKey::from_ed_der(document.as_ref()),
        }
    }

    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey {
            kid: self.kid.clone(),
            x: self.public.clone(),
        }
    }

    /// A token with changed claims.
    pub fn token_with(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = claims(&["customer"]);
        change(&mut claims);
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some("at+jwt".to_owned());
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, &claims, &self.private).unwrap()
    }

    /// Properly signed, but with a changed header.
    pub fn token_under(&self, change: impl FnOnce(&mut Header)) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some("at+jwt".to_owned());
        header.kid = Some(self.kid.clone());
        change(&mut header);
        jsonwebtoken::encode(&header, &claims(&["customer"]), &self.private).unwrap()
    }

    pub fn token(&self, roles: &[&str]) -> String {
        self.token_with(|claims| claims["roles"] = json!(roles))
    }
}

/// The session of the tokens.
pub const SESSION: Uuid = Uuid::from_u128(9);

pub fn claims(roles: &[&str]) -> Value {
    json!({
        "sub": Uuid::from_u128(7), "roles": roles, "iss": ISSUER, "aud": AUDIENCE,
        "iat": NOW_S, "nbf": NOW_S, "exp": NOW_S + 900, "jti": Uuid::from_u128(8), "sid": SESSION,
    })
}

/// A token with any header, claims and signature.
pub fn raw_token(header: &Value, claims: &Value, signature: &[u8]) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!(
        "{}.{}.{}",
        part(header),
        part(claims),
        BASE64_URL_SAFE_NO_PAD.encode(signature)
    )
}

/// A source of keys that can fail, change, and counts its calls.
#[derive(Default)]
pub struct FakeKeys {
    pub keys: Mutex<Option<Vec<VerifyingKey>>>,
    /// Listed as ended, unless the source is down.
    pub ended: Mutex<Vec<EndedSession>>,
    pub fetches: AtomicUsize,
    /// While this is set, the source does not respond.
    pub hangs: AtomicBool,
}

impl FakeKeys {
    pub fn of(signers: &[&Signer]) -> Arc<Self> {
        let keys = FakeKeys::default();
        keys.set(Some(signers));
        Arc::new(keys)
    }

    pub fn set(&self, signers: Option<&[&Signer]>) {
        *self.keys.lock().unwrap() = signers.map(|all| all.iter().map(|signer| signer.verifying_key()).collect());
    }

    pub fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl KeySource for FakeKeys {
    async fn keys(&self) -> Result<Vec<VerifyingKey>, Fault> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        while self.hangs.load(Ordering::SeqCst) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        self.keys
            .lock()
            .unwrap()
            .clone()
            .ok_or_else(|| Fault::unavailable("the key source is down"))
    }

    async fn ended_sessions(&self, _: Option<Timestamp>) -> Result<Option<EndedSessions>, Fault> {
        if self.keys.lock().unwrap().is_none() {
            return Err(Fault::unavailable("the key source is down"));
        }
        Ok(Some(EndedSessions {
            items: self.ended.lock().unwrap().clone(),
            as_of: Timestamp::from_ms(NOW_S * 1_000),
            refused_until: None,
            token_lifetime: std::time::Duration::from_secs(900),
        }))
    }
}

pub fn verifier(keys: Arc<FakeKeys>, clock: Arc<HandClock>) -> Data<Verifier> {
    Data::new(Verifier::new(keys, ISSUER, AUDIENCE, clock))
}

/// A real server with the shell, a rate limit and these routes; its address, and a handle to stop it.
pub struct Server {
    pub url: String,
    pub signer: Signer,
    pub client: reqwest::Client,
    handle: ServerHandle,
}

impl Server {
    pub async fn start(routes: Routes) -> Self {
        Server::start_with(
            routes,
            banyan_http::ShellSettings::default(),
            banyan_http::rate_limit::RateLimit::new(1_000, 2_000),
        )
        .await
    }

    pub async fn start_with(
        routes: Routes,
        shell: banyan_http::ShellSettings,
        limit: banyan_http::rate_limit::RateLimit,
    ) -> Self {
        let signer = Signer::new("k1");
        let verifier = verifier(FakeKeys::of(&[&signer]), HandClock::new());
        let server = HttpServer::new(move || {
            let scope = utoipa_actix_web::scope("/api/v1").configure(|config| routes.configure(config));
            let (app, mut api) = App::new().into_utoipa_app().service(scope).split_for_parts();
            banyan_http::openapi::finish(&mut api, &[]);
            app.app_data(verifier.clone())
                .default_service(banyan_http::unmatched(&api))
                .wrap(limit.clone())
                .wrap(banyan_http::shell(shell.clone()))
        })
        .workers(2)
        .disable_signals()
        .bind("127.0.0.1:0")
        .unwrap();
        let url = format!("http://{}", server.addrs()[0]);
        let server = server.run();
        let handle = server.handle();
        actix_web::rt::spawn(server);
        Server {
            url,
            signer,
            client: reqwest::Client::new(),
            handle,
        }
    }

    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.client
            .request(method.parse().unwrap(), format!("{}{path}", self.url))
    }

    pub async fn stop(self) {
        self.handle.stop(false).await;
    }
}

/// Checks that a response is a complete problem and returns it.
pub async fn problem(response: reqwest::Response, status: u16, code: &str) -> Value {
    let request_id = response.headers().get("x-request-id").cloned();
    let kind = response.headers().get("content-type").cloned();
    let got = response.status().as_u16();
    let text = response.text().await.unwrap();
    assert_eq!(got, status, "{text}");
    assert_eq!(kind.expect("a content type"), "application/problem+json", "{text}");
    assert!(request_id.is_some(), "no X-Request-Id");
    let problem: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(problem["code"], code, "{text}");
    assert_eq!(problem["status"], status, "{text}");
    for member in ["type", "title", "detail", "instance"] {
        assert!(
            problem[member].as_str().is_some_and(|value| !value.is_empty()),
            "{member}: {text}"
        );
    }
    assert_eq!(problem["trace_id"].as_str().map(str::len), Some(32), "{text}");
    problem
}
