//! Only clients and servers with a certificate of the CA are trusted.

use banyan_core::{Call, FaultKind};
use inventory_contract::{FindStock, RemoteInventory, ReserveStock, inventory_client::InventoryClient};
use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

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

/// Reserves stock with these headers and no others, from the process with this certificate; in plaintext without one.
async fn reserve(
    server: &InventoryServer,
    authority: Option<(&Authority, &str)>,
    headers: &[(&'static str, &str)],
) -> Status {
    let channel = match authority {
        None => Endpoint::from_shared(format!("http://{}", server.address)).unwrap(),
        Some((authority, name)) => {
            let pem = |file: String| std::fs::read(authority.file(&file)).unwrap();
            let own = (pem(format!("{name}.pem")), pem(format!("{name}-key.pem")));
            let tls = ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(pem("ca.pem".to_owned())))
                .identity(tonic::transport::Identity::from_pem(own.0, own.1));
            let url = format!("https://localhost:{}", server.address.port());
            Endpoint::from_shared(url).unwrap().tls_config(tls).unwrap()
        }
    };
    let mut request = tonic::Request::new(ReserveStock::default());
    for (name, value) in headers {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    let reserved = InventoryClient::new(channel.connect_lazy())
        .reserve_stock(request)
        .await;
    reserved.map_or_else(|status| status, |_| Status::ok(""))
}

fn actor(actor: &Actor) -> String {
    serde_json::to_string(actor).unwrap()
}

#[tokio::test]
async fn what_the_table_of_modules_does_not_allow_is_refused_before_the_module() {
    let authority = Authority::new(&["inventory", "orders", "catalog", "gateway", "catalog+orders"]);
    let server = server(&authority).await;
    let (orders, catalog) = (actor(&Actor::module("orders")), actor(&Actor::module("catalog")));
    let forged = actor(&Actor::user(Uuid::from_u128(9), [Role::Ops]));
    let token = format!("Bearer {TOKEN}");
    let expired = "Bearer eyJvbGQ.of.staff";
    let code = async |name: &str, headers: &[(&'static str, &str)]| {
        let status = reserve(&server, Some((&authority, name)), headers).await;
        (status.code(), status.message().to_owned())
    };
    let (ok, denied, unauthenticated) = (Code::Ok, Code::PermissionDenied, Code::Unauthenticated);
    for (why, name, headers, expected, says) in [
        ("a module of the table", "orders", vec![(Call::ACTOR, &*orders)], ok, ""),
        ("a user with a token", "orders", vec![(Call::TOKEN, &*token)], ok, ""),
        ("one of two", "catalog+orders", vec![(Call::ACTOR, &*orders)], ok, ""),
        (
            "another module",
            "catalog",
            vec![(Call::ACTOR, &*catalog)],
            denied,
            "catalog",
        ),
        (
            "in another's name",
            "catalog",
            vec![(Call::ACTOR, &*orders)],
            denied,
            "catalog",
        ),
        (
            "a user's token alone",
            "catalog",
            vec![(Call::TOKEN, &*token)],
            denied,
            "catalog",
        ),
        (
            "the other of two",
            "catalog+orders",
            vec![(Call::ACTOR, &*catalog)],
            denied,
            "catalog",
        ),
        ("a page", "gateway", vec![(Call::TOKEN, &*token)], denied, "gateway"),
        ("no actor", "orders", vec![], unauthenticated, "needs an actor"),
        (
            "a forged user",
            "orders",
            vec![(Call::ACTOR, &*forged)],
            unauthenticated,
            "access token",
        ),
        (
            "an expired token",
            "orders",
            vec![(Call::TOKEN, expired)],
            unauthenticated,
            "expired",
        ),
    ] {
        let before = server.stock.calls().len();
        let (code, text) = code(name, &headers).await;
        assert_eq!(code, expected, "{why}: {text}");
        assert!(text.contains(says), "{why}: {text}");
        assert_eq!(server.stock.calls().len() - before, usize::from(code == ok), "{why}");
    }
    let arrived: Vec<String> = server.stock.calls().iter().map(|call| call.actor.label()).collect();
    assert_eq!(arrived, ["module:orders", &staff().label(), "module:orders"]);
}

#[tokio::test]
async fn on_loopback_without_certificates_a_call_needs_an_actor_and_a_user_a_token() {
    let server = InventoryServer::start().await;
    let of = async |headers: &[(&'static str, &str)]| reserve(&server, None, headers).await.code();
    assert_eq!(of(&[]).await, Code::Unauthenticated);
    let forged = actor(&Actor::user(Uuid::from_u128(9), [Role::Ops]));
    assert_eq!(of(&[(Call::ACTOR, &forged)]).await, Code::Unauthenticated);
    let catalog = actor(&Actor::module("catalog"));
    assert_eq!(of(&[(Call::ACTOR, &catalog)]).await, Code::PermissionDenied);
    assert!(server.stock.calls().is_empty());
}

/// A caller whose certificate was issued for another module must not take that for a refusal of its command, and undo what it has done.
#[tokio::test]
async fn a_refused_process_learns_that_an_operator_must_act() {
    let authority = Authority::new(&["inventory", "catalog"]);
    let server = server(&authority).await;
    let client = client(server.address, &authority, "catalog");
    let call = Call::by_module("orders").within(Duration::from_secs(2));
    let fault = client
        .inventory()
        .find_stock(&call, FindStock::default())
        .await
        .unwrap_err();
    assert_eq!((fault.kind, &*fault.code), (FaultKind::Internal, "call_not_allowed"));
    assert!(fault.detail.contains("catalog") && !fault.is_refusal(), "{fault}");
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
