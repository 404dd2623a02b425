//! Users: accounts, log-ins, roles.
//!
//! Registers customers, opens sessions, and signs the access tokens that every service verifies by itself with this module's public keys.
//!
//! Invariant: passwords, refresh tokens and private keys never leave this module; events contain no email addresses.

mod account_mail;
mod common_passwords;
mod email;
mod fair_queue;
mod hasher;
mod http;
mod keys;
mod operators;
mod password;
mod person_name;
mod schema;
mod security;
mod seed;
mod service;
mod session;
mod settings;
mod store;
mod throttle;
mod user;

use std::{pin::Pin, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use banyan_core::{Clock, Ids, Secrets};
use banyan_durable::{Db, Machinery, Seed};
use banyan_http::rate_limit::Limiter;
use users_contract::Users;

use hasher::Hasher;
use service::Service;

pub use schema::SCHEMA;
pub use settings::Settings;

/// The interval between clean-ups of expired sessions and mails.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// The default limits on the registrations, and on the requests for mails, of one network address. A demo is filled by tests and measurements.
const DEMO_REGISTRATIONS_PER_HOUR: u32 = 1_000_000;
const PROD_REGISTRATIONS_PER_HOUR: u32 = 60;

/// What the module requires.
pub struct Needs {
    /// Its own database, migrated.
    pub db: Db,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    /// The source of tokens, salts and keys.
    pub secrets: Arc<dyn Secrets>,
    /// Whether the demo users, whose passwords are public, may exist.
    pub demo: bool,
    pub settings: Settings,
}

/// What the module provides.
pub struct Offers {
    pub contract: Arc<dyn Users>,
    /// Relative to `/api/v1`.
    pub routes: banyan_http::Routes,
    /// Relative to `/`: `/.well-known/jwks.json`.
    pub well_known: banyan_http::Routes,
    /// The clean-up of expired sessions.
    pub machinery: Machinery,
    /// Creates the demo users.
    pub seed: Seed,
    /// Gives the first operator of the settings the password in their file, and ends their sessions; says what was done, in a sentence. It fails
    /// without a first operator in the settings, with an unsuitable password, and for somebody who is no operator.
    pub reset_first_operator: Box<dyn FnOnce() -> Done + Send>,
}

/// What a command did, in a sentence.
type Done = Pin<Box<dyn Future<Output = anyhow::Result<String>> + Send>>;

/// Starts the module. At its first start it generates a signing key, unless the settings name one.
///
/// # Errors
/// Invalid settings, unreadable key files, an unavailable database, or demo users in a shop that is not a demo.
pub async fn start(needs: Needs) -> anyhow::Result<Offers> {
    let demo = needs.demo;
    let service = Arc::new(build(needs).await?);
    ensure!(
        demo || !seed::has_demo_users(&service.db).await?,
        "this data has the demo users, whose passwords everybody knows; start with data of its own (data_dir, database.url), or with the profile demo"
    );
    if let Some(first) = &service.settings.first_operator {
        seed::add_first_operator(&service, first).await?;
    }
    let (cleaner, seeder, resetter) = (service.clone(), service.clone(), service.clone());
    let machinery = Machinery::new(service.db.clone()).worker("forget_expired_sessions", move |stop| {
        let service = cleaner.clone();
        async move {
            while !stop.is_cancelled() {
                service.delete_expired().await;
                let _ = tokio::time::timeout(CLEANUP_INTERVAL, stop.cancelled()).await;
            }
        }
    });
    Ok(Offers {
        contract: service.clone(),
        routes: http::routes(service.clone()),
        well_known: http::well_known(service),
        machinery,
        seed: Arc::new(move || Box::pin(seed::add_demo_users(seeder.clone()))),
        reset_first_operator: Box::new(move || Box::pin(reset_first_operator(resetter))),
    })
}

async fn reset_first_operator(service: Arc<Service>) -> anyhow::Result<String> {
    let first = service.settings.first_operator.as_ref().context(
        "users.first_operator is not set: set users.first_operator.email to the operator's address and users.first_operator.password_file to a file with the new password",
    )?;
    seed::reset_first_operator(&service, first).await
}

async fn build(needs: Needs) -> anyhow::Result<Service> {
    let Needs {
        db,
        clock,
        ids,
        secrets,
        settings,
        demo,
    } = needs;
    ensure!(
        !settings.issuer.is_empty() && !settings.audience.is_empty(),
        "the issuer and the audience of access tokens must not be empty"
    );
    ensure!(
        (1..=86_400).contains(&settings.access_token_seconds),
        "access_token_seconds must be within 1..=86400"
    );
    ensure!(
        (1..=3_650).contains(&settings.refresh_token_days),
        "refresh_token_days must be within 1..=3650"
    );
    ensure!(
        (1..=3_650).contains(&settings.session_days),
        "users.session_days is {}; it must be within 1..=3650 days",
        settings.session_days
    );
    let hasher = Hasher::new(&settings, secrets.clone())?;
    let [registrations, mail_requests] = [(); 2].map(|()| address_limiter(&settings, demo));
    let keys = keys::load(&db, &settings, secrets.as_ref()).await?;
    Ok(Service {
        db,
        clock,
        ids,
        secrets,
        hasher,
        registrations,
        mail_requests,
        keys,
        settings,
    })
}

/// A limit on the registrations, or the requests for mails, of each network address: half of those of an hour at once.
fn address_limiter(settings: &Settings, demo: bool) -> Limiter {
    let per_hour = match settings.address_registrations_per_hour {
        0 if demo => DEMO_REGISTRATIONS_PER_HOUR,
        0 => PROD_REGISTRATIONS_PER_HOUR,
        per_hour => per_hour,
    };
    Limiter::new(Duration::from_secs(60 * 60) / per_hour, per_hour.div_ceil(2))
}
