//! What is answered when no route matched. actix says 404 also to a known path with another method; that is a 405 with `Allow`, and the
//! document knows all paths.

use std::{collections::BTreeSet, sync::Arc};

use actix_web::{HttpRequest, HttpResponse, Route, http::header};
use shared_kernel::Fault;
use utoipa::openapi::OpenApi;

use crate::Problem;

/// The default service of an app that serves what `api` documents: `App::default_service(web::unmatched(&api))`.
pub fn unmatched(api: &OpenApi) -> Route {
    let table = Arc::new(PathTable::of(api));
    actix_web::web::to(move |request: HttpRequest| {
        let allowed = table.methods(request.path());
        async move {
            if allowed.is_empty() || allowed.contains(request.method().as_str()) {
                return HttpResponse::from_error(Problem(Fault::not_found("resource")));
            }
            let allow = allowed.into_iter().collect::<Vec<_>>().join(", ");
            let fault = Fault::malformed("method_not_allowed", format!("{} is not possible here; these are: {allow}.", request.method()));
            let mut response = HttpResponse::from_error(Problem(fault));
            if let Ok(allow) = header::HeaderValue::from_str(&allow) {
                response.headers_mut().insert(header::ALLOW, allow);
            }
            response
        }
    })
}

/// The documented paths and their methods.
struct PathTable(Vec<(Vec<String>, BTreeSet<&'static str>)>);

impl PathTable {
    fn of(api: &OpenApi) -> Self {
        let paths = api.paths.paths.iter();
        PathTable(
            paths
                .map(|(path, item)| {
                    let methods = [
                        ("GET", &item.get),
                        ("PUT", &item.put),
                        ("POST", &item.post),
                        ("DELETE", &item.delete),
                        ("OPTIONS", &item.options),
                        ("HEAD", &item.head),
                        ("PATCH", &item.patch),
                        ("TRACE", &item.trace),
                    ];
                    let mut methods: BTreeSet<&'static str> =
                        methods.into_iter().filter(|(_, operation)| operation.is_some()).map(|(name, _)| name).collect();
                    // The shell answers HEAD wherever there is GET.
                    if methods.contains("GET") {
                        methods.insert("HEAD");
                    }
                    (path.split('/').map(str::to_owned).collect(), methods)
                })
                .collect(),
        )
    }

    fn methods(&self, path: &str) -> BTreeSet<&'static str> {
        let segments: Vec<&str> = path.split('/').collect();
        let fits = |template: &[String]| {
            template.len() == segments.len()
                && template.iter().zip(&segments).all(
                    |(part, segment)| {
                        if part.starts_with('{') { !segment.is_empty() } else { part == segment }
                    },
                )
        };
        // A path may fit several templates (`/users/me`, `/users/{id}`); any of their methods would have matched.
        self.0.iter().filter(|(template, _)| fits(template)).flat_map(|(_, methods)| methods.iter().copied()).collect()
    }
}
