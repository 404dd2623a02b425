//! The registered instances as etcd last reported them, and the watchers to notify of them.
//!
//! That etcd is unavailable, or has lost its data, does not mean that the instances are unavailable too.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::warn;

use super::{
    super::{Address, Interface, publish},
    client::{Change, Snapshot},
};

/// The value of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpc: Option<Address>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Address>,
}

impl Entry {
    fn address(&self, interface: Interface) -> Option<&Address> {
        match interface {
            Interface::Rpc => self.rpc.as_ref(),
            Interface::Http => self.http.as_ref(),
        }
    }
}

pub struct Directory {
    /// What all keys begin with, `/` included.
    prefix: String,
    /// The time for which instances stay known after etcd lost its data, so that they can register again.
    grace: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cluster: String,
    revision: i64,
    entries: BTreeMap<String, Entry>,
    /// What was known before etcd lost its data, and until when it stays in use.
    lost: Option<(BTreeMap<String, Entry>, Instant)>,
    watched: HashMap<(String, Interface), watch::Sender<Vec<Address>>>,
}

impl Directory {
    pub fn new(prefix: String, grace: Duration) -> Directory {
        Directory {
            prefix,
            grace,
            state: Mutex::default(),
        }
    }

    pub fn watch(&self, module: &str, interface: Interface) -> watch::Receiver<Vec<Address>> {
        let mut state = self.state();
        let known = self.addresses(&state, module, interface);
        let publisher = state
            .watched
            .entry((module.to_owned(), interface))
            .or_insert_with(|| watch::channel(known).0);
        publisher.subscribe()
    }

    /// Replaces everything that is registered, and returns the revision from which to watch for changes.
    pub fn replace(&self, snapshot: Snapshot) -> i64 {
        let mut state = self.state();
        let first = state.revision == 0;
        if !first && (snapshot.cluster != state.cluster || snapshot.revision < state.revision) {
            warn!(
                "etcd has lost its data; the registered instances stay known for {} s, so that they can register again",
                self.grace.as_secs()
            );
            let mut known = std::mem::take(&mut state.entries);
            // An instance that had no time to register again since the previous loss stays known for this time, too.
            if let Some((earlier, _)) = state.lost.take().filter(|(_, until)| Instant::now() < *until) {
                for (key, entry) in earlier {
                    known.entry(key).or_insert(entry);
                }
            }
            state.lost = Some((known, Instant::now() + self.grace));
        }
        if state.lost.as_ref().is_some_and(|(_, until)| Instant::now() >= *until) {
            state.lost = None;
        }
        state.cluster = snapshot.cluster;
        state.revision = snapshot.revision;
        state.entries = snapshot
            .entries
            .into_iter()
            .filter_map(|(key, value)| Some((read(&key, &value)?, key)))
            .map(|(e, k)| (k, e))
            .collect();
        self.publish_all(&state);
        snapshot.revision + 1
    }

    /// Applies changes. Those that a snapshot already contained are skipped.
    pub fn apply(&self, changes: Vec<Change>) {
        let mut state = self.state();
        let seen = state.revision;
        for change in changes.into_iter().filter(|change| change.revision > seen) {
            state.revision = state.revision.max(change.revision);
            match change.value.and_then(|value| read(&change.key, &value)) {
                Some(entry) => drop(state.entries.insert(change.key, entry)),
                None => drop(state.entries.remove(&change.key)),
            }
        }
        self.publish_all(&state);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn publish_all(&self, state: &State) {
        for ((module, interface), publisher) in &state.watched {
            publish(publisher, module, *interface, self.addresses(state, module, *interface));
        }
    }

    fn addresses(&self, state: &State, module: &str, interface: Interface) -> Vec<Address> {
        let prefix = format!("{}{module}/", self.prefix);
        let lost = state.lost.iter().flat_map(|(entries, _)| entries);
        let of_module = state
            .entries
            .iter()
            .chain(lost)
            .filter(|(key, _)| key.starts_with(&prefix));
        let addresses: BTreeSet<Address> = of_module
            .filter_map(|(_, entry)| entry.address(interface))
            .cloned()
            .collect();
        addresses.into_iter().collect()
    }
}

fn read(key: &str, value: &[u8]) -> Option<Entry> {
    serde_json::from_slice(value)
        .inspect_err(|why| warn!(key, "a value in etcd is not an instance, and is skipped: {why}"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "/banyan/services/";

    fn directory(grace: Duration) -> Directory {
        Directory::new(PREFIX.to_owned(), grace)
    }

    fn snapshot(cluster: &str, revision: i64, entries: &[(&str, &str)]) -> Snapshot {
        let entries = entries
            .iter()
            .map(|(key, value)| (format!("{PREFIX}{key}"), value.as_bytes().to_vec()))
            .collect();
        Snapshot {
            cluster: cluster.to_owned(),
            revision,
            entries,
        }
    }

    fn change(revision: i64, key: &str, value: Option<&str>) -> Change {
        Change {
            revision,
            key: format!("{PREFIX}{key}"),
            value: value.map(|value| value.as_bytes().to_vec()),
        }
    }

    fn shown(receiver: &watch::Receiver<Vec<Address>>) -> Vec<String> {
        receiver.borrow().iter().map(ToString::to_string).collect()
    }

    const ONE: &str = r#"{"rpc":"http://10.0.0.1:9000","http":"http://10.0.0.1:8000"}"#;
    const TWO: &str = r#"{"rpc":"http://10.0.0.2:9000"}"#;

    #[test]
    fn a_module_and_an_interface_have_their_own_instances() {
        let directory = directory(Duration::from_secs(10));
        let rpc = directory.watch("users", Interface::Rpc);
        directory.replace(snapshot(
            "c",
            3,
            &[("users/a", ONE), ("users/b", TWO), ("users-two/c", ONE)],
        ));
        assert_eq!(shown(&rpc), ["http://10.0.0.1:9000", "http://10.0.0.2:9000"]);
        assert_eq!(
            shown(&directory.watch("users", Interface::Http)),
            ["http://10.0.0.1:8000"]
        );
        assert!(shown(&directory.watch("orders", Interface::Rpc)).is_empty());
    }

    #[test]
    fn a_change_that_a_snapshot_contained_is_not_applied_again() {
        let directory = directory(Duration::from_secs(10));
        let users = directory.watch("users", Interface::Rpc);
        directory.replace(snapshot("c", 5, &[("users/a", ONE)]));
        directory.apply(vec![change(4, "users/a", None)]);
        assert_eq!(shown(&users), ["http://10.0.0.1:9000"]);
        directory.apply(vec![change(6, "users/b", Some(TWO)), change(6, "users/a", None)]);
        assert_eq!(shown(&users), ["http://10.0.0.2:9000"]);
    }

    #[test]
    fn after_etcd_lost_its_data_the_known_instances_stay_for_the_grace_period() {
        let directory = directory(Duration::from_millis(20));
        let users = directory.watch("users", Interface::Rpc);
        directory.replace(snapshot("c", 50, &[("users/a", ONE)]));
        directory.replace(snapshot("c", 2, &[("users/b", TWO)]));
        assert_eq!(shown(&users), ["http://10.0.0.1:9000", "http://10.0.0.2:9000"]);
        std::thread::sleep(Duration::from_millis(20));
        directory.replace(snapshot("c", 2, &[("users/b", TWO)]));
        assert_eq!(shown(&users), ["http://10.0.0.2:9000"]);
        directory.replace(snapshot("another", 90, &[]));
        assert_eq!(shown(&users), ["http://10.0.0.2:9000"]);
    }

    #[test]
    fn an_etcd_that_loses_its_data_twice_makes_no_instance_forgotten() {
        let directory = directory(Duration::from_secs(10));
        let users = directory.watch("users", Interface::Rpc);
        directory.replace(snapshot("c", 50, &[("users/a", ONE)]));
        directory.replace(snapshot("c", 2, &[("users/b", TWO)]));
        directory.replace(snapshot("another", 1, &[]));
        assert_eq!(shown(&users), ["http://10.0.0.1:9000", "http://10.0.0.2:9000"]);
    }

    #[test]
    fn a_value_that_is_not_an_instance_is_skipped() {
        let directory = directory(Duration::from_secs(10));
        let users = directory.watch("users", Interface::Rpc);
        directory.replace(snapshot(
            "c",
            5,
            &[("users/a", ONE), ("users/b", "{"), ("users/c", r#"{"rpc":"orders"}"#)],
        ));
        assert_eq!(shown(&users), ["http://10.0.0.1:9000"]);
    }
}
