//! Payments over HTTP: owners and staff read, staff refunds, providers send webhooks.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, get, post, web::Data};
use banyan_core::{Call, Fault, Timestamp};
use banyan_http::{
    Body, HasRole, IfMatch, IfNoneMatch, KeyedRequest, KeyedResponse, KnownProblem, Listed, LoggedIn, PageQuery, Path,
    Problem, Query, RawBody, RequiredKey, Routes,
};
use serde::{Deserialize, Serialize};
use shared_kernel::{Money, Staff};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    commands::{CommandRequest, CommandState, Kind, MoneyCommand, Outcome},
    payment::{Payment, Status},
    provider::WebhookEvent,
    service::Service,
    webhook::SIGNATURE,
};

/// The money side of one order.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Payment)]
pub struct PaymentBody {
    id: Uuid,
    order_id: Uuid,
    #[schema(inline)]
    status: Status,
    /// What the order asks for.
    amount: Money,
    captured: Money,
    refunded: Money,
    created_at: Timestamp,
}

impl From<&Payment> for PaymentBody {
    fn from(payment: &Payment) -> Self {
        PaymentBody {
            id: payment.id,
            order_id: payment.order_id,
            status: payment.status,
            amount: payment.amount.clone(),
            captured: payment.amount.with_amount(payment.captured),
            refunded: payment.amount.with_amount(payment.refunded),
            created_at: payment.created_at,
        }
    }
}

/// What to give back, and why.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRefund {
    /// All that is left, if absent.
    #[serde(default)]
    amount: Option<RefundAmount>,
    #[schema(min_length = 1, max_length = 500, example = "arrived broken")]
    reason: String,
}

/// At least one minor unit, in the payment's currency.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RefundAmount {
    /// Integer minor units: 1999 is 19.99 EUR.
    #[schema(minimum = 1, maximum = 1_000_000_000_000_i64, example = 1999)]
    amount: i64,
    /// ISO 4217 code, upper case.
    #[schema(pattern = "^[A-Z]{3}$", min_length = 3, max_length = 3, example = "EUR")]
    currency: String,
}

/// Money given back, or on its way.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Refund)]
pub struct RefundBody {
    id: Uuid,
    payment_id: Uuid,
    #[schema(inline)]
    status: RefundStatus,
    amount: Money,
    reason: String,
    created_at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefundStatus {
    /// The provider has not said yet; the amount is reserved.
    Pending,
    Succeeded,
    /// The provider refused; nothing was given back.
    Declined,
}

impl From<&MoneyCommand> for RefundBody {
    fn from(command: &MoneyCommand) -> Self {
        RefundBody {
            id: command.id,
            payment_id: command.payment_id.unwrap_or_default(),
            status: match &command.state {
                CommandState::Requested | CommandState::Started => RefundStatus::Pending,
                CommandState::Completed(Outcome::Accepted) => RefundStatus::Succeeded,
                CommandState::Completed(_) => RefundStatus::Declined,
            },
            amount: command.amount.clone(),
            reason: command.reason.clone().unwrap_or_default(),
            created_at: command.created_at,
        }
    }
}

#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PaymentFilter {
    /// The payment of this order alone.
    #[serde(default)]
    order_id: Option<Uuid>,
}

/// The caller's payments, newest first; staff sees everybody's.
#[utoipa::path(tag = "payments", params(PaymentFilter, PageQuery), security(("bearer" = [])),
    responses((status = 200, description = "A page of payments", body = Listed<PaymentBody>)))]
#[get("/payments")]
async fn list_payments(
    user: LoggedIn,
    filter: Query<PaymentFilter>,
    page: Query<PageQuery>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let page = service.list(user.call(), filter.order_id, &page.request()).await?;
    Ok(banyan_http::ok(&Listed::from(page.map(|payment| PaymentBody::from(&payment)))).into())
}

/// One payment.
#[utoipa::path(tag = "payments", params(("id" = Uuid, Path), IfNoneMatch), security(("bearer" = [])),
    responses((status = 200, description = "The payment", body = PaymentBody)))]
#[get("/payments/{id}")]
async fn find_payment(
    user: LoggedIn,
    id: Path<Uuid>,
    request: HttpRequest,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let payment = service.find(user.call(), id.into_inner()).await?;
    Ok(banyan_http::ok_with_etag(
        &request,
        &banyan_http::etag(payment.version),
        &PaymentBody::from(&payment),
    ))
}

/// Gives money back: an amount, or all that is left. All refunds together never exceed what was captured (409 `exceeds_captured`).
#[utoipa::path(tag = "payments", params(("id" = Uuid, Path), RequiredKey, IfMatch), request_body = NewRefund, security(("bearer" = [])),
    responses((status = 201, description = "The refund; `pending` if the provider has not answered yet", body = RefundBody,
        headers(("Location" = String, description = "Where the refund is")))))]
#[post("/payments/{id}/refunds")]
async fn refund_payment(
    staff: HasRole<Staff>,
    id: Path<Uuid>,
    key: RequiredKey,
    version: IfMatch,
    body: Body<NewRefund>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let request = key.keyed();
    if let Some(replay) = banyan_http::find_replay(&service.db, &request).await? {
        return Ok(replay);
    }
    // In a task of its own: otherwise a client that disconnects between the refund's first transaction and the provider's call leaves it to the
    // reconciler.
    let refunding = tokio::spawn(refund_once(
        service.into_inner(),
        staff.call().clone(),
        request,
        (id.into_inner(), version),
        body.into_inner(),
    ));
    let response = refunding
        .await
        .map_err(|error| Fault::internal("work_panicked", error.to_string()))?;
    Ok(response?.into())
}

/// The namespace of the ids of refunds, which are derived from the caller and the key of the request.
const REFUND_KEYS: Uuid = Uuid::from_u128(0x6f0d_3c52_8b7e_4a19_9d44_51c6_e2b8_a073);

async fn refund_once(
    service: Arc<Service>,
    call: Call,
    request: KeyedRequest,
    (id, version): (Uuid, IfMatch),
    refund: NewRefund,
) -> Result<KeyedResponse, Problem> {
    let NewRefund { amount, reason } = refund;
    let wanted = amount.map(|RefundAmount { amount, currency }| Money { amount, currency });
    // The work spans several transactions: its id comes from caller and key, so that a repeat after a crash in between finds it instead of
    // refunding again. The payment is part of the fingerprint and not of the id: one key never moves the money of two payments. The response is
    // stored at the end, byte for byte.
    let command_id = Uuid::new_v5(&REFUND_KEYS, request.id().as_bytes());
    let fingerprint = format!("{id} {wanted:?} {reason}");
    banyan_http::claim_key(&service.db, &request, "refund_key", fingerprint.as_bytes()).await?;
    let command = CommandRequest::new(command_id, Kind::Refund, fingerprint.as_bytes()).because(&reason);
    let refunded = service.refund_payment(&call, (id, version), command, wanted).await;
    if let Err(fault) = &refunded
        && fault.code == "command_reused"
    {
        // This is not stored: the key belongs to the request that came first.
        return Err(banyan_http::key_reused(fault.clone()).into());
    }
    let result = refunded.map(|command| {
        let body = RefundBody::from(&command);
        banyan_http::created(&format!("/api/v1/payments/{id}/refunds/{}", body.id), None, &body)
    });
    banyan_http::respond_once(&service.db, request, result, |_, result| async move { result }).await
}

/// The refunds of a payment, newest first.
#[utoipa::path(tag = "payments", params(("id" = Uuid, Path), PageQuery), security(("bearer" = [])),
    responses((status = 200, description = "A page of refunds", body = Listed<RefundBody>)))]
#[get("/payments/{id}/refunds")]
async fn list_refunds(
    user: LoggedIn,
    id: Path<Uuid>,
    page: Query<PageQuery>,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let page = service
        .list_refunds(user.call(), id.into_inner(), &page.request())
        .await?;
    Ok(banyan_http::ok(&Listed::from(page.map(|refund| RefundBody::from(&refund)))).into())
}

/// One refund.
#[utoipa::path(tag = "payments", params(("id" = Uuid, Path), ("refund_id" = Uuid, Path), IfNoneMatch), security(("bearer" = [])),
    responses((status = 200, description = "The refund", body = RefundBody)))]
#[get("/payments/{id}/refunds/{refund_id}")]
async fn find_refund(
    user: LoggedIn,
    ids: Path<(Uuid, Uuid)>,
    request: HttpRequest,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let (payment, refund) = ids.into_inner();
    let refund = service.find_refund(user.call(), payment, refund).await?;
    let version = if refund.is_open() { 1 } else { 2 };
    Ok(banyan_http::ok_with_etag(
        &request,
        &banyan_http::etag(version),
        &RefundBody::from(&refund),
    ))
}

/// What a webhook is answered with.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WebhookReceipt {
    received: bool,
}

/// News from a payment provider, signed by it: `Webhook-Signature: t=<seconds>,v1=<hex of HMAC-SHA256 over "t.body">`. Told twice it changes
/// nothing.
#[utoipa::path(tag = "payments", operation_id = "hear_webhook",
    params(("provider" = String, Path, description = "`sandbox`", max_length = 100),
        ("Webhook-Signature" = String, Header, description = "Signed at most 5 minutes ago", max_length = 1000)),
    request_body = WebhookEvent,
    responses((status = 200, description = "It was heard", body = WebhookReceipt),
        (status = 401, description = "Not signed by its provider, or too long ago", body = banyan_http::ProblemBody, content_type = "application/problem+json")))]
#[post("/payments/webhooks/{provider}")]
async fn receive_webhook(
    request: HttpRequest,
    provider: Path<String>,
    body: RawBody,
    service: Data<Service>,
) -> Result<HttpResponse, Problem> {
    let signature = request
        .headers()
        .get(SIGNATURE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    service.receive_webhook(&provider, signature, &body.0).await?;
    Ok(banyan_http::ok(&WebhookReceipt { received: true }).into())
}

pub fn routes(service: Arc<Service>) -> Routes {
    Routes::new(move |config| {
        config
            .app_data(Data::from(service.clone()))
            .service(list_payments)
            .service(receive_webhook)
            .service(refund_payment)
            .service(list_refunds)
            .service(find_refund)
            .service(find_payment);
    })
    .with_problems(PROBLEMS)
}

/// What clients may meet beside the shared problems, for the OpenAPI document.
const PROBLEMS: &[KnownProblem] = &[
    KnownProblem::of(
        409,
        "exceeds_captured",
        "More than was captured cannot be given back.",
        &["refund_payment"],
    ),
    KnownProblem::of(
        409,
        "nothing_to_refund",
        "Everything was given back.",
        &["refund_payment"],
    ),
    KnownProblem::of(409, "not_captured", "No money was taken.", &["refund_payment"]),
    KnownProblem::of(409, "declined", "The provider declined it.", &["refund_payment"]),
    KnownProblem::of(
        422,
        "currency_mismatch",
        "The payment is in another currency.",
        &["refund_payment"],
    ),
    KnownProblem::of(
        422,
        "invalid_amount",
        "The amount must be positive.",
        &["refund_payment"],
    ),
    KnownProblem::of(
        401,
        "invalid_signature",
        "Not signed by its provider, or too long ago.",
        &["hear_webhook"],
    ),
    KnownProblem::of(
        400,
        "malformed_webhook",
        "This is not an event of the provider.",
        &["hear_webhook"],
    ),
];
