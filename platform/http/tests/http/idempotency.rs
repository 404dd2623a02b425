//! A repeated request gets the stored response; on both databases.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_web::{App, HttpRequest, HttpResponse, post, test, web::Data};
use banyan_core::{Event, Fault, FaultKind, RandomIds, SystemClock};
use banyan_durable::{Db, Settings, Storage, outbox};
use banyan_durable_testing::PostgresHome;
use banyan_http::{Body, HasRole, OptionalKey, Problem, RequiredKey, StoredResponse, Verifier};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::callers::Customer;
use crate::support::{FakeKeys, HandClock, Signer, verifier};

/// An effect of a handler that can be counted: an event in the outbox.
#[derive(Debug, Serialize, Deserialize)]
struct FigPicked {
    note: String,
}

impl Event for FigPicked {
    const TYPE: &'static str = "banyan.test.v1.FigPicked";
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Pick {
    /// The outcome: `ok`, `refuse`, `slow`.
    outcome: String,
}

struct State {
    db: Db,
    runs: Arc<AtomicUsize>,
    /// The fault of the next run, whatever outcome was requested.
    instead: Arc<Mutex<Option<Fault>>>,
}

impl State {
    async fn pick(
        &self,
        keyed: banyan_http::KeyedRequest,
        customer: &HasRole<Customer>,
        wanted: Pick,
    ) -> Result<HttpResponse, Problem> {
        if let Some(replay) = banyan_http::find_replay(&self.db, &keyed).await? {
            return Ok(replay);
        }
        let context = (self.runs.clone(), customer.call().clone(), self.instead.clone(), wanted);
        banyan_http::idempotent(
            &self.db,
            keyed,
            context,
            |tx, (runs, call, instead, wanted)| async move {
                let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
                outbox::append(
                    &tx,
                    &call,
                    "fig/1",
                    &FigPicked {
                        note: wanted.outcome.clone(),
                    },
                )
                .await?;
                if let Some(fault) = instead.lock().unwrap().take() {
                    return Err(fault);
                }
                match wanted.outcome.as_str() {
                    "refuse" => Err(Fault::conflict("no_figs_left", format!("Refused in run {run}."))),
                    "slow" => {
                        tokio::time::sleep(Duration::from_millis(400)).await;
                        Ok(banyan_http::created("/figs/1", Some("\"1\""), &json!({"run": run})))
                    }
                    _ => Ok(banyan_http::created("/figs/1", Some("\"1\""), &json!({"run": run}))),
                }
            },
        )
        .await
    }
}

#[post("/figs")]
async fn pick(
    customer: HasRole<Customer>,
    key: RequiredKey,
    body: Body<Pick>,
    state: Data<State>,
) -> Result<HttpResponse, Problem> {
    state.pick(key.keyed(), &customer, body.into_inner()).await
}

#[post("/maybe")]
async fn maybe(
    customer: HasRole<Customer>,
    key: OptionalKey,
    body: Body<Pick>,
    state: Data<State>,
) -> Result<HttpResponse, Problem> {
    state.pick(key.keyed(), &customer, body.into_inner()).await
}

#[post("/bare")]
async fn bare(
    _: HttpRequest,
    customer: HasRole<Customer>,
    key: RequiredKey,
    state: Data<State>,
) -> Result<HttpResponse, Problem> {
    state
        .pick(
            key.keyed(),
            &customer,
            Pick {
                outcome: "ok".to_owned(),
            },
        )
        .await
}

/// The parts of a response that a client compares.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    status: u16,
    body: String,
    location: Option<String>,
    etag: Option<String>,
    replayed: bool,
}

impl Seen {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

struct Orchard {
    state: Data<State>,
    verifier: Data<Verifier>,
    signer: Signer,
}

impl Orchard {
    fn new(db: &Db) -> Self {
        let signer = Signer::new("k1");
        let state = State {
            db: db.clone(),
            runs: Arc::default(),
            instead: Arc::default(),
        };
        Orchard {
            state: Data::new(state),
            verifier: verifier(FakeKeys::of(&[&signer]), HandClock::new()),
            signer,
        }
    }

    async fn send(&self, path: &str, key: Option<&str>, outcome: &str) -> Seen {
        self.send_as(7, path, key, json!({"outcome": outcome}).to_string())
            .await
    }

    async fn send_as(&self, user: u128, path: &str, key: Option<&str>, body: String) -> Seen {
        let app = App::new().app_data(self.state.clone()).app_data(self.verifier.clone());
        let app = test::init_service(
            app.service(pick)
                .service(maybe)
                .service(bare)
                .wrap(banyan_http::shell(banyan_http::ShellSettings::default())),
        )
        .await;
        let token = self
            .signer
            .token_with(|claims| claims["sub"] = json!(Uuid::from_u128(user)));
        let request = test::TestRequest::post()
            .uri(path)
            .insert_header(("Authorization", format!("Bearer {token}")));
        let request = request
            .insert_header(("Content-Type", "application/json"))
            .set_payload(body);
        let request = key
            .into_iter()
            .fold(request, |request, key| request.insert_header(("Idempotency-Key", key)));
        let response = test::call_service(&app, request.to_request()).await;
        let header = |name: &str| {
            response
                .headers()
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        let (location, etag, replayed) = (
            header("location"),
            header("etag"),
            header("idempotency-replayed").is_some(),
        );
        let status = response.status().as_u16();
        let body = String::from_utf8(test::read_body(response).await.to_vec()).unwrap();
        Seen {
            status,
            body,
            location,
            etag,
            replayed,
        }
    }

    fn runs(&self) -> usize {
        self.state.runs.load(Ordering::SeqCst)
    }

    /// The number of picks in the outbox, derived from its subject's next version.
    async fn picked(&self) -> i64 {
        let call = banyan_core::Call::by_module("test");
        let version = self.state.db.write(call, |tx, call| async move {
            outbox::append(
                &tx,
                &call,
                "fig/1",
                &FigPicked {
                    note: "probe".to_owned(),
                },
            )
            .await
        });
        version.await.unwrap() - 1
    }
}

#[actix_web::test]
async fn a_repeated_request_gets_the_first_response_byte_for_byte_and_has_no_effect() {
    banyan_durable_testing::on_both("orders", async |db| {
        let orchard = Orchard::new(&db);
        let first = orchard.send("/figs", Some("k1"), "ok").await;
        assert_eq!(
            (first.status, first.body.as_str(), first.replayed),
            (201, "{\"run\":1}", false)
        );
        for key in ["k1", "\"k1\""] {
            let again = orchard.send("/figs", Some(key), "ok").await;
            assert_eq!(
                again,
                Seen {
                    replayed: true,
                    ..orchard_copy(&first)
                }
            );
        }
        assert_eq!((orchard.runs(), orchard.picked().await), (1, 1));
    })
    .await;
}

fn orchard_copy(seen: &Seen) -> Seen {
    Seen {
        status: seen.status,
        body: seen.body.clone(),
        location: seen.location.clone(),
        etag: seen.etag.clone(),
        replayed: seen.replayed,
    }
}

#[actix_web::test]
async fn the_same_key_for_another_request_is_refused() {
    banyan_durable_testing::on_both("orders", async |db| {
        let orchard = Orchard::new(&db);
        assert_eq!(orchard.send("/figs", Some("k1"), "ok").await.status, 201);
        for (path, outcome) in [("/figs", "other"), ("/maybe", "ok"), ("/figs?x=1", "ok")] {
            let refused = orchard.send(path, Some("k1"), outcome).await;
            assert_eq!(
                (refused.status, refused.json()["code"].as_str()),
                (422, Some("idempotency_key_reused")),
                "{path}"
            );
        }
        assert_eq!(
            orchard
                .send_as(8, "/figs", Some("k1"), json!({"outcome": "ok"}).to_string())
                .await
                .status,
            201,
            "another caller's k1"
        );
        assert_eq!(orchard.runs(), 2);
    })
    .await;
}

#[actix_web::test]
async fn a_refusal_is_stored_and_its_effects_are_rolled_back() {
    banyan_durable_testing::on_both("orders", async |db| {
        let orchard = Orchard::new(&db);
        let first = orchard.send("/figs", Some("k1"), "refuse").await;
        assert_eq!(
            (first.status, first.json()["code"].as_str()),
            (409, Some("no_figs_left"))
        );
        assert_eq!(first.json()["instance"], "/figs");
        let again = orchard.send("/figs", Some("k1"), "refuse").await;
        assert_eq!(
            again,
            Seen {
                replayed: true,
                ..first
            }
        );
        assert_eq!((orchard.runs(), orchard.picked().await), (1, 0));
    })
    .await;
}

#[actix_web::test]
async fn a_fault_is_not_stored_and_a_retry_works() {
    banyan_durable_testing::on_both("orders", async |db| {
        let orchard = Orchard::new(&db);
        let faults = [
            (Fault::unavailable("down"), 503),
            (Fault::timeout("late"), 504),
            (Fault::internal("bug", "x"), 500),
            (Fault::forbidden("no"), 403),
            (
                Fault::conflict("busy", "later").retry_after(Duration::from_secs(1)),
                409,
            ),
        ];
        for (number, (fault, status)) in faults.into_iter().enumerate() {
            let key = format!("k{number}");
            *orchard.state.instead.lock().unwrap() = Some(fault);
            assert_eq!(orchard.send("/figs", Some(&key), "ok").await.status, status);
            let again = orchard.send("/figs", Some(&key), "ok").await;
            assert_eq!((again.status, again.replayed), (201, false));
        }
        assert_eq!(orchard.picked().await, 5);
    })
    .await;
}

#[actix_web::test]
async fn concurrent_equal_requests_run_once() {
    banyan_durable_testing::on_both("orders", async |db| {
        let orchard = Orchard::new(&db);
        let send = || orchard.send("/figs", Some("k1"), "slow");
        let responses = futures::future::join_all([send(), send(), send(), send()]).await;
        assert!(
            responses
                .iter()
                .all(|response| (response.status, response.body.as_str()) == (201, "{\"run\":1}")),
            "{responses:?}"
        );
        assert_eq!(responses.iter().filter(|response| !response.replayed).count(), 1);
        assert_eq!((orchard.runs(), orchard.picked().await), (1, 1));
    })
    .await;
}

#[actix_web::test]
async fn a_missing_required_key_is_refused_and_a_missing_optional_one_is_not() {
    banyan_durable_testing::on_both("orders", async |db| {
        let orchard = Orchard::new(&db);
        let refused = orchard.send("/figs", None, "ok").await;
        assert_eq!(
            (refused.status, refused.json()["code"].as_str()),
            (400, Some("idempotency_key_required"))
        );
        let refused = orchard.send("/figs", Some("a b"), "ok").await;
        assert_eq!(
            (refused.status, refused.json()["code"].as_str()),
            (400, Some("invalid_idempotency_key"))
        );
        assert_eq!(orchard.send("/maybe", None, "ok").await.body, "{\"run\":1}");
        assert_eq!(orchard.send("/maybe", None, "ok").await.body, "{\"run\":2}");
        assert_eq!(orchard.send("/maybe", None, "refuse").await.status, 409);
        assert_eq!(orchard.send("/maybe", Some("m"), "ok").await.body, "{\"run\":4}");
        assert!(orchard.send("/maybe", Some("m"), "ok").await.replayed);
        assert_eq!(orchard.send("/bare", Some("b"), "").await.status, 201);
        assert!(
            orchard.send("/bare", Some("b"), "").await.replayed,
            "a body that is not read makes no difference"
        );
        assert_eq!(orchard.picked().await, 4);
    })
    .await;
}

#[actix_web::test]
async fn an_invalid_body_does_not_use_up_its_key() {
    banyan_durable_testing::on_both("orders", async |db| {
        let orchard = Orchard::new(&db);
        assert_eq!(
            orchard.send_as(7, "/figs", Some("k1"), "{}".to_owned()).await.status,
            422
        );
        assert_eq!(orchard.send("/figs", Some("k1"), "ok").await.status, 201);
    })
    .await;
}

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
fn long_jobs() -> banyan_durable::Settings {
    banyan_durable::Settings {
        job_timeout_ms: 20_000,
        ..banyan_durable::Settings::default()
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
        job_timeout_ms: 60_000,
        ..Settings::default()
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
        Settings::default(),
        Arc::new(SystemClock),
        Arc::new(RandomIds),
    )
    .await
    .unwrap()
}
