//! The lock on the data directory, and whether its last user ended in order.

use std::{
    fs::{DirBuilder, File, TryLockError},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use banyan_durable::FileCheck;

/// The time a start waits for the checks of files that were not closed in order. A check that takes longer goes on while the process serves.
const CHECK_LIMIT: Duration = Duration::from_secs(5);

/// Keeps other processes from using the SQLite files until it is dropped. While a process uses them, the lock file is not empty.
#[derive(Debug)]
pub struct DataLock {
    /// None: no data is in the directory.
    file: Option<File>,
    checks: Vec<(&'static str, FileCheck)>,
}

impl DataLock {
    /// Of a process that has no data in the directory.
    pub fn none() -> Self {
        DataLock {
            file: None,
            checks: Vec::new(),
        }
    }

    /// Creates and locks the directory. If the last process that used it did not end in order, or the files came without the lock file (a restored
    /// backup), it checks the `databases` that exist, each a module's.
    ///
    /// # Errors
    /// Another process uses the directory; it cannot be created or written; a file is damaged.
    pub async fn take(directory: &Path, databases: &[(&'static str, PathBuf)]) -> anyhow::Result<DataLock> {
        let mut file = open(directory)?;
        let mut mark = String::new();
        let path = directory.join("lock");
        file.read_to_string(&mut mark)
            .with_context(|| format!("reading {}", path.display()))?;
        let mut lock = DataLock {
            file: Some(file),
            checks: Vec::new(),
        };
        if mark != ENDED {
            lock.check(databases).await?;
        }
        lock.mark(IN_USE)
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(lock)
    }

    /// All files at the same time.
    async fn check(&mut self, databases: &[(&'static str, PathBuf)]) -> anyhow::Result<()> {
        for (module, path) in databases.iter().filter(|(_, path)| path.exists()) {
            let check = FileCheck::start(path).context("starting a thread that checks a file")?;
            self.checks.push((module, check));
        }
        let until = tokio::time::Instant::now() + CHECK_LIMIT;
        for (_, check) in &mut self.checks {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            match check.wait(left).await {
                Some(found) => found.map_err(|damage| anyhow::anyhow!("{damage}"))?,
                None => tracing::warn!(
                    file = %check.path().display(),
                    "this file was not closed in order and is large; its check continues while the process serves, which is not ready if it finds damage"
                ),
            }
        }
        Ok(())
    }

    /// The checks of a module's files.
    pub fn checks(&self, module: &str) -> Vec<FileCheck> {
        let own = self.checks.iter().filter(|(owner, _)| *owner == module);
        own.map(|(_, check)| check.clone()).collect()
    }

    /// Notes that the files were closed in order, so that the next start need not check them. Not if a file is damaged or its check has not ended.
    pub fn ended(&mut self) {
        if self.checks.iter().all(|(_, check)| check.found() == Some(Ok(())))
            && let Err(error) = self.mark(ENDED)
        {
            tracing::warn!(%error, "the lock file cannot be written; the next start will check the database files");
        }
    }

    fn mark(&mut self, mark: &str) -> std::io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        // Written over what is there: that needs no space on a full disk.
        file.seek(SeekFrom::Start(0))?;
        file.write_all(mark.as_bytes())?;
        file.set_len(mark.len() as u64)?;
        file.sync_all()
    }
}

/// # Errors
/// Every user of the machine may enter the directory; with the command that mends it.
fn refuse_public(directory: &Path) -> anyhow::Result<()> {
    let metadata = directory
        .metadata()
        .with_context(|| format!("reading the data directory {} (data_dir)", directory.display()))?;
    let mode = metadata.permissions().mode();
    ensure!(
        mode & 0o007 == 0,
        "the data directory {0} (data_dir) has mode {1:o}, so every user of this machine can reach the password hashes and the signing key in it; \
         run: chmod o-rwx {0}",
        directory.display(),
        mode & 0o777
    );
    Ok(())
}

const IN_USE: &str = "in use\n";
const ENDED: &str = "ended in order\n";

fn open(directory: &Path) -> anyhow::Result<File> {
    // The files hold password hashes and the key that signs tokens: only their owner may read them.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("creating the data directory {} (data_dir)", directory.display()))?;
    refuse_public(directory)?;
    let path = directory.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another banyan uses the data directory {}; stop it first, or give this one its own (BANYAN__DATA_DIR). Only one process at a time can use SQLite files; several processes can share PostgreSQL",
            directory.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}
