//! Tells an operator of events that have been tried for long. What has an unknown outcome, or waits for something that is away, is tried without limit,
//! and nobody would learn of it otherwise. Nothing is given up here.

use std::{sync::Arc, time::Duration};

use banyan_core::Fault;
use sea_orm::FromQueryResult;
use tokio::time::sleep;

use crate::{Db, machinery::Work, query};

/// The interval between looks, unless `alert_after` is shorter.
const EVERY: Duration = Duration::from_secs(60);

/// Events of this module that the bus does not accept.
const UNPUBLISHED: &str = "select cast(count(*) as bigint) as events,
         (select subject || ' version ' || version || ': ' || coalesce(last_error, 'no error') from outbox where state = 'pending' and created_at < $1
          order by created_at limit 1) as example
     from outbox where state = 'pending' and created_at < $1";

/// Events of others that hold back their subject. Those behind them, and behind dead letters, wait for nothing else.
const UNHANDLED: &str = "with overdue as (select * from retry where state in ('waiting', 'retrying') and created_at < $1
         and not exists (select 1 from retry earlier where earlier.source = retry.source and earlier.subject = retry.subject
                         and earlier.version < retry.version and earlier.state <> 'discarded'))
     select cast(count(*) as bigint) as events,
         (select source || ' ' || subject || ' version ' || version || ': ' || coalesce(last_error, 'no error') from overdue
          order by created_at limit 1) as example
     from overdue";

/// How many events are overdue, and what the oldest is and fails for.
#[derive(Default, FromQueryResult)]
struct Overdue {
    events: i64,
    example: Option<String>,
}

/// Something that is tried without limit.
struct Look {
    gauge: &'static str,
    sql: &'static str,
    sentence: &'static str,
    /// The number at the last look: only more than that is news.
    told: i64,
}

pub(crate) fn work(db: Db) -> Work {
    Arc::new(move |stop| {
        let db = db.clone();
        Box::pin(async move {
            let every = EVERY.min(db.settings().limits.alert_after);
            let mut looks = [
                Look {
                    gauge: "banyan_outbox_overdue",
                    sql: UNPUBLISHED,
                    sentence: "events have not been published for long; they are tried further",
                    told: 0,
                },
                Look {
                    gauge: "banyan_retry_overdue",
                    sql: UNHANDLED,
                    sentence: "events have not been handled for long; they hold back their subjects and are tried further",
                    told: 0,
                },
            ];
            loop {
                for look in &mut looks {
                    if let Err(fault) = look.tell(&db).await {
                        tracing::debug!(module = db.module(), %fault, "the overdue events cannot be counted");
                    }
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = sleep(every) => {}
                }
            }
        })
    })
}

impl Look {
    async fn tell(&mut self, db: &Db) -> Result<(), Fault> {
        let before = db.clock().now().minus(db.settings().limits.alert_after).as_ms();
        let overdue: Option<Overdue> = query::one(db.read(), self.sql, [before.into()]).await?;
        let Overdue { events, example } = overdue.unwrap_or_default();
        metrics::gauge!(self.gauge, "module" => db.module().to_owned()).set(events as f64);
        if events > self.told {
            let example = example.unwrap_or_default();
            tracing::error!(module = db.module(), events, example, "{}", self.sentence);
        }
        self.told = events;
        Ok(())
    }
}
