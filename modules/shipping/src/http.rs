//! Shipments over HTTP: customers track their own, staff dispatches them.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, get, post, web::Data};
use banyan_core::PageRequest;
use banyan_http::{
    HasRole, IfMatch, IfNoneMatch, KnownProblem, Listed, LoggedIn, OptionalBody, OptionalKey, PageQuery, Path, Problem,
    Query, Routes,
};
use serde::Deserialize;
use shared_kernel::Staff;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    service::Service,
    shipment::{Shipment, Status},
    store::Filter,
};

pub fn routes(service: Arc<Service>) -> Routes {
    Routes::new(move |config| {
        config
            .app_data(Data::from(service.clone()))
            .service(list_shipments)
            .service(show_shipment)
            .service(dispatch_shipment)
            .service(deliver_shipment);
    })
    .with_problems(PROBLEMS)
}

/// What clients may meet beside the shared problems, for the OpenAPI document.
const PROBLEMS: &[KnownProblem] = &[
    KnownProblem::of(409, "not_ready", "The shipment is not ready.", &["dispatch_shipment"]),
    KnownProblem::of(
        409,
        "not_dispatched",
        "The shipment has not been dispatched.",
        &["deliver_shipment"],
    ),
    KnownProblem::of(
        409,
        "shipment_cancelled",
        "The shipment is cancelled.",
        &["dispatch_shipment"],
    ),
];

#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ShipmentQuery {
    /// Only those in this state.
    #[param(inline)]
    status: Option<Status>,
    /// Only this order's.
    order_id: Option<Uuid>,
}

/// How the parcel can be followed. Left out, it gets a number of the house's own.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DispatchShipment)]
struct Dispatch {
    /// The carrier's number for the parcel.
    #[schema(
        min_length = 1,
        max_length = 64,
        pattern = "^[A-Za-z0-9][A-Za-z0-9._/-]*$",
        example = "JD014600003SE"
    )]
    tracking_number: Option<String>,
    #[schema(min_length = 1, max_length = 64, format = "line", example = "DHL")]
    carrier: Option<String>,
}

/// Everybody's shipments, newest first.
#[utoipa::path(tag = "shipping", params(ShipmentQuery, PageQuery), responses((status = 200, body = Listed<Shipment>)), security(("bearer" = [])))]
#[get("/shipments")]
async fn list_shipments(
    _staff: HasRole<Staff>,
    query: Query<ShipmentQuery>,
    page: Query<PageQuery>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let filter = Filter {
        status: query.status,
        order_id: query.order_id,
    };
    let page = service.list_all(&filter, &PageRequest::from(page.0)).await?;
    Ok(banyan_http::ok(&Listed::from(page)).into())
}

/// A shipment with its tracking history; one's own, or any for staff.
#[utoipa::path(tag = "shipping", params(("id" = Uuid, Path), IfNoneMatch), responses((status = 200, body = Shipment)), security(("bearer" = [])))]
#[get("/shipments/{id}")]
async fn show_shipment(
    user: LoggedIn,
    id: Path<Uuid>,
    service: Data<Service>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let shipment = service.load(user.call(), *id).await?;
    Ok(banyan_http::ok_with_etag(
        &request,
        &banyan_http::etag(shipment.version),
        &shipment,
    ))
}

/// Hands a ready shipment to the carrier; the order becomes `shipped`.
#[utoipa::path(
    tag = "shipping",
    params(("id" = Uuid, Path), OptionalKey, IfMatch),
    request_body = Option<Dispatch>,
    responses((status = 200, body = Shipment), (status = 409, description = "`not_ready`")),
    security(("bearer" = []))
)]
#[post("/shipments/{id}/dispatch")]
async fn dispatch_shipment(
    staff: HasRole<Staff>,
    id: Path<Uuid>,
    key: OptionalKey,
    version: IfMatch,
    body: OptionalBody<Dispatch>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let Dispatch {
        tracking_number,
        carrier,
    } = body.0.unwrap_or_default();
    let (db, id) = (service.db().clone(), *id);
    let context = (service, staff.call().clone(), version, tracking_number, carrier);
    banyan_http::idempotent(&db, key.keyed(), context, move |tx, context| async move {
        let (service, call, version, tracking_number, carrier) = context;
        let shipment = service
            .dispatch(&tx, &call, (id, &version), tracking_number, carrier)
            .await?;
        Ok(banyan_http::ok(&shipment).with_etag(&banyan_http::etag(shipment.version)))
    })
    .await
}

/// The parcel has arrived; the order becomes `delivered`.
#[utoipa::path(
    tag = "shipping",
    params(("id" = Uuid, Path), OptionalKey, IfMatch),
    responses((status = 200, body = Shipment), (status = 409, description = "`not_dispatched`")),
    security(("bearer" = []))
)]
#[post("/shipments/{id}/deliver")]
async fn deliver_shipment(
    staff: HasRole<Staff>,
    id: Path<Uuid>,
    key: OptionalKey,
    version: IfMatch,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let (db, id) = (service.db().clone(), *id);
    let context = (service, staff.call().clone(), version);
    banyan_http::idempotent(
        &db,
        key.keyed(),
        context,
        move |tx, (service, call, version)| async move {
            let shipment = service.deliver(&tx, &call, (id, &version)).await?;
            Ok(banyan_http::ok(&shipment).with_etag(&banyan_http::etag(shipment.version)))
        },
    )
    .await
}
