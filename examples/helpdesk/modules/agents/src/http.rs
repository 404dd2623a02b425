//! The REST resources of agents. The helpdesk has no users, so that anybody who reaches it may call them.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, get, post, web::Data};
use banyan_core::PageRequest;
use banyan_http::{Anyone, Body, Listed, OptionalKey, PageQuery, Path, Problem, Query, Routes};
use uuid::Uuid;

use crate::{
    agent::{Agent, NewAgent},
    service::Service,
};

pub fn routes(service: Arc<Service>) -> Routes {
    Routes::new(move |config| {
        config
            .app_data(Data::from(service.clone()))
            .service(list_agents)
            .service(show_agent)
            .service(add_agent);
    })
}

/// All agents, newest first.
#[utoipa::path(tag = "agents", params(PageQuery), responses((status = 200, body = Listed<Agent>)))]
#[get("/agents")]
async fn list_agents(_anyone: Anyone, page: Query<PageQuery>, service: Data<Service>) -> Result<HttpResponse, Problem> {
    let page = service.list(&PageRequest::from(page.0)).await?;
    Ok(banyan_http::ok(&Listed::from(page)).into())
}

/// An agent with the number of places that are taken.
#[utoipa::path(tag = "agents", params(("id" = Uuid, Path)), responses((status = 200, body = Agent)))]
#[get("/agents/{id}")]
async fn show_agent(
    _anyone: Anyone,
    id: Path<Uuid>,
    service: Data<Service>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let agent = service.load(*id).await?;
    Ok(banyan_http::ok_with_etag(
        &request,
        &banyan_http::etag(agent.version),
        &agent,
    ))
}

/// Adds an agent.
#[utoipa::path(tag = "agents", params(OptionalKey), request_body = NewAgent, responses((status = 201, body = Agent)))]
#[post("/agents")]
async fn add_agent(
    _anyone: Anyone,
    key: OptionalKey,
    body: Body<NewAgent>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let (db, context) = (service.db().clone(), (service, body.into_inner()));
    banyan_http::idempotent(&db, key.keyed(), context, |tx, (service, new)| async move {
        let agent = service.add(&tx, new).await?;
        let location = format!("/api/v1/agents/{}", agent.id);
        Ok(banyan_http::created(
            &location,
            Some(&banyan_http::etag(agent.version)),
            &agent,
        ))
    })
    .await
}
