//! C: no more is sold than was in stock.

use super::databases::{Databases, get};

pub async fn audit_always(databases: &Databases) -> Vec<String> {
    let broken = databases
        .rows(
            "inventory",
            "select sku from stock_item where not (on_hand >= 0 and reserved >= 0 and reserved <= on_hand)",
        )
        .await;
    broken
        .iter()
        .map(|row| format!("C1: the level of {} is impossible", get::<String>(row, "sku")))
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
    for row in databases.rows("inventory", levels).await {
        let sku: String = get(&row, "sku");
        let of = |column: &str| get::<i64>(&row, column);
        if of("came") != of("on_hand") + of("went") {
            wrong.push(format!(
                "C2: {sku}: {} came, {} went, {} are there",
                of("came"),
                of("went"),
                of("on_hand")
            ));
        }
        if of("held") != of("reserved") {
            wrong.push(format!(
                "C2: {sku}: reservations hold {}, the level says {}",
                of("held"),
                of("reserved")
            ));
        }
        if of("sold") > of("received") {
            wrong.push(format!("C3: {sku}: {} sold of {} received", of("sold"), of("received")));
        }
    }
    wrong
}
