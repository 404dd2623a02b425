//! How each module is started in this process. For a module that is not compiled in, `absent.rs` replaces its file.

#[cfg_attr(not(feature = "agents"), path = "absent.rs")]
pub mod agents;
#[cfg_attr(not(feature = "tickets"), path = "absent.rs")]
pub mod tickets;
