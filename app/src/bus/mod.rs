//! What carries events from the module they happened in to those that listen.

mod in_process;

pub use in_process::InProcessBus;
