//! A PostgreSQL for one test alone, for tests that stop it. `scripts/lib/postgres.sh` starts it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use uuid::Uuid;

/// A server in a directory of its own; dropping this stops and removes it.
pub struct Postgres {
    directory: PathBuf,
    port: u16,
}

impl Postgres {
    /// # Panics
    /// If it does not start; with its output.
    pub fn start() -> Postgres {
        let directory = std::env::temp_dir().join(format!("banyan-postgres-{}", Uuid::new_v4().simple()));
        let postgres = Postgres {
            directory,
            port: super::free_port(),
        };
        postgres.boot();
        postgres
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// What it logs.
    pub fn log(&self) -> PathBuf {
        self.directory.join("server.log")
    }

    /// An immediate shutdown: every connection breaks, nothing is completed, and the next start runs recovery. It is like a kill of the server.
    pub fn stop_at_once(&self) {
        self.run("kill", None);
    }

    /// Starts it, again or for the first time.
    pub fn boot(&self) {
        self.run("boot", Some(&self.port.to_string()));
    }

    fn run(&self, command: &str, argument: Option<&str>) {
        let output = self.script(command, argument);
        let text = [output.stdout, output.stderr].concat();
        assert!(
            output.status.success(),
            "postgres.sh {command}: {}",
            String::from_utf8_lossy(&text)
        );
    }

    fn script(&self, command: &str, argument: Option<&str>) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/lib/postgres.sh");
        let mut bash = Command::new("bash");
        bash.arg(script)
            .arg(command)
            .arg(&self.directory)
            .args(argument)
            .stdin(Stdio::null());
        bash.output().expect("bash runs")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.script("kill", None);
        drop(std::fs::remove_dir_all(&self.directory));
    }
}
