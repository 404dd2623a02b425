//! `Prefer: wait=N` (RFC 7240): for how long the client prefers waiting for the outcome to polling for it.

use std::{
    future::{Ready, ready},
    time::Duration,
};

use actix_web::{FromRequest, HttpRequest, dev::Payload, http::header::HeaderMap};
use utoipa::{
    IntoParams,
    openapi::path::{Parameter, ParameterIn},
};

use crate::openapi::header_parameter;

/// The longest wait that is honoured.
pub const MAX_WAIT: Duration = Duration::from_secs(30);

/// The client's preferences. One that cannot be read is ignored, as the RFC requires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefer {
    /// At most [`MAX_WAIT`].
    pub wait: Option<Duration>,
}

impl Prefer {
    pub(crate) fn read(headers: &HeaderMap) -> Self {
        let values = headers.get_all("prefer").filter_map(|value| value.to_str().ok());
        let wait = values.flat_map(|value| value.split([',', ';'])).find_map(|preference| {
            let (name, value) = preference.split_once('=')?;
            let seconds = value.trim().trim_matches('"').parse::<u64>().ok()?;
            name.trim()
                .eq_ignore_ascii_case("wait")
                .then(|| Duration::from_secs(seconds).min(MAX_WAIT))
        });
        Prefer { wait }
    }

    /// The `Preference-Applied` header of a response that honoured the wait.
    pub fn applied(&self) -> Option<(&'static str, String)> {
        self.wait
            .map(|wait| ("Preference-Applied", format!("wait={}", wait.as_secs())))
    }
}

impl FromRequest for Prefer {
    type Error = std::convert::Infallible;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Prefer::read(request.headers())))
    }
}

impl IntoParams for Prefer {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![header_parameter(
            "Prefer",
            "`wait=N`: wait up to N seconds (at most 30) for the outcome.",
        )]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    #[test]
    fn a_wait_is_parsed_and_capped_and_an_invalid_one_is_ignored() {
        for (value, seconds) in [
            ("wait=5", Some(5)),
            ("respond-async, wait=10", Some(10)),
            ("Wait = \"7\"", Some(7)),
            ("wait=99999", Some(30)),
            ("wait=0", Some(0)),
            ("wait=-1", None),
            ("wait", None),
            ("return=minimal", None),
        ] {
            let request = TestRequest::get().insert_header(("Prefer", value)).to_http_request();
            assert_eq!(
                Prefer::read(request.headers()).wait,
                seconds.map(Duration::from_secs),
                "{value}"
            );
        }
    }
}
