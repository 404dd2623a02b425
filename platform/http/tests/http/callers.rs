//! Who may call what.

use std::time::Duration;

use actix_web::{App, HttpResponse, get, http::StatusCode, test, web::Data};
use banyan_core::{Actor, RequiredRole, Timestamp};
use banyan_http::{Anyone, AnyoneOperates, EndedSession, HasRole, LoggedIn, Ops, Problem, Verifier};
use serde_json::json;
use uuid::Uuid;

use crate::support::{FakeKeys, HandClock, NOW_S, SESSION, Signer, claims, raw_token, verifier};

/// The roles of a product.
#[derive(Debug)]
pub struct Customer;

impl RequiredRole for Customer {
    const NAME: &'static str = "customer";
}

#[derive(Debug)]
struct Staff;

impl RequiredRole for Staff {
    const NAME: &'static str = "staff";
}

#[get("/anyone")]
async fn anyone(caller: Anyone) -> HttpResponse {
    HttpResponse::Ok().body(caller.call().actor.label())
}

#[get("/logged-in")]
async fn logged_in(caller: LoggedIn) -> HttpResponse {
    HttpResponse::Ok().body(caller.user_id().to_string())
}

#[get("/customer")]
async fn customer(_: HasRole<Customer>) -> HttpResponse {
    HttpResponse::Ok().finish()
}

#[get("/staff")]
async fn staff(_: HasRole<Staff>) -> HttpResponse {
    HttpResponse::Ok().finish()
}

#[get("/ops")]
async fn ops(_: Ops) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().finish())
}

async fn send(
    verifier: &Data<Verifier>,
    path: &str,
    authorization: Option<&str>,
) -> (StatusCode, Option<String>, String) {
    let app = App::new()
        .app_data(verifier.clone())
        .service(anyone)
        .service(logged_in)
        .service(customer)
        .service(staff)
        .service(ops);
    let app = test::init_service(app).await;
    let request = test::TestRequest::get().uri(path);
    let request = authorization.into_iter().fold(request, |request, value| {
        request.insert_header(("Authorization", value))
    });
    let response = test::call_service(&app, request.to_request()).await;
    let challenge = response
        .headers()
        .get("www-authenticate")
        .map(|value| value.to_str().unwrap().to_owned());
    let status = response.status();
    (
        status,
        challenge,
        String::from_utf8(test::read_body(response).await.to_vec()).unwrap(),
    )
}

#[actix_web::test]
async fn a_role_grants_access_to_its_own_routes_only() {
    let signer = Signer::new("k1");
    let verifier = verifier(FakeKeys::of(&[&signer]), HandClock::new());
    for role in ["customer", "staff", "ops"] {
        let authorization = format!("Bearer {}", signer.token(&[role]));
        for route in ["customer", "staff", "ops"] {
            let (status, challenge, _) = send(&verifier, &format!("/{route}"), Some(&authorization)).await;
            assert_eq!(status, if role == route { 200 } else { 403 }, "{role} at {route}");
            assert_eq!(challenge.is_some(), role != route);
        }
        assert_eq!(send(&verifier, "/logged-in", Some(&authorization)).await.0, 200);
    }
    for route in ["/logged-in", "/customer", "/staff", "/ops"] {
        let (status, challenge, _) = send(&verifier, route, None).await;
        assert_eq!(
            (status.as_u16(), challenge.as_deref()),
            (401, Some("Bearer realm=\"banyan\"")),
            "{route}"
        );
    }
    assert_eq!(send(&verifier, "/anyone", None).await.2, "anonymous");
    let lower_case = format!("bearer {}", signer.token(&[]));
    assert_eq!(
        send(&verifier, "/anyone", Some(&lower_case)).await.2,
        "user:00000000-0000-0000-0000-000000000007"
    );
}

#[actix_web::test]
async fn in_a_product_without_users_callers_without_a_token_are_operators_and_nothing_else() {
    let signer = Signer::new("k1");
    let app = App::new()
        .app_data(verifier(FakeKeys::of(&[]), HandClock::new()))
        .app_data(AnyoneOperates)
        .service(logged_in)
        .service(staff)
        .service(ops);
    let app = test::init_service(app).await;
    for (path, status) in [("/ops", 200), ("/staff", 401), ("/logged-in", 401)] {
        let response = test::call_service(&app, test::TestRequest::get().uri(path).to_request()).await;
        assert_eq!(response.status(), status, "{path}");
    }
    let token = format!("Bearer {}", signer.token(&["ops"]));
    let request = test::TestRequest::get()
        .uri("/ops")
        .insert_header(("Authorization", token));
    let response = test::call_service(&app, request.to_request()).await;
    assert_eq!(response.status(), 401, "a token is checked all the same");
}

#[actix_web::test]
async fn a_token_that_is_not_to_be_believed_is_401_everywhere_and_says_so() {
    let (signer, stranger) = (Signer::new("k1"), Signer::new("k1"));
    let verifier = verifier(FakeKeys::of(&[&signer]), HandClock::new());
    let (good, mut unknown) = (claims(&["customer"]), Signer::new("k2"));
    unknown.kid = "k9".to_owned();
    let mut hs256 = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    hs256.kid = Some("k1".to_owned());
    hs256.typ = Some("at+jwt".to_owned());
    let public = jsonwebtoken::EncodingKey::from_secret(signer.public.as_bytes());
    let token = signer.token(&["customer"]);
    let (head, rest) = token.split_once('.').unwrap();
    let (_, signature) = rest.split_once('.').unwrap();
    let promoted = raw_token(
        &json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "k1"}),
        &claims(&["staff"]),
        b"",
    );
    let bad = [
        (
            "alg none",
            raw_token(&json!({"alg": "none", "typ": "at+jwt", "kid": "k1"}), &good, b""),
        ),
        (
            "alg None",
            raw_token(&json!({"alg": "None", "typ": "at+jwt", "kid": "k1"}), &good, b""),
        ),
        (
            "HS256 with the public key as its secret",
            jsonwebtoken::encode(&hs256, &good, &public).unwrap(),
        ),
        ("signed by a stranger", stranger.token(&["customer"])),
        ("an unknown kid", unknown.token(&["customer"])),
        ("no typ", signer.token_under(|header| header.typ = None)),
        (
            "a token of another type",
            signer.token_under(|header| header.typ = Some("JWT".to_owned())),
        ),
        (
            "a type that only ends like an access token's",
            signer.token_under(|header| header.typ = Some("x-at+jwt".to_owned())),
        ),
        ("no kid", signer.token_under(|header| header.kid = None)),
        (
            "no signature",
            raw_token(&json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "k1"}), &good, b""),
        ),
        (
            "claims exchanged under the signature",
            format!("{head}.{}.{signature}", promoted.split('.').nth(1).unwrap()),
        ),
        (
            "a critical extension",
            signer.token_under(|header| header.crit = Some(vec!["banyan".to_owned()])),
        ),
        ("expired", signer.token_with(|claims| claims["exp"] = json!(NOW_S))),
        (
            "not yet valid",
            signer.token_with(|claims| claims["nbf"] = json!(NOW_S + 31)),
        ),
        (
            "for another audience",
            signer.token_with(|claims| claims["aud"] = json!("another-audience")),
        ),
        (
            "from another issuer",
            signer.token_with(|claims| claims["iss"] = json!("https://evil.example")),
        ),
        (
            "without exp",
            signer.token_with(|claims| _ = claims.as_object_mut().unwrap().remove("exp")),
        ),
        (
            "without aud",
            signer.token_with(|claims| _ = claims.as_object_mut().unwrap().remove("aud")),
        ),
        (
            "without a session",
            signer.token_with(|claims| _ = claims.as_object_mut().unwrap().remove("sid")),
        ),
        (
            "sub is not an id",
            signer.token_with(|claims| claims["sub"] = json!("root")),
        ),
        (
            "huge",
            signer.token_with(|claims| claims["x"] = json!("x".repeat(10_000))),
        ),
        ("not a token", "nonsense".to_owned()),
        ("empty", String::new()),
    ];
    for (what, token) in bad {
        for route in ["/anyone", "/logged-in", "/customer"] {
            let (status, challenge, body) = send(&verifier, route, Some(&format!("Bearer {token}"))).await;
            assert_eq!(status, 401, "{what} at {route}: {body}");
            assert_eq!(
                challenge.as_deref(),
                Some("Bearer realm=\"banyan\", error=\"invalid_token\""),
                "{what}"
            );
        }
    }
    for other in ["Basic dXNlcjpwdw==", "Bearer", "Token x"] {
        assert_eq!(send(&verifier, "/anyone", Some(other)).await.0, 401, "{other}");
    }
    assert_eq!(
        send(&verifier, "/customer", Some(&format!("Bearer {token}"))).await.0,
        200,
        "the valid one is accepted"
    );
    let spelled_out = signer.token_under(|header| header.typ = Some("application/AT+JWT".to_owned()));
    assert_eq!(
        send(&verifier, "/customer", Some(&format!("Bearer {spelled_out}")))
            .await
            .0,
        200
    );
}

#[actix_web::test]
async fn the_tokens_of_an_ended_session_are_refused_also_while_the_source_is_down() {
    let signer = Signer::new("k1");
    let keys = FakeKeys::of(&[&signer]);
    let verifier = verifier(keys.clone(), HandClock::new());
    let (ended, other) = (
        signer.token(&["customer"]),
        signer.token_with(|claims| claims["sid"] = json!(Uuid::from_u128(1))),
    );
    verifier.fetch_ended_sessions().await.unwrap();
    assert!(verifier.verify(&ended).await.is_ok());
    keys.ended.lock().unwrap().push(EndedSession {
        id: SESSION,
        ended_at: Timestamp::from_ms(NOW_S * 1_000),
    });
    verifier.fetch_ended_sessions().await.unwrap();
    keys.set(None);
    assert!(verifier.fetch_ended_sessions().await.is_err());
    let authorization = |token: &str| format!("Bearer {token}");
    assert_eq!(send(&verifier, "/anyone", Some(&authorization(&ended))).await.0, 401);
    assert_eq!(send(&verifier, "/customer", Some(&authorization(&other))).await.0, 200);
}

#[actix_web::test]
async fn an_unknown_role_grants_nothing_and_does_no_harm() {
    let signer = Signer::new("k1");
    let verifier = verifier(FakeKeys::of(&[&signer]), HandClock::new());
    let claims = verifier.verify(&signer.token(&["customer", "emperor"])).await.unwrap();
    let actor = Actor::user(claims.sub, claims.roles);
    assert!(actor.has_role(Customer::NAME) && !actor.has_role(Staff::NAME));
}

#[actix_web::test]
async fn keys_are_cached_for_five_minutes_and_longer_while_the_source_fails() {
    let signer = Signer::new("k1");
    let (keys, clock) = (FakeKeys::of(&[&signer]), HandClock::new());
    let verifier = verifier(keys.clone(), clock.clone());
    let token = signer.token_with(|claims| claims["exp"] = json!(NOW_S + 100_000));
    for _ in 0..3 {
        verifier.verify(&token).await.unwrap();
    }
    assert_eq!(keys.fetches(), 1);
    clock.advance_s(300);
    verifier.verify(&token).await.unwrap();
    until_fetched(&keys, 2).await;
    keys.set(None);
    clock.advance_s(300);
    verifier
        .verify(&token)
        .await
        .expect("the last good keys are still used");
    until_fetched(&keys, 3).await;
    verifier
        .verify(&token)
        .await
        .expect("and the source is not called for each request");
    tokio::task::yield_now().await;
    assert_eq!(keys.fetches(), 3);
}

async fn until_fetched(keys: &FakeKeys, times: usize) {
    banyan_durable_testing::eventually("the keys are fetched", Duration::from_secs(10), || async {
        keys.fetches() == times
    })
    .await;
}

#[actix_web::test]
async fn a_source_that_does_not_respond_does_not_delay_tokens_with_a_known_key() {
    let signer = Signer::new("k1");
    let (keys, clock) = (FakeKeys::of(&[&signer]), HandClock::new());
    let verifier = verifier(keys.clone(), clock.clone());
    let token = signer.token_with(|claims| claims["exp"] = json!(NOW_S + 100_000));
    verifier.verify(&token).await.unwrap();
    keys.hangs.store(true, std::sync::atomic::Ordering::SeqCst);
    clock.advance_s(300);
    let crowd = futures::future::join_all((0..20).map(|_| verifier.verify(&token)));
    let responses = tokio::time::timeout(Duration::from_secs(5), crowd)
        .await
        .expect("it does not wait");
    assert!(responses.iter().all(Result::is_ok));
    until_fetched(&keys, 2).await;
    clock.advance_s(300);
    assert!(verifier.verify(&token).await.is_ok());
    tokio::task::yield_now().await;
    assert_eq!(keys.fetches(), 2, "one fetch at a time");
    keys.hangs.store(false, std::sync::atomic::Ordering::SeqCst);
}

#[actix_web::test]
async fn an_unknown_kid_causes_a_fetch_at_most_every_ten_seconds() {
    let (old, new) = (Signer::new("k1"), Signer::new("k2"));
    let (keys, clock) = (FakeKeys::of(&[&old]), HandClock::new());
    let verifier = verifier(keys.clone(), clock.clone());
    verifier.verify(&old.token(&[])).await.unwrap();
    keys.set(Some(&[&old, &new]));
    assert!(
        verifier.verify(&new.token(&[])).await.is_err(),
        "fetched less than ten seconds ago"
    );
    assert_eq!(keys.fetches(), 1);
    clock.advance_s(10);
    verifier.verify(&new.token(&[])).await.expect("the key was rotated in");
    assert_eq!(keys.fetches(), 2);
    for made_up in 0..50 {
        let mut stranger = Signer::new("x");
        stranger.kid = format!("made-up-{made_up}");
        assert!(verifier.verify(&stranger.token(&[])).await.is_err());
    }
    assert_eq!(keys.fetches(), 2);
}

#[actix_web::test]
async fn without_any_keys_a_token_is_neither_accepted_nor_rejected() {
    let signer = Signer::new("k1");
    let (keys, clock) = (FakeKeys::of(&[&signer]), HandClock::new());
    keys.set(None);
    let verifier = verifier(keys.clone(), clock.clone());
    let authorization = format!("Bearer {}", signer.token(&["customer"]));
    assert_eq!(send(&verifier, "/customer", Some(&authorization)).await.0, 503);
    keys.set(Some(&[&signer]));
    clock.advance_s(1);
    assert_eq!(send(&verifier, "/customer", Some(&authorization)).await.0, 200);
}
