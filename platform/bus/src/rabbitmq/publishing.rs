//! Publishes events to the broker and waits for the confirmation of each.
//!
//! Each event in flight has a channel to itself. The broker says which message it confirms but not which one it returns, and lapin attaches a returned
//! message to whatever is confirmed next: with several on one channel an unroutable event could be confirmed, and lost, while another one fails.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use banyan_core::{Envelope, Fault};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinHandle,
    time::{interval_at, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Receivers,
    connection::{Broken, Broker, Link, Use, lost, with_timeout},
    declaring::{declare, short},
};
use crate::{LinkState, Settings, Topology};

/// The delivery mode of a message that the broker stores on disk.
const PERSISTENT: u8 = 2;
const CONTENT_TYPE: &str = "application/cloudevents+json; charset=utf-8";

/// The publishing side of a process.
pub struct Publishing {
    topology: Arc<Topology>,
    receivers: Arc<Receivers>,
    link: Link,
    session: Mutex<Option<Arc<Session>>>,
    /// One for each event in flight; the others wait.
    permits: Semaphore,
    confirm_timeout: Duration,
    connect_timeout: Duration,
    declare_every: Duration,
    running: Mutex<Option<JoinHandle<()>>>,
}

/// What belongs to one connection and ends with it.
struct Session {
    connection: Arc<Connection>,
    /// Channels without an event in flight.
    idle: Mutex<Vec<Channel>>,
    /// An event was returned, or its channel was closed: a queue, a binding or the exchange is missing.
    incomplete: Notify,
    /// The broker no longer opens channels.
    unresponsive: Notify,
}

impl Publishing {
    pub fn start(
        settings: &Settings,
        broker: Arc<Broker>,
        topology: Arc<Topology>,
        receivers: Arc<Receivers>,
        closing: CancellationToken,
    ) -> Arc<Self> {
        let publishing = Arc::new(Publishing {
            topology,
            receivers,
            link: Link::new("publishing", broker),
            session: Mutex::default(),
            permits: Semaphore::new(settings.limits.publish_channels),
            confirm_timeout: settings.limits.confirm_timeout,
            connect_timeout: settings.limits.connect_timeout,
            declare_every: settings.limits.declare_every,
            running: Mutex::default(),
        });
        let kept = publishing.clone();
        let running = tokio::spawn(async move { kept.link.keep_connected(&*kept, closing).await });
        *publishing.running() = Some(running);
        publishing
    }

    /// After `closing`: waits until the connection is closed or abandoned.
    pub async fn ended(&self) {
        let running = self.running().take();
        if let Some(running) = running {
            running.await.ok();
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.running.lock()
    }

    pub fn state(&self) -> LinkState {
        self.link.state()
    }

    /// `Ok` only if the broker has the event in every bound queue.
    pub async fn publish(&self, envelope: &Envelope) -> Result<(), Fault> {
        let Ok(_permit) = self.permits.acquire().await else {
            return Err(Fault::unavailable("The bus is closed."));
        };
        let Some(session) = self.session() else {
            return Err(Fault::unavailable(format!(
                "The broker is unavailable: {}",
                self.link.state().last_error.unwrap_or_default()
            )));
        };
        if session.connection.status().blocked() {
            return Err(failed(
                "blocked",
                "The broker accepts no events now: it is short of memory or disk.",
            ));
        }
        let channel = session.take_channel(self.connect_timeout).await.map_err(|broken| {
            if matches!(broken, Broken::NoResponse(_)) {
                session.unresponsive.notify_one();
            }
            failed("no_channel", format!("The broker opened no channel: {broken}"))
        })?;
        // If this is cancelled, the channel is dropped and so closed: a late confirmation of this event must not be taken for that of another.
        let confirmation = match timeout(self.confirm_timeout, self.send(&channel, envelope)).await {
            Ok(Ok(confirmation)) => confirmation,
            Ok(Err(broken)) => {
                // The broker closes the channel and not the connection when a request is wrong, as when the exchange is missing.
                if session.connection.status().connected() {
                    session.incomplete.notify_one();
                }
                return Err(failed("connection", format!("The broker did not confirm: {broken}")));
            }
            Err(_) => return Err(failed("timeout", "The broker did not confirm in time.")),
        };
        session.put_back(channel);
        match confirmation {
            Confirmation::Ack(None) => {
                metrics::counter!("banyan_bus_published_total", "source" => envelope.source.clone()).increment(1);
                Ok(())
            }
            Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => {
                metrics::counter!("banyan_bus_returned_total", "source" => envelope.source.clone()).increment(1);
                session.incomplete.notify_one();
                Err(Fault::unavailable(format!(
                    "The broker has no queue for {}; its queues are declared again.",
                    envelope.topic()
                )))
            }
            Confirmation::Nack(None) => Err(failed("refused", "The broker could not keep the event.")),
            // Unreachable: every channel here has confirmations on; without them nothing would be known.
            Confirmation::NotRequested => Err(failed("unconfirmed", "Confirmations are off on this channel.")),
        }
    }

    async fn send(&self, channel: &Channel, envelope: &Envelope) -> Result<Confirmation, Broken> {
        let topic = envelope.topic();
        let key = format!("{topic}.{}", envelope.subject_id());
        let options = BasicPublishOptions {
            mandatory: self.topology.is_subscribed(&topic),
            immediate: false,
        };
        let properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type(CONTENT_TYPE.into())
            .with_message_id(short(&envelope.id.to_string())?)
            .with_type(short(&envelope.kind)?)
            .with_app_id(short(&envelope.source)?);
        let (exchange, body) = (short(&self.topology.exchange)?, envelope.to_bytes());
        Ok(channel
            .basic_publish(exchange, short(&key)?, options, &body, properties)
            .await?
            .await?)
    }

    fn session(&self) -> Option<Arc<Session>> {
        self.session.lock().clone()
    }

    fn set_session(&self, session: Option<Arc<Session>>) {
        *self.session.lock() = session;
    }

    /// Keeps the topology complete while the connection lasts.
    async fn watch(&self, session: &Session, closing: &CancellationToken) -> Result<(), Broken> {
        let mut redeclare = interval_at(tokio::time::Instant::now() + self.declare_every, self.declare_every);
        let mut lost = std::pin::pin!(lost(&session.connection));
        loop {
            tokio::select! {
                broken = &mut lost => return Err(broken),
                () = session.unresponsive.notified() => return Err(Broken::NoResponse("opening a channel")),
                () = session.incomplete.notified() => {
                    tracing::warn!("an event was not routed: a queue, a binding or the exchange is missing at the broker; declaring all again");
                    declare(&session.connection, &self.topology, self.connect_timeout).await?;
                    self.receivers.catch_up();
                }
                // A missing binding is noticed at once only if no other queue received the event.
                _ = redeclare.tick() => declare(&session.connection, &self.topology, self.connect_timeout).await?,
                () = closing.cancelled() => return Ok(()),
            }
        }
    }
}

#[async_trait]
impl Use for Publishing {
    async fn run(&self, connection: Arc<Connection>, link: &Link, closing: &CancellationToken) -> Result<(), Broken> {
        declare(&connection, &self.topology, self.connect_timeout).await?;
        let session = Arc::new(Session {
            connection: connection.clone(),
            idle: Mutex::default(),
            incomplete: Notify::new(),
            unresponsive: Notify::new(),
        });
        self.set_session(Some(session.clone()));
        link.connected();
        let ended = self.watch(&session, closing).await;
        self.set_session(None);
        if ended.is_ok() {
            with_timeout(self.connect_timeout, "closing", async {
                Ok(connection.close(200, "stopped".into()).await?)
            })
            .await
            .ok();
        }
        ended
    }
}

impl Session {
    async fn take_channel(&self, limit: Duration) -> Result<Channel, Broken> {
        let idle = self.idle().pop();
        if let Some(channel) = idle.filter(|channel| channel.status().connected()) {
            return Ok(channel);
        }
        let opening = async {
            let channel = self.connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(channel)
        };
        with_timeout(limit, "opening a channel", opening).await
    }

    fn put_back(&self, channel: Channel) {
        self.idle().push(channel);
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Channel>> {
        self.idle.lock()
    }
}

fn failed(reason: &'static str, detail: impl Into<String>) -> Fault {
    metrics::counter!("banyan_bus_confirm_failures_total", "reason" => reason).increment(1);
    Fault::unavailable(detail)
}
