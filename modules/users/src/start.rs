//! What the module needs, what it offers, and how the one becomes the other.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use banyan_core::{Clock, Ids, Secrets};
use banyan_durable::{Db, Machinery, Seed};
use users_contract::Users;

use crate::{
    Settings, http,
    keys::{self, Keys, SigningKey},
    password::Hasher,
    seed,
    service::Service,
    store,
};

/// How often expired sessions are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(60 * 60);

pub struct Needs {
    pub db: Db,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    /// Tokens, salts and keys are made of these.
    pub secrets: Arc<dyn Secrets>,
    /// Whether users with known passwords may be there.
    pub demo: bool,
    pub settings: Settings,
}

pub struct Offers {
    pub contract: Arc<dyn Users>,
    /// Relative to `/api/v1`.
    pub routes: banyan_http::Routes,
    /// Relative to `/`: `/.well-known/jwks.json`.
    pub well_known: banyan_http::Routes,
    pub machinery: Machinery,
    pub seed: Seed,
}

/// Starts the module; its migrations have run. Makes a signing key at the first start, unless the settings name one.
///
/// # Errors
/// Settings that cannot be, key files that cannot be read, a database that does not answer, demo users where none may be.
pub async fn start(needs: Needs) -> anyhow::Result<Offers> {
    let demo = needs.demo;
    let service = Arc::new(build(needs).await?);
    ensure!(
        demo || !seed::has_demo_users(&service.db).await?,
        "this data has the demo users, whose passwords everybody knows; start with data of its own (data_dir, database.url), or with the profile demo"
    );
    if let Some(first) = &service.settings.first_operator {
        seed::first_operator(&service, first).await?;
    }
    let (forgetting, seeding) = (service.clone(), service.clone());
    let machinery = Machinery::new(service.db.clone()).worker("forget_expired_sessions", move |stop| {
        let service = forgetting.clone();
        async move {
            while !stop.is_cancelled() {
                forget_expired(&service).await;
                let _ = tokio::time::timeout(FORGET_EVERY, stop.cancelled()).await;
            }
        }
    });
    Ok(Offers {
        contract: service.clone(),
        routes: http::routes(service.clone()),
        well_known: http::well_known(service),
        machinery,
        seed: Arc::new(move || Box::pin(seed::demo_users(seeding.clone()))),
    })
}

pub(crate) async fn build(needs: Needs) -> anyhow::Result<Service> {
    let Needs {
        db,
        clock,
        ids,
        secrets,
        settings,
        ..
    } = needs;
    ensure!(
        !settings.issuer.is_empty() && !settings.audience.is_empty(),
        "the issuer and the audience of access tokens need a name"
    );
    ensure!(
        (1..=86_400).contains(&settings.access_token_seconds),
        "access_token_seconds must be within 1..=86400"
    );
    ensure!(
        (1..=3_650).contains(&settings.refresh_token_days),
        "refresh_token_days must be within 1..=3650"
    );
    let hasher = Hasher::new(&settings, secrets.clone())?;
    let keys = load_keys(&db, &settings, secrets.as_ref()).await?;
    Ok(Service {
        db,
        clock,
        ids,
        secrets,
        hasher,
        keys,
        settings,
    })
}

async fn load_keys(db: &Db, settings: &Settings, secrets: &dyn Secrets) -> anyhow::Result<Keys> {
    let mut believed = Vec::new();
    for path in &settings.verifying_key_files {
        let pem = keys::read_pem(path).await?;
        believed.push(keys::public_key_of_pem(&pem).with_context(|| path.display().to_string())?);
    }
    if let Some(path) = &settings.signing_key_file {
        let pem = keys::read_pem(path).await?;
        return Ok(Keys::new(
            SigningKey::from_pem(&pem).with_context(|| path.display().to_string())?,
            believed,
        ));
    }
    let (signing, retired) = own_keys(db, secrets).await?;
    believed.extend(retired.into_iter().map(|key| key.public));
    Ok(Keys::new(signing, believed))
}

/// The keys kept in the module's own database. The first instance that finds none makes one.
async fn own_keys(db: &Db, secrets: &dyn Secrets) -> anyhow::Result<(SigningKey, Vec<SigningKey>)> {
    let kept = store::list_signing_seeds(db.read()).await?;
    let kept = if kept.is_empty() {
        make_key(db, secrets).await?
    } else {
        kept
    };
    let mut keys = Vec::with_capacity(kept.len());
    for seed in kept {
        keys.push(SigningKey::from_seed(&keys::seed_from_text(&seed)?)?);
    }
    let signing = if keys.is_empty() { None } else { Some(keys.remove(0)) };
    Ok((signing.context("no signing key was kept")?, keys))
}

async fn make_key(db: &Db, secrets: &dyn Secrets) -> anyhow::Result<Vec<String>> {
    let seed = secrets.new_secret()?;
    let (kid, seed) = (SigningKey::from_seed(&seed)?.public.kid, keys::seed_to_text(&seed));
    let kept = db.write((kid, seed), |tx, (kid, seed)| async move {
        if store::list_signing_seeds(tx.conn()).await?.is_empty() {
            store::insert_signing_key(tx.conn(), &kid, &seed, tx.clock().now()).await?;
        }
        store::list_signing_seeds(tx.conn()).await
    });
    Ok(kept.await?)
}

/// What has not gone this time goes the next.
async fn forget_expired(service: &Service) {
    loop {
        let now = service.clock.now();
        match service
            .db
            .write(
                (),
                move |tx, ()| async move { store::forget_expired(tx.conn(), now).await },
            )
            .await
        {
            Ok(0) => return,
            Ok(_) => {}
            Err(fault) => {
                tracing::warn!(%fault, "expired sessions could not be forgotten");
                return;
            }
        }
    }
}
