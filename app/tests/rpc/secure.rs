//! Only clients and servers with a certificate of the CA are trusted.

use banyan_core::Call;
use inventory_contract::{FindStock, RemoteInventory};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use banyan_remote_testing::Authority;

use super::*;

async fn responds(inventory: &dyn Inventory) -> bool {
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

fn client(address: SocketAddr, authority: &Authority, name: &str) -> Client {
    let endpoint = format!("https://localhost:{}", address.port());
    let own = authority.settings(name);
    let own: Vec<(&str, &str)> = own.iter().map(|(name, value)| (*name, &**value)).collect();
    Client::with(&[&[("BANYAN__MODULES__INVENTORY__ENDPOINT", &*endpoint)], &own[..]].concat())
}

async fn server(authority: &Authority) -> InventoryServer {
    let own = authority.settings("inventory");
    let own: Vec<(&str, &str)> = own.iter().map(|(name, value)| (*name, &**value)).collect();
    InventoryServer::start_with("127.0.0.1:0", &own).await.unwrap()
}

#[tokio::test]
async fn a_process_of_the_same_authority_is_served() {
    let authority = Authority::new(&["inventory", "orders"]);
    let server = server(&authority).await;
    let client = client(server.address, &authority, "orders");
    assert!(responds(&*client.inventory()).await);
    until("a probe has found it healthy", || {
        client.state().instances[0].in_rotation
    })
    .await;
}

#[tokio::test]
async fn clients_without_a_trusted_certificate_are_refused() {
    let (ours, theirs) = (Authority::new(&["inventory", "orders"]), Authority::new(&["orders"]));
    let server = server(&ours).await;
    let url = format!("https://localhost:{}", server.address.port());
    let trusting =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(std::fs::read(ours.file("ca.pem")).unwrap()));
    let untrusted = tonic::transport::Identity::from_pem(
        std::fs::read(theirs.file("orders.pem")).unwrap(),
        std::fs::read(theirs.file("orders-key.pem")).unwrap(),
    );
    let connect = |tls: ClientTlsConfig| -> Channel {
        Endpoint::from_shared(url.clone())
            .unwrap()
            .tls_config(tls)
            .unwrap()
            .connect_lazy()
    };
    let plain = Endpoint::from_shared(format!("http://{}", server.address))
        .unwrap()
        .connect_lazy();
    for (who, channel) in [
        ("plaintext", plain),
        ("without a certificate", connect(trusting.clone())),
        ("with one of another authority", connect(trusting.identity(untrusted))),
    ] {
        assert!(!responds(&RemoteInventory::new(channel)).await, "{who}");
    }
    assert!(server.stock.calls().is_empty());
    assert!(
        responds(&*client(server.address, &ours, "orders").inventory()).await,
        "a trusted client is served, so they were refused for their certificates"
    );
}

#[tokio::test]
async fn a_server_with_an_untrusted_certificate_is_not_called() {
    let (ours, theirs) = (Authority::new(&["orders"]), Authority::new(&["inventory"]));
    let untrusted = server(&theirs).await;
    assert!(!responds(&*client(untrusted.address, &ours, "orders").inventory()).await);
    assert!(untrusted.stock.calls().is_empty());
}

#[tokio::test]
async fn plaintext_is_not_used_with_certificates_nor_tls_without() {
    let authority = Authority::new(&["orders"]);
    let plain = InventoryServer::start().await;
    let own = authority.settings("orders");
    let own: Vec<(&str, &str)> = own.iter().map(|(name, value)| (*name, &**value)).collect();
    let client = Client::calling(&[plain.address], &own);
    assert!(!responds(&*client.inventory()).await);
    assert!(plain.stock.calls().is_empty());
    let assert_out_of_rotation = |client: &Client, why: &str| {
        let instances = client.state().instances;
        assert_eq!((instances.len(), instances[0].in_rotation), (1, false));
        assert!(
            instances[0].reason.as_ref().is_some_and(|reason| reason.contains(why)),
            "{instances:?}"
        );
    };
    assert_out_of_rotation(&client, "write https://");
    let client = Client::with(&[(
        "BANYAN__MODULES__INVENTORY__ENDPOINT",
        &*format!("https://{}", plain.address),
    )]);
    assert!(!responds(&*client.inventory()).await);
    assert_out_of_rotation(&client, "[mtls]");
}
