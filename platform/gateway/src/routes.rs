//! Which module a request is for: the OpenAPI document read as a route table.
//!
//! Every operation of the document says in `x-module` whose it is; `{module}` means that the path's parameter of that name says it. What is
//! compared are the bytes of the path as they came, which are also the bytes that are passed on: nothing is decoded, so that nobody can mean
//! one path here and another one behind.

use std::sync::Arc;

use anyhow::Context;
use banyan_http::PathTemplate;
use serde_json::Value;

const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

/// Which operations there are, and whose they are.
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
    /// A module, or what is no module and therefore everywhere: `app`, `gateway`.
    Named(String),
    /// Whoever the segment at this place names.
    AtSegment(usize),
}

/// What the document says about an operation.
#[derive(Debug, PartialEq, Eq)]
pub struct Operation {
    /// The path with its parameters' names, for measurements.
    pub template: Arc<str>,
    /// A token is looked at; where it is not, a bad one does no harm, as at the log-in.
    pub reads_tokens: bool,
    /// A request is remembered by its `Idempotency-Key`.
    pub remembers_keys: bool,
}

/// An operation that a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<'p> {
    /// The module's name, or what stands in its place; nobody has checked that there is such a module.
    pub module: &'p str,
    pub operation: Arc<Operation>,
}

impl RouteTable {
    /// Reads an OpenAPI document.
    ///
    /// # Errors
    /// It is not a document with `x-module` on every operation. A test sees to it that the committed one is.
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

    /// Whose this request is; none if nobody documents it. The shell has made a GET of a HEAD.
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

/// Whether an operation has this header among its parameters, which stand there or among the document's components.
fn takes_header(document: &Value, operation: &Value, name: &str) -> bool {
    let resolved = |parameter: &Value| match parameter["$ref"].as_str() {
        Some(reference) => document
            .pointer(reference.trim_start_matches('#'))
            .cloned()
            .unwrap_or_default(),
        None => parameter.clone(),
    };
    let parameters = operation["parameters"].as_array().into_iter().flatten().map(resolved);
    let is_it = |parameter: &Value| {
        parameter["in"] == "header"
            && parameter["name"]
                .as_str()
                .is_some_and(|is| is.eq_ignore_ascii_case(name))
    };
    parameters.into_iter().any(|parameter| is_it(&parameter))
}
