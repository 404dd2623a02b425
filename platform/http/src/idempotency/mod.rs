//! `Idempotency-Key` (IETF draft httpapi-idempotency-key-header): a repeated request gets the stored response.
//!
//! `banyan_durable::once` stores key, effects and response in one transaction. A key belongs to its caller; it names one request, so the same key
//! with another method, path or body is refused.

mod key;
mod twins;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    HttpResponse,
    http::header::{HeaderName, HeaderValue},
};
use banyan_core::{Fault, FaultKind};
use banyan_durable::{Command, Db, Memory, Outcome, Tx};

pub use key::{OptionalKey, RequiredKey};

use crate::{Problem, StoredResponse, problem::Occurrence};
use twins::{TWIN_TIMEOUT, take_turn, twin_in_progress};

const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// A request that can be recognised when it is repeated: its caller, key and fingerprint.
#[derive(Clone, Debug)]
pub struct KeyedRequest {
    /// Absent if the client sent no key.
    command: Option<Command>,
    id: String,
    occurrence: Occurrence,
}

impl KeyedRequest {
    /// Identifies the request within the module: caller and key. Empty without a key. For work that continues beyond one transaction and must be
    /// found again when the request is repeated.
    pub fn id(&self) -> &str {
        &self.id
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
            response: db.write(context, work).await?,
            replayed: false,
        });
    };
    let command = command.keep_for(retention(db));
    let turn = take_turn(db.module(), &request.id).await?;
    let (db, attempt) = (db.clone(), (context, request.occurrence, Arc::new(work)));
    // In a task of its own, so that a client that disconnects does not let an equal request start while the first is still running.
    let running = tokio::spawn(async move {
        let (_turn, begun) = (turn, Instant::now());
        loop {
            let attempt = attempt.clone();
            let memory = banyan_durable::once(
                &db,
                command.clone(),
                attempt,
                |tx, (context, occurrence, work)| async move { outcome_of(work(tx, context).await, &occurrence) },
            )
            .await;
            match memory {
                // An equal request in another process holds the row.
                Err(fault) if banyan_durable::is_locked(&fault) && begun.elapsed() < TWIN_TIMEOUT => {}
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

/// Whether a retry would fail in the same way. A conflict with a time to retry is not final.
fn is_final(fault: &Fault) -> bool {
    matches!(
        fault.kind,
        FaultKind::NotFound | FaultKind::Conflict | FaultKind::Invalid
    ) && fault.retry_after.is_none()
}

/// Claims the key for this request before anything is started, for work that continues beyond one transaction and is identified by
/// [`KeyedRequest::id`]. What such work leaves behind need not contain the key, for example after a refusal; without the claim another request with the
/// same key could be carried out as well and only then be refused because of its key. `kind` names the work within the module; `fingerprint` is what
/// the request wants done.
///
/// # Errors
/// `idempotency_key_reused` (422).
pub async fn claim_key(db: &Db, request: &KeyedRequest, kind: &'static str, fingerprint: &[u8]) -> Result<(), Fault> {
    let claim = Command::new(kind, request.id(), fingerprint).keep_for(retention(db));
    banyan_durable::once(db, claim, (), |_, ()| async { Ok(Outcome::Done(())) })
        .await
        .map(drop)
        .map_err(key_reused)
}

fn retention(db: &Db) -> Duration {
    Duration::from_secs(db.settings().idempotency_keep_days.saturating_mul(24 * 60 * 60))
}

/// `idempotency_key_reused` in place of `command_reused`; any other fault unchanged.
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
