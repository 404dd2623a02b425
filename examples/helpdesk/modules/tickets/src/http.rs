//! The REST resources of tickets. The helpdesk has no users, so that anybody who reaches it may call them.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, get, post, web::Data};
use banyan_core::PageRequest;
use banyan_http::{Anyone, Body, KnownProblem, Listed, OptionalKey, PageQuery, Path, Problem, Query, Routes};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use crate::{
    service::Service,
    ticket::{NewTicket, Status, Ticket},
};

pub fn routes(service: Arc<Service>) -> Routes {
    Routes::new(move |config| {
        config
            .app_data(Data::from(service.clone()))
            .service(list_tickets)
            .service(show_ticket)
            .service(open_ticket)
            .service(close_ticket);
    })
    .with_problems(PROBLEMS)
}

/// What clients may meet beside the shared problems, for the OpenAPI document.
const PROBLEMS: &[KnownProblem] = &[KnownProblem::of(
    409,
    "already_closed",
    "The ticket is closed.",
    &["close_ticket"],
)];

#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct TicketQuery {
    /// Only those in this state.
    #[param(inline)]
    status: Option<Status>,
}

/// All tickets, newest first.
#[utoipa::path(tag = "tickets", params(TicketQuery, PageQuery), responses((status = 200, body = Listed<Ticket>)))]
#[get("/tickets")]
async fn list_tickets(
    _anyone: Anyone,
    query: Query<TicketQuery>,
    page: Query<PageQuery>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let page = service.list(query.status, &PageRequest::from(page.0)).await?;
    Ok(banyan_http::ok(&Listed::from(page)).into())
}

/// A ticket with its agents.
#[utoipa::path(tag = "tickets", params(("id" = Uuid, Path)), responses((status = 200, body = Ticket)))]
#[get("/tickets/{id}")]
async fn show_ticket(
    _anyone: Anyone,
    id: Path<Uuid>,
    service: Data<Service>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let ticket = service.load(*id).await?;
    Ok(banyan_http::ok_with_etag(
        &request,
        &banyan_http::etag(ticket.version),
        &ticket,
    ))
}

/// Opens a ticket. It becomes `assigned` once it has its agents.
#[utoipa::path(tag = "tickets", params(OptionalKey), request_body = NewTicket, responses((status = 201, body = Ticket)))]
#[post("/tickets")]
async fn open_ticket(
    anyone: Anyone,
    key: OptionalKey,
    body: Body<NewTicket>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let db = service.db().clone();
    let context = (service, anyone.call().clone(), body.into_inner());
    banyan_http::idempotent(&db, key.keyed(), context, |tx, (service, call, new)| async move {
        let ticket = service.open(&tx, &call, new).await?;
        let location = format!("/api/v1/tickets/{}", ticket.id);
        Ok(banyan_http::created(
            &location,
            Some(&banyan_http::etag(ticket.version)),
            &ticket,
        ))
    })
    .await
}

/// Closes a ticket, whether or not it is assigned.
#[utoipa::path(
    tag = "tickets",
    params(("id" = Uuid, Path), OptionalKey),
    responses((status = 200, body = Ticket), (status = 409, description = "`already_closed`"))
)]
#[post("/tickets/{id}/close")]
async fn close_ticket(
    anyone: Anyone,
    id: Path<Uuid>,
    key: OptionalKey,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let (db, context) = (service.db().clone(), (service, anyone.call().clone(), *id));
    banyan_http::idempotent(&db, key.keyed(), context, |tx, (service, call, id)| async move {
        let ticket = service.close(&tx, &call, id).await?;
        Ok(banyan_http::ok(&ticket).with_etag(&banyan_http::etag(ticket.version)))
    })
    .await
}
