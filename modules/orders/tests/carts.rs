//! Abandoned carts come to an end.

mod support;

use banyan_durable::{Db, fault};
use banyan_durable_testing::{eventually, on_both_with};
use banyan_http_testing::{TestRequest, get, post};
use sea_orm::{ConnectionTrait, FromQueryResult, Statement};
use serde_json::json;
use support::{Harness, fakes::TIMEOUT, id_in, quick};

async fn execute(db: &Db, sql: String) {
    let done = db.write(sql, |tx, sql| async move {
        tx.conn().execute_unprepared(&sql).await.map_err(fault).map(drop)
    });
    done.await.unwrap();
}

async fn count(db: &Db, sql: &str) -> i64 {
    #[derive(FromQueryResult)]
    struct Count {
        rows: i64,
    }
    let statement = Statement::from_string(db.backend(), format!("select count(*) as rows from {sql}"));
    Count::find_by_statement(statement)
        .one(db.read())
        .await
        .unwrap()
        .unwrap()
        .rows
}

#[tokio::test]
async fn a_cart_that_nobody_changed_for_ninety_days_is_deleted_and_no_other_and_no_order() {
    on_both_with(orders::SCHEMA, quick(), |db| async move {
        let mut harness = Harness::open(db.clone()).await;
        let put = |cart: &str| {
            TestRequest::put()
                .uri(&format!("/api/v1/carts/{cart}/items/fig"))
                .set_json(json!({ "quantity": 1 }))
        };
        let mut carts = Vec::new();
        for _ in 0..3 {
            let cart = id_in(&harness.as_ada(post("/api/v1/carts")).await).to_string();
            assert_eq!(harness.as_ada(put(&cart)).await.status, 200);
            carts.push(cart);
        }
        let [abandoned, changed, ordered] = &carts[..] else {
            unreachable!()
        };
        let long_ago = |days: i64| format!("update open_cart set changed_at = changed_at - {}", days * 86_400_000);
        execute(&db, long_ago(91)).await;
        // Of three carts of 91 days one is changed now, and one is checked out.
        let change = TestRequest::delete().uri(&format!("/api/v1/carts/{changed}/items/fig"));
        assert_eq!(harness.as_ada(change).await.status, 204);
        let check_out = post(&format!("/api/v1/carts/{ordered}/checkout"))
            .insert_header(("Idempotency-Key", "c1"))
            .set_json(json!({ "shipping_address": support::address(), "payment_method": "pm_card_visa" }));
        assert_eq!(harness.as_ada(check_out).await.status, 201);
        assert_eq!(count(&db, "open_cart").await, 2, "an order is no open cart");
        // Even if the table said that it is one, it is not deleted.
        execute(
            &db,
            "insert into open_cart (id, changed_at) select id, 0 from order_view".to_owned(),
        )
        .await;
        harness.run();
        eventually("deleted", TIMEOUT, || async { count(&db, "open_cart").await == 1 }).await;
        assert_eq!(count(&db, "order_event where version = 1").await, 2);
        assert_eq!(
            harness.as_ada(get(&format!("/api/v1/carts/{abandoned}"))).await.status,
            404
        );
        assert_eq!(harness.as_ada(put(abandoned)).await.status, 404);
        assert_eq!(
            harness.as_ada(get(&format!("/api/v1/carts/{changed}"))).await.status,
            200
        );
        assert_eq!(
            harness.as_ada(get(&format!("/api/v1/orders/{ordered}"))).await.status,
            200
        );
        assert_eq!(harness.as_ada(put(changed)).await.status, 200, "it lives on");
        harness.close().await;
    })
    .await;
}
