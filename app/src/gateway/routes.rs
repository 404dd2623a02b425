//! Whose a request is: the committed OpenAPI document read as a route table.
//!
//! Every operation of the document says in `x-module` whose it is; `{module}` means that the path's parameter of that name says it. What is
//! compared are the bytes of the path as they came, which are also the bytes that are passed on: nothing is decoded, so that nobody can mean
//! one path here and another one behind.

use std::sync::Arc;

use anyhow::Context;
use banyan_http::PathTemplate;
use serde_json::Value;

/// The document of all modules, whichever of them are in this binary.
pub const DOCUMENT: &str = include_str!("../../openapi.json");

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
    /// The table of the committed document.
    ///
    /// # Errors
    /// The document is no OpenAPI document with `x-module` on every operation. A test sees to it that it is.
    pub fn committed() -> anyhow::Result<RouteTable> {
        let document = serde_json::from_str(DOCUMENT).context("app/openapi.json is not JSON")?;
        RouteTable::of(&document)
    }

    fn of(document: &Value) -> anyhow::Result<RouteTable> {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::MODULES;

    fn found(method: &str, path: &str) -> Option<(String, String)> {
        let table = RouteTable::committed().unwrap();
        let found = table.find(method, path)?;
        Some((found.module.to_owned(), found.operation.template.to_string()))
    }

    fn owner(method: &str, path: &str) -> Option<String> {
        found(method, path).map(|(module, _)| module)
    }

    #[test]
    fn every_operation_of_the_document_is_found_and_belongs_to_somebody_known() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let mut owners = BTreeSet::new();
        for (template, item) in document["paths"].as_object().unwrap() {
            for method in METHODS.iter().filter(|method| item.get(method).is_some()) {
                let path = template.replace("{module}", "orders").replace(['{', '}'], "");
                let (module, _) = found(&method.to_uppercase(), &path)
                    .unwrap_or_else(|| panic!("{method} {template} is not in the table"));
                assert!(
                    MODULES.contains(&module.as_str()) || ["app", "gateway"].contains(&module.as_str()),
                    "{method} {template}: {module}"
                );
                owners.insert(module);
            }
        }
        assert!(MODULES.iter().all(|module| owners.contains(*module)), "{owners:?}");
    }

    #[test]
    fn words_win_over_parameters() {
        let template = |method, path| found(method, path).map(|(_, template)| template);
        assert_eq!(template("GET", "/api/v1/users/me").as_deref(), Some("/api/v1/users/me"));
        assert_eq!(
            template("GET", "/api/v1/users/7").as_deref(),
            Some("/api/v1/users/{id}")
        );
        assert_eq!(template("PATCH", "/api/v1/users/7"), None);
    }

    #[test]
    fn what_operators_ask_of_a_module_is_that_modules() {
        assert_eq!(owner("GET", "/api/v1/ops/payments/sagas").as_deref(), Some("payments"));
        assert_eq!(
            owner("POST", "/api/v1/ops/orders/dead-letters/7/retry").as_deref(),
            Some("orders")
        );
        assert_eq!(owner("GET", "/api/v1/ops/orders/views").as_deref(), Some("orders"));
        assert_eq!(owner("GET", "/api/v1/ops/modules").as_deref(), Some("app"));
        for path in ["/health/live", "/health/ready", "/metrics"] {
            assert_eq!(owner("GET", path).as_deref(), Some("app"), "{path}");
        }
        assert_eq!(owner("GET", "/api/v1/dashboard").as_deref(), Some("gateway"));
        assert_eq!(owner("GET", "/.well-known/jwks.json").as_deref(), Some("users"));
    }

    #[test]
    fn the_document_says_where_tokens_are_read_and_keys_are_remembered() {
        let table = RouteTable::committed().unwrap();
        let operation = |method, path| table.find(method, path).unwrap().operation;
        for path in [
            "/api/v1/sessions",
            "/api/v1/sessions/refresh",
            "/api/v1/payments/webhooks/sandbox",
        ] {
            assert!(!operation("POST", path).reads_tokens, "{path}");
        }
        // Where a token is welcome but not needed, it is read as well.
        for (method, path) in [
            ("GET", "/api/v1/products"),
            ("POST", "/api/v1/users"),
            ("POST", "/api/v1/orders"),
        ] {
            assert!(operation(method, path).reads_tokens, "{method} {path}");
        }
        for path in [
            "/api/v1/orders",
            "/api/v1/carts",
            "/api/v1/stock/a/receipts",
            "/api/v1/payments/7/refunds",
        ] {
            assert!(operation("POST", path).remembers_keys, "{path}");
        }
        for path in [
            "/api/v1/users",
            "/api/v1/sessions",
            "/api/v1/sessions/refresh",
            "/api/v1/ops/orders/sagas/7/abandon",
        ] {
            assert!(!operation("POST", path).remembers_keys, "{path}");
        }
    }

    #[test]
    fn a_path_is_taken_by_its_bytes() {
        for path in [
            "/api/v1/products/",
            "/api/v1//products",
            "/api/v1/%70roducts",
            "/API/v1/products",
            "/api/v1/orders/../products",
            "/api/v1/products/a/b",
            "/api/v1/products;x=1",
            "/api/v1/carts//checkout",
        ] {
            assert_eq!(owner("GET", path), None, "{path}");
        }
        // One segment, whatever it would mean if it were decoded.
        assert_eq!(owner("GET", "/api/v1/products/..%2forders").as_deref(), Some("catalog"));
        assert_eq!(owner("GET", "/api/v1/ops/or%64ers/sagas").as_deref(), Some("or%64ers"));
    }

    #[test]
    fn a_document_without_owners_is_no_route_table() {
        let table =
            |owner: &str| RouteTable::of(&serde_json::json!({"paths": {"/a/{id}": {"get": {"x-module": owner}}}}));
        assert!(table("{id}").is_ok());
        assert!(table("{module}").unwrap_err().to_string().contains("no such parameter"));
        let without = RouteTable::of(&serde_json::json!({"paths": {"/a": {"get": {}}}}));
        assert_eq!(without.unwrap_err().to_string(), "get /a has no x-module");
    }
}
