//! Searches of products: what they find, and that the index follows every change of a product.

use std::{sync::Arc, time::Duration};

use banyan_core::{RandomIds, SystemClock};
use banyan_durable::{Connection, Db, Storage};
use banyan_durable_testing::{PostgresHome, SqliteHome, on_both, open, settings};
use banyan_http_testing::{Site, TestRequest, get, post};
use catalog::{Needs, SCHEMA, start};
use futures::future::{join, join_all};
use sea_orm::{ConnectionTrait, DbBackend};
use serde_json::json;
use shared_kernel::Role;
use uuid::Uuid;

struct Shop(Site);

impl Shop {
    async fn of(db: Db) -> Self {
        let needs = Needs {
            db,
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
        };
        Shop(Site::of(start(needs).await.expect("catalog starts").routes))
    }

    async fn change(&self, request: TestRequest) {
        let reply = self.0.send_as(Uuid::from_u128(9), &[Role::Staff], request).await;
        assert!(reply.status < 300, "{}", reply.body);
    }

    async fn add(&self, sku: &str, name: &str, description: &str) {
        let price = json!({ "amount": 100, "currency": "EUR" });
        let body =
            json!({ "sku": sku, "name": name, "description": description, "category": "plants", "price": price });
        self.change(post("/api/v1/products").set_json(body)).await;
    }

    /// The skus of a page, and the cursor of the next one.
    async fn page(&self, parameters: &str) -> (Vec<String>, Option<String>) {
        let reply = self.0.send(get(&format!("/api/v1/products?{parameters}"))).await;
        assert_eq!(reply.status, 200, "{parameters}: {}", reply.body);
        let list = reply.json();
        let items = list["items"].as_array().expect("items").iter();
        let skus = items
            .map(|item| item["sku"].as_str().expect("a sku").to_owned())
            .collect();
        (skus, list["next_cursor"].as_str().map(str::to_owned))
    }

    async fn find(&self, query: &str) -> Vec<String> {
        self.page(&format!("limit=100&q={}", encoded(query))).await.0
    }

    /// The skus of all pages.
    async fn find_all(&self, parameters: &str) -> Vec<String> {
        let (mut found, mut next) = self.page(parameters).await;
        while let Some(cursor) = next {
            let (more, cursor) = self.page(&format!("{parameters}&cursor={cursor}")).await;
            found.extend(more);
            next = cursor;
        }
        found
    }
}

fn encoded(query: &str) -> String {
    query.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

async fn execute(connection: &Connection, sql: &str) {
    connection
        .execute_unprepared(sql)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Products number `first` to `last`, as an earlier version stored them. The later ones are newer.
async fn store_as_before(connection: &Connection, first: usize, last: usize) {
    let rows = (first..=last).map(|number| {
        let kind = if number % 2 == 0 { "Even" } else { "Odd" };
        let name = format!("Café {kind} Nr{number:05}");
        let text = name.to_lowercase();
        format!("('p-{number:05}', '{name}', '', 'plants', 100, 'EUR', true, 1, {number}, '{text} ')")
    });
    let columns = "sku, name, description, category, price_amount, currency, active, version, created_at, search_text";
    let rows = Vec::from_iter(rows).join(", ");
    execute(connection, &format!("insert into product ({columns}) values {rows}")).await;
}

#[tokio::test]
async fn a_search_finds_what_people_type() {
    on_both(SCHEMA, |db| async move {
        let shop = Shop::of(db).await;
        shop.add("mug-01", "Café-Becher", "Straße der Künste, 300 ml").await;
        shop.add("mug-02", "Cafe\u{301} mug", "İSTANBUL, ıtır").await;
        shop.add("rug-01", "Ｆｕｌｌ width", "陶瓷杯").await;
        for (query, found) in [
            ("cafe", &["mug-02", "mug-01"][..]),
            ("CAFÉ", &["mug-02", "mug-01"]),
            ("cafe\u{301}", &["mug-02", "mug-01"]),
            ("strasse", &["mug-01"]),
            ("STRASSE kunst", &["mug-01"]),
            ("istanbul", &["mug-02"]),
            ("ISTANBUL", &["mug-02"]),
            ("ITIR", &["mug-02"]),
            ("full", &["rug-01"]),
            ("ｆｕｌｌ", &["rug-01"]),
            ("瓷杯", &["rug-01"]),
            ("杯", &["rug-01"]),
            ("becher cafe", &["mug-01"]),
            ("cafe becher 300", &["mug-01"]),
            ("echer", &["mug-01"]),
            ("be", &["mug-01"]),
            ("ec", &[]),
            ("m", &["mug-02", "mug-01"]),
            ("mug-01", &["mug-01"]),
            ("MUG-0", &["mug-02", "mug-01"]),
            ("cafe rug", &[]),
            ("\"cafe\" OR (becher*", &[]),
            ("'", &[]),
        ] {
            assert_eq!(shop.find(query).await, found, "{query}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_index_follows_every_change_of_a_product() {
    on_both(SCHEMA, |db| async move {
        let shop = Shop::of(db).await;
        shop.add("fig", "Weeping fig", "").await;
        assert_eq!(shop.find("weeping").await, ["fig"]);
        let path = "/api/v1/products/fig";
        let renamed = json!({ "name": "Laughing fig" });
        shop.change(TestRequest::patch().uri(path).set_json(renamed)).await;
        assert_eq!(
            (shop.find("weeping").await, shop.find("laughing").await),
            (vec![], vec!["fig".to_owned()])
        );
        shop.change(TestRequest::delete().uri(path)).await;
        assert!(shop.find("laughing").await.is_empty());
        let restored = json!({ "active": true });
        shop.change(TestRequest::patch().uri(path).set_json(restored)).await;
        assert_eq!(shop.find("laughing").await, ["fig"]);
    })
    .await;
}

#[tokio::test]
async fn a_search_leads_through_all_that_match_from_the_newest_to_the_oldest() {
    on_both_storages(|storage| async move {
        let by_hand = Connection::open(&storage, "catalog").await.expect("a connection");
        store_as_before(&by_hand, 1, 1_300).await;
        by_hand.close().await;
        let shop = Shop::of(open(SCHEMA, &storage, settings()).await).await;
        let numbers = |numbers: &mut dyn Iterator<Item = usize>| -> Vec<String> {
            numbers.map(|number| format!("p-{number:05}")).collect()
        };
        // More than the index is asked for, and fewer.
        assert_eq!(shop.find_all("limit=100&q=cafe").await, numbers(&mut (1..=1_300).rev()));
        let odd = numbers(&mut (1..=1_300).rev().filter(|number| number % 2 == 1));
        assert_eq!(shop.find_all("limit=100&q=odd%20cafe").await, odd);
        assert_eq!(
            shop.find_all("limit=30&q=nr001%20cafe").await,
            numbers(&mut (100..=199).rev())
        );
        assert!(shop.find_all("q=odd%20even").await.is_empty());
        assert_eq!(shop.find_all("q=nr00777&min_price=101").await, [""; 0]);
    })
    .await;
}

#[tokio::test]
async fn products_of_an_earlier_version_are_found_after_a_start_that_was_interrupted() {
    on_both_storages(|storage| async move {
        let by_hand = Connection::open(&storage, "catalog").await.expect("a connection");
        store_as_before(&by_hand, 1, 900).await;
        for _ in 0..3 {
            let interrupted = Shop::of(open(SCHEMA, &storage, settings()).await);
            let _ = tokio::time::timeout(Duration::from_millis(40), interrupted).await;
            // What was under way ends.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let shop = Shop::of(open(SCHEMA, &storage, settings()).await).await;
        for number in [1, 200, 201, 900] {
            let sku = format!("p-{number:05}");
            assert_eq!(shop.find(&format!("cafe nr{number:05}")).await, [sku]);
        }
        // An instance of the earlier version still runs during an update, and changes and adds products.
        let changed = "update product set name = 'Crème', search_text = 'crème ', version = 2 where sku = 'p-00001'";
        execute(&by_hand, changed).await;
        store_as_before(&by_hand, 901, 901).await;
        let shop = Shop::of(open(SCHEMA, &storage, settings()).await).await;
        assert_eq!(shop.find("creme").await, ["p-00001"]);
        assert_eq!(shop.find("cafe nr00001").await, [""; 0]);
        assert_eq!(shop.find("cafe nr00901").await, ["p-00901"]);
        if by_hand.get_database_backend() == DbBackend::Sqlite {
            // Fails if the index is not that of the table.
            execute(
                &by_hand,
                "insert into product_gram (product_gram, rank) values ('integrity-check', 1)",
            )
            .await;
        }
        by_hand.close().await;
    })
    .await;
}

#[tokio::test]
async fn searches_leave_half_of_the_connections_to_others() {
    let postgres = PostgresHome::new().await;
    let storage = postgres.storage("catalog").await;
    let mut settings = settings();
    settings.pool = 4;
    // The time for which a lock is waited for follows from it.
    settings.limits.job_timeout = Duration::from_secs(60);
    let shop = Shop::of(open(SCHEMA, &storage, settings).await).await;
    shop.add("fig", "Fig", "").await;
    let by_hand = Connection::open(&storage, "catalog").await.expect("a connection");
    execute(&by_hand, "begin; lock table product_search").await;
    let shop = &shop;
    let searches = join_all(
        (0..12).map(|number| async move { shop.0.send(get(&format!("/api/v1/products?q=fig{number}"))).await }),
    );
    let others = async {
        // All searches have begun.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let page = shop.0.send(get("/api/v1/products/fig"));
        // Less than a search that hangs has.
        let page = tokio::time::timeout(Duration::from_secs(3), page).await;
        // Those that waited are refused.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        execute(&by_hand, "rollback").await;
        page
    };
    let (searches, page) = join(searches, others).await;
    assert_eq!(page.expect("a page while searches hang").status, 200);
    let refused = searches.iter().filter(|reply| reply.status == 503);
    assert_eq!(refused.clone().count(), 10, "two run at once");
    for reply in refused {
        assert_eq!(reply.header("retry-after"), "2");
    }
    by_hand.close().await;
    postgres.remove().await;
}

/// Runs a test with an empty, migrated storage of each database.
async fn on_both_storages<F: Future<Output = ()>>(test: impl Fn(Storage) -> F) {
    let sqlite = SqliteHome::new();
    let storage = sqlite.storage("catalog");
    drop(open(SCHEMA, &storage, settings()).await);
    test(storage).await;
    let postgres = PostgresHome::new().await;
    let storage = postgres.storage("catalog").await;
    drop(open(SCHEMA, &storage, settings()).await);
    test(storage).await;
    postgres.remove().await;
}
