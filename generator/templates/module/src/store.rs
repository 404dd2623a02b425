//! The table of items, and the queries on it.

use banyan_core::{Fault, Page, PageRequest, Timestamp};
use banyan_durable::fault;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, TryInsertResult,
};
use uuid::Uuid;

use crate::item::Item;

mod item {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "item")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        #[sea_orm(unique)]
        pub name: String,
        pub created_at: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

use item::{ActiveModel, Column, Entity, Model};

impl From<Model> for Item {
    fn from(row: Model) -> Self {
        Item {
            id: row.id,
            name: row.name,
            created_at: Timestamp::from_ms(row.created_at),
        }
    }
}

pub async fn find(conn: &impl ConnectionTrait, id: Uuid) -> Result<Option<Item>, Fault> {
    let row = Entity::find_by_id(id).one(conn).await.map_err(fault)?;
    Ok(row.map(Item::from))
}

/// False if the name is taken.
pub async fn insert(conn: &impl ConnectionTrait, item: &Item) -> Result<bool, Fault> {
    let row = ActiveModel {
        id: Set(item.id),
        name: Set(item.name.clone()),
        created_at: Set(item.created_at.as_ms()),
    };
    let inserted = Entity::insert(row)
        .on_conflict_do_nothing_on([Column::Name])
        .exec_without_returning(conn)
        .await
        .map_err(fault)?;
    Ok(matches!(inserted, TryInsertResult::Inserted(1)))
}

/// A page of items, newest first: ids sort by the time they were made. The cursor is the last id.
///
/// # Errors
/// `invalid_parameter` for a cursor of another list.
pub async fn list(conn: &impl ConnectionTrait, page: &PageRequest) -> Result<Page<Item>, Fault> {
    let mut query = Entity::find();
    if let Some(after) = &page.after {
        query = query.filter(Column::Id.lt(after.id()?));
    }
    let rows = query
        .order_by_desc(Column::Id)
        .limit(page.fetch_limit())
        .all(conn)
        .await
        .map_err(fault)?;
    let items = rows.into_iter().map(Item::from).collect();
    Ok(page.page(items, |item: &Item| item.id))
}
