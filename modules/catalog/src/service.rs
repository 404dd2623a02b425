//! Queries and changes of products, and the contract. Each method that writes is one transaction, which includes its events.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use banyan_core::{Call, Clock, Fault, FaultKind, Page, PageRequest, Timestamp};
use banyan_durable::{
    Db, Tx,
    outbox::{self, NewEvent},
};
use catalog_contract::{
    Catalog, ListPopularProducts, ListProducts, Product as ProductMessage, ProductAdded, ProductArchived,
    ProductChanged, ProductRestored, Products,
};
use shared_kernel::Sku;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use crate::{
    pages::Pages,
    product::{ChangeKind, NewProduct, Product, ProductChange, StoredProduct},
    store::{self, Filter},
};

/// The maximum number of products in a request or a response.
const MAX_PRODUCTS: usize = 100;
/// The number of products indexed per transaction, whose duration is limited.
const INDEXED_AT_ONCE: u64 = 200;
/// The number of searches that wait; further ones are refused at once.
const WAITING_SEARCHES: usize = 64;
/// The maximum time a search waits, shorter than clients' usual timeouts.
const SEARCH_WAIT: Duration = Duration::from_secs(2);

pub struct Service {
    db: Db,
    clock: Arc<dyn Clock>,
    pages: Arc<Pages>,
    /// Half of the connections: searches, which cost the most of all reads, leave the others to the rest of the shop.
    searches: Semaphore,
    waiting_searches: Semaphore,
}

impl Service {
    pub fn new(db: Db, clock: Arc<dyn Clock>) -> Self {
        let pages = Arc::new(Pages::of(&db));
        let connections = db.settings().pool as usize;
        Service {
            db,
            clock,
            pages,
            searches: Semaphore::new((connections / 2).max(1)),
            waiting_searches: Semaphore::new(WAITING_SEARCHES),
        }
    }

    pub fn db(&self) -> &Db {
        &self.db
    }

    /// What customers read.
    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    /// Indexes the products that an earlier version of the shop stored. It may be ended at any time, and continues at the next start.
    ///
    /// # Errors
    /// As any transaction.
    pub async fn index_left_out(&self) -> Result<(), Fault> {
        let mut indexed = 0;
        loop {
            let part = self.db.write(self.pages.clone(), |tx, pages| async move {
                store::index_left_out(tx.conn(), &pages.writing(&tx), INDEXED_AT_ONCE).await
            });
            match part.await? {
                0 if indexed == 0 => return Ok(()),
                0 => {
                    tracing::info!(products = indexed, "products were indexed for searches");
                    return Ok(());
                }
                part => indexed += part,
            }
        }
    }

    /// # Errors
    /// `unavailable` if too many searches run and wait.
    pub async fn list(&self, filter: &Filter, page: &PageRequest) -> Result<Page<StoredProduct>, Fault> {
        let _permit = if filter.is_search() {
            Some(self.permit_search().await?)
        } else {
            None
        };
        store::list(self.db.read(), filter, page).await
    }

    async fn permit_search(&self) -> Result<SemaphorePermit<'_>, Fault> {
        let refused = || Fault::unavailable("Too many searches are running right now.").retry_after(SEARCH_WAIT);
        let _waiting = self.waiting_searches.try_acquire().map_err(|_| refused())?;
        let permit = timeout(SEARCH_WAIT, self.searches.acquire()).await;
        permit.map_err(|_| refused())?.map_err(|_| refused())
    }

    /// The product, also if it is archived: old orders link to it.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn load(&self, sku: &Sku) -> Result<StoredProduct, Fault> {
        store::find(self.db.read(), sku)
            .await?
            .ok_or_else(|| Fault::not_found("product"))
    }

    /// # Errors
    /// `sku_taken`, also by an archived product; `unknown_currency`.
    pub async fn add(&self, tx: &Tx, call: &Call, new: NewProduct) -> Result<StoredProduct, Fault> {
        let stored = StoredProduct {
            product: new.into_product()?,
            version: 1,
            created_at: self.clock.now(),
        };
        if !store::insert(tx.conn(), &self.pages.writing(tx), &stored).await? {
            return Err(Fault::conflict(
                "sku_taken",
                format!("There is a product with the sku {} already.", stored.product.sku),
            ));
        }
        outbox::append_all(tx, vec![added_event(call, &stored.product)?]).await?;
        Ok(stored)
    }

    /// Changes a product and publishes the change, if there is one. With `expected` only if that is the current version.
    ///
    /// # Errors
    /// `not_found`, `precondition_failed`, `unknown_currency`.
    pub async fn change(
        &self,
        call: &Call,
        sku: &Sku,
        change: ProductChange,
        expected: Option<i64>,
    ) -> Result<StoredProduct, Fault> {
        let context = (self.pages.clone(), call.clone(), sku.clone(), change);
        self.db
            .write(context, move |tx, (pages, call, sku, change)| async move {
                let loaded = store::find(tx.conn(), &sku)
                    .await?
                    .ok_or_else(|| Fault::not_found("product"))?;
                if expected.is_some_and(|version| version != loaded.version) {
                    let detail = "The product has changed since you read it: read it again and repeat the change.";
                    return Err(Fault::new(FaultKind::PreconditionFailed, "precondition_failed", detail));
                }
                let (product, kinds) = change.apply(&loaded.product)?;
                if kinds.is_empty() {
                    return Ok(loaded);
                }
                let changed = StoredProduct {
                    product,
                    version: loaded.version + 1,
                    created_at: loaded.created_at,
                };
                store::update(tx.conn(), &pages.writing(&tx), &changed, loaded.version).await?;
                let events = kinds
                    .into_iter()
                    .map(|kind| changed_event(&call, &changed.product, kind));
                let events = events.collect::<Result<Vec<_>, Fault>>()?;
                outbox::append_all(&tx, events).await?;
                Ok(changed)
            })
            .await
    }

    /// Adds products with their times of creation. Those whose sku is taken are skipped.
    pub async fn add_all(&self, tx: &Tx, call: &Call, products: Vec<(Product, Timestamp)>) -> Result<(), Fault> {
        let new = products
            .into_iter()
            .map(|(product, created_at)| StoredProduct {
                product,
                version: 1,
                created_at,
            })
            .collect();
        let added = store::insert_new(tx.conn(), &self.pages.writing(tx), new).await?;
        let events = added.iter().map(|stored| added_event(call, &stored.product));
        let events = events.collect::<Result<Vec<_>, Fault>>()?;
        outbox::append_all(tx, events).await.map(drop)
    }
}

fn subject(product: &Product) -> String {
    format!("product/{}", product.sku)
}

fn added_event(call: &Call, product: &Product) -> Result<NewEvent, Fault> {
    let Product {
        sku,
        name,
        category,
        price,
        ..
    } = product.clone();
    let event = ProductAdded {
        sku: sku.into(),
        name,
        category,
        price: Some(price),
    };
    NewEvent::new(call, subject(product), &event)
}

fn changed_event(call: &Call, product: &Product, kind: ChangeKind) -> Result<NewEvent, Fault> {
    let Product {
        sku,
        name,
        category,
        price,
        ..
    } = product.clone();
    let (subject, sku, price) = (subject(product), String::from(sku), Some(price));
    match kind {
        ChangeKind::Changed => {
            let event = ProductChanged {
                sku,
                name,
                category,
                price,
            };
            NewEvent::new(call, subject, &event)
        }
        ChangeKind::Archived => NewEvent::new(call, subject, &ProductArchived { sku }),
        ChangeKind::Restored => {
            let event = ProductRestored {
                sku,
                name,
                category,
                price,
            };
            NewEvent::new(call, subject, &event)
        }
    }
}

fn to_message(found: Vec<StoredProduct>) -> Products {
    let items = found.into_iter().map(|StoredProduct { product, .. }| ProductMessage {
        sku: product.sku.into(),
        name: product.name,
        category: product.category,
        price: Some(product.price),
        active: product.active,
    });
    Products { items: items.collect() }
}

#[async_trait]
impl Catalog for Service {
    async fn list_products(&self, _call: &Call, request: ListProducts) -> Result<Products, Fault> {
        if request.skus.len() > MAX_PRODUCTS {
            let fault = Fault::invalid(
                "too_many_skus",
                format!("A request may name at most {MAX_PRODUCTS} skus."),
            );
            return Err(fault.at("/skus", format!("must have at most {MAX_PRODUCTS} items")));
        }
        // An invalid sku is an unknown one.
        let skus: Vec<Sku> = request.skus.iter().filter_map(|sku| Sku::parse(sku).ok()).collect();
        Ok(to_message(store::find_all(self.db.read(), &skus).await?))
    }

    async fn list_popular_products(&self, _call: &Call, request: ListPopularProducts) -> Result<Products, Fault> {
        if request.limit == 0 || request.limit as usize > MAX_PRODUCTS {
            let fault = Fault::invalid("invalid_limit", format!("The limit must be 1 to {MAX_PRODUCTS}."));
            return Err(fault.at("/limit", format!("must be 1 to {MAX_PRODUCTS}")));
        }
        Ok(to_message(
            store::list_popular(self.db.read(), u64::from(request.limit)).await?,
        ))
    }
}
