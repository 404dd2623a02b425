//! `Idempotency-Key` (IETF draft httpapi-idempotency-key-header): the same request again gets the same answer again.
//!
//! The memory is `banyan_durable::once`: key, work and answer in one transaction. A key belongs to its caller; it names one request, so the same key
//! with another method, path or body is refused.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, Weak},
    time::{Duration, Instant},
};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest, HttpResponse,
    dev::Payload,
    http::header::{HeaderName, HeaderValue},
};
use banyan_core::{Fault, FaultKind};
use banyan_durable::{Command, Db, Memory, Outcome, Tx};
use futures::future::{FutureExt, LocalBoxFuture};
use utoipa::{
    IntoParams,
    openapi::{
        Required,
        path::{Parameter, ParameterBuilder, ParameterIn},
        schema::{ObjectBuilder, Type},
    },
};

use crate::{Problem, StoredResponse, auth, body::BodyBytes, problem::Occurrence, request};

/// How long the second of two equal requests waits for the first.
const TWIN_WAIT: Duration = Duration::from_secs(2);
const MAX_KEY_LENGTH: usize = 255;

pub(crate) const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// A key that must be there: 400 `idempotency_key_required` without it.
#[derive(Clone, Debug)]
pub struct RequiredKey(Key);

/// A key that may be there. Without it every request is a new one.
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

/// A request that can be recognised: who asked what, under which key.
#[derive(Clone, Debug)]
pub struct KeyedRequest {
    /// Absent if the client sent no key.
    command: Option<Command>,
    id: String,
    occurrence: Occurrence,
}

impl KeyedRequest {
    /// Names the request within the module: caller and key. Empty without a key. For work that goes on beyond one transaction and must find
    /// itself again when it is asked for again.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl RequiredKey {
    /// The request under its key. The bytes of a body that was read, and so passed its checks, are part of its fingerprint.
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
    /// The bytes are those the body's extractor left with the request.
    fn keyed(&self) -> KeyedRequest {
        let line = format!("{} {}\n", self.request.method(), self.request.uri());
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
                    "Send an Idempotency-Key, so that this can safely be asked again.",
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

/// The response to a [`KeyedRequest`], and whether it was stored by an earlier request with the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedResponse {
    pub response: StoredResponse,
    pub replayed: bool,
}

impl From<KeyedResponse> for HttpResponse {
    fn from(keyed: KeyedResponse) -> Self {
        let mut response = keyed.response.into_response();
        if keyed.replayed {
            response
                .headers_mut()
                .insert(REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

/// Does `work` once for this key, in one transaction that also stores its response; without a key just does it. Each attempt gets its own clone of
/// `context`, as in [`Db::write`].
///
/// A response and a refusal (404, 409, 422) are stored, a refusal after rolling back what was written; any other fault is not, so that the client
/// may retry. The work continues if the client disconnects.
///
/// ```ignore
/// banyan_http::idempotent(&db, key.keyed(), (service, call, id), |tx, (service, call, id)| async move {
///     Ok(banyan_http::ok(&service.archive(&tx, &call, id).await?))
/// })
/// .await
/// ```
///
/// # Errors
/// The work's fault; `idempotency_key_reused` (422); `twin_in_progress` (409) if an equal request is still running after 2 s.
pub async fn idempotent<C, F, Fut>(db: &Db, request: KeyedRequest, context: C, work: F) -> Result<HttpResponse, Problem>
where
    C: Clone + Send + Sync + 'static,
    F: Fn(Tx, C) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<StoredResponse, Fault>> + Send + 'static,
{
    Ok(respond_once(db, request, context, work).await?.into())
}

/// As [`idempotent`], for handlers that look at the response before they return it.
///
/// # Errors
/// As [`idempotent`].
pub async fn respond_once<C, F, Fut>(
    db: &Db,
    request: KeyedRequest,
    context: C,
    work: F,
) -> Result<KeyedResponse, Problem>
where
    C: Clone + Send + Sync + 'static,
    F: Fn(Tx, C) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<StoredResponse, Fault>> + Send + 'static,
{
    let Some(command) = request.command else {
        return Ok(KeyedResponse {
            response: db.write(move |tx| work(tx, context.clone())).await?,
            replayed: false,
        });
    };
    let command = command.keep_for(kept_for(db));
    let turn = take_turn(db.module(), &request.id).await?;
    let (db, attempt) = (db.clone(), (context, request.occurrence, Arc::new(work)));
    // In a task of its own, so that a client that hangs up cannot let a twin in while the first is still at work.
    let running = tokio::spawn(async move {
        let (_turn, begun) = (turn, Instant::now());
        loop {
            let attempt = attempt.clone();
            let memory = banyan_durable::once(&db, command.clone(), move |tx| {
                let (context, occurrence, work) = attempt.clone();
                async move { outcome_of(work(tx, context).await, &occurrence) }
            })
            .await;
            match memory {
                // A twin in another process holds the row.
                Err(fault) if banyan_durable::is_locked(&fault) && begun.elapsed() < TWIN_WAIT => {}
                Err(fault) if banyan_durable::is_locked(&fault) => return Err(twin_in_progress()),
                memory => return memory,
            }
        }
    });
    let memory = running
        .await
        .map_err(|error| Fault::internal("work_panicked", error.to_string()))?;
    Ok(keyed_response(memory.map_err(key_reused)?)?)
}

/// What is stored: a response, or a refusal that is as final as one. A fault after which a retry may succeed is passed on.
fn outcome_of(
    result: Result<StoredResponse, Fault>,
    occurrence: &Occurrence,
) -> Result<Outcome<StoredResponse>, Fault> {
    match result {
        Ok(response) => Ok(Outcome::Done(response)),
        Err(fault) if is_final(&fault) => Ok(Outcome::Refused(StoredResponse::problem(&fault, occurrence))),
        Err(fault) => Err(fault),
    }
}

fn twin_in_progress() -> Fault {
    let fault = Fault::conflict(
        "twin_in_progress",
        "A request with this Idempotency-Key is still running.",
    );
    fault.retry_after(Duration::from_secs(1))
}

/// The response stored for an earlier request with this key, if there is one. Does nothing else: call it before calling other modules.
///
/// # Errors
/// `idempotency_key_reused` (422).
pub async fn find_replay(db: &Db, request: &KeyedRequest) -> Result<Option<HttpResponse>, Problem> {
    Ok(find_response(db, request).await?.map(HttpResponse::from))
}

/// As [`find_replay`], for handlers that look at the response before they return it.
///
/// # Errors
/// As [`find_replay`].
pub async fn find_response(db: &Db, request: &KeyedRequest) -> Result<Option<KeyedResponse>, Problem> {
    let Some(command) = &request.command else {
        return Ok(None);
    };
    let memory = banyan_durable::recall::<StoredResponse>(db, command)
        .await
        .map_err(key_reused)?;
    Ok(memory.map(keyed_response).transpose()?)
}

/// Whether asking again would give the same. A conflict that says when to ask again is none.
fn is_final(fault: &Fault) -> bool {
    matches!(
        fault.kind,
        FaultKind::NotFound | FaultKind::Conflict | FaultKind::Invalid
    ) && fault.retry_after.is_none()
}

/// Gives the key to this request before anything is started, for work that goes on beyond one transaction and is known by [`KeyedRequest::id`]. What
/// such work leaves behind may say nothing of the key, for example when it was refused; without this, another request with the same key could be
/// carried out beside it and only then be told that its key was used before. `kind` names the work within the module, `asked` is what was asked for.
///
/// # Errors
/// `idempotency_key_reused` (422).
pub async fn claim_key(db: &Db, request: &KeyedRequest, kind: &'static str, asked: &[u8]) -> Result<(), Fault> {
    let claim = Command::new(kind, request.id(), asked).keep_for(kept_for(db));
    banyan_durable::once(db, claim, |_| async { Ok(Outcome::Done(())) })
        .await
        .map(drop)
        .map_err(key_reused)
}

fn kept_for(db: &Db) -> Duration {
    Duration::from_secs(db.settings().idempotency_keep_days.saturating_mul(24 * 60 * 60))
}

/// What a client is told whose key names another request; any other fault as it is.
pub fn key_reused(fault: Fault) -> Fault {
    if fault.code != "command_reused" {
        return fault;
    }
    Fault::invalid(
        "idempotency_key_reused",
        "This Idempotency-Key was used before, for a different request.",
    )
}

fn keyed_response(memory: Memory<StoredResponse>) -> Result<KeyedResponse, Fault> {
    match memory {
        Memory::First(response) => Ok(KeyedResponse {
            response,
            replayed: false,
        }),
        Memory::Again(response) => Ok(KeyedResponse {
            response,
            replayed: true,
        }),
        Memory::Undone => Err(Fault::internal("undone_request", "an HTTP request has no undo")),
    }
}

/// The requests with a key that are at work in this process. Among several processes the database's row lock does the same.
type Running = HashMap<(String, String), Weak<tokio::sync::Mutex<()>>>;
static RUNNING: LazyLock<Mutex<Running>> = LazyLock::new(Mutex::default);

struct Turn {
    name: (String, String),
    guard: Option<tokio::sync::OwnedMutexGuard<()>>,
}

async fn take_turn(module: &str, id: &str) -> Result<Turn, Fault> {
    let name = (module.to_owned(), id.to_owned());
    let lock = {
        let mut running = RUNNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let known = running.get(&name).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let fresh = Arc::new(tokio::sync::Mutex::new(()));
            running.insert(name.clone(), Arc::downgrade(&fresh));
            fresh
        })
    };
    match tokio::time::timeout(TWIN_WAIT, lock.lock_owned()).await {
        Ok(guard) => Ok(Turn {
            name,
            guard: Some(guard),
        }),
        Err(_) => {
            forget_idle(&name);
            Err(twin_in_progress())
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.guard.take();
        forget_idle(&self.name);
    }
}

fn forget_idle(name: &(String, String)) {
    let mut running = RUNNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // Whoever waits still holds the lock's other half.
    if running.get(name).is_some_and(|lock| lock.strong_count() == 0) {
        running.remove(name);
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
    fn a_key_may_come_bare_or_as_a_structured_string() {
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

    #[actix_web::test]
    async fn a_twin_waits_two_seconds_and_is_then_told_to_come_back() {
        let turn = take_turn("test", "ada k1").await.unwrap();
        let begun = std::time::Instant::now();
        let fault = take_turn("test", "ada k1").await.map(drop).unwrap_err();
        assert_eq!(
            (fault.code.as_str(), crate::status_of(&fault).as_u16()),
            ("twin_in_progress", 409)
        );
        assert!(fault.retry_after.is_some() && begun.elapsed() >= Duration::from_secs(2));
        assert!(
            take_turn("test", "ada k2").await.is_ok() && take_turn("other", "ada k1").await.is_ok(),
            "others do not wait"
        );
        let waiting = tokio::spawn(take_turn("test", "ada k1"));
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(turn);
        drop(waiting.await.unwrap().expect("its turn"));
        assert!(
            !RUNNING.lock().unwrap().keys().any(|(module, _)| module == "test"),
            "nothing is left behind"
        );
    }
}
