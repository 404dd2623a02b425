//! How payments is started in this process.

use std::sync::Arc;

use anyhow::{Context, ensure};
use banyan_core::RandomSecrets;
use banyan_host::{
    local::{LocalModule, ModuleContext, Start, StartedModule},
    settings::Section,
};
use payments_contract::LocalPayments;

use crate::shop::Contracts;

/// The storage of the built-in payment provider, separate from every module.
const SANDBOX_PROVIDER: &str = "sandbox_provider";

pub const MODULE: Option<LocalModule<Contracts>> = Some(LocalModule {
    schema: &::payments::SCHEMA,
    also_stores: &[SANDBOX_PROVIDER],
    commands: &[],
    configure,
});

fn configure(section: Section) -> anyhow::Result<Start<Contracts>> {
    let is_demo = section.is_demo();
    let settings: ::payments::Settings = section.read()?;
    ensure!(
        is_demo || settings.allow_sandbox,
        "payments has only the built-in sandbox provider, which moves no real money, and the profile prod refuses it; set \
         payments.allow_sandbox = true (BANYAN__PAYMENTS__ALLOW_SANDBOX) for a trial run"
    );
    Ok(Start::new(async move |context: ModuleContext, _: Contracts| {
        if !context.is_demo {
            tracing::warn!("payments go to the built-in sandbox provider: no real money moves");
        }
        let books = context
            .also_stores
            .into_iter()
            .next()
            .context("the provider's storage")?;
        let payments = ::payments::start(::payments::Needs {
            db: context.db,
            clock: context.clock,
            ids: context.ids,
            secrets: Arc::new(RandomSecrets),
            provider: ::payments::ProviderConfig::Sandbox { books },
            settings,
            timing: ::payments::Timing::default(),
        })
        .await?;
        Ok(StartedModule {
            routes: payments.routes,
            machinery: payments.machinery,
            seed: payments.seed,
            well_known: None,
            offer: Box::new(|contracts: &mut Contracts| {
                contracts.payments = Arc::new(LocalPayments(payments.contract))
            }),
        })
    }))
}
