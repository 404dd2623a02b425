//! The calls to the provider that this process has under way.
//!
//! A call belongs to a started command, runs in a task of its own and outside any transaction, and ends in the one transaction that records the
//! outcome (`record.rs`). Nothing here must survive a crash: the command then stays started, and whoever meets it next, a caller that repeats it
//! or the reconciler, queries the provider for its outcome.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Weak},
    time::Duration,
};

use banyan_core::{Fault, FaultKind};
use banyan_durable::{Db, Remembered, Versioned};
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::Instant,
};
use uuid::Uuid;

use super::{
    CommandState, Kind, MoneyCommand,
    record::{self, Recorded},
};
use crate::{
    payment::{Payment, Status},
    provider::{AuthorisationRequest, Provider, Response},
    store,
};

/// The maximum number of concurrent calls to the provider: well below what providers allow one account. Further calls wait for a permit.
const CONCURRENT_CALLS: usize = 64;

/// The maximum number of commands that are remembered as recorded: a second's worth of a busy shop.
const RECENT_COMMANDS: usize = 512;

/// A started command with its payment as it is stored: everything the provider must know.
#[derive(Clone, Debug)]
pub struct ProviderCall {
    pub command: MoneyCommand,
    pub payment: Payment,
}

/// The calls under way. Dropping it aborts them.
pub struct ProviderCalls {
    me: Weak<ProviderCalls>,
    worker: Worker,
    running: Mutex<HashMap<Uuid, watch::Sender<CallStatus>>>,
    tasks: Mutex<JoinSet<()>>,
    recorded: Mutex<RecentCommands>,
    permits: Arc<Semaphore>,
    /// After this a call is aborted; its outcome is then unknown.
    timeout: Duration,
}

#[derive(Clone)]
struct Worker {
    db: Db,
    provider: Arc<dyn Provider>,
    authorised: Remembered<Payment>,
}

impl Versioned for Payment {
    fn version(&self) -> i64 {
        self.version
    }
}

#[derive(Clone, Debug)]
enum CallStatus {
    Running,
    /// The outcome is recorded, in this command if this call did it; or the provider could not be reached.
    Ended(Option<Box<MoneyCommand>>),
    /// The call met a bug, and a repeat will meet it again.
    Broken(Fault),
}

/// A call that is running or has ended.
pub struct PendingCall(watch::Receiver<CallStatus>);

impl PendingCall {
    /// Waits until the outcome is recorded or the call has ended without one, at most until `deadline`. Returns the command if this call recorded its
    /// outcome. Otherwise the stored command says whether it has one, whatever ended the wait.
    ///
    /// # Errors
    /// The bug the call met, as an internal fault: the outcome remains unknown, so this is not a refusal.
    pub async fn wait_until(mut self, deadline: Instant) -> Result<Option<MoneyCommand>, Fault> {
        let ended = self.0.wait_for(|status| !matches!(status, CallStatus::Running));
        match tokio::time::timeout_at(deadline, ended).await {
            Ok(Ok(status)) => match &*status {
                CallStatus::Broken(fault) => Err(fault.clone()),
                CallStatus::Ended(command) => Ok(command.as_deref().cloned()),
                CallStatus::Running => Ok(None),
            },
            Ok(Err(_)) | Err(_) => Ok(None),
        }
    }
}

impl ProviderCalls {
    pub fn new(db: Db, provider: Arc<dyn Provider>, timeout: Duration) -> Arc<Self> {
        Arc::new_cyclic(|me| ProviderCalls {
            me: me.clone(),
            worker: Worker {
                db,
                provider,
                authorised: Remembered::default(),
            },
            running: Mutex::default(),
            tasks: Mutex::default(),
            recorded: Mutex::default(),
            permits: Arc::new(Semaphore::new(CONCURRENT_CALLS)),
            timeout,
        })
    }

    /// The payments that this process authorised last, by order: most are captured within a second.
    pub fn authorised(&self) -> &Remembered<Payment> {
        &self.worker.authorised
    }

    /// Calls the provider for the first time.
    pub fn send(&self, call: ProviderCall) -> PendingCall {
        self.start(call.command.id, Some(call))
    }

    /// Finds the outcome of a command that was started before, unless this process has a call for it under way: queries the provider by
    /// reference, and carries the command out with the same key if the provider never saw it.
    pub fn resolve(&self, command: Uuid) -> PendingCall {
        self.start(command, None)
    }

    /// Whether a call of this process recorded the outcome of this command a short time ago: its webhook then has no news. `false` says nothing.
    pub fn has_recorded(&self, command: Uuid) -> bool {
        self.recorded.lock().0.contains(&command)
    }

    /// Wakes those who wait for this command: its outcome was recorded without this call.
    pub fn notify_recorded(&self, command: Uuid) {
        if let Some(waiters) = self.running.lock().get(&command) {
            waiters.send_replace(CallStatus::Ended(None));
        }
    }

    fn start(&self, command: Uuid, first: Option<ProviderCall>) -> PendingCall {
        let mut running = self.running.lock();
        if let Some(known) = running.get(&command) {
            return PendingCall(known.subscribe());
        }
        let (status, pending) = watch::channel(CallStatus::Running);
        running.insert(command, status);
        drop(running);
        let guard = RunningCall {
            calls: self.me.clone(),
            command,
            end: CallStatus::Ended(None),
        };
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(run(
            guard,
            first,
            self.worker.clone(),
            self.permits.clone(),
            self.timeout,
        ));
        PendingCall(pending)
    }
}

async fn run(
    mut guard: RunningCall,
    first: Option<ProviderCall>,
    worker: Worker,
    permits: Arc<Semaphore>,
    timeout: Duration,
) {
    let command = guard.command;
    let Ok(_permit) = permits.acquire_owned().await else {
        return;
    };
    let work = async {
        match first {
            Some(call) => worker.carry_out(call).await,
            None => worker.resolve(command).await,
        }
    };
    match tokio::time::timeout(timeout, work).await {
        Ok(Ok(Recorded::Now { command, void, .. })) => {
            if let Some(calls) = guard.calls.upgrade() {
                calls.recorded.lock().remember(command.id);
                if let Some(void) = void {
                    calls.resolve(void);
                }
            }
            guard.end = CallStatus::Ended(Some(command));
        }
        Ok(Ok(Recorded::Before | Recorded::Unknown)) => {}
        Ok(Err(fault)) => {
            metrics::counter!("banyan_payments_provider_faults_total", "code" => fault.code.clone()).increment(1);
            if fault.is_transient() {
                tracing::warn!(%command, %fault, "the outcome of a money command is unknown; the provider will be queried again");
            } else {
                tracing::error!(%command, %fault, "a bug keeps a money command from completing: an operator must look into it");
                // Whatever kind the provider's fault has, the command has no outcome: no caller may take this for a refusal.
                guard.end = CallStatus::Broken(Fault {
                    kind: FaultKind::Internal,
                    ..fault
                });
            }
        }
        Err(_) => tracing::warn!(%command, ?timeout, "the provider did not respond; it will be queried again"),
    }
}

/// The commands whose outcomes this process recorded last. A provider reports an outcome by webhook within moments of its response.
#[derive(Default)]
struct RecentCommands(VecDeque<Uuid>);

impl RecentCommands {
    fn remember(&mut self, command: Uuid) {
        if self.0.len() >= RECENT_COMMANDS {
            self.0.pop_front();
        }
        self.0.push_back(command);
    }
}

/// Removes a call from the running ones when its task ends, however it ends.
struct RunningCall {
    calls: Weak<ProviderCalls>,
    command: Uuid,
    end: CallStatus,
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        if let Some(calls) = self.calls.upgrade() {
            let status = calls.running.lock().remove(&self.command);
            status.map(|status| status.send_replace(std::mem::replace(&mut self.end, CallStatus::Ended(None))));
        }
    }
}

impl Worker {
    /// Calls the provider and records its response.
    async fn carry_out(&self, call: ProviderCall) -> Result<Recorded, Fault> {
        let began = Instant::now();
        let response = self.call(&call).await?;
        metrics::histogram!("banyan_payments_provider_call_seconds", "kind" => call.command.kind.into_str())
            .record(began.elapsed().as_secs_f64());
        let recorded = record::record(&self.db, call.command.id, response, Some(call.payment)).await?;
        if let Recorded::Now { payment, .. } = &recorded
            && payment.status == Status::Authorised
        {
            self.authorised
                .remember_committed(payment.order_id, (**payment).clone());
        }
        Ok(recorded)
    }

    async fn resolve(&self, id: Uuid) -> Result<Recorded, Fault> {
        let Some(command) = store::find_command(self.db.read(), id).await? else {
            return Ok(Recorded::Unknown);
        };
        let (CommandState::Started, Some(payment)) = (&command.state, command.payment_id) else {
            return Ok(Recorded::Before);
        };
        if let Some(response) = self.provider.find(id).await? {
            return record::record(&self.db, id, response, None).await;
        }
        let payment = store::load(self.db.read(), payment).await?;
        self.carry_out(ProviderCall { command, payment }).await
    }

    async fn call(&self, ProviderCall { command, payment }: &ProviderCall) -> Result<Response, Fault> {
        let key = command.id;
        let authorisation = || {
            let known = payment.authorisation.as_deref();
            known.ok_or_else(|| {
                Fault::internal(
                    "authorisation_lost",
                    format!("payment {} has no authorisation", payment.id),
                )
            })
        };
        match command.kind {
            Kind::Authorise => {
                let request = AuthorisationRequest {
                    order_id: payment.order_id,
                    amount: command.amount.clone(),
                    method: payment.method.clone(),
                };
                self.provider.authorise(key, &request).await
            }
            Kind::Capture => self.provider.capture(key, authorisation()?, &command.amount).await,
            Kind::Void => self.provider.void(key, authorisation()?).await,
            Kind::Refund => self.provider.refund(key, authorisation()?, &command.amount).await,
        }
    }
}
