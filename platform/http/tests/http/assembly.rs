//! How a server is composed of modules' routes: what an application does, as an example to read.

use actix_web::{App, HttpResponse, HttpServer, get};
use banyan_http::{Anyone, Problem, Routes, Stopping, rate_limit::RateLimit};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::{InfoBuilder, OpenApiBuilder};
use utoipa_actix_web::AppExt;

use crate::support::{FakeKeys, HandClock, Signer, verifier};

#[utoipa::path(tag = "figs", responses((status = 200)), security((), ("bearer" = [])))]
#[get("/figs")]
async fn figs(caller: Anyone) -> Result<HttpResponse, Problem> {
    Ok(banyan_http::ok(&caller.call().actor.label()).into())
}

#[actix_web::test]
async fn a_server_is_composed_of_routes_a_document_and_the_shell() {
    let modules = [Routes::new(|config| _ = config.service(figs))];
    // Created once and shared by all workers.
    let signer = Signer::new("k1");
    let verifier = verifier(FakeKeys::of(&[&signer]), HandClock::new());
    let limit = RateLimit::new(1_000, 2_000);
    let stopping = Stopping(CancellationToken::new());
    let base = OpenApiBuilder::new()
        .info(InfoBuilder::new().title("Banyan").version("1.0.0"))
        .build();
    let server = HttpServer::new(move || {
        let (app, mut api) = App::new()
            .into_utoipa_app()
            .openapi(base.clone())
            .service(
                utoipa_actix_web::scope("/api/v1")
                    .configure(|config| modules.iter().for_each(|module| module.configure(config))),
            )
            .split_for_parts();
        banyan_http::openapi::finish(&mut api, &[]);
        let document = serde_json::to_string(&api).unwrap();
        app.app_data(verifier.clone())
            .app_data(stopping.clone())
            .route(
                "/openapi.json",
                actix_web::web::get().to(move || {
                    let document = document.clone();
                    async move { HttpResponse::Ok().content_type("application/json").body(document) }
                }),
            )
            .default_service(banyan_http::unmatched(&api))
            .wrap(limit.clone())
            .wrap(banyan_http::shell(banyan_http::ShellSettings::default()))
    })
    .workers(1)
    .disable_signals()
    .bind("127.0.0.1:0")
    .unwrap();
    let url = format!("http://{}", server.addrs()[0]);
    let server = server.run();
    let handle = server.handle();
    actix_web::rt::spawn(server);

    let document: Value = reqwest::get(format!("{url}/openapi.json"))
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(document["info"]["title"], "Banyan");
    assert!(document["paths"]["/api/v1/figs"]["get"].is_object());
    let response = reqwest::Client::new()
        .get(format!("{url}/api/v1/figs"))
        .bearer_auth(signer.token(&["customer"]))
        .send()
        .await
        .unwrap();
    assert!(response.headers().contains_key("ratelimit"));
    assert_eq!(
        response.json::<String>().await.unwrap(),
        "user:00000000-0000-0000-0000-000000000007"
    );
    handle.stop(true).await;
}
