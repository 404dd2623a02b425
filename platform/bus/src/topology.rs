//! Who listens to what, and the queues that follow from it.
//!
//! Compiled into every binary, so that whoever publishes makes the queues of modules that have never run, and their events wait for them there.

use super::{QueueType, Settings};

/// An exchange and its queues, as every process declares them.
#[derive(Clone, Debug)]
pub struct Topology {
    pub exchange: String,
    pub queue_type: QueueType,
    pub queues: Vec<Queue>,
}

/// The queue of one listening module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    pub module: String,
    /// `<exchange>.<module>`: another exchange is another world.
    pub name: String,
    pub topics: Vec<String>,
}

impl Topology {
    pub fn new(settings: &Settings, subscriptions: &[(&str, &[&str])]) -> Self {
        let queue = |(module, topics): &(&str, &[&str])| Queue {
            module: (*module).to_owned(),
            name: format!("{}.{module}", settings.exchange),
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        };
        Topology {
            exchange: settings.exchange.clone(),
            queue_type: settings.queue_type,
            queues: subscriptions.iter().map(queue).collect(),
        }
    }

    /// Whether some module listens to this aggregate: then the broker must have a queue for it.
    pub fn is_heard(&self, topic: &str) -> bool {
        self.queues
            .iter()
            .any(|queue| queue.topics.iter().any(|heard| heard == topic))
    }

    pub fn queue_of(&self, module: &str) -> Option<&Queue> {
        self.queues.iter().find(|queue| queue.module == module)
    }
}

impl Queue {
    /// What the queue is bound by: every event of each aggregate, of interest or not, so that its module sees every version of a subject.
    pub fn patterns(&self) -> impl Iterator<Item = String> {
        self.topics.iter().map(|topic| format!("{topic}.#"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_hears_is_known_by_topic_and_not_by_prefix() {
        let topology = Topology::new(
            &crate::settings::tests::defaults(),
            &[
                ("orders", &["payments.payment", "shipping.shipment"]),
                ("catalog", &["orders.order"]),
            ],
        );
        assert!(topology.is_heard("orders.order") && !topology.is_heard("orders.cart") && !topology.is_heard("orders"));
        let queue = topology.queue_of("orders").unwrap();
        assert_eq!(queue.name, "banyan.events.orders");
        assert_eq!(
            queue.patterns().collect::<Vec<_>>(),
            ["payments.payment.#", "shipping.shipment.#"]
        );
    }
}
