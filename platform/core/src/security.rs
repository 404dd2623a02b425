//! Security events: what an operator wants to see of who came in, who was refused, and whose rights changed.

/// The target of the security events in the log. Each has the field `event`; docs/how-to/production.md lists them with their other fields.
pub const SECURITY: &str = "security";
