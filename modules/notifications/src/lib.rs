//! Notifications: mails to users about their orders, payments and accounts.
//!
//! An event of another module becomes a queued mail in the transaction that receives it. A worker looks up the address at `Users` when it sends,
//! so addresses stay out of events. SMTP delivers at least once: a mail with an unknown outcome is sent again under the same Message-ID. Without
//! a mail server mails are captured: composed, stored and shown to their user, but not sent.

mod http;
mod mail_worker;
mod mailer;
mod notification;
mod reactions;
mod schema;
mod service;
mod settings;
mod store;
mod templates;

use std::{sync::Arc, time::Duration};

use banyan_core::{Clock, Ids};
use notifications_contract::Notifications;
use users_contract::Users;

use mail_worker::MailWorker;
use mailer::Mailer;
use service::Service;

pub use schema::SCHEMA;
pub use settings::Settings;

/// A notification stands in its user's list for 90 days, and is then deleted: the mail itself is with the user, and nobody reads a list of last year.
const KEPT_FOR: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// The number of mails deleted in one transaction, so that those to be sent never wait long for it.
const DELETED_AT_ONCE: u64 = 500;

/// What the module requires.
pub struct Needs {
    /// Its own database, migrated.
    pub db: banyan_durable::Db,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    /// The source of email addresses.
    pub users: Arc<dyn Users>,
    /// Whether the tokens of captured mails may be logged.
    pub demo: bool,
    pub settings: Settings,
}

/// What the module provides.
pub struct Offers {
    pub contract: Arc<dyn Notifications>,
    pub routes: banyan_http::Routes,
    /// The reactions to events, and the worker that sends mails.
    pub machinery: banyan_durable::Machinery,
    /// Does nothing: notifications result from events.
    pub seed: banyan_durable::Seed,
}

/// Starts the module. Events are consumed and mails are sent once its machinery runs.
///
/// # Errors
/// If the mail server's URL, the sender's address or the link of mails about accounts is invalid.
pub async fn start(needs: Needs) -> anyhow::Result<Offers> {
    let mailer = Mailer::new(&needs.settings)?;
    needs.settings.check_account_link()?;
    let service = Arc::new(Service::new(needs.db.clone(), needs.clock.clone(), needs.ids));
    let worker = Arc::new(MailWorker {
        db: needs.db.clone(),
        clock: needs.clock,
        users: needs.users,
        mailer,
        demo: needs.demo,
        settings: needs.settings,
    });
    let machinery = banyan_durable::Machinery::new(needs.db.clone())
        .reactions(reactions::reactions(needs.db, &service))
        .expire(|tx, now| async move {
            let deleted = store::queue::delete_ended(&tx, now.minus(KEPT_FOR), DELETED_AT_ONCE).await?;
            Ok(deleted == DELETED_AT_ONCE)
        })
        .worker("mail", move |stop| {
            let worker = worker.clone();
            async move { worker.run(stop).await }
        });
    let routes = http::routes(service.clone());
    Ok(Offers {
        contract: service,
        routes,
        machinery,
        seed: Arc::new(|| Box::pin(async { Ok(()) })),
    })
}
