//! An error of SQLite, as the error of a database: with its code, and what it means.

use std::{borrow::Cow, error::Error, fmt, path::Path};

use sea_orm::sqlx::error::{DatabaseError, ErrorKind};

/// SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE, SQLITE_CONSTRAINT_ROWID.
const UNIQUE: [i32; 3] = [1555, 2067, 2579];

#[derive(Debug)]
pub(crate) struct SqliteError {
    /// SQLite's extended result code; 1 for an error of the binding's own.
    code: i32,
    error: rusqlite::Error,
    message: String,
}

impl SqliteError {
    /// An error of the file at `path`.
    pub fn new(path: &Path, error: rusqlite::Error) -> Self {
        SqliteError {
            code: error.sqlite_error().map_or(1, |error| error.extended_code),
            message: format!("{error} (the file {})", path.display()),
            error,
        }
    }
}

impl fmt::Display for SqliteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(code: {}) {}", self.code, self.message)
    }
}

impl Error for SqliteError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

impl DatabaseError for SqliteError {
    fn message(&self) -> &str {
        &self.message
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(self.code.to_string().into())
    }

    fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> ErrorKind {
        match self.code {
            code if UNIQUE.contains(&code) => ErrorKind::UniqueViolation,
            787 => ErrorKind::ForeignKeyViolation,
            1299 => ErrorKind::NotNullViolation,
            275 => ErrorKind::CheckViolation,
            _ => ErrorKind::Other,
        }
    }
}
