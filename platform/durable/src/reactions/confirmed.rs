//! Tells the producers how far this module has come, and learns from them whether their databases went back.
//!
//! A producer stores what it is told. One that has less than it once acknowledged was restored from a backup, or lost a commit in a failover. It stores
//! nothing then, so the difference stays until this module has recorded what follows from it.

use std::sync::Arc;

use banyan_core::{Call, Fault};
use banyan_event_feed_contract::{ConfirmHandled, Confirmed, EventFeed, Handled};

use super::{
    Deliveries,
    catch_up::{FEED_TIMEOUT, within},
    compared::{self, Place},
};

/// How often a producer may go back while it is told where this module stands: once in each of the two calls.
const ATTEMPTS: usize = 3;

/// What came of a confirmation.
pub(super) enum Told {
    /// `since_ms`: from when events are kept for this module.
    Stored { since_ms: i64 },
    /// The producer has less than it acknowledged. That is recorded here; it has stored nothing.
    WentBack,
}

impl Deliveries {
    /// Tells the producer where this module stands, and begins to listen to what it never has. Returns false for a producer of an earlier version, which
    /// has no such call.
    pub(super) async fn resume(
        &self,
        feed: &Arc<dyn EventFeed>,
        source: &str,
        aggregates: &[String],
    ) -> Result<bool, Fault> {
        for _ in 0..ATTEMPTS {
            if let Some(resumed) = self.try_to_resume(feed, source, aggregates).await? {
                return Ok(resumed);
            }
        }
        Err(Fault::unavailable("The producer goes back again and again."))
    }

    /// None if the producer went back, so that it must be told again.
    async fn try_to_resume(
        &self,
        feed: &Arc<dyn EventFeed>,
        source: &str,
        aggregates: &[String],
    ) -> Result<Option<bool>, Fault> {
        let places = compared::places(self.db(), source, aggregates).await?;
        let (known, new): (Vec<_>, Vec<_>) = aggregates
            .iter()
            .map(|aggregate| (aggregate.clone(), places.get(aggregate).copied().unwrap_or_default()))
            .partition(|(aggregate, _)| places.contains_key(aggregate));
        for handled in [known, new] {
            if handled.is_empty() {
                continue;
            }
            let named: Vec<String> = handled.iter().map(|(aggregate, _)| aggregate.clone()).collect();
            match self.confirm(feed, source, handled, true).await {
                Ok(Told::WentBack) => return Ok(None),
                Ok(Told::Stored { since_ms }) if !places.contains_key(&named[0]) => {
                    self.move_to(source, &named, since_ms).await?
                }
                Ok(Told::Stored { .. }) => {}
                Err(fault) if fault.is_transient() => return Err(fault),
                Err(fault) => {
                    tracing::info!(module = self.db().module(), source, %fault, "this producer keeps no record of its subscribers");
                    return Ok(Some(false));
                }
            }
        }
        Ok(Some(true))
    }

    pub(super) async fn confirm(
        &self,
        feed: &Arc<dyn EventFeed>,
        source: &str,
        handled: Vec<(String, Place)>,
        resuming: bool,
    ) -> Result<Told, Fault> {
        let request = ConfirmHandled {
            module: source.to_owned(),
            subscriber: self.db().module().to_owned(),
            handled: handled
                .iter()
                .map(|(aggregate, place)| Handled {
                    aggregate: aggregate.clone(),
                    before_ms: place.before_ms,
                    acknowledged_ms: place.acknowledged_ms,
                })
                .collect(),
            resuming,
        };
        let call = Call::by_module(self.db().module()).within(FEED_TIMEOUT);
        let Confirmed {
            since_ms,
            went_back,
            confirmed_ms,
        } = within(feed.confirm_handled(&call, request)).await?;
        if went_back {
            self.go_back(source, confirmed_ms).await?;
            return Ok(Told::WentBack);
        }
        // All of one call are at the same place, but after an upgrade that added one; that one then has its own with the next call.
        let stored = handled.iter().map(|(_, place)| place.before_ms).min().unwrap_or(0);
        if handled.iter().any(|(_, place)| place.acknowledged_ms < stored) {
            self.acknowledge(source, handled, stored).await?;
        }
        Ok(Told::Stored { since_ms })
    }

    /// After the producer has stored it, so that a crash between the two looks like nothing.
    async fn acknowledge(&self, source: &str, handled: Vec<(String, Place)>, stored: i64) -> Result<(), Fault> {
        let aggregates: Arc<[String]> = handled.into_iter().map(|(aggregate, _)| aggregate).collect();
        let context = (source.to_owned(), aggregates);
        let write = self.db().write(context, move |tx, (source, aggregates)| async move {
            compared::acknowledge(&tx, &source, &aggregates, stored).await
        });
        write.await
    }

    async fn go_back(&self, source: &str, confirmed_ms: i64) -> Result<(), Fault> {
        let write = self.db().write(source.to_owned(), move |tx, source| async move {
            compared::go_back(&tx, &source, confirmed_ms).await
        });
        write.await?;
        tracing::error!(
            module = self.db().module(),
            source,
            confirmed_ms,
            "the database of this producer is older than what it acknowledged: it was restored from a backup; every subject is compared now, and those of \
             which it lost events become dead letters"
        );
        Ok(())
    }

    pub(super) async fn move_to(&self, source: &str, aggregates: &[String], before_ms: i64) -> Result<(), Fault> {
        let context = (source.to_owned(), Arc::<[String]>::from(aggregates));
        let write = self.db().write(context, move |tx, (source, aggregates)| async move {
            compared::move_to(&tx, &source, &aggregates, before_ms).await
        });
        write.await
    }
}
