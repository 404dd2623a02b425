//! The types that every crate of the platform, and every module built on it, uses. Light on purpose: no database, no web server, no transport.
//!
//! A type belongs here when two crates must mean the same by it: who is calling, why a call failed, what an event consists of, how a list is
//! read in pages. Nothing here knows what a product sells.

mod actor;
mod bus;
mod call;
mod clock;
mod cursor;
mod event;
mod fault;
mod health;
mod ids;
mod limits;
mod page;
mod secrets;
mod security;
mod timestamp;
mod transaction;
mod urls;

pub use actor::{Actor, OPERATOR, RequiredRole};
pub use bus::{Bus, Subscriber};
pub use call::{AccessToken, Call, TraceParent, VerifiedCaller, timeout_from_header, timeout_to_header};
pub use clock::{Clock, SystemClock};
pub use cursor::Cursor;
pub use event::{Envelope, Event};
pub use fault::{Fault, FaultKind, FieldError, WireFault};
pub use health::{Check, CheckResult, Checks};
pub use ids::{Ids, RandomIds, parse_id};
pub use limits::refuse_zero;
pub use page::{Page, PageRequest};
pub use secrets::{RandomSecrets, Secrets};
pub use security::SECURITY;
pub use timestamp::Timestamp;
pub use transaction::{inside_transaction, outside_transaction};
pub use urls::{check_url, without_password};
