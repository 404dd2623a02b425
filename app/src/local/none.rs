//! Stands in the place of `mod.rs` in a binary without any module, the edge alone: nothing is started, and there is no data.

use std::{collections::HashMap, sync::Arc};

use anyhow::bail;
use banyan_core::{Bus, Fault};
use banyan_event_feed_contract::EventFeed;
use banyan_http::Routes;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{config::Settings, health::Check, migrated::Migrated, rpc::Contracts, wiring::Ground};

/// Only passed on here, as the module's own process answered.
pub type Counts = serde_json::Value;

pub fn modules() -> Vec<&'static str> {
    Vec::new()
}

/// # Errors
/// Never: nothing is asked of a binary without modules.
pub fn data_of(_: &Settings, _: &str) -> anyhow::Result<String> {
    Ok(String::new())
}

/// # Errors
/// Always: there is no module whose tables could be brought up to date.
pub async fn migrate(_: &Settings, _: bool, _: bool) -> anyhow::Result<Migrated> {
    bail!("no module is in this binary, so it has no tables; use a binary with modules")
}

pub struct Local;

impl Local {
    /// # Errors
    /// Never.
    pub async fn start(_: &Ground, _: &mut Contracts) -> anyhow::Result<Local> {
        Ok(Local)
    }

    /// # Errors
    /// Always: there is no module whose data could be put in.
    pub async fn seed_only(_: &Ground, _: &mut Contracts, _: bool) -> anyhow::Result<()> {
        bail!("no module is in this binary, so it has no data; use a binary with modules")
    }

    pub fn routes(&self) -> Vec<(&'static str, Routes)> {
        Vec::new()
    }

    pub fn well_known(&self) -> Vec<(&'static str, Routes)> {
        Vec::new()
    }

    pub fn operations(&self) -> Routes {
        Routes::new(|_| {})
    }

    /// # Errors
    /// Always `not_found`.
    pub async fn counts(&self, _: &str) -> Result<Counts, Fault> {
        Err(Fault::not_found("module"))
    }

    pub fn feeds(&self) -> HashMap<String, Arc<dyn EventFeed>> {
        HashMap::new()
    }

    pub fn checks(&self) -> Vec<Arc<dyn Check>> {
        Vec::new()
    }

    /// # Errors
    /// Never.
    pub async fn connect(&self, _: &Arc<dyn Bus>) -> anyhow::Result<()> {
        Ok(())
    }

    pub fn run(
        &self,
        _: &Arc<dyn Bus>,
        _: &HashMap<String, Arc<dyn EventFeed>>,
        _: &CancellationToken,
    ) -> Vec<JoinHandle<()>> {
        Vec::new()
    }

    pub async fn close(&self) {}
}
