//! Folding the read models again: to compare them with the live ones, and to make them anew.

use std::{collections::BTreeMap, fmt, time::Duration};

use banyan_core::{Actor, Fault};
use banyan_durable::{Db, Tx};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    event::Recorded,
    store,
    views::{Difference, OrderView},
};

/// Orders folded in one transaction, which must end within a second.
const BATCH: u64 = 50;

/// One call goes on for so long and then says where to go on: all orders of a large shop take longer than a request may.
const SHARE: Duration = Duration::from_secs(5);

/// The read models of all orders, for operators and tests.
#[derive(Clone, Debug)]
pub struct Views {
    db: Db,
    share: Duration,
}

impl Views {
    pub(crate) fn new(db: Db) -> Self {
        Views { db, share: SHARE }
    }

    /// Drops every view and folds it again from its stream, some at a time; answers how many that were, and where to go on. Orders may change
    /// meanwhile, and nobody finds one missing. Who had it done, and why, is in the audit log before anything is dropped.
    ///
    /// # Errors
    /// As any query; what was rebuilt until then stays.
    pub async fn rebuild(
        &self,
        from: Option<Place>,
        actor: &Actor,
        reason: &str,
        comment: Option<&str>,
    ) -> Result<(u64, Option<Place>), Fault> {
        let (actor, reason, comment) = (actor.clone(), reason.to_owned(), comment.map(str::to_owned));
        self.db
            .write((actor, reason, comment), |tx, (actor, reason, comment)| async move {
                banyan_durable::audit(&tx, &actor, "views.rebuild", "order_view", &reason, comment.as_deref()).await
            })
            .await?;
        let mut rebuilt = 0;
        let next = self.walk(from, async |table, ids| {
            match table {
                Table::Streams => rebuilt += self.db.write((), move |tx, ()| fold_batch(tx, ids.clone())).await?,
                Table::Views => self.db.write((), move |tx, ()| drop_orphans(tx, ids.clone())).await?,
            }
            Ok(())
        });
        let next = next.await?;
        Ok((rebuilt, next))
    }

    /// Every view that is not what its stream folds to, and every one that is missing or has no stream; and where to go on. While orders change,
    /// one that changed between the two looks is looked at again.
    ///
    /// # Errors
    /// As any query.
    pub async fn compare(&self, from: Option<Place>) -> Result<(Vec<Difference>, Option<Place>), Fault> {
        let mut differences = Vec::new();
        let next = self.walk(from, async |table, ids| {
            let found = self.lasting_differences(ids).await?;
            // One that has a stream was looked at with the streams.
            let found = found
                .into_iter()
                .filter(|found| table == Table::Streams || found.folded.is_none());
            differences.extend(found);
            Ok(())
        });
        let next = next.await?;
        Ok((differences, next))
    }

    /// Goes through the streams and then the views, a batch at a time, for as long as one call may; `None` at the end.
    async fn walk(
        &self,
        from: Option<Place>,
        mut visit: impl AsyncFnMut(Table, Vec<Uuid>) -> Result<(), Fault>,
    ) -> Result<Option<Place>, Fault> {
        let until = Instant::now() + self.share;
        let mut place = from.unwrap_or(Place {
            table: Table::Streams,
            after: None,
        });
        loop {
            place = match (self.batch(place).await?, place.table) {
                (Some((ids, last)), table) => {
                    visit(table, ids).await?;
                    Place {
                        table,
                        after: Some(last),
                    }
                }
                (None, Table::Streams) => Place {
                    table: Table::Views,
                    after: None,
                },
                (None, Table::Views) => return Ok(None),
            };
            if Instant::now() >= until {
                return Ok(Some(place));
            }
        }
    }

    async fn lasting_differences(&self, ids: Vec<Uuid>) -> Result<Vec<Difference>, Fault> {
        let mut found = self.differences(&ids).await?;
        for _ in 0..3 {
            if found.is_empty() {
                break;
            }
            let again: Vec<Uuid> = found.iter().map(|found| found.order_id).collect();
            found = self.differences(&again).await?;
        }
        Ok(found)
    }

    async fn differences(&self, ids: &[Uuid]) -> Result<Vec<Difference>, Fault> {
        let mut live = store::views_of(self.db.read(), ids).await?;
        let mut folded = fold(&store::streams_of(self.db.read(), ids).await?);
        let of = |id: &Uuid| Difference {
            order_id: *id,
            live: live.remove(id),
            folded: folded.remove(id),
        };
        Ok(ids.iter().map(of).filter(|found| found.live != found.folded).collect())
    }

    async fn batch(&self, Place { table, after }: Place) -> Result<Option<(Vec<Uuid>, Uuid)>, Fault> {
        let ids = match table {
            Table::Streams => store::stream_ids_after(self.db.read(), after, BATCH).await?,
            Table::Views => store::view_ids_after(self.db.read(), after, BATCH).await?,
        };
        Ok(ids.last().copied().map(|last| (ids, last)))
    }
}

/// Where a walk over all orders stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    table: Table,
    after: Option<Uuid>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    Streams,
    Views,
}

impl Table {
    fn as_str(self) -> &'static str {
        match self {
            Table::Streams => "streams",
            Table::Views => "views",
        }
    }
}

impl Place {
    /// # Errors
    /// `invalid_cursor` (malformed).
    pub fn parse(cursor: &str) -> Result<Self, Fault> {
        let (name, after) = cursor.split_once('.').unwrap_or((cursor, ""));
        let table = [Table::Streams, Table::Views]
            .into_iter()
            .find(|table| table.as_str() == name);
        let after = if after.is_empty() {
            Some(None)
        } else {
            Uuid::parse_str(after).ok().map(Some)
        };
        let place = table.zip(after).map(|(table, after)| Place { table, after });
        place.ok_or_else(|| Fault::malformed("invalid_cursor", "This cursor is not one of ours."))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{}",
            self.table.as_str(),
            self.after.map(|after| after.to_string()).unwrap_or_default()
        )
    }
}

/// The views go first: on PostgreSQL that waits for whoever is changing one of these orders, so that the streams are read after it.
async fn fold_batch(tx: Tx, ids: Vec<Uuid>) -> Result<u64, Fault> {
    store::drop_views(tx.conn(), &ids).await?;
    let views: Vec<OrderView> = fold(&store::streams_of(tx.conn(), &ids).await?).into_values().collect();
    store::write_views(tx.conn(), &views).await?;
    Ok(views.len() as u64)
}

async fn drop_orphans(tx: Tx, ids: Vec<Uuid>) -> Result<(), Fault> {
    let streams = store::streams_of(tx.conn(), &ids).await?;
    let orphans: Vec<Uuid> = ids.into_iter().filter(|id| !streams.contains_key(id)).collect();
    store::drop_views(tx.conn(), &orphans).await
}

/// What these streams fold to, carts to nothing; in the order of ids, so that two rebuilds that write the same views never wait in a circle.
fn fold(streams: &BTreeMap<Uuid, Vec<Recorded>>) -> BTreeMap<Uuid, OrderView> {
    streams
        .iter()
        .filter_map(|(id, stream)| Some((*id, OrderView::fold(*id, stream)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use banyan_core::{Call, Timestamp};
    use banyan_durable_testing::on_both;
    use sea_orm::ConnectionTrait;

    use super::*;
    use crate::{announce::store_and_announce, event::OrderEvent, order::tests::placement, stream::Stream};

    const ORDERS: u128 = 120;

    /// The whole of it in as many calls as it takes, each ending after its first batch.
    async fn compare_all(views: &Views) -> (usize, Vec<Difference>) {
        let (mut calls, mut all, mut from) = (0, Vec::new(), None);
        loop {
            let (found, next) = views.compare(from).await.unwrap();
            calls += 1;
            all.extend(found);
            let Some(next) = next else { return (calls, all) };
            from = Some(Place::parse(&next.to_string()).unwrap());
        }
    }

    #[tokio::test]
    async fn what_takes_longer_than_a_request_goes_on_where_the_last_one_stopped() {
        on_both(crate::SCHEMA, |db| async move {
            for number in 1..=ORDERS {
                let placed =
                    move || Stream::begin(Uuid::from_u128(number), OrderEvent::Placed(Box::new(placement())), Timestamp::from_ms(7));
                db.write((), move |tx, ()| async move { store_and_announce(&tx, &Call::by_module("test"), &placed()?).await }).await.unwrap();
            }
            // One view is lost, and one has lost its stream.
            for spoil in [
                "delete from order_view where id in (select id from order_view order by id limit 1)",
                "delete from order_event where order_id in (select order_id from order_event order by order_id desc limit 1)",
            ] {
                let spoilt = db.write((), move |tx, ()| async move { tx.conn().execute_unprepared(spoil).await.map(drop).map_err(banyan_durable::fault) });
                spoilt.await.unwrap();
            }
            let views = Views { db: db.clone(), share: Duration::ZERO };
            let (calls, differences) = compare_all(&views).await;
            let spoilt: Vec<Uuid> = differences.iter().map(|difference| difference.order_id).collect();
            assert_eq!(spoilt, [Uuid::from_u128(1), Uuid::from_u128(ORDERS)]);
            assert!(calls > 4, "{calls}");

            let (mut rebuilt, mut from) = (0, None);
            loop {
                let (orders, next) = views.rebuild(from, &Actor::Anonymous, "spoilt", None).await.unwrap();
                rebuilt += orders;
                from = next;
                if from.is_none() {
                    break;
                }
            }
            assert_eq!(u128::from(rebuilt), ORDERS - 1);
            assert_eq!(compare_all(&views).await.1, []);
            assert_eq!(Views::new(db).compare(None).await.unwrap(), (vec![], None), "few orders take one call");
        })
        .await;
    }

    #[test]
    fn a_cursor_is_one_of_ours_or_refused() {
        for cursor in ["streams.", "views.", "streams.0193a5b8-0000-7000-8000-0000deadbeef"] {
            assert_eq!(Place::parse(cursor).unwrap().to_string(), cursor);
        }
        for wrong in ["", "orders.", "streams.x", "views.1.2"] {
            assert_eq!(Place::parse(wrong).unwrap_err().code, "invalid_cursor", "{wrong}");
        }
    }
}
