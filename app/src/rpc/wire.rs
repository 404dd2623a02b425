//! Calls as gRPC over HTTP/2 carries them: statuses, and why there is no answer.

use std::time::Duration;

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

/// A body that has arrived, with its trailers.
pub type Whole = Collected<Bytes>;

/// Why a call has no answer, as far as this side knows.
#[derive(Debug)]
pub enum Failure {
    /// The breaker is open for so long.
    Open(Duration),
    /// Too many calls wait already.
    Crowded,
    /// Its turn did not come in time; nothing was sent.
    NoTurn,
    /// No instance is in rotation.
    Nowhere,
    /// No connection could be made; nothing was sent.
    NotConnected(String),
    /// The connection was lost after the call may have been sent.
    Lost(String),
    /// It was sent, and no answer came in time.
    Late,
    /// The other side's machinery, not the module, said that nobody can answer.
    Unserved,
}

impl Failure {
    pub fn of_transport(error: tonic::transport::Error) -> Self {
        let error: StdError = error.into();
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&*error);
        while let Some(at) = cause {
            if let Some(connect) = at.downcast_ref::<ConnectError>() {
                return Failure::NotConnected(connect.0.to_string());
            }
            if at.is::<TimeoutExpired>() {
                return Failure::Late;
            }
            cause = at.source();
        }
        Failure::Lost(error.to_string())
    }

    /// For logs.
    pub fn reason(&self) -> &str {
        match self {
            Failure::Open(_) => "the breaker is open",
            Failure::Crowded => "the queue is full",
            Failure::NoTurn => "its turn did not come in time",
            Failure::Nowhere => "no instance is in rotation",
            Failure::Late => "no answer in time",
            Failure::Unserved => "its process says that it cannot answer",
            Failure::NotConnected(reason) | Failure::Lost(reason) => reason,
        }
    }

    /// What the caller hears: which module, and whether something may have happened; nothing about addresses or connections.
    pub fn fault(&self, module: &str) -> Fault {
        match self {
            Failure::Open(wait) => Fault::unavailable(format!("{module} is away.")).retry_after(*wait),
            Failure::Crowded | Failure::NoTurn => {
                Fault::unavailable(format!("Too many calls to {module} are under way."))
            }
            Failure::Nowhere | Failure::NotConnected(_) | Failure::Unserved => {
                Fault::unavailable(format!("{module} cannot be reached."))
            }
            Failure::Lost(_) => Fault::timeout(format!("The connection to {module} was lost before it answered.")),
            Failure::Late => Fault::timeout(format!("{module} did not answer in time.")),
        }
    }
}

/// An answer, and whether it says that the module cannot answer now.
pub struct Answer {
    pub response: Response<Body>,
    pub is_away: bool,
}

/// Tells what the module answered from what its process answered in its place. A module's fault carries its details; a status without them was
/// made by a server, a proxy or a library on the way.
///
/// # Errors
/// Nobody answered.
pub fn read(response: Response<Whole>) -> Result<Answer, Failure> {
    let (head, body) = response.into_parts();
    if matches!(
        head.status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    ) {
        return Err(Failure::Unserved);
    }
    let status = [Some(&head.headers), body.trailers()]
        .into_iter()
        .flatten()
        .find_map(status_in);
    let is_away = match status {
        Some((Code::Unavailable, false)) => return Err(Failure::Unserved),
        Some((Code::Cancelled | Code::DeadlineExceeded, false)) => return Err(Failure::Late),
        Some((code, _)) => matches!(code, Code::Unavailable | Code::DeadlineExceeded),
        None => false,
    };
    Ok(Answer {
        response: Response::from_parts(head, Body::new(body)),
        is_away,
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
    fn what_a_module_says_is_told_from_what_is_said_in_its_place() {
        let of_the_server = |code: &'static str| read(response(200, &[("grpc-status", code)]));
        let of_the_module = |code: &'static str| {
            read(response(
                200,
                &[("grpc-status", code), ("grpc-status-details-bin", "e30")],
            ))
        };
        assert!(matches!(of_the_server("14"), Err(Failure::Unserved)));
        assert!(
            matches!(of_the_server("1"), Err(Failure::Late)),
            "tonic's servers say `cancelled` when the time limit is over"
        );
        assert!(matches!(of_the_server("4"), Err(Failure::Late)));
        assert!(
            matches!(read(response(503, &[])), Err(Failure::Unserved)),
            "a proxy's answer"
        );
        for code in ["14", "4"] {
            assert!(of_the_module(code).is_ok_and(|answer| answer.is_away), "{code}");
        }
        for present in [
            of_the_module("5"),
            of_the_module("9"),
            of_the_server("5"),
            of_the_server("0"),
            read(response(200, &[])),
        ] {
            assert!(present.is_ok_and(|answer| !answer.is_away));
        }
    }

    #[test]
    fn a_fault_to_a_caller_names_the_module_and_nothing_behind_it() {
        let secret = || "tcp connect error: 10.0.0.7:9000".to_owned();
        for failure in [
            Failure::Nowhere,
            Failure::NotConnected(secret()),
            Failure::Lost(secret()),
            Failure::Late,
            Failure::Crowded,
        ] {
            let fault = failure.fault("payments");
            assert!(
                fault.detail.contains("payments") && !fault.detail.contains("10.0.0.7"),
                "{fault}"
            );
            assert!(fault.is_transient());
        }
        let fault = Failure::Open(Duration::from_millis(1_200)).fault("payments");
        assert_eq!(fault.retry_after, Some(Duration::from_millis(1_200)));
    }
}
