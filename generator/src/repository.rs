//! The repository that is edited: its files, whether they have uncommitted changes, and the tools that keep them in shape.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

pub const LOCK: &str = "Cargo.lock";
/// Every checkout has this file, and nothing else does.
const MARK: &str = "app/src/shop.rs";

#[derive(Debug)]
pub struct Repository {
    root: PathBuf,
}

impl Repository {
    /// The repository that contains `directory`.
    ///
    /// # Errors
    /// `directory` is not in a checkout of the repository.
    pub fn around(directory: &Path) -> anyhow::Result<Self> {
        let root = directory
            .ancestors()
            .find(|root| root.join(MARK).is_file() && root.join("Cargo.toml").is_file());
        let root = root.with_context(|| {
            format!(
                "{} is not in a checkout of the repository, which this command edits: there is no {MARK} in it or above it",
                directory.display()
            )
        })?;
        Ok(Repository { root: root.to_owned() })
    }

    pub fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    pub fn read(&self, path: &str) -> anyhow::Result<String> {
        fs::read_to_string(self.root.join(path)).with_context(|| format!("{path} cannot be read"))
    }

    pub fn write(&self, path: &str, text: &str) -> anyhow::Result<()> {
        let file = self.root.join(path);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).with_context(|| format!("the folder of {path} cannot be created"))?;
        }
        fs::write(&file, text).with_context(|| format!("{path} cannot be written"))
    }

    /// Removes what may be there.
    pub fn remove(&self, path: &str) -> anyhow::Result<()> {
        let file = self.root.join(path);
        let removed = if file.is_dir() {
            fs::remove_dir_all(&file)
        } else {
            fs::remove_file(&file)
        };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{path} cannot be removed"))
            }
            _ => Ok(()),
        }
    }

    /// # Errors
    /// One of the files has uncommitted changes, which could not be told from the edits afterwards; or git does not know.
    pub fn check_committed(&self, paths: &[&str]) -> anyhow::Result<()> {
        let output = Command::new("git")
            .args(["status", "--porcelain", "--"])
            .args(paths)
            .current_dir(&self.root)
            .output()
            .context("git cannot be run; it is needed to see whether the files to be edited are committed")?;
        if !output.status.success() {
            bail!(
                "git does not say whether the files to be edited are committed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        let changed = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        if !changed.is_empty() {
            bail!("these files would be edited, but have uncommitted changes; commit or stash them first:\n{changed}");
        }
        Ok(())
    }

    /// A Rust file in the form that `cargo fmt` gives it.
    ///
    /// # Errors
    /// rustfmt is missing, or the text is not Rust.
    pub fn format(&self, path: &str, text: &str) -> anyhow::Result<String> {
        let mut rustfmt = Command::new("rustfmt")
            .args(["--edition", "2024", "--config-path"])
            .arg(&self.root)
            .current_dir(&self.root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("rustfmt cannot be run; `rustup component add rustfmt` installs it")?;
        rustfmt
            .stdin
            .take()
            .context("rustfmt does not read")?
            .write_all(text.as_bytes())
            .with_context(|| format!("{path} could not be passed to rustfmt"))?;
        let output = rustfmt.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "{path} could not be formatted: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Adds the workspace's new crates to the lock file. No other package changes.
    ///
    /// # Errors
    /// Cargo is missing or refuses a manifest.
    pub fn lock(&self) -> anyhow::Result<()> {
        let output = Command::new("cargo")
            .args(["update", "--workspace", "--offline", "--quiet"])
            .current_dir(&self.root)
            .output()
            .context("cargo cannot be run")?;
        if !output.status.success() {
            bail!(
                "{LOCK} could not be updated: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }
}
