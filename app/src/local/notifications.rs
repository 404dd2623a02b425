//! Starts notifications here.

use std::sync::Arc;

use notifications_contract::LocalNotifications;

use super::{Placed, data::open};
use crate::{rpc::Contracts, wiring::Ground};

pub async fn start(ground: &Ground, contracts: &mut Contracts) -> anyhow::Result<Placed> {
    let notifications = ::notifications::start(::notifications::Needs {
        db: open(ground, "notifications").await?,
        clock: ground.clock.clone(),
        ids: ground.ids.clone(),
        users: contracts.users.clone(),
        settings: ground.settings.section("notifications")?,
    })
    .await?;
    contracts.notifications = Arc::new(LocalNotifications(notifications.contract));
    Ok(Placed {
        name: "notifications",
        routes: notifications.routes,
        machinery: notifications.machinery,
        seed: notifications.seed,
        well_known: None,
    })
}
