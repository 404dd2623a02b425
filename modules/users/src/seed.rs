//! Users created at start: those of the demo, and the first operator of a real shop.

use std::sync::Arc;

use anyhow::{Context, ensure};
use banyan_core::{Call, Fault};
use banyan_durable::{Command, Db, Outcome, outbox};
use shared_kernel::Role;
use uuid::Uuid;

use crate::{
    email::EmailAddress,
    password::Password,
    person_name::PersonName,
    service::{self, Service},
    settings::FirstOperator,
    store,
    user::User,
};

const DEMO_PASSWORD: &str = "banyan-demo";
const DEMO: [(&str, &str, Role); 3] = [
    ("demo@banyan.example", "Demo Customer", Role::Customer),
    ("staff@banyan.example", "Demo Staff", Role::Staff),
    ("ops@banyan.example", "Demo Operator", Role::Ops),
];

fn demo_command() -> Command {
    Command::new("seed", "demo_users", b"1")
}

/// Whether the demo users were ever created.
pub async fn has_demo_users(db: &Db) -> Result<bool, Fault> {
    Ok(banyan_durable::recall::<serde_json::Value>(db, &demo_command())
        .await?
        .is_some())
}

/// Creates the demo users, once.
pub async fn add_demo_users(service: Arc<Service>) -> Result<(), Fault> {
    let command = demo_command();
    // Checked first, because hashing passwords would take most of the time of a second start.
    if banyan_durable::recall::<()>(&service.db, &command).await?.is_some() {
        return Ok(());
    }
    let password = Password::parse(DEMO_PASSWORD)?;
    let mut users = Vec::with_capacity(DEMO.len());
    for (email, name, role) in DEMO {
        // Derived from the email address, so that the demo data of every module can name the same user without a call.
        let id = Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("banyan:user:{email}").as_bytes());
        users.push((
            new_user(&service, id, email, name, vec![role])?,
            service.hasher.own_slot().await?.hash(password.secret()).await?,
        ));
    }
    insert(&service, command, users).await
}

/// Creates the first operator, unless there is a user with this email address: registering the address must not grant the role.
pub async fn add_first_operator(service: &Service, first: &FirstOperator) -> anyhow::Result<()> {
    let email = EmailAddress::parse(&first.email).context("users.first_operator.email")?;
    let command = Command::new("seed", format!("first_operator:{}", email.lower()), b"1");
    if banyan_durable::recall::<()>(&service.db, &command).await?.is_some() {
        return Ok(());
    }
    if store::find_credentials(service.db.read(), &email.lower())
        .await?
        .is_some()
    {
        tracing::warn!(%email, "users.first_operator names a user who exists already; their roles stay as they are");
        return Ok(());
    }
    let password = read_password(first, &email, service).await?;
    let user = new_user(
        service,
        service.ids.new_id(),
        email.as_str(),
        "Operator",
        vec![Role::Staff, Role::Ops],
    )?;
    let hash = service.hasher.own_slot().await?.hash(password.secret()).await?;
    insert(service, command, vec![(user, hash)]).await?;
    Ok(())
}

/// Gives the first operator the password in their file, and ends their sessions.
pub async fn reset_first_operator(service: &Service, first: &FirstOperator) -> anyhow::Result<String> {
    let email = EmailAddress::parse(&first.email).context("users.first_operator.email")?;
    let password = read_password(first, &email, service).await?;
    let hash = service.hasher.own_slot().await?.hash(password.secret()).await?;
    let found = store::find_credentials(service.db.read(), &email.lower()).await?;
    let (user, _) = found.with_context(|| {
        format!("nobody has the address {email} of users.first_operator.email; a start of the server creates this user")
    })?;
    ensure!(
        user.roles.contains(&Role::Ops),
        "{email} of users.first_operator.email is not an operator, so their password stays as it is"
    );
    service.reset_password(user.id, hash).await?;
    let disabled = if user.disabled_at.is_some() {
        " The account is disabled: another operator must enable it."
    } else {
        ""
    };
    Ok(format!(
        "{email} has the password in {}; their sessions have ended.{disabled}",
        first.password_file.display()
    ))
}

async fn read_password(first: &FirstOperator, email: &EmailAddress, service: &Service) -> anyhow::Result<Password> {
    let path = first.password_file.display();
    let password = tokio::fs::read_to_string(&first.password_file)
        .await
        .with_context(|| format!("reading the password in {path}"))?;
    let unsuitable = || format!("the password in {path} (users.first_operator.password_file)");
    let password = Password::parse(password.trim_end_matches(['\r', '\n'])).with_context(unsuitable)?;
    let checked = password.check_for(email, &service.settings.issuer, "/password");
    checked.with_context(unsuitable)?;
    Ok(password)
}

fn new_user(service: &Service, id: Uuid, email: &str, name: &str, roles: Vec<Role>) -> Result<User, Fault> {
    let now = service.clock.now();
    Ok(User {
        // Whoever runs the shop has named it.
        email_verified_at: Some(now),
        ..User::register(id, EmailAddress::parse(email)?, PersonName::parse(name)?, roles, now)
    })
}

/// Creates a user with these roles, for tests.
#[cfg(test)]
pub async fn add_user(service: &Service, email: &str, password: &str, roles: Vec<Role>) -> Result<Uuid, Fault> {
    let user = new_user(service, service.ids.new_id(), email, "Somebody", roles)?;
    let (id, hash) = (user.id, service.hasher.own_slot().await?.hash(&password.into()).await?);
    insert(
        service,
        Command::new("seed", email.to_owned(), b"1"),
        vec![(user, hash)],
    )
    .await?;
    Ok(id)
}

/// Inserts the users whose email address is not taken.
async fn insert(service: &Service, command: Command, users: Vec<(User, String)>) -> Result<(), Fault> {
    banyan_durable::once(&service.db, command, users, |tx, users| async move {
        let call = Call::by_module("users");
        for (user, hash) in &users {
            if store::find_credentials(tx.conn(), &user.email.lower()).await?.is_none() {
                store::insert_user(tx.conn(), user, hash).await?;
                outbox::append(
                    &tx,
                    &call,
                    &service::subject(user.id),
                    &service::user_registered(user, false),
                )
                .await?;
            }
        }
        Ok(Outcome::Done(()))
    })
    .await
    .map(drop)
}
