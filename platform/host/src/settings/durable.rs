//! `[durable]`, in a binary with modules.

pub use banyan_durable::Settings as DurableSettings;
