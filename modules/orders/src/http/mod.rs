//! Orders and carts over HTTP: the routes, their permissions and their responses.

mod bodies;
mod carts;
mod orders;
mod problems;
mod views;

use std::sync::Arc;

use actix_web::{
    HttpResponse,
    http::{
        StatusCode,
        header::{HeaderName, LOCATION},
    },
    web::Data,
};
use banyan_core::{Call, Fault};
use banyan_http::{KeyedResponse, Prefer, Problem, Routes, Stopping, StoredResponse};
use serde::Deserialize;
use uuid::Uuid;

use crate::{event::Status, rebuild::Views, service::Service, views::OrderView};

pub fn routes(service: Arc<Service>, views: Views) -> Routes {
    let views = Data::new(views);
    Routes::new(move |config| {
        config
            .app_data(Data::from(service.clone()))
            .app_data(views.clone())
            .service(orders::place_order)
            .service(orders::list_orders)
            .service(orders::show_order)
            .service(orders::show_history)
            .service(orders::follow_order)
            .service(orders::issue_event_ticket)
            .service(orders::cancel_order)
            .service(carts::begin_cart)
            .service(carts::show_cart)
            .service(carts::put_item)
            .service(carts::remove_item)
            .service(carts::check_out_cart)
            .service(views::compare_views)
            .service(views::rebuild_views);
    })
    .with_problems(problems::PROBLEMS)
}

/// The 201 of a placed order.
fn placed(order: &OrderView) -> StoredResponse {
    banyan_http::created(
        &format!("/api/v1/orders/{}", order.id),
        Some(&banyan_http::etag(order.version)),
        order,
    )
}

/// Returns the stored response byte for byte or, if the client prefers to wait, the order once `is_outcome` holds. A replay waits again.
async fn respond_or_wait(
    service: &Service,
    call: &Call,
    keyed: KeyedResponse,
    prefer: Prefer,
    stopping: &Stopping,
    is_outcome: fn(&OrderView) -> bool,
) -> Result<HttpResponse, Problem> {
    #[derive(Deserialize)]
    struct Named {
        id: Uuid,
    }
    let status = StatusCode::from_u16(keyed.response.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let (Some(wait), Some((name, value))) = (prefer.wait, prefer.applied()) else {
        return Ok(keyed.into());
    };
    if !status.is_success() {
        return Ok(keyed.into());
    }
    let Named { id } = serde_json::from_str(&keyed.response.body).map_err(|error| {
        Fault::internal(
            "unreadable_answer",
            format!("a stored response contains no order: {error}"),
        )
    })?;
    // A user with too many waiting requests gets the stored response, without `Preference-Applied` (RFC 7240, section 2).
    let Ok(_permit) = service.waits.acquire(crate::service::user_of(call)?) else {
        return Ok(keyed.into());
    };
    let order = service.wait_for(call, id, wait, stopping, is_outcome).await?;
    let mut response = StoredResponse::json(status, &order).with_etag(&banyan_http::etag(order.version));
    if let Some(location) = keyed.response.header(LOCATION.as_str()) {
        response = response.with_header(LOCATION, location);
    }
    if let Ok(name) = HeaderName::try_from(name) {
        response = response.with_header(name, &value);
    }
    Ok(KeyedResponse {
        response,
        replayed: keyed.replayed,
    }
    .into())
}

/// Whether the checkout has an outcome.
fn is_decided(order: &OrderView) -> bool {
    order.status != Status::Pending
}

/// Whether a cancel has an outcome, including one that came too late.
fn is_cancelled_or_shipped(order: &OrderView) -> bool {
    matches!(order.status, Status::Cancelled | Status::Shipped | Status::Delivered)
}
