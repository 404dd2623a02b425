//! The words of the shop: what several of its modules must mean alike. What every product needs stands in `banyan-core`.

mod country;
mod money;
mod role;
mod sku;

pub use country::Country;
pub use money::{Money, MoneyError};
pub use role::{Customer, MaySee, Role, Staff};
pub use sku::{Quantity, Sku};
