//! A saga of three steps whose remote services do as the test says, and what a test needs to look at it.

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
use banyan_durable::{
    Db, Decision, Input, Machinery, MachineryLimits, Progress, Saga, Sagas, Settings, Tx,
    saga::{self, SagaDetails, SagaOps, SagaState},
};
use banyan_durable_testing::eventually;
use sea_orm::{ConnectionTrait, Statement};
use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub const STEPS: [&str; 3] = ["reserve", "authorise", "capture"];
/// What any wait in these tests may take; nothing gets near it unless it hangs.
pub const LONG: Duration = Duration::from_secs(20);

/// Times that a test can wait for.
pub fn quick() -> Settings {
    Settings {
        pool: 8,
        lease_ms: 5_000,
        saga_retry_cap_ms: 20,
        limits: MachineryLimits {
            poll: Duration::from_millis(100),
            saga_call_timeout: Duration::from_millis(400),
            saga_first_retry: Duration::from_millis(4),
            renewals_per_lease: 5,
            ..MachineryLimits::default()
        },
        ..banyan_durable_testing::settings()
    }
}

/// Leases that a test can outlive.
pub fn short_leases() -> Settings {
    Settings {
        lease_ms: 600,
        limits: MachineryLimits {
            renewals_per_lease: 4,
            ..quick().limits
        },
        ..quick()
    }
}

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
    Act::Fail(Fault::new(banyan_core::FaultKind::Unavailable, "unavailable", "away"))
}

pub fn unavailable_for(wait: Duration) -> Act {
    Act::Fail(Fault::unavailable("away").retry_after(wait))
}

pub fn bug() -> Act {
    Act::Fail(Fault::internal("bug", "a bug"))
}

pub fn gated(act: Act) -> (Arc<Notify>, Act) {
    let gate = Arc::new(Notify::new());
    (gate.clone(), Act::Gate(gate, Box::new(act)))
}

/// How `decide` goes wrong, before it decides anything.
#[derive(Clone)]
pub enum Trouble {
    Fail(Fault),
    Panic,
    Park,
    /// Takes its time and then decides as ever.
    Slow(Duration),
}

/// A command as it arrived at a remote service, with what the saga's row said at that moment.
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
    troubles: Mutex<HashMap<String, VecDeque<Trouble>>>,
    sent: Mutex<Vec<Sent>>,
    heard: Mutex<Vec<(String, String)>>,
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

    /// What happens in the next runs of `decide` for `key`.
    pub fn trouble(&self, key: &str, troubles: impl IntoIterator<Item = Trouble>) {
        self.0
            .troubles
            .lock()
            .unwrap()
            .entry(key.to_owned())
            .or_default()
            .extend(troubles);
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
    pub fn whats(&self, key: &str) -> Vec<String> {
        self.sent(key).into_iter().map(|sent| sent.what).collect()
    }

    /// What the saga was told, also in runs of `decide` that were rolled back.
    pub fn heard(&self, key: &str) -> Vec<String> {
        self.0
            .heard
            .lock()
            .unwrap()
            .iter()
            .filter(|(of, _)| of == key)
            .map(|(_, input)| input.clone())
            .collect()
    }

    /// The most commands that were under way at the same time.
    pub fn most_at_once(&self) -> usize {
        self.0.most.load(Ordering::SeqCst)
    }

    pub async fn until_sent(&self, key: &str, what: &str, times: usize) {
        let count = || self.whats(key).iter().filter(|sent| *sent == what).count();
        eventually(&format!("{what} of {key} was sent {times} times"), LONG, || async {
            count() >= times
        })
        .await;
    }
}

/// Counts a command as under way until it is answered or abandoned.
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

    async fn send(&self, call: &Call, command_id: Uuid, command: &Command) -> Result<News, Fault> {
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
            command_id,
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
        let heard = format!("{input:?}").split('(').next().unwrap_or_default().to_owned();
        let heard = if saga.signal.is_some() {
            format!("{heard}+signal")
        } else {
            heard
        };
        self.remote
            .0
            .heard
            .lock()
            .unwrap()
            .push((saga.business_key.clone(), heard));
        let trouble = self
            .remote
            .0
            .troubles
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
            Some(Trouble::Fail(fault)) => return Err(fault),
            Some(Trouble::Panic) => panic!("as scripted"),
            Some(Trouble::Park) => {
                return Ok(Decision::Park {
                    reason: "as scripted".into(),
                });
            }
            Some(Trouble::Slow(time)) => tokio::time::sleep(time).await,
            None => {}
        }
        let committed_forward = saga.step == "capture" || saga.compensating;
        Ok(match input {
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
            .troubles
            .lock()
            .unwrap()
            .get_mut(business_key)
            .and_then(VecDeque::pop_front);
        if let Some(Trouble::Fail(fault)) = trouble {
            Err(fault)
        } else {
            Ok(())
        }
    }
}

fn command(saga: &Progress<State>, what: String) -> Command {
    Command {
        what,
        key: saga.business_key.clone(),
        nonce: Uuid::new_v4(),
    }
}

fn forward(saga: &Progress<State>) -> Decision<Command> {
    match STEPS.get(saga.state.done.len()) {
        Some(step) => Decision::Do {
            step,
            command: command(saga, format!("{step}/do")),
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
            command: command(saga, format!("{step}/undo")),
        },
        None => Decision::Compensated,
    }
}

/// A module whose sagas follow the script.
#[derive(Clone)]
pub struct Shop {
    pub db: Db,
    pub remote: Remote,
}

impl Shop {
    pub fn new(db: &Db) -> Self {
        Shop {
            db: db.clone(),
            remote: Remote::default(),
        }
    }

    pub fn run(&self) -> Running {
        Running::new(self.sagas())
    }

    fn sagas(&self) -> Sagas {
        Sagas::new(self.db.clone()).with(Script::<1> {
            db: self.db.clone(),
            remote: self.remote.clone(),
        })
    }

    pub async fn start(&self, key: &str) -> Uuid {
        self.start_by(key, None, &Call::by_module("test"))
            .await
            .expect("the saga starts")
    }

    pub async fn start_within(&self, key: &str, deadline: Duration) -> Uuid {
        self.start_by(key, Some(deadline), &Call::by_module("test"))
            .await
            .expect("the saga starts")
    }

    pub async fn start_by(&self, key: &str, deadline: Option<Duration>, call: &Call) -> Result<Uuid, Fault> {
        let (key, call) = (key.to_owned(), call.clone());
        self.db
            .write((key, call), move |tx, (key, call)| async move {
                saga::start::<Script>(&tx, &call, &key, &State::default(), deadline).await
            })
            .await
    }

    pub async fn signal(&self, key: &str, signal: &'static str) -> bool {
        let key = key.to_owned();
        let told = self.db.write(key, move |tx, key| async move {
            saga::signal(&tx, "script", &key, signal).await
        });
        told.await.expect("a signal is stored")
    }

    pub fn ops(&self) -> SagaOps {
        Machinery::new(self.db.clone()).sagas(self.sagas()).ops().sagas()
    }

    pub async fn show(&self, id: Uuid) -> SagaDetails {
        self.ops().show(id).await.expect("the saga is shown")
    }

    pub async fn until(&self, id: Uuid, state: SagaState) -> SagaDetails {
        eventually(&format!("the saga is {state:?}"), LONG, || async {
            self.show(id).await.saga.state == state
        })
        .await;
        self.show(id).await
    }

    /// Runs an update of the saga's row behind everybody's back.
    pub async fn meddle(&self, set: &str, id: Uuid) {
        let statement = format!("update saga set {set} where id = $1");
        let touched = self.db.write(statement, move |tx, statement| async move {
            let backend = tx.conn().get_database_backend();
            let values = [id.into()];
            tx.conn()
                .execute_raw(Statement::from_sql_and_values(backend, statement, values))
                .await
                .map_err(banyan_durable::fault)
        });
        assert_eq!(touched.await.expect("the update runs").rows_affected(), 1);
    }

    /// How many decisions about `key` were committed.
    pub async fn decisions(&self, key: &str) -> i64 {
        self.audits("decided", key).await
    }

    pub async fn audits(&self, action: &str, target: &str) -> i64 {
        let sql = "select count(*) as audits from audit where action = $1 and target = $2";
        let statement = Statement::from_sql_and_values(self.db.backend(), sql, [action.into(), target.into()]);
        let row = self
            .db
            .read()
            .query_one_raw(statement)
            .await
            .expect("a count")
            .expect("a row");
        row.try_get("", "audits").expect("a number")
    }
}

pub fn entries(details: &SagaDetails) -> Vec<&str> {
    details.log.iter().map(|entry| entry.entry.as_str()).collect()
}

/// A runner under way. Dropped, it dies without a word, as by kill -9.
pub struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    pub fn new(sagas: Sagas) -> Self {
        let stop = CancellationToken::new();
        let token = stop.clone();
        Running {
            stop,
            task: tokio::spawn(async move { sagas.run(token).await }),
        }
    }

    pub async fn stop(mut self) {
        self.stop.cancel();
        (&mut self.task).await.expect("the runner ends");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}
