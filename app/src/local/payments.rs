//! Starts payments here.

use std::sync::Arc;

use banyan_core::RandomSecrets;
use payments_contract::LocalPayments;

use super::{
    Placed,
    data::{SANDBOX_PROVIDER, open, place},
};
use crate::{rpc::Contracts, wiring::Ground};

pub async fn start(ground: &Ground, contracts: &mut Contracts) -> anyhow::Result<Placed> {
    let payments = ::payments::start(::payments::Needs {
        db: open(ground, "payments").await?,
        clock: ground.clock.clone(),
        ids: ground.ids.clone(),
        secrets: Arc::new(RandomSecrets),
        provider: ::payments::ProviderConfig::Sandbox {
            books: place(&ground.settings, SANDBOX_PROVIDER)?,
        },
        settings: ground.settings.section("payments")?,
        timing: ::payments::Timing::default(),
    })
    .await?;
    contracts.payments = Arc::new(LocalPayments(payments.contract));
    Ok(Placed {
        name: "payments",
        routes: payments.routes,
        machinery: payments.machinery,
        seed: payments.seed,
        well_known: None,
    })
}
