//! A copy of the repository, committed, that a test may change.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use banyan_durable_testing::SqliteHome;

use crate::{
    architecture::root,
    harness::{binary, target},
};

/// Removed when dropped.
pub struct Copy(SqliteHome);

impl Copy {
    /// The files that git knows, and new ones that it does not ignore. They keep their times, so that Cargo finds what it built of them fresh.
    pub fn of_the_repository() -> Self {
        let copy = Copy(SqliteHome::new());
        let files = git(&root(), &["ls-files", "--cached", "--others", "--exclude-standard"]);
        let names = String::from_utf8(files.stdout).expect("names in UTF-8");
        let there: Vec<&str> = names.lines().filter(|name| root().join(name).is_file()).collect();
        let copied = Command::new("cp")
            .args(["--archive", "--parents", "--target-directory"])
            .arg(copy.path())
            .args(there)
            .current_dir(root())
            .status()
            .expect("cp runs");
        assert!(copied.success(), "the repository is copied");
        git(copy.path(), &["init", "--quiet"]);
        copy.commit();
        copy
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn commit(&self) {
        let name = ["-c", "user.name=test", "-c", "user.email=test@banyan.example"];
        git(self.path(), &["add", "--all"]);
        git(
            self.path(),
            &[&name[..], &["commit", "--quiet", "--message", "A copy"]].concat(),
        );
    }

    /// The paths of the files that differ from the commit.
    pub fn changed(&self) -> Vec<String> {
        let status = git(self.path(), &["status", "--porcelain", "--untracked-files=all"]);
        let lines = String::from_utf8(status.stdout).expect("names in UTF-8");
        lines.lines().map(|line| line[3..].to_owned()).collect()
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub fn write(&self, path: &str, text: &str) {
        fs::write(self.path().join(path), text).unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// `banyan new module NAME` in the copy.
    pub fn new_module(&self, name: &str) -> Output {
        new_module(self.path(), name)
    }

    /// Cargo in the copy, with the target directory of the repository.
    ///
    /// # Panics
    /// If it fails; with its output.
    pub fn cargo(&self, arguments: &[&str]) -> String {
        let target = target().parent().map(PathBuf::from).expect("target/<profile>");
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(arguments)
            .current_dir(self.path())
            .env("CARGO_TARGET_DIR", target);
        // What Cargo tells a running test of its package. Some build scripts depend on it, and would be run anew.
        for (name, _) in env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
                cargo.env_remove(name.as_ref());
            }
        }
        let output = cargo.output().expect("cargo runs");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "cargo {arguments:?}\n{printed}\n{errors}");
        printed
    }
}

/// `banyan new module NAME` in a directory.
pub fn new_module(directory: &Path, name: &str) -> Output {
    Command::new(binary())
        .args(["new", "module", name])
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

fn git(directory: &Path, arguments: &[&str]) -> Output {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(directory)
        .output()
        .expect("git runs");
    assert!(
        output.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
