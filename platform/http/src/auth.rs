//! The caller of a request. The type of a handler's first parameter decides who may call it.
//!
//! The token is verified once per request and the result is kept with the request, so that the rate limit, the idempotency key and the handler agree
//! on the caller.

use std::{marker::PhantomData, rc::Rc};

use actix_web::{FromRequest, HttpMessage, HttpRequest, dev::Payload, http::header, web::Data};
use banyan_core::{AccessToken, Actor, Call, Fault, FaultKind, OPERATOR, RequiredRole, SECURITY};
use futures::future::{FutureExt, LocalBoxFuture};
use uuid::Uuid;

use crate::{Problem, Verifier, client_address, request};

/// Any caller, with or without a token; an invalid token is refused.
#[derive(Clone, Debug)]
pub struct Anyone(pub Call);

/// Any authenticated user.
#[derive(Clone, Debug)]
pub struct LoggedIn(pub Call);

/// A user with the role that `R` names.
#[derive(Debug)]
pub struct HasRole<R>(pub Call, PhantomData<R>);

/// The role [`OPERATOR`].
#[derive(Clone, Copy, Debug)]
pub struct OperatorRole;

impl RequiredRole for OperatorRole {
    const NAME: &'static str = OPERATOR;
}

/// A user with the role [`OPERATOR`].
pub type Ops = HasRole<OperatorRole>;

impl Anyone {
    pub fn call(&self) -> &Call {
        &self.0
    }

    /// The call of an authenticated user, for an operation that can also be called in another way.
    ///
    /// # Errors
    /// `unauthenticated` (401).
    pub fn logged_in(&self) -> Result<&Call, Fault> {
        check_is_user(&self.0.actor).map(|()| &self.0)
    }
}

impl LoggedIn {
    pub fn call(&self) -> &Call {
        &self.0
    }

    /// The user's id.
    pub fn user_id(&self) -> Uuid {
        // The extractor admits only users.
        self.0.actor.user_id().unwrap_or_default()
    }
}

impl<R> HasRole<R> {
    pub fn call(&self) -> &Call {
        &self.0
    }

    /// The user's id.
    pub fn user_id(&self) -> Uuid {
        // The extractor admits only users.
        self.0.actor.user_id().unwrap_or_default()
    }
}

impl FromRequest for LoggedIn {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        async move { Ok(LoggedIn(user(&request, None).await?)) }.boxed_local()
    }
}

impl<R: RequiredRole> FromRequest for HasRole<R> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        async move { Ok(HasRole(user(&request, Some(R::NAME)).await?, PhantomData)) }.boxed_local()
    }
}

impl FromRequest for Anyone {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        async move { Ok(Anyone(call(actor(&request).await?, &request))) }.boxed_local()
    }
}

/// App data of a server whose product has no users: callers without a token are admitted as operators. For a server that only this machine reaches.
#[derive(Clone, Copy, Debug)]
pub struct AnyoneOperates;

async fn user(request: &HttpRequest, role: Option<&str>) -> Result<Call, Fault> {
    let actor = actor(request).await?;
    if actor == Actor::Anonymous && role == Some(OPERATOR) && request.app_data::<AnyoneOperates>().is_some() {
        return Ok(call(actor, request));
    }
    check_is_user(&actor)?;
    match role {
        Some(role) if !actor.has_role(role) => {
            let user = actor.user_id().map(|id| id.to_string());
            let (method, path) = (request.method().as_str(), request.path());
            let address = client_address(request);
            tracing::warn!(target: SECURITY, event = "access_refused", user, address, reason = role, method, path, "a role was missing");
            Err(Fault::new(
                FaultKind::Forbidden,
                "insufficient_role",
                format!("This needs the role {}.", role),
            ))
        }
        _ => Ok(call(actor, request)),
    }
}

/// The call of this request: other processes verify its token again.
fn call(actor: Actor, request: &HttpRequest) -> Call {
    let call = match bearer(request.headers()) {
        Ok(Some(token)) => Call::by_user(actor, AccessToken::new(token)),
        _ => Call::by(actor),
    };
    request::traced(call, request)
}

fn check_is_user(actor: &Actor) -> Result<(), Fault> {
    match actor.user_id() {
        Some(_) => Ok(()),
        None => Err(Fault::unauthenticated(
            "unauthenticated",
            "This needs an access token: Authorization: Bearer <token>.",
        )),
    }
}

/// The result of verifying this request's token.
#[derive(Clone)]
struct Verified(Rc<Result<Actor, Fault>>);

/// The caller, verified at most once per request.
pub(crate) async fn actor(request: &HttpRequest) -> Result<Actor, Fault> {
    let known = request.extensions().get::<Verified>().cloned();
    if let Some(Verified(result)) = known {
        return (*result).clone();
    }
    let result = verify(request.app_data::<Data<Verifier>>(), request.headers()).await;
    request.extensions_mut().insert(Verified(Rc::new(result.clone())));
    result
}

/// As [`actor`], for middleware, where the request is not yet routed and must not be cloned.
pub(crate) async fn actor_of_service_request(request: &actix_web::dev::ServiceRequest) -> Result<Actor, Fault> {
    let result = verify(request.app_data::<Data<Verifier>>(), request.headers()).await;
    request.extensions_mut().insert(Verified(Rc::new(result.clone())));
    result
}

async fn verify(verifier: Option<&Data<Verifier>>, headers: &header::HeaderMap) -> Result<Actor, Fault> {
    let Some(token) = bearer(headers)? else {
        return Ok(Actor::Anonymous);
    };
    let verifier =
        verifier.ok_or_else(|| Fault::internal("no_verifier", "the server has no banyan_http::Data<Verifier>"))?;
    let claims = verifier.verify(token).await?;
    Ok(Actor::User {
        id: claims.sub,
        roles: claims.roles,
    })
}

/// The bearer token (RFC 6750, section 2.1). Anything else in `Authorization` is an error: treating it as absent would make the caller anonymous
/// without a word.
fn bearer(headers: &header::HeaderMap) -> Result<Option<&str>, Fault> {
    let mut values = headers.get_all(header::AUTHORIZATION);
    let Some(value) = values.next() else { return Ok(None) };
    let bad = || Fault::unauthenticated("invalid_token", "Authorization must be a single `Bearer <token>`.");
    if values.next().is_some() {
        return Err(bad());
    }
    let (scheme, token) = value
        .to_str()
        .map_err(|_| bad())?
        .trim()
        .split_once(' ')
        .ok_or_else(bad)?;
    let token = token.trim_start();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        Err(bad())
    } else {
        Ok(Some(token))
    }
}

/// The claims in a verified token, for handlers that need more than the caller: logging out needs the session's family.
///
/// 401 without a token.
#[derive(Clone, Debug)]
pub struct Token(pub crate::Claims);

impl FromRequest for Token {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        async move {
            user(&request, None).await?;
            let missing = || Fault::internal("no_verifier", "the server has no banyan_http::Data<Verifier>");
            let verifier = request.app_data::<Data<Verifier>>().ok_or_else(missing)?;
            let token = bearer(request.headers())?.unwrap_or_default();
            Ok(Token(verifier.verify(token).await?))
        }
        .boxed_local()
    }
}
