//! Where new ids come from, and how ids from outside are parsed.

use std::fmt::Debug;

use uuid::Uuid;

use crate::Fault;

/// The only source of ids in a module. Ids are UUIDv7 (RFC 9562), so they sort by the time they were made.
pub trait Ids: Send + Sync + Debug {
    fn new_id(&self) -> Uuid;
}

#[derive(Debug, Default, Clone, Copy)]
pub struct RandomIds;

impl Ids for RandomIds {
    fn new_id(&self) -> Uuid {
        Uuid::now_v7()
    }
}

/// Parses an id in a contract message.
///
/// # Errors
/// `invalid_id`, naming the field, if it is not a UUID.
pub fn parse_id(field: &str, text: &str) -> Result<Uuid, Fault> {
    Uuid::parse_str(text).map_err(|_| {
        Fault::invalid("invalid_id", format!("{field} must be a UUID")).at(format!("/{field}"), "must be a UUID")
    })
}
