//! The rules of the second product, `examples/helpdesk`: it shows that the platform needs nothing of the shop.

use super::{rules::PLATFORM, workspace::Workspace};

/// The folder of its modules.
pub const MODULES: &str = "examples/helpdesk/modules/";
const MAIN: &str = "examples/helpdesk/src/main.rs";
const MAIN_LINES: usize = 150;
/// What only tests depend on.
const TESTING: [&str; 3] = ["banyan-durable-testing", "banyan-http-testing", "banyan-remote-testing"];

/// Adds what is broken, in sentences: where, the rule, the fix.
pub fn check(workspace: &Workspace, broken: &mut Vec<String>) {
    check_dependencies(workspace, broken);
    let main = workspace.sources.iter().find(|source| source.path == MAIN);
    let lines = main.map_or(usize::MAX, |source| source.text.lines().count());
    if lines > MAIN_LINES {
        broken.push(format!(
            "{MAIN} has {lines} lines. Rule: a product's main fits on a page, {MAIN_LINES} lines with its table of modules. Fix: move it to the platform if \
             every product needs it, otherwise to a module."
        ));
    }
}

fn check_dependencies(workspace: &Workspace, broken: &mut Vec<String>) {
    let ours: Vec<&str> = workspace.packages.iter().map(|package| package.name.as_str()).collect();
    let is_platform = |name: &str| PLATFORM.iter().any(|(known, _)| *known == name) || TESTING.contains(&name);
    for package in &workspace.packages {
        let name = package.name.as_str();
        for dependency in package.dependencies.iter().map(String::as_str) {
            let mut report =
                |rule: &str, fix: &str| broken.push(format!("{name} depends on {dependency}. Rule: {rule} Fix: {fix}"));
            let is_ours = ours.contains(&dependency);
            if is_of_example(name) && is_ours && !is_of_example(dependency) && !is_platform(dependency) {
                report(
                    "the example is built on the platform alone.",
                    "write what it needs in the example, or move it from the shop to the platform.",
                );
            }
            if !is_of_example(name) && name != "tests" && is_of_example(dependency) {
                report("nothing depends on the example.", "move what you need to the platform.");
            }
            let is_module = |name: &str| is_of_example(name) && name != "helpdesk" && !name.ends_with("-contract");
            if is_module(name) && is_module(dependency) {
                report(
                    "a module depends on no other module.",
                    "call it through its contract crate, passed in Needs.",
                );
            }
        }
    }
}

fn is_of_example(package: &str) -> bool {
    package == "helpdesk" || package.starts_with("helpdesk-")
}
