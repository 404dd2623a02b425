//! The time and the ids of a process: the same for all its modules.

use std::sync::Arc;

use banyan_core::{Clock, Ids, RandomIds, SystemClock};

/// The clock and the ids that all modules share.
#[derive(Clone)]
pub struct Sources {
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
}

impl Sources {
    /// The system's clock, and random ids.
    pub fn system() -> Self {
        Sources {
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
        }
    }
}
