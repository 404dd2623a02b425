//! Lists are read a page at a time, by cursor.

use crate::Cursor;

/// The maximum number of items, and the cursor after which they start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// 1..=100.
    pub limit: u32,
    pub after: Option<Cursor>,
}

/// Some items, and the cursor of the next page, if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next: Option<Cursor>,
}

impl PageRequest {
    pub const MAX_LIMIT: u32 = 100;
    pub const DEFAULT_LIMIT: u32 = 20;

    /// The limit of the store's query: one row more than the page holds, because its presence says that there is a next page.
    pub fn fetch_limit(&self) -> u64 {
        u64::from(self.limit) + 1
    }

    /// Makes the page of the rows that a query with [`fetch_limit`](Self::fetch_limit) returned. `key` is what the list is sorted by.
    pub fn page<T, K: Into<Cursor>>(&self, mut items: Vec<T>, key: impl Fn(&T) -> K) -> Page<T> {
        let more = items.len() > self.limit as usize;
        items.truncate(self.limit as usize);
        let next = if more {
            items.last().map(|last| key(last).into())
        } else {
            None
        };
        Page { items, next }
    }
}

impl Default for PageRequest {
    fn default() -> Self {
        PageRequest {
            limit: Self::DEFAULT_LIMIT,
            after: None,
        }
    }
}

impl<T> Page<T> {
    pub fn map<U>(self, f: impl FnMut(T) -> U) -> Page<U> {
        Page {
            items: self.items.into_iter().map(f).collect(),
            next: self.next,
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn there_is_a_next_page_only_if_there_is_one_more() {
        let request = PageRequest { limit: 2, after: None };
        let ids = [1, 2, 3].map(Uuid::from_u128);
        let page = request.page(ids.to_vec(), |id| *id);
        assert_eq!((page.items, page.next), (ids[..2].to_vec(), Some(ids[1].into())));
        assert_eq!(request.page(ids[..2].to_vec(), |id| *id).next, None);
    }
}
