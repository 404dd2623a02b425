//! A saga of three steps with scripted decisions.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use banyan_core::{Call, Fault, TraceParent};
use banyan_durable::{Db, Decision, Input, Progress, Saga, Tx, saga};
use banyan_durable_testing::eventually;
use sea_orm::{ConnectionTrait, Statement};
use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, time::Instant};
use uuid::Uuid;

pub const STEPS: [&str; 3] = ["reserve", "authorise", "capture"];
/// What any wait in these tests may take; nothing gets near it unless it hangs.
pub const LONG: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum News {
    Done,
    InProgress,
}

/// What a remote service does with a command.
#[derive(Clone)]
pub enum Act {
    Answer(News),
    Fail(Fault),
    Panic,
    Hang,
    /// Waits for the test, then acts.
    Gate(Arc<Notify>, Box<Act>),
}

pub fn done() -> Act {
    Act::Answer(News::Done)
}

pub fn refuse() -> Act {
    Act::Fail(Fault::conflict("declined", "no"))
}

pub fn unavailable() -> Act {
    Act::Fail(Fault::new(
        banyan_core::FaultKind::Unavailable,
        "unavailable",
        "unavailable",
    ))
}

pub fn unavailable_for(wait: Duration) -> Act {
    Act::Fail(Fault::unavailable("unavailable").retry_after(wait))
}

pub fn bug() -> Act {
    Act::Fail(Fault::internal("bug", "a bug"))
}

pub fn gated(act: Act) -> (Arc<Notify>, Act) {
    let gate = Arc::new(Notify::new());
    (gate.clone(), Act::Gate(gate, Box::new(act)))
}

/// How `decide` fails, before it decides anything.
#[derive(Clone)]
pub enum Failure {
    Fail(Fault),
    Panic,
    Park,
    /// Waits and then decides as usual.
    Slow(Duration),
}

/// A command as it arrived at a remote service, with the saga's row at that time.
#[derive(Clone, Debug)]
pub struct Sent {
    pub key: String,
    /// Of the definition that sent it.
    pub version: i64,
    /// `<step>/<do or undo>`.
    pub what: String,
    pub command_id: Uuid,
    pub command: Command,
    pub trace: Option<TraceParent>,
    pub timeout: Option<Duration>,
    pub at: Instant,
    pub stored_state: String,
    pub stored_command_id: Uuid,
    pub stored_command: String,
}

/// The remote services.
#[derive(Clone, Default)]
pub struct Remote(Arc<Shared>);

#[derive(Default)]
struct Shared {
    acts: Mutex<HashMap<(String, String), VecDeque<Act>>>,
    failures: Mutex<HashMap<String, VecDeque<Failure>>>,
    sent: Mutex<Vec<Sent>>,
    inputs: Mutex<Vec<(String, String)>>,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Remote {
    /// The next acts on `what` (`authorise/do`) for the saga about `key`; afterwards everything is done at once.
    pub fn script(&self, key: &str, what: &str, acts: impl IntoIterator<Item = Act>) {
        self.0
            .acts
            .lock()
            .unwrap()
            .entry((key.to_owned(), what.to_owned()))
            .or_default()
            .extend(acts);
    }

    /// The failures of the next runs of `decide` for `key`.
    pub fn fail_decisions(&self, key: &str, failures: impl IntoIterator<Item = Failure>) {
        self.0
            .failures
            .lock()
            .unwrap()
            .entry(key.to_owned())
            .or_default()
            .extend(failures);
    }

    pub fn sent(&self, key: &str) -> Vec<Sent> {
        self.0
            .sent
            .lock()
            .unwrap()
            .iter()
            .filter(|sent| sent.key == key)
            .cloned()
            .collect()
    }

    /// `reserve/do`, `authorise/do`, ... as they arrived.
    pub fn steps_sent(&self, key: &str) -> Vec<String> {
        self.sent(key).into_iter().map(|sent| sent.what).collect()
    }

    /// The inputs of the saga, also in runs of `decide` that were rolled back.
    pub fn inputs(&self, key: &str) -> Vec<String> {
        self.0
            .inputs
            .lock()
            .unwrap()
            .iter()
            .filter(|(of, _)| of == key)
            .map(|(_, input)| input.clone())
            .collect()
    }

    /// The maximum number of commands that were under way at the same time.
    pub fn max_concurrent(&self) -> usize {
        self.0.most.load(Ordering::SeqCst)
    }

    pub async fn until_sent(&self, key: &str, what: &str, times: usize) {
        let count = || self.steps_sent(key).iter().filter(|sent| *sent == what).count();
        eventually(&format!("{what} of {key} was sent {times} times"), LONG, || async {
            count() >= times
        })
        .await;
    }
}

/// Counts a command as under way until its response or its end.
struct UnderWay(Arc<Shared>);

impl UnderWay {
    fn new(shared: &Arc<Shared>) -> Self {
        let now = shared.now.fetch_add(1, Ordering::SeqCst) + 1;
        shared.most.fetch_max(now, Ordering::SeqCst);
        UnderWay(shared.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, Default)]
pub struct State {
    pub done: Vec<String>,
    pub deadlines_told: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Command {
    pub command_id: Uuid,
    pub what: String,
    pub key: String,
    /// Another one at each decision: so a command that was decided again, instead of read, shows.
    pub nonce: Uuid,
}

/// The same saga in any version of its definition.
pub struct Script<const VERSION: i64 = 1> {
    pub db: Db,
    pub remote: Remote,
}

#[async_trait]
impl<const V: i64> Saga for Script<V> {
    const KIND: &'static str = "script";
    const VERSION: i64 = V;
    type State = State;
    type Command = Command;
    type News = News;

    async fn send(&self, call: &Call, command: &Command) -> Result<News, Fault> {
        let sql = "select state, command, command_id from saga where kind = 'script' and business_key = $1";
        let statement = Statement::from_sql_and_values(self.db.backend(), sql, [command.key.as_str().into()]);
        let row = self
            .db
            .read()
            .query_one_raw(statement)
            .await
            .map_err(banyan_durable::fault)?
            .expect("the saga's row");
        let sent = Sent {
            key: command.key.clone(),
            version: V,
            what: command.what.clone(),
            command_id: command.command_id,
            command: command.clone(),
            trace: call.trace.clone(),
            timeout: call.timeout,
            at: Instant::now(),
            stored_state: row.try_get("", "state").expect("a state"),
            stored_command: row
                .try_get::<Option<String>>("", "command")
                .expect("text")
                .unwrap_or_default(),
            stored_command_id: row
                .try_get::<Option<Uuid>>("", "command_id")
                .expect("an id")
                .unwrap_or_default(),
        };
        self.remote.0.sent.lock().unwrap().push(sent);
        let _under_way = UnderWay::new(&self.remote.0);
        let scripted = (command.key.clone(), command.what.clone());
        let mut act = self
            .remote
            .0
            .acts
            .lock()
            .unwrap()
            .get_mut(&scripted)
            .and_then(VecDeque::pop_front)
            .unwrap_or_else(done);
        loop {
            match act {
                Act::Answer(news) => return Ok(news),
                Act::Fail(fault) => return Err(fault),
                Act::Panic => panic!("as scripted"),
                Act::Hang => std::future::pending().await,
                Act::Gate(gate, then) => {
                    gate.notified().await;
                    act = *then;
                }
            }
        }
    }

    async fn decide(
        &self,
        tx: &Tx,
        saga: &mut Progress<State>,
        input: Input<News>,
    ) -> Result<Decision<Command>, Fault> {
        let name = format!("{input:?}").split('(').next().unwrap_or_default().to_owned();
        let name = if saga.signal.is_some() {
            format!("{name}+signal")
        } else {
            name
        };
        self.remote
            .0
            .inputs
            .lock()
            .unwrap()
            .push((saga.business_key.clone(), name));
        let trouble = self
            .remote
            .0
            .failures
            .lock()
            .unwrap()
            .get_mut(&saga.business_key)
            .and_then(VecDeque::pop_front);
        // A change of the module's own that must not outlive a decision that failed.
        banyan_durable::audit(
            tx,
            &banyan_core::Actor::Anonymous,
            "decided",
            &saga.business_key,
            "",
            None,
        )
        .await?;
        match trouble {
            Some(Failure::Fail(fault)) => return Err(fault),
            Some(Failure::Panic) => panic!("as scripted"),
            Some(Failure::Park) => {
                return Ok(Decision::Park {
                    reason: "as scripted".into(),
                });
            }
            Some(Failure::Slow(time)) => tokio::time::sleep(time).await,
            None => {}
        }
        let committed_forward = saga.step == "capture" || saga.compensating;
        Ok(match input {
            Input::Started if saga.signal.as_deref() == Some("cancel") => backward(saga),
            Input::Started => forward(saga),
            Input::News(News::InProgress) => Decision::Repeat {
                after: Duration::from_millis(20),
            },
            Input::News(News::Done) if saga.compensating => {
                saga.state.done.pop();
                backward(saga)
            }
            Input::News(News::Done) => {
                saga.state.done.push(saga.step.clone());
                let cancelled = saga.signal.as_deref() == Some("cancel") || saga.deadline_passed;
                if cancelled && saga.step != "capture" {
                    backward(saga)
                } else {
                    forward(saga)
                }
            }
            Input::Refused(fault) if saga.compensating => Decision::Park {
                reason: fault.to_string(),
            },
            Input::Refused(_) => backward(saga),
            Input::DeadlinePassed | Input::Signal(_) | Input::Compensate if committed_forward => {
                saga.state.deadlines_told += u32::from(matches!(input, Input::DeadlinePassed));
                Decision::Continue
            }
            Input::Signal(signal) if signal != "cancel" => Decision::Continue,
            // The step under way may have taken effect: it is undone as well.
            Input::DeadlinePassed | Input::Signal(_) | Input::Compensate => {
                saga.state.deadlines_told += u32::from(matches!(input, Input::DeadlinePassed));
                if !saga.step.is_empty() {
                    saga.state.done.push(saga.step.clone());
                }
                backward(saga)
            }
        })
    }

    fn shown(state: &State) -> serde_json::Value {
        serde_json::to_value(state).unwrap()
    }

    async fn abandon(&self, tx: &Tx, call: &Call, business_key: &str) -> Result<(), Fault> {
        banyan_durable::audit(tx, &call.actor, "given_up", business_key, "", None).await?;
        let trouble = self
            .remote
            .0
            .failures
            .lock()
            .unwrap()
            .get_mut(business_key)
            .and_then(VecDeque::pop_front);
        if let Some(Failure::Fail(fault)) = trouble {
            Err(fault)
        } else {
            Ok(())
        }
    }
}

fn command(progress: &Progress<State>, step: &str, undo: bool) -> Command {
    let direction = if undo { "undo" } else { "do" };
    Command {
        command_id: saga::command_id(progress.id, step, undo),
        what: format!("{step}/{direction}"),
        key: progress.business_key.clone(),
        nonce: Uuid::new_v4(),
    }
}

fn forward(saga: &Progress<State>) -> Decision<Command> {
    match STEPS.get(saga.state.done.len()) {
        Some(step) => Decision::Do {
            step,
            command: command(saga, step, false),
        },
        None => Decision::Complete,
    }
}

fn backward(saga: &Progress<State>) -> Decision<Command> {
    let last = saga
        .state
        .done
        .last()
        .and_then(|last| STEPS.into_iter().find(|step| step == last));
    match last {
        Some(step) => Decision::Undo {
            step,
            command: command(saga, step, true),
        },
        None => Decision::Compensated,
    }
}
