//! B: no order is paid twice, no cancelled order stays paid, and the provider's records agree with ours.

use std::collections::HashMap;

use uuid::Uuid;

use super::databases::{Databases, PROVIDER, get};

pub async fn audit_always(databases: &Databases) -> Vec<String> {
    let mut wrong = Vec::new();
    let limits = "select order_id from payment where not (0 <= refunded_amount and refunded_amount <= captured_amount and captured_amount <= authorised_amount)";
    for row in databases.rows("payments", limits).await {
        wrong.push(format!(
            "B1: refunded <= captured <= authorised does not hold for order {}",
            get::<Uuid>(&row, "order_id")
        ));
    }
    let sums = "select transaction_id, currency, cast(sum(amount) as bigint) as total from ledger_entry group by transaction_id, currency having sum(amount) <> 0";
    for row in databases.rows("payments", sums).await {
        wrong.push(format!(
            "B2: ledger transaction {} sums to {}",
            get::<Uuid>(&row, "transaction_id"),
            get::<i64>(&row, "total")
        ));
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
        for row in databases.rows(PROVIDER, sql).await {
            wrong.push(format!(
                "B5: {} effective {what} at the provider for order {}",
                get::<i64>(&row, "n"),
                get::<Uuid>(&row, "order_id")
            ));
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
    for row in databases
        .rows(PROVIDER, "select order_id, status from authorisation")
        .await
    {
        provider.entry(get(&row, "order_id")).or_default().open |= get::<String>(&row, "status") == "authorised";
    }
    for row in databases
        .rows(
            PROVIDER,
            "select a.order_id, c.amount from capture c join authorisation a on a.id = c.authorisation_id",
        )
        .await
    {
        provider.entry(get(&row, "order_id")).or_default().captured += get::<i64>(&row, "amount");
    }
    for row in databases
        .rows(
            PROVIDER,
            "select a.order_id, r.amount from refund r join authorisation a on a.id = r.authorisation_id",
        )
        .await
    {
        provider.entry(get(&row, "order_id")).or_default().refunded += get::<i64>(&row, "amount");
    }
    let ledger: HashMap<Uuid, i64> = databases
        .rows(
            "payments",
            "select p.order_id, cast(sum(e.amount) as bigint) as n from ledger_entry e join ledger_transaction t on t.id = e.transaction_id
             join payment p on p.id = t.payment_id where e.account = 'provider' group by p.order_id",
        )
        .await
        .iter()
        .map(|row| (get(row, "order_id"), get(row, "n")))
        .collect();
    for row in databases
        .rows("orders", "select id, status, total_amount from order_view")
        .await
    {
        let (id, status, total): (Uuid, String, i64) =
            (get(&row, "id"), get(&row, "status"), get(&row, "total_amount"));
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
