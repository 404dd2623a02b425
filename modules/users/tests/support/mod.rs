//! A server with this module alone. It verifies access tokens with the module's own keys, as every service does.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::sync::Arc;

use actix_web::{
    App,
    http::header::{self, HeaderMap},
    test::{self, TestRequest},
    web::Data,
};
use async_trait::async_trait;
use banyan_core::{Call, Clock, Fault, RandomIds, RandomSecrets, SystemClock};
use banyan_durable::Db;
use banyan_http::{KeySource, Verifier, VerifyingKey};
use serde_json::{Value, json};
use users::{Needs, Offers, Settings};
use users_contract::{ListSigningKeys, Users};
use utoipa_actix_web::AppExt;

pub const PASSWORD: &str = "correct horse";

pub struct Shop {
    pub contract: Arc<dyn Users>,
    pub seed: banyan_durable::Seed,
    pub clock: Arc<dyn Clock>,
    offers: Offers,
    verifier: Data<Verifier>,
}

pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

pub struct Session {
    pub access_token: String,
    pub refresh_token: String,
}

struct ContractKeys(Arc<dyn Users>);

#[async_trait]
impl KeySource for ContractKeys {
    async fn keys(&self) -> Result<Vec<VerifyingKey>, Fault> {
        let keys = self.0.list_signing_keys(&Call::default(), ListSigningKeys {}).await?;
        Ok(keys
            .items
            .into_iter()
            .map(|key| VerifyingKey { kid: key.kid, x: key.x })
            .collect())
    }
}

impl Shop {
    pub async fn open(db: Db) -> Self {
        Shop::open_at(db, Arc::new(SystemClock)).await
    }

    /// A shop in which users verify their address before they log in.
    pub async fn open_verifying(db: Db) -> Self {
        let settings = Settings {
            verify_email: true,
            ..settings()
        };
        Shop::open_with(db, Arc::new(SystemClock), settings).await
    }

    pub async fn open_at(db: Db, clock: Arc<dyn Clock>) -> Self {
        Shop::open_with(db, clock, settings()).await
    }

    async fn open_with(db: Db, clock: Arc<dyn Clock>, settings: Settings) -> Self {
        let (issuer, audience) = (settings.issuer.clone(), settings.audience.clone());
        let needs = Needs {
            db,
            clock: clock.clone(),
            ids: Arc::new(RandomIds),
            secrets: Arc::new(RandomSecrets),
            demo: true,
            settings,
        };
        let offers = users::start(needs).await.unwrap();
        let keys = Arc::new(ContractKeys(offers.contract.clone()));
        let verifier = Data::new(Verifier::new(keys, issuer, audience, clock.clone()));
        Shop {
            contract: offers.contract.clone(),
            seed: offers.seed.clone(),
            clock,
            offers,
            verifier,
        }
    }

    pub async fn send(&self, request: TestRequest) -> Reply {
        let (routes, well_known) = (self.offers.routes.clone(), self.offers.well_known.clone());
        let (app, _) = App::new()
            .app_data(self.verifier.clone())
            .into_utoipa_app()
            .service(utoipa_actix_web::scope("/api/v1").configure(move |config| routes.configure(config)))
            .configure(move |config| well_known.configure(config))
            .split_for_parts();
        let app = test::init_service(app).await;
        let response =
            test::call_service(&app, request.peer_addr("127.0.0.1:50000".parse().unwrap()).to_request()).await;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = test::read_body(response).await;
        Reply {
            status,
            headers,
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        }
    }

    pub fn routes(&self) -> banyan_http::Routes {
        self.offers.routes.clone()
    }

    /// Registers a user and returns their id.
    pub async fn register(&self, email: &str) -> String {
        let reply = self
            .send(post(
                "/api/v1/users",
                json!({"email": email, "password": PASSWORD, "name": "Ada"}),
            ))
            .await;
        assert_eq!(reply.status, 201, "{}", reply.body);
        reply.text("/id")
    }

    pub async fn log_in(&self, email: &str, password: &str) -> Session {
        let reply = self
            .send(post("/api/v1/sessions", json!({"email": email, "password": password})))
            .await;
        assert_eq!(reply.status, 201, "{}", reply.body);
        reply.session()
    }
}

impl Session {
    pub fn bearer(&self) -> (header::HeaderName, String) {
        (header::AUTHORIZATION, format!("Bearer {}", self.access_token))
    }
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map(|value| value.to_str().unwrap())
            .unwrap_or_default()
    }

    pub fn text(&self, pointer: &str) -> String {
        self.body
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    }

    pub fn session(&self) -> Session {
        Session {
            access_token: self.text("/access_token"),
            refresh_token: self.text("/refresh_token"),
        }
    }

    /// The status and the code of a problem.
    pub fn problem(&self) -> (u16, String) {
        (self.status, self.text("/code"))
    }
}

/// The default settings with cheap hashes.
fn settings() -> Settings {
    let file = include_str!("../../config/default.toml");
    Settings {
        issuer: "http://localhost:8080".to_owned(),
        audience: "banyan".to_owned(),
        argon2_memory_kib: 64,
        ..banyan_durable_testing::default_settings(file, "users")
    }
}

pub fn get(path: &str) -> TestRequest {
    TestRequest::get().uri(path)
}

pub fn post(path: &str, body: Value) -> TestRequest {
    TestRequest::post().uri(path).set_json(body)
}
