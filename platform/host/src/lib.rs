//! Runs a product: reads its settings, starts its modules, connects them, serves them, and stops them in order.
//!
//! A product is a table of its modules ([`Product`]) and a `main` that calls [`cli::run`].

mod app;
mod banner;
pub mod cli;
mod connections;
mod cors;
mod docs_ui;
mod document;
mod health;
mod keys;
#[cfg_attr(not(feature = "modules"), path = "local/none.rs")]
pub mod local;
mod logs;
mod migrated;
mod overview;
mod placement;
mod product;
pub mod server;
pub mod settings;
mod sources;
mod telemetry;
pub mod tls;

pub use app::{App, openapi};
pub use health::Health;
pub use migrated::{MigrateOptions, Migrated, Tables};
pub use overview::fetch_own_view;
pub use placement::{Placement, mermaid, placements};
pub use product::{Contract, Demo, Gateway, Layout, Module, ModuleLayout, Product, Tokens};
pub use sources::Sources;
