//! Only processes with a certificate of the CA are answered, and only such are asked.

use banyan_core::Call;
use inventory_contract::{FindStock, RemoteInventory};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use banyan_remote_testing::Authority;

use super::*;

async fn answers(inventory: &dyn Inventory) -> bool {
    let call = Call::by_module("orders").within(Duration::from_secs(2));
    inventory
        .find_stock(
            &call,
            FindStock {
                sku: "tea-01".to_owned(),
            },
        )
        .await
        .is_ok()
}

fn asking(address: SocketAddr, authority: &Authority, name: &str) -> Shop {
    let endpoint = format!("https://localhost:{}", address.port());
    let own = authority.settings(name);
    let own: Vec<(&str, &str)> = own.iter().map(|(name, value)| (*name, &**value)).collect();
    Shop::with(&[&[("BANYAN__MODULES__INVENTORY__ENDPOINT", &*endpoint)], &own[..]].concat())
}

async fn warehouse(authority: &Authority) -> Warehouse {
    let own = authority.settings("inventory");
    let own: Vec<(&str, &str)> = own.iter().map(|(name, value)| (*name, &**value)).collect();
    Warehouse::open_with("127.0.0.1:0", &own).await.unwrap()
}

#[tokio::test]
async fn a_process_of_the_same_authority_is_served() {
    let authority = Authority::new(&["inventory", "orders"]);
    let warehouse = warehouse(&authority).await;
    let shop = asking(warehouse.address, &authority, "orders");
    assert!(answers(&*shop.inventory()).await);
    until("a probe has seen that it is well", || {
        shop.state().instances[0].in_rotation
    })
    .await;
}

#[tokio::test]
async fn others_are_refused_however_they_come() {
    let (ours, theirs) = (Authority::new(&["inventory", "orders"]), Authority::new(&["orders"]));
    let warehouse = warehouse(&ours).await;
    let place = format!("https://localhost:{}", warehouse.address.port());
    let trusting =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(std::fs::read(ours.file("ca.pem")).unwrap()));
    let disguised = tonic::transport::Identity::from_pem(
        std::fs::read(theirs.file("orders.pem")).unwrap(),
        std::fs::read(theirs.file("orders-key.pem")).unwrap(),
    );
    let connect = |tls: ClientTlsConfig| -> Channel {
        Endpoint::from_shared(place.clone())
            .unwrap()
            .tls_config(tls)
            .unwrap()
            .connect_lazy()
    };
    let plain = Endpoint::from_shared(format!("http://{}", warehouse.address))
        .unwrap()
        .connect_lazy();
    for (who, channel) in [
        ("plaintext", plain),
        ("without a certificate", connect(trusting.clone())),
        ("with one of another authority", connect(trusting.identity(disguised))),
    ] {
        assert!(!answers(&RemoteInventory::new(channel)).await, "{who}");
    }
    assert!(warehouse.stock.calls().is_empty());
    assert!(
        answers(&*asking(warehouse.address, &ours, "orders").inventory()).await,
        "and it was not for another reason"
    );
}

#[tokio::test]
async fn an_impostor_is_not_asked() {
    let (ours, theirs) = (Authority::new(&["orders"]), Authority::new(&["inventory"]));
    let impostor = warehouse(&theirs).await;
    assert!(!answers(&*asking(impostor.address, &ours, "orders").inventory()).await);
    assert!(impostor.stock.calls().is_empty());
}

#[tokio::test]
async fn plaintext_is_not_spoken_with_certificates_nor_tls_without() {
    let authority = Authority::new(&["orders"]);
    let plain = Warehouse::open().await;
    let own = authority.settings("orders");
    let own: Vec<(&str, &str)> = own.iter().map(|(name, value)| (*name, &**value)).collect();
    let shop = Shop::asking(&[plain.address], &own);
    assert!(!answers(&*shop.inventory()).await);
    assert!(plain.stock.calls().is_empty());
    let shown_out = |shop: &Shop, why: &str| {
        let instances = shop.state().instances;
        assert_eq!((instances.len(), instances[0].in_rotation), (1, false));
        assert!(
            instances[0].reason.as_ref().is_some_and(|reason| reason.contains(why)),
            "{instances:?}"
        );
    };
    shown_out(&shop, "write https://");
    let shop = Shop::with(&[(
        "BANYAN__MODULES__INVENTORY__ENDPOINT",
        &*format!("https://{}", plain.address),
    )]);
    assert!(!answers(&*shop.inventory()).await);
    shown_out(&shop, "[mtls]");
}
