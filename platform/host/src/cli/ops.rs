//! `banyan dlq`, `banyan subscribers` and `banyan saga`: clients of a running server's operations API. What an abandoned saga has left is in [`super::leftovers`].

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use super::{
    Failure, Output,
    leftovers::{SagaCommands, Undo},
    local_url, print, print_json,
};
use crate::{Demo, settings::Settings};

/// The server to call, and the credentials.
#[derive(Args)]
struct Server {
    /// The URL of the server. Default: the address in the settings.
    #[arg(long, global = true, env = "BANYAN_URL", value_name = "URL")]
    url: Option<String>,
    /// An access token of a user with the role ops.
    #[arg(long, global = true, env = "BANYAN_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The e-mail address to log in with, instead of a token. Default in the demo profile: its operator.
    #[arg(long, global = true, env = "BANYAN_EMAIL")]
    email: Option<String>,
    #[arg(long, global = true, env = "BANYAN_PASSWORD", hide_env_values = true)]
    password: Option<String>,
}

/// The reason for an action of an operator; it is written to the audit log.
#[derive(Args)]
pub(super) struct Reason {
    /// The reason, in a word or two; it is written to the audit log.
    #[arg(long)]
    reason: String,
    /// Further information for readers of the audit log.
    #[arg(long)]
    comment: Option<String>,
}

impl Reason {
    pub(super) fn body(&self) -> Value {
        match &self.comment {
            Some(comment) => json!({"reason": self.reason, "comment": comment}),
            None => json!({"reason": self.reason}),
        }
    }
}

#[derive(Args)]
pub struct Dlq {
    #[command(subcommand)]
    what: DlqCommand,
    #[command(flatten)]
    server: Server,
}

#[derive(Subcommand)]
enum DlqCommand {
    /// Lists dead letters, of one module or of all.
    List { module: Option<String> },
    /// Shows a dead letter with its event.
    Show { module: String, id: String },
    /// Retries a dead letter, after its cause has been fixed.
    Retry {
        module: String,
        id: String,
        #[command(flatten)]
        reason: Reason,
    },
    /// Discards a dead letter: its module continues with the next event of the subject.
    Discard {
        module: String,
        id: String,
        #[command(flatten)]
        reason: Reason,
    },
}

impl Dlq {
    pub async fn run(self, modules: &[&str], demo: Demo, settings: &Settings, output: Output) -> Result<(), Failure> {
        let session = self.server.open(demo, settings).await?;
        match self.what {
            DlqCommand::List { module } => {
                let modules = selected(module, modules);
                let columns = ["id", "source", "subject", "version", "kind", "state", "last_error"].map(same);
                session.list(&modules, "dead-letters", &columns, output).await
            }
            DlqCommand::Show { module, id } => session.show(&format!("{module}/dead-letters/{id}")).await,
            DlqCommand::Retry { module, id, reason } => {
                session.act(&format!("{module}/dead-letters/{id}/retry"), &reason).await
            }
            DlqCommand::Discard { module, id, reason } => {
                session
                    .act(&format!("{module}/dead-letters/{id}/discard"), &reason)
                    .await
            }
        }
    }
}

#[derive(Args)]
pub struct Subscribers {
    #[command(subcommand)]
    what: SubscribersCommand,
    #[command(flatten)]
    server: Server,
}

#[derive(Subcommand)]
enum SubscribersCommand {
    /// Lists who subscribes to the events of one module, or of all, and how far each has come.
    List { module: Option<String> },
    /// Keeps a module's events for a subscriber no longer, because it will not come back. If it does, events are kept for it again from then on. Refused
    /// while it runs.
    GiveUp {
        /// The module whose events are kept.
        module: String,
        /// The module that subscribes to them.
        subscriber: String,
        #[command(flatten)]
        reason: Reason,
    },
}

impl Subscribers {
    pub async fn run(self, modules: &[&str], demo: Demo, settings: &Settings, output: Output) -> Result<(), Failure> {
        let session = self.server.open(demo, settings).await?;
        match self.what {
            SubscribersCommand::List { module } => {
                let columns = [
                    ("subscriber", "module"),
                    ("aggregate", "aggregate"),
                    ("confirmed_before", "confirmed_before"),
                    ("given_up", "given_up"),
                ];
                session
                    .list(&selected(module, modules), "subscribers", &columns, output)
                    .await
            }
            SubscribersCommand::GiveUp {
                module,
                subscriber,
                reason,
            } => {
                session
                    .act(&format!("{module}/subscribers/{subscriber}/give-up"), &reason)
                    .await
            }
        }
    }
}

#[derive(Args)]
pub struct Saga {
    #[command(subcommand)]
    what: SagaCommand,
    /// The module that owns the sagas. Default: the product's usual one.
    #[arg(long, global = true)]
    module: Option<String>,
    #[command(flatten)]
    server: Server,
}

#[derive(Subcommand)]
enum SagaCommand {
    /// Lists sagas, newest first.
    List {
        /// Only those in this state: running, compensating, parked, completed, compensated, abandoned.
        #[arg(long)]
        state: Option<String>,
    },
    /// Shows a saga with its log, and what it has left in other modules.
    Show { id: String },
    /// Resumes a parked saga, or makes a waiting one retry at once.
    Retry {
        id: String,
        #[command(flatten)]
        reason: Reason,
    },
    /// Undoes a saga, if it has not passed the point of no return.
    Compensate {
        id: String,
        #[command(flatten)]
        reason: Reason,
    },
    /// Abandons a parked saga as it is; what it did remains, until it is undone.
    Abandon {
        id: String,
        #[command(flatten)]
        reason: Reason,
    },
    /// Lists what a parked or abandoned saga has left in other modules, each with the command that undoes it.
    Leftovers { id: String },
    /// Undoes something that an abandoned saga has left in another module.
    Undo(Undo),
}

impl Saga {
    pub async fn run(
        self,
        program: &str,
        default_module: &str,
        demo: Demo,
        settings: &Settings,
        output: Output,
    ) -> Result<(), Failure> {
        let session = self.server.open(demo, settings).await?;
        let module = self.module.unwrap_or_else(|| default_module.to_owned());
        let command = SagaCommands {
            program,
            module: &module,
            is_default: module == default_module,
        };
        match self.what {
            SagaCommand::List { state } => {
                let path = state.map_or_else(|| "sagas".to_owned(), |state| format!("sagas?state={state}"));
                let columns = [
                    "id",
                    "kind",
                    "business_key",
                    "state",
                    "step",
                    "attempts",
                    "parked_reason",
                ]
                .map(same);
                session
                    .list(std::slice::from_ref(&module), &path, &columns, output)
                    .await
            }
            SagaCommand::Show { id } => session.show_saga(&command, &id).await,
            SagaCommand::Leftovers { id } => session.list_leftovers(&command, &id, output).await,
            SagaCommand::Undo(undo) => session.undo_leftover(&module, undo, output).await,
            SagaCommand::Retry { id, reason } => session.act(&format!("{module}/sagas/{id}/retry"), &reason).await,
            SagaCommand::Compensate { id, reason } => {
                session.act(&format!("{module}/sagas/{id}/compensate"), &reason).await
            }
            SagaCommand::Abandon { id, reason } => session.act(&format!("{module}/sagas/{id}/abandon"), &reason).await,
        }
    }
}

/// A column that is named after its field.
fn same(field: &'static str) -> (&'static str, &'static str) {
    (field, field)
}

/// The given module, or all.
fn selected(named: Option<String>, all: &[&str]) -> Vec<String> {
    named.map_or_else(
        || all.iter().map(|module| (*module).to_owned()).collect(),
        |module| vec![module],
    )
}

/// A client of a server, logged in if it has users.
pub(super) struct Session {
    client: Client,
    base: String,
    /// Empty for a product without users.
    token: String,
}

impl Server {
    async fn open(self, demo: Demo, settings: &Settings) -> Result<Session, Failure> {
        let base = self
            .url
            .map_or_else(|| local_url(settings), Ok)?
            .trim_end_matches('/')
            .to_owned();
        let client = Client::builder()
            .timeout(std::time::Duration::from_secs(15))
            .build()
            .context("creating the HTTP client")?;
        if let Some(token) = self.token {
            return Ok(Session { client, base, token });
        }
        let mut session = Session {
            client,
            base,
            token: String::new(),
        };
        let login = match (self.email, self.password, demo.operator) {
            (Some(email), Some(password), _) => json!({"email": email, "password": password}),
            (_, _, Some((email, password))) if settings.is_demo() => json!({"email": email, "password": password}),
            // A product without users: in `demo` its operations API is open.
            (None, None, None) if settings.is_demo() => return Ok(session),
            _ => {
                return Err(anyhow!(
                    "log in with --token, or --email and --password (or BANYAN_TOKEN, BANYAN_EMAIL, BANYAN_PASSWORD)"
                )
                .into());
            }
        };
        let tokens = session.call(Method::POST, "/api/v1/sessions", Some(login)).await?;
        tokens["access_token"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut session.token);
        Ok(session)
    }
}

/// A response of the server.
pub(super) struct Reply {
    url: String,
    pub status: StatusCode,
    body: Value,
}

impl Reply {
    /// The body.
    ///
    /// # Errors
    /// The server refused; with its reason.
    pub fn success(self) -> Result<Value, Failure> {
        let Reply { url, status, body } = self;
        if status.is_success() {
            return Ok(body);
        }
        Err(anyhow!("{url} returned {status}: {}", reason(&body)).into())
    }
}

impl Session {
    pub(super) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        self.send(method, path, None, body).await?.success()
    }

    /// With an Idempotency-Key, if there is one.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<Value>,
    ) -> Result<Reply, Failure> {
        let url = format!("{}{path}", self.base);
        let mut request = self.client.request(method, &url);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request
            .send()
            .await
            .map_err(|error| Failure::NotReady(format!("no response from {url}: {error}")))?;
        let status = response.status();
        if status == StatusCode::NO_CONTENT {
            let body = Value::Null;
            return Ok(Reply { url, status, body });
        }
        let body: Value = response
            .json()
            .await
            .with_context(|| format!("the response of {url} is not JSON"))?;
        Ok(Reply { url, status, body })
    }

    /// Prints a list of these modules. `columns`: the heading of each, and the field of an item.
    async fn list(
        &self,
        modules: &[String],
        path: &str,
        columns: &[(&str, &str)],
        output: Output,
    ) -> Result<(), Failure> {
        let mut items = Vec::new();
        for module in modules {
            let found = self.all_of(module, path).await?;
            items.extend(found.into_iter().map(|item| (module.as_str(), item)));
        }
        if output == Output::Json {
            let rows: Vec<Value> = items
                .into_iter()
                .map(|(module, item)| json!({"module": module, "item": renamed(item, columns)}))
                .collect();
            return Ok(print_json(&rows)?);
        }
        if items.is_empty() {
            return Ok(print("none")?);
        }
        let header = std::iter::once("module")
            .chain(columns.iter().map(|(heading, _)| *heading))
            .map(str::to_owned)
            .collect();
        let row = |(module, item): (&str, Value)| {
            let cells = columns.iter().map(|(_, field)| match &item[*field] {
                Value::String(text) if !text.is_empty() => text.clone(),
                Value::String(_) | Value::Null => "-".to_owned(),
                other => other.to_string(),
            });
            std::iter::once(module.to_owned()).chain(cells).collect()
        };
        let rows: Vec<Vec<String>> = std::iter::once(header).chain(items.into_iter().map(row)).collect();
        Ok(print(&aligned(&rows))?)
    }

    /// Every page of a list.
    async fn all_of(&self, module: &str, path: &str) -> Result<Vec<Value>, Failure> {
        let join = if path.contains('?') { '&' } else { '?' };
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self
                .call(
                    Method::GET,
                    &format!("/api/v1/ops/{module}/{path}{join}limit=100{cursor}"),
                    None,
                )
                .await?;
            items.extend(page["items"].as_array().into_iter().flatten().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(items),
            }
        }
    }

    async fn show(&self, path: &str) -> Result<(), Failure> {
        Ok(print_json(
            &self.call(Method::GET, &format!("/api/v1/ops/{path}"), None).await?,
        )?)
    }

    async fn act(&self, path: &str, reason: &Reason) -> Result<(), Failure> {
        let result = self
            .call(Method::POST, &format!("/api/v1/ops/{path}"), Some(reason.body()))
            .await?;
        let printed = if result.is_null() {
            print("done")
        } else {
            print_json(&result)
        };
        Ok(printed?)
    }
}

/// An item whose fields are named as the headings, so that none means something else than the `module` beside it.
fn renamed(mut item: Value, columns: &[(&str, &str)]) -> Value {
    for (heading, field) in columns.iter().filter(|(heading, field)| heading != field) {
        if let Some(object) = item.as_object_mut()
            && let Some(value) = object.remove(*field)
        {
            object.insert((*heading).to_owned(), value);
        }
    }
    item
}

/// Rows with aligned columns; the first row is the header.
pub(super) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A problem in one line: its detail, and each error with its pointer.
fn reason(problem: &Value) -> String {
    let detail = problem["detail"].as_str().unwrap_or("no reason was given");
    let errors = problem["errors"].as_array().into_iter().flatten();
    let errors = errors.map(|error| {
        format!(
            "{}: {}",
            error["pointer"].as_str().unwrap_or_default(),
            error["detail"].as_str().unwrap_or_default()
        )
    });
    let errors: Vec<String> = errors.collect();
    if errors.is_empty() {
        detail.to_owned()
    } else {
        format!("{detail} ({})", errors.join("; "))
    }
}
