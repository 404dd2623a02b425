//! Lists are read a page at a time, by cursor.

use std::fmt;

/// How many, and after which one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// 1..=100.
    pub limit: u32,
    pub after: Option<Cursor>,
}

/// The place in a list after which the next page starts: the sort key of the last item seen, as text. Opaque to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub String);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Some items, and where the next ones start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next: Option<Cursor>,
}

impl PageRequest {
    pub const MAX_LIMIT: u32 = 100;
    pub const DEFAULT_LIMIT: u32 = 20;

    /// Ask the store for one row more than the page holds: its presence tells whether there is a next page.
    pub fn fetch_limit(&self) -> u64 {
        u64::from(self.limit) + 1
    }

    /// Makes the page out of what the store gave for [`fetch_limit`](Self::fetch_limit).
    pub fn page<T>(&self, mut items: Vec<T>, cursor_of: impl Fn(&T) -> String) -> Page<T> {
        let more = items.len() > self.limit as usize;
        items.truncate(self.limit as usize);
        let next = if more {
            items.last().map(|last| Cursor(cursor_of(last)))
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
    use super::*;

    #[test]
    fn there_is_a_next_page_only_if_there_is_one_more() {
        let request = PageRequest { limit: 2, after: None };
        let page = request.page(vec![1, 2, 3], ToString::to_string);
        assert_eq!((page.items, page.next), (vec![1, 2], Some(Cursor("2".into()))));
        assert_eq!(request.page(vec![1, 2], ToString::to_string).next, None);
    }
}
