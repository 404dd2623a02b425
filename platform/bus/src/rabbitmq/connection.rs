//! A connection to the broker that is reestablished whenever it is lost.

use std::{fmt, fs, future::Future, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use async_trait::async_trait;
use banyan_core::{Clock, SystemClock, Timestamp};
use futures::StreamExt;
use lapin::{
    Connection, ConnectionProperties, Event,
    tcp::OwnedTLSConfig,
    uri::{AMQPScheme, AMQPUri},
};
use rand::Rng;
use secrecy::ExposeSecret;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{LinkState, Settings};

/// A peer that vanishes silently is noticed after about twice this time; the broker would propose a minute.
const HEARTBEAT_S: u16 = 10;
/// lapin reports most lost connections at once; its status is polled at this interval for the rest.
const STATUS_INTERVAL: Duration = Duration::from_millis(250);

/// The broker's address, and how to connect to it.
pub struct Broker {
    uri: AMQPUri,
    tls: OwnedTLSConfig,
    connect_timeout: Duration,
    reconnect: Duration,
}

/// Why a connection ended, or could not be made.
#[derive(Debug)]
pub enum Broken {
    Lapin(lapin::Error),
    /// The broker did not respond in time while this was done.
    NoResponse(&'static str),
    /// The broker is healthy, but this module accepts none of its events.
    Stuck {
        module: String,
        since: Duration,
    },
    /// Anything else, as a sentence for the operator.
    Wrong(String),
}

/// What a connection is used for.
#[async_trait]
pub trait Use: Send + Sync {
    /// Runs until the connection is lost, or until `stop`, which is `Ok`. Notifies the link when everything is set up.
    async fn run(&self, connection: Arc<Connection>, link: &Link, stop: &CancellationToken) -> Result<(), Broken>;
}

/// One named connection.
pub struct Link {
    name: String,
    broker: Arc<Broker>,
    state: watch::Sender<Status>,
}

#[derive(Clone)]
struct Status {
    connected: bool,
    since: Timestamp,
    last_error: Option<String>,
}

/// Delays that double up to ten times the first one, each shortened at random by up to a half.
pub struct Backoff {
    first: Duration,
    next: Duration,
}

impl Broker {
    pub fn from_settings(settings: &Settings) -> anyhow::Result<Broker> {
        let url = settings.url.as_ref().context("bus.url is missing")?.expose_secret();
        let wrong = "bus.url is not the URL of a broker; it should be like amqp://user:password@host:5672/%2f (amqps:// with TLS)";
        let Ok(mut uri) = url.parse::<AMQPUri>() else {
            bail!("{wrong}, and is {}", banyan_core::without_password(url));
        };
        if uri.vhost.is_empty() {
            bail!("{wrong}: a trailing slash names a virtual host with an empty name; leave it out, or write /%2f");
        }
        settings.check()?;
        uri.query.heartbeat = uri.query.heartbeat.or(Some(HEARTBEAT_S));
        let chain = settings.ca_file.as_ref().map(|path| {
            fs::read_to_string(path)
                .with_context(|| format!("bus.ca_file names {}, which cannot be read", path.display()))
        });
        Ok(Broker {
            uri,
            tls: OwnedTLSConfig {
                identity: None,
                cert_chain: chain.transpose()?,
            },
            connect_timeout: settings.limits.connect_timeout,
            reconnect: settings.limits.reconnect,
        })
    }

    /// `host:port`, for messages.
    fn address(&self) -> String {
        format!("{}:{}", self.uri.authority.host, self.uri.authority.port)
    }

    async fn connect(&self, name: &str) -> Result<Connection, Broken> {
        let properties = ConnectionProperties::default().with_connection_name(format!("banyan {name}").into());
        let runtime = lapin::runtime::default_runtime()?;
        let connecting = Connection::connect_uri_with_config(self.uri.clone(), properties, self.tls.clone(), runtime);
        with_timeout(self.connect_timeout, "connecting", async { Ok(connecting.await?) }).await
    }

    /// Whether anything responds at the broker's address. A lapin connection cannot be cancelled during its handshake (it occupies a thread until
    /// the socket is closed), so after an attempt without a response no other is made until this probe, which can be cancelled, gets one. A TLS
    /// port responds by closing.
    async fn probe(&self) -> Result<(), Broken> {
        let response = async {
            let mut stream = TcpStream::connect((self.uri.authority.host.as_str(), self.uri.authority.port))
                .await
                .map_err(Broken::from)?;
            stream.write_all(b"AMQP\x00\x00\x09\x01").await.map_err(Broken::from)?;
            stream.read(&mut [0]).await.map_err(Broken::from)?;
            Ok(())
        };
        with_timeout(self.connect_timeout, "connecting", response).await
    }

    /// The error, and what an operator can do about it.
    fn explain(&self, broken: &Broken) -> String {
        let address = self.address();
        let text = broken.to_string();
        let hint = if matches!(broken, Broken::Wrong(_) | Broken::Stuck { .. }) {
            return text;
        } else if text.contains("ACCESS_REFUSED") || text.contains("ACCESS-REFUSED") {
            "it refuses the user or password in bus.url".to_owned()
        } else if text.contains("NOT_ALLOWED") || text.contains("NOT-ALLOWED") {
            format!(
                "it has no virtual host {:?}, or the user in bus.url may not use it",
                self.uri.vhost
            )
        } else if text.contains("onnection refused") {
            "nothing listens there; start a broker (`docker run -p 5672:5672 rabbitmq:4`, or the package rabbitmq-server), or change bus.url".to_owned()
        } else if self.uri.scheme == AMQPScheme::AMQPS && text.contains("ertificate") {
            "its certificate is not trusted; bus.ca_file names the CA (PEM) to trust".to_owned()
        } else {
            "check that this is the broker's address and that the broker is healthy".to_owned()
        };
        format!("the broker at {address}: {text} ({hint})")
    }
}

impl Link {
    pub fn new(name: &str, broker: Arc<Broker>) -> Self {
        let status = Status {
            connected: false,
            since: SystemClock.now(),
            last_error: None,
        };
        Link {
            name: name.to_owned(),
            broker,
            state: watch::Sender::new(status),
        }
    }

    /// Connects, and reconnects until `stop`.
    pub async fn keep_connected(&self, user: &dyn Use, stop: CancellationToken) {
        let mut backoff = Backoff::new(self.broker.reconnect);
        let mut got_no_response = false;
        loop {
            let attempt = async {
                if got_no_response {
                    self.broker.probe().await?;
                }
                self.broker.connect(&self.name).await
            };
            let connection = tokio::select! {
                connection = attempt => connection,
                () = stop.cancelled() => return,
            };
            let ended = match connection {
                Ok(connection) => user.run(Arc::new(connection), self, &stop).await,
                Err(broken) => Err(broken),
            };
            let was_connected = self.state.borrow().connected;
            let broken = match ended {
                Ok(()) => return self.ended(None),
                Err(broken) => broken,
            };
            got_no_response = matches!(broken, Broken::NoResponse(_));
            self.ended(Some(&broken));
            // A module that again accepts nothing as soon as it is connected is reconnected after longer and longer delays.
            if was_connected && !matches!(broken, Broken::Stuck { .. }) {
                backoff = Backoff::new(self.broker.reconnect);
            }
            tokio::select! {
                () = sleep(backoff.next_delay()) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Everything is set up on this connection.
    pub fn connected(&self) {
        let before = self.state.send_replace(Status {
            connected: true,
            since: SystemClock.now(),
            last_error: None,
        });
        if before.last_error.is_some() {
            tracing::info!(
                link = self.name,
                broker = self.broker.address(),
                "the broker is available again"
            );
        }
        metrics::counter!("banyan_bus_connects_total", "link" => self.name.clone()).increment(1);
        metrics::gauge!("banyan_bus_connected", "link" => self.name.clone()).set(1.0);
    }

    fn ended(&self, broken: Option<&Broken>) {
        let why = broken.map(|broken| self.broker.explain(broken));
        let before = self.state.borrow().clone();
        if let Some(why) = &why
            && before.last_error.as_ref() != Some(why)
        {
            tracing::warn!(
                link = self.name,
                "events are not delivered: {why}; retrying until it works, no event is lost meanwhile"
            );
        }
        let since = if before.connected {
            SystemClock.now()
        } else {
            before.since
        };
        self.state.send_replace(Status {
            connected: false,
            since,
            last_error: why.or(before.last_error),
        });
        metrics::gauge!("banyan_bus_connected", "link" => self.name.clone()).set(0.0);
    }

    pub fn state(&self) -> LinkState {
        let Status {
            connected,
            since,
            last_error,
        } = self.state.borrow().clone();
        LinkState {
            link: self.name.clone(),
            connected,
            since,
            last_error,
        }
    }
}

/// Waits until the connection is lost, and returns why.
pub async fn lost(connection: &Connection) -> Broken {
    let mut events = std::pin::pin!(connection.events_listener());
    let mut poll = interval(STATUS_INTERVAL);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Event::Error(error)) if !connection.status().connected() => return Broken::Lapin(error),
                Some(Event::ConnectionBlocked(reason)) => {
                    tracing::warn!(reason, "the broker accepts no events: it is short of memory or disk; `rabbitmqctl status` shows its alarms");
                }
                Some(Event::ConnectionUnblocked) => tracing::info!("the broker accepts events again"),
                Some(_) => {}
                None => return Broken::Wrong("the connection ended".to_owned()),
            },
            _ = poll.tick() => {
                if !connection.status().connected() {
                    return Broken::Wrong("the broker closed the connection".to_owned());
                }
            }
        }
    }
}

/// lapin has no timeouts, whatever happens to the broker; so every call to it goes through here.
pub async fn with_timeout<T>(
    limit: Duration,
    what: &'static str,
    call: impl Future<Output = Result<T, Broken>>,
) -> Result<T, Broken> {
    timeout(limit, call).await.unwrap_or(Err(Broken::NoResponse(what)))
}

impl Backoff {
    pub fn new(first: Duration) -> Self {
        Backoff { first, next: first }
    }

    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (self.next * 2).min(self.first * 10);
        delay.mul_f64(rand::rng().random_range(0.5..1.0))
    }
}

impl From<lapin::Error> for Broken {
    fn from(error: lapin::Error) -> Self {
        Broken::Lapin(error)
    }
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        Broken::Lapin(error.into())
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Lapin(error) => error.fmt(f),
            Broken::NoResponse(what) => write!(f, "no response in time while {what}"),
            Broken::Stuck { module, since } => write!(
                f,
                "{module} accepted none of its events for {} ms (is its database unavailable?); the next process that consumes for it takes over",
                since.as_millis()
            ),
            Broken::Wrong(why) => f.write_str(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(url: &str, change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = Settings {
            url: Some(url.to_owned().into()),
            ..crate::settings::tests::defaults()
        };
        change(&mut settings);
        Broker::from_settings(&settings)
            .err()
            .map(|error| format!("{error:#}"))
            .unwrap_or_default()
    }

    #[test]
    fn an_invalid_setting_is_named_without_the_password() {
        for url in [
            "http://shop:geheim@broker",
            "broker:5672",
            "amqp://shop:geheim@broker:5672/",
        ] {
            let text = error(url, |_| ());
            assert!(
                text.contains("bus.url")
                    && text.contains("amqp://user:password@host:5672/%2f")
                    && !text.contains("geheim"),
                "{text}"
            );
        }
        let right = "amqp://broker";
        assert!(error(right, |settings| settings.prefetch = 0).contains("bus.prefetch"));
        assert!(error(right, |settings| settings.ca_file = Some("/no/such/file".into())).contains("bus.ca_file"));
        assert_eq!(error("amqps://shop:geheim@broker:5671/shop", |_| ()), "");
    }

    #[test]
    fn a_silent_peer_is_noticed_soon_unless_the_url_says_otherwise() {
        let heartbeat = |url: &str| {
            let settings = Settings {
                url: Some(url.to_owned().into()),
                ..crate::settings::tests::defaults()
            };
            Broker::from_settings(&settings).unwrap().uri.query.heartbeat
        };
        assert_eq!(
            (heartbeat("amqp://broker"), heartbeat("amqp://broker?heartbeat=60")),
            (Some(HEARTBEAT_S), Some(60))
        );
    }

    #[test]
    fn delays_double_up_to_ten_times_the_first() {
        let mut backoff = Backoff::new(Duration::from_millis(100));
        let delays: Vec<u128> = (0..6).map(|_| backoff.next_delay().as_millis()).collect();
        let longest = [100, 200, 400, 800, 1_000, 1_000];
        assert!(
            delays
                .iter()
                .zip(longest)
                .all(|(delay, longest)| *delay >= longest / 2 && *delay < longest),
            "{delays:?}"
        );
    }
}
