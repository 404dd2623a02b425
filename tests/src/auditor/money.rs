//! B: no order is paid twice, no cancelled order stays paid, and the provider's records agree with ours.

use std::collections::HashMap;

use sea_orm::FromQueryResult;
use uuid::Uuid;

use super::databases::{Databases, PROVIDER};

#[derive(FromQueryResult)]
struct Payment {
    order_id: Uuid,
}

#[derive(FromQueryResult)]
struct Unbalanced {
    transaction_id: Uuid,
    total: i64,
}

/// A count or an amount of an order.
#[derive(FromQueryResult)]
struct OfOrder {
    order_id: Uuid,
    n: i64,
}

#[derive(FromQueryResult)]
struct Authorisation {
    order_id: Uuid,
    status: String,
}

#[derive(FromQueryResult)]
struct Order {
    id: Uuid,
    status: String,
    total_amount: i64,
}

pub async fn audit_always(databases: &Databases) -> Vec<String> {
    let mut wrong = Vec::new();
    let limits = "select order_id from payment where not (0 <= refunded_amount and refunded_amount <= captured_amount and captured_amount <= authorised_amount)";
    for Payment { order_id } in databases.rows("payments", limits).await {
        wrong.push(format!(
            "B1: refunded <= captured <= authorised does not hold for order {order_id}"
        ));
    }
    let sums = "select transaction_id, currency, cast(sum(amount) as bigint) as total from ledger_entry group by transaction_id, currency having sum(amount) <> 0";
    for Unbalanced { transaction_id, total } in databases.rows("payments", sums).await {
        wrong.push(format!("B2: ledger transaction {transaction_id} sums to {total}"));
    }
    let twice = [
        (
            "authorisations",
            "select order_id, count(*) as n from authorisation where status <> 'voided' group by order_id having count(*) > 1",
        ),
        (
            "captures",
            "select a.order_id, count(*) as n from capture c join authorisation a on a.id = c.authorisation_id group by a.order_id having count(*) > 1",
        ),
    ];
    for (what, sql) in twice {
        for OfOrder { order_id, n } in databases.rows(PROVIDER, sql).await {
            wrong.push(format!("B5: {n} effective {what} at the provider for order {order_id}"));
        }
    }
    wrong
}

/// What the provider captured and refunded for an order.
#[derive(Default)]
struct AtProvider {
    captured: i64,
    refunded: i64,
    open: bool,
}

pub async fn audit_quiet(databases: &Databases) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut provider: HashMap<Uuid, AtProvider> = HashMap::new();
    let authorisations = "select order_id, status from authorisation";
    for Authorisation { order_id, status } in databases.rows(PROVIDER, authorisations).await {
        provider.entry(order_id).or_default().open |= status == "authorised";
    }
    let captures = "select a.order_id, c.amount as n from capture c join authorisation a on a.id = c.authorisation_id";
    for OfOrder { order_id, n } in databases.rows(PROVIDER, captures).await {
        provider.entry(order_id).or_default().captured += n;
    }
    let refunds = "select a.order_id, r.amount as n from refund r join authorisation a on a.id = r.authorisation_id";
    for OfOrder { order_id, n } in databases.rows(PROVIDER, refunds).await {
        provider.entry(order_id).or_default().refunded += n;
    }
    let ledger: HashMap<Uuid, i64> = databases
        .rows::<OfOrder>(
            "payments",
            "select p.order_id, cast(sum(e.amount) as bigint) as n from ledger_entry e join ledger_transaction t on t.id = e.transaction_id
             join payment p on p.id = t.payment_id where e.account = 'provider' group by p.order_id",
        )
        .await
        .into_iter()
        .map(|row| (row.order_id, row.n))
        .collect();
    let orders = "select id, status, total_amount from order_view";
    for Order {
        id,
        status,
        total_amount: total,
    } in databases.rows("orders", orders).await
    {
        let at = provider.remove(&id).unwrap_or_default();
        let kept = at.captured - at.refunded;
        let in_ledger = ledger.get(&id).copied().unwrap_or_default();
        if kept != in_ledger {
            wrong.push(format!(
                "B3: order {id}: the provider keeps {kept}, our ledger says {in_ledger}"
            ));
        }
        let sold = ["confirmed", "shipped", "delivered"].contains(&status.as_str());
        if sold && at.captured != total {
            wrong.push(format!(
                "B3: order {id} is {status} over {total}, the provider captured {}",
                at.captured
            ));
        }
        if status == "cancelled" && kept != 0 {
            wrong.push(format!("B3: order {id} is cancelled, the provider keeps {kept}"));
        }
        if at.open && status != "pending" {
            wrong.push(format!(
                "B4: order {id} is {status} and its authorisation is still open"
            ));
        }
    }
    for (id, at) in provider {
        wrong.push(format!(
            "B3: the provider knows order {id} (captured {}), the shop does not",
            at.captured
        ));
    }
    wrong
}
