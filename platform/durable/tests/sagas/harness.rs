//! A module whose sagas follow a script, and what tests do with it and inspect of it.

use std::time::Duration;

use banyan_core::{Call, Fault};
use banyan_durable::{
    Db, Machinery, MachineryLimits, Sagas, Settings,
    saga::{self, SagaDetails, SagaOps, SagaState},
};
use banyan_durable_testing::eventually;
use sea_orm::{ConnectionTrait, Statement};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::script::{LONG, Remote, Script, State};

/// Times that a test can wait for.
pub fn quick() -> Settings {
    Settings {
        pool: 8,
        lease_ms: 5_000,
        saga_retry_cap_ms: 20,
        limits: MachineryLimits {
            poll: Duration::from_millis(100),
            idle_poll: Duration::from_millis(100),
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

/// A module whose sagas follow the script.
#[derive(Clone)]
pub struct Harness {
    pub db: Db,
    pub remote: Remote,
}

impl Harness {
    pub fn new(db: &Db) -> Self {
        Harness {
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
        let stored = self.db.write(key, move |tx, key| async move {
            saga::signal(&tx, "script", &key, signal).await
        });
        stored.await.expect("a signal is stored")
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

    /// Updates the saga's row directly.
    pub async fn edit(&self, set: &str, id: Uuid) {
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

    /// The number of committed decisions about `key`.
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

/// A running runner. Dropping it is a crash, as by kill -9.
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
