//! The REST resource of items: anybody sees them, staff adds them.

use std::sync::Arc;

use actix_web::{HttpResponse, get, post, web::Data};
use banyan_core::{Fault, PageRequest};
use banyan_http::{Anyone, Body, HasRole, KnownProblem, Listed, OptionalKey, PageQuery, Path, Problem, Query, Routes};
use shared_kernel::Staff;
use uuid::Uuid;

use crate::{
    item::{Item, NewItem},
    service::Service,
};

pub fn routes(service: Arc<Service>) -> Routes {
    Routes::new(move |config| {
        config
            .app_data(Data::from(service.clone()))
            .service(list_{module}_items)
            .service(show_{module}_item)
            .service(add_{module}_item);
    })
    .with_problems(PROBLEMS)
}

/// What clients may meet beside the shared problems, for the OpenAPI document.
const PROBLEMS: &[KnownProblem] = &[
    KnownProblem::of(
        409,
        "name_taken",
        "There is an item of this name already.",
        &["add_{module}_item"],
    ),
    KnownProblem::of(
        422,
        "invalid_name",
        "A name has at least one visible character.",
        &["add_{module}_item"],
    ),
];

/// The items of {module}, newest first.
#[utoipa::path(
    tag = "{module}",
    params(PageQuery),
    responses((status = 200, body = Listed<Item>)),
    security((), ("bearer" = []))
)]
#[get("/{module}")]
async fn list_{module}_items(
    _anyone: Anyone,
    page: Query<PageQuery>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let listed = service.list(&PageRequest::from(page.0)).await?;
    Ok(banyan_http::ok(&Listed::from(listed)).into())
}

/// One item of {module}.
#[utoipa::path(
    tag = "{module}",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = Item)),
    security((), ("bearer" = []))
)]
#[get("/{module}/{id}")]
async fn show_{module}_item(_anyone: Anyone, id: Path<Uuid>, service: Data<Service>) -> Result<HttpResponse, Problem> {
    Ok(banyan_http::ok(&service.load(id.into_inner()).await?).into())
}

/// Adds an item to {module}.
#[utoipa::path(
    tag = "{module}",
    params(OptionalKey),
    request_body = NewItem,
    responses((status = 201, body = Item), (status = 409, description = "`name_taken`: there is an item of this name")),
    security(("bearer" = []))
)]
#[post("/{module}")]
async fn add_{module}_item(
    staff: HasRole<Staff>,
    key: OptionalKey,
    body: Body<NewItem>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let request = key.keyed();
    let db = service.db().clone();
    let context = (service, staff.call().clone(), body.into_inner());
    banyan_http::idempotent(&db, request, context, |tx, (service, call, new)| async move {
        let added = service.add(&tx, &call, new).await?;
        let item = added.ok_or_else(|| Fault::conflict("name_taken", "There is an item of this name already."))?;
        Ok(banyan_http::created(
            &format!("/api/v1/{module}/{}", item.id),
            None,
            &item,
        ))
    })
    .await
}
