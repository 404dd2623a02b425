//! The HTTP conventions that every module shares: problem+json, the caller from the token, checked input, paging, ETag, Idempotency-Key, `Prefer`,
//! Server-Sent Events; and the [`shell`], the outermost middleware of every server.
//!
//! # What a handler looks like
//! ```ignore
//! #[utoipa::path(tag = "notes", params(banyan_http::RequiredKey), request_body = NewNote, responses((status = 201, body = Note)),
//!     security(("bearer" = [])))]
//! #[post("/notes")]
//! async fn add_note(author: banyan_http::HasRole<Author>, key: banyan_http::RequiredKey, body: banyan_http::Body<NewNote>, service: Data<Service>)
//!     -> Result<HttpResponse, banyan_http::Problem>
//! ```
//! The caller is the first parameter, so that 401 and 403 take precedence over any error in the request. Query types, keys, [`Prefer`], [`IfMatch`],
//! [`IfNoneMatch`] and `sse::LastEventId` are documented by naming them in `params(..)`; [`openapi::finish`] adds the problems. A handler that takes
//! [`Anyone`] declares `security((), ("bearer" = []))`: an invalid token is a 401 there too.
//!
//! # Decisions
//! - **Limits have one source**: the utoipa schema. What a body or query type's attributes document is what is enforced.
//! - **`1.0` is an integer**, as in JSON Schema; serde would refuse it, so whole numbers are made integers before serde sees them.
//! - **Duplicate keys** in an object: the last one counts, as in every browser's `JSON.parse`. The body is parsed once, so the handler cannot see
//!   another value than the one that was checked.
//! - **Control characters and overrides of direction** in any text are refused (422; NUL in a path 404): [`text`]. The document has a pattern for it.
//! - **Unknown query parameters** are refused (400) like unknown body fields.
//! - **A head over 16 KiB** is a 431 problem. What actix's own parser refuses (a head over 128 KiB, more than 96 headers, malformed HTTP) never
//!   reaches the application: actix responds without a body.

mod address;
mod auth;
mod body;
mod conditional;
mod ended_sessions;
mod hosts;
#[cfg(feature = "durable")]
mod idempotency;
pub mod openapi;
#[cfg(feature = "durable")]
pub mod ops;
mod page;
mod prefer;
mod problem;
mod query;
pub mod rate_limit;
mod reason;
mod request;
mod routes;
mod schema;
mod shell;
pub mod sse;
mod stored_response;
mod template;
pub mod text;
mod token;
mod unmatched;

pub use address::{OverTls, TrustedPeers, TrustedProxies, address_key, client_address, client_ip};
pub use auth::{Anyone, AnyoneOperates, HasRole, LoggedIn, OperatorRole, Ops, Token};
pub use body::{Body, MAX_BODY_BYTES, OptionalBody, RawBody};
pub use conditional::{IfMatch, IfNoneMatch, check_if_match, etag, ok_json_with_etag, ok_with_etag};
pub use ended_sessions::{EndedSession, EndedSessions, FETCH_INTERVAL as ENDED_SESSIONS_INTERVAL};
pub use hosts::{AllowedHosts, LOOPBACK};
#[cfg(feature = "durable")]
pub use idempotency::{
    KeyedRequest, KeyedResponse, OptionalKey, RequiredKey, claim_key, find_replay, find_response, idempotent,
    key_reused, respond_once,
};
pub use openapi::KnownProblem;
pub use page::{Listed, PageQuery};
pub use prefer::{MAX_WAIT, Prefer};
pub use problem::{Problem, ProblemBody, status_of};
pub use query::{Path, Query};
pub use reason::Reason;
pub use request::{RequestContext, RouteTemplate};
pub use routes::Routes;
pub use shell::{Shell, ShellService, ShellSettings, TimeLimit, shell};
pub use sse::Stopping;
pub use stored_response::{StoredResponse, created, ok, ok_json, to_json};
pub use template::PathTemplate;
pub use token::{ACCESS_TOKEN_TYPE, Claims, KeySource, Verifier, VerifyingKey};
pub use unmatched::{DocumentedPaths, unmatched, unmatched_in};
