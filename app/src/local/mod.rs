//! How each module is started in this process. For a module that is not compiled in, `absent.rs` replaces its file.

#[cfg_attr(not(feature = "catalog"), path = "absent.rs")]
pub mod catalog;
#[cfg_attr(not(feature = "inventory"), path = "absent.rs")]
pub mod inventory;
#[cfg_attr(not(feature = "notifications"), path = "absent.rs")]
pub mod notifications;
#[cfg_attr(not(feature = "orders"), path = "absent.rs")]
pub mod orders;
#[cfg_attr(not(feature = "payments"), path = "absent.rs")]
pub mod payments;
#[cfg_attr(not(feature = "shipping"), path = "absent.rs")]
pub mod shipping;
#[cfg_attr(not(feature = "users"), path = "absent.rs")]
pub mod users;
