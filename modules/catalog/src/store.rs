//! The tables of products and their sales, and the queries on them.

use std::collections::BTreeMap;

use banyan_core::{Cursor, Fault, Page, PageRequest, Timestamp};
use banyan_durable::{fault, lost_race, newest_first};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, ExprTrait, FromQueryResult, QueryFilter, QueryOrder,
    QuerySelect, QueryTrait, TryInsertResult,
    sea_query::{Alias, Expr, LikeExpr, OnConflict, Order, Query},
};
use shared_kernel::{Money, Sku};

use crate::{
    product::{Product, StoredProduct, search_text, search_words},
    revisions::{Revision, Writing},
};

mod product {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "product")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub sku: String,
        pub name: String,
        pub description: String,
        pub category: String,
        pub price_amount: i64,
        pub currency: String,
        pub active: bool,
        pub version: i64,
        pub created_at: i64,
        pub search_text: String,
        /// Absent until the first sale.
        #[sea_orm(has_one)]
        pub sales: HasOne<super::product_sales::Entity>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

mod product_sales {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "product_sales")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub sku: String,
        pub units: i64,
        /// Absent if the product is not in this catalog: the database has no foreign key.
        #[sea_orm(belongs_to, from = "sku", to = "sku")]
        pub product: HasOne<super::product::Entity>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

mod product_revision {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "product_revision")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub one: bool,
        pub revision: Uuid,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// The criteria of a list of products. Prices are in minor units of any currency.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// A search whose words must all occur in the name or the description.
    pub query: Option<String>,
    pub category: Option<String>,
    pub min_price: Option<i64>,
    pub max_price: Option<i64>,
    pub include_archived: bool,
}

impl TryFrom<product::Model> for StoredProduct {
    type Error = Fault;

    fn try_from(row: product::Model) -> Result<Self, Fault> {
        let broken = |what: &str| Fault::internal("broken_row", format!("product {:?}: {what}", row.sku));
        let product = Product {
            sku: Sku::parse(&row.sku).map_err(|_| broken("not a valid sku"))?,
            price: Money::new(row.price_amount, &row.currency).map_err(|error| broken(&error.to_string()))?,
            name: row.name,
            description: row.description,
            category: row.category,
            active: row.active,
        };
        Ok(StoredProduct {
            product,
            version: row.version,
            created_at: Timestamp::from_ms(row.created_at),
        })
    }
}

impl From<&StoredProduct> for product::ActiveModel {
    fn from(stored: &StoredProduct) -> Self {
        let product = &stored.product;
        product::ActiveModel {
            sku: Set(product.sku.to_string()),
            name: Set(product.name.clone()),
            description: Set(product.description.clone()),
            category: Set(product.category.clone()),
            price_amount: Set(product.price.amount),
            currency: Set(product.price.currency.clone()),
            active: Set(product.active),
            version: Set(stored.version),
            created_at: Set(stored.created_at.as_ms()),
            search_text: Set(search_text(product)),
        }
    }
}

fn read_all(rows: Vec<product::Model>) -> Result<Vec<StoredProduct>, Fault> {
    rows.into_iter().map(StoredProduct::try_from).collect()
}

/// The product, also if it is archived.
pub async fn find(conn: &impl ConnectionTrait, sku: &Sku) -> Result<Option<StoredProduct>, Fault> {
    let row = product::Entity::find_by_id(sku.as_str())
        .one(conn)
        .await
        .map_err(fault)?;
    row.map(StoredProduct::try_from).transpose()
}

/// The current revision, on PostgreSQL: a trigger keeps it.
pub async fn revision(conn: &impl ConnectionTrait) -> Result<Option<Revision>, Fault> {
    let row = product_revision::Entity::find().one(conn).await.map_err(fault)?;
    Ok(row.map(|row| Revision(row.revision.as_u128())))
}

/// The products with these skus, also archived ones. Unknown skus are left out.
pub async fn find_all(conn: &impl ConnectionTrait, skus: &[Sku]) -> Result<Vec<StoredProduct>, Fault> {
    let names = skus.iter().map(Sku::as_str);
    read_all(
        product::Entity::find()
            .filter(product::Column::Sku.is_in(names))
            .all(conn)
            .await
            .map_err(fault)?,
    )
}

/// False if the sku is taken.
pub async fn insert(conn: &impl ConnectionTrait, _: &Writing, new: &StoredProduct) -> Result<bool, Fault> {
    let row = product::ActiveModel::from(new);
    let inserted = product::Entity::insert(row)
        .on_conflict_do_nothing_on([product::Column::Sku])
        .exec_without_returning(conn);
    Ok(matches!(inserted.await.map_err(fault)?, TryInsertResult::Inserted(1)))
}

/// Inserts the products whose sku is not taken, and returns them.
pub async fn insert_new(
    conn: &impl ConnectionTrait,
    _: &Writing,
    new: Vec<StoredProduct>,
) -> Result<Vec<StoredProduct>, Fault> {
    let skus: Vec<Sku> = new.iter().map(|stored| stored.product.sku.clone()).collect();
    let taken = find_all(conn, &skus).await?;
    let fresh: Vec<StoredProduct> = new
        .into_iter()
        .filter(|stored| !taken.iter().any(|other| other.product.sku == stored.product.sku))
        .collect();
    if !fresh.is_empty() {
        let rows = fresh.iter().map(product::ActiveModel::from);
        product::Entity::insert_many(rows)
            .exec_without_returning(conn)
            .await
            .map_err(fault)?;
    }
    Ok(fresh)
}

/// Stores a changed product.
///
/// # Errors
/// A lost race, if the stored version is not `loaded_version`.
pub async fn update(
    conn: &impl ConnectionTrait,
    _: &Writing,
    changed: &StoredProduct,
    loaded_version: i64,
) -> Result<(), Fault> {
    use product::Column;
    let updated = product::Entity::update_many()
        .set(product::ActiveModel::from(changed))
        .filter(Column::Sku.eq(changed.product.sku.as_str()))
        .filter(Column::Version.eq(loaded_version))
        .exec(conn)
        .await
        .map_err(fault)?;
    if updated.rows_affected == 1 {
        Ok(())
    } else {
        Err(lost_race("the product changed meanwhile"))
    }
}

/// The number of products that a page looks at if no index finds what the list is about: a word, or a price.
const LOOKED_AT: u64 = 10_000;

/// A page of products, newest first. A search looks at a limited number of products, so that a word nobody uses costs no more than another: the page may
/// then have fewer items than its limit, and its cursor continues the search.
///
/// # Errors
/// `invalid_parameter` for a cursor of another list.
pub async fn list(
    conn: &impl ConnectionTrait,
    filter: &Filter,
    page: &PageRequest,
) -> Result<Page<StoredProduct>, Fault> {
    use product::Column;
    page.after.as_ref().map(position_of).transpose()?;
    let by_index = Condition::all()
        .add_option(filter.category.as_ref().map(|category| Column::Category.eq(category)))
        .add_option((!filter.include_archived).then(|| Column::Active.eq(true)));
    let sorted = newest_first::<_, String>(
        product::Entity::find().filter(by_index),
        (Column::CreatedAt, Column::Sku),
        page,
    )?;
    let searched = searched(filter);
    if searched.is_empty() {
        let rows = read_all(sorted.all(conn).await.map_err(fault)?)?;
        return Ok(page.page(rows, |last| (last.created_at, last.product.sku.clone())));
    }
    let looked_at = sorted.clone().limit(LOOKED_AT).into_query();
    let found = Query::select()
        .expr(Expr::cust("*"))
        .from_subquery(looked_at, product::Entity)
        .cond_where(searched)
        .order_by(Column::CreatedAt, Order::Desc)
        .order_by(Column::Sku, Order::Desc)
        .limit(page.fetch_limit())
        .to_owned();
    let found = product::Model::find_by_statement(conn.get_database_backend().build(&found));
    let rows = read_all(found.all(conn).await.map_err(fault)?)?;
    let mut found = page.page(rows, |last| (last.created_at, last.product.sku.clone()));
    if found.next.is_none() {
        let last = sorted.limit(1).offset(LOOKED_AT - 1).one(conn).await.map_err(fault)?;
        found.next = last.map(|last| (Timestamp::from_ms(last.created_at), last.sku).into());
    }
    Ok(found)
}

/// What no index finds.
fn searched(filter: &Filter) -> Condition {
    use product::Column;
    let words = filter.query.iter().flat_map(|query| search_words(query));
    let containing = |word: String| Expr::col(Column::SearchText).like(LikeExpr::new(containing(&word)).escape('!'));
    words
        .map(containing)
        .fold(Condition::all(), Condition::add)
        .add_option(filter.min_price.map(|least| Column::PriceAmount.gte(least)))
        .add_option(filter.max_price.map(|most| Column::PriceAmount.lte(most)))
}

fn position_of(cursor: &Cursor) -> Result<(Timestamp, Sku), Fault> {
    let (at, sku) = cursor.time_and::<String>()?;
    Ok((at, Sku::parse(&sku).map_err(|_| Cursor::invalid())?))
}

/// A `like` pattern for texts that contain `word`, with the wildcards in `word` escaped.
fn containing(word: &str) -> String {
    let mut pattern = String::from("%");
    for letter in word.chars() {
        if matches!(letter, '%' | '_' | '!') {
            pattern.push('!');
        }
        pattern.push(letter);
    }
    pattern.push('%');
    pattern
}

/// Adds sold units to the counts of products, by one statement. The rows are in the order of the skus, so that two orders counted concurrently cannot
/// deadlock.
pub async fn add_sales(conn: &impl ConnectionTrait, units: BTreeMap<String, i64>) -> Result<(), Fault> {
    use product_sales::Column;
    if units.is_empty() {
        return Ok(());
    }
    let sold = Expr::col((Alias::new("excluded"), Column::Units));
    let add = OnConflict::column(Column::Sku)
        .value(
            Column::Units,
            Expr::col((product_sales::Entity, Column::Units)).add(sold),
        )
        .to_owned();
    let rows = units.into_iter().map(|(sku, units)| product_sales::ActiveModel {
        sku: Set(sku),
        units: Set(units),
    });
    product_sales::Entity::insert_many(rows)
        .on_conflict(add)
        .exec_without_returning(conn)
        .await
        .map_err(fault)?;
    Ok(())
}

/// The number of best-selling products among which the active ones are looked for.
const BEST: u64 = 1_000;

/// Those of the best-selling products that are active, best-selling first.
pub async fn list_popular(conn: &impl ConnectionTrait, limit: u64) -> Result<Vec<StoredProduct>, Fault> {
    use product::Column;
    let best = product_sales::Entity::find()
        .order_by_desc(product_sales::Column::Units)
        .order_by_asc(product_sales::Column::Sku)
        .limit(BEST);
    let best = best.all(conn).await.map_err(fault)?;
    let mut popular = Vec::new();
    // Nearly all of the best are active, so the first part of them is mostly enough.
    for part in best.chunks(usize::try_from(limit).unwrap_or(usize::MAX).max(1)) {
        let skus = part.iter().map(|sales| sales.sku.as_str());
        let active = product::Entity::find()
            .filter(Column::Sku.is_in(skus))
            .filter(Column::Active.eq(true));
        let mut active = active.all(conn).await.map_err(fault)?;
        active.sort_by_key(|row| part.iter().position(|sales| sales.sku == row.sku));
        popular.extend(active);
        if popular.len() as u64 >= limit {
            break;
        }
    }
    popular.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    read_all(popular)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_in_a_search_word_are_escaped() {
        assert_eq!(containing("50%_!"), "%50!%!_!!%");
    }

    #[test]
    fn a_cursor_of_another_list_is_refused() {
        let position = |cursor: &str| position_of(&Cursor(cursor.to_owned()));
        assert!(position("17 rare-fig").is_ok());
        for bad in ["", "17", "rare-fig 17", "17 Rare Fig", "x rare-fig"] {
            assert_eq!(position(bad).unwrap_err(), Cursor::invalid(), "{bad}");
        }
    }
}
