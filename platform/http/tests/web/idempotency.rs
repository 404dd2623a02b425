//! The same request again gets the same answer again; on both databases.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_web::{App, HttpRequest, HttpResponse, post, test, web::Data};
use banyan_core::{Event, Fault, FaultKind, RandomIds, SystemClock};
use banyan_durable::{Db, Place, Settings, outbox};
use banyan_durable_testing::PostgresHome;
use banyan_http::{Body, HasRole, OptionalKey, Problem, RequiredKey, StoredResponse, Verifier};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::callers::Customer;
use crate::support::{FakeKeys, HandClock, Signer, verifier};

/// Something a handler does that one can count afterwards: an event in the outbox.
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
    /// What comes of it: `ok`, `refuse`, `away`, `slow`.
    outcome: String,
}

struct State {
    db: Db,
    runs: Arc<AtomicUsize>,
    /// What the next run does whatever was asked.
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

/// An answer as far as a client compares it.
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

    async fn ask(&self, path: &str, key: Option<&str>, outcome: &str) -> Seen {
        self.ask_as(7, path, key, json!({"outcome": outcome}).to_string()).await
    }

    async fn ask_as(&self, user: u128, path: &str, key: Option<&str>, body: String) -> Seen {
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

    /// How many picks are in the outbox, as its subject's next version tells.
    async fn picked(&self) -> i64 {
        let call = banyan_core::Call::by_module("test");
        let version = self.state.db.write(move |tx| {
            let call = call.clone();
            async move {
                outbox::append(
                    &tx,
                    &call,
                    "fig/1",
                    &FigPicked {
                        note: "probe".to_owned(),
                    },
                )
                .await
            }
        });
        version.await.unwrap() - 1
    }
}

#[actix_web::test]
async fn a_repeat_gets_the_first_answer_byte_for_byte_and_nothing_happens() {
    banyan_durable_testing::on_both("orders", async |db| {
        let orchard = Orchard::new(&db);
        let first = orchard.ask("/figs", Some("k1"), "ok").await;
        assert_eq!(
            (first.status, first.body.as_str(), first.replayed),
            (201, "{\"run\":1}", false)
        );
        for key in ["k1", "\"k1\""] {
            let again = orchard.ask("/figs", Some(key), "ok").await;
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
        assert_eq!(orchard.ask("/figs", Some("k1"), "ok").await.status, 201);
        for (path, outcome) in [("/figs", "other"), ("/maybe", "ok"), ("/figs?x=1", "ok")] {
            let refused = orchard.ask(path, Some("k1"), outcome).await;
            assert_eq!(
                (refused.status, refused.json()["code"].as_str()),
                (422, Some("idempotency_key_reused")),
                "{path}"
            );
        }
        assert_eq!(
            orchard
                .ask_as(8, "/figs", Some("k1"), json!({"outcome": "ok"}).to_string())
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
async fn a_refusal_is_remembered_and_what_it_wrote_is_not() {
    banyan_durable_testing::on_both("orders", async |db| {
        let orchard = Orchard::new(&db);
        let first = orchard.ask("/figs", Some("k1"), "refuse").await;
        assert_eq!(
            (first.status, first.json()["code"].as_str()),
            (409, Some("no_figs_left"))
        );
        assert_eq!(first.json()["instance"], "/figs");
        let again = orchard.ask("/figs", Some("k1"), "refuse").await;
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
async fn a_fault_is_not_remembered_and_asking_again_works() {
    banyan_durable_testing::on_both("orders", async |db| {
        let orchard = Orchard::new(&db);
        let faults = [
            (Fault::unavailable("away"), 503),
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
            assert_eq!(orchard.ask("/figs", Some(&key), "ok").await.status, status);
            let again = orchard.ask("/figs", Some(&key), "ok").await;
            assert_eq!((again.status, again.replayed), (201, false));
        }
        assert_eq!(orchard.picked().await, 5);
    })
    .await;
}

#[actix_web::test]
async fn twins_at_the_same_moment_are_one() {
    banyan_durable_testing::on_both("orders", async |db| {
        let orchard = Orchard::new(&db);
        let ask = || orchard.ask("/figs", Some("k1"), "slow");
        let answers = futures::future::join_all([ask(), ask(), ask(), ask()]).await;
        assert!(
            answers
                .iter()
                .all(|answer| (answer.status, answer.body.as_str()) == (201, "{\"run\":1}")),
            "{answers:?}"
        );
        assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
        assert_eq!((orchard.runs(), orchard.picked().await), (1, 1));
    })
    .await;
}

#[actix_web::test]
async fn without_a_key_a_required_one_is_asked_for_and_an_optional_one_is_done_without() {
    banyan_durable_testing::on_both("orders", async |db| {
        let orchard = Orchard::new(&db);
        let refused = orchard.ask("/figs", None, "ok").await;
        assert_eq!(
            (refused.status, refused.json()["code"].as_str()),
            (400, Some("idempotency_key_required"))
        );
        let refused = orchard.ask("/figs", Some("a b"), "ok").await;
        assert_eq!(
            (refused.status, refused.json()["code"].as_str()),
            (400, Some("invalid_idempotency_key"))
        );
        assert_eq!(orchard.ask("/maybe", None, "ok").await.body, "{\"run\":1}");
        assert_eq!(orchard.ask("/maybe", None, "ok").await.body, "{\"run\":2}");
        assert_eq!(orchard.ask("/maybe", None, "refuse").await.status, 409);
        assert_eq!(orchard.ask("/maybe", Some("m"), "ok").await.body, "{\"run\":4}");
        assert!(orchard.ask("/maybe", Some("m"), "ok").await.replayed);
        assert_eq!(orchard.ask("/bare", Some("b"), "").await.status, 201);
        assert!(
            orchard.ask("/bare", Some("b"), "").await.replayed,
            "a body nobody reads makes no difference"
        );
        assert_eq!(orchard.picked().await, 4);
    })
    .await;
}

#[actix_web::test]
async fn a_syntax_error_uses_no_key_up() {
    banyan_durable_testing::on_both("orders", async |db| {
        let orchard = Orchard::new(&db);
        assert_eq!(
            orchard.ask_as(7, "/figs", Some("k1"), "{}".to_owned()).await.status,
            422
        );
        assert_eq!(orchard.ask("/figs", Some("k1"), "ok").await.status, 201);
    })
    .await;
}

/// A request for something that takes long.
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

/// Work that has begun and waits for the test.
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

    /// A request with the key `long`, whose work comes to this.
    async fn ask(self: &Arc<Self>, end: Result<StoredResponse, Fault>) -> Result<(u16, bool), Fault> {
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

    /// The same, but the client hangs up once the work has begun.
    async fn ask_and_hang_up(self: &Arc<Self>, end: Result<StoredResponse, Fault>) {
        tokio::select! {
            answered = self.ask(end) => panic!("answered before it was done: {answered:?}"),
            () = self.began.notified() => {}
        }
    }
}

/// The work of these tests outlives the wait of a twin.
fn patient() -> banyan_durable::Settings {
    banyan_durable::Settings {
        job_timeout_ms: 20_000,
        ..banyan_durable::Settings::default()
    }
}

#[actix_web::test]
async fn a_twin_of_something_long_is_told_to_come_back_also_if_the_first_client_has_hung_up() {
    banyan_durable_testing::on_both_with("orders", patient(), async |db| {
        let work = LongWork::new(&db);
        let answer = || Ok(StoredResponse::no_content());
        work.ask_and_hang_up(answer()).await;
        let twin = tokio::time::timeout(Duration::from_secs(10), work.ask(answer()))
            .await
            .expect("it waits for 2 s");
        let twin = twin.unwrap_err();
        assert_eq!(
            (twin.code.as_str(), twin.kind),
            ("twin_in_progress", FaultKind::Conflict)
        );
        assert!(twin.retry_after.is_some());
        work.go.send_replace(true);
        assert_eq!(
            work.ask(answer()).await.unwrap(),
            (204, true),
            "what was asked for was done"
        );
        assert_eq!(work.runs.load(Ordering::SeqCst), 1);
    })
    .await;
}

#[actix_web::test]
async fn a_refusal_is_remembered_although_its_client_hung_up_before_it_was_known() {
    banyan_durable_testing::on_both_with("orders", patient(), async |db| {
        let work = LongWork::new(&db);
        let refusal = || Err(Fault::conflict("no_figs_left", "There are none."));
        work.ask_and_hang_up(refusal()).await;
        work.go.send_replace(true);
        assert_eq!(work.ask(refusal()).await.unwrap(), (409, true));
        assert_eq!(work.runs.load(Ordering::SeqCst), 1, "nothing is done twice");
    })
    .await;
}

#[actix_web::test]
async fn a_twin_in_another_process_waits_two_seconds_and_is_then_told_to_come_back() {
    let home = PostgresHome::new().await;
    let place = home.place("orders").await;
    let patient = Settings {
        job_timeout_ms: 60_000,
        ..Settings::default()
    };
    let (here, there) = (
        banyan_durable_testing::open("orders", &place, patient).await,
        open_elsewhere(&place).await,
    );
    let (gate, begun) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let context = (gate.clone(), begun.clone());
    let first = banyan_http::idempotent(&here, keyed("both").await, context, |_, (gate, begun)| async move {
        begun.notify_one();
        gate.notified().await;
        Ok(StoredResponse::no_content())
    });
    let twin = async || {
        banyan_http::idempotent(&there, keyed("both").await, (), |_, ()| async {
            Ok(banyan_http::created("/figs/2", None, &json!({})))
        })
        .await
    };
    let meet = async {
        begun.notified().await;
        let asked = std::time::Instant::now();
        let Problem(fault) = twin().await.unwrap_err();
        assert_eq!(
            (fault.code.as_str(), banyan_http::status_of(&fault).as_u16()),
            ("twin_in_progress", 409)
        );
        assert!(
            fault.retry_after.is_some() && asked.elapsed() >= Duration::from_secs(2),
            "{:?}",
            asked.elapsed()
        );
        gate.notify_one();
    };
    let (first, ()) = tokio::join!(first, meet);
    assert_eq!(first.unwrap().status().as_u16(), 204);
    assert_eq!(twin().await.unwrap().status().as_u16(), 204, "the first one's answer");
    here.close().await;
    there.close().await;
    home.remove().await;
}

/// The same tables under another name, as another process would have them: requests of one process wait for each other before they get there.
async fn open_elsewhere(place: &Place) -> Db {
    Db::open(
        "elsewhere",
        place,
        Settings::default(),
        Arc::new(SystemClock),
        Arc::new(RandomIds),
    )
    .await
    .unwrap()
}
