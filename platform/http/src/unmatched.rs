//! The response when no route matches. actix returns 404 also for a known path with another method; that must be a 405 with `Allow`, and the document
//! knows all paths.

use std::{collections::BTreeSet, sync::Arc};

use actix_web::{HttpRequest, HttpResponse, Route, http::header};
use banyan_core::Fault;
use serde_json::Value;
use utoipa::openapi::OpenApi;

use crate::{PathTemplate, Problem};

/// The default service of an app that serves what `api` documents: `App::default_service(banyan_http::unmatched(&api))`.
pub fn unmatched(api: &OpenApi) -> Route {
    unmatched_in(DocumentedPaths::of(&serde_json::to_value(api).unwrap_or_default()))
}

/// As [`unmatched`], for the paths of a document given as JSON.
pub fn unmatched_in(paths: DocumentedPaths) -> Route {
    actix_web::web::to(move |request: HttpRequest| {
        let allowed = paths.methods(request.path());
        async move {
            if allowed.is_empty() || allowed.contains(request.method().as_str()) {
                return HttpResponse::from_error(Problem(Fault::not_found("resource")));
            }
            let allow = allowed.into_iter().collect::<Vec<_>>().join(", ");
            let fault = Fault::malformed(
                "method_not_allowed",
                format!("{} is not allowed for this path; these are: {allow}.", request.method()),
            );
            let mut response = HttpResponse::from_error(Problem(fault));
            if let Ok(allow) = header::HeaderValue::from_str(&allow) {
                response.headers_mut().insert(header::ALLOW, allow);
            }
            response
        }
    })
}

const METHODS: [&str; 8] = ["GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"];

/// The documented paths and their methods.
#[derive(Clone)]
pub struct DocumentedPaths(Arc<[(PathTemplate, BTreeSet<&'static str>)]>);

impl DocumentedPaths {
    /// Of an OpenAPI document as JSON.
    pub fn of(document: &Value) -> Self {
        let paths = document["paths"].as_object().into_iter().flatten();
        DocumentedPaths(
            paths
                .map(|(path, item)| {
                    let documented = METHODS
                        .into_iter()
                        .filter(|method| item.get(method.to_lowercase()).is_some());
                    let mut methods: BTreeSet<&'static str> = documented.collect();
                    // The shell serves HEAD wherever there is GET.
                    if methods.contains("GET") {
                        methods.insert("HEAD");
                    }
                    (PathTemplate::of(path), methods)
                })
                .collect(),
        )
    }

    fn methods(&self, path: &str) -> BTreeSet<&'static str> {
        // A path may match several templates (`/notes/latest`, `/notes/{id}`); any of their methods would have matched.
        self.0
            .iter()
            .filter(|(template, _)| template.matches(path))
            .flat_map(|(_, methods)| methods.iter().copied())
            .collect()
    }
}
