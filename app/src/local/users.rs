//! How users is started in this process.

use std::sync::Arc;

use banyan_core::RandomSecrets;
use banyan_host::{
    local::{LocalModule, ModuleCommand, ModuleContext, Start, StartedModule},
    settings::Section,
};
use users_contract::LocalUsers;

use crate::shop::Contracts;

pub const MODULE: Option<LocalModule<Contracts>> = Some(LocalModule {
    schema: &::users::SCHEMA,
    also_stores: &[],
    commands: &[ModuleCommand {
        name: "reset-password",
        summary: "Gives the first operator the password in users.first_operator.password_file, and ends their sessions.",
        run: |section, context| Box::pin(reset_password(section, context)),
    }],
    configure,
});

fn configure(section: Section) -> anyhow::Result<Start<Contracts>> {
    let own: ::users::Settings = section.read()?;
    Ok(Start::new(async move |context: ModuleContext, _: Contracts| {
        let users = ::users::start(needs(context, own)).await?;
        Ok(StartedModule {
            routes: users.routes,
            machinery: users.machinery,
            seed: users.seed,
            well_known: Some(users.well_known),
            offer: Box::new(|contracts: &mut Contracts| contracts.users = Arc::new(LocalUsers(users.contract))),
        })
    }))
}

async fn reset_password(section: Section, context: ModuleContext) -> anyhow::Result<String> {
    ::users::reset_first_operator(needs(context, section.read()?)).await
}

fn needs(context: ModuleContext, own: ::users::Settings) -> ::users::Needs {
    ::users::Needs {
        db: context.db,
        clock: context.clock,
        ids: context.ids,
        secrets: Arc::new(RandomSecrets),
        demo: context.is_demo,
        // The settings of tokens are the same in all processes of the shop.
        settings: ::users::Settings {
            issuer: context.auth.issuer,
            audience: context.auth.audience,
            signing_key_file: context.auth.signing_key_file,
            ..own
        },
    }
}
