//! A RabbitMQ for one test alone, for tests that kill it. `scripts/lib/rabbitmq.sh` starts it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use uuid::Uuid;

/// A broker in a directory of its own; dropping this stops it with all its processes and removes it.
pub struct Broker {
    directory: PathBuf,
    port: u16,
}

impl Broker {
    /// Takes some four seconds.
    ///
    /// # Panics
    /// If it does not start; with its log.
    pub fn start() -> Broker {
        let directory = std::env::temp_dir().join(format!("banyan-broker-{}", Uuid::new_v4().simple()));
        let broker = Broker {
            directory,
            port: super::free_port(),
        };
        broker.boot();
        broker
    }

    /// The number of established connections to it.
    pub fn connections(&self) -> usize {
        const ESTABLISHED: &str = "01";
        let port = format!(":{:04X}", self.port);
        let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux lists its connections");
        let columns = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        columns
            .filter(|columns| columns[2].ends_with(&port) && columns[3] == ESTABLISHED)
            .count()
    }

    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// `kill -9`; its data on disk stays.
    pub fn kill(&self) {
        self.run("kill", None);
    }

    /// Starts it again, on the data that is there.
    pub fn boot(&self) {
        self.run("boot", Some(&self.port.to_string()));
    }

    /// Deletes its data. It must have been killed before.
    pub fn delete_data(&self) {
        assert!(!self.directory.join("pid").exists(), "the broker runs");
        fs::remove_dir_all(self.directory.join("mnesia")).expect("its data can be removed");
    }

    /// `rabbitmqctl` with these arguments.
    pub fn control(&self, arguments: &str) -> String {
        self.run("ctl", Some(arguments))
    }

    /// Pauses it, as if its machine hung.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = fs::read_to_string(self.directory.join("pid")).expect("the broker's pid");
        let sent = Command::new("kill")
            .args([signal, pid.trim()])
            .status()
            .expect("kill runs");
        assert!(sent.success(), "{signal} to {pid}");
    }

    fn run(&self, command: &str, argument: Option<&str>) -> String {
        let output = self.script(command, argument);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "rabbitmq.sh {command}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    fn script(&self, command: &str, argument: Option<&str>) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/lib/rabbitmq.sh");
        let mut bash = Command::new("bash");
        bash.arg(script)
            .arg(command)
            .arg(&self.directory)
            .args(argument)
            .stdin(Stdio::null());
        bash.output().expect("bash runs")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.script("end", None);
        drop(fs::remove_dir_all(&self.directory));
    }
}
