//! A repeated request gets the stored response; on both databases.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, dev::ServerHandle, post, test, web::Data};
use banyan_core::{Event, Fault};
use banyan_durable::{Db, outbox};
use banyan_http::{Body, HasRole, OptionalKey, Problem, RequiredKey, Verifier};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
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

pub struct Orchard {
    state: Data<State>,
    verifier: Data<Verifier>,
    pub signer: Signer,
}

impl Orchard {
    pub fn new(db: &Db) -> Self {
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

    /// A real server; its address, and how to stop it.
    pub fn serve(&self) -> (SocketAddr, ServerHandle) {
        let (state, verifier) = (self.state.clone(), self.verifier.clone());
        let server = HttpServer::new(move || {
            let app = App::new().app_data(state.clone()).app_data(verifier.clone());
            app.service(pick)
                .wrap(banyan_http::shell(banyan_http::ShellSettings::default()))
        });
        let server = server.workers(1).disable_signals().bind("127.0.0.1:0").unwrap();
        let address = server.addrs()[0];
        let server = server.run();
        let handle = server.handle();
        actix_web::rt::spawn(server);
        (address, handle)
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
