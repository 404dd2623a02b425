//! Takes a module's events from its queue.
//!
//! Invariant: an event is acknowledged only after its module has committed its effect or a note to retry it. What was received and not acknowledged
//! comes again on the next connection, and the module recognises it.

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
    connection::{Backoff, Broken, Link, Use, lost, within},
    declaring::{declare, short},
};
use crate::bus::{Queue, Settings, Topology};

/// At a stop, events that are being handled are given so long.
const FINISH_LIMIT: Duration = Duration::from_secs(5);

/// The receiving side of one module.
pub struct Consuming {
    pub settings: Settings,
    pub topology: Arc<Topology>,
    pub queue: Queue,
    pub listener: Arc<dyn Subscriber>,
}

/// What came, read as far as it can be.
struct Received {
    event: Result<Envelope, Fault>,
    delivery: Delivery,
}

/// Events being handled: those of one subject one after the other, as they came; different subjects at the same time. The broker sends no more than
/// `prefetch` of them.
struct Flight {
    /// Each ends with the subject of the event that was taken.
    tasks: JoinSet<Result<String, Broken>>,
    /// When the module last took an event, or was given one while it had none.
    progress: Instant,
    waiting: HashMap<String, VecDeque<Received>>,
    listener: Arc<dyn Subscriber>,
    retry: Duration,
    acknowledge_within: Duration,
    stop: CancellationToken,
}

#[async_trait]
impl Use for Consuming {
    async fn run(&self, connection: Arc<Connection>, link: &Link, stop: &CancellationToken) -> Result<(), Broken> {
        let limit = Duration::from_millis(self.settings.connect_timeout_ms);
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
        let (channel, mut consumer) = within(limit, "consuming", consuming).await?;
        link.connected();
        // The queue may be new, or have lost what was in it.
        self.listener.catch_up();
        let mut flight = Flight::new(self, stop.clone());
        self.receive(&connection, &mut consumer, &mut flight, stop).await?;
        let cancelled = async {
            Ok(channel
                .basic_cancel(consumer.tag(), BasicCancelOptions::default())
                .await?)
        };
        within(limit, "the end of consuming", cancelled).await.ok();
        flight.finish().await;
        within(limit, "closing", async {
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
        flight: &mut Flight,
        stop: &CancellationToken,
    ) -> Result<(), Broken> {
        let mut lost = std::pin::pin!(lost(connection));
        let give_way = Duration::from_millis(self.settings.give_way_ms);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                broken = &mut lost => return Err(broken),
                // Of all processes that listen for a module the broker gives its events to one, and to another only when that one has gone.
                () = sleep_until(flight.progress + give_way), if !flight.is_empty() => {
                    return Err(Broken::Stuck { module: self.queue.module.clone(), since: flight.progress.elapsed() });
                }
                delivery = consumer.next() => match delivery {
                    Some(delivery) => flight.take(delivery?),
                    None => return Err(Broken::Wrong(format!("the broker ended the consumer of {}: was the queue deleted?", self.queue.name))),
                },
                Some(ended) = flight.tasks.join_next() => match ended {
                    Ok(taken) => flight.next_of(taken?),
                    // Unreachable: panics are caught where they happen. Everything received comes again on the next connection.
                    Err(error) => return Err(Broken::Wrong(format!("handling an event ended: {error}"))),
                },
            }
        }
    }
}

impl Flight {
    fn new(consuming: &Consuming, stop: CancellationToken) -> Self {
        Flight {
            tasks: JoinSet::new(),
            progress: Instant::now(),
            waiting: HashMap::new(),
            listener: consuming.listener.clone(),
            retry: Duration::from_millis(consuming.settings.reconnect_ms),
            acknowledge_within: Duration::from_millis(consuming.settings.connect_timeout_ms),
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

    /// An event of this subject was taken.
    fn next_of(&mut self, subject: String) {
        self.progress = Instant::now();
        match self.waiting.get_mut(&subject).and_then(VecDeque::pop_front) {
            Some(received) => self.start(subject, received),
            None => drop(self.waiting.remove(&subject)),
        }
    }

    fn start(&mut self, subject: String, received: Received) {
        let (listener, backoff, stop, limit) = (
            self.listener.clone(),
            Backoff::new(self.retry),
            self.stop.clone(),
            self.acknowledge_within,
        );
        self.tasks.spawn(async move {
            let taken = tokio::select! {
                taken = handle(&*listener, received, backoff) => taken,
                // What cannot be handled now is not waited for; what is being handled may end, within `finish`.
                () = async { stop.cancelled().await; sleep(FINISH_LIMIT).await; } => return Ok(subject),
            };
            // Not told, the broker gives the event to whoever listens on the next connection.
            within(limit, "an acknowledgement", async {
                Ok(taken.acker.ack(BasicAckOptions::default()).await?)
            })
            .await?;
            Ok(subject)
        });
    }

    /// Lets what has begun end; what waits behind it comes again.
    async fn finish(mut self) {
        self.waiting.clear();
        timeout(FINISH_LIMIT, async { while self.tasks.join_next().await.is_some() {} })
            .await
            .ok();
    }
}

/// Hands the event over until the module has it; answers what is to be acknowledged. Only a module whose database is away does not take an event:
/// giving it back to the broker would only bring it again at once. If it is away for long, the connection ends, and all goes to the next process.
async fn handle(listener: &dyn Subscriber, received: Received, mut backoff: Backoff) -> Delivery {
    let Received { event, delivery } = received;
    loop {
        let attempt = async {
            match &event {
                Ok(envelope) => listener.deliver(envelope.clone()).await,
                Err(why) => listener.reject(&delivery.data, why).await,
            }
        };
        let fault = match AssertUnwindSafe(attempt).catch_unwind().await {
            Ok(Ok(())) => break,
            Ok(Err(fault)) => fault,
            Err(_) => Fault::internal("panicked", "taking the event panicked"),
        };
        tracing::warn!(module = listener.module(), %fault, "an event could not be taken; it is tried again");
        metrics::counter!("banyan_bus_deliveries_failed_total", "module" => listener.module().to_owned()).increment(1);
        sleep(backoff.wait()).await;
    }
    let outcome = if event.is_ok() { "taken" } else { "unreadable" };
    metrics::counter!("banyan_bus_delivered_total", "module" => listener.module().to_owned(), "outcome" => outcome)
        .increment(1);
    delivery
}
