//! What a binary contains: exactly the modules that its features name, and each module as the same source in every binary.

use std::{collections::BTreeSet, process::Command};

use banyan::MODULES;
use libtest_mimic::{Failed, Trial};

use super::workspace::{Workspace, root};

/// Features of a binary, and what it must contain and must not contain besides modules.
struct Placement<'a> {
    features: &'a str,
    contains: &'a [&'a str],
    lacks: &'a [&'a str],
}

const DATABASE: [&str; 3] = ["banyan-durable", "sea-orm", "sqlx"];

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test(
            "architecture::a_gateway_contains_no_module_and_no_database",
            gateway_alone,
        ),
        Trial::test(
            "architecture::a_module_is_the_same_source_in_every_placement",
            same_source,
        ),
    ];
    trials.extend(MODULES.into_iter().map(|module| {
        Trial::test(
            format!("architecture::a_binary_of_{module}_contains_only_{module}"),
            move || {
                check(
                    &Placement {
                        features: &format!("{module},rabbitmq"),
                        contains: &["banyan-durable", "lapin"],
                        lacks: &["utoipa-swagger-ui"],
                    },
                    &[module],
                )?;
                check(
                    &Placement {
                        features: module,
                        contains: &["banyan-durable"],
                        lacks: &["lapin", "utoipa-swagger-ui"],
                    },
                    &[module],
                )
            },
        )
    }));
    trials.push(Trial::test(
        "architecture::a_group_of_modules_contains_the_group",
        || {
            let group = Placement {
                features: "inventory,payments,rabbitmq",
                contains: &["lapin", "sea-orm"],
                lacks: &[],
            };
            check(&group, &["inventory", "payments"])
        },
    ));
    trials
}

fn gateway_alone() -> Result<(), Failed> {
    let lacks = [&DATABASE[..], &["lapin", "argon2", "lettre"]].concat();
    check(
        &Placement {
            features: "gateway",
            contains: &["actix-web", "orders-contract"],
            lacks: &lacks,
        },
        &[],
    )
}

fn check(placement: &Placement<'_>, modules: &[&str]) -> Result<(), Failed> {
    let packages: BTreeSet<String> = tree(placement.features)?.into_iter().map(|(name, _)| name).collect();
    let there: Vec<&str> = MODULES
        .into_iter()
        .filter(|module| packages.contains(*module))
        .collect();
    let expected: Vec<&str> = MODULES.into_iter().filter(|module| modules.contains(module)).collect();
    if there != expected {
        return Err(format!(
            "--features {}: contains the modules {there:?}, not {expected:?}",
            placement.features
        )
        .into());
    }
    if let Some(missing) = placement.contains.iter().find(|name| !packages.contains(**name)) {
        return Err(format!("--features {}: lacks {missing}", placement.features).into());
    }
    if let Some(extra) = placement.lacks.iter().find(|name| packages.contains(**name)) {
        return Err(format!(
            "--features {}: contains {extra}; make what needs it a feature of app/Cargo.toml",
            placement.features
        )
        .into());
    }
    Ok(())
}

/// The packages of a binary with these features, each with the features it is built with itself.
fn tree(features: &str) -> Result<Vec<(String, String)>, Failed> {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
        .args([
            "tree",
            "--locked",
            "--offline",
            "-p",
            "banyan",
            "-e",
            "normal",
            "--prefix",
            "none",
            "--no-default-features",
            "-f",
            "{p}|{f}",
        ])
        .args(["--features", features])
        .current_dir(root())
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let text = String::from_utf8(output.stdout)?;
    let package = |line: &str| {
        let (name, features) = line.split_once('|')?;
        Some((
            name.split(' ').next()?.to_owned(),
            features.trim_end_matches(" (*)").to_owned(),
        ))
    };
    Ok(text.lines().filter_map(package).collect())
}

/// No module has features, a build script or conditions of its own, so there is nothing by which its placement could change it.
fn same_source() -> Result<(), Failed> {
    let mut wrong = Vec::new();
    for module in MODULES {
        let manifest = std::fs::read_to_string(root().join(format!("modules/{module}/Cargo.toml")))?;
        if manifest.contains("[features]") || manifest.contains("[target.") || manifest.contains("build =") {
            wrong.push(format!("modules/{module}/Cargo.toml has features or conditions"));
        }
        if root().join(format!("modules/{module}/build.rs")).exists() {
            wrong.push(format!("modules/{module} has a build script"));
        }
        let alone: BTreeSet<(String, String)> = tree(&format!("{module},rabbitmq"))?
            .into_iter()
            .filter(|(name, _)| name == module)
            .collect();
        let together = MODULES.join(",") + ",gateway";
        let in_shop: BTreeSet<(String, String)> = tree(&together)?
            .into_iter()
            .filter(|(name, _)| name == module)
            .collect();
        if alone != in_shop || alone.len() != 1 {
            wrong.push(format!(
                "{module} is built as {alone:?} alone, and as {in_shop:?} in the shop"
            ));
        }
    }
    let conditions = ["cfg(feature", "cfg(not(feature", "cfg!(", "option_env!", "env!("];
    for source in Workspace::load()
        .sources
        .iter()
        .filter(|source| source.path.starts_with("modules/") && source.path.contains("/src/"))
    {
        // A contract's `include!` names what its build script has made of the .proto files.
        let text = source.text.replace("env!(\"OUT_DIR\")", "");
        if let Some(condition) = conditions.iter().find(|condition| text.contains(**condition)) {
            wrong.push(format!(
                "{} says {condition}: a module is the same source in every placement",
                source.path
            ));
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}
