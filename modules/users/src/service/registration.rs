//! Registration.

use banyan_core::{Call, Fault, FaultKind};
use banyan_durable::outbox;
use shared_kernel::Role;

use super::{
    Service,
    account_mails::{in_response_time, queue},
    subject, user_registered,
};
use crate::{
    account_mail::Kind,
    fair_queue::Work,
    store,
    user::{Registration, User},
};

/// What a registration came to.
#[derive(Debug)]
pub enum Registered {
    User(Box<User>),
    /// A mail says how it goes on. Whether the address was new is known to who reads it.
    Mail,
}

impl Service {
    /// Registers a customer. `address` is the network address of the client.
    ///
    /// # Errors
    /// `invalid_password`; `email_taken`, unless addresses are verified; `too_many_registrations`; `unavailable` if too many requests wait for a password
    /// hash.
    pub async fn register(&self, call: &Call, registration: Registration, address: &str) -> Result<Registered, Fault> {
        // Before anything is looked up, so that it also limits how many addresses of users can be found out.
        self.registrations.check(address).map_err(too_many_registrations)?;
        registration
            .password
            .check_for(&registration.email, &self.settings.issuer, "/password")?;
        if self.settings.verify_email {
            let registered = in_response_time(self.register_unverified(call, registration, address));
            return registered.await.map(|()| Registered::Mail);
        }
        // A hash is expensive, so a taken address is refused before one is computed. The unique index decides in any case.
        if store::find_credentials(self.db.read(), &registration.email.lower())
            .await?
            .is_some()
        {
            return Err(store::email_taken());
        }
        let (user, hash) = self.new_customer(registration, address).await?;
        let context = (call.clone(), user.clone(), hash);
        self.db
            .write(context, |tx, (call, user, hash)| async move {
                store::insert_user(tx.conn(), &user, &hash).await?;
                outbox::append(&tx, &call, &subject(user.id), &user_registered(&user, false))
                    .await
                    .map(drop)
            })
            .await?;
        Ok(Registered::User(Box::new(user)))
    }

    /// For a new address and a known one it does the same work: a hash and a transaction. Who reads the mails of the address gets one in any case.
    async fn register_unverified(&self, call: &Call, registration: Registration, address: &str) -> Result<(), Fault> {
        let (user, hash) = self.new_customer(registration, address).await?;
        let now = self.clock.now();
        let context = (call.clone(), user, hash);
        self.db
            .write(context, move |tx, (call, user, hash)| async move {
                let found = store::find_credentials(tx.conn(), &user.email.lower()).await?;
                let Some((known, _)) = found else {
                    store::insert_user(tx.conn(), &user, &hash)
                        .await
                        .map_err(taken_meanwhile)?;
                    outbox::append(&tx, &call, &subject(user.id), &user_registered(&user, true)).await?;
                    let mail = (Kind::EmailVerification, &user, user.email.as_str());
                    return queue(&tx, &call, mail, now).await.map(drop);
                };
                let locked = store::lock_credentials(tx.conn(), known.id).await?;
                let Some((known, _)) = locked.filter(|(known, _)| known.disabled_at.is_none()) else {
                    return Ok(());
                };
                let kind = match known.email_verified_at {
                    None => Kind::EmailVerification,
                    Some(_) => Kind::AlreadyRegistered,
                };
                queue(&tx, &call, (kind, &known, known.email.as_str()), now)
                    .await
                    .map(drop)
            })
            .await
    }

    async fn new_customer(&self, registration: Registration, address: &str) -> Result<(User, String), Fault> {
        let slot = self.hasher.slot(Work::Registration, address).await?;
        let hash = slot.hash(registration.password.secret()).await?;
        drop(slot);
        let user = User::register(
            self.ids.new_id(),
            registration.email,
            registration.name,
            vec![Role::Customer],
            self.clock.now(),
        );
        Ok((user, hash))
    }
}

/// The transaction then runs again and finds the user who was faster.
fn taken_meanwhile(fault: Fault) -> Fault {
    match fault.code.as_str() {
        "email_taken" => banyan_durable::lost_race("somebody else registered the address meanwhile"),
        _ => fault,
    }
}

fn too_many_registrations(limited: Fault) -> Fault {
    let detail = "Too many registrations from this network address. Wait before you try again.";
    let fault = Fault::new(FaultKind::TooMany, "too_many_registrations", detail);
    match limited.retry_after {
        Some(wait) => fault.retry_after(wait),
        None => fault,
    }
}
