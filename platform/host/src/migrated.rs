//! What `banyan migrate` tells, whichever modules are in the binary.

/// What is applied and pending in one module's tables.
#[derive(Debug)]
pub struct Tables {
    pub module: &'static str,
    pub applied: Vec<String>,
    pub pending: Vec<String>,
    /// Applied by a newer banyan.
    pub unknown: Vec<String>,
}

/// What `banyan migrate` did and found.
#[derive(Debug)]
pub struct Migrated {
    /// Whose schemas and logins were made.
    pub provisioned: Vec<String>,
    pub tables: Vec<Tables>,
}
