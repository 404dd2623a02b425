//! Why a call got no response.

use std::{fmt, time::Duration};

use banyan_core::Fault;

/// Why a call got no response, as far as the calling side knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallFailure {
    /// The breaker is open for this time.
    BreakerOpen(Duration),
    /// The maximum number of calls is waiting already; nothing was sent.
    QueueFull,
    /// No permit became free before the timeout; nothing was sent.
    QueueTimeout,
    /// No instance is in rotation; nothing was sent.
    NoInstance,
    /// No connection could be made; nothing was sent.
    NotConnected(String),
    /// The other side's server, not the module, said that it cannot respond.
    NotServed,
    /// The other side's server, not the module, refuses calls of this process: the certificates or the tables of modules differ. Nothing happened.
    NotAllowed(String),
    /// The connection was lost after the call may have been sent.
    ConnectionLost(String),
    /// It was sent, and no response came before the timeout.
    Timeout,
}

impl CallFailure {
    /// Whether the call may have reached the module: then what happened is unknown.
    pub fn may_have_arrived(&self) -> bool {
        matches!(self, CallFailure::ConnectionLost(_) | CallFailure::Timeout)
    }

    /// Whether it says that the module is unavailable, and not only that this process is busy with it.
    pub fn is_of_module(&self) -> bool {
        !matches!(
            self,
            CallFailure::BreakerOpen(_)
                | CallFailure::QueueFull
                | CallFailure::QueueTimeout
                | CallFailure::NotAllowed(_)
        )
    }

    /// What a caller within the product gets: which module, and whether something may have happened; nothing about addresses or connections.
    pub fn fault(&self, module: &str) -> Fault {
        match self {
            CallFailure::BreakerOpen(wait) => {
                Fault::unavailable(format!("{module} is unavailable.")).retry_after(*wait)
            }
            CallFailure::QueueFull | CallFailure::QueueTimeout => {
                Fault::unavailable(format!("Too many calls to {module} are under way."))
            }
            CallFailure::NoInstance | CallFailure::NotConnected(_) | CallFailure::NotServed => {
                Fault::unavailable(format!("{module} cannot be reached."))
            }
            // Not the module's refusal: a saga must not take it for one and undo its work. An operator has to act.
            CallFailure::NotAllowed(why) => Fault::internal("call_not_allowed", format!("{module}: {why}")),
            CallFailure::ConnectionLost(_) => {
                Fault::timeout(format!("The connection to {module} was lost before it responded."))
            }
            CallFailure::Timeout => Fault::timeout(format!("{module} did not respond in time.")),
        }
    }
}

/// For logs.
impl fmt::Display for CallFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallFailure::BreakerOpen(_) => f.write_str("the breaker is open"),
            CallFailure::QueueFull => f.write_str("the queue is full"),
            CallFailure::QueueTimeout => f.write_str("no permit became free in time"),
            CallFailure::NoInstance => f.write_str("no instance is in rotation"),
            CallFailure::NotConnected(why) => write!(f, "no connection: {why}"),
            CallFailure::NotServed => f.write_str("its server says that it cannot respond"),
            CallFailure::NotAllowed(why) => write!(f, "its server does not allow it: {why}"),
            CallFailure::ConnectionLost(why) => write!(f, "the connection was lost: {why}"),
            CallFailure::Timeout => f.write_str("no response in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_names_the_module_and_nothing_behind_it() {
        let secret = || "tcp connect error: 10.0.0.7:9000".to_owned();
        for failure in [
            CallFailure::NoInstance,
            CallFailure::NotConnected(secret()),
            CallFailure::ConnectionLost(secret()),
            CallFailure::Timeout,
            CallFailure::QueueFull,
            CallFailure::NotServed,
        ] {
            let fault = failure.fault("payments");
            assert!(
                fault.detail.contains("payments") && !fault.detail.contains("10.0.0.7"),
                "{fault}"
            );
            assert!(fault.is_transient());
        }
        let fault = CallFailure::BreakerOpen(Duration::from_millis(1_200)).fault("payments");
        assert_eq!(fault.retry_after, Some(Duration::from_millis(1_200)));
        let not_allowed = CallFailure::NotAllowed("x".to_owned()).fault("payments");
        assert!(!not_allowed.is_refusal() && !not_allowed.is_transient());
    }
}
