//! What the rest of the repository must know of a module: one function for each file.

use crate::{name::Name, text::Text};

const ENTRY: &str = include_str!("../templates/app/entry.rs");
const PATHS: &str = include_str!("../templates/app/openapi-paths.json");
const EXAMPLES: &str = include_str!("../templates/app/openapi-examples.json");
const SCHEMAS: &str = include_str!("../templates/app/openapi-schemas.json");
const SETTINGS: &str = include_str!("../templates/app/settings.md");

/// An edit of one file.
pub struct Edit {
    pub path: &'static str,
    /// What it is for.
    pub what: &'static str,
    pub apply: fn(&str, &Name) -> anyhow::Result<String>,
}

pub const EDITS: &[Edit] = &[
    Edit {
        path: "Cargo.toml",
        what: "its two crates, for the workspace",
        apply: workspace,
    },
    Edit {
        path: "app/Cargo.toml",
        what: "its feature and its crates",
        apply: app_manifest,
    },
    Edit {
        path: "app/openapi.json",
        what: "its routes and schemas",
        apply: document,
    },
    Edit {
        path: "app/src/shop.rs",
        what: "its entry in the table of modules",
        apply: table,
    },
    Edit {
        path: "deploy/compose.yaml",
        what: "its service",
        apply: compose,
    },
    Edit {
        path: "deploy/kubernetes/modules.yaml",
        what: "its deployment",
        apply: kubernetes,
    },
    Edit {
        path: "docs/reference/modules.md",
        what: "its events, settings and dependencies",
        apply: page,
    },
    Edit {
        path: "tests/src/authorisation/policies.rs",
        what: "who may call its routes",
        apply: policies,
    },
];

/// A template with the module's name in its places.
pub fn filled(template: &str, name: &Name) -> String {
    template
        .replace("{module}", &name.to_string())
        .replace("{Module}", &name.trait_name())
        .replace("{MODULE}", &name.upper())
}

/// Sorts the lines of each `[section]` of dependencies.
pub fn sort_dependencies(manifest: &str) -> String {
    let mut sections: Vec<Vec<&str>> = manifest
        .split("\n\n")
        .map(|section| section.lines().collect())
        .collect();
    for section in &mut sections {
        if let Some((head, lines)) = section.split_first_mut()
            && head.ends_with("dependencies]")
        {
            lines.sort_unstable();
        }
    }
    let sections: Vec<String> = sections.iter().map(|section| section.join("\n")).collect();
    sections.join("\n\n") + "\n"
}

fn workspace(before: &str, name: &Name) -> anyhow::Result<String> {
    let mut text = Text::new("Cargo.toml", before);
    let crates = filled(
        "{module} = { path = \"modules/{module}\" }\n{module}-contract = { path = \"modules/{module}/contract\" }\n",
        name,
    );
    let is_contract = |line: &str| line.contains("-contract = { path = \"modules/");
    text.insert_behind_last("...-contract = { path = \"modules/...\" }", is_contract, &crates)?;
    Ok(text.into_text())
}

fn app_manifest(before: &str, name: &Name) -> anyhow::Result<String> {
    let mut text = Text::new("app/Cargo.toml", before);
    let defaults = text.find(0, "\"gateway\", of the default features", |line| {
        line.contains("\"gateway\",")
    })?;
    text.replace(defaults, |line| {
        line.replace("\"gateway\",", &format!("\"{name}\", \"gateway\","))
    });
    let feature = filled("{module} = [\"modules\", \"dep:{module}\"]\n", name);
    let is_feature = |line: &str| line.contains(" = [\"modules\", \"dep:");
    text.insert_behind_last("... = [\"modules\", \"dep:...\"]", is_feature, &feature)?;
    let used = text.find(0, "# What the code uses", |line| line == "# What the code uses")?;
    for line in [
        filled("{module} = { workspace = true, optional = true }", name),
        filled("{module}-contract.workspace = true", name),
    ] {
        text.insert_before(
            used + 1,
            "[dev-dependencies]",
            |other| other.is_empty() || other > line.as_str(),
            &line,
        )?;
    }
    Ok(text.into_text())
}

fn table(before: &str, name: &Name) -> anyhow::Result<String> {
    let path = "app/src/shop.rs";
    let mut text = Text::new(path, before);
    let import = filled(
        "use {module}_contract::{{Module}, Remote{Module}, Served{Module}};",
        name,
    );
    text.insert_behind_last(
        "use ..._contract::{...};",
        |line| line.contains("_contract::{") && line.ends_with("};"),
        &import,
    )?;
    let file = filled(
        "#[cfg_attr(feature = \"{module}\", path = \"local/{module}.rs\")]
#[cfg_attr(not(feature = \"{module}\"), path = \"local/absent.rs\")]
mod {module};",
        name,
    );
    text.insert_behind_last(
        "mod ...;",
        |line| line.starts_with("mod ") && line.ends_with(';'),
        &file,
    )?;
    let ends = |line: &str| line == "}";
    let contracts = text.find(0, "pub struct Contracts {", |line| line == "pub struct Contracts {")?;
    let field = filled("    pub {module}: Arc<dyn {Module}>,", name);
    text.insert_before(contracts, "} of Contracts", ends, &field)?;
    let remote = "pub fn remote(remotes: &Remotes) -> Self {";
    let remote_at = text.find(contracts, remote, |line| line.trim() == remote)?;
    let client = filled(
        "            {module}: Arc::new(Remote{Module}::new(remotes.channel(\"{module}\"))),",
        name,
    );
    text.insert_before(remote_at, "} of Contracts::remote", |line| line == "        }", &client)?;
    let modules = "pub const MODULES: &[Module<Contracts>] = &[";
    let modules_at = text.find(0, modules, |line| line == modules)?;
    text.insert_before(modules_at, "]; of MODULES", |line| line == "];", &filled(ENTRY, name))?;
    Ok(text.into_text())
}

fn policies(before: &str, name: &Name) -> anyhow::Result<String> {
    let mut text = Text::new("tests/src/authorisation/policies.rs", before);
    let rows = filled(
        "    // {Module}.
    (\"get\", \"/api/v1/{module}\", Anyone),
    (\"get\", \"/api/v1/{module}/{id}\", Anyone),
    (\"post\", \"/api/v1/{module}\", Staff),",
        name,
    );
    let place = "    // Operations.";
    text.insert_before(0, place, |line| line == place, &rows)?;
    Ok(text.into_text())
}

/// The document is sorted: paths by themselves, examples and schemas by their names.
fn document(before: &str, name: &Name) -> anyhow::Result<String> {
    let mut text = Text::new("app/openapi.json", before);
    for (section, indent, entries) in [
        ("  \"paths\": {", 4, PATHS),
        ("    \"examples\": {", 6, EXAMPLES),
        ("    \"schemas\": {", 6, SCHEMAS),
    ] {
        let entries = filled(entries, name);
        for entry in entries.split("\n\n") {
            insert_sorted(&mut text, section, indent, entry.trim_end())?;
        }
    }
    Ok(text.into_text())
}

/// Inserts an entry, with the comma behind it, into an object of JSON whose keys have this indentation. An example may be there already: modules share
/// the codes of problems.
fn insert_sorted(text: &mut Text, object: &str, indent: usize, entry: &str) -> anyhow::Result<()> {
    let from = text.find(0, object, |line| line == object)? + 1;
    let closing = " ".repeat(indent - 2) + "}";
    let end = text.find(from, &closing, |line| line.trim_end_matches(',') == closing)?;
    let key = key_of(entry, indent);
    let entries = &text.lines()[from..end];
    if entries.iter().any(|line| key_of(line, indent) == key) {
        return Ok(());
    }
    let behind = entries.iter().position(|line| key_of(line, indent) > key);
    match behind {
        Some(at) => text.splice(from + at, entry),
        None => {
            text.replace(end - 1, |last| format!("{last},"));
            text.splice(end, entry.trim_end_matches(','));
        }
    }
    Ok(())
}

/// The key that a line of indented JSON begins with, if it has exactly this indentation.
fn key_of(line: &str, indent: usize) -> Option<&str> {
    let rest = line.strip_prefix(&" ".repeat(indent))?.strip_prefix('"')?;
    rest.split('"').next()
}

fn page(before: &str, name: &Name) -> anyhow::Result<String> {
    let mut text = Text::new("docs/reference/modules.md", before);
    for (heading, line) in [
        ("## Who knows whom", format!("    {name} --> catalog")),
        (
            "## Who subscribes to what",
            format!("    catalog -. product .-> {name}"),
        ),
    ] {
        let diagram = text.find(0, heading, |found| found == heading)?;
        let first = text.find(diagram, "flowchart LR", |found| found == "flowchart LR")? + 1;
        text.insert_before(first, "```", |other| other == "```" || other > line.as_str(), &line)?;
    }
    let heading = "## Dependencies between our crates";
    text.insert_before(0, heading, |line| line == heading, &filled(SETTINGS, name))?;
    let rows = text.find(0, heading, |line| line == heading)?;
    let rows = text.find(rows, "|---|---|", |line| line == "|---|---|")? + 1;
    let app = text.find(rows, "| banyan | ...", |line| line.starts_with("| banyan | "))?;
    text.replace(app, |row| {
        let crates = row.trim_start_matches("| banyan | ").trim_end_matches(" |");
        let mut crates: Vec<String> = crates.split(", ").map(str::to_owned).collect();
        crates.extend([name.to_string(), format!("{name}-contract")]);
        crates.sort();
        format!("| banyan | {} |", crates.join(", "))
    });
    let own = [
        "banyan-core".to_owned(),
        "banyan-durable".to_owned(),
        "banyan-http".to_owned(),
        "catalog-contract".to_owned(),
        "shared-kernel".to_owned(),
        format!("{name}-contract"),
    ];
    let mut own = own.to_vec();
    own.sort();
    let rows_of = |line: &str| {
        line.trim_start_matches("| ")
            .split(" |")
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    for (krate, dependencies) in [
        (name.to_string(), own.join(", ")),
        (
            format!("{name}-contract"),
            "banyan-contract-build, banyan-core".to_owned(),
        ),
    ] {
        let row = format!("| {krate} | {dependencies} |");
        let at = text.lines().iter().skip(rows).position(|line| rows_of(line) > krate);
        text.splice(at.map_or(text.lines().len(), |at| rows + at), &row);
    }
    Ok(text.into_text())
}

/// Copies a module's paragraph behind that of the last module. `line` is a line of the paragraph, with `inventory` as the module.
fn copy_paragraph(text: &mut Text, line: &str, modules: &[String], name: &Name) -> anyhow::Result<()> {
    let (model, _) = text.paragraph(line)?;
    let last = modules.last().map_or("inventory", String::as_str);
    let (_, behind) = text.paragraph(&line.replace("inventory", last))?;
    let copy = model.join("\n").replace("inventory", &name.to_string());
    text.splice(behind, &format!("\n{copy}"));
    Ok(())
}

/// Adds the two lines of the module's endpoints, and returns the modules that have such lines.
fn add_endpoints(text: &mut Text, name: &Name) -> anyhow::Result<Vec<String>> {
    let is_endpoint = |line: &str| line.starts_with("  BANYAN__MODULES__");
    let endpoints = text.lines().iter().filter(|line| is_endpoint(line));
    let of_inventory: Vec<&String> = endpoints
        .clone()
        .filter(|line| line.contains("__INVENTORY__"))
        .collect();
    let copy: Vec<String> = of_inventory
        .into_iter()
        .map(|line| {
            line.replace("INVENTORY", &name.upper())
                .replace("inventory", &name.to_string())
        })
        .collect();
    let mut modules: Vec<String> = endpoints
        .filter_map(|line| {
            Some(
                line.strip_prefix("  BANYAN__MODULES__")?
                    .split("__")
                    .next()?
                    .to_lowercase(),
            )
        })
        .collect();
    modules.dedup();
    text.insert_behind_last("  BANYAN__MODULES__...", is_endpoint, &copy.join("\n"))?;
    Ok(modules)
}

fn compose(before: &str, name: &Name) -> anyhow::Result<String> {
    let mut text = Text::new("deploy/compose.yaml", before);
    let modules = add_endpoints(&mut text, name)?;
    for line in ["  inventory:", "  inventory-database-url:"] {
        copy_paragraph(&mut text, line, &modules, name)?;
    }
    Ok(text.into_text())
}

fn kubernetes(before: &str, name: &Name) -> anyhow::Result<String> {
    let mut text = Text::new("deploy/kubernetes/modules.yaml", before);
    let modules = add_endpoints(&mut text, name)?;
    for line in [
        "          name: inventory",
        "        - name: inventory",
        "# The inventory service.",
    ] {
        copy_paragraph(&mut text, line, &modules, name)?;
    }
    Ok(text.into_text())
}
