//! The REST resources of stock: anybody sees the level, staff book receipts and corrections.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, get, post, web::Data};
use banyan_core::Fault;
use banyan_http::{
    Anyone, Body, HasRole, IfMatch, KnownProblem, Listed, PageQuery, Path, Problem, Query, RequiredKey, Routes,
};
use serde::{Deserialize, Serialize};
use shared_kernel::{Sku, Staff};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{ObjectBuilder, OneOfBuilder, Schema, Type},
    },
};

use crate::{service::Service, stock::StockItem};

pub fn routes(service: Arc<Service>) -> Routes {
    Routes::new(move |config| {
        config
            .app_data(Data::from(service.clone()))
            .service(list_stock)
            .service(show_stock)
            .service(receive_stock)
            .service(adjust_stock);
    })
    .with_problems(PROBLEMS)
}

/// What clients may meet beside the shared problems, for the OpenAPI document.
const PROBLEMS: &[KnownProblem] = &[
    KnownProblem::of(
        409,
        "below_reserved",
        "Fewer would be left than are promised to orders.",
        &["adjust_stock"],
    ),
    KnownProblem::of(
        422,
        "invalid_quantity",
        "At most 999 of one product.",
        &["receive_stock", "adjust_stock"],
    ),
];

/// How many units of a product there are.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct StockLevel {
    sku: Sku,
    /// In the house.
    #[schema(minimum = 0, example = 100)]
    on_hand: i64,
    /// Of these, promised to orders.
    #[schema(minimum = 0, example = 2)]
    reserved: i64,
    /// What can still be ordered: `on_hand - reserved`.
    #[schema(minimum = 0, example = 98)]
    available: i64,
}

impl From<&StockItem> for StockLevel {
    fn from(item: &StockItem) -> Self {
        StockLevel {
            sku: item.sku.clone(),
            on_hand: item.on_hand,
            reserved: item.reserved,
            available: item.available(),
        }
    }
}

/// Units that came in.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StockReceipt)]
struct Receipt {
    #[schema(minimum = 1, maximum = 1_000_000, example = 100)]
    quantity: i64,
    /// Kept in the ledger.
    #[schema(min_length = 1, max_length = 500, example = "delivery 4711")]
    reason: Option<String>,
}

/// What counting found: more (positive) or fewer (negative) than the books say.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StockAdjustment)]
struct Adjustment {
    #[schema(inline)]
    quantity: Difference,
    /// Kept in the ledger.
    #[schema(min_length = 1, max_length = 500, example = "broken in transit")]
    reason: Option<String>,
}

/// Up to a million units either way, and never none.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "i64")]
struct Difference(i64);

impl Difference {
    const MAX: i64 = 1_000_000;
}

impl TryFrom<i64> for Difference {
    type Error = Fault;

    fn try_from(units: i64) -> Result<Self, Fault> {
        let fits = units != 0 && (-Self::MAX..=Self::MAX).contains(&units);
        if fits {
            Ok(Difference(units))
        } else {
            Err(Fault::invalid(
                "invalid_quantity",
                "must be -1000000 to 1000000, and not 0",
            ))
        }
    }
}

impl PartialSchema for Difference {
    fn schema() -> RefOr<Schema> {
        let from = |least: i64, most: i64| {
            ObjectBuilder::new()
                .schema_type(Type::Integer)
                .minimum(Some(least))
                .maximum(Some(most))
        };
        OneOfBuilder::new()
            .item(from(1, Self::MAX))
            .item(from(-Self::MAX, -1))
            .description(Some("Units more (positive) or fewer (negative), not 0."))
            .examples([-2])
            .into()
    }
}

impl ToSchema for Difference {}

/// The stock of all products that were ever received, in the order of their skus.
#[utoipa::path(
    tag = "inventory",
    params(PageQuery),
    responses((status = 200, body = Listed<StockLevel>)),
    security(("bearer" = []))
)]
#[get("/stock")]
async fn list_stock(
    _staff: HasRole<Staff>,
    page: Query<PageQuery>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let items = service.list_items(&page.request()).await?;
    let levels = items.map(|item| StockLevel::from(&item));
    Ok(banyan_http::ok(&Listed::from(levels)).into())
}

/// How many units of a product there are, and how many can still be ordered. 404 for a sku that was never received.
#[utoipa::path(
    tag = "inventory",
    params(("sku" = inline(Sku), Path), banyan_http::IfNoneMatch),
    responses((status = 200, body = StockLevel)),
    security((), ("bearer" = []))
)]
#[get("/stock/{sku}")]
async fn show_stock(
    _anyone: Anyone,
    sku: Path<Sku>,
    service: Data<Service>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let item = service
        .find_item(&sku)
        .await?
        .ok_or_else(|| Fault::not_found("stock item"))?;
    Ok(banyan_http::ok_with_etag(
        &request,
        &banyan_http::etag(item.version),
        &StockLevel::from(&item),
    ))
}

/// Books units that came in. The first receipt of a sku makes its stock item, whether or not the catalog has such a product.
#[utoipa::path(
    tag = "inventory",
    params(("sku" = inline(Sku), Path), RequiredKey, IfMatch),
    request_body = Receipt,
    responses((status = 201, description = "The new level", body = StockLevel)),
    security(("bearer" = []))
)]
#[post("/stock/{sku}/receipts")]
async fn receive_stock(
    staff: HasRole<Staff>,
    sku: Path<Sku>,
    key: RequiredKey,
    version: IfMatch,
    body: Body<Receipt>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let request = key.keyed();
    let db = service.db().clone();
    let context = (
        service,
        staff.call().clone(),
        sku.into_inner(),
        version,
        body.into_inner(),
    );
    banyan_http::idempotent(&db, request, context, |tx, context| async move {
        let (service, call, sku, version, Receipt { quantity, reason }) = context;
        service.check_version(&tx, &sku, &version).await?;
        Ok(new_level(&service.receive(&tx, &call, &sku, quantity, reason).await?))
    })
    .await
}

/// Corrects the books after counting. Units that are promised to orders cannot be written off.
#[utoipa::path(
    tag = "inventory",
    params(("sku" = inline(Sku), Path), RequiredKey, IfMatch),
    request_body = Adjustment,
    responses(
        (status = 201, description = "The new level", body = StockLevel),
        (status = 409, description = "`below_reserved`: fewer would be left than are promised to orders")
    ),
    security(("bearer" = []))
)]
#[post("/stock/{sku}/adjustments")]
async fn adjust_stock(
    staff: HasRole<Staff>,
    sku: Path<Sku>,
    key: RequiredKey,
    version: IfMatch,
    body: Body<Adjustment>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let request = key.keyed();
    let db = service.db().clone();
    let Adjustment {
        quantity: Difference(difference),
        reason,
    } = body.into_inner();
    let context = (service, staff.call().clone(), sku.into_inner(), version, reason);
    banyan_http::idempotent(&db, request, context, move |tx, context| async move {
        let (service, call, sku, version, reason) = context;
        service.check_version(&tx, &sku, &version).await?;
        Ok(new_level(&service.adjust(&tx, &call, &sku, difference, reason).await?))
    })
    .await
}

fn new_level(item: &StockItem) -> banyan_http::StoredResponse {
    banyan_http::created(
        &format!("/api/v1/stock/{}", item.sku),
        Some(&banyan_http::etag(item.version)),
        &StockLevel::from(item),
    )
}
