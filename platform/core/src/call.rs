//! The context of a call between modules: the actor, the timeout, the trace.

use std::{fmt, time::Duration};

use crate::Actor;

/// The context of one call, the first argument of every contract method. In one process it is passed as it is; over gRPC it is sent as metadata.
#[derive(Clone, Debug, Default)]
pub struct Call {
    pub actor: Actor,
    /// The time the caller waits for the response. Without one the callee's own timeouts apply.
    pub timeout: Option<Duration>,
    pub trace: Option<TraceParent>,
}

impl Call {
    const ACTOR: &'static str = "banyan-actor";
    /// gRPC's own header, so that servers and proxies respect it too. Whoever forwards a call sets it to the remaining time.
    pub const TIMEOUT: &'static str = "grpc-timeout";
    const TRACE: &'static str = "traceparent";

    pub fn by(actor: Actor) -> Self {
        Call {
            actor,
            ..Call::default()
        }
    }

    /// A module acting on its own.
    pub fn by_module(name: &str) -> Self {
        Call::by(Actor::module(name))
    }

    pub fn within(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    pub fn traced(mut self, trace: Option<TraceParent>) -> Self {
        self.trace = trace;
        self
    }

    /// The metadata of a remote call.
    pub fn to_headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![(Self::ACTOR, serde_json::to_string(&self.actor).unwrap_or_default())];
        headers.extend(self.timeout.map(|timeout| (Self::TIMEOUT, timeout_to_header(timeout))));
        headers.extend(self.trace.as_ref().map(|trace| (Self::TRACE, trace.to_string())));
        headers
    }

    /// The call that the metadata of a remote call describes; absent and invalid values are ignored.
    pub fn from_headers<'a>(find: impl Fn(&'static str) -> Option<&'a str>) -> Self {
        Call {
            actor: find(Self::ACTOR)
                .and_then(|json| serde_json::from_str(json).ok())
                .unwrap_or_default(),
            timeout: find(Self::TIMEOUT).and_then(timeout_from_header),
            trace: find(Self::TRACE).and_then(TraceParent::parse),
        }
    }
}

/// A timeout as gRPC over HTTP/2 writes it ("Timeout": at most eight digits and a unit), in whole milliseconds, at least 1.
pub fn timeout_to_header(timeout: Duration) -> String {
    format!("{}m", timeout.as_millis().clamp(1, 99_999_999))
}

/// Reads what [`timeout_to_header`] and every other gRPC client writes.
pub fn timeout_from_header(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let digits = text.strip_suffix(unit)?;
    let amount: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        'H' => Some(Duration::from_secs(amount * 3_600)),
        'M' => Some(Duration::from_secs(amount * 60)),
        'S' => Some(Duration::from_secs(amount)),
        'm' => Some(Duration::from_millis(amount)),
        'u' => Some(Duration::from_micros(amount)),
        'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// A W3C Trace Context `traceparent` (version 00), checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent(String);

impl TraceParent {
    /// `None` unless it is `00-<32 hex>-<16 hex>-<2 hex>` with neither id all zeros, as the recommendation demands.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex =
            |part: &str, len: usize| part.len() == len && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let parts: Vec<&str> = text.split('-').collect();
        let [version, trace_id, parent_id, flags] = parts[..] else {
            return None;
        };
        let valid = version == "00" && is_hex(trace_id, 32) && is_hex(parent_id, 16) && is_hex(flags, 2);
        let zero = |part: &str| part.bytes().all(|b| b == b'0');
        (valid && !zero(trace_id) && !zero(parent_id)).then(|| TraceParent(text.to_owned()))
    }

    /// Starts a trace: `trace` gives its id, `span` the first span's.
    pub fn start(trace: uuid::Uuid, span: u64) -> Self {
        TraceParent(format!("00-{}-{:016x}-01", trace.simple(), span.max(1)))
    }

    pub fn trace_id(&self) -> &str {
        &self.0[3..35]
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_arrives_as_it_was_sent() {
        let trace = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let sent = Call::by(Actor::user(uuid::Uuid::from_u128(7), ["reader"]))
            .within(Duration::from_secs(3))
            .traced(trace.clone());
        let headers = sent.to_headers();
        let got = Call::from_headers(|name| headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str()));
        assert_eq!((got.actor, got.timeout, got.trace), (sent.actor, sent.timeout, trace));
    }

    #[test]
    fn a_timeout_header_is_parsed_in_every_unit() {
        for ms in [1, 2_500, 86_400_000] {
            let timeout = Duration::from_millis(ms);
            assert_eq!(timeout_from_header(&timeout_to_header(timeout)), Some(timeout));
        }
        assert_eq!(timeout_to_header(Duration::from_secs(1_000_000)), "99999999m");
        for (text, timeout) in [
            ("3S", 3_000),
            ("2M", 120_000),
            ("1H", 3_600_000),
            ("5000u", 5),
            ("7000000n", 7),
        ] {
            assert_eq!(
                timeout_from_header(text),
                Some(Duration::from_millis(timeout)),
                "{text}"
            );
        }
        for wrong in ["", "3", "S", "123456789m", "1x", "-1S"] {
            assert_eq!(timeout_from_header(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_malformed_traceparent_is_ignored() {
        for bad in [
            "",
            "00-0-0-00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }
}
