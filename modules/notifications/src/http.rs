//! The REST resource of notifications: each user sees their own.

use std::sync::Arc;

use actix_web::{HttpResponse, get, web::Data};
use banyan_core::PageRequest;
use banyan_http::{Listed, LoggedIn, PageQuery, Problem, Query, Routes};

use crate::{notification::Notification, service::Service};

pub fn routes(service: Arc<Service>) -> Routes {
    Routes::new(move |config| {
        config.app_data(Data::from(service.clone())).service(list_notifications);
    })
}

/// My notifications, newest first. Without a mail server this is where the mails can be read (status `captured`).
#[utoipa::path(tag = "notifications", params(PageQuery), responses((status = 200, body = Listed<Notification>)), security(("bearer" = [])))]
#[get("/notifications")]
async fn list_notifications(
    user: LoggedIn,
    page: Query<PageQuery>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let listed = service
        .list_visible(&user.call().actor, user.user_id(), &PageRequest::from(page.0))
        .await?;
    Ok(banyan_http::ok(&Listed::from(listed)).into())
}
