//! What a saga has left in other modules: `banyan saga show`, `saga leftovers` and `saga undo`.

use std::time::Duration;

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Failure, Output,
    ops::{Reason, Session, aligned},
    print, print_json,
};

/// How often an undo in progress is asked about, and the delay in between.
const POLLS: u32 = 15;
const POLL_DELAY: Duration = Duration::from_secs(1);

#[derive(Args)]
pub struct Undo {
    /// The saga.
    id: String,
    /// What to undo, as `saga leftovers` names it.
    undo: String,
    #[command(flatten)]
    reason: Reason,
    /// The Idempotency-Key of an earlier attempt whose outcome is unknown. Default: a new one.
    #[arg(long)]
    key: Option<String>,
}

/// How commands about a saga are written.
pub struct SagaCommands<'a> {
    pub program: &'a str,
    pub module: &'a str,
    /// The module need not be named.
    pub is_default: bool,
}

impl SagaCommands<'_> {
    fn command(&self, what: &str) -> String {
        let module = if self.is_default {
            String::new()
        } else {
            format!(" --module {}", self.module)
        };
        format!("{} saga {what} --reason ...{module}", self.program)
    }

    /// Adds to each leftover the command that undoes it, and what comes before.
    fn add_to(&self, saga: &mut Value) {
        let (id, parked) = (
            saga["id"].as_str().unwrap_or_default().to_owned(),
            saga["state"] == "parked",
        );
        let Some(left) = saga["leftovers"].as_object_mut() else {
            return;
        };
        if parked {
            left.insert("first".to_owned(), self.command(&format!("abandon {id}")).into());
        }
        let items = left.get_mut("items").and_then(Value::as_array_mut);
        for item in items.into_iter().flatten() {
            if let Some(undo) = item["undo"].as_str() {
                let command = self.command(&format!("undo {id} {undo}"));
                item["command"] = command.into();
            }
        }
    }
}

impl Session {
    pub(super) async fn show_saga(&self, commands: &SagaCommands<'_>, id: &str) -> Result<(), Failure> {
        Ok(print_json(&self.saga(commands, id).await?)?)
    }

    pub(super) async fn list_leftovers(
        &self,
        commands: &SagaCommands<'_>,
        id: &str,
        output: Output,
    ) -> Result<(), Failure> {
        let saga = self.saga(commands, id).await?;
        let left = &saga["leftovers"];
        if output == Output::Json {
            let nothing = json!({"items": [], "unavailable": []});
            return Ok(print_json(if left.is_null() { &nothing } else { left })?);
        }
        Ok(print(&as_text(left))?)
    }

    async fn saga(&self, commands: &SagaCommands<'_>, id: &str) -> Result<Value, Failure> {
        let path = format!("/api/v1/ops/{}/sagas/{id}", commands.module);
        let mut saga = self.call(Method::GET, &path, None).await?;
        commands.add_to(&mut saga);
        Ok(saga)
    }

    pub(super) async fn undo_leftover(&self, module: &str, wanted: Undo, output: Output) -> Result<(), Failure> {
        let Undo { id, undo, reason, key } = wanted;
        // Words may be joined either way.
        let undo = undo.replace('-', "_");
        let key = key.unwrap_or_else(|| Uuid::new_v4().to_string());
        let path = format!("/api/v1/ops/{module}/sagas/{id}/leftovers/{undo}");
        for _ in 0..POLLS {
            let sent = self.send(Method::POST, &path, Some(&key), Some(reason.body())).await;
            let reply = sent.map_err(|failure| unknown(failure, &key))?;
            let result = if reply.status.is_server_error() {
                reply.success().map_err(|failure| unknown(failure, &key))?
            } else {
                reply.success()?
            };
            if result["status"] == "done" {
                let printed = match output {
                    Output::Json => print_json(&result),
                    Output::Text => print(result["detail"].as_str().unwrap_or("done")),
                };
                return Ok(printed?);
            }
            tokio::time::sleep(POLL_DELAY).await;
        }
        Err(unknown(Failure::NotReady(format!("{undo} is still in progress")), &key))
    }
}

/// After this failure the work may have been done, or be done later.
fn unknown(failure: Failure, key: &str) -> Failure {
    let why = match failure {
        Failure::Failed(error) => format!("{error:#}"),
        Failure::NotReady(why) => why,
    };
    Failure::NotReady(format!("{why}; to see the outcome repeat the command with --key {key}"))
}

/// A table, what is not known, and the commands.
fn as_text(left: &Value) -> String {
    let items = left["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let columns = ["module", "what", "state", "detail"];
    let header = columns.map(str::to_owned).to_vec();
    let row = |item: &Value| {
        columns
            .map(|column| item[column].as_str().unwrap_or("-").to_owned())
            .to_vec()
    };
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(items.iter().map(row)).collect();
    let mut lines = if items.is_empty() {
        vec!["none".to_owned()]
    } else {
        vec![aligned(&rows)]
    };
    let unavailable = left["unavailable"].as_array().into_iter().flatten();
    lines.extend(
        unavailable
            .filter_map(Value::as_str)
            .map(|module| format!("{module}: unavailable, so not known")),
    );
    let commands: Vec<&str> = items.iter().filter_map(|item| item["command"].as_str()).collect();
    if !commands.is_empty() {
        lines.push(String::new());
        lines.extend(left["first"].as_str().map(str::to_owned));
        lines.extend(commands.into_iter().map(str::to_owned));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leftover_is_listed_with_the_command_that_undoes_it() {
        let mut saga = json!({"id": "7", "state": "parked", "leftovers": {
            "items": [
                {"module": "letters", "what": "letter", "state": "sealed", "detail": "It is here.", "undo": "shred_letter"},
                {"module": "stamps", "what": "stamp", "state": "used", "detail": "Gone."},
            ],
            "unavailable": ["bells"]}});
        let commands = SagaCommands {
            program: "post",
            module: "desk",
            is_default: false,
        };
        commands.add_to(&mut saga);
        assert_eq!(
            as_text(&saga["leftovers"]),
            "module   what    state   detail\n\
             letters  letter  sealed  It is here.\n\
             stamps   stamp   used    Gone.\n\
             bells: unavailable, so not known\n\
             \n\
             post saga abandon 7 --reason ... --module desk\n\
             post saga undo 7 shred_letter --reason ... --module desk"
        );
        assert_eq!(as_text(&Value::Null), "none");
    }
}
