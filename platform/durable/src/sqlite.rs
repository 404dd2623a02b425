//! The one writer of an SQLite file: many jobs share a commit.
//!
//! Jobs wait in a queue. The writer opens a transaction for the first, runs whatever else is waiting in the same one, each in a savepoint of its own,
//! and commits. Results are returned and topics are woken after the commit and only then. Under load this gives several times the durable writes of
//! one commit for each job; without load a job waits for no other.
//!
//! The writer is a thread. A whole job runs on it, its statements too, because handing each of them to another thread costs more than most of them do.

use std::{
    collections::VecDeque,
    fmt::Display,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Instant,
};

use banyan_core::Fault;
use tokio::{
    runtime::Handle,
    sync::{broadcast, mpsc, oneshot},
};

use crate::{
    Change, Connection, Tx,
    connection::{
        Counts,
        sqlite::{self, Mode},
    },
    db::Facts,
    fault::{fault, is_lost_race},
    job::{self, Job, JobResult},
    tx::AfterCommit,
};

struct Queued {
    job: Job,
    attempt: u32,
    result: oneshot::Sender<JobResult>,
}

enum Message {
    Job(Queued),
    Close(oneshot::Sender<Last>),
}

/// The writer's connection, for whoever closes the others before it.
pub(crate) type Last = Option<Arc<sqlite::Connection>>;

pub(crate) struct Writer {
    queue: mpsc::Sender<Message>,
    closed: AtomicBool,
    /// Whether the last transaction could be committed.
    commits: Arc<AtomicBool>,
    file: Arc<sqlite::File>,
    max_attempts: u32,
}

impl Writer {
    /// `connection` is the one to write by; another one to the same file is opened if it is lost.
    pub fn start(
        connection: sqlite::Connection,
        file: Arc<sqlite::File>,
        counts: Counts,
        facts: Arc<Facts>,
        changes: broadcast::Sender<Change>,
    ) -> Result<Self, Fault> {
        let (queue, messages) = mpsc::channel(facts.settings.limits.write_queue);
        let commits = Arc::new(AtomicBool::new(true));
        let max_attempts = facts.settings.limits.write_attempts;
        let mut work = Loop {
            connection: Some(Arc::new(connection)),
            file: file.clone(),
            counts,
            facts,
            changes,
            commits: commits.clone(),
            again: VecDeque::new(),
            wrote: false,
        };
        let runtime = Handle::current();
        thread::Builder::new()
            .name(format!("write {}", work.facts.module))
            .spawn(move || {
                // What a job starts beside itself runs there.
                let _runtime = runtime.enter();
                work.run(messages);
            })
            .map_err(|error| Fault::unavailable(format!("cannot start the thread that writes: {error}")))?;
        Ok(Writer {
            queue,
            closed: AtomicBool::new(false),
            commits,
            file,
            max_attempts,
        })
    }

    /// Nothing else writes meanwhile, so a race is only lost by what was known before the job began; the next attempt reads it anew.
    pub async fn run(&self, job: Job) -> JobResult {
        let mut attempt = 1;
        loop {
            match self.once(job.clone(), attempt).await {
                Err(fault) if is_lost_race(&fault) && attempt < self.max_attempts => attempt += 1,
                done => return done,
            }
        }
    }

    async fn once(&self, job: Job, attempt: u32) -> JobResult {
        let (result, done) = oneshot::channel();
        if self.closed.load(Ordering::Acquire) {
            return Err(Fault::unavailable("The module is shutting down."));
        }
        self.queue
            .try_send(Message::Job(Queued { job, attempt, result }))
            .map_err(|_| Fault::unavailable("Too many writes are waiting."))?;
        done.await
            .unwrap_or_else(|_| Err(Fault::unavailable("The module is shutting down.")))
    }

    /// Whether the last transaction could be committed.
    pub fn commits(&self) -> bool {
        self.commits.load(Ordering::Acquire)
    }

    pub fn file(&self) -> &sqlite::File {
        &self.file
    }

    /// Waits until the jobs in the queue are done. The connection that is returned is the last one to close: SQLite then copies the WAL into the file and
    /// deletes it, which a connection that only reads cannot.
    pub async fn close(&self) -> Last {
        self.closed.store(true, Ordering::Release);
        let (done, closed) = oneshot::channel();
        self.queue.send(Message::Close(done)).await.ok()?;
        closed.await.ok().flatten()
    }
}

struct Loop {
    /// None after it was lost.
    connection: Option<Arc<sqlite::Connection>>,
    file: Arc<sqlite::File>,
    counts: Counts,
    facts: Arc<Facts>,
    changes: broadcast::Sender<Change>,
    commits: Arc<AtomicBool>,
    /// Jobs whose batch was lost through the fault of another job.
    again: VecDeque<Queued>,
    /// Whether the open transaction has changed a row.
    wrote: bool,
}

/// A job that ran; if `Ok`, its effects are in the open transaction, and this is to happen after the commit.
type Ran = (Queued, Result<AfterCommit, Fault>);

/// Why the transaction was lost, and with it every job of the batch.
enum BatchLost {
    /// The job took too long and was interrupted in the middle of a write, which ends the transaction.
    TooLong(Fault),
    Database,
}

impl Loop {
    fn run(&mut self, mut messages: mpsc::Receiver<Message>) {
        let mut closing = Vec::new();
        loop {
            let next = match self.again.pop_front() {
                Some(queued) => Some(Message::Job(queued)),
                None if closing.is_empty() => messages.blocking_recv(),
                None => messages.try_recv().ok(),
            };
            match next {
                Some(Message::Job(first)) => self.commit_batch(first, &mut messages, &mut closing),
                Some(Message::Close(done)) => closing.push(done),
                None => break,
            }
        }
        for done in closing {
            let _ = done.send(self.connection.take());
        }
    }

    fn begin(&mut self) -> Result<Arc<sqlite::Connection>, Fault> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => Arc::new(sqlite::Connection::open(&self.file, Mode::Write).map_err(fault)?),
        };
        connection.interrupt_at(None);
        connection.control("begin immediate").map_err(fault)?;
        self.counts.transaction();
        Ok(connection)
    }

    /// The next waiting job, if the batch has room for it.
    fn next(
        &mut self,
        ran: usize,
        messages: &mut mpsc::Receiver<Message>,
        closing: &mut Vec<oneshot::Sender<Last>>,
    ) -> Option<Queued> {
        if ran >= self.facts.settings.limits.commit_batch {
            return None;
        }
        if let Some(queued) = self.again.pop_front() {
            return Some(queued);
        }
        match messages.try_recv().ok()? {
            Message::Job(queued) => Some(queued),
            Message::Close(done) => {
                closing.push(done);
                None
            }
        }
    }

    fn commit_batch(
        &mut self,
        first: Queued,
        messages: &mut mpsc::Receiver<Message>,
        closing: &mut Vec<oneshot::Sender<Last>>,
    ) {
        let connection = match self.begin() {
            Ok(connection) => connection,
            Err(fault) => {
                self.report(false);
                self.log_loss(&fault);
                let _ = first.result.send(Err(fault));
                return;
            }
        };
        self.wrote = false;
        let mut ran: Vec<Ran> = Vec::new();
        let mut next = Some(first);
        while let Some(queued) = next {
            match self.run_one(&connection, &queued) {
                Ok(done) => ran.push((queued, done)),
                Err(BatchLost::TooLong(fault)) => {
                    let _ = queued.result.send(Err(fault));
                    // The others run once more, without it. The connection is given up with the transaction.
                    self.again.extend(ran.into_iter().map(|(queued, _)| queued));
                    return;
                }
                Err(BatchLost::Database) => {
                    ran.push((queued, Ok(AfterCommit::default())));
                    self.report(false);
                    return self.finish(ran, false);
                }
            }
            next = self.next(ran.len(), messages, closing);
        }
        metrics::histogram!("banyan_commit_batch_jobs", "module" => self.facts.module.clone()).record(ran.len() as f64);
        connection.interrupt_at(None);
        if self.file.check_is_there().is_err() {
            self.report(false);
            // The connection is closed with the transaction.
            return self.finish(ran, false);
        }
        let committed = match connection.control("commit") {
            Ok(()) => {
                // A transaction that wrote nothing can be committed on a full disk, too.
                if self.wrote {
                    self.report(true);
                }
                true
            }
            Err(error) => {
                self.report(false);
                self.log_loss(&error);
                false
            }
        };
        if committed {
            // Any other connection is closed, which also rolls back whatever it holds, and the next job gets a new one.
            self.connection = Some(connection);
        }
        self.finish(ran, committed);
    }

    fn finish(&mut self, ran: Vec<Ran>, committed: bool) {
        for (queued, done) in ran {
            let done = match (done, committed) {
                (Ok(after), true) => {
                    after.run(&self.changes);
                    Ok(())
                }
                // A refusal too may depend on what another job of the batch wrote, and that is lost.
                (_, false) => Err(Fault::unavailable("The database could not commit.")),
                (Err(fault), true) => Err(fault),
            };
            // The work is committed even if its caller was dropped.
            let _ = queued.result.send(done);
        }
    }

    /// A statement of the writer's own, without which the batch is lost.
    fn control(&self, connection: &sqlite::Connection, sql: &str) -> Result<(), BatchLost> {
        connection.control(sql).map_err(|error| {
            self.log_loss(&error);
            BatchLost::Database
        })
    }

    fn log_loss(&self, error: &dyn Display) {
        tracing::error!(module = self.facts.module, file = %self.file.path.display(), %error, "a batch of writes could not be committed");
    }

    fn report(&self, committed: bool) {
        self.commits.store(committed, Ordering::Release);
    }

    /// Runs one job in a savepoint. SQLite ends a transaction by itself, savepoints and all, when the disk is full or broken, and when a write is
    /// interrupted.
    fn run_one(
        &mut self,
        connection: &Arc<sqlite::Connection>,
        queued: &Queued,
    ) -> Result<Result<AfterCommit, Fault>, BatchLost> {
        let limit = self.facts.settings.limits.job_timeout;
        connection.interrupt_at(None);
        self.control(connection, "savepoint job")?;
        let changes_before = connection.total_changes();
        let deadline = Instant::now() + limit;
        connection.interrupt_at(Some(deadline));
        let tx = Tx::new(
            Connection::sqlite(connection.clone(), self.counts.clone()),
            self.facts.clone(),
            queued.attempt,
        );
        let done = run_until(deadline, job::run(&queued.job, &tx));
        connection.interrupt_at(None);
        let done = match done {
            Some(Err(_)) | None if Instant::now() >= deadline => Err(job::too_long(&tx, limit)),
            Some(done) => done,
            None => Err(job::too_long(&tx, limit)),
        };
        let finished = tx.finish();
        if !connection.is_in_transaction() {
            return Err(match done {
                Err(fault) if Instant::now() >= deadline => BatchLost::TooLong(fault),
                _ => BatchLost::Database,
            });
        }
        let (_, after) = finished.map_err(|fault| {
            tracing::error!(%fault, "a write job kept its transaction");
            BatchLost::Database
        })?;
        match done {
            Ok(()) => {
                self.control(connection, "release job")?;
                self.wrote |= connection.total_changes() != changes_before;
                Ok(Ok(after))
            }
            Err(fault) => {
                self.control(connection, "rollback to job")?;
                self.control(connection, "release job")?;
                Ok(Err(fault))
            }
        }
    }
}

/// Runs `work` on this thread until it is done; `None` if it is not by `deadline`.
fn run_until<W: Future>(deadline: Instant, work: W) -> Option<W::Output> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut work = pin!(work);
    loop {
        if let Poll::Ready(done) = work.as_mut().poll(&mut context) {
            return Some(done);
        }
        let left = deadline.checked_duration_since(Instant::now())?;
        thread::park_timeout(left);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
