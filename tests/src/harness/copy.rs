//! A copy of the repository, committed, that a test may change and build.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use uuid::Uuid;

use super::target;
use crate::architecture::root;

/// Removed when dropped. It is beside what was built, so that both are on one file system.
pub struct Copy(PathBuf);

impl Copy {
    /// The files that git knows, and new ones that it does not ignore. Files and folders keep their times, so that Cargo finds what was built of them fresh.
    pub fn of_the_repository() -> Self {
        let copies = target().parent().expect("target/<profile>").join("copies");
        let copy = Copy(copies.join(Uuid::new_v4().simple().to_string()));
        fs::create_dir_all(copy.path()).expect("a folder for the copy");
        let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let files = run(&mut git_command(&root(), &list));
        let names = String::from_utf8(files.stdout).expect("names in UTF-8");
        let there: Vec<&str> = names
            .split_terminator('\0')
            .filter(|name| root().join(name).is_file())
            .collect();
        let mut command = Command::new("cp");
        command
            .args(["--archive", "--parents", "--target-directory"])
            .arg(copy.path());
        run(command.args(&there).current_dir(root()));
        for folder in there.iter().flat_map(|name| Path::new(name).ancestors().skip(1)) {
            let modified = fs::metadata(root().join(folder)).and_then(|original| original.modified());
            let copied = fs::File::open(copy.path().join(folder));
            let kept = modified.and_then(|modified| copied?.set_modified(modified));
            kept.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        }
        git(copy.path(), &["init", "--quiet"]);
        copy.commit();
        copy
    }

    /// Gives the copy what was built of the repository, in a target directory of its own: what is built there replaces nothing that other tests use.
    pub fn with_what_was_built(self) -> Self {
        let own = self
            .path()
            .join("target")
            .join(target().file_name().expect("<profile>"));
        fs::create_dir_all(&own).expect("a target directory");
        for folder in ["build", ".fingerprint"] {
            run(Command::new("cp").arg("--archive").arg(target().join(folder)).arg(&own));
        }
        // The compiler replaces its libraries and never writes into them, so links are safe. What else is there is made anew.
        let (from, to) = (target().join("deps"), own.join("deps"));
        fs::create_dir_all(&to).expect("a folder for libraries");
        for library in fs::read_dir(from)
            .expect("the libraries")
            .map(|entry| entry.expect("an entry").path())
        {
            let kind = library.extension().and_then(|extension| extension.to_str());
            if let (Some("rlib" | "rmeta" | "so"), Some(name)) = (kind, library.file_name()) {
                fs::hard_link(&library, to.join(name)).expect("a link to a library");
            }
        }
        self
    }

    pub fn path(&self) -> &Path {
        &self.0
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

    /// What Cargo prints in the copy.
    ///
    /// # Panics
    /// If it fails; with its output.
    pub fn cargo(&self, arguments: &[&str]) -> String {
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .envs(build_environment());
        String::from_utf8_lossy(&run(&mut cargo).stdout).into_owned()
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // What cannot be removed stays in the target directory; no test depends on it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The variables that Cargo and the compiler need, without those by which Cargo tells a running test about its package: some build scripts depend on
/// these, and would be run anew.
pub fn build_environment() -> Vec<(String, String)> {
    let kept = [
        "PATH",
        "HOME",
        "CARGO_HOME",
        "CARGO_INCREMENTAL",
        "RUSTUP_HOME",
        "RUSTUP_TOOLCHAIN",
        "RUSTFLAGS",
        "TMPDIR",
    ];
    let kept = kept
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), env::var(name).ok()?)));
    // One core is left to the tests beside it, some of which measure time.
    kept.chain([("CARGO_BUILD_JOBS".to_owned(), "1".to_owned())]).collect()
}

/// Git in a copy, without the developer's own settings.
fn git(copy: &Path, arguments: &[&str]) -> Output {
    let mut command = git_command(copy, arguments);
    run(command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1"))
}

/// Without the variables by which a hook or a rebase says which repository is meant.
fn git_command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .envs(build_environment());
    command
}

fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}:\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
