//! E: every published event was handled, once and in order.

use std::collections::{HashMap, HashSet};

use banyan::config::MODULES;

use super::databases::{Databases, get};

pub async fn audit_always(databases: &Databases) -> Vec<String> {
    let mut wrong = Vec::new();
    for module in MODULES {
        let gaps =
            "select o.subject from outbox o group by o.subject having max(o.version) - min(o.version) + 1 <> count(*)";
        for row in databases.rows(module, gaps).await {
            wrong.push(format!(
                "E3: {module}: the versions of {} are not contiguous",
                get::<String>(&row, "subject")
            ));
        }
    }
    wrong
}

pub async fn audit_quiet(databases: &Databases) -> Vec<String> {
    behind(databases)
        .await
        .into_iter()
        .map(|sentence| format!("E1: {sentence}"))
        .collect()
}

/// Every subject that a subscriber has not followed to its last version, unless a dead letter explains it.
pub async fn behind(databases: &Databases) -> Vec<String> {
    let mut behind = Vec::new();
    for (subscriber, topics) in banyan::bus::LISTENERS.iter().copied() {
        let lanes: HashMap<(String, String), i64> = databases
            .rows(subscriber, "select source, subject, last_version from lane")
            .await
            .iter()
            .map(|row| ((get(row, "source"), get(row, "subject")), get(row, "last_version")))
            .collect();
        let dead: HashSet<(String, String)> = databases
            .rows(subscriber, "select source, subject from retry where state = 'dead'")
            .await
            .iter()
            .map(|row| (get(row, "source"), get(row, "subject")))
            .collect();
        for topic in topics {
            let (source, aggregate) = topic.split_once('.').expect("<source>.<aggregate>");
            for row in databases
                .rows(
                    source,
                    &format!("select subject, last_version from subject where subject like '{aggregate}/%'"),
                )
                .await
            {
                let (subject, published): (String, i64) = (get(&row, "subject"), get(&row, "last_version"));
                let key = (source.to_owned(), subject);
                let handled = lanes.get(&key).copied().unwrap_or_default();
                if handled != published && !dead.contains(&key) {
                    behind.push(format!(
                        "{subscriber} handled {} of {source} up to version {handled}, published are {published}",
                        key.1
                    ));
                }
            }
        }
    }
    behind
}
