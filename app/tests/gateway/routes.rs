//! The route table that the shop's committed OpenAPI document gives.

use std::collections::BTreeSet;

use banyan::shop::SHOP;
use banyan_gateway::RouteTable;
use serde_json::Value;

fn committed() -> RouteTable {
    RouteTable::read(SHOP.document).unwrap()
}

fn found(method: &str, path: &str) -> Option<(String, String)> {
    let table = committed();
    let found = table.find(method, path)?;
    Some((found.module.to_owned(), found.operation.template.to_string()))
}

fn owner(method: &str, path: &str) -> Option<String> {
    found(method, path).map(|(module, _)| module)
}

#[test]
fn every_operation_of_the_document_is_found_and_has_a_known_owner() {
    let document: Value = serde_json::from_str(SHOP.document).unwrap();
    let mut owners = BTreeSet::new();
    for (template, item) in document["paths"].as_object().unwrap() {
        for method in ["get", "put", "post", "delete", "patch"]
            .iter()
            .filter(|method| item.get(method).is_some())
        {
            let path = template.replace("{module}", "orders").replace(['{', '}'], "");
            let (module, _) = found(&method.to_uppercase(), &path)
                .unwrap_or_else(|| panic!("{method} {template} is not in the table"));
            assert!(
                banyan::MODULES.contains(&module.as_str()) || ["app", "gateway"].contains(&module.as_str()),
                "{method} {template}: {module}"
            );
            owners.insert(module);
        }
    }
    assert!(
        banyan::MODULES.iter().all(|module| owners.contains(*module)),
        "{owners:?}"
    );
}

#[test]
fn literal_segments_win_over_parameters() {
    let template = |method, path| found(method, path).map(|(_, template)| template);
    assert_eq!(template("GET", "/api/v1/users/me").as_deref(), Some("/api/v1/users/me"));
    assert_eq!(
        template("GET", "/api/v1/users/7").as_deref(),
        Some("/api/v1/users/{id}")
    );
    assert_eq!(template("PATCH", "/api/v1/users/7"), None);
}

#[test]
fn operations_requests_belong_to_the_module_in_the_path() {
    assert_eq!(owner("GET", "/api/v1/ops/payments/sagas").as_deref(), Some("payments"));
    assert_eq!(
        owner("POST", "/api/v1/ops/orders/dead-letters/7/retry").as_deref(),
        Some("orders")
    );
    assert_eq!(owner("GET", "/api/v1/ops/orders/views").as_deref(), Some("orders"));
    assert_eq!(owner("GET", "/api/v1/ops/modules").as_deref(), Some("app"));
    for path in ["/health/live", "/health/ready", "/metrics"] {
        assert_eq!(owner("GET", path).as_deref(), Some("app"), "{path}");
    }
    assert_eq!(owner("GET", "/api/v1/dashboard").as_deref(), Some("gateway"));
    assert_eq!(owner("GET", "/.well-known/jwks.json").as_deref(), Some("users"));
}

#[test]
fn the_document_says_where_tokens_are_read_and_keys_are_remembered() {
    let table = committed();
    let operation = |method, path| table.find(method, path).unwrap().operation;
    for path in [
        "/api/v1/sessions",
        "/api/v1/sessions/refresh",
        "/api/v1/payments/webhooks/sandbox",
    ] {
        assert!(!operation("POST", path).reads_tokens, "{path}");
    }
    // Where a token is optional, it is read as well.
    for (method, path) in [
        ("GET", "/api/v1/products"),
        ("POST", "/api/v1/users"),
        ("POST", "/api/v1/orders"),
    ] {
        assert!(operation(method, path).reads_tokens, "{method} {path}");
    }
    for path in [
        "/api/v1/orders",
        "/api/v1/carts",
        "/api/v1/stock/a/receipts",
        "/api/v1/payments/7/refunds",
    ] {
        assert!(operation("POST", path).remembers_keys, "{path}");
    }
    for path in [
        "/api/v1/users",
        "/api/v1/sessions",
        "/api/v1/sessions/refresh",
        "/api/v1/ops/orders/sagas/7/abandon",
    ] {
        assert!(!operation("POST", path).remembers_keys, "{path}");
    }
}

#[test]
fn a_path_is_compared_byte_for_byte() {
    for path in [
        "/api/v1/products/",
        "/api/v1//products",
        "/api/v1/%70roducts",
        "/API/v1/products",
        "/api/v1/orders/../products",
        "/api/v1/products/a/b",
        "/api/v1/products;x=1",
        "/api/v1/carts//checkout",
    ] {
        assert_eq!(owner("GET", path), None, "{path}");
    }
    // One segment, whatever it would mean if it were decoded.
    assert_eq!(owner("GET", "/api/v1/products/..%2forders").as_deref(), Some("catalog"));
    assert_eq!(owner("GET", "/api/v1/ops/or%64ers/sagas").as_deref(), Some("or%64ers"));
}

#[test]
fn a_document_without_owners_is_refused() {
    let table = |owner: &str| RouteTable::of(&serde_json::json!({"paths": {"/a/{id}": {"get": {"x-module": owner}}}}));
    assert!(table("{id}").is_ok());
    assert!(table("{module}").unwrap_err().to_string().contains("no such parameter"));
    let without = RouteTable::of(&serde_json::json!({"paths": {"/a": {"get": {}}}}));
    assert_eq!(without.unwrap_err().to_string(), "get /a has no x-module");
}
