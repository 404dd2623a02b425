//! The settings of the module: the section `[{module}]`, whose defaults are in `modules/{module}/config/default.toml`.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Whether each new product of the catalog adds an item of its name.
    pub add_products: bool,
}
