//! Where new ids come from, and how ids from outside are read.

use std::fmt::Debug;

use uuid::Uuid;

use crate::Fault;

/// The only way a module obtains something random. Ids are UUIDv7 (RFC 9562), so they sort by the time of their making.
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

/// Reads an id that came as text in a contract message.
///
/// # Errors
/// `invalid_id`, naming the field, if it is no UUID.
pub fn parse_id(field: &str, text: &str) -> Result<Uuid, Fault> {
    Uuid::parse_str(text).map_err(|_| {
        Fault::invalid("invalid_id", format!("{field} must be a UUID")).at(format!("/{field}"), "must be a UUID")
    })
}
