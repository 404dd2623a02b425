//! E: every published event was handled, once and in order.

use std::collections::{HashMap, HashSet};

use banyan::{MODULES, shop::SHOP};
use sea_orm::FromQueryResult;

use super::databases::Databases;

#[derive(FromQueryResult)]
struct Subject {
    subject: String,
}

/// The last version of a subject that its producer has published.
#[derive(FromQueryResult)]
struct Published {
    subject: String,
    last_version: i64,
}

/// The last version of a subject that a subscriber has handled.
#[derive(FromQueryResult)]
struct Lane {
    source: String,
    subject: String,
    last_version: i64,
}

#[derive(FromQueryResult)]
struct DeadLetter {
    source: String,
    subject: String,
}

pub async fn audit_always(databases: &Databases) -> Vec<String> {
    let mut wrong = Vec::new();
    for module in MODULES {
        let gaps =
            "select o.subject from outbox o group by o.subject having max(o.version) - min(o.version) + 1 <> count(*)";
        for Subject { subject } in databases.rows(module, gaps).await {
            wrong.push(format!("E3: {module}: the versions of {subject} are not contiguous"));
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
    for module in SHOP.modules {
        let (subscriber, topics) = (module.name, module.subscribes);
        let lanes: HashMap<(String, String), i64> = databases
            .rows::<Lane>(subscriber, "select source, subject, last_version from lane")
            .await
            .into_iter()
            .map(|lane| ((lane.source, lane.subject), lane.last_version))
            .collect();
        let dead: HashSet<(String, String)> = databases
            .rows::<DeadLetter>(subscriber, "select source, subject from retry where state = 'dead'")
            .await
            .into_iter()
            .map(|letter| (letter.source, letter.subject))
            .collect();
        for topic in topics {
            let (source, aggregate) = topic.split_once('.').expect("<source>.<aggregate>");
            let published = format!("select subject, last_version from subject where subject like '{aggregate}/%'");
            for Published { subject, last_version } in databases.rows(source, &published).await {
                let key = (source.to_owned(), subject);
                let handled = lanes.get(&key).copied().unwrap_or_default();
                if handled != last_version && !dead.contains(&key) {
                    behind.push(format!(
                        "{subscriber} has handled {} of {source} up to version {handled}, the last published is {last_version}",
                        key.1
                    ));
                }
            }
        }
    }
    behind
}
