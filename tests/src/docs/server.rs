//! A server as a page's reader starts it: without any settings, but on a free port and in a new directory.

use std::{path::Path, process::Stdio, time::Duration};

use banyan_durable_testing::SqliteHome;
use libtest_mimic::Failed;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
};

use super::{Page, SHOWN_BASE, shown_is_real};
use crate::harness::{clean_command, free_port};

const BANNER_LIMIT: Duration = Duration::from_secs(60);
const LISTEN: &str = "BANYAN__HTTP__LISTEN";

/// A running server. It is killed with the test.
pub struct Server {
    home: SqliteHome,
    port: u16,
    child: Child,
}

impl Server {
    /// Starts the program, and returns once it has printed the banner that the page shows.
    ///
    /// # Errors
    /// The page shows no banner, or another one; the program ends.
    pub async fn start(program: &Path, page: &Page) -> Result<Server, Failed> {
        let shown = page.in_language("banner");
        let shown = shown.first().ok_or_else(|| format!("{} shows no banner", page.path))?;
        let (home, port) = (SqliteHome::new(), free_port());
        let mut child = clean_command(program)
            .current_dir(home.path())
            .env(LISTEN, address(port))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no standard output")?).lines();
        let mut printed = Vec::new();
        let reading = async {
            while printed.len() < shown.text.lines().count() {
                let line = lines.next_line().await?;
                printed.push(line.ok_or_else(|| std::io::Error::other("the server ended"))?);
            }
            Ok::<(), std::io::Error>(())
        };
        tokio::time::timeout(BANNER_LIMIT, reading)
            .await
            .map_err(|_| format!("no complete banner within {BANNER_LIMIT:?}"))??;
        // The pipe must be read, or the process would block when it prints.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let server = Server { home, port, child };
        let printed = printed.join("\n").replace(&server.base(), SHOWN_BASE);
        match shown_is_real(&shown.text, &printed) {
            Ok(()) => Ok(server),
            Err(_) => Err(format!("{} shows:\n{}\nthe server prints:\n{printed}", page.path, shown.text).into()),
        }
    }

    pub fn base(&self) -> String {
        format!("http://{}", address(self.port))
    }

    pub fn directory(&self) -> &Path {
        self.home.path()
    }

    /// The settings with which the program's commands find the server.
    pub fn variables(&self) -> Vec<(String, String)> {
        vec![(LISTEN.to_owned(), address(self.port))]
    }

    /// `kill -9`.
    pub async fn kill(mut self) -> std::io::Result<()> {
        self.child.kill().await
    }
}

fn address(port: u16) -> String {
    format!("127.0.0.1:{port}")
}
