//! C: no more is sold than was in stock.

use sea_orm::FromQueryResult;

use super::databases::Databases;

#[derive(FromQueryResult)]
struct Product {
    sku: String,
}

/// The level of a product, and what its movements and reservations add up to.
#[derive(FromQueryResult)]
struct Level {
    sku: String,
    on_hand: i64,
    reserved: i64,
    came: i64,
    went: i64,
    received: i64,
    sold: i64,
    held: i64,
}

pub async fn audit_always(databases: &Databases) -> Vec<String> {
    let broken: Vec<Product> = databases
        .rows(
            "inventory",
            "select sku from stock_item where not (on_hand >= 0 and reserved >= 0 and reserved <= on_hand)",
        )
        .await;
    broken
        .iter()
        .map(|row| format!("C1: the level of {} is impossible", row.sku))
        .collect()
}

pub async fn audit_quiet(databases: &Databases) -> Vec<String> {
    let levels = "
        select s.sku, s.on_hand, s.reserved,
            cast(coalesce(sum(case when m.kind in ('received', 'restocked') then m.quantity else 0 end), 0) as bigint) as came,
            cast(coalesce(sum(case when m.kind in ('committed', 'written_off') then m.quantity else 0 end), 0) as bigint) as went,
            cast(coalesce(sum(case when m.kind = 'received' then m.quantity else 0 end), 0) as bigint) as received,
            cast(coalesce(sum(case when m.kind = 'committed' then m.quantity when m.kind = 'restocked' then -m.quantity else 0 end), 0) as bigint) as sold,
            (select cast(coalesce(sum(l.quantity), 0) as bigint) from reservation_line l join reservation r on r.order_id = l.order_id
                where l.sku = s.sku and r.state = 'held') as held
        from stock_item s left join movement m on m.sku = s.sku group by s.sku, s.on_hand, s.reserved";
    let mut wrong = Vec::new();
    for level in databases.rows::<Level>("inventory", levels).await {
        let sku = &level.sku;
        if level.came != level.on_hand + level.went {
            wrong.push(format!(
                "C2: {sku}: {} came in, {} went out, {} are on hand",
                level.came, level.went, level.on_hand
            ));
        }
        if level.held != level.reserved {
            wrong.push(format!(
                "C2: {sku}: reservations hold {}, the level has {} reserved",
                level.held, level.reserved
            ));
        }
        if level.sold > level.received {
            wrong.push(format!("C3: {sku}: {} sold of {} received", level.sold, level.received));
        }
    }
    wrong
}
