//! Receives a module's events from its queue.
//!
//! Invariant: an event is acknowledged only after its module has committed its effect or a record to retry it. What was received and
//! not acknowledged is delivered again on the next connection, and the module recognises it.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use banyan_core::{Envelope, Fault, Subscriber};
use futures::{FutureExt, StreamExt};
use lapin::{
    Connection, Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    connection::{Backoff, Broken, Link, Use, lost, with_timeout},
    declaring::{declare, short},
};
use crate::{Queue, Settings, Topology};

/// The timeout at a stop for the events that are being handled.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

/// The receiving side of one module.
pub struct Consuming {
    pub settings: Settings,
    pub topology: Arc<Topology>,
    pub queue: Queue,
    pub subscriber: Arc<dyn Subscriber>,
}

/// A delivery, and the event in it if it can be parsed.
struct Received {
    event: Result<Envelope, Fault>,
    delivery: Delivery,
}

/// Events being handled: those of one subject one after the other, in their order of arrival; different subjects concurrently. The broker
/// sends at most `prefetch` of them.
struct InFlight {
    /// Each returns the subject of the event that was handled.
    tasks: JoinSet<Result<String, Broken>>,
    /// When the module last accepted an event, or was given one while it had none.
    progress: Instant,
    waiting: HashMap<String, VecDeque<Received>>,
    subscriber: Arc<dyn Subscriber>,
    retry: Duration,
    acknowledge_timeout: Duration,
    stop: CancellationToken,
}

#[async_trait]
impl Use for Consuming {
    async fn run(&self, connection: Arc<Connection>, link: &Link, stop: &CancellationToken) -> Result<(), Broken> {
        let limit = self.settings.limits.connect_timeout;
        declare(&connection, &self.topology, limit).await?;
        let consuming = async {
            let channel = connection.create_channel().await?;
            channel
                .basic_qos(self.settings.prefetch, BasicQosOptions::default())
                .await?;
            let options = BasicConsumeOptions::default();
            let consumer = channel
                .basic_consume(short(&self.queue.name)?, "".into(), options, FieldTable::default())
                .await?;
            Ok((channel, consumer))
        };
        let (channel, mut consumer) = with_timeout(limit, "starting to consume", consuming).await?;
        link.connected();
        // The queue may be new, or have lost its messages.
        self.subscriber.catch_up();
        let mut in_flight = InFlight::new(self, stop.clone());
        self.receive(&connection, &mut consumer, &mut in_flight, stop).await?;
        let cancelled = async {
            Ok(channel
                .basic_cancel(consumer.tag(), BasicCancelOptions::default())
                .await?)
        };
        with_timeout(limit, "cancelling the consumer", cancelled).await.ok();
        in_flight.finish().await;
        with_timeout(limit, "closing", async {
            Ok(connection.close(200, "stopped".into()).await?)
        })
        .await
        .ok();
        Ok(())
    }
}

impl Consuming {
    async fn receive(
        &self,
        connection: &Connection,
        consumer: &mut Consumer,
        in_flight: &mut InFlight,
        stop: &CancellationToken,
    ) -> Result<(), Broken> {
        let mut lost = std::pin::pin!(lost(connection));
        let give_way = self.settings.limits.give_way;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                broken = &mut lost => return Err(broken),
                // Of all processes that consume for a module the broker delivers to one, and to another only when that one has disconnected.
                () = sleep_until(in_flight.progress + give_way), if !in_flight.is_empty() => {
                    return Err(Broken::Stuck { module: self.queue.module.clone(), since: in_flight.progress.elapsed() });
                }
                delivery = consumer.next() => match delivery {
                    Some(delivery) => in_flight.take(delivery?),
                    None => return Err(Broken::Wrong(format!("the broker ended the consumer of {}: was the queue deleted?", self.queue.name))),
                },
                Some(ended) = in_flight.tasks.join_next() => match ended {
                    Ok(taken) => in_flight.start_next(taken?),
                    // Unreachable: panics are caught where they happen. Everything received is delivered again on the next connection.
                    Err(error) => return Err(Broken::Wrong(format!("handling an event ended: {error}"))),
                },
            }
        }
    }
}

impl InFlight {
    fn new(consuming: &Consuming, stop: CancellationToken) -> Self {
        InFlight {
            tasks: JoinSet::new(),
            progress: Instant::now(),
            waiting: HashMap::new(),
            subscriber: consuming.subscriber.clone(),
            retry: consuming.settings.limits.reconnect,
            acknowledge_timeout: consuming.settings.limits.connect_timeout,
            stop,
        }
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn take(&mut self, delivery: Delivery) {
        if self.is_empty() {
            self.progress = Instant::now();
        }
        let event = Envelope::from_bytes(&delivery.data);
        let subject = match &event {
            Ok(envelope) => format!("{}/{}", envelope.source, envelope.subject),
            Err(_) => format!("unreadable {}", delivery.delivery_tag),
        };
        let received = Received { event, delivery };
        match self.waiting.entry(subject) {
            Entry::Occupied(mut behind) => behind.get_mut().push_back(received),
            Entry::Vacant(none) => {
                let subject = none.key().clone();
                none.insert(VecDeque::new());
                self.start(subject, received);
            }
        }
    }

    /// An event of this subject was handled: starts the next one.
    fn start_next(&mut self, subject: String) {
        self.progress = Instant::now();
        match self.waiting.get_mut(&subject).and_then(VecDeque::pop_front) {
            Some(received) => self.start(subject, received),
            None => drop(self.waiting.remove(&subject)),
        }
    }

    fn start(&mut self, subject: String, received: Received) {
        let (subscriber, backoff, stop, limit) = (
            self.subscriber.clone(),
            Backoff::new(self.retry),
            self.stop.clone(),
            self.acknowledge_timeout,
        );
        self.tasks.spawn(async move {
            let taken = tokio::select! {
                taken = handle(&*subscriber, received, backoff) => taken,
                // An event that cannot be handled now is abandoned; one that is being handled may end, within `finish`.
                () = async { stop.cancelled().await; sleep(FINISH_TIMEOUT).await; } => return Ok(subject),
            };
            // Without it the broker delivers the event to the next consumer.
            with_timeout(limit, "acknowledging an event", async {
                Ok(taken.acker.ack(BasicAckOptions::default()).await?)
            })
            .await?;
            Ok(subject)
        });
    }

    /// Lets the events that have begun end; those that wait behind them are delivered again.
    async fn finish(mut self) {
        self.waiting.clear();
        timeout(FINISH_TIMEOUT, async {
            while self.tasks.join_next().await.is_some() {}
        })
        .await
        .ok();
    }
}

/// Offers the event until the module has accepted it, and returns the delivery to acknowledge. Only a module whose database is unavailable does
/// not accept an event: requeued, it would be delivered again at once. If the database stays unavailable, the connection ends, and the next
/// process receives everything.
async fn handle(subscriber: &dyn Subscriber, received: Received, mut backoff: Backoff) -> Delivery {
    let Received { event, delivery } = received;
    loop {
        let attempt = async {
            match &event {
                Ok(envelope) => subscriber.deliver(envelope.clone()).await,
                Err(why) => subscriber.reject(&delivery.data, why).await,
            }
        };
        let fault = match AssertUnwindSafe(attempt).catch_unwind().await {
            Ok(Ok(())) => break,
            Ok(Err(fault)) => fault,
            Err(_) => Fault::internal("panicked", "handling the event panicked"),
        };
        tracing::warn!(module = subscriber.module(), %fault, "a module could not accept an event; retrying");
        metrics::counter!("banyan_bus_deliveries_failed_total", "module" => subscriber.module().to_owned())
            .increment(1);
        sleep(backoff.next_delay()).await;
    }
    let outcome = if event.is_ok() { "taken" } else { "unreadable" };
    metrics::counter!("banyan_bus_delivered_total", "module" => subscriber.module().to_owned(), "outcome" => outcome)
        .increment(1);
    delivery
}
