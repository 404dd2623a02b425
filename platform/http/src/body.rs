//! Request bodies: read up to a limit, parsed, checked against the documented schema, and only then turned into a type.

use std::{any::TypeId, time::Duration};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest,
    dev::Payload,
    http::header::{self, HeaderMap},
};
use banyan_core::Fault;
use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt,
    future::{FutureExt, LocalBoxFuture},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{Problem, schema};

/// The maximum size of a request body. The server reads and discards a little of the excess before it closes, so that the client sees the 413.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// The timeout for receiving a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(8);

/// A JSON body that is valid against `T`'s schema. Put it after the caller among a handler's parameters, so that 401 comes before 422.
#[derive(Clone, Debug)]
pub struct Body<T>(pub T);

impl<T> Body<T> {
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> std::ops::Deref for Body<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A JSON body that may be left out, or be `null`; document it as `request_body = Option<T>`. If present, it is valid against `T`'s schema.
#[derive(Clone, Debug)]
pub struct OptionalBody<T>(pub Option<T>);

/// The bytes of a body as received, for signatures over them. The same size limit applies.
#[derive(Clone, Debug)]
pub struct RawBody(pub Bytes);

/// Put into the request by the extractor that read the body, for the fingerprint of the idempotency key.
#[derive(Clone)]
#[cfg_attr(not(feature = "durable"), allow(dead_code, reason = "only idempotency reads it"))]
pub(crate) struct BodyBytes(pub Bytes);

impl<T: DeserializeOwned + ToSchema + 'static> FromRequest for Body<T> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        async move {
            check_media_type(request.headers())?;
            let bytes = read(&request, payload).await?;
            let value = parse::<T>(&bytes)?;
            request.extensions_mut().insert(BodyBytes(bytes));
            Ok(Body(value))
        }
        .boxed_local()
    }
}

impl<T> FromRequest for OptionalBody<T>
where
    T: DeserializeOwned + 'static,
    Option<T>: ToSchema,
{
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        async move {
            let bytes = read(&request, payload).await?;
            if bytes.is_empty() {
                return Ok(OptionalBody(None));
            }
            check_media_type(request.headers())?;
            let value = parse::<Option<T>>(&bytes)?;
            request.extensions_mut().insert(BodyBytes(bytes));
            Ok(OptionalBody(value))
        }
        .boxed_local()
    }
}

impl FromRequest for RawBody {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        async move {
            let bytes = read(&request, payload).await?;
            request.extensions_mut().insert(BodyBytes(bytes.clone()));
            Ok(RawBody(bytes))
        }
        .boxed_local()
    }
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Fault> {
    let unsupported = |detail: &str| Fault::malformed("unsupported_media_type", detail);
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let mut parts = kind.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    if !matches!(essence.as_str(), "application/json" | "application/merge-patch+json") {
        return Err(unsupported(
            "The body must be JSON: send Content-Type: application/json.",
        ));
    }
    let charset = parts.find_map(|part| {
        part.split_once('=')
            .filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))
    });
    if charset.is_some_and(|(_, name)| !name.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")) {
        return Err(unsupported("JSON is UTF-8."));
    }
    let encoding = headers
        .get(header::CONTENT_ENCODING)
        .map(|value| value.to_str().unwrap_or("unreadable"));
    if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        return Err(unsupported("Compressed bodies are not accepted."));
    }
    Ok(())
}

/// # Errors
/// `body_too_large` (413), `request_timeout` (408), `broken_body` (400) for a connection or an encoding that broke off.
async fn read(request: &HttpRequest, mut payload: Payload) -> Result<Bytes, Fault> {
    let too_large = || {
        Fault::malformed(
            "body_too_large",
            format!("The body may have at most {MAX_BODY_BYTES} bytes."),
        )
    };
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > MAX_BODY_BYTES) {
        return Err(too_large());
    }
    let mut bytes = BytesMut::with_capacity(announced.unwrap_or_default());
    let reading = async {
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|_| Fault::malformed("broken_body", "The body broke off."))?;
            if bytes.len() + chunk.len() > MAX_BODY_BYTES {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(())
    };
    let slow = || Fault::malformed("request_timeout", "The body took too long to arrive.");
    tokio::time::timeout(BODY_TIMEOUT, reading)
        .await
        .map_err(|_| slow())??;
    Ok(bytes.freeze())
}

/// # Errors
/// `malformed_json` (400), `invalid_body` (422) with each field that broke a rule.
fn parse<T: DeserializeOwned + ToSchema + 'static>(bytes: &[u8]) -> Result<T, Fault> {
    let mut value: Value = serde_json::from_slice(bytes)
        .map_err(|error| Fault::malformed("malformed_json", format!("The body is not JSON: {error}.")))?;
    schema::make_whole_numbers_integers(&mut value);
    let validator = schema::validator(TypeId::of::<T>(), schema::schema_of::<T>)?;
    let errors = schema::violations(&validator, &value);
    if !errors.is_empty() {
        let mut fault = Fault::invalid("invalid_body", "The body breaks the rules of its schema.");
        fault.errors = errors;
        return Err(fault);
    }
    // The type may have rules that its schema cannot express.
    serde_json::from_value(value).map_err(|error| {
        Fault::invalid("invalid_body", "The body breaks the rules of its schema.").at("", error.to_string())
    })
}
