//! Which pages of other origins may call the API from a browser (CORS: WHATWG Fetch, section 3.3).
//!
//! Credentials in the sense of CORS, cookies among them, are never allowed: the API has none, a page sends its access token itself.

use actix_cors::Cors;
use actix_web::middleware::Condition;
use url::Url;

/// Every origin.
const ANY: &str = "*";
const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
/// How long a browser need not ask again. Chromium keeps it two hours at most.
const MAX_AGE_S: usize = 3_600;

/// The outermost layer of a server whose pages may be of these origins, so that errors of every layer can be read by the page; nothing if there are none.
pub fn layer(origins: &[String]) -> Condition<Cors> {
    let cors = Cors::default()
        .allowed_methods(METHODS)
        .allow_any_header()
        .expose_any_header()
        .max_age(MAX_AGE_S)
        // A request of another origin is answered as ever: it is the browser that keeps the response from the page.
        .block_on_origin_mismatch(false);
    let cors = if origins.iter().any(|origin| origin == ANY) {
        cors.allow_any_origin().send_wildcard()
    } else {
        origins.iter().fold(cors, |cors, origin| cors.allowed_origin(origin))
    };
    Condition::new(!origins.is_empty(), cors)
}

/// Whether `text` is `*` or an origin as browsers send it.
pub fn is_origin(text: &str) -> bool {
    text == ANY
        || Url::parse(text).is_ok_and(|url| url.origin().is_tuple() && url.origin().ascii_serialization() == text)
}
