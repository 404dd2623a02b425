//! Tells other processes on the same PostgreSQL what was committed (`NOTIFY`).
//!
//! Outside of the transactions: a transaction that notifies holds a lock of the whole database while it commits. What is committed within a pace of the
//! last notification goes out with the next. A notification that is lost delays its receivers until they poll.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use sea_orm::{DbBackend, Statement};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{connection::postgres::Pool, echoes::Echoes};

/// The maximum number of topics that wait. Further ones are dropped, and found by polling.
const QUEUE: usize = 4_096;

#[derive(Clone)]
pub(crate) struct Notifier {
    queue: mpsc::Sender<Arc<str>>,
    ended: CancellationToken,
}

impl Notifier {
    /// Notifies on `channel`, at most once in each `pace`, until `closed`, and then of what was committed before.
    pub fn start(pool: Pool, channel: String, pace: Duration, echoes: Echoes, closed: CancellationToken) -> Self {
        let (queue, mut topics) = mpsc::channel::<Arc<str>>(QUEUE);
        let ended = CancellationToken::new();
        let at_end = ended.clone().drop_guard();
        tokio::spawn(async move {
            let _at_end = at_end;
            let mut waiting = Vec::new();
            loop {
                tokio::select! {
                    biased;
                    received = topics.recv_many(&mut waiting, QUEUE) => if received == 0 { return },
                    // Biased: nothing is waiting any more.
                    () = closed.cancelled() => return,
                }
                let begun = Instant::now();
                let distinct: BTreeSet<Arc<str>> = waiting.drain(..).collect();
                distinct.iter().for_each(|topic| echoes.sent(topic, begun));
                if let Err(error) = pool.read_all(&notification(&channel, &distinct)).await {
                    tracing::debug!(%channel, %error, "other processes could not be notified; they will poll");
                }
                tokio::select! {
                    () = tokio::time::sleep_until((begun + pace).into()) => {}
                    () = closed.cancelled() => {}
                }
            }
        });
        Notifier { queue, ended }
    }

    pub fn notify(&self, topics: &[Arc<str>]) {
        for topic in topics {
            let _ = self.queue.try_send(topic.clone());
        }
    }

    /// Returns once the last notification was sent, after `closed`.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

/// All topics in one statement; a JSON array because the driver's own arrays are a feature of their own.
fn notification(channel: &str, topics: &BTreeSet<Arc<str>>) -> Statement {
    let topics: Vec<&str> = topics.iter().map(AsRef::as_ref).collect();
    Statement::from_sql_and_values(
        DbBackend::Postgres,
        "select pg_notify($1, topic) from json_array_elements_text(cast($2 as json)) as topics(topic)",
        [channel.into(), serde_json::json!(topics).to_string().into()],
    )
}
