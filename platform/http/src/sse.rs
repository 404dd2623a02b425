//! Server-Sent Events (WHATWG HTML, section 9.2): a stream of events that a client can resume by the id of the last event it received.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    time::Duration,
};

use actix_web::{FromRequest, HttpRequest, HttpResponse, dev::Payload, http::header};
use banyan_core::Fault;
use bytes::Bytes;
use futures::{Stream, StreamExt, future, stream};
use serde::Serialize;
use tokio_stream::wrappers::IntervalStream;
use tokio_util::sync::CancellationToken;
use utoipa::{
    IntoParams, ToSchema,
    openapi::path::{Parameter, ParameterIn},
};

use crate::openapi::header_parameter;

/// The interval between heartbeat comments. They keep proxies from closing an idle stream and reveal clients that have disconnected.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// The delay before a client reconnects.
const RECONNECT_MS: u64 = 2_000;

/// How one event of a `text/event-stream` looks to whoever reads it: for the document. OpenAPI 3.1 has no word for "a stream of these".
#[derive(Clone, Debug, ToSchema)]
pub struct StreamEvent {
    /// What to send back as `Last-Event-ID`.
    pub id: String,
    /// The event's type.
    pub event: String,
    /// JSON.
    pub data: String,
}

/// One event of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    id: Option<String>,
    event: Option<String>,
    data: String,
}

impl Event {
    /// `id` is what the client sends back as `Last-Event-ID`.
    ///
    /// # Errors
    /// `unwritable_event`: `data` cannot be written as JSON, which is a bug.
    pub fn json(id: impl ToString, event: &str, data: &impl Serialize) -> Result<Self, Fault> {
        let data =
            serde_json::to_string(data).map_err(|error| Fault::internal("unwritable_event", error.to_string()))?;
        Ok(Event {
            id: Some(one_line(&id.to_string())),
            event: Some(one_line(event)),
            data,
        })
    }

    fn to_bytes(&self) -> Bytes {
        let mut text = String::with_capacity(self.data.len() + 64);
        for (field, value) in [("id", &self.id), ("event", &self.event)] {
            if let Some(value) = value {
                text.push_str(&format!("{field}: {value}\n"));
            }
        }
        // JSON has no raw line breaks, but a data line must never contain one.
        for line in self.data.split(['\r', '\n']) {
            text.push_str(&format!("data: {line}\n"));
        }
        text.push('\n');
        Bytes::from(text)
    }
}

fn one_line(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).collect()
}

/// Cancelled when the server stops, for handlers that wait: put it into the app's data. Without it they never stop early.
#[derive(Clone, Debug, Default)]
pub struct Stopping(pub CancellationToken);

impl Stopping {
    pub(crate) fn of(request: &HttpRequest) -> Self {
        request.app_data::<Stopping>().cloned().unwrap_or_default()
    }
}

impl FromRequest for Stopping {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Stopping::of(request)))
    }
}

/// The `Last-Event-ID` of a client that reconnects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastEventId(pub Option<String>);

impl FromRequest for LastEventId {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let value = request
            .headers()
            .get("Last-Event-ID")
            .and_then(|value| value.to_str().ok());
        ready(Ok(LastEventId(
            value.map(str::trim).filter(|id| !id.is_empty()).map(str::to_owned),
        )))
    }
}

impl IntoParams for LastEventId {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![header_parameter(
            "Last-Event-ID",
            "The id of the last event seen: the stream goes on behind it.",
        )]
    }
}

/// Responds with `events` until they end or the server stops. A fault ends the stream; the client reconnects and resumes.
pub fn respond(request: &HttpRequest, events: impl Stream<Item = Result<Event, Fault>> + 'static) -> HttpResponse {
    respond_with(request, events, HEARTBEAT)
}

fn respond_with(
    request: &HttpRequest,
    events: impl Stream<Item = Result<Event, Fault>> + 'static,
    heartbeat_interval: Duration,
) -> HttpResponse {
    let Stopping(stop) = Stopping::of(request);
    let greeting = stream::iter([Bytes::from(format!("retry: {RECONNECT_MS}\n\n"))]);
    let ended = CancellationToken::new();
    let end_guard = ended.clone().drop_guard();
    let events = events
        .take_while(|event| {
            if let Err(fault) = event {
                tracing::warn!(%fault, "a stream of events ended early");
            }
            future::ready(event.is_ok())
        })
        .filter_map(|event| future::ready(event.ok()))
        .map(|event| event.to_bytes())
        // The heartbeat stops when the events end.
        .chain(stream::once(async move { drop(end_guard) }).filter_map(|()| future::ready(None)));
    let begin = tokio::time::Instant::now() + heartbeat_interval;
    let heartbeat = IntervalStream::new(tokio::time::interval_at(begin, heartbeat_interval))
        .map(|_| Bytes::from_static(b": still here\n\n"));
    let heartbeat = heartbeat.take_until(async move { ended.cancelled().await });
    let body = greeting
        .chain(stream::select(events, heartbeat))
        .take_until(async move { stop.cancelled().await });
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/event-stream"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(body.map(Ok::<_, Infallible>))
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::{body::to_bytes, test::TestRequest};

    #[actix_web::test]
    async fn an_event_has_its_id_type_and_json_on_separate_lines() {
        let event = Event::json(3, "note\nadded", &serde_json::json!({"a": "b\nc"})).unwrap();
        let response = respond(&TestRequest::get().to_http_request(), stream::iter([Ok(event)]));
        assert_eq!(response.headers().get("content-type").unwrap(), "text/event-stream");
        let body = to_bytes(response.into_body()).await.unwrap();
        assert_eq!(
            std::str::from_utf8(&body).unwrap(),
            "retry: 2000\n\nid: 3\nevent: noteadded\ndata: {\"a\":\"b\\nc\"}\n\n"
        );
    }

    #[actix_web::test]
    async fn a_stopping_server_ends_an_endless_stream() {
        let stopping = Stopping::default();
        let request = TestRequest::get().app_data(stopping.clone()).to_http_request();
        let response = respond(&request, stream::pending());
        let reading = tokio::task::spawn_local(to_bytes(response.into_body()));
        tokio::time::sleep(Duration::from_millis(20)).await;
        stopping.0.cancel();
        let body = tokio::time::timeout(Duration::from_secs(5), reading)
            .await
            .expect("the stream ends")
            .unwrap()
            .unwrap();
        assert_eq!(body, "retry: 2000\n\n");
    }

    #[actix_web::test]
    async fn a_fault_ends_the_stream_after_the_events_before_it() {
        let event = Event::json(1, "placed", &1).unwrap();
        let response = respond(
            &TestRequest::get().to_http_request(),
            stream::iter([Ok(event.clone()), Err(Fault::unavailable("x")), Ok(event)]),
        );
        let body = to_bytes(response.into_body()).await.unwrap();
        assert_eq!(std::str::from_utf8(&body).unwrap().matches("data:").count(), 1);
    }

    #[actix_web::test]
    async fn an_idle_stream_sends_heartbeats() {
        let response = respond_with(
            &TestRequest::get().to_http_request(),
            stream::pending(),
            Duration::from_millis(20),
        );
        let mut body = std::pin::pin!(response.into_body());
        let mut next = async || {
            future::poll_fn(|cx| actix_web::body::MessageBody::poll_next(body.as_mut(), cx))
                .await
                .unwrap()
                .unwrap()
        };
        assert_eq!(next().await, "retry: 2000\n\n");
        assert_eq!(next().await, ": still here\n\n");
        assert_eq!(next().await, ": still here\n\n");
    }

    #[actix_web::test]
    async fn the_last_event_id_is_read_from_its_header() {
        let read = async |request: TestRequest| LastEventId::extract(&request.to_http_request()).await.unwrap().0;
        assert_eq!(
            read(TestRequest::get().insert_header(("Last-Event-ID", "41")))
                .await
                .as_deref(),
            Some("41")
        );
        assert_eq!(read(TestRequest::get()).await, None);
    }
}
