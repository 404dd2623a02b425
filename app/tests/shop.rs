//! The table of modules, checked against the modules themselves.

use banyan::shop::{Contracts, SHOP};
use banyan_core::{Call, inside_transaction};
use banyan_host::{
    Sources,
    local::{self, LocalModules},
};
use banyan_remote::{discovery, grpc::Remotes};
use tokio_util::sync::CancellationToken;

/// Starting a module also compares its subscriptions in the table with its reactions.
#[tokio::test]
async fn every_module_starts_and_no_contract_can_be_called_inside_a_transaction() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let variable = ("BANYAN__DATA_DIR".to_owned(), data.display().to_string());
    let settings = banyan::settings(None, [variable]).unwrap();
    let stop = CancellationToken::new();
    let found = discovery::start(&settings.discovery, settings.endpoints().unwrap(), &stop).unwrap();
    let callees = SHOP.layout().callees();
    let remotes = Remotes::start(
        &settings.rpc,
        &callees,
        &found,
        settings.discovery.probing(),
        None,
        &stop,
    )
    .unwrap();
    let mut contracts = Contracts::remote(&remotes);
    let sources = Sources::system();
    let configured = local::configure(&SHOP, &settings).unwrap();
    let local = LocalModules::start(&SHOP, &settings, configured, &sources, &mut contracts)
        .await
        .unwrap();
    let Contracts {
        users,
        catalog,
        inventory,
        payments,
        shipping,
        orders,
        notifications,
        ..
    } = contracts;
    let call = Call::default();
    // That the other modules are handed over in the same wrapper is a rule of the architecture's test.
    let mut called = inside_transaction(async {
        vec![
            users.find_user(&call, Default::default()).await.err(),
            catalog.list_products(&call, Default::default()).await.err(),
            inventory.find_stock(&call, Default::default()).await.err(),
            payments.find_payment(&call, Default::default()).await.err(),
            shipping.find_shipment(&call, Default::default()).await.err(),
            orders.find_order(&call, Default::default()).await.err(),
            notifications.list_notifications(&call, Default::default()).await.err(),
        ]
    })
    .await;
    for feed in local.feeds().values() {
        called.push(
            inside_transaction(feed.list_subjects(&call, Default::default()))
                .await
                .err(),
        );
    }
    assert_eq!(called.len(), 7 + SHOP.modules.len());
    for fault in called {
        assert_eq!(fault.map(|fault| fault.code).as_deref(), Some("inside_transaction"));
    }
    stop.cancel();
    local.close().await;
}

#[test]
fn a_module_is_listed_after_those_it_calls() {
    let names = banyan::MODULES;
    let position = |name: &str| {
        names
            .iter()
            .position(|known| *known == name)
            .expect("a module in the table")
    };
    for module in SHOP.modules {
        for called in module.calls {
            assert!(
                position(called) < position(module.name),
                "{} calls {called}",
                module.name
            );
        }
        for topic in module.subscribes {
            position(topic.split_once('.').expect("<module>.<aggregate>").0);
        }
    }
}
