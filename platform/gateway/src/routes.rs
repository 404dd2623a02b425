//! Which module a request is for: the OpenAPI document read as a route table.
//!
//! Every operation of the document names its module in `x-module`; `{module}` means that the path parameter of that name does. Paths are
//! compared byte for byte as they arrived, and forwarded with the same bytes: nothing is decoded, so that a path cannot mean one thing to
//! the gateway and another to the module.

use std::sync::Arc;

use anyhow::Context;
use banyan_http::PathTemplate;
use serde_json::Value;

const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

/// All operations, each with its module.
#[derive(Debug, Default)]
pub struct RouteTable(Vec<Route>);

#[derive(Debug)]
struct Route {
    method: String,
    template: PathTemplate,
    owner: Owner,
    operation: Arc<Operation>,
}

#[derive(Debug)]
enum Owner {
    /// A module, or a part of every process: `app`, `gateway`.
    Named(String),
    /// The module that the path segment at this index names.
    AtSegment(usize),
}

/// What the document says about an operation.
#[derive(Debug, PartialEq, Eq)]
pub struct Operation {
    /// The path with its parameters' names, for metrics.
    pub template: Arc<str>,
    /// Whether access tokens are read. Where they are not, as at the log-in, a bad one is ignored.
    pub reads_tokens: bool,
    /// Whether the response to a request is kept under its `Idempotency-Key`.
    pub remembers_keys: bool,
}

/// An operation that a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<'p> {
    /// The module's name, as the document or the path gives it; it is not checked that such a module exists.
    pub module: &'p str,
    pub operation: Arc<Operation>,
}

impl RouteTable {
    /// Reads an OpenAPI document.
    ///
    /// # Errors
    /// A document without `x-module` on every operation. A test checks the committed document.
    pub fn read(document: &str) -> anyhow::Result<RouteTable> {
        RouteTable::of(&serde_json::from_str(document).context("the OpenAPI document is not JSON")?)
    }

    /// # Errors
    /// As [`read`](RouteTable::read).
    pub fn of(document: &Value) -> anyhow::Result<RouteTable> {
        let paths = document["paths"]
            .as_object()
            .context("the OpenAPI document has no paths")?;
        let mut routes = Vec::new();
        for (path, item) in paths {
            for (method, documented) in METHODS.iter().filter_map(|method| Some((*method, item.get(method)?))) {
                let owner = documented["x-module"]
                    .as_str()
                    .with_context(|| format!("{method} {path} has no x-module"))?;
                let template = PathTemplate::of(path);
                let owner =
                    match owner.strip_prefix('{').and_then(|owner| owner.strip_suffix('}')) {
                        None => Owner::Named(owner.to_owned()),
                        Some(parameter) => Owner::AtSegment(template.segment_of(parameter).with_context(|| {
                            format!("{method} {path} has the x-module {owner}, but no such parameter")
                        })?),
                    };
                let operation = Operation {
                    template: path.as_str().into(),
                    reads_tokens: documented["security"]
                        .as_array()
                        .is_some_and(|any_of| !any_of.is_empty()),
                    remembers_keys: takes_header(document, documented, "Idempotency-Key"),
                };
                routes.push(Route {
                    method: method.to_uppercase(),
                    template,
                    owner,
                    operation: Arc::new(operation),
                });
            }
        }
        routes.sort_by(|one, other| one.template.cmp(&other.template));
        Ok(RouteTable(routes))
    }

    /// The operation a request is for; `None` if it is not documented. The shell has turned HEAD into GET.
    pub fn find<'p>(&'p self, method: &str, path: &'p str) -> Option<Found<'p>> {
        let route = self
            .0
            .iter()
            .find(|route| route.method == method && route.template.matches(path))?;
        let module = match &route.owner {
            Owner::Named(name) => name,
            Owner::AtSegment(at) => path.split('/').nth(*at)?,
        };
        Some(Found {
            module,
            operation: route.operation.clone(),
        })
    }
}

/// Whether an operation has this header among its parameters, which are given inline or as references to the document's components.
fn takes_header(document: &Value, operation: &Value, name: &str) -> bool {
    let resolved = |parameter: &Value| match parameter["$ref"].as_str() {
        Some(reference) => document
            .pointer(reference.trim_start_matches('#'))
            .cloned()
            .unwrap_or_default(),
        None => parameter.clone(),
    };
    let parameters = operation["parameters"].as_array().into_iter().flatten().map(resolved);
    let is_header = |parameter: &Value| {
        parameter["in"] == "header"
            && parameter["name"]
                .as_str()
                .is_some_and(|found| found.eq_ignore_ascii_case(name))
    };
    parameters.into_iter().any(|parameter| is_header(&parameter))
}
