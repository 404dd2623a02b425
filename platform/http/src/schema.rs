//! One source for limits: a type's schema in the OpenAPI document is the schema its input is validated against.
//!
//! [`tighten`] adds implicit limits to a schema (the range of a 64-bit integer; what text may not contain: [`text`]). It is applied both to
//! the document and to the validators, so that the two cannot differ.

use std::{
    any::TypeId,
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use banyan_core::{Fault, FieldError};
use jsonschema::{ValidationError, Validator, error::ValidationErrorKind};
use parking_lot::RwLock;
use serde_json::{Map, Value, json};

use crate::text;

/// The maximum number of errors in one response.
const MAX_ERRORS: usize = 32;
/// Formats that exclude what no text may contain.
const STRICT_FORMATS: [&str; 10] = [
    "uuid",
    "email",
    "date-time",
    "date",
    "time",
    "uri",
    "uri-reference",
    "ipv4",
    "ipv6",
    "binary",
];

type Compiled = RwLock<HashMap<TypeId, Arc<Validator>>>;

/// The cached validator for the type `id`; compiled from `schema` on first use.
///
/// # Errors
/// `broken_schema`: the type's schema cannot be compiled, which is a bug in its attributes.
pub(crate) fn validator(id: TypeId, schema: impl FnOnce() -> Value) -> Result<Arc<Validator>, Fault> {
    static COMPILED: OnceLock<Compiled> = OnceLock::new();
    let compiled = COMPILED.get_or_init(Compiled::default);
    if let Some(known) = compiled.read().get(&id) {
        return Ok(known.clone());
    }
    let validator = Arc::new(compile(&schema())?);
    compiled.write().insert(id, validator.clone());
    Ok(validator)
}

pub(crate) fn compile(schema: &Value) -> Result<Validator, Fault> {
    // OpenAPI 3.1 uses the 2020-12 dialect, where `format` is only an annotation unless its validation is enabled.
    jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        .should_validate_formats(true)
        .build(schema)
        .map_err(|error| Fault::internal("broken_schema", error.to_string()))
}

/// The schema of a body type with every component it refers to.
pub(crate) fn schema_of<T: utoipa::ToSchema>() -> Value {
    let mut components = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut components);
    let components: Map<String, Value> = components
        .into_iter()
        .map(|(name, schema)| (name, as_json(&schema)))
        .collect();
    let mut schema = as_json(&T::schema());
    tighten(&mut schema);
    let mut components = Value::Object(components);
    if let Some(all) = components.as_object_mut() {
        all.values_mut().for_each(tighten);
    }
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("components".to_owned(), json!({ "schemas": components }));
    }
    schema
}

fn as_json(schema: &impl serde::Serialize) -> Value {
    serde_json::to_value(schema).unwrap_or(Value::Null)
}

/// Adds implicit limits: ranges of sized integers, and what free text may not contain.
pub(crate) fn tighten(schema: &mut Value) {
    match schema {
        Value::Array(all) => all.iter_mut().for_each(tighten),
        Value::Object(map) => {
            tighten_node(map);
            for (keyword, inner) in map.iter_mut() {
                match (keyword.as_str(), inner) {
                    // These contain values, not schemas.
                    ("enum" | "const" | "default" | "example" | "examples" | "required", _) => {}
                    ("properties" | "patternProperties" | "$defs", Value::Object(named)) => {
                        named.values_mut().for_each(tighten)
                    }
                    (_, inner) => tighten(inner),
                }
            }
        }
        _ => {}
    }
}

fn tighten_node(map: &mut Map<String, Value>) {
    let format = map.get("format").and_then(Value::as_str).unwrap_or_default().to_owned();
    if has_type(map, "integer") {
        let range = match format.as_str() {
            "int32" => Some((i64::from(i32::MIN), i64::from(i32::MAX))),
            "int64" => Some((i64::MIN, i64::MAX)),
            _ => None,
        };
        if let Some((least, most)) = range {
            if !map.contains_key("exclusiveMinimum") {
                map.entry("minimum").or_insert(json!(least));
            }
            if !map.contains_key("exclusiveMaximum") {
                map.entry("maximum").or_insert(json!(most));
            }
        }
    }
    let free = !["pattern", "enum", "const"]
        .iter()
        .any(|keyword| map.contains_key(*keyword));
    if has_type(map, "string") && free && !STRICT_FORMATS.contains(&format.as_str()) {
        let min_length = map.get("minLength").and_then(Value::as_u64);
        map.insert("pattern".to_owned(), json!(text::pattern(&format, min_length)));
        if format == text::LINE {
            map.remove("format");
        }
    }
}

fn has_type(map: &Map<String, Value>, wanted: &str) -> bool {
    match map.get("type") {
        Some(Value::String(one)) => one == wanted,
        Some(Value::Array(several)) => several.iter().any(|one| one == wanted),
        _ => false,
    }
}

/// Every rule that `value` breaks, as RFC 6901 pointers and descriptions; the values themselves are not repeated, they may be secrets.
pub(crate) fn violations(validator: &Validator, value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    find_forbidden(value, &mut String::new(), &mut errors);
    if errors.is_empty() {
        validator
            .iter_errors(value)
            .take(MAX_ERRORS)
            .for_each(|error| describe(&error, &mut errors));
    }
    errors.truncate(MAX_ERRORS);
    errors
}

fn describe(error: &ValidationError<'_>, errors: &mut Vec<FieldError>) {
    let path = error.instance_path().as_str();
    let mut push = |pointer: String, detail: String| errors.push(FieldError { pointer, detail });
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            for name in unexpected {
                push(format!("{path}/{}", escape(name)), "is not a known field".to_owned());
            }
        }
        ValidationErrorKind::Required { property } => {
            push(
                format!("{path}/{}", escape(property.as_str().unwrap_or_default())),
                "is required".to_owned(),
            );
        }
        // The minimum length says it already.
        ValidationErrorKind::Pattern { pattern }
            if text::rule(pattern).is_some() && error.instance().as_str() == Some("") => {}
        ValidationErrorKind::Pattern { pattern } => {
            let rule = text::rule(pattern).map_or_else(|| error.masked().to_string(), str::to_owned);
            push(path.to_owned(), rule);
        }
        ValidationErrorKind::OneOfNotValid { context } | ValidationErrorKind::AnyOf { context } => {
            match best_branch(path, context) {
                Some(branch) => branch.iter().for_each(|inner| describe(inner, errors)),
                None => push(path.to_owned(), error.masked().to_string()),
            }
        }
        _ => push(path.to_owned(), error.masked().to_string()),
    }
}

/// The alternative that was meant, if it is clear: all others fail already by the type of the whole value (`null` of an optional).
fn best_branch<'e>(
    path: &str,
    context: &'e [Vec<ValidationError<'static>>],
) -> Option<&'e Vec<ValidationError<'static>>> {
    let mismatch = |error: &ValidationError<'_>| {
        error.instance_path().as_str() == path && matches!(error.kind(), ValidationErrorKind::Type { .. })
    };
    let mut meant = context.iter().filter(|branch| !branch.iter().any(mismatch));
    meant.next().filter(|_| meant.next().is_none())
}

/// RFC 6901, section 3.
fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Also in texts whose own pattern would allow it, and in names of fields.
fn find_forbidden(value: &Value, path: &mut String, errors: &mut Vec<FieldError>) {
    let forbidden = |path: &str| FieldError {
        pointer: path.to_owned(),
        detail: text::RULE.to_owned(),
    };
    let len = path.len();
    match value {
        Value::String(value) if value.contains(text::is_forbidden) => errors.push(forbidden(path)),
        Value::Array(all) => {
            for (index, inner) in all.iter().enumerate() {
                path.push_str(&format!("/{index}"));
                find_forbidden(inner, path, errors);
                path.truncate(len);
            }
        }
        Value::Object(map) => {
            for (name, inner) in map {
                path.push('/');
                path.push_str(&escape(name));
                if name.contains(text::is_forbidden) {
                    errors.push(forbidden(path));
                }
                find_forbidden(inner, path, errors);
                path.truncate(len);
            }
        }
        _ => {}
    }
}

/// 1.0 is an integer in JSON Schema, but not for serde: whole numbers become integers before serde sees them.
pub(crate) fn make_whole_numbers_integers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            // Below 2^63 in size, and whole: the conversion is exact.
            let whole = number
                .as_f64()
                .filter(|float| float.fract() == 0.0 && float.abs() < 9_223_372_036_854_775_808.0);
            if let Some(float) = whole {
                *value = json!(float as i64);
            }
        }
        Value::Array(all) => all.iter_mut().for_each(make_whole_numbers_integers),
        Value::Object(map) => map.values_mut().for_each(make_whole_numbers_integers),
        _ => {}
    }
}
