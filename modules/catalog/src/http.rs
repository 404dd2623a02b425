//! The REST resources of products: anybody sees them, staff change them.

use std::sync::Arc;

use actix_web::{FromRequest, HttpRequest, HttpResponse, delete, get, http::header, patch, post, web::Data};
use banyan_core::{Call, Fault};
use banyan_http::{
    Anyone, Body, HasRole, KnownProblem, Listed, OptionalKey, PageQuery, Path, Problem, Query, Routes, StoredResponse,
};
use serde::Deserialize;
use shared_kernel::{Role, Sku, Staff};
use utoipa::IntoParams;

use crate::{
    pages::{Fresh, Key, Page},
    product::{NewProduct, Product, ProductChange, StoredProduct},
    service::Service,
    store::Filter,
};

pub fn routes(service: Arc<Service>) -> Routes {
    Routes::new(move |config| {
        config
            .app_data(Data::from(service.clone()))
            .service(list_products)
            .service(show_product)
            .service(add_product)
            .service(change_product)
            .service(archive_product);
    })
    .with_problems(PROBLEMS)
}

/// What clients may meet beside the shared problems, for the OpenAPI document.
const PROBLEMS: &[KnownProblem] = &[
    KnownProblem::of(
        409,
        "sku_taken",
        "There is a product with this sku already.",
        &["add_product"],
    ),
    KnownProblem::of(
        422,
        "unknown_currency",
        "EURO is not an ISO 4217 currency code.",
        &["add_product", "change_product"],
    ),
];

/// Filters are combined: a product must pass all of them.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ProductQuery {
    /// Words that must all occur in sku, name or description, in any order. Case, accents and punctuation do not matter. Three letters or more are found
    /// anywhere in a word, fewer where a word begins.
    #[param(min_length = 1, max_length = 200, example = "cafe mug")]
    q: Option<String>,
    /// Only this category's.
    #[param(min_length = 1, max_length = 40, pattern = "^[a-z0-9][a-z0-9-]{0,39}$")]
    category: Option<String>,
    /// The least price, in minor units.
    #[param(minimum = 0, maximum = 1_000_000_000_000_i64)]
    min_price: Option<i64>,
    /// The highest price, in minor units.
    #[param(minimum = 0, maximum = 1_000_000_000_000_i64)]
    max_price: Option<i64>,
    /// Archived products too; staff only.
    include_archived: Option<bool>,
}

impl ProductQuery {
    fn into_filter(self, call: &Call) -> Result<Filter, Fault> {
        let include_archived = self.include_archived.unwrap_or(false);
        if include_archived && call.actor.user_id().is_none() {
            return Err(Fault::unauthenticated(
                "unauthenticated",
                "Archived products are listed for staff only; this needs an access token.",
            ));
        }
        if include_archived && !call.actor.has_role(Role::Staff) {
            return Err(Fault::forbidden("Archived products are listed for staff only."));
        }
        Ok(Filter {
            query: self.q,
            category: self.category,
            min_price: self.min_price,
            max_price: self.max_price,
            include_archived,
        })
    }
}

/// The products on sale, newest first.
#[utoipa::path(
    tag = "catalog",
    params(ProductQuery, PageQuery),
    responses((status = 200, body = Listed<Product>), (status = 403, description = "`include_archived` is for staff")),
    security((), ("bearer" = []))
)]
#[get("/products")]
async fn list_products(anyone: Anyone, service: Data<Service>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let read = async {
        // Both are made before one reads: see `Query`.
        let (query, page) = (
            Query::<ProductQuery>::extract(&request),
            Query::<PageQuery>::extract(&request),
        );
        let filter = query.await.map_err(fault)?.0.into_filter(anyone.call())?;
        let listed = service.list(&filter, &page.await.map_err(fault)?.request()).await?;
        let page = Page {
            body: banyan_http::to_json(&Listed::from(listed.map(|stored| stored.product)))?,
            etag: None,
        };
        let for_everyone = !filter.include_archived;
        Ok(Fresh { page, for_everyone })
    };
    let key = Key::List(request.query_string().to_owned());
    let page = service.pages().find_or_read(key, read).await?;
    Ok(banyan_http::ok_json(page.body.clone()))
}

/// One product. An archived one is shown with `active: false`, so that old orders can link to it.
#[utoipa::path(
    tag = "catalog",
    params(("sku" = inline(Sku), Path), banyan_http::IfNoneMatch),
    responses((status = 200, body = Product)),
    security((), ("bearer" = []))
)]
#[get("/products/{sku}")]
async fn show_product(
    _anyone: Anyone,
    sku: Path<Sku>,
    service: Data<Service>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let read = async {
        let stored = service.load(&sku).await?;
        let page = Page {
            body: banyan_http::to_json(&stored.product)?,
            etag: Some(banyan_http::etag(stored.version)),
        };
        Ok(Fresh {
            page,
            for_everyone: true,
        })
    };
    let page = service.pages().find_or_read(Key::Product(sku.0.clone()), read).await?;
    let etag = page.etag.as_deref().unwrap_or_default();
    Ok(banyan_http::ok_json_with_etag(&request, etag, page.body.clone()))
}

/// Adds a product to the shop.
#[utoipa::path(
    tag = "catalog",
    params(OptionalKey),
    request_body = NewProduct,
    responses((status = 201, body = Product), (status = 409, description = "`sku_taken`, maybe by an archived product")),
    security(("bearer" = []))
)]
#[post("/products")]
async fn add_product(
    staff: HasRole<Staff>,
    key: OptionalKey,
    body: Body<NewProduct>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let request = key.keyed();
    let db = service.db().clone();
    let context = (service, staff.call().clone(), body.into_inner());
    banyan_http::idempotent(&db, request, context, |tx, (service, call, new)| async move {
        let stored = service.add(&tx, &call, new).await?;
        let location = format!("/api/v1/products/{}", stored.product.sku);
        Ok(banyan_http::created(
            &location,
            Some(&banyan_http::etag(stored.version)),
            &stored.product,
        ))
    })
    .await
}

/// Changes the named fields; with `If-Match` only if nobody else changed the product since. `active: true` brings an archived one back.
#[utoipa::path(
    tag = "catalog",
    params(("sku" = inline(Sku), Path), banyan_http::IfMatch),
    request_body = ProductChange,
    responses((status = 200, body = Product)),
    security(("bearer" = []))
)]
#[patch("/products/{sku}")]
async fn change_product(
    staff: HasRole<Staff>,
    sku: Path<Sku>,
    body: Body<ProductChange>,
    service: Data<Service>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let expected = expected_version(&request, &service, &sku).await?;
    let StoredProduct { product, version, .. } =
        service.change(staff.call(), &sku, body.into_inner(), expected).await?;
    Ok(banyan_http::ok(&product).with_etag(&banyan_http::etag(version)).into())
}

/// Takes a product off the shelf. It stays visible where it is linked to, and its sku stays taken.
#[utoipa::path(
    tag = "catalog",
    params(("sku" = inline(Sku), Path), banyan_http::IfMatch),
    responses((status = 204, description = "It is archived")),
    security(("bearer" = []))
)]
#[delete("/products/{sku}")]
async fn archive_product(
    staff: HasRole<Staff>,
    sku: Path<Sku>,
    service: Data<Service>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let expected = expected_version(&request, &service, &sku).await?;
    service
        .change(staff.call(), &sku, ProductChange::archive(), expected)
        .await?;
    Ok(StoredResponse::no_content().into())
}

fn fault(Problem(fault): Problem) -> Fault {
    fault
}

/// The version that `If-Match` requires, which must still be current when the change is made; `None` without the header.
async fn expected_version(request: &HttpRequest, service: &Service, sku: &Sku) -> Result<Option<i64>, Fault> {
    if !request.headers().contains_key(header::IF_MATCH) {
        return Ok(None);
    }
    let version = service.load(sku).await?.version;
    banyan_http::check_if_match(request, &banyan_http::etag(version))?;
    Ok(Some(version))
}
