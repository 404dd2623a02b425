//! Lists that show the newest first, read a page at a time.
//!
//! A page starts after a row, by a comparison of row values: `(created_at, id) < ($1, $2)`. Both databases then start reading the index there. The same
//! condition spelled with `or` makes them read everything before the page.

use std::str::FromStr;

use banyan_core::{Fault, PageRequest};
use sea_orm::{
    EntityTrait, QueryFilter, QueryOrder, QuerySelect, Select, Value,
    sea_query::{Expr, ExprTrait},
};
use uuid::Uuid;

/// The page of a list that is sorted by time and, within the same millisecond, by a second key, whose values are of type `K`. An index must begin with
/// the columns that the list is filtered by, and end with these two.
///
/// # Errors
/// `invalid_parameter` for a cursor of another list.
pub fn newest_first<E, K>(
    list: Select<E>,
    (time, key): (E::Column, E::Column),
    page: &PageRequest,
) -> Result<Select<E>, Fault>
where
    E: EntityTrait,
    K: FromStr + Into<Value>,
{
    let mut list = list.order_by_desc(time).order_by_desc(key).limit(page.fetch_limit());
    if let Some(after) = &page.after {
        let (at, last) = after.time_and::<K>()?;
        let column = |column| Expr::col((E::default(), column));
        let position = Expr::tuple([Expr::value(at.as_ms()), Expr::value(last)]);
        list = list.filter(Expr::tuple([column(time), column(key)]).lt(position));
    }
    Ok(list)
}

/// The page of a list that is sorted by ids that grow with time.
///
/// # Errors
/// `invalid_parameter` for a cursor of another list.
pub fn newest_ids_first<E: EntityTrait>(
    list: Select<E>,
    id: E::Column,
    page: &PageRequest,
) -> Result<Select<E>, Fault> {
    let mut list = list.order_by_desc(id).limit(page.fetch_limit());
    if let Some(after) = &page.after {
        let last: Uuid = after.id()?;
        list = list.filter(Expr::col((E::default(), id)).lt(last));
    }
    Ok(list)
}
