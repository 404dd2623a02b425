//! Makes sure that the exchange, every queue and every binding exist.

use std::time::Duration;

use lapin::{
    Channel, Connection, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};

use super::connection::{Broken, with_timeout};
use crate::{Queue, QueueType, Topology};

/// Since RabbitMQ 4 a quorum queue drops what was delivered twenty times without an acknowledgement, which a consumer that crashes often enough
/// would cause. This is as good as no limit, and older brokers, which refuse -1, accept it.
const DELIVERY_LIMIT: i32 = i32::MAX;

/// Declares everything on a channel of its own, which the broker closes if something exists already with other properties.
pub async fn declare(connection: &Connection, topology: &Topology, limit: Duration) -> Result<(), Broken> {
    let all = async {
        let channel = connection.create_channel().await?;
        let durable = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let declared = channel
            .exchange_declare(
                short(&topology.exchange)?,
                ExchangeKind::Topic,
                durable,
                FieldTable::default(),
            )
            .await;
        declared.map_err(|error| differs(error, "exchange", &topology.exchange))?;
        for queue in &topology.queues {
            declare_queue(&channel, topology, queue).await?;
        }
        channel.close(200, "declared".into()).await?;
        Ok(())
    };
    with_timeout(limit, "declaring the queues", all).await
}

async fn declare_queue(channel: &Channel, topology: &Topology, queue: &Queue) -> Result<(), Broken> {
    let name = short(&queue.name)?;
    let declared = channel
        .queue_declare(
            name.clone(),
            QueueDeclareOptions::durable(),
            arguments(topology.queue_type),
        )
        .await;
    declared.map_err(|error| differs(error, "queue", &queue.name))?;
    for pattern in queue.patterns() {
        let binding = (short(&topology.exchange)?, short(&pattern)?);
        channel
            .queue_bind(
                name.clone(),
                binding.0,
                binding.1,
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await?;
    }
    Ok(())
}

fn arguments(queue_type: QueueType) -> FieldTable {
    let mut arguments = FieldTable::default();
    let kind = lapin::types::LongString::from(queue_type.as_str());
    arguments.insert("x-queue-type".into(), kind.into());
    arguments.insert("x-single-active-consumer".into(), true.into());
    if queue_type == QueueType::Quorum {
        arguments.insert("x-delivery-limit".into(), DELIVERY_LIMIT.into());
    }
    arguments
}

/// Explains what to do about something that exists with other properties; returns other errors as they are.
fn differs(error: lapin::Error, what: &str, name: &str) -> Broken {
    let text = error.to_string();
    if !text.contains("PRECONDITION_FAILED") && !text.contains("PRECONDITION-FAILED") && !text.contains("inequivalent")
    {
        return Broken::Lapin(error);
    }
    Broken::Wrong(format!(
        "the {what} {name} exists at the broker already, with other properties than this process declares ({text}). If bus.queue_type was changed, \
         change it back; else delete the {what} (for a queue: `rabbitmqctl delete_queue {name}`), and it is declared again: the events that were in it \
         are fetched from the modules that published them, which keep them for durable.outbox_keep_days"
    ))
}

/// A name as the protocol accepts it: at most 255 bytes.
pub fn short(text: &str) -> Result<ShortString, Broken> {
    ShortString::try_new(text).map_err(|_| {
        Broken::Wrong(format!(
            "a name of more than 255 bytes, which AMQP does not allow: {text}"
        ))
    })
}
