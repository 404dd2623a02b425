//! Calls as gRPC over HTTP/2 carries them: statuses and failures.

use banyan_core::{Fault, WireFault};
use http_body_util::Collected;
use tonic::{
    Code, ConnectError, Status, TimeoutExpired,
    body::Body,
    codegen::{
        Bytes, StdError,
        http::{HeaderMap, Response, StatusCode},
    },
};

use crate::balancing::{Attempt, CallFailure};

/// A body that has arrived, with its trailers.
pub type Whole = Collected<Bytes>;

/// Why the transport failed.
pub fn failure_of(error: tonic::transport::Error) -> CallFailure {
    let error: StdError = error.into();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&*error);
    while let Some(at) = cause {
        if let Some(connect) = at.downcast_ref::<ConnectError>() {
            return CallFailure::NotConnected(connect.0.to_string());
        }
        if at.is::<TimeoutExpired>() {
            return CallFailure::Timeout;
        }
        cause = at.source();
    }
    CallFailure::ConnectionLost(error.to_string())
}

/// Distinguishes a module's own response from one that its server, a proxy or a library made in its place: a module's fault carries its details.
///
/// # Errors
/// It is not the module's own.
pub fn read(response: Response<Whole>) -> Result<Attempt<Response<Body>>, CallFailure> {
    let (head, body) = response.into_parts();
    if matches!(
        head.status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    ) {
        return Err(CallFailure::NotServed);
    }
    let status = [Some(&head.headers), body.trailers()]
        .into_iter()
        .flatten()
        .find_map(|headers| Some((status_in(headers)?, headers)));
    let is_unavailable = match status {
        Some(((Code::Unavailable, false), _)) => return Err(CallFailure::NotServed),
        Some(((Code::Cancelled | Code::DeadlineExceeded, false), _)) => return Err(CallFailure::Timeout),
        Some(((Code::PermissionDenied | Code::Unauthenticated, false), headers)) => {
            let why = Status::from_header_map(headers).map(|status| status.message().to_owned());
            return Err(CallFailure::NotAllowed(why.unwrap_or_default()));
        }
        Some(((code, _), _)) => matches!(code, Code::Unavailable | Code::DeadlineExceeded),
        None => false,
    };
    Ok(Attempt {
        response: Response::from_parts(head, Body::new(body)),
        is_unavailable,
    })
}

/// The status, and whether it has details.
fn status_in(headers: &HeaderMap) -> Option<(Code, bool)> {
    let code = Code::from_bytes(headers.get("grpc-status")?.as_bytes());
    Some((code, headers.contains_key("grpc-status-details-bin")))
}

/// A fault as the generated clients read it.
pub fn status(fault: &Fault) -> Status {
    let wire = WireFault::from(fault);
    Status::with_details(wire.code.into(), wire.message, wire.details.into())
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use http_body_util::{BodyExt, Empty};

    use super::*;

    fn response(http: u16, headers: &[(&'static str, &'static str)]) -> Response<Whole> {
        let body = Empty::new().collect().now_or_never().unwrap().unwrap();
        let mut response = Response::builder().status(http);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        response.body(body).unwrap()
    }

    #[test]
    fn a_modules_own_status_is_distinguished_from_one_that_a_server_or_proxy_made() {
        let of_the_server = |code: &'static str| read(response(200, &[("grpc-status", code)]));
        let of_the_module = |code: &'static str| {
            read(response(
                200,
                &[("grpc-status", code), ("grpc-status-details-bin", "e30")],
            ))
        };
        assert!(matches!(of_the_server("14"), Err(CallFailure::NotServed)));
        assert!(
            matches!(of_the_server("1"), Err(CallFailure::Timeout)),
            "tonic's servers say `cancelled` at the timeout"
        );
        assert!(matches!(of_the_server("4"), Err(CallFailure::Timeout)));
        assert!(
            matches!(read(response(503, &[])), Err(CallFailure::NotServed)),
            "a proxy's response"
        );
        for code in ["7", "16"] {
            assert!(matches!(of_the_server(code), Err(CallFailure::NotAllowed(_))));
            assert!(of_the_module(code).is_ok_and(|attempt| !attempt.is_unavailable));
        }
        for code in ["14", "4"] {
            assert!(
                of_the_module(code).is_ok_and(|attempt| attempt.is_unavailable),
                "{code}"
            );
        }
        for present in [
            of_the_module("5"),
            of_the_module("9"),
            of_the_server("5"),
            of_the_server("0"),
            read(response(200, &[])),
        ] {
            assert!(present.is_ok_and(|attempt| !attempt.is_unavailable));
        }
    }
}
