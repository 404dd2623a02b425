//! The pages that customers read, as bytes in memory.
//!
//! Invariant: a page is never older than what the database had when its request began. It is kept with the revision that was current before it was read,
//! and served only while that revision is current, which every request asks anew.

use std::sync::Arc;

use banyan_core::Fault;
use banyan_durable::{Db, Tx};
use bytes::Bytes;
use moka::sync::Cache;
use shared_kernel::Sku;

use crate::revisions::{Revision, Revisions, Writing};

/// The size of all pages in memory, with their keys.
const MAX_BYTES: u64 = 8 * 1024 * 1024;
/// What a page takes beside its body and its key, roughly.
const OVERHEAD_BYTES: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    Product(Sku),
    /// The query string as it came. Two that mean the same have a page each.
    List(String),
}

/// The body of a response, as JSON.
#[derive(Clone, Debug)]
pub struct Page {
    pub body: Bytes,
    /// A single product's.
    pub etag: Option<String>,
}

/// A page as it was just read.
pub struct Fresh {
    pub page: Page,
    /// Whether every caller may see it.
    pub for_everyone: bool,
}

struct Kept {
    page: Arc<Page>,
    revision: Revision,
}

pub struct Pages {
    revisions: Revisions,
    kept: Cache<Key, Arc<Kept>>,
}

impl Pages {
    pub fn of(db: &Db) -> Self {
        Pages {
            revisions: Revisions::of(db),
            kept: bounded(MAX_BYTES),
        }
    }

    /// The page of `key`, which `read` reads from the database if it is not in memory.
    ///
    /// # Errors
    /// Those of `read`, and of any query.
    pub async fn find_or_read(
        &self,
        key: Key,
        read: impl Future<Output = Result<Fresh, Fault>>,
    ) -> Result<Arc<Page>, Fault> {
        let Some(revision) = self.revisions.current().await? else {
            return Ok(Arc::new(read.await?.page));
        };
        if let Some(kept) = self.kept.get(&key).filter(|kept| kept.revision == revision) {
            return Ok(kept.page.clone());
        }
        let Fresh { page, for_everyone } = read.await?;
        let page = Arc::new(page);
        if for_everyone {
            let page = page.clone();
            self.kept.insert(key, Arc::new(Kept { page, revision }));
        }
        Ok(page)
    }

    /// Announces that `tx` changes products: see [`Revisions::writing`].
    pub fn writing(&self, tx: &Tx) -> Writing {
        self.revisions.writing(tx)
    }
}

fn bounded(max_bytes: u64) -> Cache<Key, Arc<Kept>> {
    let weight = |key: &Key, kept: &Arc<Kept>| {
        let key = match key {
            Key::Product(sku) => sku.as_str().len(),
            Key::List(query) => query.len(),
        };
        u32::try_from(OVERHEAD_BYTES + key + kept.page.body.len()).unwrap_or(u32::MAX)
    };
    Cache::builder().weigher(weight).max_capacity(max_bytes).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_bounded_by_their_bytes() {
        let kept = bounded(1_000_000);
        for number in 0..10_000 {
            let page = Page {
                body: Bytes::from(vec![b'x'; 1_000]),
                etag: None,
            };
            let revision = Revision(1);
            let page = Arc::new(page);
            kept.insert(Key::List(format!("cursor={number}")), Arc::new(Kept { page, revision }));
        }
        kept.run_pending_tasks();
        let bytes = kept.weighted_size();
        assert!((500_000..=1_000_000).contains(&bytes), "{bytes} bytes are kept");
    }
}
