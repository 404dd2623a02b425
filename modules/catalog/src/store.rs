//! The tables of products and their sales, and the queries on them.

mod search_index;
#[cfg(test)]
mod search_tests;

use std::collections::{BTreeMap, BTreeSet};

use banyan_core::{Cursor, Fault, Page, PageRequest, Timestamp};
use banyan_durable::{fault, lost_race, newest_first};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, ExprTrait, FromQueryResult, QueryFilter, QueryOrder,
    QuerySelect, QueryTrait, Select, TryInsertResult,
    sea_query::{Alias, Expr, OnConflict, Order, Query, SelectStatement},
};
use shared_kernel::{Money, Sku};

use crate::{
    product::{Product, StoredProduct},
    revisions::{Revision, Writing},
    search::{self, Search, Word},
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
    /// A search whose words must all occur in sku, name or description.
    pub query: Option<String>,
    pub category: Option<String>,
    pub min_price: Option<i64>,
    pub max_price: Option<i64>,
    pub include_archived: bool,
}

impl Filter {
    /// Whether a page may look at many more products than it shows.
    pub fn is_search(&self) -> bool {
        self.query.is_some() || self.min_price.is_some() || self.max_price.is_some()
    }
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
            search_text: Set(search::text(product)),
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
    let inserted = matches!(inserted.await.map_err(fault)?, TryInsertResult::Inserted(1));
    if inserted {
        index(conn, [new]).await?;
    }
    Ok(inserted)
}

/// Stores what a search finds these products by.
async fn index<'p>(
    conn: &impl ConnectionTrait,
    products: impl IntoIterator<Item = &'p StoredProduct>,
) -> Result<(), Fault> {
    let texts = products
        .into_iter()
        .map(|stored| (stored.product.sku.to_string(), search::text(&stored.product)));
    search_index::store(conn, texts).await
}

/// Indexes a part of the products that an earlier version stored, and returns their number: 0 if there are none left.
///
/// # Errors
/// A lost race, if one of them changed meanwhile.
pub async fn index_left_out(conn: &impl ConnectionTrait, _: &Writing, most: u64) -> Result<usize, Fault> {
    use product::Column;
    // As the condition of the index `product_not_indexed`: a parameter would not be.
    let left_out = product::Entity::find().filter(Expr::cust("search_text not like ' %'"));
    let left_out = left_out
        .order_by_asc(Column::Sku)
        .limit(most)
        .all(conn)
        .await
        .map_err(fault)?;
    let left_out = read_all(left_out)?;
    if left_out.is_empty() {
        return Ok(0);
    }
    let unchanged =
        Expr::col((product::Entity, Column::Version)).eq(Expr::col((Alias::new("excluded"), Column::Version)));
    let replace = OnConflict::column(Column::Sku)
        .update_column(Column::SearchText)
        .action_and_where(unchanged)
        .to_owned();
    let stored = product::Entity::insert_many(left_out.iter().map(product::ActiveModel::from))
        .on_conflict(replace)
        .exec_without_returning(conn)
        .await
        .map_err(fault)?;
    if stored != left_out.len() as u64 {
        return Err(lost_race("a product changed meanwhile"));
    }
    index(conn, &left_out).await?;
    Ok(left_out.len())
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
        index(conn, &fresh).await?;
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
    if updated.rows_affected != 1 {
        return Err(lost_race("the product changed meanwhile"));
    }
    index(conn, [changed]).await
}

/// The number of products that a page looks at if no index finds what the list is about: a word of very many products, or a price.
const LOOKED_AT: u64 = 10_000;

/// A page of products, newest first.
///
/// A search reads the index of words. Are they in few products, it looks at these. Are they in many, it looks at a limited number of the newest: so does a
/// list by price. Its page may then have fewer items than its limit, and its cursor continues the search.
///
/// # Errors
/// `invalid_parameter` for a cursor of another list.
pub async fn list(
    conn: &impl ConnectionTrait,
    filter: &Filter,
    page: &PageRequest,
) -> Result<Page<StoredProduct>, Fault> {
    page.after.as_ref().map(position_of).transpose()?;
    let list = unsearched(filter, page)?;
    let words = match filter.query.as_deref().map_or(Search::Blank, Search::of) {
        Search::Nothing => return Ok(page.page(Vec::new(), position)),
        Search::Blank => BTreeSet::new(),
        Search::Words(words) => words,
    };
    let looked_for = looked_for(filter, &words);
    if looked_for.is_empty() {
        return Ok(page.page(read_all(list.all(conn).await.map_err(fault)?)?, position));
    }
    let few = if words.is_empty() {
        None
    } else {
        search_index::find_few(conn, &words).await?
    };
    if let Some(skus) = few {
        let found = find_matching(conn, &matching_of(skus, list, looked_for)).await?;
        return Ok(page.page(found, position));
    }
    let found = find_matching(conn, &matching_of_newest(list.clone(), looked_for, page)).await?;
    let mut found = page.page(found, position);
    if found.next.is_none() {
        let last = list.limit(1).offset(LOOKED_AT - 1).one(conn).await.map_err(fault)?;
        found.next = last.map(|last| (Timestamp::from_ms(last.created_at), last.sku).into());
    }
    Ok(found)
}

fn position(last: &StoredProduct) -> (Timestamp, Sku) {
    (last.created_at, last.product.sku.clone())
}

/// The page by what an index finds in the order of the list.
fn unsearched(filter: &Filter, page: &PageRequest) -> Result<Select<product::Entity>, Fault> {
    use product::Column;
    let by_index = Condition::all()
        .add_option(filter.category.as_ref().map(|category| Column::Category.eq(category)))
        .add_option((!filter.include_archived).then(|| Column::Active.eq(true)));
    let list = product::Entity::find().filter(by_index);
    newest_first::<_, String>(list, (Column::CreatedAt, Column::Sku), page)
}

/// The rest of what a product must match.
fn looked_for(filter: &Filter, words: &BTreeSet<Word>) -> Condition {
    use product::Column;
    let matches = |word: &Word| Expr::col(Column::SearchText).like(word.pattern());
    words
        .iter()
        .map(matches)
        .fold(Condition::all(), Condition::add)
        .add_option(filter.min_price.map(|least| Column::PriceAmount.gte(least)))
        .add_option(filter.max_price.map(|most| Column::PriceAmount.lte(most)))
}

/// Those of a few products that are on the page of the list. They are a query of their own, so that no others are looked at, whatever the database expects.
fn matching_of(skus: Vec<String>, list: Select<product::Entity>, looked_for: Condition) -> SelectStatement {
    let few = product::Entity::find().filter(product::Column::Sku.is_in(skus));
    let few = few.limit(search_index::FEW as u64).into_query();
    let mut list = list.into_query();
    list.from_clear()
        .from_subquery(few, product::Entity)
        .cond_where(looked_for);
    list
}

/// The page of a list among the newest of its products.
fn matching_of_newest(list: Select<product::Entity>, looked_for: Condition, page: &PageRequest) -> SelectStatement {
    use product::Column;
    Query::select()
        .expr(Expr::cust("*"))
        .from_subquery(list.limit(LOOKED_AT).into_query(), product::Entity)
        .cond_where(looked_for)
        .order_by(Column::CreatedAt, Order::Desc)
        .order_by(Column::Sku, Order::Desc)
        .limit(page.fetch_limit())
        .to_owned()
}

/// The statement that [`list`] reads these products with, as a text.
#[cfg(test)]
pub fn statement_of_few(filter: &Filter, page: &PageRequest, skus: Vec<String>) -> String {
    let Search::Words(words) = Search::of(filter.query.as_deref().unwrap_or_default()) else {
        panic!("a search has words");
    };
    let list = unsearched(filter, page).unwrap();
    matching_of(skus, list, looked_for(filter, &words)).to_string(sea_orm::sea_query::SqliteQueryBuilder)
}

async fn find_matching(conn: &impl ConnectionTrait, matching: &SelectStatement) -> Result<Vec<StoredProduct>, Fault> {
    let found = product::Model::find_by_statement(conn.get_database_backend().build(matching));
    read_all(found.all(conn).await.map_err(fault)?)
}

fn position_of(cursor: &Cursor) -> Result<(Timestamp, Sku), Fault> {
    let (at, sku) = cursor.time_and::<String>()?;
    Ok((at, Sku::parse(&sku).map_err(|_| Cursor::invalid())?))
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
    fn a_cursor_of_another_list_is_refused() {
        let position = |cursor: &str| position_of(&Cursor(cursor.to_owned()));
        assert!(position("17 rare-fig").is_ok());
        for bad in ["", "17", "rare-fig 17", "17 Rare Fig", "x rare-fig"] {
            assert_eq!(position(bad).unwrap_err(), Cursor::invalid(), "{bad}");
        }
    }
}
