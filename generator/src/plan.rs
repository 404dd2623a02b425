//! What is to be made and edited, computed before anything is written.

use std::collections::BTreeMap;

use anyhow::bail;

use crate::{
    edits::{self, EDITS},
    name::Name,
    repository::{self, Repository},
};

const LOCAL: &str = include_str!("../templates/app/local.rs");

/// The module's own files, relative to its folder.
const MODULE: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../templates/module/Cargo.toml")),
    (
        "config/default.toml",
        include_str!("../templates/module/config/default.toml"),
    ),
    (
        "contract/Cargo.toml",
        include_str!("../templates/module/contract/Cargo.toml"),
    ),
    (
        "contract/build.rs",
        include_str!("../templates/module/contract/build.rs"),
    ),
    (
        "contract/proto/events.proto",
        include_str!("../templates/module/contract/proto/events.proto"),
    ),
    (
        "contract/proto/service.proto",
        include_str!("../templates/module/contract/proto/service.proto"),
    ),
    (
        "contract/snapshot.txt",
        include_str!("../templates/module/contract/snapshot.txt"),
    ),
    (
        "contract/src/lib.rs",
        include_str!("../templates/module/contract/src/lib.rs"),
    ),
    (
        "migrations/m0001_item.sql",
        include_str!("../templates/module/migrations/m0001_item.sql"),
    ),
    ("src/http.rs", include_str!("../templates/module/src/http.rs")),
    ("src/item.rs", include_str!("../templates/module/src/item.rs")),
    ("src/lib.rs", include_str!("../templates/module/src/lib.rs")),
    ("src/reactions.rs", include_str!("../templates/module/src/reactions.rs")),
    ("src/schema.rs", include_str!("../templates/module/src/schema.rs")),
    ("src/seed.rs", include_str!("../templates/module/src/seed.rs")),
    ("src/service.rs", include_str!("../templates/module/src/service.rs")),
    ("src/settings.rs", include_str!("../templates/module/src/settings.rs")),
    ("src/store.rs", include_str!("../templates/module/src/store.rs")),
    (
        "tests/contract.rs",
        include_str!("../templates/module/tests/contract.rs"),
    ),
    ("tests/http.rs", include_str!("../templates/module/tests/http.rs")),
];

/// The templates that are Rust.
pub fn rust_templates() -> impl Iterator<Item = &'static str> {
    let rust = MODULE.iter().filter(|(path, _)| path.ends_with(".rs"));
    rust.map(|(_, text)| *text)
}

/// A file that is made or edited outside the module's folder, and what for.
struct Outside {
    path: String,
    what: &'static str,
    before: Option<String>,
    after: String,
}

pub struct Plan {
    folder: String,
    /// The module's files by their paths.
    made: BTreeMap<String, String>,
    outside: Vec<Outside>,
    lock: String,
}

impl Plan {
    /// # Errors
    /// A file to be edited has uncommitted changes, or lacks the place for the edit.
    pub fn new(name: &Name, repository: &Repository) -> anyhow::Result<Self> {
        let edited: Vec<&str> = EDITS.iter().map(|edit| edit.path).chain([repository::LOCK]).collect();
        repository.check_committed(&edited)?;
        let formatted = |path: &str, text: String| {
            if path.ends_with(".rs") {
                repository.format(path, &text)
            } else {
                Ok(text)
            }
        };
        let folder = format!("modules/{name}");
        let mut made = BTreeMap::new();
        for (path, template) in MODULE {
            let path = format!("{folder}/{path}");
            let text = edits::filled(template, name);
            let text = if path.ends_with("Cargo.toml") {
                edits::sort_dependencies(&text)
            } else {
                text
            };
            let text = formatted(&path, text)?;
            made.insert(path, text);
        }
        let mut outside = Vec::new();
        for edit in EDITS {
            let before = repository.read(edit.path)?;
            let after = formatted(edit.path, (edit.apply)(&before, name)?)?;
            outside.push(Outside {
                path: edit.path.to_owned(),
                what: edit.what,
                before: Some(before),
                after,
            });
        }
        let local = format!("app/src/local/{name}.rs");
        outside.push(Outside {
            after: formatted(&local, edits::filled(LOCAL, name))?,
            path: local,
            what: "how it is started in a process",
            before: None,
        });
        Ok(Plan {
            folder,
            made,
            outside,
            lock: repository.read(repository::LOCK)?,
        })
    }

    /// Writes everything, or nothing.
    ///
    /// # Errors
    /// A file cannot be written, or Cargo refuses what was written; it has been taken back then.
    pub fn carry_out(&self, repository: &Repository) -> anyhow::Result<()> {
        let written = self.write(repository).and_then(|()| repository.lock());
        if let Err(error) = written {
            return match self.take_back(repository) {
                Ok(()) => Err(error.context("nothing was changed")),
                Err(remains) => Err(error.context(format!("and what was written remains in part: {remains:#}"))),
            };
        }
        Ok(())
    }

    fn write(&self, repository: &Repository) -> anyhow::Result<()> {
        for (path, text) in &self.made {
            repository.write(path, text)?;
        }
        for file in &self.outside {
            repository.write(&file.path, &file.after)?;
        }
        Ok(())
    }

    /// Restores every file, also if one of them cannot be.
    fn take_back(&self, repository: &Repository) -> anyhow::Result<()> {
        let outside = self.outside.iter().map(|file| match &file.before {
            Some(before) => repository.write(&file.path, before),
            None => repository.remove(&file.path),
        });
        let own = [
            repository.remove(&self.folder),
            repository.write(repository::LOCK, &self.lock),
        ];
        let failed: Vec<String> = own
            .into_iter()
            .chain(outside)
            .filter_map(|restored| Some(format!("{:#}", restored.err()?)))
            .collect();
        match failed.is_empty() {
            true => Ok(()),
            false => bail!("{}; `git restore` undoes the rest", failed.join("; ")),
        }
    }

    /// The number of files in the module's folder.
    pub fn made_in_folder(&self) -> usize {
        self.made.len()
    }

    /// The files outside the module's folder, and what they were edited for.
    pub fn outside(&self) -> impl Iterator<Item = (&str, &str)> {
        let files = self.outside.iter().map(|file| (file.path.as_str(), file.what));
        files.chain([(repository::LOCK, "its two crates")])
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    fn files(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let of_entry = |path: std::path::PathBuf| match path.is_dir() {
            true => files(&path),
            false => vec![path.display().to_string()],
        };
        entries.flat_map(of_entry).collect()
    }

    #[test]
    fn every_template_of_the_module_is_made() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates/module");
        let there: BTreeSet<String> = files(&folder).into_iter().collect();
        let made: BTreeSet<String> = MODULE
            .iter()
            .map(|(path, _)| folder.join(path).display().to_string())
            .collect();
        assert_eq!(made, there);
    }
}
