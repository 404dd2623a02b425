//! Who is registered, as etcd said last, and who is told of it.
//!
//! That etcd is away, or has lost its data, is no reason to believe that the instances are away too.

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

/// What stands under a key.
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
    /// How long instances stay known that an etcd that lost its data does not name, so that they can register anew.
    grace: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cluster: String,
    revision: i64,
    entries: BTreeMap<String, Entry>,
    /// What was known before etcd lost its data, and until when it is believed.
    lost: Option<(BTreeMap<String, Entry>, Instant)>,
    told: HashMap<(String, Interface), watch::Sender<Vec<Address>>>,
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
        let told = state
            .told
            .entry((module.to_owned(), interface))
            .or_insert_with(|| watch::channel(known).0);
        told.subscribe()
    }

    /// Takes over everything that is registered, and returns the revision from which changes are of interest.
    pub fn replace(&self, snapshot: Snapshot) -> i64 {
        let mut state = self.state();
        let first = state.revision == 0;
        if !first && (snapshot.cluster != state.cluster || snapshot.revision < state.revision) {
            warn!(
                "etcd has lost its data; who was registered stays known for {} s, to register anew",
                self.grace.as_secs()
            );
            let mut known = std::mem::take(&mut state.entries);
            // Who had no time to register anew since the loss before this one is believed as long again.
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
        self.tell_all(&state);
        snapshot.revision + 1
    }

    /// Takes in what changed. What a snapshot already contained is passed over.
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
        self.tell_all(&state);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn tell_all(&self, state: &State) {
        for ((module, interface), told) in &state.told {
            publish(told, module, *interface, self.addresses(state, module, *interface));
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
        .inspect_err(|why| warn!(key, "what stands in etcd is no instance, and is passed over: {why}"))
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
    fn what_a_snapshot_contained_does_not_happen_again() {
        let directory = directory(Duration::from_secs(10));
        let users = directory.watch("users", Interface::Rpc);
        directory.replace(snapshot("c", 5, &[("users/a", ONE)]));
        directory.apply(vec![change(4, "users/a", None)]);
        assert_eq!(shown(&users), ["http://10.0.0.1:9000"]);
        directory.apply(vec![change(6, "users/b", Some(TWO)), change(6, "users/a", None)]);
        assert_eq!(shown(&users), ["http://10.0.0.2:9000"]);
    }

    #[test]
    fn an_etcd_that_lost_its_data_is_not_believed_at_once() {
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
    fn an_etcd_that_loses_its_data_twice_makes_nobody_forgotten() {
        let directory = directory(Duration::from_secs(10));
        let users = directory.watch("users", Interface::Rpc);
        directory.replace(snapshot("c", 50, &[("users/a", ONE)]));
        directory.replace(snapshot("c", 2, &[("users/b", TWO)]));
        directory.replace(snapshot("another", 1, &[]));
        assert_eq!(shown(&users), ["http://10.0.0.1:9000", "http://10.0.0.2:9000"]);
    }

    #[test]
    fn what_is_no_instance_is_passed_over() {
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
