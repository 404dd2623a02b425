//! What `banyan migrate` reports, whichever modules are in the binary.

/// The applied and pending migrations of one module's tables.
#[derive(Debug)]
pub struct Tables {
    pub module: &'static str,
    pub applied: Vec<String>,
    pub pending: Vec<String>,
    /// Applied by a newer banyan.
    pub unknown: Vec<String>,
}

/// The result of `banyan migrate`.
#[derive(Debug)]
pub struct Migrated {
    /// The modules whose schemas and logins were created.
    pub provisioned: Vec<String>,
    pub tables: Vec<Tables>,
}
