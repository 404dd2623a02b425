//! The routes of carts.

use actix_web::{HttpRequest, HttpResponse, delete, get, post, put, web::Data};
use banyan_core::Call;
use banyan_http::{
    Body, HasRole, IfMatch, IfNoneMatch, OptionalKey, Path, Prefer, Problem, RequiredKey, Stopping, StoredResponse,
};
use shared_kernel::{Customer, Sku};
use uuid::Uuid;

use super::{
    bodies::{Checkout, NewQuantity},
    is_decided, placed, respond_or_wait,
};
use crate::{
    carts::Cart,
    service::{Service, Terms},
    views::OrderView,
};

/// Begins an empty cart: a draft of an order.
#[utoipa::path(
    tag = "carts",
    params(OptionalKey),
    responses((status = 201, body = Cart, headers(("Location" = String), ("ETag" = String)))),
    security(("bearer" = []))
)]
#[post("/carts")]
pub(super) async fn begin_cart(
    customer: HasRole<Customer>,
    key: OptionalKey,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let context = (service.clone(), customer.call().clone());
    banyan_http::idempotent(service.db(), key.keyed(), context, |tx, (service, call)| async move {
        let cart = Cart::of(&service.begin_cart(&tx, &call).await?, &[]);
        Ok(banyan_http::created(
            &format!("/api/v1/carts/{}", cart.id),
            Some(&cart.etag()?),
            &cart,
        ))
    })
    .await
}

/// One's cart, with names and prices if the catalog answers; its `ETag` changes with them. A cart that was checked out is an order, and no cart any more.
#[utoipa::path(
    tag = "carts",
    params(("id" = Uuid, Path), IfNoneMatch),
    responses((status = 200, body = Cart, headers(("ETag" = String)))),
    security(("bearer" = []))
)]
#[get("/carts/{id}")]
pub(super) async fn show_cart(
    customer: HasRole<Customer>,
    id: Path<Uuid>,
    service: Data<Service>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let stream = service.load_cart(customer.call(), *id).await?;
    let cart = service.show_cart(customer.call(), &stream).await;
    Ok(banyan_http::ok_with_etag(&request, &cart.etag()?, &cart))
}

/// Sets the quantity of a product in the cart. Whether it is sold is checked when the cart is checked out.
#[utoipa::path(
    tag = "carts",
    params(("id" = Uuid, Path), ("sku" = inline(Sku), Path), IfMatch),
    request_body = NewQuantity,
    responses(
        (status = 200, body = Cart, headers(("ETag" = String))),
        (status = 409, description = "`not_a_cart`, `too_many_lines`, `too_many_changes`")
    ),
    security(("bearer" = []))
)]
#[put("/carts/{id}/items/{sku}")]
pub(super) async fn put_item(
    customer: HasRole<Customer>,
    path: Path<(Uuid, Sku)>,
    body: Body<NewQuantity>,
    service: Data<Service>,
    shown: IfMatch,
) -> Result<HttpResponse, Problem> {
    let (id, sku) = path.into_inner();
    let expected = expected_version(&shown, &service, customer.call(), id).await?;
    let stream = service
        .put_item(customer.call(), id, sku, body.quantity, expected)
        .await?;
    let cart = service.show_cart(customer.call(), &stream).await;
    Ok(banyan_http::ok(&cart).with_etag(&cart.etag()?).into())
}

/// Takes a product out of the cart.
#[utoipa::path(
    tag = "carts",
    params(("id" = Uuid, Path), ("sku" = inline(Sku), Path), IfMatch),
    responses((status = 204, description = "It is not in the cart any more"), (status = 409, description = "`not_a_cart`, `too_many_changes`")),
    security(("bearer" = []))
)]
#[delete("/carts/{id}/items/{sku}")]
pub(super) async fn remove_item(
    customer: HasRole<Customer>,
    path: Path<(Uuid, Sku)>,
    service: Data<Service>,
    shown: IfMatch,
) -> Result<HttpResponse, Problem> {
    let (id, sku) = path.into_inner();
    let expected = expected_version(&shown, &service, customer.call(), id).await?;
    service.remove_item(customer.call(), id, sku, expected).await?;
    Ok(StoredResponse::no_content().into())
}

/// Makes the cart an order with the same id, at the catalog's prices of this moment. Answered like placing an order. With the cart's `ETag` in `If-Match` it is
/// refused (412) if the cart, a name or a price has changed since it was shown, and with `expected_total` (409) if the total has.
#[utoipa::path(
    tag = "carts",
    params(("id" = Uuid, Path), RequiredKey, Prefer, IfMatch),
    request_body = Checkout,
    responses(
        (status = 201, body = OrderView, headers(("Location" = String), ("ETag" = String))),
        (status = 409, description = "`not_a_cart`, `cart_changed`; `total_changed`: the total is not `expected_total`"),
        (status = 503, description = "`unavailable`, `too_many_open_orders`: nothing was ordered", headers(("Retry-After" = String)))
    ),
    security(("bearer" = []))
)]
#[post("/carts/{id}/checkout")]
pub(super) async fn check_out_cart(
    customer: HasRole<Customer>,
    id: Path<Uuid>,
    key: RequiredKey,
    prefer: Prefer,
    shown: IfMatch,
    body: Body<Checkout>,
    (service, stopping): (Data<Service>, Stopping),
) -> Result<HttpResponse, Problem> {
    let request = key.keyed();
    let (call, id) = (customer.call().clone(), *id);
    let response = match banyan_http::find_response(service.db(), &request).await? {
        Some(response) => response,
        None => {
            service.check_load().await?;
            let terms = Terms::try_from(body.into_inner())?;
            let stream = service.peek_cart(&call, id).await?;
            let products = service.list_products(&call, &stream.order().cart).await?;
            // The order gets the prices that are compared here, and the version is compared again when it is placed.
            shown.check(&Cart::of(&stream, &products).etag()?)?;
            let version = stream.order().version;
            let context = (service.clone(), call.clone(), products, terms);
            banyan_http::respond_once(service.db(), request, context, move |tx, context| async move {
                let (service, call, products, terms) = context;
                let order = service.check_out(&tx, &call, (id, version), &products, terms).await?;
                Ok(placed(&order))
            })
            .await?
        }
    };
    respond_or_wait(&service, &call, response, prefer, &stopping, is_decided).await
}

/// The version that the cart must still have when it is changed, if the client sent the `ETag` of what it was shown. Names and prices are compared
/// here; the change itself compares the version again.
async fn expected_version(shown: &IfMatch, service: &Service, call: &Call, id: Uuid) -> Result<Option<i64>, Problem> {
    if !shown.is_present() {
        return Ok(None);
    }
    let stream = service.peek_cart(call, id).await?;
    let cart = service.show_cart(call, &stream).await;
    shown.check(&cart.etag()?)?;
    Ok(Some(cart.version))
}
