//! One instance of a module over HTTP: how it is connected, called and probed.
//!
//! hyper is used directly and not through a client with browser-like URLs: those normalise paths, but the bytes must be forwarded unchanged.

use std::{
    sync::Arc,
    task::{Context as Task, Poll},
    time::Duration,
};

use anyhow::{Context, bail};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    body::Incoming,
    header::{HOST, HeaderValue},
    http::uri::{Authority, PathAndQuery, Scheme},
};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector as TcpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{runtime::Handle, task::JoinSet};
use tower::{BoxError, Service};

use banyan_remote::{
    balancing::{CallFailure, Connector},
    discovery::Address,
    mtls::Identity,
};

/// The idle time after which a connection is closed. Instances close theirs after five seconds, and a request written at that moment would be lost,
/// so this side closes first.
const POOL_IDLE: Duration = Duration::from_secs(4);
/// The maximum number of idle connections kept per instance.
const POOL_MAX_IDLE: usize = 256;
/// The idle time after which TCP keep-alive probes a connection.
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(15);
/// The interval between two probes.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(5);
/// The number of probes without a response after which the connection is closed.
const KEEP_ALIVE_ATTEMPTS: u32 = 3;

/// A request as it is sent to an instance: the same for each attempt.
#[derive(Clone, Debug)]
pub struct UpstreamRequest {
    pub method: Method,
    /// As the client sent it, byte for byte.
    pub target: PathAndQuery,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Whether the request is idempotent, so that it may be sent twice.
    pub repeatable: bool,
}

/// Connects to instances over HTTP/1.1, in plaintext or with mutual TLS.
#[derive(Clone)]
pub struct HttpConnector {
    tls: Option<ClientConfig>,
    connect_timeout: Duration,
    /// The runtime the connections run on: not that of the worker that opened them, because workers stop at different times.
    runtime: Handle,
}

/// One instance, and the idle connections to it.
#[derive(Clone)]
pub struct Upstream {
    client: Client<WithTimeout<HttpsConnector<TcpConnector>>, Full<Bytes>>,
    scheme: Scheme,
    authority: Authority,
    host: HeaderValue,
    runtime: Handle,
}

impl HttpConnector {
    /// Must be called within the runtime that the connections are to live in.
    ///
    /// # Errors
    /// Certificates that do not match.
    pub fn new(identity: Option<&Identity>, connect_timeout: Duration) -> anyhow::Result<HttpConnector> {
        let tls = identity.map(client_config).transpose()?;
        Ok(HttpConnector {
            tls,
            connect_timeout,
            runtime: Handle::current(),
        })
    }

    fn tcp(&self) -> TcpConnector {
        let mut tcp = TcpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // If a name has several addresses, the timeout is divided among them.
        tcp.set_connect_timeout(Some(self.connect_timeout));
        tcp.set_keepalive(Some(KEEP_ALIVE_AFTER));
        tcp.set_keepalive_interval(Some(KEEP_ALIVE_EVERY));
        tcp.set_keepalive_retries(Some(KEEP_ALIVE_ATTEMPTS));
        tcp
    }
}

/// A connector with one timeout for name lookup, TCP and the TLS handshake, which a hanging instance never completes.
#[derive(Clone)]
struct WithTimeout<C> {
    connector: C,
    timeout: Duration,
}

impl<C> Service<Uri> for WithTimeout<C>
where
    C: Service<Uri, Error: Into<BoxError>, Future: Send + 'static>,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<C::Response, BoxError>>;

    fn poll_ready(&mut self, task: &mut Task<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(task).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, timeout) = (self.connector.call(uri), self.timeout);
        let late = move |_| BoxError::from(format!("no connection within {} ms", timeout.as_millis()));
        async move {
            tokio::time::timeout(timeout, connecting)
                .await
                .map_err(late)?
                .map_err(Into::into)
        }
        .boxed()
    }
}

#[async_trait]
impl Connector for HttpConnector {
    type Connection = Upstream;

    fn connect(&self, address: &Address) -> anyhow::Result<Upstream> {
        let tls = match (&self.tls, address.is_tls()) {
            (Some(tls), true) => tls.clone(),
            (None, false) => without_roots()?,
            (Some(_), false) => bail!("{address} is plaintext, which is refused because [mtls] is set; write https://"),
            (None, true) => {
                bail!("{address} requires TLS, for which [mtls] must be set: ca_file, certificate_file and key_file")
            }
        };
        let name = ServerName::try_from(address.server_name().to_owned())
            .with_context(|| format!("{address} has no host name"))?;
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls);
        let builder = if address.is_tls() {
            builder.https_only()
        } else {
            builder.https_or_http()
        };
        let resolver = FixedServerNameResolver::new(name);
        let connector = builder
            .with_server_name_resolver(resolver)
            .enable_http1()
            .wrap_connector(self.tcp());
        let connector = WithTimeout {
            connector,
            timeout: self.connect_timeout,
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_MAX_IDLE)
            .build(connector);
        let uri: Uri = address
            .to_string()
            .parse()
            .with_context(|| format!("{address} is not a valid address"))?;
        let parts = uri.into_parts();
        let (scheme, authority) = parts
            .scheme
            .zip(parts.authority)
            .with_context(|| format!("{address} is not a valid address"))?;
        let host = HeaderValue::from_str(&address.authority())
            .with_context(|| format!("{address} is not a valid Host header"))?;
        Ok(Upstream {
            client,
            scheme,
            authority,
            host,
            runtime: self.runtime.clone(),
        })
    }

    async fn probe(&self, upstream: &Upstream) -> Result<(), String> {
        let target = PathAndQuery::from_static("/health/ready");
        let request = UpstreamRequest {
            method: Method::GET,
            target,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            repeatable: true,
        };
        match upstream.send(&request).await {
            Ok(response) if response.status().is_success() => Ok(()),
            // Its health is served on a separate admin address; a response at all shows that it is reachable.
            Ok(response) if response.status() == StatusCode::NOT_FOUND => Ok(()),
            Ok(response) => Err(format!("GET /health/ready returned {}", response.status())),
            Err(failure) => Err(failure.to_string()),
        }
    }
}

impl Upstream {
    /// Sends the request, and waits for the head of the response. Dropping the future, or later the body, cancels the request at the instance too.
    ///
    /// # Errors
    /// No response; never [`CallFailure::Timeout`], since it has no timeout of its own.
    pub async fn send(&self, request: &UpstreamRequest) -> Result<Response<Incoming>, CallFailure> {
        let built = self
            .build(request)
            .map_err(|error| CallFailure::NotConnected(error.to_string()))?;
        let client = self.client.clone();
        // A `JoinSet` aborts its tasks when it is dropped.
        let mut sending = JoinSet::new();
        sending.spawn_on(async move { client.request(built).await }, &self.runtime);
        match sending.join_next().await {
            Some(Ok(Ok(response))) if response.status().is_informational() => Err(CallFailure::ConnectionLost(
                format!("it responded with {}", response.status()),
            )),
            Some(Ok(Ok(response))) => Ok(response),
            Some(Ok(Err(error))) if error.is_connect() => Err(CallFailure::NotConnected(reasons(&error))),
            Some(Ok(Err(error))) => Err(CallFailure::ConnectionLost(reasons(&error))),
            Some(Err(ended)) => Err(CallFailure::ConnectionLost(ended.to_string())),
            None => Err(CallFailure::ConnectionLost("nothing was sent".to_owned())),
        }
    }

    fn build(&self, request: &UpstreamRequest) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(request.target.clone());
        let mut built = Request::builder()
            .method(request.method.clone())
            .uri(uri.build()?)
            .body(Full::new(request.body.clone()))?;
        *built.headers_mut() = request.headers.clone();
        built.headers_mut().insert(HOST, self.host.clone());
        Ok(built)
    }
}

/// The whole chain of causes: the outermost error of hyper only says that the request failed.
fn reasons(error: &dyn std::error::Error) -> String {
    let all = std::iter::successors(Some(error), |error| error.source());
    all.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn client_config(identity: &Identity) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(identity.ca_pem()) {
        roots.add(authority.context("mtls.ca_file")?).context("mtls.ca_file")?;
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(identity.certificate_pem()).collect();
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem()).context("mtls.key_file")?;
    let builder = builder()?.with_root_certificates(roots);
    builder
        .with_client_auth_cert(chain.context("mtls.certificate_file")?, key)
        .context("mtls.certificate_file and mtls.key_file")
}

/// For plaintext connections: without roots, no certificate would be accepted.
fn without_roots() -> anyhow::Result<ClientConfig> {
    Ok(builder()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth())
}

fn builder() -> anyhow::Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?)
}
