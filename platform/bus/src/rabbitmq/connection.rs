//! A connection to the broker that is made anew whenever it is lost.

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

/// A peer that is gone without a word is noticed after about twice as long; the broker would propose a minute.
const HEARTBEAT_S: u16 = 10;
/// lapin tells of most losses at once; its status is looked at so often for the rest.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Where the broker is and how it is reached.
pub struct Broker {
    uri: AMQPUri,
    tls: OwnedTLSConfig,
    connect_timeout: Duration,
    reconnect: Duration,
}

/// Why a connection ended, or did not come about.
#[derive(Debug)]
pub enum Broken {
    Lapin(lapin::Error),
    /// The broker did not answer this in time.
    Silent(&'static str),
    /// The broker is well, but this module takes none of its events.
    Stuck {
        module: String,
        since: Duration,
    },
    /// A sentence for the operator.
    Wrong(String),
}

/// What is done with a connection.
#[async_trait]
pub trait Use: Send + Sync {
    /// Goes on until the connection breaks, or until `stop`, which is `Ok`. Tells the link when everything is set up.
    async fn run(&self, connection: Arc<Connection>, link: &Link, stop: &CancellationToken) -> Result<(), Broken>;
}

/// One connection, with a name.
pub struct Link {
    name: String,
    broker: Arc<Broker>,
    state: watch::Sender<Standing>,
}

#[derive(Clone)]
struct Standing {
    connected: bool,
    since: Timestamp,
    last_error: Option<String>,
}

/// Waits that double up to ten times the first one, each shortened at random by up to a half.
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
            bail!(
                "{wrong}: a slash with nothing behind it names a virtual host without a name; leave it out, or write /%2f"
            );
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

    /// `host:port`, for sentences.
    fn place(&self) -> String {
        format!("{}:{}", self.uri.authority.host, self.uri.authority.port)
    }

    async fn connect(&self, name: &str) -> Result<Connection, Broken> {
        let properties = ConnectionProperties::default().with_connection_name(format!("banyan {name}").into());
        let runtime = lapin::runtime::default_runtime()?;
        let connecting = Connection::connect_uri_with_config(self.uri.clone(), properties, self.tls.clone(), runtime);
        within(self.connect_timeout, "the connection", async { Ok(connecting.await?) }).await
    }

    /// Whether anything at the broker's address says anything. A lapin connection cannot be given up while it shakes hands (it holds a thread until
    /// the socket ends), so after one that met silence there is none until this, which can be given up, has an answer; a TLS port answers by closing.
    async fn knock(&self) -> Result<(), Broken> {
        let answer = async {
            let mut stream = TcpStream::connect((self.uri.authority.host.as_str(), self.uri.authority.port))
                .await
                .map_err(Broken::from)?;
            stream.write_all(b"AMQP\x00\x00\x09\x01").await.map_err(Broken::from)?;
            stream.read(&mut [0]).await.map_err(Broken::from)?;
            Ok(())
        };
        within(self.connect_timeout, "the connection", answer).await
    }

    /// What happened, and what an operator can do about it.
    fn explain(&self, broken: &Broken) -> String {
        let place = self.place();
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
            "is it the broker's address, and is it well?".to_owned()
        };
        format!("the broker at {place}: {text} ({hint})")
    }
}

impl Link {
    pub fn new(name: &str, broker: Arc<Broker>) -> Self {
        let standing = Standing {
            connected: false,
            since: SystemClock.now(),
            last_error: None,
        };
        Link {
            name: name.to_owned(),
            broker,
            state: watch::Sender::new(standing),
        }
    }

    /// Connects and goes on connecting until `stop`.
    pub async fn keep(&self, user: &dyn Use, stop: CancellationToken) {
        let mut backoff = Backoff::new(self.broker.reconnect);
        let mut met_silence = false;
        loop {
            let attempt = async {
                if met_silence {
                    self.broker.knock().await?;
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
            met_silence = matches!(broken, Broken::Silent(_));
            self.ended(Some(&broken));
            // A module that takes nothing again as soon as it is connected is connected less and less often.
            if was_connected && !matches!(broken, Broken::Stuck { .. }) {
                backoff = Backoff::new(self.broker.reconnect);
            }
            tokio::select! {
                () = sleep(backoff.wait()) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Everything is set up on this connection.
    pub fn connected(&self) {
        let before = self.state.send_replace(Standing {
            connected: true,
            since: SystemClock.now(),
            last_error: None,
        });
        if before.last_error.is_some() {
            tracing::info!(
                link = self.name,
                broker = self.broker.place(),
                "the broker is there again"
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
                "no events travel: {why}; trying again until it works, nothing is lost meanwhile"
            );
        }
        let since = if before.connected {
            SystemClock.now()
        } else {
            before.since
        };
        self.state.send_replace(Standing {
            connected: false,
            since,
            last_error: why.or(before.last_error),
        });
        metrics::gauge!("banyan_bus_connected", "link" => self.name.clone()).set(0.0);
    }

    pub fn state(&self) -> LinkState {
        let Standing {
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

/// Waits until the connection is gone, and says why.
pub async fn lost(connection: &Connection) -> Broken {
    let mut events = std::pin::pin!(connection.events_listener());
    let mut look = interval(LOOK_EVERY);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Event::Error(error)) if !connection.status().connected() => return Broken::Lapin(error),
                Some(Event::ConnectionBlocked(reason)) => {
                    tracing::warn!(reason, "the broker takes no events: it is short of memory or disk; `rabbitmqctl status` shows its alarms");
                }
                Some(Event::ConnectionUnblocked) => tracing::info!("the broker takes events again"),
                Some(_) => {}
                None => return Broken::Wrong("the connection ended".to_owned()),
            },
            _ = look.tick() => {
                if !connection.status().connected() {
                    return Broken::Wrong("the broker closed the connection".to_owned());
                }
            }
        }
    }
}

/// lapin waits without a limit, whatever happened to the broker; so everything asked of it goes through here.
pub async fn within<T>(
    limit: Duration,
    what: &'static str,
    asked: impl Future<Output = Result<T, Broken>>,
) -> Result<T, Broken> {
    timeout(limit, asked).await.unwrap_or(Err(Broken::Silent(what)))
}

impl Backoff {
    pub fn new(first: Duration) -> Self {
        Backoff { first, next: first }
    }

    pub fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (self.next * 2).min(self.first * 10);
        wait.mul_f64(rand::rng().random_range(0.5..1.0))
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
            Broken::Silent(what) => write!(f, "no answer in time to {what}"),
            Broken::Stuck { module, since } => write!(
                f,
                "{module} took none of its events for {} ms (is its database away?) and gives way to the next process that listens for it",
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
    fn a_wrong_setting_is_named_without_the_password() {
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
    fn waits_double_up_to_ten_times_the_first() {
        let mut backoff = Backoff::new(Duration::from_millis(100));
        let waits: Vec<u128> = (0..6).map(|_| backoff.wait().as_millis()).collect();
        let longest = [100, 200, 400, 800, 1_000, 1_000];
        assert!(
            waits
                .iter()
                .zip(longest)
                .all(|(wait, longest)| *wait >= longest / 2 && *wait < longest),
            "{waits:?}"
        );
    }
}
