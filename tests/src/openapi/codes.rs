//! The codes of problems in the code, against those in the document.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use libtest_mimic::Failed;
use serde_json::Value;

use crate::architecture;

/// Codes that no client of the HTTP interface meets, and why.
const INTERNAL: [(&str, &[&str]); 3] = [
    (
        "commands between modules, whose refusal becomes the state of an order",
        &[
            "already_reserved",
            "capture_in_progress",
            "commands_open",
            "invalid_lines",
            "invalid_payment_method",
            "invalid_shipment",
            "invalid_sku",
            "payment_declined",
            "payment_exists",
            "payment_voided",
            "reservation_released",
            "shipment_exists",
            "too_many_skus",
            "undoes_another",
            "command_reused",
            "provider_key_reused",
        ],
    ),
    ("calls between modules, checked by the caller", &["invalid_limit"]),
    (
        "prices, whose limits are checked by the body's schema",
        &["invalid_price"],
    ),
];

/// Every source file of the platform, the modules and the shop in a checkout, without tests.
pub fn sources(root: &Path) -> Vec<PathBuf> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(directory) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && name != "tests" && name != "testing" && name != "target" {
                walk(&path, found);
            } else if name.ends_with(".rs") && name != "tests.rs" {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for directory in [
        "platform/core",
        "platform/durable",
        "platform/http",
        "platform/gateway",
        "platform/host",
        "modules",
        "app",
        "shared-kernel",
    ] {
        walk(&root.join(directory), &mut found);
    }
    found
}

pub fn every_code_is_documented() -> Result<(), Failed> {
    super::none_wrong(check(&architecture::root(), &super::printed()?)?)
}

/// What is wrong between the codes in a checkout and in the document that its binary prints.
pub fn check(root: &Path, document: &str) -> Result<Vec<String>, Failed> {
    let document: Value = serde_json::from_str(document)?;
    let text = document.to_string();
    let documented: BTreeSet<&String> = document["components"]["examples"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(code, _)| code)
        .collect();
    let internal: BTreeSet<&str> = INTERNAL.iter().flat_map(|(_, codes)| codes.iter().copied()).collect();
    let codes = codes_in_the_code(root)?;
    let mut wrong = Vec::new();
    for (code, files) in &codes {
        if !documented.contains(code) && !internal.contains(code.as_str()) {
            wrong.push(format!("`{code}` ({files}) is not in the document: name it with its status and operations in the PROBLEMS of its routes"));
        }
    }
    for code in documented {
        if !text.contains(&format!("#/components/examples/{code}\"")) && code != "method_not_allowed" {
            wrong.push(format!("`{code}` is documented for operations that do not exist"));
        }
    }
    wrong.extend(
        internal
            .iter()
            .filter(|code| !codes.contains_key(**code))
            .map(|code| format!("`{code}` is not in the code any more")),
    );
    if codes.len() < 60 {
        wrong.push(format!("only {} codes were found", codes.len()));
    }
    Ok(wrong)
}

/// Each code, and the first file that makes it.
fn codes_in_the_code(root: &Path) -> Result<BTreeMap<String, String>, Failed> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for file in sources(root) {
        let text = fs::read_to_string(&file)?;
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        for code in MAKERS.iter().flat_map(|maker| codes_after(maker, text)) {
            found.entry(code).or_insert_with(|| name.clone());
        }
    }
    Ok(found)
}

/// What stands before a code.
const MAKERS: [&str; 15] = [
    "Fault::malformed(",
    "Fault::conflict(",
    "Fault::invalid(",
    "Fault::unauthenticated(",
    "FaultKind::Forbidden,",
    "FaultKind::NotFound,",
    "FaultKind::Conflict,",
    "FaultKind::PreconditionFailed,",
    "FaultKind::TooMany,",
    "FaultKind::Unavailable,",
    "FaultKind::Timeout,",
    "FaultKind::Unauthenticated,",
    "FaultKind::Invalid,",
    "code:",
    "Refusal::",
];

fn codes_after<'a>(maker: &'a str, text: &'a str) -> impl Iterator<Item = String> + 'a {
    text.match_indices(maker).filter_map(move |(at, _)| {
        let mut after = &text[at + maker.len()..];
        if maker == "Refusal::" {
            // An arm of a match: `Refusal::NotReady(_) => "not_ready"`.
            after = after
                .trim_start_matches(|c: char| c.is_alphanumeric())
                .trim_start_matches("(_)");
            after = after.strip_prefix(" => ")?;
        }
        let (code, _) = after.trim_start().strip_prefix('"')?.split_once('"')?;
        let is_code = !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        is_code.then(|| code.to_owned())
    })
}
