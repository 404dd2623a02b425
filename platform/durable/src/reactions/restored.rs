//! Compares every lane with a producer that was restored from a backup: those that are ahead of it, and those of subjects that it never heard of, because
//! they began after the backup.
//!
//! It happens once for each restore, page by page in the order of the names, with pauses, and goes on where it was interrupted.

use std::{collections::HashMap, sync::Arc};

use banyan_core::{Call, Fault};
use banyan_event_feed_contract::{EventFeed, ListSubjects, Subject};
use tokio::time::{Instant, sleep};

use super::{
    Deliveries,
    catch_up::{FEED_TIMEOUT, LANES, LaneOf, PAUSE, feed_of, within},
    compared,
};
use crate::{Db, Feeds, query};

impl Deliveries {
    /// Compares the lanes that were not compared yet, if the producer went back.
    pub(super) async fn compare_lanes(&self, feeds: &Feeds, source: &str) -> Result<(), Fault> {
        while let Some(after) = compared::restored(self.db(), source).await? {
            let page_begun_at = Instant::now();
            let page = lanes_after(self.db(), source, &after).await?;
            let last = page.last().map(|lane| lane.subject.clone());
            self.compare_page(feeds, source, page).await?;
            self.go_on(source, after, last).await?;
            sleep(page_begun_at.elapsed() * PAUSE).await;
        }
        Ok(())
    }

    async fn compare_page(&self, feeds: &Feeds, source: &str, mut page: Vec<LaneOf>) -> Result<(), Fault> {
        page.retain(|lane| {
            let aggregate = lane.subject.split('/').next().unwrap_or_default();
            lane.lane.version > 0 && self.reactions.subscribes_to(&format!("{source}.{aggregate}"))
        });
        if page.is_empty() {
            return Ok(());
        }
        let mut known = self.named(feed_of(feeds, source)?, source, &page).await?;
        let subjects = page.into_iter().map(|LaneOf { subject, lane }| {
            let of_producer = known.remove(&subject).unwrap_or_else(|| Subject {
                subject,
                ..Subject::default()
            });
            (of_producer, lane)
        });
        self.catch_up_all(feeds, source, subjects.collect()).await
    }

    /// The subjects of this page that the producer knows.
    async fn named(
        &self,
        feed: &Arc<dyn EventFeed>,
        source: &str,
        page: &[LaneOf],
    ) -> Result<HashMap<String, Subject>, Fault> {
        let request = ListSubjects {
            module: source.to_owned(),
            subjects: page.iter().map(|lane| lane.subject.clone()).collect(),
            ..ListSubjects::default()
        };
        let call = Call::by_module(self.db().module()).within(FEED_TIMEOUT);
        let subjects = within(feed.list_subjects(&call, request)).await?;
        if !subjects.named {
            return Err(Fault::unavailable(
                "The producer went back, but an instance of an earlier version responds: it cannot be compared.",
            ));
        }
        let named = subjects.items.into_iter();
        Ok(named.map(|subject| (subject.subject.clone(), subject)).collect())
    }

    async fn go_on(&self, source: &str, from: String, to: Option<String>) -> Result<(), Fault> {
        if to.is_none() {
            tracing::info!(
                module = self.db().module(),
                source,
                "every subject was compared with the restored producer"
            );
        }
        let context = Arc::new((source.to_owned(), from, to));
        let write = self.db().write(context, |tx, context| async move {
            let (source, from, to) = &*context;
            compared::lanes_compared(&tx, source, from, to.as_deref()).await
        });
        write.await
    }
}

async fn lanes_after(db: &Db, source: &str, after: &str) -> Result<Vec<LaneOf>, Fault> {
    let sql =
        "select subject, last_version, case when event_version = last_version then event_id end as event_id from lane
         where source = $1 and subject > $2 order by subject limit $3";
    let limit = i64::try_from(LANES).unwrap_or(i64::MAX);
    query::all(db.read(), sql, [source.into(), after.into(), limit.into()]).await
}
