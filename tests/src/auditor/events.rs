//! E: what was told was heard, once and in order.

use std::collections::{HashMap, HashSet};

use banyan::config::MODULES;

use super::books::{Books, get};

pub async fn audit_always(books: &Books) -> Vec<String> {
    let mut wrong = Vec::new();
    for module in MODULES {
        let gaps =
            "select o.subject from outbox o group by o.subject having max(o.version) - min(o.version) + 1 <> count(*)";
        for row in books.rows(module, gaps).await {
            wrong.push(format!(
                "E3: {module}: the versions of {} are not contiguous",
                get::<String>(&row, "subject")
            ));
        }
    }
    wrong
}

pub async fn audit_quiet(books: &Books) -> Vec<String> {
    behind(books)
        .await
        .into_iter()
        .map(|sentence| format!("E1: {sentence}"))
        .collect()
}

/// Every subject that a listener has not followed to its end, unless a dead letter explains it.
pub async fn behind(books: &Books) -> Vec<String> {
    let mut behind = Vec::new();
    for (listener, topics) in banyan::bus::LISTENERS.iter().copied() {
        let lanes: HashMap<(String, String), i64> = books
            .rows(listener, "select source, subject, last_version from lane")
            .await
            .iter()
            .map(|row| ((get(row, "source"), get(row, "subject")), get(row, "last_version")))
            .collect();
        let dead: HashSet<(String, String)> = books
            .rows(listener, "select source, subject from retry where state = 'dead'")
            .await
            .iter()
            .map(|row| (get(row, "source"), get(row, "subject")))
            .collect();
        for topic in topics {
            let (source, aggregate) = topic.split_once('.').expect("<source>.<aggregate>");
            for row in books
                .rows(
                    source,
                    &format!("select subject, last_version from subject where subject like '{aggregate}/%'"),
                )
                .await
            {
                let (subject, told): (String, i64) = (get(&row, "subject"), get(&row, "last_version"));
                let key = (source.to_owned(), subject);
                let heard = lanes.get(&key).copied().unwrap_or_default();
                if heard != told && !dead.contains(&key) {
                    behind.push(format!(
                        "{listener} heard {} of {source} up to {heard}, told were {told}",
                        key.1
                    ));
                }
            }
        }
    }
    behind
}
