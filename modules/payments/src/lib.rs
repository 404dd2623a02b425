//! Payments: authorise, capture, void and refund the money of orders, through a provider whose answer may never come.
//!
//! - The rules are pure: [`payment`](mod@payment) (what may happen), [`ledger`] (double entry).
//! - A command goes through two transactions with the provider's call between them: `begin.rs` (started), `calls.rs`, `record.rs` (answered).
//!   RELIABILITY.md, Money commands in payments, says why.
//! - `sandbox/` is a provider that needs no account; it keeps its own books.
//!
//! Invariant: no provider call inside a transaction, and no answer of the provider recorded anywhere but in `record.rs`.

mod begin;
mod calls;
mod command;
mod http;
mod ledger;
mod payment;
mod provider;
mod reconcile;
mod record;
mod sandbox;
mod schema;
mod service;
mod settings;
mod store;
mod webhook;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use banyan_core::{Clock, Ids, Secrets};
use banyan_durable::{Db, Machinery, Seed, Storage};
use banyan_http::Routes;
use payments_contract::Payments;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

pub use crate::{
    provider::Totals,
    reconcile::{Books, Comparison},
    schema::SCHEMA,
    settings::{SandboxSettings, Settings},
};
use crate::{
    sandbox::{Delivery, Sandbox},
    service::Service,
};

/// Who moves the money.
#[derive(Clone, Debug)]
pub enum ProviderPlace {
    /// The built-in provider, with its own books at this place: its own file or schema.
    Sandbox { books: Storage },
}

/// What payments needs.
pub struct Needs {
    pub db: Db,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    /// For the sandbox provider's webhooks, if no secret is set.
    pub secrets: Arc<dyn Secrets>,
    pub provider: ProviderPlace,
    pub settings: Settings,
}

/// What payments offers.
pub struct Offers {
    pub contract: Arc<dyn Payments>,
    pub routes: Routes,
    pub machinery: Machinery,
    pub seed: Seed,
    /// For auditors and tests: our books beside the provider's.
    pub books: Books,
}

/// Starts the module; its migrations have already run. The sandbox provider makes its own tables.
///
/// # Errors
/// If the provider's books cannot be opened.
pub async fn start(needs: Needs) -> anyhow::Result<Offers> {
    let Needs {
        db,
        clock,
        ids,
        secrets,
        provider,
        settings,
    } = needs;
    let ProviderPlace::Sandbox { books } = provider;
    let (sandbox, deliveries) = Sandbox::open(&books, settings.clone(), clock, ids, secrets.as_ref()).await?;
    let service = Arc::new(Service::new(db.clone(), Arc::new(sandbox), settings));
    let deliveries = Arc::new(Mutex::new(deliveries));
    let (hears, reconciles) = (service.clone(), service.clone());
    let machinery = Machinery::new(db)
        .worker("sandbox-webhooks", move |stop| {
            hear_sandbox(hears.clone(), deliveries.clone(), stop)
        })
        .worker("payments-reconciler", move |stop| {
            reconcile::run(reconciles.clone(), stop)
        });
    Ok(Offers {
        routes: http::routes(service.clone()),
        machinery,
        // Payments come from orders alone; there is nothing to seed.
        seed: Arc::new(|| Box::pin(async { Ok(()) })),
        books: Books::new(service.clone()),
        contract: service,
    })
}

/// Hears the sandbox provider's webhooks, by the same way as `POST /payments/webhooks/sandbox`.
async fn hear_sandbox(
    service: Arc<Service>,
    deliveries: Arc<Mutex<mpsc::Receiver<Delivery>>>,
    stop: CancellationToken,
) {
    let mut deliveries = deliveries.lock().await;
    loop {
        let delivery = tokio::select! {
            delivery = deliveries.recv() => delivery,
            () = stop.cancelled() => return,
        };
        let Some(Delivery { signature, body }) = delivery else {
            // The provider is gone with the service; nothing will come any more.
            stop.cancelled().await;
            return;
        };
        if let Err(fault) = service.hear_webhook(sandbox::NAME, &signature, &body).await {
            tracing::warn!(%fault, "a webhook of the sandbox provider was not heard; the reconciler does without");
        }
    }
}
