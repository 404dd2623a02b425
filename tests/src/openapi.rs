//! The OpenAPI document: committed, valid, and served as committed.

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
