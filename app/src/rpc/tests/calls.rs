//! What arrives, and what comes back.

use std::time::Instant;

use event_feed_contract::ListSubjects;
use inventory_contract::{FindStock, ReserveStock};
use shared_kernel::{Actor, Call, Fault, FaultKind, Role, TraceParent};
use uuid::Uuid;

use super::{stock::Mood, *};

fn find(sku: &str) -> FindStock {
    FindStock { sku: sku.to_owned() }
}

#[tokio::test]
async fn a_call_answers_as_the_module_itself_does() {
    let warehouse = Warehouse::open().await;
    let far = Shop::asking(&[warehouse.address], &[]).inventory();
    let near: Arc<dyn Inventory> = warehouse.stock.clone();
    let call = Call::by_module("orders");
    assert_eq!(far.find_stock(&call, find("tea-01")).await, near.find_stock(&call, find("tea-01")).await);
    let reserve = ReserveStock { command_id: "c".into(), order_id: "o".into(), lines: Vec::new() };
    assert_eq!(far.reserve_stock(&call, reserve.clone()).await, near.reserve_stock(&call, reserve).await);
    let fault = Fault::conflict("already_dispatched", "gone").retry_after(Duration::from_secs(7)).at("/id", "rule");
    for fault in [fault, Fault::not_found("product"), Fault::unavailable("The database is away."), Fault::internal("bug", "x")] {
        warehouse.stock.is(Mood::Fails(fault.clone()));
        assert_eq!(far.find_stock(&call, find("tea-01")).await, Err(fault));
    }
}

#[tokio::test]
async fn the_actor_the_trace_and_the_time_limit_arrive() {
    let warehouse = Warehouse::open().await;
    let shop = Shop::asking(&[warehouse.address], &[]);
    let trace = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let actor = Actor::User { id: Uuid::from_u128(7), roles: vec![Role::Staff] };
    let call = Call::by(actor.clone()).within(Duration::from_secs(2)).traced(trace.clone());
    shop.inventory().find_stock(&call, find("tea-01")).await.unwrap();
    let arrived = warehouse.stock.calls().remove(0);
    assert_eq!((arrived.actor, arrived.trace, arrived.timeout), (actor, trace, Some(Duration::from_secs(2))));
}

#[tokio::test]
async fn a_call_ends_with_its_time_and_nobody_works_on_for_it() {
    let warehouse = Warehouse::open().await;
    let shop = Shop::asking(&[warehouse.address], &[("BANYAN__RPC__TIMEOUT_MS", "900")]);
    warehouse.stock.is(Mood::Ponders);
    let own = Call::by_module("orders").within(Duration::from_millis(200));
    let of_the_settings = Call::by_module("orders");
    for (call, limit_ms) in [(own, 200), (of_the_settings, 900)] {
        let begun = Instant::now();
        let fault = shop.inventory().find_stock(&call, find("tea-01")).await.unwrap_err();
        let waited = begun.elapsed();
        assert_eq!(fault.kind, FaultKind::Timeout);
        assert!(fault.detail.contains("inventory"), "{fault}");
        assert!((Duration::from_millis(limit_ms - 30)..Duration::from_millis(limit_ms + 300)).contains(&waited), "{waited:?}");
    }
    until("both were dropped where they were worked on", || warehouse.stock.given_up() == 2).await;
}

#[tokio::test]
async fn a_module_is_asked_for_its_own_events_alone() {
    let warehouse = Warehouse::open().await;
    let feed = Shop::asking(&[warehouse.address], &[]).remotes.feed("inventory");
    let ask = |module: &str| ListSubjects { module: module.to_owned(), ..ListSubjects::default() };
    let call = Call::by_module("orders");
    assert_eq!(feed.list_subjects(&call, ask("inventory")).await.unwrap().items[0].subject, "stock/tea-01");
    assert_eq!(feed.list_subjects(&call, ask("orders")).await.unwrap_err().kind, FaultKind::NotFound);
}
