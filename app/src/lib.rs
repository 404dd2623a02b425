//! The shop `banyan`: which modules it has ([`shop`]), how each is started (`local/`), and the pages composed of several ([`pages`]).
//! Everything else is the platform's.

mod keys;
mod pages;
pub mod shop;

use std::path::PathBuf;

use banyan_host::settings::Settings;
pub use banyan_host::{App, Layout};

use shop::SHOP;

/// The names of all modules, whichever of them are in this binary, in the order in which they start.
pub const MODULES: [&str; shop::MODULES.len()] = {
    let mut names = [""; shop::MODULES.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = shop::MODULES[at].name;
        at += 1;
    }
    names
};

/// The settings of the shop, from a file's text and an environment of the caller's: for tests.
///
/// # Errors
/// As [`Settings::from_sources`].
pub fn settings(
    file: Option<(PathBuf, String)>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> anyhow::Result<Settings> {
    Settings::from_sources(&SHOP.defaults(), file, environment)
}

/// Builds the shop, for the tests as for `main`.
///
/// # Errors
/// As [`App::build`].
pub async fn build(settings: Settings) -> anyhow::Result<App> {
    App::build(&SHOP, settings).await
}
