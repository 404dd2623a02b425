//! An error of SQLite, as the error of a database: with its code, and what it means.

use std::{borrow::Cow, error::Error, fmt, path::Path};

use sea_orm::sqlx::error::{DatabaseError, ErrorKind};

const IO_ERROR: i32 = 10;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const NOT_A_DATABASE: i32 = 26;
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
        let code = error.sqlite_error().map_or(1, |error| error.extended_code);
        let path = path.display();
        let message = match code & 0xff {
            CORRUPT | NOT_A_DATABASE => format!("{error}: {}", damaged(&path)),
            FULL | IO_ERROR => format!("{error} (the file {path}; is the disk full or failing?)"),
            _ => format!("{error} (the file {path})"),
        };
        SqliteError { code, error, message }
    }

    /// Whether the file itself is damaged.
    pub fn is_damage(&self) -> bool {
        matches!(self.code & 0xff, CORRUPT | NOT_A_DATABASE)
    }
}

/// What is wrong with a damaged file, and what to do.
pub(crate) fn damaged(path: &impl fmt::Display) -> String {
    format!(
        "the file {path} is damaged; stop the process, keep a copy of the file, and restore it from a backup (with its -wal file, if the backup has one), \
         or save what can be read with `sqlite3 {path} .recover`"
    )
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
