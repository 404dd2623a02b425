//! The words every module uses. Light on purpose: no database, no web server, no transport.
//!
//! A word belongs here when two modules must mean the same by it: an amount of money, who is asking,
//! why something could not be answered, what travels in an event. Machinery lives in `durable` and `web`.

mod actor;
mod bus;
mod call;
mod clock;
mod country;
mod event;
mod fault;
mod ids;
mod money;
mod page;
mod secrets;
mod sku;
mod timestamp;
mod transaction;

pub use actor::{Actor, Role};
pub use bus::{Bus, Listener};
pub use call::{Call, TraceParent, timeout_from_header, timeout_to_header};
pub use clock::{Clock, SystemClock};
pub use country::Country;
pub use event::{Envelope, Event};
pub use fault::{Fault, FaultKind, FieldError, WireFault};
pub use ids::{Ids, RandomIds, parse_id};
pub use money::{Money, MoneyError};
pub use page::{Cursor, Page, PageRequest};
pub use secrets::{RandomSecrets, Secrets, without_password};
pub use sku::{Quantity, Sku};
pub use timestamp::Timestamp;
pub use transaction::{inside_transaction, outside_transaction};
