//! What catalog does: one method, one transaction.

use std::sync::Arc;

use async_trait::async_trait;
use banyan_core::{Call, Clock, Fault, FaultKind, Page, PageRequest, Timestamp};
use banyan_durable::{Db, Tx};
use catalog_contract::{
    Catalog, ListPopularProducts, ListProducts, Product as ProductAnswer, ProductAdded, ProductArchived,
    ProductChanged, ProductRestored, Products,
};
use shared_kernel::Sku;

use crate::{
    product::{Happening, NewProduct, Product, ProductChange, StoredProduct},
    store::{self, Filter},
};

/// How many products one question may name, or one answer hold.
const MAX_PRODUCTS: usize = 100;

pub struct Service {
    db: Db,
    clock: Arc<dyn Clock>,
}

impl Service {
    pub fn new(db: Db, clock: Arc<dyn Clock>) -> Self {
        Service { db, clock }
    }

    pub fn db(&self) -> &Db {
        &self.db
    }

    pub async fn list(&self, filter: &Filter, page: &PageRequest) -> Result<Page<StoredProduct>, Fault> {
        store::list(self.db.read(), filter, page).await
    }

    /// Archived products are shown too: old orders link to them.
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
        if !store::insert(tx.conn(), &stored).await? {
            return Err(Fault::conflict(
                "sku_taken",
                format!("There is a product with the sku {} already.", stored.product.sku),
            ));
        }
        tell_added(tx, call, &stored.product).await?;
        Ok(stored)
    }

    /// Changes a product; of what was so already nothing is told. With `expected` only if that is still its version.
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
        let (call, sku) = (call.clone(), sku.clone());
        self.db
            .write((call, sku, change), move |tx, (call, sku, change)| async move {
                let loaded = store::find(tx.conn(), &sku)
                    .await?
                    .ok_or_else(|| Fault::not_found("product"))?;
                if expected.is_some_and(|version| version != loaded.version) {
                    let detail = "The product has changed since you read it: read it again and repeat the change.";
                    return Err(Fault::new(FaultKind::PreconditionFailed, "precondition_failed", detail));
                }
                let (product, happenings) = change.apply(&loaded.product)?;
                if happenings.is_empty() {
                    return Ok(loaded);
                }
                let changed = StoredProduct {
                    product,
                    version: loaded.version + 1,
                    created_at: loaded.created_at,
                };
                store::update(tx.conn(), &changed, loaded.version).await?;
                for happening in happenings {
                    tell(&tx, &call, &changed.product, happening).await?;
                }
                Ok(changed)
            })
            .await
    }

    /// Puts products in under the moments of their making; those whose sku is taken are left as they are.
    pub async fn add_all(&self, tx: &Tx, call: &Call, products: Vec<(Product, Timestamp)>) -> Result<(), Fault> {
        let new = products
            .into_iter()
            .map(|(product, created_at)| StoredProduct {
                product,
                version: 1,
                created_at,
            })
            .collect();
        for stored in store::insert_new(tx.conn(), new).await? {
            tell_added(tx, call, &stored.product).await?;
        }
        Ok(())
    }
}

fn subject(product: &Product) -> String {
    format!("product/{}", product.sku)
}

async fn tell_added(tx: &Tx, call: &Call, product: &Product) -> Result<(), Fault> {
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
    banyan_durable::outbox::append(tx, call, &subject(product), &event)
        .await
        .map(drop)
}

async fn tell(tx: &Tx, call: &Call, product: &Product, happening: Happening) -> Result<(), Fault> {
    let Product {
        sku,
        name,
        category,
        price,
        ..
    } = product.clone();
    let (subject, sku, price) = (subject(product), String::from(sku), Some(price));
    let told = match happening {
        Happening::Changed => {
            banyan_durable::outbox::append(
                tx,
                call,
                &subject,
                &ProductChanged {
                    sku,
                    name,
                    category,
                    price,
                },
            )
            .await
        }
        Happening::Archived => banyan_durable::outbox::append(tx, call, &subject, &ProductArchived { sku }).await,
        Happening::Restored => {
            banyan_durable::outbox::append(
                tx,
                call,
                &subject,
                &ProductRestored {
                    sku,
                    name,
                    category,
                    price,
                },
            )
            .await
        }
    };
    told.map(drop)
}

fn answer(found: Vec<StoredProduct>) -> Products {
    let items = found.into_iter().map(|StoredProduct { product, .. }| ProductAnswer {
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
                format!("One question may name at most {MAX_PRODUCTS} skus."),
            );
            return Err(fault.at("/skus", format!("must have at most {MAX_PRODUCTS} items")));
        }
        // What is no sku is an unknown one.
        let skus: Vec<Sku> = request.skus.iter().filter_map(|sku| Sku::parse(sku).ok()).collect();
        Ok(answer(store::find_all(self.db.read(), &skus).await?))
    }

    async fn list_popular_products(&self, _call: &Call, request: ListPopularProducts) -> Result<Products, Fault> {
        if request.limit == 0 || request.limit as usize > MAX_PRODUCTS {
            let fault = Fault::invalid("invalid_limit", format!("The limit must be 1 to {MAX_PRODUCTS}."));
            return Err(fault.at("/limit", format!("must be 1 to {MAX_PRODUCTS}")));
        }
        Ok(answer(
            store::list_popular(self.db.read(), u64::from(request.limit)).await?,
        ))
    }
}
