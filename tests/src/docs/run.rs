//! Follows a page as a reader would: runs its `bash` blocks in one shell, one after the other, and compares what they print with what the page shows.

use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use banyan_durable_testing::SqliteHome;
use libtest_mimic::{Failed, Trial};
use tokio::process::Command;
use uuid::Uuid;

use super::{Block, Page, shown_is_real};

pub fn trials() -> Vec<Trial> {
    vec![Trial::test(
        "docs::a_command_that_fails_or_prints_something_else_is_detected",
        || crate::harness::runtime().block_on(wrong_commands_are_detected()),
    )]
}

/// The time within which all commands of a page end, if none of them builds anything.
pub const WITHOUT_A_BUILD: Duration = Duration::from_secs(120);
/// The time within which what a page has started ends on SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Between the outputs of two blocks.
const MARK: &str = "--- end of a block, exit code";

/// A reader with a new directory, a shell without any settings of its own, and a few tools.
pub struct Reader<'a> {
    /// Where the commands run; it is created.
    pub directory: PathBuf,
    /// The programs that the page may use, besides bash itself.
    pub tools: Tools<'a>,
    /// Files that the page expects in the directory: the path there, and the real file.
    pub files: Vec<(&'a str, PathBuf)>,
    /// The environment, for settings that the reader has left at their defaults.
    pub variables: Vec<(String, String)>,
    /// What the page shows, and what replaces it: addresses and ports of the test.
    pub replace: Vec<(&'a str, String)>,
    /// The time within which all commands end.
    pub limit: Duration,
}

/// The programs that a page may use.
pub enum Tools<'a> {
    /// These alone, besides bash itself.
    Only(&'a [&'a str]),
    /// Those of the developer's machine.
    All,
}

/// What a block printed, and how it ended.
struct Output {
    text: String,
    exit_code: String,
}

impl Reader<'_> {
    /// Runs all `bash` blocks of the page, and applies its `diff` blocks.
    ///
    /// # Errors
    /// Every block that fails or prints something else than the page shows, with its line.
    pub async fn follow(&self, page: &Page) -> Result<(), String> {
        let commands = page.steps();
        let outputs = self.run(&commands).await?;
        let mut wrong = Vec::new();
        for (block, output) in commands.iter().zip(outputs) {
            let place = format!("{}:{}", page.path, block.line);
            if output.exit_code != "0" {
                wrong.push(format!("{place} exits with {}:\n{}", output.exit_code, output.text));
            }
            let Some(shown) = page.output_of(block) else { continue };
            if let Err(why) = shown_is_real(&shown.text, &output.text) {
                wrong.push(format!(
                    "{}:{} shows what {place} does not print: {why}\nit prints:\n{}",
                    page.path, shown.line, output.text
                ));
            }
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(wrong.join("\n\n"))
        }
    }

    async fn run(&self, commands: &[&Block]) -> Result<Vec<Output>, String> {
        self.prepare().map_err(|error| format!("no shell: {error}"))?;
        let script: String = commands
            .iter()
            .map(|block| {
                let command = self.command(block);
                format!("{command}\nexit_code=$?\necho; echo \"{MARK} $exit_code\"\n[ $exit_code = 0 ] || exit 0\n")
            })
            .collect();
        let printed = tempfile().map_err(|error| error.to_string())?;
        let (stdout, stderr) = (printed.try_clone(), printed.try_clone());
        let mut shell = Command::new(tool("bash").map_err(|error| error.to_string())?);
        // In a group of its own, so that nothing that the page has started remains.
        shell
            .args(["--noprofile", "--norc", "-c", &script])
            .current_dir(&self.directory)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(stdout.map_err(|error| error.to_string())?)
            .stderr(stderr.map_err(|error| error.to_string())?)
            .kill_on_drop(true)
            .env_clear()
            .envs(self.variables.iter().cloned());
        if let Tools::Only(_) = self.tools {
            shell.env("PATH", self.directory.join("bin"));
        }
        let mut shell = shell.spawn().map_err(|error| error.to_string())?;
        let group = shell.id().map(|id| format!("-{id}"));
        let ended = tokio::time::timeout(self.limit, shell.wait()).await;
        if let Some(group) = group {
            stop(&group).await.map_err(|error| error.to_string())?;
        }
        let printed = text_of(printed).map_err(|error| error.to_string())?;
        if ended.is_err() {
            return Err(format!(
                "the commands take longer than {:?}; they printed:\n{printed}",
                self.limit
            ));
        }
        let outputs = split(&printed);
        // The page ends at the first block that fails.
        let has_failed = outputs.last().is_some_and(|output| output.exit_code != "0");
        if outputs.len() == commands.len() || has_failed {
            Ok(outputs)
        } else {
            Err(format!("the shell ended early:\n{printed}"))
        }
    }

    fn command(&self, block: &Block) -> String {
        if block.language == "diff" {
            return format!("git apply <<'END_OF_DIFF'\n{}END_OF_DIFF", block.text);
        }
        let replaced = self.replace.iter();
        replaced.fold(block.text.clone(), |text, (shown, real)| text.replace(shown, real))
    }

    fn prepare(&self) -> std::io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        if let Tools::Only(names) = self.tools {
            let bin = self.directory.join("bin");
            fs::create_dir_all(&bin)?;
            for name in names {
                symlink(tool(name)?, bin.join(name))?;
            }
        }
        for (path, real) in &self.files {
            let link = self.directory.join(path);
            fs::create_dir_all(link.parent().unwrap_or(&self.directory))?;
            symlink(real, link)?;
        }
        Ok(())
    }
}

/// The output of each block.
fn split(printed: &str) -> Vec<Output> {
    let mut outputs = Vec::new();
    let mut rest = printed;
    while let Some((text, after)) = rest.split_once(MARK) {
        let (exit_code, next) = after.split_once('\n').unwrap_or((after, ""));
        outputs.push(Output {
            text: text.trim().to_owned(),
            exit_code: exit_code.trim().to_owned(),
        });
        rest = next;
    }
    outputs
}

/// An open file without a name.
fn tempfile() -> std::io::Result<fs::File> {
    let path = std::env::temp_dir().join(format!("banyan-page-{}", Uuid::new_v4().simple()));
    let file = fs::File::options()
        .read(true)
        .append(true)
        .create_new(true)
        .open(&path)?;
    fs::remove_file(path)?;
    Ok(file)
}

fn text_of(mut file: fs::File) -> std::io::Result<String> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// SIGTERM to a group of processes, and SIGKILL to what has not ended a while later.
async fn stop(group: &str) -> std::io::Result<()> {
    let send = async |signal: &str| {
        let kill = ["-s", signal, "--", group];
        Command::new("kill").args(kill).stderr(Stdio::null()).status().await
    };
    let end = tokio::time::Instant::now() + STOP_LIMIT;
    let mut there = send("TERM").await?.success();
    while there && tokio::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
        there = send("0").await?.success();
    }
    if there {
        send("KILL").await?;
    }
    Ok(())
}

fn tool(name: &str) -> std::io::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|directory: PathBuf| directory.join(name))
        .find(|candidate: &PathBuf| Path::is_file(candidate));
    found.ok_or_else(|| std::io::Error::other(format!("this test needs {name}")))
}

async fn wrong_commands_are_detected() -> Result<(), Failed> {
    let follow = async |text: &str| {
        let home = SqliteHome::new();
        let reader = Reader {
            directory: home.path().join("reader"),
            tools: Tools::Only(&[]),
            files: Vec::new(),
            variables: Vec::new(),
            replace: Vec::new(),
            limit: WITHOUT_A_BUILD,
        };
        reader.follow(&Page::of("page.md", text)).await
    };
    follow("```bash\nfigs=3\n```\n\n```bash\necho $figs figs\n```\n\n```text\n3 … figs\n```\n").await?;
    for (text, why) in [
        ("```bash\nfalse\n```\n", "page.md:1 exits with 1"),
        ("```bash\nno-such-tool\n```\n", "page.md:1 exits with 127"),
        (
            "```bash\necho 3 figs\n```\n\n```text\n4 figs\n```\n",
            "page.md:5 shows what page.md:1 does not print",
        ),
    ] {
        match follow(text).await {
            Err(wrong) if wrong.contains(why) => {}
            other => return Err(format!("{text:?} must fail with {why:?}, not {other:?}").into()),
        }
    }
    Ok(())
}
