//! Query parameters and path segments.

use std::{
    any::TypeId,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, LazyLock},
};

use actix_web::{FromRequest, HttpMessage, HttpRequest, dev::Payload};
use banyan_core::{Fault, FieldError};
use futures::future::{FutureExt, LocalBoxFuture, Ready, ready};
use jsonschema::Validator;
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use utoipa::{
    IntoParams,
    openapi::{
        Required,
        path::{Parameter, ParameterIn},
    },
};

use crate::{PageQuery, Problem, schema};

/// Query parameters that are valid against their documented schemas. A handler may take several; a parameter that none of them knows is refused,
/// because ignoring a misspelt filter would return the wrong items.
///
/// Each schema must be inside its parameter: write `#[param(inline)]` on enums.
#[derive(Clone, Debug)]
pub struct Query<T>(pub T);

impl<T> std::ops::Deref for Query<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// The segments of the path. An invalid segment (an id that is not a UUID) names nothing: 404.
#[derive(Clone, Debug)]
pub struct Path<T>(pub T);

impl<T> Path<T> {
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> std::ops::Deref for Path<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: DeserializeOwned + 'static> FromRequest for Path<T> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        // No stored name can contain a NUL, and PostgreSQL refuses even to look for one.
        let has_nul = request
            .match_info()
            .iter()
            .any(|(_, segment)| segment.contains('\0') || segment.contains("%00"));
        let found = actix_web::web::Path::<T>::extract(request).into_inner();
        ready(match found {
            Ok(segments) if !has_nul => Ok(Path(segments.into_inner())),
            _ => Err(Problem(Fault::not_found("resource"))),
        })
    }
}

/// The parameter names of all the `Query`s of one handler. They are collected before any of them is read.
#[derive(Default)]
struct KnownNames(BTreeSet<String>);

/// The documented schemas of a query type.
struct Documented {
    schemas: Vec<(String, Value)>,
    validator: Validator,
}

/// Made once per type.
fn documented<T: IntoParams + 'static>() -> Result<Arc<Documented>, Fault> {
    static KNOWN: LazyLock<RwLock<HashMap<TypeId, Arc<Documented>>>> = LazyLock::new(RwLock::default);
    let id = TypeId::of::<T>();
    if let Some(known) = KNOWN.read().get(&id) {
        return Ok(known.clone());
    }
    let parameters = parameters_of::<T>();
    let validator = schema::compile(&schema_of_all(&parameters))?;
    let schemas = parameters
        .iter()
        .map(|parameter| (parameter.name.clone(), schema_of(parameter)))
        .collect();
    let documented = Arc::new(Documented { schemas, validator });
    KNOWN.write().insert(id, documented.clone());
    Ok(documented)
}

impl<T: DeserializeOwned + IntoParams + 'static> FromRequest for Query<T> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        // All extractors of a handler are created before the first is polled, so the names are complete when the first one reads.
        let documented = documented::<T>();
        if let Ok(documented) = &documented {
            let mut extensions = request.extensions_mut();
            let mut known = extensions.remove::<KnownNames>().unwrap_or_default();
            known.0.extend(documented.schemas.iter().map(|(name, _)| name.clone()));
            extensions.insert(known);
        }
        let request = request.clone();
        async move { Ok(Query(read::<T>(&request, &*documented?)?)) }.boxed_local()
    }
}

fn read<T: DeserializeOwned>(request: &HttpRequest, documented: &Documented) -> Result<T, Fault> {
    let pairs = actix_web::web::Query::<Vec<(String, String)>>::from_query(request.query_string())
        .map_err(|_| Fault::malformed("invalid_parameter", "The query string cannot be read."))?
        .into_inner();
    let mut given: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in pairs {
        given.entry(name).or_default().push(value);
    }
    let mut errors = unknown(request, &given);
    let mut values = Map::new();
    for (name, schema) in &documented.schemas {
        let Some(texts) = given.get(name) else { continue };
        match value_of(schema, texts) {
            Some(value) => _ = values.insert(name.clone(), value),
            None => errors.push(FieldError {
                pointer: name.clone(),
                detail: "is given more than once".to_owned(),
            }),
        }
    }
    let mut values = Value::Object(values);
    schema::make_whole_numbers_integers(&mut values);
    for mut error in schema::violations(&documented.validator, &values) {
        error.pointer = error.pointer.trim_start_matches('/').to_owned();
        if !errors.iter().any(|known| known.pointer == error.pointer) {
            errors.push(error);
        }
    }
    if errors.is_empty() {
        match deserialize(&values) {
            Ok(query) => return Ok(query),
            Err(error) => errors.push(error),
        }
    }
    let mut fault = Fault::malformed("invalid_parameter", "A query parameter breaks its rules.");
    fault.errors = errors;
    Err(fault)
}

fn unknown(request: &HttpRequest, given: &BTreeMap<String, Vec<String>>) -> Vec<FieldError> {
    let extensions = request.extensions();
    let known = extensions.get::<KnownNames>();
    given
        .keys()
        .filter(|name| known.is_none_or(|known| !known.0.contains(*name)))
        .map(|name| FieldError {
            pointer: name.clone(),
            detail: "is not a known parameter".to_owned(),
        })
        .collect()
}

/// The type may have rules that its schema cannot express. The parameter at fault is then the one whose removal changes the error.
fn deserialize<T: DeserializeOwned>(values: &Value) -> Result<T, FieldError> {
    let error = match serde_json::from_value::<T>(values.clone()) {
        Ok(query) => return Ok(query),
        Err(error) => error.to_string(),
    };
    let names = values.as_object().into_iter().flat_map(Map::keys);
    let culprit = names.into_iter().find(|name| {
        let mut without = values.clone();
        without.as_object_mut().map(|map| map.remove(*name));
        serde_json::from_value::<T>(without)
            .err()
            .is_none_or(|other| other.to_string() != error)
    });
    Err(FieldError {
        pointer: culprit.cloned().unwrap_or_default(),
        detail: error,
    })
}

/// Converts text to the type in the schema where possible; where it is not, the validator reports it.
fn value_of(schema: &Value, texts: &[String]) -> Option<Value> {
    let is = |wanted: &str| {
        schema["type"] == wanted
            || schema["type"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one == wanted))
    };
    if is("array") {
        return Some(texts.iter().map(|text| scalar(&schema["items"], text)).collect());
    }
    let [text] = texts else { return None };
    Some(scalar(schema, text))
}

fn scalar(schema: &Value, text: &str) -> Value {
    let is = |wanted: &str| {
        schema["type"] == wanted
            || schema["type"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one == wanted))
    };
    let number = || serde_json::from_str::<Value>(text).ok().filter(Value::is_number);
    let parsed = match text {
        "true" | "false" if is("boolean") => Some(json!(text == "true")),
        _ if is("integer") || is("number") => number(),
        _ => None,
    };
    parsed.unwrap_or_else(|| json!(text))
}

/// The query parameters of `T`, one by one.
fn parameters_of<T: IntoParams>() -> Vec<Parameter> {
    let all = T::into_params(|| Some(ParameterIn::Query));
    flat(all)
        .into_iter()
        .filter(|parameter| parameter.parameter_in == ParameterIn::Query)
        .collect()
}

/// utoipa documents a flattened struct as one parameter with an object schema, which stands for separate parameters (`style: form, explode: true`).
/// Documented separately it is plain.
pub(crate) fn flat(parameters: Vec<Parameter>) -> Vec<Parameter> {
    let mut flat = Vec::with_capacity(parameters.len());
    for parameter in parameters {
        let schema = schema_of(&parameter);
        if parameter.parameter_in != ParameterIn::Query {
            flat.push(parameter);
        } else if is_page_query(&schema) {
            flat.extend(PageQuery::into_params(|| Some(ParameterIn::Query)));
        } else if let Some(properties) = schema["properties"].as_object() {
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            for (name, inner) in properties {
                let mut one = Parameter::new(name.clone());
                one.parameter_in = ParameterIn::Query;
                one.required = if required.iter().any(|known| known == name) {
                    Required::True
                } else {
                    Required::False
                };
                one.description = inner["description"].as_str().map(str::to_owned);
                one.schema = serde_json::from_value(inner.clone()).ok();
                flat.push(one);
            }
        } else {
            flat.push(parameter);
        }
    }
    for parameter in &mut flat {
        drop_null(parameter);
    }
    flat
}

fn is_page_query(schema: &Value) -> bool {
    let is_reference = |schema: &Value| {
        schema["$ref"]
            .as_str()
            .is_some_and(|reference| reference.ends_with("/PageQuery"))
    };
    is_reference(schema)
        || schema["allOf"]
            .as_array()
            .is_some_and(|all| all.iter().any(is_reference))
}

/// A query string cannot express null: an optional parameter is absent.
fn drop_null(parameter: &mut Parameter) {
    if parameter.parameter_in == ParameterIn::Path {
        return;
    }
    let mut schema = schema_of(parameter);
    if let Some(types) = schema["type"].as_array() {
        let kept: Vec<Value> = types.iter().filter(|one| *one != "null").cloned().collect();
        schema["type"] = if let [one] = &kept[..] {
            one.clone()
        } else {
            Value::Array(kept)
        };
    } else if let Some(branches) = schema["oneOf"].as_array() {
        let kept: Vec<Value> = branches
            .iter()
            .filter(|branch| branch["type"] != "null")
            .cloned()
            .collect();
        if let [one] = &kept[..] {
            schema = one.clone();
        }
    } else {
        return;
    }
    if let Ok(schema) = serde_json::from_value(schema) {
        parameter.schema = Some(schema);
    }
}

fn schema_of(parameter: &Parameter) -> Value {
    let mut schema = serde_json::to_value(&parameter.schema).unwrap_or(Value::Null);
    schema::tighten(&mut schema);
    schema
}

fn schema_of_all(parameters: &[Parameter]) -> Value {
    let properties: Map<String, Value> = parameters
        .iter()
        .map(|parameter| {
            let schema = schema_of(parameter);
            // References cannot be resolved here; deserializing the type checks them.
            let closed = !schema.is_null() && !schema.to_string().contains("\"$ref\"");
            (parameter.name.clone(), if closed { schema } else { json!(true) })
        })
        .collect();
    let required: Vec<&str> = parameters
        .iter()
        .filter(|parameter| parameter.required == Required::True)
        .map(|parameter| parameter.name.as_str())
        .collect();
    json!({ "type": "object", "properties": properties, "required": required })
}
