//! Folding the read models again: to compare them with the live ones, and to make them anew.

use durable::{Db, Tx};
use shared_kernel::{Actor, Fault};
use uuid::Uuid;

use crate::{
    store,
    views::{Difference, OrderView},
};

/// Orders folded in one transaction, which must end within a second.
const BATCH: u64 = 50;

/// The read models of all orders, for operators and tests.
#[derive(Clone, Debug)]
pub struct Views {
    db: Db,
}

impl Views {
    pub(crate) fn new(db: Db) -> Self {
        Views { db }
    }

    /// Drops every view and folds it again from its stream, some at a time; answers how many there are now. Orders may change meanwhile, and
    /// nobody finds one missing. Who had it done, and why, is in the audit log before anything is dropped.
    ///
    /// # Errors
    /// As any query; what was rebuilt until then stays.
    pub async fn rebuild(&self, actor: &Actor, reason: &str, comment: Option<&str>) -> Result<u64, Fault> {
        let (actor, reason, comment) = (actor.clone(), reason.to_owned(), comment.map(str::to_owned));
        self.db
            .write(move |tx| {
                let (actor, reason, comment) = (actor.clone(), reason.clone(), comment.clone());
                async move { durable::audit(&tx, &actor, "views.rebuild", "order_view", &reason, comment.as_deref()).await }
            })
            .await?;
        let (mut after, mut rebuilt) = (None, 0);
        while let Some((ids, last)) = self.batch(Table::Streams, after).await? {
            rebuilt += self.db.write(move |tx| fold_batch(tx, ids.clone())).await?;
            after = Some(last);
        }
        let mut after = None;
        while let Some((ids, last)) = self.batch(Table::Views, after).await? {
            self.db.write(move |tx| drop_orphans(tx, ids.clone())).await?;
            after = Some(last);
        }
        Ok(rebuilt)
    }

    /// Every view that is not what its stream folds to, and every one that is missing or has no stream. While orders change, one that
    /// changed between the two looks is looked at again.
    ///
    /// # Errors
    /// As any query.
    pub async fn compare(&self) -> Result<Vec<Difference>, Fault> {
        let mut differences = Vec::new();
        for table in [Table::Streams, Table::Views] {
            let mut after = None;
            while let Some((ids, last)) = self.batch(table, after).await? {
                for id in ids {
                    differences.extend(self.difference(id).await?.filter(|known| !differences.contains(known)));
                }
                after = Some(last);
            }
        }
        Ok(differences)
    }

    async fn difference(&self, order_id: Uuid) -> Result<Option<Difference>, Fault> {
        for _ in 0..3 {
            let (live, folded) = self.both(order_id).await?;
            if live == folded {
                return Ok(None);
            }
        }
        let (live, folded) = self.both(order_id).await?;
        Ok((live != folded).then_some(Difference { order_id, live, folded }))
    }

    async fn both(&self, id: Uuid) -> Result<(Option<OrderView>, Option<OrderView>), Fault> {
        let live = store::find_view(self.db.read(), id).await?;
        let folded = OrderView::fold(id, &store::events_after(self.db.read(), id, 0).await?);
        Ok((live, folded))
    }

    async fn batch(&self, table: Table, after: Option<Uuid>) -> Result<Option<(Vec<Uuid>, Uuid)>, Fault> {
        let ids = match table {
            Table::Streams => store::stream_ids_after(self.db.read(), after, BATCH).await?,
            Table::Views => store::view_ids_after(self.db.read(), after, BATCH).await?,
        };
        Ok(ids.last().copied().map(|last| (ids, last)))
    }
}

#[derive(Clone, Copy)]
enum Table {
    Streams,
    Views,
}

/// The views go first: on PostgreSQL that waits for whoever is changing one of these orders, so that the streams are read after it.
async fn fold_batch(tx: Tx, ids: Vec<Uuid>) -> Result<u64, Fault> {
    store::drop_views(tx.conn(), &ids).await?;
    let mut folded = 0;
    for id in ids {
        if let Some(view) = OrderView::fold(id, &store::events_after(tx.conn(), id, 0).await?) {
            store::write_view(tx.conn(), &view).await?;
            folded += 1;
        }
    }
    Ok(folded)
}

async fn drop_orphans(tx: Tx, ids: Vec<Uuid>) -> Result<(), Fault> {
    for id in ids {
        if store::events_after(tx.conn(), id, 0).await?.is_empty() {
            store::drop_views(tx.conn(), &[id]).await?;
        }
    }
    Ok(())
}
