//! Whether an SQLite file is damaged: SQLite's `quick_check`, which reads the whole file.

use std::{
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use sea_orm::{DbBackend, Statement};
use tokio::{sync::watch, time::timeout};

use crate::connection::sqlite::{Connection, File, Mode, damaged};

/// A check that runs in the background; the file may be used meanwhile.
#[derive(Clone, Debug)]
pub struct FileCheck {
    path: PathBuf,
    /// `None` until it has ended; then the damage, if it found any.
    ended: watch::Receiver<Option<Result<(), String>>>,
}

impl FileCheck {
    /// # Errors
    /// No thread can be started.
    pub fn start(path: &Path) -> std::io::Result<FileCheck> {
        let (end, ended) = watch::channel(None);
        let file = path.to_owned();
        // A thread of its own, because a runtime would wait for it before it ends.
        thread::Builder::new().name("check file".to_owned()).spawn(move || {
            let found = check(&file);
            if let Err(damage) = &found {
                tracing::error!(%damage, "a database file is damaged");
            }
            let _ = end.send(Some(found));
        })?;
        Ok(FileCheck {
            path: path.to_owned(),
            ended,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the end, at most for `limit`. `None`: it goes on.
    pub async fn wait(&mut self, limit: Duration) -> Option<Result<(), String>> {
        let ended = timeout(limit, self.ended.wait_for(Option::is_some)).await.ok()?.ok()?;
        ended.clone()
    }

    /// What it found, if it has ended: the damage, with what to do.
    pub fn found(&self) -> Option<Result<(), String>> {
        self.ended.borrow().clone()
    }
}

fn check(path: &Path) -> Result<(), String> {
    let file = File::at(path);
    let connection = match Connection::open(&file, Mode::Read) {
        Ok(connection) => connection,
        Err(error) => return Err(error.to_string()),
    };
    let pragma = Statement::from_string(DbBackend::Sqlite, "pragma quick_check(1)");
    let rows = connection.query(&pragma, Some(1)).map_err(|error| error.to_string())?;
    let first = rows.first().and_then(|row| row.values.values().next());
    match first {
        Some(sea_orm::Value::String(Some(text))) if text == "ok" => Ok(()),
        other => {
            let found = match other {
                Some(sea_orm::Value::String(Some(text))) => text.as_str(),
                _ => "no result",
            };
            Err(format!("{found}: {}", damaged(&path.display())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_damaged_page_is_found_and_an_intact_file_is_not_blamed() {
        let home = banyan_durable_testing::SqliteHome::new();
        let path = home.path().join("durable.db");
        let connection = Connection::open(&File::at(&path), Mode::Create).unwrap();
        connection
            .execute_script(
                "create table word (word text primary key); insert into word values (hex(randomblob(3000)))",
            )
            .unwrap();
        drop(connection);
        let limit = Duration::from_secs(60);
        assert_eq!(FileCheck::start(&path).unwrap().wait(limit).await, Some(Ok(())));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[4_096..8_192].fill(7);
        std::fs::write(&path, bytes).unwrap();
        let damage = FileCheck::start(&path).unwrap().wait(limit).await.unwrap().unwrap_err();
        assert!(
            damage.contains("durable.db is damaged") && damage.contains("restore it"),
            "{damage}"
        );
    }
}
