//! `banyan new module NAME`: makes a module of the shop, complete and running, in the repository one stands in.
//!
//! The module's own files are the texts in `templates/module/`. What the rest of the repository must know of a module is inserted into ten files
//! ([`edits`]). Everything is computed before the first file is written, so a refused command changes nothing.

mod edits;
mod name;
mod plan;
mod repository;
mod text;

use std::{env, fmt::Write as _};

use anyhow::Context;
use clap::{Arg, ArgMatches, Command};

use name::Name;
use plan::Plan;
use repository::Repository;

/// The command line: `new module NAME`.
pub fn command() -> Command {
    let name = Arg::new("name")
        .value_name("NAME")
        .required(true)
        .help("The name of the module: one word, for example loyalty");
    let module = Command::new("module")
        .about("Adds a module: contract, rules, service, store, routes, a reaction, migration, demo data, tests")
        .arg(name);
    Command::new("new")
        .about("Generates code in this repository (in debug builds)")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(module)
}

/// Makes the module, and returns what was done, for people.
///
/// # Errors
/// The working directory is not in the repository; the name is invalid or taken; a file to be edited has uncommitted changes, or lacks the place for the
/// edit; a file cannot be written. Nothing has changed then.
pub fn run(matches: &ArgMatches) -> anyhow::Result<String> {
    let (_, module) = matches.subcommand().context("what is to be made? `new module NAME`")?;
    let given: &String = module.get_one("name").context("the module needs a name")?;
    let repository = Repository::around(&env::current_dir().context("the working directory does not exist")?)?;
    let name = Name::new(given, &repository)?;
    let plan = Plan::new(&name, &repository)?;
    plan.carry_out(&repository)?;
    Ok(report(&name, &plan))
}

fn report(name: &Name, plan: &Plan) -> String {
    let mut report = format!(
        "Made the module {name}: {} files in modules/{name}/.\n\nOutside its folder:\n",
        plan.made_in_folder()
    );
    for (path, what) in plan.outside() {
        let _ = writeln!(report, "  {path:36} {what}");
    }
    let _ = write!(
        report,
        "
Run it:           cargo run
                  curl http://127.0.0.1:8080/api/v1/{name}
Test it:          cargo test -p {name}   (BANYAN_TEST_POSTGRES names a server; scripts/test.sh starts one and runs everything)
As a service:     scripts/split.sh
Read next:        docs/tutorial/first-module.md
                  modules/{name}/src/lib.rs, then item.rs, service.rs and http.rs beside it"
    );
    report
}
