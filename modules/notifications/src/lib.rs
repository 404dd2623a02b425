//! Notifications: what users are told by mail about their orders, payments and accounts.
//!
//! An event of another module becomes a queued mail in the transaction that hears it. A worker asks `Users` for the address when it sends, so
//! addresses stay out of events. SMTP gives at-least-once: a mail whose outcome is unknown goes out again under the same Message-ID. Without a
//! mail server mails are captured: complete, stored, shown to their user, and sent to nobody.

mod delivery;
mod http;
mod notification;
mod post;
mod reactions;
mod schema;
mod service;
mod settings;
mod store;
mod templates;

use std::sync::Arc;

use banyan_core::{Clock, Ids};
use notifications_contract::Notifications;
use users_contract::Users;

use delivery::Delivery;
use post::Post;
pub use schema::SCHEMA;
use service::Service;
pub use settings::Settings;

/// What notifications must be given.
pub struct Needs {
    /// Its own database, migrated.
    pub db: banyan_durable::Db,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    /// Knows the addresses.
    pub users: Arc<dyn Users>,
    pub settings: Settings,
}

/// What notifications gives in return.
pub struct Offers {
    pub contract: Arc<dyn Notifications>,
    pub routes: banyan_http::Routes,
    /// Reactions, and the worker that sends.
    pub machinery: banyan_durable::Machinery,
    /// Does nothing: mails come from events.
    pub seed: banyan_durable::Seed,
}

/// Puts the module together. Nothing is heard or sent before its machinery is started.
///
/// # Errors
/// If the mail server's URL or the sender's address cannot be read.
pub async fn start(needs: Needs) -> anyhow::Result<Offers> {
    let post = Post::open(&needs.settings)?;
    let service = Arc::new(Service::new(needs.db.clone(), needs.clock.clone(), needs.ids));
    let delivery = Arc::new(Delivery::new(
        needs.db.clone(),
        needs.clock,
        needs.users,
        post,
        needs.settings,
    ));
    let machinery = banyan_durable::Machinery::new(needs.db.clone())
        .reactions(reactions::reactions(needs.db, &service))
        .worker("mail", move |stop| {
            let delivery = delivery.clone();
            async move { delivery.run(stop).await }
        });
    let routes = http::routes(service.clone());
    Ok(Offers {
        contract: service,
        routes,
        machinery,
        seed: Arc::new(|| Box::pin(async { Ok(()) })),
    })
}
