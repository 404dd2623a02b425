//! Whose a request is: the committed OpenAPI document read as a route table.
//!
//! Every operation of the document says in `x-module` whose it is; `{module}` means that the path's parameter of that name says it. What is
//! compared are the bytes of the path as they came, which are also the bytes that are passed on: nothing is decoded, so that nobody can mean
//! one path here and another one behind.

use std::sync::Arc;

use anyhow::Context;
use serde_json::Value;

/// The document of all modules, whichever of them are in this binary.
pub const DOCUMENT: &str = include_str!("../../openapi.json");

const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

/// Which operations there are, and whose they are.
#[derive(Debug)]
pub struct RouteTable(Vec<Route>);

#[derive(Debug)]
struct Route {
    method: String,
    segments: Vec<Segment>,
    template: Arc<str>,
    owner: Owner,
}

/// Words come before parameters, so that in a sorted table `/users/me` is found before `/users/{id}`.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Word(String),
    Parameter,
}

#[derive(Debug)]
enum Owner {
    /// A module, or what is no module and therefore everywhere: `app`, `gateway`.
    Named(String),
    /// Whoever the segment at this place names.
    AtSegment(usize),
}

/// An operation that a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<'p> {
    /// The module's name, or what stands in its place; nobody has checked that there is such a module.
    pub module: &'p str,
    /// The path with its parameters' names, for measurements.
    pub template: Arc<str>,
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
        let paths = document["paths"].as_object().context("the OpenAPI document has no paths")?;
        let mut routes = Vec::new();
        for (template, item) in paths {
            for (method, operation) in METHODS.iter().filter_map(|method| Some((*method, item.get(method)?))) {
                let owner = operation["x-module"].as_str().with_context(|| format!("{method} {template} has no x-module"))?;
                let segments = || template.split('/');
                let owner = match segments().position(|segment| segment == owner) {
                    Some(at) if is_parameter(owner) => Owner::AtSegment(at),
                    _ if is_parameter(owner) => anyhow::bail!("{method} {template} has the x-module {owner}, but no such parameter"),
                    _ => Owner::Named(owner.to_owned()),
                };
                let segments = segments().map(|segment| match is_parameter(segment) {
                    true => Segment::Parameter,
                    false => Segment::Word(segment.to_owned()),
                });
                let (method, segments) = (method.to_uppercase(), segments.collect());
                routes.push(Route { method, segments, template: template.as_str().into(), owner });
            }
        }
        routes.sort_by(|one, other| one.segments.cmp(&other.segments));
        Ok(RouteTable(routes))
    }

    /// Whose this request is; none if nobody documents it. The shell has made a GET of a HEAD.
    pub fn find<'p>(&'p self, method: &str, path: &'p str) -> Option<Found<'p>> {
        let route = self.0.iter().find(|route| route.method == method && route.fits(path))?;
        let module = match &route.owner {
            Owner::Named(name) => name,
            Owner::AtSegment(at) => path.split('/').nth(*at)?,
        };
        Some(Found { module, template: route.template.clone() })
    }
}

impl Route {
    fn fits(&self, path: &str) -> bool {
        let mut segments = path.split('/');
        let all_fit = self.segments.iter().all(|expected| match (expected, segments.next()) {
            (Segment::Word(word), Some(segment)) => word == segment,
            (Segment::Parameter, Some(segment)) => !segment.is_empty(),
            (_, None) => false,
        });
        all_fit && segments.next().is_none()
    }
}

fn is_parameter(segment: &str) -> bool {
    segment.starts_with('{') && segment.ends_with('}')
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::MODULES;

    fn found(method: &str, path: &str) -> Option<(String, String)> {
        let table = RouteTable::committed().unwrap();
        let found = table.find(method, path)?;
        Some((found.module.to_owned(), found.template.to_string()))
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
                let (module, _) = found(&method.to_uppercase(), &path).unwrap_or_else(|| panic!("{method} {template} is not in the table"));
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
        assert_eq!(template("GET", "/api/v1/users/7").as_deref(), Some("/api/v1/users/{id}"));
        assert_eq!(template("PATCH", "/api/v1/users/7"), None);
    }

    #[test]
    fn what_operators_ask_of_a_module_is_that_modules() {
        assert_eq!(owner("GET", "/api/v1/ops/payments/sagas").as_deref(), Some("payments"));
        assert_eq!(owner("POST", "/api/v1/ops/orders/dead-letters/7/retry").as_deref(), Some("orders"));
        assert_eq!(owner("GET", "/api/v1/ops/orders/views").as_deref(), Some("orders"));
        assert_eq!(owner("GET", "/api/v1/ops/modules").as_deref(), Some("app"));
        for path in ["/health/live", "/health/ready", "/metrics"] {
            assert_eq!(owner("GET", path).as_deref(), Some("app"), "{path}");
        }
        assert_eq!(owner("GET", "/api/v1/dashboard").as_deref(), Some("gateway"));
        assert_eq!(owner("GET", "/.well-known/jwks.json").as_deref(), Some("users"));
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
        let table = |owner: &str| RouteTable::of(&serde_json::json!({"paths": {"/a/{id}": {"get": {"x-module": owner}}}}));
        assert!(table("{id}").is_ok());
        assert!(table("{module}").unwrap_err().to_string().contains("no such parameter"));
        let without = RouteTable::of(&serde_json::json!({"paths": {"/a": {"get": {}}}}));
        assert_eq!(without.unwrap_err().to_string(), "get /a has no x-module");
    }
}
