//! Payments: authorise, capture, void and refund the money of orders, through a provider that may never respond.
//!
//! - The rules are pure: [`payment`](mod@payment) (what may happen), [`ledger`] (double entry).
//! - A command goes through two transactions with the provider's call between them: `commands/begin.rs` (started), `commands/calls.rs`,
//!   `commands/record.rs` (completed). RELIABILITY.md, Money commands in payments, says why.
//! - `books/` compares our books with the provider's.
//! - `sandbox/` is a provider that needs no account; it keeps its own books.
//!
//! Architecture invariant: no provider call inside a transaction, and no response of the provider recorded anywhere but in `commands/record.rs`.

mod books;
mod commands;
mod http;
mod ledger;
mod payment;
mod provider;
mod reconcile;
mod sandbox;
mod schema;
mod service;
mod settings;
mod store;
mod timing;
mod webhook;

use std::sync::Arc;

use banyan_core::{Clock, Ids, Secrets};
use banyan_durable::{Db, Machinery, Seed};
use banyan_http::Routes;
use payments_contract::Payments;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

pub use crate::{
    books::{Books, Comparison},
    provider::{ProviderConfig, Totals},
    schema::SCHEMA,
    settings::{SandboxSettings, Settings},
    timing::Timing,
};
use crate::{
    sandbox::{Sandbox, SignedWebhook},
    service::Service,
};

/// What payments needs.
pub struct Needs {
    pub db: Db,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    /// For the sandbox provider's webhooks, if no secret is set.
    pub secrets: Arc<dyn Secrets>,
    pub provider: ProviderConfig,
    pub settings: Settings,
    pub timing: Timing,
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

/// Starts the module; its migrations have already run. The sandbox provider creates its own tables.
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
        timing,
    } = needs;
    let ProviderConfig::Sandbox { books } = provider;
    let (sandbox, webhooks) =
        Sandbox::open(&books, db.settings(), &settings, timing, clock, ids, secrets.as_ref()).await?;
    let sandbox_books = sandbox.books().clone();
    let service = Arc::new(Service::new(db.clone(), Arc::new(sandbox), settings, timing));
    let webhooks = Arc::new(Mutex::new(webhooks));
    let (receiver, reconciler, comparer) = (service.clone(), service.clone(), service.clone());
    let machinery = Machinery::new(db)
        .further(sandbox_books)
        .worker("sandbox-webhooks", move |stop| {
            receive_sandbox_webhooks(receiver.clone(), webhooks.clone(), stop)
        })
        .worker("payments-reconciler", move |stop| {
            reconcile::run(reconciler.clone(), stop)
        })
        .worker("payments-books", move |stop| books::run(comparer.clone(), stop));
    Ok(Offers {
        routes: http::routes(service.clone()),
        machinery,
        // Payments come from orders alone; there is nothing to seed.
        seed: Arc::new(|| Box::pin(async { Ok(()) })),
        books: Books::new(service.clone()),
        contract: service,
    })
}

/// Receives the sandbox provider's webhooks, as `POST /payments/webhooks/sandbox` does.
async fn receive_sandbox_webhooks(
    service: Arc<Service>,
    webhooks: Arc<Mutex<mpsc::Receiver<SignedWebhook>>>,
    stop: CancellationToken,
) {
    let mut webhooks = webhooks.lock().await;
    loop {
        let webhook = tokio::select! {
            webhook = webhooks.recv() => webhook,
            () = stop.cancelled() => return,
        };
        let Some(SignedWebhook { signature, body }) = webhook else {
            // The provider was dropped with the service: no webhook will follow.
            stop.cancelled().await;
            return;
        };
        if let Err(fault) = service.receive_webhook(sandbox::NAME, &signature, &body).await {
            tracing::warn!(%fault, "a webhook of the sandbox provider could not be recorded; the reconciler finds the outcome");
        }
    }
}
