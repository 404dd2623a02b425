//! Folds the read models again: to compare them with the stored ones, and to rebuild them.

use std::{collections::BTreeMap, fmt, time::Duration};

use banyan_core::{Actor, Fault};
use banyan_durable::{Db, Tx};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    event::Recorded,
    store,
    views::{Difference, ReadModel},
};

/// The number of orders folded in one transaction, which must end within a second.
const BATCH: u64 = 50;

/// The time after which one call returns a cursor to continue from: all orders of a large shop take longer than a request may.
const TIME_PER_CALL: Duration = Duration::from_secs(5);

/// The read models of all orders, for operators and tests.
#[derive(Clone, Debug)]
pub struct Views {
    db: Db,
    time_per_call: Duration,
}

impl Views {
    pub(crate) fn new(db: Db) -> Self {
        Views {
            db,
            time_per_call: TIME_PER_CALL,
        }
    }

    /// Deletes every view and folds it again from its stream, in batches; returns the number of views, and where to continue. Orders may change
    /// meanwhile, and no reader finds a view missing. The actor and the reason are in the audit log before anything is deleted.
    ///
    /// # Errors
    /// As any query; what was rebuilt until then remains.
    pub async fn rebuild(
        &self,
        from: Option<Position>,
        actor: &Actor,
        reason: &str,
        comment: Option<&str>,
    ) -> Result<(u64, Option<Position>), Fault> {
        let context = (actor.clone(), reason.to_owned(), comment.map(str::to_owned));
        let audited = self.db.write(context, |tx, (actor, reason, comment)| async move {
            banyan_durable::audit(&tx, &actor, "views.rebuild", "order_view", &reason, comment.as_deref()).await
        });
        audited.await?;
        let mut rebuilt = 0;
        let next = self.walk(from, async |table, ids| {
            match table {
                Table::Streams => rebuilt += self.db.write(ids, fold_batch).await?,
                Table::Views => self.db.write(ids, delete_orphans).await?,
            }
            Ok(())
        });
        let next = next.await?;
        Ok((rebuilt, next))
    }

    /// Every view that differs from what its stream folds to, that is missing, or that has no stream; and where to continue. An order that changes
    /// during the comparison is compared again.
    ///
    /// # Errors
    /// As any query.
    pub async fn compare(&self, from: Option<Position>) -> Result<(Vec<Difference>, Option<Position>), Fault> {
        let mut differences = Vec::new();
        let next = self.walk(from, async |table, ids| {
            let found = self.lasting_differences(ids).await?;
            // A view that has a stream was compared with the streams.
            let found = found
                .into_iter()
                .filter(|found| table == Table::Streams || found.folded.is_none());
            differences.extend(found);
            Ok(())
        });
        let next = next.await?;
        Ok((differences, next))
    }

    /// Visits the streams and then the views in batches, until the time of one call has passed; `None` at the end.
    async fn walk(
        &self,
        from: Option<Position>,
        mut visit: impl AsyncFnMut(Table, Vec<Uuid>) -> Result<(), Fault>,
    ) -> Result<Option<Position>, Fault> {
        let until = Instant::now() + self.time_per_call;
        let mut position = from.unwrap_or(Position {
            table: Table::Streams,
            after: None,
        });
        loop {
            position = match (self.batch(position).await?, position.table) {
                (Some((ids, last)), table) => {
                    visit(table, ids).await?;
                    Position {
                        table,
                        after: Some(last),
                    }
                }
                (None, Table::Streams) => Position {
                    table: Table::Views,
                    after: None,
                },
                (None, Table::Views) => return Ok(None),
            };
            if Instant::now() >= until {
                return Ok(Some(position));
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
        let mut live = store::read_models_of(self.db.read(), ids).await?;
        let mut folded = fold(&store::streams_of(self.db.read(), ids).await?);
        let of = |id: &Uuid| Difference::of(*id, live.remove(id), folded.remove(id));
        Ok(ids.iter().filter_map(of).collect())
    }

    async fn batch(&self, Position { table, after }: Position) -> Result<Option<(Vec<Uuid>, Uuid)>, Fault> {
        let ids = match table {
            Table::Streams => store::stream_ids_after(self.db.read(), after, BATCH).await?,
            Table::Views => store::view_ids_after(self.db.read(), after, BATCH).await?,
        };
        Ok(ids.last().copied().map(|last| (ids, last)))
    }
}

/// Where a walk over all orders continues; a cursor for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    table: Table,
    after: Option<Uuid>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr)]
#[strum(const_into_str, serialize_all = "snake_case")]
enum Table {
    Streams,
    Views,
}

impl Position {
    /// # Errors
    /// `invalid_cursor` (malformed).
    pub fn parse(cursor: &str) -> Result<Self, Fault> {
        let (name, after) = cursor.split_once('.').unwrap_or((cursor, ""));
        let table = name.parse().ok();
        let after = if after.is_empty() {
            Some(None)
        } else {
            Uuid::parse_str(after).ok().map(Some)
        };
        let position = table.zip(after).map(|(table, after)| Position { table, after });
        position.ok_or_else(|| Fault::malformed("invalid_cursor", "This cursor was not returned by this route."))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{}",
            self.table.into_str(),
            self.after.map(|after| after.to_string()).unwrap_or_default()
        )
    }
}

/// The views are deleted first: on PostgreSQL that waits for transactions that are changing one of these orders, so that the streams are read after
/// them.
async fn fold_batch(tx: Tx, ids: Vec<Uuid>) -> Result<u64, Fault> {
    store::delete_views(tx.conn(), &ids).await?;
    let views: Vec<ReadModel> = fold(&store::streams_of(tx.conn(), &ids).await?).into_values().collect();
    store::write_views(tx.conn(), &views).await?;
    Ok(views.len() as u64)
}

async fn delete_orphans(tx: Tx, ids: Vec<Uuid>) -> Result<(), Fault> {
    let streams = store::streams_of(tx.conn(), &ids).await?;
    let orphans: Vec<Uuid> = ids.into_iter().filter(|id| !streams.contains_key(id)).collect();
    store::delete_views(tx.conn(), &orphans).await
}

/// The read models of these streams, none for carts; in the order of ids, so that two rebuilds that write the same views do not deadlock.
fn fold(streams: &BTreeMap<Uuid, Vec<Recorded>>) -> BTreeMap<Uuid, ReadModel> {
    streams
        .iter()
        .filter_map(|(id, stream)| Some((*id, ReadModel::fold(*id, stream)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use banyan_core::{Call, Timestamp};
    use banyan_durable_testing::on_both;
    use sea_orm::ConnectionTrait;

    use super::*;
    use crate::memory::Memory;
    use crate::{event::OrderEvent, order::tests::placement, publish::store_and_publish, stream::EventStream};

    const ORDERS: u128 = 120;

    /// Compares everything in several calls, each of which ends after its first batch.
    async fn compare_all(views: &Views) -> (usize, Vec<Difference>) {
        let (mut calls, mut all, mut from) = (0, Vec::new(), None);
        loop {
            let (found, next) = views.compare(from).await.unwrap();
            calls += 1;
            all.extend(found);
            let Some(next) = next else { return (calls, all) };
            from = Some(Position::parse(&next.to_string()).unwrap());
        }
    }

    #[tokio::test]
    async fn a_comparison_that_takes_several_requests_continues_where_the_last_one_stopped() {
        on_both(crate::SCHEMA, |db| async move {
            for number in 1..=ORDERS {
                let placed =
                    move || EventStream::begin(Uuid::from_u128(number), OrderEvent::Placed(Box::new(placement())), Timestamp::from_ms(7));
                db.write((), move |tx, ()| async move { store_and_publish(&tx, &Call::by_module("test"), &Memory::default(), &placed()?).await }).await.unwrap();
            }
            // One view is lost, and one has lost its stream.
            for spoil in [
                "delete from order_view where id in (select id from order_view order by id limit 1)",
                "delete from order_event where order_id in (select order_id from order_event order by order_id desc limit 1)",
            ] {
                let spoilt = db.write((), move |tx, ()| async move { tx.conn().execute_unprepared(spoil).await.map(drop).map_err(banyan_durable::fault) });
                spoilt.await.unwrap();
            }
            let views = Views { db: db.clone(), time_per_call: Duration::ZERO };
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
    fn only_cursors_of_the_walk_are_accepted() {
        for cursor in ["streams.", "views.", "streams.0193a5b8-0000-7000-8000-0000deadbeef"] {
            assert_eq!(Position::parse(cursor).unwrap().to_string(), cursor);
        }
        for wrong in ["", "orders.", "streams.x", "views.1.2"] {
            assert_eq!(Position::parse(wrong).unwrap_err().code, "invalid_cursor", "{wrong}");
        }
    }
}
