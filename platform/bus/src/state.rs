//! The state of the bus, for health checks and operators.

use banyan_core::Timestamp;
use serde::Serialize;

/// What carries events, and whether it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct BusState {
    /// `in_process` or `rabbitmq`.
    pub kind: String,
    /// Its connections to the broker; none in process.
    pub links: Vec<LinkState>,
}

/// One connection to the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct LinkState {
    /// `publishing`, or the module it receives for.
    pub link: String,
    pub connected: bool,
    /// Since when it is connected, or has been trying to.
    #[schema(value_type = i64)]
    pub since: Timestamp,
    /// Why it was lost, or could not be made, the last time.
    pub last_error: Option<String>,
}

impl BusState {
    /// The bus within a process, which is always available.
    pub fn in_process() -> Self {
        BusState {
            kind: "in_process".to_owned(),
            links: Vec::new(),
        }
    }

    /// A connection that is down.
    pub fn lost(&self) -> Option<&LinkState> {
        self.links.iter().find(|link| !link.connected)
    }

    /// Whether every connection is up.
    pub fn is_connected(&self) -> bool {
        self.lost().is_none()
    }
}
