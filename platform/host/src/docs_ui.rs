//! `/openapi.json`, and `/docs` with Swagger UI from this binary: no assets are loaded from other hosts.

use actix_web::{
    HttpResponse,
    http::header::ContentType,
    web::{self, ServiceConfig},
};
use bytes::Bytes;

/// Whether this binary has `/docs`.
pub const IS_INCLUDED: bool = cfg!(feature = "docs-ui");

/// Adds both; `/docs`, to which `/` points, only in a binary with the feature `docs-ui`.
pub fn configure(config: &mut ServiceConfig, document: &Bytes) {
    let served = document.clone();
    config.route(
        "/openapi.json",
        web::get().to(move || {
            let served = served.clone();
            async move { HttpResponse::Ok().content_type(ContentType::json()).body(served) }
        }),
    );
    #[cfg(feature = "docs-ui")]
    config
        .service(web::redirect("/", "/docs/"))
        .service(web::redirect("/docs", "/docs/"))
        .service(
            utoipa_swagger_ui::SwaggerUi::new("/docs/{_:.*}").config(utoipa_swagger_ui::Config::from("/openapi.json")),
        );
}
