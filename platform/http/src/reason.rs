//! The reason that every operator's action needs.

use serde::Deserialize;
use utoipa::ToSchema;

/// Why an operator does something. It goes into the audit log.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// Why, in a word or two.
    #[schema(min_length = 1, max_length = 200, example = "provider is back")]
    pub reason: String,
    /// Whatever else a reader of the audit log should know.
    #[schema(min_length = 1, max_length = 2000, example = "ticket 4711")]
    pub comment: Option<String>,
}
