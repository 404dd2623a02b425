//! The `Idempotency-Key` header as a parameter of handlers.

use actix_web::{FromRequest, HttpMessage, HttpRequest, dev::Payload, http::header::HeaderValue};
use banyan_core::Fault;
use banyan_durable::Command;
use futures::future::{FutureExt, LocalBoxFuture};
use utoipa::{
    IntoParams,
    openapi::{
        Required,
        path::{Parameter, ParameterBuilder, ParameterIn},
        schema::{ObjectBuilder, Type},
    },
};

use super::KeyedRequest;
use crate::{Problem, auth, body::BodyBytes, request};

const MAX_KEY_LENGTH: usize = 255;
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// A mandatory key: 400 `idempotency_key_required` without it.
#[derive(Clone, Debug)]
pub struct RequiredKey(Key);

/// An optional key. Without it every request is a new one.
#[derive(Clone, Debug)]
pub struct OptionalKey(Key);

#[derive(Clone)]
struct Key {
    key: Option<String>,
    caller: String,
    request: HttpRequest,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key")
            .field("key", &self.key)
            .field("caller", &self.caller)
            .finish()
    }
}

impl RequiredKey {
    /// The request with its key. The bytes of a body that was read, and so passed its checks, are part of its fingerprint.
    pub fn keyed(&self) -> KeyedRequest {
        self.0.keyed()
    }
}

impl OptionalKey {
    /// As [`RequiredKey::keyed`].
    pub fn keyed(&self) -> KeyedRequest {
        self.0.keyed()
    }
}

impl Key {
    /// The bytes are those that the body's extractor put into the request.
    fn keyed(&self) -> KeyedRequest {
        let line = format!("{} {}\n", self.request.method(), request::target(&self.request));
        let mut bytes = line.into_bytes();
        if let Some(BodyBytes(body)) = self.request.extensions().get::<BodyBytes>() {
            bytes.extend_from_slice(body);
        }
        let id = self.key.as_ref().map(|key| format!("{} {key}", self.caller));
        KeyedRequest {
            command: id.as_ref().map(|id| Command::new("http", id.clone(), &bytes)),
            id: id.unwrap_or_default(),
            occurrence: request::occurrence(&self.request),
        }
    }

    async fn read(request: HttpRequest) -> Result<Key, Fault> {
        let actor = auth::actor(&request).await?;
        let mut values = request.headers().get_all(IDEMPOTENCY_KEY);
        let key = match (values.next(), values.next()) {
            (None, _) => None,
            (Some(one), None) => Some(parse_key(one).ok_or_else(bad_key)?),
            (Some(_), Some(_)) => return Err(bad_key()),
        };
        Ok(Key {
            key,
            caller: actor.label(),
            request,
        })
    }
}

fn bad_key() -> Fault {
    Fault::malformed(
        "invalid_idempotency_key",
        format!(
            "Idempotency-Key must be one string of 1 to {MAX_KEY_LENGTH} visible ASCII characters, best a UUID in quotes."
        ),
    )
}

/// A string of RFC 8941 (`"abc"`, with `\"` and `\\`), or the bare characters as most clients send them.
fn parse_key(value: &HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?.trim();
    let key = match text.strip_prefix('"') {
        None => text.to_owned(),
        Some(rest) => {
            let mut key = String::new();
            let mut letters = rest.chars();
            loop {
                match letters.next()? {
                    '"' if letters.as_str().is_empty() => break key,
                    '"' => return None,
                    '\\' => key.push(letters.next().filter(|letter| matches!(letter, '"' | '\\'))?),
                    letter => key.push(letter),
                }
            }
        }
    };
    let fits = (1..=MAX_KEY_LENGTH).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then_some(key)
}

impl FromRequest for RequiredKey {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        async move {
            let key = Key::read(request).await?;
            if key.key.is_none() {
                return Err(Problem(Fault::malformed(
                    "idempotency_key_required",
                    "Send an Idempotency-Key, so that the request can be retried safely.",
                )));
            }
            Ok(RequiredKey(key))
        }
        .boxed_local()
    }
}

impl FromRequest for OptionalKey {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        async move { Ok(OptionalKey(Key::read(request).await?)) }.boxed_local()
    }
}

fn key_parameter(required: Required, description: &str) -> Vec<Parameter> {
    let schema = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(MAX_KEY_LENGTH))
        .pattern(Some("^[!-~]+$"));
    let parameter = ParameterBuilder::new()
        .name(IDEMPOTENCY_KEY)
        .parameter_in(ParameterIn::Header)
        .required(required)
        .description(Some(description))
        .schema(Some(schema.build()));
    vec![parameter.build()]
}

impl IntoParams for RequiredKey {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        key_parameter(
            Required::True,
            "Makes asking again safe: the same key and body get the same answer. Best a UUID.",
        )
    }
}

impl IntoParams for OptionalKey {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        key_parameter(
            Required::False,
            "Makes asking again safe, if sent: the same key and body get the same answer.",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_be_bare_or_a_structured_string() {
        let read = |text: &str| parse_key(&HeaderValue::from_str(text).unwrap());
        assert_eq!(read("abc-1").as_deref(), Some("abc-1"));
        assert_eq!(read("\"abc-1\"").as_deref(), Some("abc-1"));
        assert_eq!(read(r#""a\"b\\""#).as_deref(), Some(r#"a"b\"#));
        assert_eq!(read(&"k".repeat(255)).map(|key| key.len()), Some(255));
        for bad in ["", "\"\"", "a b", "\"open", "\"a\" b", "\"a\\x\"", &"k".repeat(256)] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(
            parse_key(&HeaderValue::from_bytes("schlüssel".as_bytes()).unwrap()),
            None
        );
    }
}
