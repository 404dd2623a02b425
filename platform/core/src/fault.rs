//! Why a call has no result.
//!
//! An outcome the caller branches on is part of the response's type. A [`Fault`] means that there is no result: the request was invalid, the caller
//! may not make it, or the callee could not serve it now. It is rendered in one place as problem+json (crate `banyan-http`), and is sent between
//! processes as a gRPC status with details.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// The kind of a fault: it decides the HTTP status, the gRPC code, and whether a retry can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The request's form is wrong (HTTP 400).
    Malformed,
    /// The request is well-formed and breaks a rule (HTTP 422).
    Invalid,
    /// The caller is not authenticated (HTTP 401).
    Unauthenticated,
    /// The caller is not allowed to do this (HTTP 403).
    Forbidden,
    /// It does not exist, or is somebody else's (HTTP 404).
    NotFound,
    /// The current state does not allow it (HTTP 409).
    Conflict,
    /// The caller's precondition does not hold (HTTP 412).
    PreconditionFailed,
    /// The caller exceeded a rate limit or a quota (HTTP 429).
    TooMany,
    /// A bug or broken invariant on this side (HTTP 500). The detail is for logs, never for clients.
    Internal,
    /// It cannot be served now; as far as is known nothing happened (HTTP 503).
    Unavailable,
    /// There was no response in time; **what happened is unknown** (HTTP 504).
    Timeout,
}

/// One field that broke one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FieldError {
    /// RFC 6901 pointer into the body, or the name of a parameter.
    pub pointer: String,
    /// The rule, in words.
    pub detail: String,
}

/// Why a call has no result: a kind, a stable code for programs, a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Fault {
    pub kind: FaultKind,
    /// Stable, snake_case; documented and never renamed.
    pub code: String,
    pub detail: String,
    #[serde(default)]
    pub retry_after: Option<Duration>,
    #[serde(default)]
    pub errors: Vec<FieldError>,
}

impl Fault {
    pub fn new(kind: FaultKind, code: impl Into<String>, detail: impl Into<String>) -> Self {
        Fault {
            kind,
            code: code.into(),
            detail: detail.into(),
            retry_after: None,
            errors: Vec::new(),
        }
    }

    pub fn malformed(code: &str, detail: impl Into<String>) -> Self {
        Fault::new(FaultKind::Malformed, code, detail)
    }

    pub fn invalid(code: &str, detail: impl Into<String>) -> Self {
        Fault::new(FaultKind::Invalid, code, detail)
    }

    pub fn unauthenticated(code: &str, detail: impl Into<String>) -> Self {
        Fault::new(FaultKind::Unauthenticated, code, detail)
    }

    pub fn forbidden(detail: impl Into<String>) -> Self {
        Fault::new(FaultKind::Forbidden, "forbidden", detail)
    }

    /// `what` names the thing, for example `order`. Also for a thing that belongs to somebody else: the two must look alike.
    pub fn not_found(what: &str) -> Self {
        Fault::new(FaultKind::NotFound, "not_found", format!("There is no such {what}."))
    }

    pub fn conflict(code: &str, detail: impl Into<String>) -> Self {
        Fault::new(FaultKind::Conflict, code, detail)
    }

    pub fn internal(code: &str, detail: impl Into<String>) -> Self {
        Fault::new(FaultKind::Internal, code, detail)
    }

    pub fn unavailable(what: impl Into<String>) -> Self {
        Fault::new(FaultKind::Unavailable, "unavailable", what).retry_after(Duration::from_secs(1))
    }

    pub fn timeout(what: impl Into<String>) -> Self {
        Fault::new(FaultKind::Timeout, "timeout", what)
    }

    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Names a field and the rule it broke.
    pub fn at(mut self, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        self.errors.push(FieldError {
            pointer: pointer.into(),
            detail: detail.into(),
        });
        self
    }

    /// Whether the request itself was refused: the same request will be refused again. The other kinds leave the outcome open (RELIABILITY.md, rule 3:
    /// unknown is never failed).
    pub fn is_refusal(&self) -> bool {
        !matches!(
            self.kind,
            FaultKind::Internal | FaultKind::Unavailable | FaultKind::Timeout | FaultKind::TooMany
        )
    }

    /// Whether a later retry may succeed without anybody fixing anything.
    pub fn is_transient(&self) -> bool {
        matches!(
            self.kind,
            FaultKind::Unavailable | FaultKind::Timeout | FaultKind::TooMany
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

/// A fault as a gRPC status: code, message, details. Numbers are those of the gRPC specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireFault {
    pub code: i32,
    pub message: String,
    pub details: Vec<u8>,
}

impl From<&Fault> for WireFault {
    fn from(fault: &Fault) -> Self {
        let code = match fault.kind {
            FaultKind::Malformed | FaultKind::Invalid => 3,
            FaultKind::Timeout => 4,
            FaultKind::NotFound => 5,
            FaultKind::Forbidden => 7,
            FaultKind::TooMany => 8,
            FaultKind::Conflict | FaultKind::PreconditionFailed => 9,
            FaultKind::Internal => 13,
            FaultKind::Unavailable => 14,
            FaultKind::Unauthenticated => 16,
        };
        WireFault {
            code,
            message: fault.to_string(),
            details: serde_json::to_vec(fault).unwrap_or_default(),
        }
    }
}

impl From<WireFault> for Fault {
    /// The details are the complete fault. A status without them does not come from the module but from a proxy, a library or the connection: whatever
    /// its code, the module did not refuse, and the request may have reached it (RELIABILITY.md, rule 3). Only an unimplemented method is a mistake in
    /// how the processes were deployed.
    fn from(wire: WireFault) -> Self {
        const UNIMPLEMENTED: i32 = 12;
        serde_json::from_slice(&wire.details).unwrap_or_else(|_| match wire.code {
            UNIMPLEMENTED => Fault::internal("unimplemented", wire.message),
            _ => Fault::timeout(wire.message),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_crosses_the_wire_unchanged() {
        let fault = Fault::conflict("already_archived", "It is archived.")
            .retry_after(Duration::from_secs(2))
            .at("/id", "rule");
        assert_eq!(Fault::from(WireFault::from(&fault)), fault);
    }

    #[test]
    fn a_status_of_the_transport_leaves_the_outcome_open() {
        for code in 0..=17 {
            for details in [&b""[..], b"{}", b"<html>403 Forbidden</html>"] {
                let fault = Fault::from(WireFault {
                    code,
                    message: "denied by policy".into(),
                    details: details.to_vec(),
                });
                assert!(!fault.is_refusal(), "{code}: {fault}");
                let expected = if code == 12 {
                    FaultKind::Internal
                } else {
                    FaultKind::Timeout
                };
                assert_eq!(fault.kind, expected, "{code}");
            }
        }
    }
}
