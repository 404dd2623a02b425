//! The context of a call between modules: the actor, the timeout, the trace.

use std::{fmt, sync::Arc, time::Duration};

use crate::Actor;

/// The context of one call, the first argument of every contract method. In one process it is passed as it is; over gRPC it is sent as metadata.
#[derive(Clone, Debug, Default)]
pub struct Call {
    pub actor: Actor,
    /// What proves a user as the actor to other processes.
    pub token: Option<AccessToken>,
    /// The time the caller waits for the response. Without one the callee's own timeouts apply.
    pub timeout: Option<Duration>,
    pub trace: Option<TraceParent>,
}

impl Call {
    /// A claim alone: the server takes it from a caller that its certificate names, and a user only with a token.
    pub const ACTOR: &'static str = "banyan-actor";
    /// The user's access token, as a bearer token (RFC 6750).
    pub const TOKEN: &'static str = "authorization";
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

    /// A user, proved by the access token.
    pub fn by_user(actor: Actor, token: AccessToken) -> Self {
        Call {
            token: Some(token),
            ..Call::by(actor)
        }
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
        let token = self.token.as_ref();
        headers.extend(token.map(|token| (Self::TOKEN, format!("{BEARER}{}", token.expose()))));
        headers.extend(self.timeout.map(|timeout| (Self::TIMEOUT, timeout_to_header(timeout))));
        headers.extend(self.trace.as_ref().map(|trace| (Self::TRACE, trace.to_string())));
        headers
    }

    /// The call of a caller that the server has verified, with what else the metadata describes; absent and invalid values are ignored.
    pub fn received<'a>(caller: Option<&VerifiedCaller>, find: impl Fn(&'static str) -> Option<&'a str>) -> Self {
        let VerifiedCaller { actor, token } = caller.cloned().unwrap_or_default();
        Call {
            actor,
            token,
            timeout: find(Self::TIMEOUT).and_then(timeout_from_header),
            trace: find(Self::TRACE).and_then(TraceParent::parse),
        }
    }
}

/// Who makes a remote call, once the server has verified it. Without it a call is anonymous, whatever its metadata says.
#[derive(Clone, Debug, Default)]
pub struct VerifiedCaller {
    pub actor: Actor,
    pub token: Option<AccessToken>,
}

const BEARER: &str = "Bearer ";

/// The access token of a user, which every process that a call reaches verifies again. Its debug output does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken(Arc<str>);

impl AccessToken {
    pub fn new(token: &str) -> Self {
        AccessToken(token.into())
    }

    /// The token in the header [`Call::TOKEN`].
    pub fn from_header(value: &str) -> Option<Self> {
        value.strip_prefix(BEARER).map(AccessToken::new)
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(not shown)")
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

    fn received(sent: &Call, caller: Option<&VerifiedCaller>) -> Call {
        let headers = sent.to_headers();
        Call::received(caller, |name| {
            headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str())
        })
    }

    #[test]
    fn a_call_arrives_as_it_was_sent_with_the_actor_that_was_verified() {
        let trace = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let actor = Actor::user(uuid::Uuid::from_u128(7), ["reader"]);
        let sent = Call::by_user(actor.clone(), AccessToken::new("a.b.c"))
            .within(Duration::from_secs(3))
            .traced(trace.clone());
        let caller = VerifiedCaller {
            actor: actor.clone(),
            token: Some(AccessToken::new("a.b.c")),
        };
        let got = received(&sent, Some(&caller));
        assert_eq!((got.timeout, got.trace), (sent.timeout, trace));
        assert_eq!((got.actor, got.token), (actor, caller.token));
        let unverified = received(&sent, None);
        assert_eq!((unverified.actor, unverified.token), (Actor::Anonymous, None));
    }

    #[test]
    fn a_token_is_not_shown() {
        let call = Call::by_user(Actor::Anonymous, AccessToken::new("eyJhbGci"));
        assert!(!format!("{call:?}").contains("eyJhbGci"));
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
