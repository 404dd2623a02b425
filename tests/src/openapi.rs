//! The OpenAPI document: committed, valid, and served as committed.

pub mod codes;

use std::{collections::BTreeSet, process::Command};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::harness::{Shop, Stage, binary, runtime};

const SNAPSHOT: &str = "app/openapi.json";

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("openapi::the_document_is_the_committed_one", document_is_committed),
        Trial::test(
            "openapi::every_operation_has_a_module_an_id_and_a_summary",
            every_operation_is_described,
        ),
        Trial::test("openapi::every_reference_resolves", references_resolve),
        Trial::test(
            "openapi::every_response_says_what_it_means_and_every_problem_has_examples",
            responses_are_described,
        ),
        Trial::test(
            "openapi::every_field_with_a_pattern_has_an_example_that_matches",
            patterns_have_examples,
        ),
        Trial::test(
            "openapi::what_an_operation_honours_is_in_its_responses",
            honoured_headers_are_documented,
        ),
        Trial::test("openapi::what_answers_304_says_so", unchanged_resources_are_documented),
        Trial::test(
            "openapi::what_has_an_etag_is_changed_with_if_match",
            changes_are_conditional,
        ),
        Trial::test(
            "openapi::every_problem_code_in_the_code_is_in_the_document",
            codes::every_code_is_documented,
        ),
        Trial::test(
            "openapi::independent_validators_accept_it_and_generated_clients_buy",
            generated_clients_buy,
        ),
        Trial::test("openapi::the_running_shop_serves_this_document", the_shop_serves_it),
    ]
}

fn printed() -> Result<String, Failed> {
    let output = Command::new(binary()).arg("openapi").output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn document_is_committed() -> Result<(), Failed> {
    crate::snapshot::compare(SNAPSHOT, &printed()?)
}

/// Every operation: its path, its method, and what the document says of it.
pub fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().into_iter().flatten();
    let operation = |(path, item): (&String, &Value)| {
        let methods = item
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(method, _)| ["get", "put", "post", "delete", "patch"].contains(&method.as_str()));
        methods
            .map(|(method, operation)| (path.clone(), method.clone(), operation.clone()))
            .collect::<Vec<_>>()
    };
    paths.flat_map(operation).collect()
}

fn every_operation_is_described() -> Result<(), Failed> {
    let document: Value = serde_json::from_str(&printed()?)?;
    let mut ids = BTreeSet::new();
    let mut wrong = Vec::new();
    for (path, method, operation) in operations(&document) {
        let says = |field: &str| operation[field].as_str().is_some_and(|text| !text.is_empty());
        if !says("x-module") || !says("operationId") || !(says("summary") || says("description")) {
            wrong.push(format!("{method} {path} lacks x-module, operationId or summary"));
        }
        if !ids.insert(operation["operationId"].clone().to_string()) {
            wrong.push(format!("{method} {path}: its operationId is another's too"));
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}

fn references_resolve() -> Result<(), Failed> {
    fn walk(value: &Value, document: &Value, broken: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(reference) = fields.get("$ref").and_then(Value::as_str)
                    && reference
                        .strip_prefix('#')
                        .and_then(|pointer| document.pointer(pointer))
                        .is_none()
                {
                    broken.insert(reference.to_owned());
                }
                fields.values().for_each(|field| walk(field, document, broken));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, document, broken)),
            _ => {}
        }
    }
    let document: Value = serde_json::from_str(&printed()?)?;
    let mut broken = BTreeSet::new();
    walk(&document, &document, &mut broken);
    if broken.is_empty() {
        Ok(())
    } else {
        Err(format!("{broken:?}").into())
    }
}

fn none_wrong(wrong: Vec<String>) -> Result<(), Failed> {
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}

fn responses_are_described() -> Result<(), Failed> {
    let document: Value = serde_json::from_str(&printed()?)?;
    let mut wrong = Vec::new();
    for (path, method, operation) in operations(&document) {
        for (status, response) in operation["responses"].as_object().into_iter().flatten() {
            let response = match response["$ref"].as_str() {
                Some(reference) => document.pointer(&reference[1..]).cloned().unwrap_or_default(),
                None => response.clone(),
            };
            if response["description"].as_str().is_none_or(str::is_empty) {
                wrong.push(format!("{method} {path} {status} has no description"));
            }
            let problem = &response["content"]["application/problem+json"];
            if status.as_str() >= "400"
                && path.starts_with("/api/")
                && problem["examples"].as_object().is_none_or(|all| all.is_empty())
            {
                wrong.push(format!("{method} {path} {status} has no example of its problem"));
            }
        }
    }
    none_wrong(wrong)
}

/// Without an example, tools that show the document make text from the pattern, which is noise. An example that breaks its pattern is refused when it is
/// tried.
fn patterns_have_examples() -> Result<(), Failed> {
    fn walk(at: &str, value: &Value, required: bool, wrong: &mut Vec<String>) {
        if let Some(pattern) = value["pattern"].as_str() {
            let examples = value["examples"].as_array().cloned().unwrap_or_default();
            let examples: Vec<&Value> = examples.iter().chain(value.get("example")).collect();
            if examples.is_empty() && required {
                wrong.push(format!("{at} has the pattern {pattern} and no example"));
            }
            let schema = jsonschema::validator_for(value).map_err(|error| error.to_string());
            for example in examples {
                if !schema.as_ref().is_ok_and(|schema| schema.is_valid(example)) {
                    wrong.push(format!("{at}: {example} is not an example of {value}"));
                }
            }
        }
        match value {
            Value::Object(fields) => fields
                .iter()
                .for_each(|(name, field)| walk(&format!("{at}/{name}"), field, required, wrong)),
            Value::Array(items) => items.iter().for_each(|item| walk(at, item, required, wrong)),
            _ => {}
        }
    }
    let document: Value = serde_json::from_str(&printed()?)?;
    let mut wrong = Vec::new();
    walk("", &document["components"]["schemas"], true, &mut wrong);
    for (path, method, operation) in operations(&document) {
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            // A tool fills in what is required; a pattern that only refuses control characters is no rule that an example would explain.
            let explains = !parameter["schema"]["pattern"]
                .as_str()
                .is_some_and(|pattern| pattern.starts_with(r"^[^\u0000-"));
            let required = parameter["required"] == true && explains;
            walk(
                &format!("{method} {path} {}", parameter["name"]),
                &parameter["schema"],
                required,
                &mut wrong,
            );
        }
    }
    none_wrong(wrong)
}

fn honoured_headers_are_documented() -> Result<(), Failed> {
    let document: Value = serde_json::from_str(&printed()?)?;
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        let parameters = operation["parameters"].to_string();
        let mut expect = |parameter: &'static str, status: char, header: &str| {
            if !parameters.contains(parameter) {
                return;
            }
            seen.insert(parameter);
            let mut responses = operation["responses"].as_object().into_iter().flatten();
            let mut named = responses
                .by_ref()
                .filter(|(code, _)| code.starts_with(status))
                .peekable();
            if named.peek().is_none() || named.any(|(_, response)| response["headers"][header].is_null()) {
                wrong.push(format!(
                    "{method} {path} honours {parameter}, and a response {status}xx has no {header}"
                ));
            }
        };
        expect("IdempotencyKey", '2', "Idempotency-Replayed");
        expect("parameters/Prefer", '2', "Preference-Applied");
        expect("IfNoneMatch", '2', "ETag");
        expect("IfNoneMatch", '3', "ETag");
    }
    if seen.len() < 3 {
        wrong.push(format!("only {seen:?} were found"));
    }
    none_wrong(wrong)
}

/// A client that names what it has read in `If-Match` believes that nothing else is changed, so every operation on a resource with an `ETag` evaluates
/// it: those at its path and at the paths below that are no other resource's.
fn changes_are_conditional() -> Result<(), Failed> {
    /// What does not change the resource above it, the user or the order.
    const OTHERS: [&str; 5] = [
        "/api/v1/orders/{id}/events/tickets",
        "/api/v1/users/me/password",
        // It changes with the confirmation, which is made with a token.
        "/api/v1/users/me/email",
        "/api/v1/users/{id}/sessions",
        "/api/v1/users/{id}/sessions/{session_id}",
    ];
    let document: Value = serde_json::from_str(&printed()?)?;
    let honours = |operation: &Value, parameter: &str| operation["parameters"].to_string().contains(parameter);
    let of_tagged_resource = |path: &str| {
        let mut above = Some(path);
        while let Some(resource) = above {
            let read = &document["paths"][resource]["get"];
            if honours(read, "IfNoneMatch") {
                return true;
            }
            above = resource.rsplit_once('/').map(|(above, _)| above);
        }
        false
    };
    let changes: Vec<_> = operations(&document)
        .into_iter()
        .filter(|(path, method, _)| method != "get" && !OTHERS.contains(&path.as_str()) && of_tagged_resource(path))
        .collect();
    let mut wrong: Vec<String> = changes
        .iter()
        .filter(|(_, _, operation)| !honours(operation, "IfMatch") || operation["responses"]["412"].is_null())
        .map(|(path, method, _)| format!("{method} {path} changes what has an ETag and does not evaluate If-Match"))
        .collect();
    if changes.len() < 15 {
        wrong.push(format!("only {} changes were found", changes.len()));
    }
    none_wrong(wrong)
}

/// Also those whose handlers someone forgot to document.
fn unchanged_resources_are_documented() -> Result<(), Failed> {
    let document: Value = serde_json::from_str(&printed()?)?;
    let wrong = runtime().block_on(async {
        let shop = Shop::start(Stage::Sqlite).await;
        let (customer, staff) = (shop.client().customer().await, shop.client().staff().await);
        let order = customer.order("rare-fig", 1, "pm_card_visa").await;
        let id = |value: &Value| value.as_str().expect("an id").to_owned();
        let payment = id(&order["payment"]["id"]);
        let refunds = format!("/api/v1/payments/{payment}/refunds");
        let refund = staff
            .post_keyed(&refunds, &serde_json::json!({"reason": "broken"}))
            .await
            .expect(201)
            .json();
        let mut wrong = Vec::new();
        for (template, path) in [
            ("/api/v1/users/me", "/api/v1/users/me".to_owned()),
            ("/api/v1/users/{id}", format!("/api/v1/users/{}", id(&order["user_id"]))),
            ("/api/v1/products/{sku}", "/api/v1/products/rare-fig".to_owned()),
            ("/api/v1/stock/{sku}", "/api/v1/stock/rare-fig".to_owned()),
            ("/api/v1/orders/{id}", format!("/api/v1/orders/{}", id(&order["id"]))),
            ("/api/v1/payments/{id}", format!("/api/v1/payments/{payment}")),
            (
                "/api/v1/payments/{id}/refunds/{refund_id}",
                format!("{refunds}/{}", id(&refund["id"])),
            ),
            (
                "/api/v1/shipments/{id}",
                format!("/api/v1/shipments/{}", id(&order["shipment"]["id"])),
            ),
        ] {
            let etag = staff.get(&path).await.expect(200).header("etag").map(str::to_owned);
            let known = [("If-None-Match", "*")];
            let unchanged = staff.send(reqwest::Method::GET, &path, &known, None).await.status == 304;
            let says = !document["paths"][template]["get"]["responses"]["304"].is_null();
            if etag.is_none() || !unchanged || !says {
                wrong.push(format!(
                    "{template}: ETag {etag:?}, answers 304: {unchanged}, documents it: {says}"
                ));
            }
        }
        shop.remove().await;
        wrong
    });
    none_wrong(wrong)
}

/// The script installs its tools, or says what is missing.
fn generated_clients_buy() -> Result<(), Failed> {
    runtime().block_on(async {
        let shop = Shop::start(Stage::Sqlite).await;
        let root = crate::architecture::root();
        let mut script = tokio::process::Command::new(root.join("scripts/openapi-clients.sh"));
        let output = script.arg(root.join(SNAPSHOT)).arg(shop.client().base()).output().await;
        shop.remove().await;
        let output = output?;
        // What was not checked is seen by whoever reads the test's output.
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned().into())
        }
    })
}

fn the_shop_serves_it() -> Result<(), Failed> {
    let served = runtime().block_on(async {
        let shop = Shop::start(Stage::Sqlite).await;
        let served = shop.client().get("/openapi.json").await.expect(200).json();
        shop.remove().await;
        served
    });
    let printed: Value = serde_json::from_str(&printed()?)?;
    if served == printed {
        Ok(())
    } else {
        Err("the served document is not the printed one".into())
    }
}
