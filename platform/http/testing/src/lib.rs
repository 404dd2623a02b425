//! One module's routes behind the real token check, for the module's own HTTP tests. No socket: requests are handed to the application.

use std::sync::Arc;

use actix_web::{
    App,
    body::MessageBody,
    dev::{Service, ServiceResponse},
    http::{
        StatusCode,
        header::{AUTHORIZATION, HeaderMap},
    },
    test::init_service,
    web::Data,
};
use async_trait::async_trait;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use banyan_core::{Clock, Fault, SystemClock};
use banyan_http::{ACCESS_TOKEN_TYPE, Claims, KeySource, Routes, Verifier, VerifyingKey};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::Value;
use utoipa_actix_web::AppExt;
use uuid::Uuid;

pub use actix_web::test::TestRequest;

const ISSUER: &str = "https://banyan.example";
const AUDIENCE: &str = "banyan";
const KID: &str = "test";

/// `GET`.
pub fn get(path: &str) -> TestRequest {
    TestRequest::get().uri(path)
}

/// `POST`, without a body so far.
pub fn post(path: &str) -> TestRequest {
    TestRequest::post().uri(path)
}

/// A module's routes under `/api/v1`, and a key that signs tokens they believe.
pub struct Site {
    routes: Routes,
    verifier: Data<Verifier>,
    signing: EncodingKey,
}

/// The response, read to its end.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Reply {
    /// The body as JSON; null if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// A header's value; empty if it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The `code` of a problem.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

struct OneKey(VerifyingKey);

#[async_trait]
impl KeySource for OneKey {
    async fn keys(&self) -> Result<Vec<VerifyingKey>, Fault> {
        Ok(vec![self.0.clone()])
    }
}

impl Site {
    /// # Panics
    /// If no key can be made.
    pub fn of(routes: Routes) -> Self {
        let pair = Ed25519KeyPair::generate().expect("an Ed25519 key");
        let pkcs8 = pair.to_pkcs8v1().expect("the key as PKCS #8");
        let x = BASE64_URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let source = Arc::new(OneKey(VerifyingKey { kid: KID.to_owned(), x }));
        let verifier = Data::new(Verifier::new(source, ISSUER, AUDIENCE, Arc::new(SystemClock)));
        Site {
            routes,
            verifier,
            signing: EncodingKey::from_ed_der(pkcs8.as_ref()),
        }
    }

    /// An access token of this user.
    ///
    /// # Panics
    /// If it cannot be signed.
    pub fn token<R: AsRef<str>>(&self, user: Uuid, roles: &[R]) -> String {
        let now_s = SystemClock.now().as_ms() / 1000;
        let claims = Claims {
            sub: user,
            roles: roles.iter().map(|role| role.as_ref().to_owned()).collect(),
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            iat: now_s,
            nbf: now_s,
            exp: now_s + 900,
            jti: Uuid::new_v4(),
            sid: Uuid::new_v4(),
        };
        let header = Header {
            typ: Some(ACCESS_TOKEN_TYPE.to_owned()),
            kid: Some(KID.to_owned()),
            ..Header::new(Algorithm::EdDSA)
        };
        jsonwebtoken::encode(&header, &claims, &self.signing).expect("the token is signed")
    }

    /// Sends the request as a user with these roles.
    pub async fn send_as<R: AsRef<str>>(&self, user: Uuid, roles: &[R], request: TestRequest) -> Reply {
        self.send(request.insert_header((AUTHORIZATION, format!("Bearer {}", self.token(user, roles)))))
            .await
    }

    /// Sends the request as it is.
    ///
    /// # Panics
    /// If the response's body breaks off.
    pub async fn send(&self, request: TestRequest) -> Reply {
        let routes = self.routes.clone();
        let app = App::new().app_data(self.verifier.clone()).into_utoipa_app();
        let app = app
            .service(utoipa_actix_web::scope("/api/v1").configure(move |config| routes.configure(config)))
            .into_app();
        let service = init_service(app).await;
        let response: ServiceResponse<_> = match service.call(request.to_request()).await {
            Ok(response) => response.map_into_boxed_body(),
            Err(error) => {
                let response = error.error_response();
                return reply(response.status(), response.headers().clone(), response.into_body()).await;
            }
        };
        reply(response.status(), response.headers().clone(), response.into_body()).await
    }

    /// What the module's routes say of themselves in the OpenAPI document, as JSON.
    ///
    /// # Panics
    /// If the document cannot be written.
    pub fn document(&self) -> Value {
        let routes = self.routes.clone();
        let app = App::new().into_utoipa_app();
        let app = app.service(utoipa_actix_web::scope("/api/v1").configure(move |config| routes.configure(config)));
        serde_json::to_value(app.split_for_parts().1).expect("the document is JSON")
    }
}

async fn reply(status: StatusCode, headers: HeaderMap, body: impl MessageBody) -> Reply {
    let Ok(bytes) = actix_web::body::to_bytes(body).await else {
        panic!("the response's body broke off")
    };
    Reply {
        status: status.as_u16(),
        headers,
        body: String::from_utf8_lossy(&bytes).into_owned(),
    }
}
