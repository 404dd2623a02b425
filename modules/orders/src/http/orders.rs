//! The routes of placed orders.

use actix_web::{HttpRequest, HttpResponse, get, post, web::Data};
use banyan_core::PageRequest;
use banyan_http::{
    Anyone, Body, HasRole, IfMatch, IfNoneMatch, Listed, LoggedIn, OptionalBody, PageQuery, Path, Prefer, Problem,
    Query, RequiredKey, Stopping,
    sse::{self, LastEventId},
};
use futures::StreamExt;
use shared_kernel::Customer;
use uuid::Uuid;

use super::{
    bodies::{CancelOrder, FollowQuery, History, HistoryEntry, NewOrder, OrderQuery},
    is_cancelled_or_shipped, is_decided, placed, respond_or_wait,
};
use crate::{service::Service, tickets::IssuedTicket, views::OrderView};

/// Places an order. It is answered as `pending` at once; with `Prefer: wait=N` once its outcome is known, or N seconds have passed. Prices are the catalog's of
/// this moment: `expected_total` refuses any other total than the customer was shown.
#[utoipa::path(
    tag = "orders",
    params(RequiredKey, Prefer),
    request_body = NewOrder,
    responses(
        (status = 201, body = OrderView, headers(("Location" = String), ("ETag" = String))),
        (status = 409, description = "`total_changed`: the total is not `expected_total`; nothing was ordered"),
        (status = 503, description = "`unavailable`, `too_many_open_orders`: nothing was ordered", headers(("Retry-After" = String)))
    ),
    security(("bearer" = []))
)]
#[post("/orders")]
pub(super) async fn place_order(
    customer: HasRole<Customer>,
    key: RequiredKey,
    prefer: Prefer,
    body: Body<NewOrder>,
    service: Data<Service>,
    stopping: Stopping,
) -> Result<HttpResponse, Problem> {
    let request = key.keyed();
    let call = customer.call().clone();
    let response = match banyan_http::find_response(service.db(), &request).await? {
        Some(response) => response,
        None => {
            service.check_load().await?;
            let (lines, terms) = body.into_inner().into_parts()?;
            let products = service.list_products(&call, &lines).await?;
            let context = (service.clone(), call.clone(), lines, products, terms);
            banyan_http::respond_once(service.db(), request, context, |tx, context| async move {
                let (service, call, lines, products, terms) = context;
                Ok(placed(&service.place(&tx, &call, &lines, &products, terms).await?))
            })
            .await?
        }
    };
    respond_or_wait(&service, &call, response, prefer, &stopping, is_decided).await
}

/// Orders, newest first: one's own, for staff everybody's.
#[utoipa::path(
    tag = "orders",
    params(OrderQuery, PageQuery),
    responses((status = 200, body = Listed<OrderView>), (status = 403, description = "`user_id` of somebody else is for staff")),
    security(("bearer" = []))
)]
#[get("/orders")]
pub(super) async fn list_orders(
    user: LoggedIn,
    query: Query<OrderQuery>,
    page: Query<PageQuery>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let page = service
        .list(user.call(), query.user_id, query.status, &PageRequest::from(page.0))
        .await?;
    Ok(banyan_http::ok(&Listed::from(page)).into())
}

/// One order; one's own, or any for staff.
#[utoipa::path(
    tag = "orders",
    params(("id" = Uuid, Path), IfNoneMatch),
    responses((status = 200, body = OrderView, headers(("ETag" = String))), (status = 304, description = "Nothing has changed")),
    security(("bearer" = []))
)]
#[get("/orders/{id}")]
pub(super) async fn show_order(
    user: LoggedIn,
    id: Path<Uuid>,
    service: Data<Service>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let order = service.load(user.call(), *id).await?;
    Ok(banyan_http::ok_with_etag(
        &request,
        &banyan_http::etag(order.version),
        &order,
    ))
}

/// Everything that happened to the order: it is nothing but this.
#[utoipa::path(tag = "orders", params(("id" = Uuid, Path)), responses((status = 200, body = History)), security(("bearer" = [])))]
#[get("/orders/{id}/history")]
pub(super) async fn show_history(
    user: LoggedIn,
    id: Path<Uuid>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let recorded = service.history(user.call(), *id).await?;
    let items = recorded.iter().map(HistoryEntry::of).collect::<Result<Vec<_>, _>>()?;
    Ok(banyan_http::ok(&History { items }).into())
}

/// The history as it happens, as Server-Sent Events: `id` is the version, `event` the type, `data` an entry of the history. It ends once the
/// order is delivered or cancelled; connecting again behind the end is answered with 204, which tells browsers to stop. A browser's `EventSource` sends
/// no access token: it uses a ticket, and `last_event_id` when it begins again with another one.
#[utoipa::path(
    tag = "orders",
    params(("id" = Uuid, Path), FollowQuery, LastEventId),
    responses(
        (status = 200, body = banyan_http::sse::StreamEvent, content_type = "text/event-stream"),
        (status = 204, description = "All was told and nothing more will happen")
    ),
    security((), ("bearer" = []))
)]
#[get("/orders/{id}/events")]
pub(super) async fn follow_order(
    caller: Anyone,
    id: Path<Uuid>,
    query: Query<FollowQuery>,
    last: LastEventId,
    service: Data<Service>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let order = match &query.ticket {
        Some(ticket) => service.take_ticket(*id, ticket).await?,
        None => service.load_followed(caller.logged_in()?, *id).await?,
    };
    // An id that is not a version of this order was not sent by us: the stream starts at the beginning.
    let seen = last
        .0
        .and_then(|id| id.parse::<i64>().ok())
        .or(query.last_event_id)
        .filter(|version| (1..=order.version).contains(version))
        .unwrap_or(0);
    if order.status.is_final() && seen >= order.version {
        return Ok(HttpResponse::NoContent().finish());
    }
    let permit = service.streams.acquire(order.user_id)?;
    let events = service.into_inner().follow(*id, seen, permit).map(|recorded| {
        let entry = HistoryEntry::of(&recorded?)?;
        sse::Event::json(entry.version, &entry.r#type, &entry)
    });
    Ok(sse::respond(&request, events))
}

/// Issues a ticket for the stream of an order's events. It is valid for 30 seconds and for one connection: an `EventSource` that lost its connection needs
/// another one.
#[utoipa::path(
    tag = "orders",
    params(("id" = Uuid, Path)),
    responses((status = 201, body = IssuedTicket)),
    security(("bearer" = []))
)]
#[post("/orders/{id}/events/tickets")]
pub(super) async fn issue_event_ticket(
    user: LoggedIn,
    id: Path<Uuid>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let ticket = service.issue_ticket(user.call(), *id).await?;
    Ok(HttpResponse::Created().json(ticket))
}

/// Cancels an order that has not been shipped. Before its payment is captured all is undone; after it the money goes back. The answer is the
/// order as it stands when the cancel was taken; with `Prefer: wait=N` once it is cancelled, or N seconds have passed.
#[utoipa::path(
    tag = "orders",
    params(("id" = Uuid, Path), RequiredKey, Prefer, IfMatch),
    request_body = Option<CancelOrder>,
    responses(
        (status = 200, body = OrderView, headers(("ETag" = String))),
        (status = 409, description = "`already_shipped`, `already_cancelled`, `checkout_abandoned`")
    ),
    security(("bearer" = []))
)]
#[post("/orders/{id}/cancel")]
pub(super) async fn cancel_order(
    user: LoggedIn,
    id: Path<Uuid>,
    key: RequiredKey,
    prefer: Prefer,
    version: IfMatch,
    body: OptionalBody<CancelOrder>,
    (service, stopping): (Data<Service>, Stopping),
) -> Result<HttpResponse, Problem> {
    let request = key.keyed();
    let (call, id) = (user.call().clone(), *id);
    let response = match banyan_http::find_response(service.db(), &request).await? {
        Some(response) => response,
        None => {
            let reason = body.0.unwrap_or_default().reason;
            let was_dispatched = service.was_dispatched(&call, id).await?;
            let context = (service.clone(), call.clone(), version, reason);
            banyan_http::respond_once(service.db(), request, context, move |tx, context| async move {
                let (service, call, version, reason) = context;
                let order = service
                    .cancel(&tx, &call, (id, &version), reason, was_dispatched)
                    .await?;
                Ok(banyan_http::ok(&order).with_etag(&banyan_http::etag(order.version)))
            })
            .await?
        }
    };
    respond_or_wait(&service, &call, response, prefer, &stopping, is_cancelled_or_shipped).await
}
