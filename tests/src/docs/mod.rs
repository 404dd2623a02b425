//! Pages that readers follow: their commands are run against a real server and must print what the page shows, and their excerpts of files must be
//! in those files. README.md and the pages in `docs/` are checked by the same machinery:
//!
//! - Fenced `bash` blocks are run one after the other in one shell that has only the tools the page may use ([`Reader`]). A block behind one, in any
//!   language but those named here, is the expected output; `…` in it stands for any text ([`shown_is_real`]). Blocks in `sh` are not run.
//! - A `diff` block is applied by `git apply`, in its turn.
//! - A `banner` block is what the program prints at start, `…` again standing for any text ([`Server`]).
//! - A block in `rust`, `toml`, `proto` or `sql` is an excerpt; the line above it names the file: ``In `path`:`` ([`excerpts`]).

mod compare;
mod excerpts;
mod first_module;
mod own_product;
mod page;
mod run;
mod server;

use libtest_mimic::Trial;

pub use compare::shown_is_real;
pub use page::{Block, Page};
pub use run::{Reader, Tools, WITHOUT_A_BUILD};
pub use server::Server;

/// The address that pages show; the server of a test has another port.
pub const SHOWN_BASE: &str = "http://127.0.0.1:8080";

pub fn trials() -> Vec<Trial> {
    [
        compare::trials(),
        excerpts::trials(),
        run::trials(),
        own_product::trials(),
        first_module::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
