//! Starts users here.

use std::sync::Arc;

use banyan_core::RandomSecrets;
use users_contract::LocalUsers;

use super::{Placed, data::open};
use crate::{config::Settings, rpc::Contracts, wiring::Ground};

pub async fn start(ground: &Ground, contracts: &mut Contracts) -> anyhow::Result<Placed> {
    let users = ::users::start(::users::Needs {
        db: open(ground, "users").await?,
        clock: ground.clock.clone(),
        ids: ground.ids.clone(),
        secrets: Arc::new(RandomSecrets),
        demo: ground.settings.is_demo(),
        settings: own_settings(&ground.settings)?,
    })
    .await?;
    contracts.users = Arc::new(LocalUsers(users.contract));
    Ok(Placed {
        name: "users",
        routes: users.routes,
        machinery: users.machinery,
        seed: users.seed,
        well_known: Some(users.well_known),
    })
}

/// The module's own section, and what the whole shop says about tokens.
fn own_settings(settings: &Settings) -> anyhow::Result<::users::Settings> {
    let mut own: ::users::Settings = settings.section("users")?;
    own.issuer.clone_from(&settings.auth.issuer);
    own.audience.clone_from(&settings.auth.audience);
    own.signing_key_file.clone_from(&settings.auth.signing_key_file);
    Ok(own)
}
