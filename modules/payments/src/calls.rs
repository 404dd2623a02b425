//! Calls to the provider that this process has under way.
//!
//! A call belongs to a command that is `started`, runs in a task of its own and without a transaction, and ends in the one transaction that
//! records the outcome (`record.rs`). Nothing here must survive: if the process dies, the command stays `started`, and whoever meets it next,
//! the caller asking again or the reconciler, asks the provider what came of it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use banyan_core::{Fault, FaultKind};
use banyan_durable::Db;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::Instant,
};
use uuid::Uuid;

use crate::{
    command::{Kind, MoneyCommand, State},
    payment::Payment,
    provider::{Answer, AuthorisationRequest, Provider},
    record::{self, Recorded},
    settings::Settings,
    store,
};

/// A started command with its payment: all that the provider must know.
#[derive(Clone, Debug)]
pub struct Ask {
    pub command: MoneyCommand,
    pub payment: Payment,
}

/// The calls under way. When it is dropped they are broken off.
pub struct Calls {
    me: Weak<Calls>,
    worker: Worker,
    at_work: Mutex<HashMap<Uuid, watch::Sender<Stand>>>,
    tasks: Mutex<JoinSet<()>>,
    places: Arc<Semaphore>,
    settings: Settings,
}

#[derive(Clone)]
struct Worker {
    db: Db,
    provider: Arc<dyn Provider>,
}

#[derive(Clone, Debug)]
enum Stand {
    AtWork,
    /// The outcome is recorded, or nobody could be asked for it.
    Over,
    /// It met a bug, and asking again will meet it again.
    Broken(Fault),
}

/// A call under way, or over.
pub struct UnderWay(watch::Receiver<Stand>);

impl UnderWay {
    /// Waits until the outcome is recorded or the call has ended without one, but not beyond `until`. Whatever made the wait end, the command itself
    /// says whether it has an outcome.
    ///
    /// # Errors
    /// The bug the call met, as an internal fault: the outcome remains unknown, and no refusal.
    pub async fn wait_until(mut self, until: Instant) -> Result<(), Fault> {
        match tokio::time::timeout_at(until, self.0.wait_for(|stand| !matches!(stand, Stand::AtWork))).await {
            Ok(Ok(stand)) => match &*stand {
                Stand::Broken(fault) => Err(fault.clone()),
                Stand::AtWork | Stand::Over => Ok(()),
            },
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }
}

impl Calls {
    pub fn new(db: Db, provider: Arc<dyn Provider>, settings: Settings) -> Arc<Self> {
        Arc::new_cyclic(|me| Calls {
            me: me.clone(),
            worker: Worker { db, provider },
            at_work: Mutex::default(),
            tasks: Mutex::default(),
            places: Arc::new(Semaphore::new(settings.calls_at_once.max(1))),
            settings,
        })
    }

    /// Asks the provider for the first time.
    pub fn ask(&self, ask: Ask) -> UnderWay {
        self.start(ask.command.id, Some(ask))
    }

    /// Finds out what came of a command that was started before, unless a call for it is under way here: asks the provider by reference, and
    /// carries the command out with the same key if the provider never saw it.
    pub fn resolve(&self, command: Uuid) -> UnderWay {
        self.start(command, None)
    }

    /// Lets go whoever waits for this command: its outcome has been recorded by somebody else.
    pub fn announce(&self, command: Uuid) {
        if let Some(waiters) = self
            .at_work
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&command)
        {
            waiters.send_replace(Stand::Over);
        }
    }

    fn start(&self, command: Uuid, first: Option<Ask>) -> UnderWay {
        let mut at_work = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = at_work.get(&command) {
            return UnderWay(known.subscribe());
        }
        let (over, waiter) = watch::channel(Stand::AtWork);
        at_work.insert(command, over);
        drop(at_work);
        let entry = Entry {
            calls: self.me.clone(),
            command,
            end: Stand::Over,
        };
        let (calls, worker, places, limit) = (
            self.me.clone(),
            self.worker.clone(),
            self.places.clone(),
            self.settings.call_give_up(),
        );
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let mut entry = entry;
            let Ok(_place) = places.acquire_owned().await else { return };
            let work = async {
                match first {
                    Some(ask) => worker.carry_out(&ask).await,
                    None => worker.resolve(command).await,
                }
            };
            match tokio::time::timeout(limit, work).await {
                Ok(Ok(Some(void))) => {
                    if let Some(calls) = calls.upgrade() {
                        calls.resolve(void);
                    }
                }
                Ok(Ok(None)) => {}
                Ok(Err(fault)) => {
                    metrics::counter!("banyan_payments_provider_faults_total", "code" => fault.code.clone()).increment(1);
                    if fault.is_transient() {
                        tracing::warn!(%command, %fault, "the outcome of a money command is unknown; it will be asked for again");
                    } else {
                        tracing::error!(%command, %fault, "a money command meets a bug: somebody must look into it");
                        // Whatever the provider's fault was meant as, the command has no outcome: nobody may take this for a refusal.
                        entry.end = Stand::Broken(Fault { kind: FaultKind::Internal, ..fault });
                    }
                }
                Err(_) => tracing::warn!(%command, ?limit, "the provider did not answer; it will be asked again"),
            }
        });
        UnderWay(waiter)
    }
}

/// Takes a call off the list when its task ends, however it ends.
struct Entry {
    calls: Weak<Calls>,
    command: Uuid,
    end: Stand,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(calls) = self.calls.upgrade() {
            let over = calls
                .at_work
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&self.command);
            over.map(|over| over.send_replace(std::mem::replace(&mut self.end, Stand::Over)));
        }
    }
}

impl Worker {
    /// Asks the provider and records what it says; answers the id of a void that this outcome has started.
    async fn carry_out(&self, ask: &Ask) -> Result<Option<Uuid>, Fault> {
        let kind = ask.command.kind.as_str();
        let began = Instant::now();
        let answer = self.call(ask).await?;
        metrics::histogram!("banyan_payments_provider_call_seconds", "kind" => kind)
            .record(began.elapsed().as_secs_f64());
        self.record(ask.command.id, answer).await
    }

    async fn resolve(&self, id: Uuid) -> Result<Option<Uuid>, Fault> {
        let Some(command) = store::find_command(self.db.read(), id).await? else {
            return Ok(None);
        };
        let (State::Started, Some(payment)) = (&command.state, command.payment_id) else {
            return Ok(None);
        };
        if let Some(answer) = self.provider.find(id).await? {
            return self.record(id, answer).await;
        }
        let payment = store::load(self.db.read(), payment).await?;
        self.carry_out(&Ask { command, payment }).await
    }

    async fn record(&self, id: Uuid, answer: Answer) -> Result<Option<Uuid>, Fault> {
        match record::record(&self.db, id, answer).await? {
            Recorded::Now { void } => Ok(void),
            Recorded::Before | Recorded::Unknown => Ok(None),
        }
    }

    async fn call(&self, Ask { command, payment }: &Ask) -> Result<Answer, Fault> {
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
                let (amount, method) = (command.amount.clone(), payment.method.clone());
                self.provider
                    .authorise(
                        key,
                        &AuthorisationRequest {
                            order_id: payment.order_id,
                            amount,
                            method,
                        },
                    )
                    .await
            }
            Kind::Capture => self.provider.capture(key, authorisation()?, &command.amount).await,
            Kind::Void => self.provider.void(key, authorisation()?).await,
            Kind::Refund => self.provider.refund(key, authorisation()?, &command.amount).await,
        }
    }
}
