//! How notifications is started in this process.

use std::sync::Arc;

use banyan_host::{
    local::{LocalModule, ModuleContext, Start, StartedModule},
    settings::Section,
};
use notifications_contract::LocalNotifications;

use crate::shop::Contracts;

pub const MODULE: Option<LocalModule<Contracts>> = Some(LocalModule {
    schema: &::notifications::SCHEMA,
    also_stores: &[],
    commands: &[],
    configure,
});

fn configure(section: Section) -> anyhow::Result<Start<Contracts>> {
    let settings: ::notifications::Settings = section.read()?;
    Ok(Start::new(async move |context: ModuleContext, contracts: Contracts| {
        if !context.is_demo && settings.smtp_url.is_none() {
            tracing::warn!(
                "notifications.smtp_url is not set: mails are captured and shown by GET /api/v1/notifications, none is sent; nobody can reset a password or verify an email address"
            );
        }
        let notifications = ::notifications::start(::notifications::Needs {
            db: context.db,
            clock: context.clock,
            ids: context.ids,
            users: contracts.users,
            demo: context.is_demo,
            settings,
        })
        .await?;
        Ok(StartedModule {
            routes: notifications.routes,
            machinery: notifications.machinery,
            seed: notifications.seed,
            well_known: None,
            offer: Box::new(|contracts: &mut Contracts| {
                contracts.notifications = Arc::new(LocalNotifications(notifications.contract))
            }),
        })
    }))
}
