//! The rules, each with its reason and its fix.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    example,
    workspace::{Source, Workspace},
};

/// What is broken, in sentences: where, the rule, the fix.
pub fn check(workspace: &Workspace) -> Vec<String> {
    let mut broken = Vec::new();
    check_dependencies(workspace, &mut broken);
    for path in PURE
        .iter()
        .filter(|path| !workspace.sources.iter().any(|source| source.path == **path))
    {
        broken.push(format!(
            "{path} does not exist. Rule: each pure rule is in the list. Fix: name the file it is in now."
        ));
    }
    for source in &workspace.sources {
        check_words(source, &mut broken);
        check_public_items(workspace, source, &mut broken);
    }
    check_wrappers(workspace, &mut broken);
    check_tables(workspace, &mut broken);
    check_platform(workspace, &mut broken);
    check_circles(workspace, &mut broken);
    example::check(workspace, &mut broken);
    broken
}

fn check_dependencies(workspace: &Workspace, broken: &mut Vec<String>) {
    for package in &workspace.packages {
        let name = package.name.as_str();
        let contract_of = name.strip_suffix("-contract");
        for dependency in package.dependencies.iter().map(String::as_str) {
            let mut report =
                |rule: &str, fix: &str| broken.push(format!("{name} depends on {dependency}. Rule: {rule} Fix: {fix}"));
            let is_module = workspace.is_module(dependency);
            if is_module && workspace.is_module(name) {
                report(
                    "a module depends on no other module.",
                    "call it through its contract crate, passed in Needs.",
                );
            } else if is_module && !matches!(name, "banyan" | "tests") {
                report(
                    "only the app and the tests depend on modules.",
                    "move what you need into the kernel, or call it through a contract.",
                );
            }
            if contract_of.is_some() && dependency.ends_with("-contract") {
                report(
                    "a contract depends on no other module's contract.",
                    "copy the fields the message needs.",
                );
            }
            let heavy = [
                "sea-orm",
                "sea-orm-migration",
                "actix-web",
                "banyan-durable",
                "banyan-http",
                "reqwest",
                "lapin",
            ];
            if contract_of.is_some() && heavy.contains(&dependency) {
                report(
                    "a contract knows no database and no web server.",
                    "keep that in the module.",
                );
            }
            if workspace.is_module(name)
                && ["banyan", "banyan-durable-testing", "lapin", "tonic", "reqwest"].contains(&dependency)
            {
                report(
                    "a module knows neither its placement nor a transport.",
                    "take what it needs through Needs.",
                );
            }
            let io = [
                "tokio",
                "sea-orm",
                "actix-web",
                "tonic",
                "reqwest",
                "lapin",
                "banyan-durable",
                "banyan-http",
            ];
            if matches!(name, "shared-kernel" | "banyan-core")
                && (io.contains(&dependency) || dependency.ends_with("-contract"))
            {
                report(
                    "the kernel is light: words, no I/O.",
                    "put machinery into durable or web.",
                );
            }
            if name == "banyan-durable" && ["actix-web", "banyan-http", "lapin", "tonic"].contains(&dependency) {
                report(
                    "the durable core speaks to no network but the database's.",
                    "put it into web or the app.",
                );
            }
        }
    }
}

/// Business rules: they are synchronous and do no I/O.
pub const PURE: [&str; 11] = [
    "examples/helpdesk/modules/agents/src/agent.rs",
    "examples/helpdesk/modules/tickets/src/assignment/steps.rs",
    "examples/helpdesk/modules/tickets/src/ticket.rs",
    "modules/catalog/src/product.rs",
    "modules/inventory/src/stock.rs",
    "modules/orders/src/order/mod.rs",
    "modules/orders/src/event.rs",
    "modules/orders/src/checkout/steps.rs",
    "modules/payments/src/payment/mod.rs",
    "modules/payments/src/ledger/mod.rs",
    "modules/shipping/src/shipment.rs",
];

/// A word that is allowed in some folders only.
struct Word {
    words: &'static [&'static str],
    allowed: fn(&str) -> bool,
    rule: &'static str,
    fix: &'static str,
}

const WORDS: &[Word] = &[
    Word {
        words: &["sea_orm", "sqlx"],
        allowed: |path| {
            let of_store = path.ends_with("/store.rs") || path.contains("/store/");
            of_store
                || is_test(path)
                || ["load/", "platform/durable/", "tests/"]
                    .iter()
                    .any(|folder| path.starts_with(folder))
        },
        rule: "sea_orm is named only in store.rs and durable.",
        fix: "move the query into the module's store.rs.",
    },
    Word {
        words: &["lapin"],
        allowed: |path| path.starts_with("platform/bus/") || path.starts_with("tests/"),
        rule: "lapin is named only in platform/bus.",
        fix: "publish through the outbox, subscribe through Reactions.",
    },
    Word {
        words: &["tonic"],
        allowed: |path| {
            [
                "platform/contract-build/",
                "platform/remote/",
                "app/benches/",
                "app/tests/",
                "tests/",
            ]
            .iter()
            .any(|folder| path.starts_with(folder))
        },
        rule: "tonic is named only in contracts (generated), contract-build and platform/remote.",
        fix: "use the contract's trait; it is the same for local and remote modules.",
    },
    Word {
        // tokio's `Instant` measures how long to wait and says nothing about the time.
        words: &[
            "SystemTime::now",
            "now_utc",
            "std::time::Instant",
            "now_v7",
            "new_v4",
            "rand::",
            "OsRng",
            "env::var",
            "std::env",
        ],
        allowed: |path| !is_in_module(path) || is_test(path),
        rule: "no module reads the clock, randomness or the environment itself.",
        fix: "take Clock, Ids, Secrets or a setting through Needs.",
    },
    Word {
        words: &["feature ="],
        allowed: |path| {
            let selects = [
                "app/src/shop.rs",
                "examples/helpdesk/src/main.rs",
                "platform/bus/src/lib.rs",
                "platform/host/src/docs_ui.rs",
                "platform/host/src/lib.rs",
                "platform/host/src/settings/mod.rs",
            ];
            selects.contains(&path)
                || !path.ends_with(".rs")
                // A lint needs to know what only one feature uses.
                || path.starts_with("platform/http/src/")
                || path.starts_with("platform/remote/src/discovery/")
                || path.starts_with("tests/")
                // It writes the lines that select a module's file.
                || path.starts_with("generator/")
        },
        rule: "features select crates and source files, in the files of this list; they are not sprinkled over items.",
        fix: "decide in app/src/shop.rs and hand in a value.",
    },
    Word {
        words: &[
            "shared_kernel",
            "Money",
            "Sku",
            "sku",
            "cart",
            "checkout",
            "customer",
            "staff",
            "refund",
            "shipment",
            "stock",
        ],
        allowed: |path| !path.starts_with("platform/") || is_test(path),
        rule: "the platform names no word of the shop.",
        fix: "let the product pass it in, or move it to shared-kernel.",
    },
    Word {
        words: &["actix_web", "utoipa_actix_web"],
        allowed: |path| {
            let of_http = path.ends_with("/http.rs") || path.contains("/http/");
            !is_in_module(path) || of_http || is_test(path)
        },
        rule: "in a module the web server is named only in http.rs.",
        fix: "move the handler there; rules and services know no HTTP.",
    },
];

/// What each crate of the platform may depend on, each only on those before it.
pub const PLATFORM: &[(&str, &[&str])] = &[
    ("banyan-core", &[]),
    ("banyan-contract-build", &[]),
    ("banyan-event-feed-contract", &["banyan-core", "banyan-contract-build"]),
    ("banyan-durable", &["banyan-core", "banyan-event-feed-contract"]),
    ("banyan-http", &["banyan-core", "banyan-durable"]),
    ("banyan-remote", &["banyan-core", "banyan-event-feed-contract"]),
    ("banyan-bus", &["banyan-core"]),
    ("banyan-gateway", &["banyan-core", "banyan-http", "banyan-remote"]),
    (
        "banyan-host",
        &[
            "banyan-core",
            "banyan-event-feed-contract",
            "banyan-durable",
            "banyan-http",
            "banyan-remote",
            "banyan-bus",
            "banyan-gateway",
        ],
    ),
];

/// The platform is usable without the shop: it depends on nothing of it, and its crates only on those below them.
fn check_platform(workspace: &Workspace, broken: &mut Vec<String>) {
    let ours: Vec<&str> = workspace.packages.iter().map(|package| package.name.as_str()).collect();
    for (name, allowed) in PLATFORM {
        let Some(package) = workspace.packages.iter().find(|package| package.name == *name) else {
            broken.push(format!(
                "{name} does not exist. Rule: the platform's crates are in the list. Fix: name it as it is called now."
            ));
            continue;
        };
        for dependency in package.dependencies.iter().map(String::as_str) {
            if ours.contains(&dependency) && !allowed.contains(&dependency) {
                broken.push(format!(
                    "{name} depends on {dependency}. Rule: the platform's crates depend only downward, and on nothing of the shop. Fix: move what is \
                     needed into a crate below, or let the product pass it in."
                ));
            }
        }
    }
}

/// No import circle between the top-level source folders of a crate: each can be read, and moved, without the others that use it.
fn check_circles(workspace: &Workspace, broken: &mut Vec<String>) {
    let mut imports: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for source in &workspace.sources {
        let Some((root, rest)) = source.path.split_once("/src/") else {
            continue;
        };
        let Some((folder, _)) = rest.split_once('/') else {
            continue;
        };
        let is_folder = |name: &str| {
            let prefix = format!("{root}/src/{name}/");
            workspace.sources.iter().any(|other| other.path.starts_with(&prefix))
        };
        for (_, line) in source.code_lines() {
            for (at, _) in line.match_indices("crate::") {
                let named = line[at + "crate::".len()..].trim_start_matches('{');
                let end = named
                    .find(|letter: char| !letter.is_alphanumeric() && letter != '_')
                    .unwrap_or(named.len());
                if named[..end] != *folder && is_folder(&named[..end]) {
                    imports.entry((root, folder)).or_default().insert(&named[..end]);
                }
            }
        }
    }
    for ((root, from), others) in &imports {
        for other in others {
            let mut reached = BTreeSet::from([*other]);
            let mut next = vec![*other];
            while let Some(folder) = next.pop() {
                for further in imports.get(&(*root, folder)).into_iter().flatten() {
                    if reached.insert(further) {
                        next.push(further);
                    }
                }
            }
            if reached.contains(from) {
                broken.push(format!(
                    "{root}/src/{from} imports {other}, which imports {from} again. Rule: no import circle between the top-level source folders of a \
                     crate. Fix: move what both need into a third, or pass it in."
                ));
            }
        }
    }
}

fn check_words(source: &Source, broken: &mut Vec<String>) {
    for word in WORDS.iter().filter(|word| !(word.allowed)(&source.path)) {
        for (at, line) in source.code_lines() {
            if let Some(found) = word.words.iter().find(|found| contains_word(line, found)) {
                broken.push(format!(
                    "{}:{at} names {found}. Rule: {} Fix: {}",
                    source.path, word.rule, word.fix
                ));
            }
        }
    }
    if PURE.contains(&source.path.as_str()) {
        for (at, line) in source
            .code_lines()
            .filter(|(_, line)| contains_word(line, "async") || contains_word(line, ".await"))
        {
            broken.push(format!(
                "{}:{at} waits: {line}. Rule: rules are pure and synchronous. Fix: do the I/O in service.rs.",
                source.path
            ));
        }
    }
}

/// Whether it is the source of a module: of the shop, or of the example.
fn is_in_module(path: &str) -> bool {
    path.starts_with("modules/") || path.starts_with(example::MODULES)
}

/// Tests stand beside their rule, in `tests/`, or in a file `tests.rs`.
fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs") || path.ends_with("_tests.rs")
}

/// A module crate has a small public interface: how it is started, what it needs and offers, and the types those two mention.
fn check_public_items(workspace: &Workspace, source: &Source, broken: &mut Vec<String>) {
    let is_door = workspace
        .modules
        .iter()
        .any(|module| source.path == format!("modules/{module}/src/lib.rs"));
    if !is_door {
        return;
    }
    let allowed = [
        "pub struct Needs",
        "pub struct Offers",
        "pub async fn start(",
        "pub struct Settings",
        "pub use ",
    ];
    let inner = ["store::", "service::", "http::"];
    for (at, line) in source
        .text
        .lines()
        .enumerate()
        .filter(|(_, line)| line.starts_with("pub "))
    {
        let is_door =
            allowed.iter().any(|item| line.starts_with(item)) && !inner.iter().any(|folder| line.contains(folder));
        if !is_door {
            broken.push(format!(
                "{}:{} shows `{line}`. Rule: Needs, Offers, start and the types they mention are a module's only public items. Fix: offer it through Offers or the contract.",
                source.path,
                at + 1
            ));
        }
    }
}

/// A local module is called through its contract's `Local...`, which refuses calls inside a transaction as a remote module would.
fn check_wrappers(workspace: &Workspace, broken: &mut Vec<String>) {
    for module in &workspace.modules {
        let path = format!("app/src/local/{module}.rs");
        let source = workspace.sources.iter().find(|source| source.path == path);
        let compact: String = source.map_or("", |source| &source.text).split_whitespace().collect();
        if !compact.contains(&format!("contracts.{module}=Arc::new(Local")) {
            broken.push(format!(
                "{path} hands over the contract of {module} unwrapped. Rule: a module is not called inside a transaction, wherever it runs. Fix: wrap it, \
                 as in the files beside it: contracts.{module} = Arc::new(Local...(...))."
            ));
        }
    }
}

/// No query names another module's table.
fn check_tables(workspace: &Workspace, broken: &mut Vec<String>) {
    let tables_of = |module: &str| -> Vec<String> {
        let folder = match module {
            "durable" => "platform/durable/migrations/".to_owned(),
            module => format!("modules/{module}/migrations/"),
        };
        let sources = workspace
            .sources
            .iter()
            .filter(|source| source.path.starts_with(&folder));
        sources
            .flat_map(|source| {
                source.text.lines().filter_map(|line| {
                    line.trim()
                        .strip_prefix("create table ")?
                        .split_whitespace()
                        .next()
                        .map(str::to_owned)
                })
            })
            .collect()
    };
    for module in &workspace.modules {
        let own = [tables_of(module), tables_of("durable")].concat();
        let folder = format!("modules/{module}/src/");
        let foreign: Vec<(&str, String)> = workspace
            .modules
            .iter()
            .filter(|other| *other != module)
            .flat_map(|other| tables_of(other).into_iter().map(move |table| (other.as_str(), table)))
            .filter(|(_, table)| !own.contains(table))
            .collect();
        for source in workspace
            .sources
            .iter()
            .filter(|source| source.path.starts_with(&folder))
        {
            for (at, line) in source.code_lines() {
                let lower = line.to_lowercase();
                let names = |table: &str| {
                    let queried = ["from ", "join ", "into ", "update "]
                        .iter()
                        .any(|verb| contains_word(&lower, &format!("{verb}{table}")));
                    queried
                        || lower.contains(&format!("table_name = \"{table}\""))
                        || workspace
                            .modules
                            .iter()
                            .any(|schema| lower.contains(&format!("{schema}.{table} ")))
                };
                if let Some((owner, table)) = foreign.iter().find(|(_, table)| names(table)) {
                    broken.push(format!(
                        "{}:{at} queries {table} of {owner}. Rule: no query names another module's table. Fix: call {owner} through its contract, or store what its events carry.",
                        source.path
                    ));
                }
            }
        }
    }
}

/// Whether `word` stands in `line` and not as part of a longer name.
fn contains_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at]
            .chars()
            .next_back()
            .is_none_or(|c| !is_name(c) || !word.starts_with(is_name));
        let after = line[at + word.len()..]
            .chars()
            .next()
            .is_none_or(|c| !is_name(c) || !word.ends_with(is_name));
        before && after
    })
}
