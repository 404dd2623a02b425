//! Seeded violations: each proves that its rule can fail.

use libtest_mimic::{Failed, Trial};

use super::{
    rules,
    workspace::{Source, Workspace},
};

/// A change to a correct workspace, and the words that the report must contain.
type Seed = (&'static str, fn(&mut Workspace), &'static str);

const SEEDS: &[Seed] = &[
    (
        "a_module_that_depends_on_a_module",
        |w| depend(w, "orders", "payments"),
        "a module depends on no other module",
    ),
    (
        "a_contract_that_depends_on_a_contract",
        |w| depend(w, "orders-contract", "payments-contract"),
        "a contract depends on no other",
    ),
    (
        "a_contract_that_knows_a_database",
        |w| depend(w, "users-contract", "sea-orm"),
        "a contract knows no database",
    ),
    (
        "a_kernel_that_does_io",
        |w| depend(w, "shared-kernel", "tokio"),
        "the kernel is light",
    ),
    (
        "a_library_that_depends_on_a_module",
        |w| depend(w, "banyan-http", "users"),
        "only the app and the tests depend on modules",
    ),
    (
        "a_platform_crate_that_depends_upward",
        |w| depend(w, "banyan-remote", "banyan-gateway"),
        "depend only downward",
    ),
    (
        "a_platform_crate_that_depends_on_the_shop",
        |w| depend(w, "banyan-host", "shared-kernel"),
        "and on nothing of the shop",
    ),
    (
        "a_platform_that_names_a_word_of_the_shop",
        |w| write(w, "platform/host/src/app.rs", "fn sku() {}"),
        "the platform names no word of the shop",
    ),
    (
        "an_import_circle_between_folders",
        |w| {
            write(
                w,
                "platform/remote/src/discovery/address.rs",
                "use crate::grpc::Remotes;",
            )
        },
        "no import circle",
    ),
    (
        "a_module_that_knows_its_broker",
        |w| depend(w, "shipping", "lapin"),
        "a module knows neither its placement",
    ),
    (
        "a_query_in_http_rs",
        |w| write(w, "modules/orders/src/http/mod.rs", "use sea_orm::EntityTrait;"),
        "sea_orm is named only in store.rs",
    ),
    (
        "a_module_that_reads_the_clock",
        |w| {
            write(
                w,
                "modules/payments/src/service.rs",
                "let now = std::time::SystemTime::now();",
            )
        },
        "no module reads the clock",
    ),
    (
        "a_module_that_uses_randomness",
        |w| write(w, "modules/users/src/service/mod.rs", "let id = Uuid::new_v4();"),
        "no module reads the clock, randomness",
    ),
    (
        "a_module_that_reads_the_environment",
        |w| write(w, "modules/catalog/src/service.rs", "std::env::var(\"HOME\")"),
        "or the environment",
    ),
    (
        "a_query_across_schemas",
        |w| {
            write(
                w,
                "modules/orders/src/store.rs",
                "\"select * from payments.payment where order_id = $1\"",
            )
        },
        "another module's table",
    ),
    (
        "an_entity_of_another_modules_table",
        |w| {
            write(
                w,
                "modules/shipping/src/store.rs",
                "#[sea_orm(table_name = \"order_event\")]",
            )
        },
        "another module's table",
    ),
    (
        "a_pure_rule_that_is_not_in_its_file",
        |w| w.sources.retain(|source| !source.path.ends_with("/order/mod.rs")),
        "each pure rule is in the list",
    ),
    (
        "features_combined_over_an_item",
        |w| write(w, "platform/host/src/placement.rs", "#[cfg(any(feature = \"orders\"))]"),
        "features select crates",
    ),
    (
        "a_feature_sprinkled_over_an_item",
        |w| write(w, "platform/host/src/placement.rs", "#[cfg(feature = \"orders\")]"),
        "features select crates",
    ),
    (
        "a_grpc_client_in_a_module",
        |w| {
            write(
                w,
                "modules/orders/src/checkout/mod.rs",
                "use tonic::transport::Channel;",
            )
        },
        "tonic is named only",
    ),
    (
        "a_handler_outside_http_rs",
        |w| {
            write(
                w,
                "modules/inventory/src/service/mod.rs",
                "use actix_web::HttpResponse;",
            )
        },
        "the web server is named only in http.rs",
    ),
    (
        "a_rule_that_is_async",
        |w| write(w, "modules/orders/src/order/mod.rs", "pub async fn cancel() {}"),
        "rules are pure",
    ),
    (
        "a_local_module_without_its_wrapper",
        |w| {
            replace(
                w,
                "app/src/local/catalog.rs",
                "Arc::new(LocalCatalog(catalog.contract))",
                "catalog.contract",
            )
        },
        "not called inside a transaction",
    ),
    (
        "an_example_that_depends_on_the_shop",
        |w| depend(w, "helpdesk-tickets", "shared-kernel"),
        "the example is built on the platform alone",
    ),
    (
        "a_module_of_the_example_that_depends_on_a_module",
        |w| depend(w, "helpdesk-tickets", "helpdesk-agents"),
        "a module depends on no other module",
    ),
    (
        "a_shop_that_depends_on_the_example",
        |w| depend(w, "orders", "helpdesk-tickets-contract"),
        "nothing depends on the example",
    ),
    (
        "a_platform_that_depends_on_the_example",
        |w| depend(w, "banyan-host", "helpdesk-agents-contract"),
        "nothing depends on the example",
    ),
    (
        "a_long_main_of_the_example",
        |w| write(w, "examples/helpdesk/src/main.rs", &"// One more line.\n".repeat(150)),
        "a product's main fits on a page",
    ),
    (
        "an_example_that_reads_the_clock",
        |w| {
            write(
                w,
                "examples/helpdesk/modules/tickets/src/service.rs",
                "let now = std::time::SystemTime::now();",
            )
        },
        "no module reads the clock",
    ),
    (
        "an_example_whose_rule_is_async",
        |w| {
            write(
                w,
                "examples/helpdesk/modules/tickets/src/assignment/steps.rs",
                "pub async fn next() {}",
            )
        },
        "rules are pure",
    ),
    (
        "a_module_with_another_public_item",
        |w| write(w, "modules/catalog/src/lib.rs", "pub mod store;"),
        "only public items",
    ),
];

pub fn trials() -> Vec<Trial> {
    SEEDS
        .iter()
        .map(|(name, seed, words)| {
            Trial::test(format!("architecture::rejects::{name}"), move || rejected(*seed, words))
        })
        .collect()
}

fn rejected(seed: fn(&mut Workspace), words: &str) -> Result<(), Failed> {
    let mut workspace = Workspace::load();
    let before = rules::check(&workspace);
    seed(&mut workspace);
    let after: Vec<String> = rules::check(&workspace)
        .into_iter()
        .filter(|sentence| !before.contains(sentence))
        .collect();
    match after
        .iter()
        .any(|sentence| sentence.contains(words) && sentence.contains("Fix: "))
    {
        true => Ok(()),
        false => Err(format!("the violation was not rejected with {words:?}; the report is: {after:?}").into()),
    }
}

fn depend(workspace: &mut Workspace, package: &str, dependency: &str) {
    workspace.package_mut(package).dependencies.push(dependency.to_owned());
}

fn replace(workspace: &mut Workspace, path: &str, from: &str, to: &str) {
    let source = workspace.sources.iter_mut().find(|source| source.path == path);
    let text = &mut source.unwrap_or_else(|| panic!("there is no {path}")).text;
    assert!(text.contains(from), "{path} does not contain {from}");
    *text = text.replace(from, to);
}

/// Appends a line to the code of a file, before its tests, or creates the file.
fn write(workspace: &mut Workspace, path: &str, line: &str) {
    match workspace.sources.iter_mut().find(|source| source.path == path) {
        Some(source) => {
            let end = source
                .text
                .find("#[cfg(test)]\nmod tests {")
                .unwrap_or(source.text.len());
            source.text.insert_str(end, &format!("{line}\n"));
        }
        None => workspace.sources.push(Source {
            path: path.to_owned(),
            text: line.to_owned(),
        }),
    }
}
