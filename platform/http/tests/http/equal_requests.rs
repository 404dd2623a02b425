//! Equal requests while the first one is still running, in one process and in two.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_web::test;
use banyan_core::{Fault, FaultKind, RandomIds, SystemClock};
use banyan_durable::{Db, MachineryLimits, Settings, Storage};
use banyan_durable_testing::PostgresHome;
use banyan_http::{Problem, RequiredKey, StoredResponse};
use serde_json::json;
use tokio::sync::{Notify, watch};

/// A request for long work.
async fn keyed(key: &'static str) -> banyan_http::KeyedRequest {
    let request = test::TestRequest::post()
        .uri("/long")
        .insert_header(("Idempotency-Key", key))
        .to_http_request();
    <RequiredKey as actix_web::FromRequest>::extract(&request)
        .await
        .unwrap()
        .keyed()
}

/// Work that waits for the test after it has begun.
struct LongWork {
    db: Db,
    runs: AtomicUsize,
    began: Notify,
    go: watch::Sender<bool>,
}

impl LongWork {
    fn new(db: &Db) -> Arc<Self> {
        Arc::new(LongWork {
            db: db.clone(),
            runs: AtomicUsize::new(0),
            began: Notify::new(),
            go: watch::Sender::default(),
        })
    }

    /// Sends a request with the key `long`, whose work ends with this result.
    async fn send(self: &Arc<Self>, end: Result<StoredResponse, Fault>) -> Result<(u16, bool), Fault> {
        let context = (self.clone(), end);
        let response = banyan_http::idempotent(&self.db, keyed("long").await, context, |_, (work, end)| async move {
            work.runs.fetch_add(1, Ordering::SeqCst);
            work.began.notify_one();
            let _ = work.go.subscribe().wait_for(|go| *go).await;
            end
        });
        let response = response.await.map_err(|problem| problem.0)?;
        Ok((
            response.status().as_u16(),
            response.headers().contains_key("idempotency-replayed"),
        ))
    }

    /// The same, but the client disconnects once the work has begun.
    async fn send_and_disconnect(self: &Arc<Self>, end: Result<StoredResponse, Fault>) {
        tokio::select! {
            response = self.send(end) => panic!("responded before it was done: {response:?}"),
            () = self.began.notified() => {}
        }
    }
}

/// The work in these tests takes longer than the timeout of an equal request.
fn long_jobs() -> Settings {
    Settings {
        limits: MachineryLimits {
            job_timeout: Duration::from_secs(20),
            ..MachineryLimits::default()
        },
        ..banyan_durable_testing::settings()
    }
}

#[actix_web::test]
async fn an_equal_request_during_a_long_one_gets_a_409_even_if_the_first_client_has_disconnected() {
    banyan_durable_testing::on_both_with("orders", long_jobs(), async |db| {
        let work = LongWork::new(&db);
        let response = || Ok(StoredResponse::no_content());
        work.send_and_disconnect(response()).await;
        let equal = tokio::time::timeout(Duration::from_secs(10), work.send(response()))
            .await
            .expect("it waits for 2 s");
        let equal = equal.unwrap_err();
        assert_eq!(
            (equal.code.as_str(), equal.kind),
            ("twin_in_progress", FaultKind::Conflict)
        );
        assert!(equal.retry_after.is_some());
        work.go.send_replace(true);
        assert_eq!(work.send(response()).await.unwrap(), (204, true), "the work was done");
        assert_eq!(work.runs.load(Ordering::SeqCst), 1);
    })
    .await;
}

#[actix_web::test]
async fn a_refusal_is_stored_even_if_its_client_disconnected_before() {
    banyan_durable_testing::on_both_with("orders", long_jobs(), async |db| {
        let work = LongWork::new(&db);
        let refusal = || Err(Fault::conflict("no_figs_left", "There are none."));
        work.send_and_disconnect(refusal()).await;
        work.go.send_replace(true);
        assert_eq!(work.send(refusal()).await.unwrap(), (409, true));
        assert_eq!(work.runs.load(Ordering::SeqCst), 1, "nothing is done twice");
    })
    .await;
}

#[actix_web::test]
async fn an_equal_request_in_another_process_waits_two_seconds_and_gets_a_409() {
    let home = PostgresHome::new().await;
    let place = home.storage("orders").await;
    let patient = Settings {
        limits: MachineryLimits {
            job_timeout: Duration::from_secs(60),
            ..MachineryLimits::default()
        },
        ..banyan_durable_testing::settings()
    };
    let (one, other) = (
        banyan_durable_testing::open("orders", &place, patient).await,
        open_in_another_process(&place).await,
    );
    let (gate, begun) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let context = (gate.clone(), begun.clone());
    let first = banyan_http::idempotent(&one, keyed("both").await, context, |_, (gate, begun)| async move {
        begun.notify_one();
        gate.notified().await;
        Ok(StoredResponse::no_content())
    });
    let equal = async || {
        banyan_http::idempotent(&other, keyed("both").await, (), |_, ()| async {
            Ok(banyan_http::created("/figs/2", None, &json!({})))
        })
        .await
    };
    let meet = async {
        begun.notified().await;
        let begun_at = std::time::Instant::now();
        let Problem(fault) = equal().await.unwrap_err();
        assert_eq!(
            (fault.code.as_str(), banyan_http::status_of(&fault).as_u16()),
            ("twin_in_progress", 409)
        );
        assert!(
            fault.retry_after.is_some() && begun_at.elapsed() >= Duration::from_secs(2),
            "{:?}",
            begun_at.elapsed()
        );
        gate.notify_one();
    };
    let (first, ()) = tokio::join!(first, meet);
    assert_eq!(first.unwrap().status().as_u16(), 204);
    assert_eq!(
        equal().await.unwrap().status().as_u16(),
        204,
        "the response to the first one"
    );
    one.close().await;
    other.close().await;
    home.remove().await;
}

/// The same tables under another module name, as if opened by another process: requests of one process wait for each other before they get there.
async fn open_in_another_process(place: &Storage) -> Db {
    Db::open(
        "another",
        place,
        banyan_durable_testing::settings(),
        Arc::new(SystemClock),
        Arc::new(RandomIds),
    )
    .await
    .unwrap()
}
