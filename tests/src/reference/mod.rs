//! The pages of `docs/reference/` are made from what the binary is made of, so that they always agree with it.

mod modules;
mod retention;
mod settings;

use libtest_mimic::Trial;

pub use modules::{PAGE as MODULES_PAGE, page as modules_page};
pub use settings::{is_known, is_known_among};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "reference::the_settings_page_matches_the_defaults",
            settings::page_matches,
        ),
        Trial::test(
            "reference::every_setting_is_documented_and_known",
            settings::every_setting_is_explained,
        ),
        Trial::test("reference::the_modules_page_matches_the_modules", modules::page_matches),
        Trial::test(
            "reference::every_table_has_an_end_or_a_reason",
            retention::every_table_is_listed,
        ),
    ]
}
