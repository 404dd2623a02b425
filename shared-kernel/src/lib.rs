//! The shop's shared types: those that several of its modules must define alike. Types that are not about a shop are in `banyan-core`.

mod address;
mod country;
mod money;
mod quantity;
mod role;
mod sku;

pub use address::Address;
pub use country::Country;
pub use money::{Money, MoneyError};
pub use quantity::Quantity;
pub use role::{Customer, MaySee, Role, Staff};
pub use sku::Sku;
