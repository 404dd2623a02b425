//! What `deploy/` and `scripts/` pass to the binary, compared with what the binary accepts: names of settings, their values, features, modules.
//!
//! `scripts/validate-deploy.sh` checks that Docker and Kubernetes accept the files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use banyan::MODULES;
use banyan_host::settings::Defaults;
use libtest_mimic::{Failed, Trial};

use crate::{
    architecture::root,
    reference::{is_known, is_known_among},
    report::none,
};

const COMPOSE: &str = "deploy/compose.yaml";
const MANIFESTS: &str = "deploy/kubernetes/modules.yaml";

/// The page about another product, whose settings are its own.
const OWN_PRODUCT: &str = "docs/how-to/own-product.md";
const HELPDESK_TICKETS: &str = include_str!("../../examples/helpdesk/modules/tickets/config/default.toml");

/// The line that starts the manifests of a module, as in [`PARTS`].
const MANIFEST: &str = "# The MODULE service.";

/// The parts of a module: in this file, the paragraph with this line, where MODULE is the module's name. See [`endpoints`] for what is no paragraph.
const PARTS: [(&str, &str); 5] = [
    (COMPOSE, "  MODULE:"),
    (COMPOSE, "  MODULE-database-url:"),
    (MANIFESTS, "          name: MODULE"),
    (MANIFESTS, "        - name: MODULE"),
    (MANIFESTS, MANIFEST),
];

/// Long enough for a login's password, and a URL for every setting that is read from a secret.
const A_SECRET: &str = "postgres://shop:a-password@postgres:5432/shop";

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("deploy::every_variable_is_a_setting", every_variable_is_a_setting),
        Trial::test("deploy::the_binary_accepts_the_values_of_compose", || {
            values_are_accepted(of_compose()?)
        }),
        Trial::test("deploy::the_binary_accepts_the_values_of_kubernetes", || {
            values_are_accepted(of_kubernetes()?)
        }),
        Trial::test("deploy::every_feature_is_one_of_the_app", every_feature_is_known),
        Trial::test(
            "deploy::the_image_is_built_from_every_member_of_the_workspace",
            every_member_is_in_the_image,
        ),
        Trial::test("deploy::every_module_is_deployed", || {
            none(not_deployed(&root(), &MODULES)?)
        }),
        Trial::test("deploy::the_module_manifests_differ_only_in_names", || {
            none(different_manifests(&root(), &MODULES)?)
        }),
        Trial::test("deploy::every_module_has_the_lines_of_inventory", || {
            none(different_parts(&root(), &MODULES)?)
        }),
    ]
}

/// Cargo builds nothing if a member of the workspace is missing, so `deploy/Dockerfile.dockerignore` must not exclude the folder of any.
fn every_member_is_in_the_image() -> Result<(), Failed> {
    let manifest = read(&root(), "Cargo.toml")?;
    let members = manifest
        .split("members = [")
        .nth(1)
        .and_then(|rest| rest.split(']').next())
        .ok_or("Cargo.toml has no members")?;
    let folders: BTreeSet<&str> = members
        .split('"')
        .skip(1)
        .step_by(2)
        .filter_map(|member| member.split('/').next())
        .collect();
    let ignored = read(&root(), "deploy/Dockerfile.dockerignore")?;
    let missing: Vec<&&str> = folders
        .iter()
        .filter(|folder| !ignored.lines().any(|line| line == format!("!{folder}")))
        .collect();
    if missing.is_empty() && folders.len() > 3 {
        Ok(())
    } else {
        Err(
            format!("deploy/Dockerfile.dockerignore excludes {missing:?} of {folders:?}; add a line with ! for each")
                .into(),
        )
    }
}

fn read(root: &Path, file: &str) -> Result<String, Failed> {
    fs::read_to_string(root.join(file)).map_err(|error| format!("{file}: {error}").into())
}

/// The lines between two blank lines, one of which is this.
fn paragraph<'a>(text: &'a str, line: &str) -> Option<&'a str> {
    text.split("\n\n")
        .find(|paragraph| paragraph.lines().any(|own| own == line))
}

/// A module's part of a file.
fn part(root: &Path, file: &str, line: &str, module: &str) -> Result<String, Failed> {
    let line = line.replace("MODULE", module);
    match paragraph(&read(root, file)?, &line) {
        Some(own) => Ok(own.to_owned()),
        None => Err(format!("{file} lacks {module}: there is no line {line:?}").into()),
    }
}

/// The two lines with the endpoints of a module, in both files.
fn endpoints(module: &str) -> String {
    let variable = format!("BANYAN__MODULES__{}", module.to_uppercase());
    format!("  {variable}__ENDPOINT: https://{module}:9000\n  {variable}__HTTP_ENDPOINT: https://{module}:8080\n")
}

/// The files at or below a path, with their texts.
fn files(path: &str) -> Result<Vec<(PathBuf, String)>, Failed> {
    fn walk(path: &Path, into: &mut Vec<(PathBuf, String)>) -> std::io::Result<()> {
        if path.is_dir() {
            for entry in fs::read_dir(path)? {
                walk(&entry?.path(), into)?;
            }
        } else if let Ok(text) = fs::read_to_string(path) {
            into.push((path.to_owned(), text));
        }
        Ok(())
    }
    let mut all = Vec::new();
    walk(&root().join(path), &mut all)?;
    all.sort();
    if all.is_empty() {
        Err(format!("there is nothing at {path}").into())
    } else {
        Ok(all)
    }
}

/// Every name in a text that begins as a setting's variable does, and is complete.
fn variables(text: &str) -> BTreeSet<&str> {
    let of_name = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    let starts = text.match_indices("BANYAN__").map(|(at, _)| at);
    let names = starts.map(|at| {
        let rest = &text[at..];
        &rest[..rest.bytes().position(|byte| !of_name(byte)).unwrap_or(rest.len())]
    });
    names.filter(|name| !name.ends_with("__")).collect()
}

fn every_variable_is_a_setting() -> Result<(), Failed> {
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    let helpdesk = Defaults::new([("agents", ""), ("tickets", HELPDESK_TICKETS)]);
    for folder in ["deploy", "scripts", "docs/how-to"] {
        for (file, text) in files(folder)? {
            for variable in variables(&text) {
                let is_known = if file.ends_with(OWN_PRODUCT) {
                    is_known_among(&helpdesk, variable)
                } else {
                    is_known(variable)
                };
                if !is_known {
                    wrong.push(format!("{}: {variable} is not a setting", file.display()));
                }
                seen.insert(variable.to_owned());
            }
        }
    }
    if seen.len() < 20 {
        wrong.push(format!(
            "only {} variables were found, which is hard to believe",
            seen.len()
        ));
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}

/// `NAME: value` of a mapping, and `- name: NAME` above `value: value` of a list.
fn assignments(text: &str) -> Vec<(String, String)> {
    let unquoted = |value: &str| value.trim().trim_matches('"').to_owned();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let in_mappings = lines
        .iter()
        .filter_map(|line| line.split_once(": ").filter(|(name, _)| name.starts_with("BANYAN__")));
    let mut all: Vec<(String, String)> = in_mappings
        .map(|(name, value)| (name.to_owned(), unquoted(value)))
        .collect();
    for pair in lines.windows(2) {
        if let (Some(name), Some(value)) = (
            pair[0].strip_prefix("- name: BANYAN__"),
            pair[1].strip_prefix("value: "),
        ) {
            all.push((format!("BANYAN__{name}"), unquoted(value)));
        }
    }
    all
}

/// The environment of each process of Compose: the settings of all processes, those of services, and those under its own name.
fn of_compose() -> Result<Vec<Process>, Failed> {
    let text = read(&root(), COMPOSE)?;
    let block = |begin: &str, end: &str| {
        let from = text.split(begin).nth(1).unwrap_or_default();
        assignments(from.split(end).next().unwrap_or_default())
    };
    let (all, services) = (block("\nx-settings:", "\nx-"), block("\nx-service-settings:", "\nx-"));
    let names = MODULES.into_iter().chain(["gateway"]);
    Ok(names
        .map(|name| {
            let own = paragraph(&text, &format!("  {name}:")).unwrap_or_default();
            let of_kind = if name == "gateway" { &[][..] } else { &services };
            (name.to_owned(), [&all, of_kind, &assignments(own)].concat())
        })
        .collect())
}

/// The environment of each process on Kubernetes: the ConfigMaps that its manifest names, its own variables, and the patch for users.
fn of_kubernetes() -> Result<Vec<Process>, Failed> {
    let (settings, modules) = (
        read(&root(), "deploy/kubernetes/settings.yaml")?,
        read(&root(), MANIFESTS)?,
    );
    let gateway = read(&root(), "deploy/kubernetes/gateway.yaml")?;
    let objects = settings.split("\n---\n").chain(modules.split("\n---\n"));
    let maps: Vec<(&str, Vec<(String, String)>)> = objects
        .filter(|object| object.contains("kind: ConfigMap\n"))
        .filter_map(|map| Some((map.split("\n  name: ").nth(1)?.lines().next()?, assignments(map))))
        .collect();
    let mut processes = Vec::new();
    for name in MODULES.into_iter().chain(["gateway"]) {
        let manifest = if name == "gateway" {
            gateway.as_str()
        } else {
            paragraph(&modules, &MANIFEST.replace("MODULE", name)).unwrap_or_default()
        };
        let named = maps
            .iter()
            .filter(|(map, _)| manifest.contains(&format!("configMapRef:\n                name: {map}\n")));
        let mut environment: Vec<(String, String)> = named.flat_map(|(_, values)| values.clone()).collect();
        environment.extend(assignments(manifest));
        if name == "users" {
            environment.extend(assignments(&read(&root(), "deploy/kubernetes/users-signing-key.yaml")?));
        }
        processes.push((name.to_owned(), environment));
    }
    Ok(processes)
}

/// A process by its name, and its environment.
type Process = (String, Vec<(String, String)>);

fn values_are_accepted(processes: Vec<Process>) -> Result<(), Failed> {
    let home = banyan_durable_testing::SqliteHome::new();
    let secret = home.path().join("secret");
    fs::write(&secret, A_SECRET)?;
    for (name, environment) in processes {
        // The files of the container do not exist here; one secret stands for all.
        let environment: BTreeMap<String, String> = environment
            .into_iter()
            .map(|(name, value)| {
                (
                    name,
                    if value.starts_with("/run/") {
                        secret.display().to_string()
                    } else {
                        value
                    },
                )
            })
            .collect();
        let has = |variable: &str| environment.contains_key(variable);
        let needs: &[&str] = match name.as_str() {
            "gateway" => &["BANYAN__HTTP__TLS_CERTIFICATE_FILE", "BANYAN__HTTP__TLS_KEY_FILE"],
            "users" => &[
                "BANYAN__AUTH__SIGNING_KEY_FILE",
                "BANYAN__RPC__LISTEN",
                "BANYAN__BUS__URL_FILE",
                "BANYAN__DATABASE__URL_FILE",
            ],
            _ => &[
                "BANYAN__RPC__LISTEN",
                "BANYAN__BUS__URL_FILE",
                "BANYAN__DATABASE__URL_FILE",
            ],
        };
        if let Some(missing) = needs.iter().find(|variable| !has(variable)) {
            return Err(format!("{name} lacks {missing}").into());
        }
        for (variable, value) in MODULES.iter().flat_map(|module| assignments(&endpoints(module))) {
            if environment.get(&variable) != Some(&value) {
                return Err(format!("{name} lacks {variable}: {value}").into());
            }
        }
        if environment.len() < 15 {
            return Err(format!(
                "only {} settings were found of {name}, which is hard to believe",
                environment.len()
            )
            .into());
        }
        banyan::settings(None, environment).map_err(|error| format!("{name}: {error:#}"))?;
    }
    Ok(())
}

fn every_feature_is_known() -> Result<(), Failed> {
    let manifest = fs::read_to_string(root().join("app/Cargo.toml"))?;
    let section = manifest
        .split("[features]")
        .nth(1)
        .and_then(|rest| rest.split("\n[").next())
        .ok_or("app/Cargo.toml has no [features]")?;
    let known: BTreeSet<&str> = section
        .lines()
        .filter_map(|line| line.split_once(" = ").map(|(name, _)| name.trim()))
        .collect();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (file, text) in files("deploy")? {
        let named = text.lines().filter_map(|line| line.trim().strip_prefix("FEATURES: "));
        for feature in named.flat_map(|list| list.split(',')) {
            seen += 1;
            if !known.contains(feature.trim()) {
                wrong.push(format!(
                    "{}: {feature} is not a feature of the app; there are {known:?}",
                    file.display()
                ));
            }
        }
    }
    if seen < MODULES.len() {
        wrong.push(format!("only {seen} features are named in deploy/"));
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}

/// What a repository with these modules lacks in `deploy/`.
pub fn check(root: &Path, modules: &[&str]) -> Result<Vec<String>, Failed> {
    let mut wrong = not_deployed(root, modules)?;
    if wrong.is_empty() {
        wrong.extend(different_manifests(root, modules)?);
        wrong.extend(different_parts(root, modules)?);
    }
    Ok(wrong)
}

/// A module that is added must be added there, too.
fn not_deployed(root: &Path, modules: &[&str]) -> Result<Vec<String>, Failed> {
    let mut wrong = Vec::new();
    // The list itself is compared with the table by architecture::the_scripts_know_the_modules.
    for file in [
        "scripts/lib/groups.sh",
        "scripts/lib/binaries.sh",
        "scripts/dev-certs",
        "deploy/make-secrets",
    ] {
        let text = read(root, file)?;
        if !text.contains("modules.sh\"") || text.contains(&modules.join(" ")) {
            wrong.push(format!("{file} does not read the modules from scripts/lib/modules.sh"));
        }
    }
    for module in modules {
        for (file, line) in PARTS {
            if let Err(error) = part(root, file, line, module) {
                wrong.extend(error.message().map(str::to_owned));
            }
        }
        for file in [COMPOSE, MANIFESTS] {
            if !read(root, file)?.contains(&endpoints(module)) {
                wrong.push(format!("{file} lacks the endpoints of {module}"));
            }
        }
    }
    Ok(wrong)
}

/// The manifests of the modules stay alike.
fn different_manifests(root: &Path, modules: &[&str]) -> Result<Vec<String>, Failed> {
    let inventory = part(root, MANIFESTS, MANIFEST, "inventory")?;
    let mut wrong = Vec::new();
    for module in modules {
        let model = inventory.replace("inventory", module);
        let own = part(root, MANIFESTS, MANIFEST, module)?;
        let difference = own
            .lines()
            .zip(model.lines())
            .enumerate()
            .find(|(_, (own, model))| own != model);
        if let Some((line, (own, model))) = difference {
            wrong.push(format!(
                "{MANIFESTS}, line {} of {module}: {own:?}, but as inventory's it is {model:?}",
                line + 1
            ));
        } else if own.lines().count() != model.lines().count() {
            wrong.push(format!("{MANIFESTS}: {module} has more or fewer lines than inventory"));
        }
    }
    Ok(wrong)
}

/// A new module's parts are copies of inventory's. A part may have more lines: users signs tokens, notifications reaches a mail server.
fn different_parts(root: &Path, modules: &[&str]) -> Result<Vec<String>, Failed> {
    let mut wrong = Vec::new();
    for (file, line) in PARTS {
        let inventory = part(root, file, line, "inventory")?;
        for module in modules {
            let model = inventory.replace("inventory", module);
            let text = part(root, file, line, module)?;
            let mut own = text.lines();
            // The first container of the Job defines the anchor that the others refer to.
            let mut models = model.lines().filter(|line| !line.ends_with("- <<: *migrate"));
            if let Some(missing) = models.find(|expected| !own.any(|line| line == *expected)) {
                wrong.push(format!(
                    "{file}: {module} lacks the line {missing:?} of inventory, or has it elsewhere"
                ));
            }
        }
    }
    Ok(wrong)
}
