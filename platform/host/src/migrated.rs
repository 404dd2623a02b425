//! What `banyan migrate` is asked for and reports, whichever modules are in the binary.

/// What `banyan migrate` is to do.
#[derive(Clone, Debug, Default)]
pub struct MigrateOptions {
    /// Create schemas and logins in PostgreSQL first.
    pub provision: bool,
    /// Apply pending migrations.
    pub up: bool,
    /// Databases that the installation had, are gone, and are made anew on purpose.
    pub new_modules: Vec<String>,
    /// Databases of another installation that are to belong to this one.
    pub adopt: Vec<String>,
    /// Databases that are older than the others remember, and are to be used all the same.
    pub accept_older: Vec<String>,
}

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
