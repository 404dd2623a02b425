//! Which module subscribes to what, and the queues that follow from it.
//!
//! Compiled into every binary, so that a publisher declares the queues of modules that have never run, and their events wait for them there.

use super::{QueueType, Settings};

/// An exchange and its queues, as every process declares them.
#[derive(Clone, Debug)]
pub struct Topology {
    pub exchange: String,
    pub queue_type: QueueType,
    pub queues: Vec<Queue>,
}

/// The queue of one subscribed module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    pub module: String,
    /// `<exchange>.<module>`: different exchanges share no queues.
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

    /// Whether a module subscribes to this aggregate: then the broker must have a queue for it.
    pub fn is_subscribed(&self, topic: &str) -> bool {
        self.queues
            .iter()
            .any(|queue| queue.topics.iter().any(|subscribed| subscribed == topic))
    }

    pub fn queue_of(&self, module: &str) -> Option<&Queue> {
        self.queues.iter().find(|queue| queue.module == module)
    }
}

impl Queue {
    /// The queue's binding keys: every event of each aggregate, even if not needed, so that its module sees every version of a subject.
    pub fn patterns(&self) -> impl Iterator<Item = String> {
        self.topics.iter().map(|topic| format!("{topic}.#"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_matches_the_whole_topic_and_not_a_prefix() {
        let topology = Topology::new(
            &crate::settings::tests::defaults(),
            &[
                ("orders", &["payments.payment", "shipping.shipment"]),
                ("catalog", &["orders.order"]),
            ],
        );
        assert!(
            topology.is_subscribed("orders.order")
                && !topology.is_subscribed("orders.cart")
                && !topology.is_subscribed("orders")
        );
        let queue = topology.queue_of("orders").unwrap();
        assert_eq!(queue.name, "banyan.events.orders");
        assert_eq!(
            queue.patterns().collect::<Vec<_>>(),
            ["payments.payment.#", "shipping.shipment.#"]
        );
    }
}
