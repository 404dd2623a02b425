//! Replaces `mod.rs` in a binary without any module, a gateway alone: nothing is started, and there is no data.

use std::{collections::HashMap, marker::PhantomData, sync::Arc};

use anyhow::bail;
use banyan_core::{Bus, Check, Fault};
use banyan_event_feed_contract::EventFeed;
use banyan_http::Routes;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{MigrateOptions, Product, migrated::Migrated, settings::Settings, sources::Sources};

/// Forwarded as the module's own process sent it.
pub type Counts = serde_json::Value;

/// There is no module to start.
pub struct LocalModule<C>(PhantomData<C>);

/// No module has settings.
pub struct Configured<C>(PhantomData<C>);

/// # Errors
/// Never.
pub fn configure<C>(_: &'static Product<C>, _: &Settings) -> anyhow::Result<Configured<C>> {
    Ok(Configured(PhantomData))
}

/// # Errors
/// Never: a binary without modules has no data.
pub fn data_of(_: &Settings, _: &str) -> anyhow::Result<String> {
    Ok(String::new())
}

/// # Errors
/// Always: there is no module whose tables could be migrated.
pub async fn migrate<C>(_: &'static Product<C>, _: &Settings, _: &MigrateOptions) -> anyhow::Result<Migrated> {
    bail!("no module is in this binary, so it has no tables; use a binary with modules")
}

/// No module has commands.
pub fn commands<C>(_: &'static Product<C>) -> Vec<(&'static str, &'static str, &'static str)> {
    Vec::new()
}

/// # Errors
/// Always: there is no module that has commands.
pub async fn run_command<C>(
    _: &'static Product<C>,
    _: &Settings,
    module: &str,
    command: &str,
) -> anyhow::Result<String> {
    bail!("{module} has no command {command} in this binary")
}

pub struct LocalModules;

impl LocalModules {
    /// # Errors
    /// Never.
    pub async fn start<C>(
        _: &'static Product<C>,
        _: &Settings,
        _: Configured<C>,
        _: &Sources,
        _: &mut C,
    ) -> anyhow::Result<LocalModules> {
        Ok(LocalModules)
    }

    /// # Errors
    /// Always: there is no module whose data could be deleted.
    pub async fn reset<C>(_: &'static Product<C>, _: &Settings) -> anyhow::Result<()> {
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
