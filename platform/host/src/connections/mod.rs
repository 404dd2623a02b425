//! The connections of the HTTP servers: how many there may be, whose they are, when they end, and HTTP/1.1 on them.
//!
//! actix's own server counts connections only in all and lets a client that reads nothing keep its connection for ever, so its parts are put together
//! here. HTTP/2 is not offered: `docs/adr/0040-http-1-1-at-the-edge.md`.

mod admission;
mod guarded;
mod proxy_protocol;
#[cfg(test)]
mod tests;

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use actix_http::{HttpService, KeepAlive, Request, Response, body::MessageBody, error::DispatchError};
use actix_service::{IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::dev::{AppConfig, Server};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub use admission::Admission;
use admission::Refused;
use guarded::Guarded;

/// The timeout for what comes before a request: the TLS handshake, the head of the request and the header of a proxy.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that takes nothing of a response in this time loses its connection. A window that opens in this time is slow, but alive.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);
/// What a client gets that is refused, before it has sent a request.
const REFUSAL: &str = "{\"type\":\"https://banyan.example/problems/too_many_connections\",\"title\":\"Too many connections\",\"status\":503,\
                       \"code\":\"too_many_connections\",\"detail\":\"Too many connections are open; close some, or try again later.\"}";

/// How connections are served.
#[derive(Clone, Debug)]
pub struct Options {
    pub admission: Arc<Admission>,
    /// Whether trusted proxies say for whom they connect (PROXY protocol, version 2).
    pub proxy_protocol: bool,
    pub tls: Option<Arc<ServerConfig>>,
    /// How long a connection without a request stays open.
    pub keep_alive: Duration,
    /// Whether a client may close its half and still get the response.
    pub half_closed: bool,
    /// When cancelled, idle connections are closed, and the others after their response.
    pub stopping: CancellationToken,
    /// 0: one per core.
    pub workers: usize,
    pub shutdown_timeout: Duration,
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

type Connection = Pin<Box<dyn Stream>>;

/// Serves an actix `App` on this listener until the server is stopped.
///
/// # Errors
/// The listener cannot be used.
pub fn serve<F, I, S, B>(listener: TcpListener, options: Options, app: F) -> io::Result<Server>
where
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig, Error = actix_web::Error> + 'static,
    S::InitError: fmt::Debug,
    S::Response: Into<Response<B>> + 'static,
    <S::Service as Service<Request>>::Future: 'static,
    S::Service: 'static,
    B: MessageBody + 'static,
{
    let mut server = Server::build()
        .disable_signals()
        .shutdown_timeout(options.shutdown_timeout.as_secs().max(1));
    if options.workers > 0 {
        server = server.workers(options.workers);
    }
    let server = server.listen("http", listener, move || {
        let stopping = options.stopping.clone();
        let app = app().into_factory().map_err(|error| error.error_response());
        let http = HttpService::build()
            .keep_alive(KeepAlive::Timeout(options.keep_alive))
            .client_request_timeout(RECEIVE_TIMEOUT)
            .h1_allow_half_closed(options.half_closed)
            .graceful_shutdown_signal(move || stopping.clone().cancelled_owned())
            .h1(map_config(app, |()| AppConfig::default()))
            .map_err(|error| ended(&error));
        let options = options.clone();
        fn_service(move |stream| open(options.clone(), stream)).and_then(http)
    })?;
    Ok(server.run())
}

/// A connection that is closed; why was logged.
#[derive(Debug)]
struct Closed;

/// A connection that is admitted, with the address of its client.
async fn open(options: Options, mut stream: TcpStream) -> Result<(Connection, Option<SocketAddr>), Closed> {
    let mut client = stream.peer_addr().map_err(|error| ended_early(&error))?;
    let permit = match options.admission.admit() {
        Ok(permit) => permit,
        Err(why) => return Err(refuse(stream, client, why, options.tls.is_some()).await),
    };
    stream.set_nodelay(true).map_err(|error| ended_early(&error))?;
    if options.proxy_protocol {
        if !options.admission.trusts(client.ip().to_canonical()) {
            tracing::debug!(%client, "refused: only proxies in http.trusted_proxies may connect with http.proxy_protocol");
            return Err(Closed);
        }
        client = limited(proxy_protocol::read_client(&mut stream))
            .await?
            .unwrap_or(client);
    }
    let permit = match permit.for_client(client.ip().to_canonical()) {
        Ok(permit) => permit,
        Err(why) => return Err(refuse(stream, client, why, options.tls.is_some()).await),
    };
    let stream = Guarded::new(stream, UNREAD_TIMEOUT, permit);
    let connection: Connection = match options.tls {
        None => Box::pin(stream),
        Some(tls) => Box::pin(limited(TlsAcceptor::from(tls).accept(stream)).await?),
    };
    Ok((connection, Some(client)))
}

/// What clients do wrong, malformed bytes included, is not for operators; what a response did wrong is.
fn ended(error: &DispatchError) -> Closed {
    match error {
        DispatchError::Service(_) | DispatchError::Body(_) | DispatchError::InternalError => {
            tracing::warn!(%error, "a response failed after it had begun");
        }
        error => tracing::debug!(%error, "a connection ended"),
    }
    Closed
}

async fn limited<T>(step: impl Future<Output = io::Result<T>>) -> Result<T, Closed> {
    let done = timeout(RECEIVE_TIMEOUT, step).await;
    done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|error| ended_early(&error))
}

fn ended_early(error: &io::Error) -> Closed {
    tracing::debug!(%error, "a connection ended before its first request");
    Closed
}

/// Says why, where that needs no handshake, and closes.
async fn refuse(mut stream: TcpStream, client: SocketAddr, why: Refused, is_tls: bool) -> Closed {
    metrics::counter!("banyan_http_connections_refused_total", "reason" => why.reason()).increment(1);
    tracing::debug!(%client, reason = why.reason(), "a connection is refused");
    if is_tls {
        return Closed;
    }
    let response = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 10\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{REFUSAL}",
        REFUSAL.len()
    );
    // A new connection has room for it; a client that is gone does not need it.
    let _ = timeout(Duration::from_secs(1), async {
        stream.write_all(response.as_bytes()).await?;
        stream.shutdown().await
    })
    .await;
    Closed
}
