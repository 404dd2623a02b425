//! What all operations of the document have in common is declared once, here, instead of by every module for each of its routes.

mod problems;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Components, Content, Header, OpenApi, Ref, RefOr, Required, Response, ResponseBuilder, Schema,
        path::{Operation, Parameter, ParameterBuilder, ParameterIn},
        schema::{ObjectBuilder, Type},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_actix_web::AppExt;

use crate::{ProblemBody, Routes, problem::PROBLEM_JSON, query, schema};
use problems::Known;
pub use problems::{KnownProblem, PLATFORM_PROBLEMS};

/// The only security scheme: `security(("bearer" = []))`, or `security((), ("bearer" = []))` where a token is optional.
pub const BEARER: &str = "bearer";

/// Status, name and meaning of the problems that operations share.
const PROBLEMS: [(u16, &str, &str); 17] = [
    (
        421,
        "MisdirectedRequest",
        "Nothing is served under the host name of the request.",
    ),
    (
        400,
        "BadRequest",
        "The request cannot be understood: malformed JSON, a parameter that breaks its rules, a missing header.",
    ),
    (401, "Unauthenticated", "No access token, or one that is not valid."),
    (403, "Forbidden", "The token is valid, but its user may not do this."),
    (404, "NotFound", "It does not exist, or it is somebody else's."),
    (408, "RequestTimeout", "The body took too long to arrive."),
    (
        409,
        "Conflict",
        "The present state does not allow it, or an equal request is still running.",
    ),
    (
        412,
        "PreconditionFailed",
        "It has changed since the version named in If-Match.",
    ),
    (413, "BodyTooLarge", "The body has more than 64 KiB."),
    (415, "UnsupportedMediaType", "The body is not JSON."),
    (
        422,
        "Unprocessable",
        "The body breaks a rule, named in `errors`; or the Idempotency-Key was used for another request.",
    ),
    (429, "TooManyRequests", "Wait as Retry-After says."),
    (
        431,
        "HeadTooLarge",
        "The request line and headers have more than 16 KiB.",
    ),
    (
        500,
        "InternalError",
        "A fault on our side; the trace_id finds it in the logs.",
    ),
    (
        503,
        "Unavailable",
        "Nobody can answer this now; nothing is known to have happened.",
    ),
    (
        504,
        "Timeout",
        "The answer did not come in time; what happened is not known. Ask again with the same Idempotency-Key.",
    ),
    (
        405,
        "MethodNotAllowed",
        "The path exists, the method does not; Allow names those that do.",
    ),
];

/// The complete document of these routes under `/api/v1`, for use without a server: the `openapi` command, the gateway, tests.
pub fn document(base: OpenApi, routes: &[Routes]) -> OpenApi {
    let scope = utoipa_actix_web::scope("/api/v1")
        .configure(|config| routes.iter().for_each(|routes| routes.configure(config)));
    let (_, mut api) = actix_web::App::new()
        .into_utoipa_app()
        .openapi(base)
        .service(scope)
        .split_for_parts();
    finish(&mut api, routes);
    api
}

/// What these routes document under `prefix`, before [`finish`]: for a document composed of several modules.
pub fn collect(prefix: &str, routes: &[Routes]) -> OpenApi {
    let scope =
        utoipa_actix_web::scope(prefix).configure(|config| routes.iter().for_each(|routes| routes.configure(config)));
    let empty = utoipa::openapi::OpenApiBuilder::new().build();
    actix_web::App::new()
        .into_utoipa_app()
        .openapi(empty)
        .service(scope)
        .split_for_parts()
        .1
}

/// Completes a collected document: shared problems and headers declared once and referred to, the bearer scheme, each operation's possible
/// problems, those that `routes` name among them, query parameters one by one, implied limits spelled out, operation ids unique.
pub fn finish(api: &mut OpenApi, routes: &[Routes]) {
    let known = Known::of(routes);
    let mut components = api.components.take().unwrap_or_default();
    declare_shared(&mut components, &known);
    let mut ids = BTreeSet::new();
    for item in api.paths.paths.values_mut() {
        let operations = [
            ("get", &mut item.get),
            ("put", &mut item.put),
            ("post", &mut item.post),
            ("delete", &mut item.delete),
            ("patch", &mut item.patch),
        ];
        for (method, operation) in operations {
            let Some(operation) = operation else { continue };
            finish_parameters(operation, &mut components);
            finish_responses(operation);
            finish_successes(operation);
            // Said, not left out: a generator that is told nothing cannot know that no token is needed.
            operation.security.get_or_insert_default();
            make_id_unique(method, operation, &mut ids);
            known.describe(operation);
        }
    }
    tighten_requests(api, &mut components);
    api.components = Some(components);
}

fn declare_shared(components: &mut Components, known: &Known) {
    known.declare(components);
    let mut schemas = vec![(ProblemBody::name().into_owned(), ProblemBody::schema())];
    ProblemBody::schemas(&mut schemas);
    components.schemas.extend(schemas);
    for (status, name, meaning) in PROBLEMS {
        components
            .responses
            .insert(name.to_owned(), RefOr::T(shared_response(status, meaning, known)));
    }
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT");
    let bearer = bearer
        .description(Some("The access token of POST /api/v1/sessions."))
        .build();
    components.add_security_scheme(BEARER, SecurityScheme::Http(bearer));
}

fn shared_response(status: u16, meaning: &str, known: &Known) -> Response {
    let schema = RefOr::Ref(Ref::from_schema_name(ProblemBody::name()));
    let mut response = ResponseBuilder::new()
        .description(meaning)
        .content(PROBLEM_JSON, problems::content(schema, known.shared(status)));
    response = response.header("X-Request-Id", text("Names this request in our logs."));
    response = match status {
        401 | 403 => response.header("WWW-Authenticate", text("How to authenticate (RFC 6750).")),
        405 => response.header("Allow", text("The methods of this path.")),
        404 | 422 => response.header(REPLAYED.0, text(REPLAYED.1)),
        409 => response
            .header(REPLAYED.0, text(REPLAYED.1))
            .header("Retry-After", text("Seconds to wait, if waiting helps.")),
        429 | 503 => response.header("Retry-After", text("Seconds to wait.")),
        _ => response,
    };
    response.build()
}

/// The header of a response that was stored for an earlier request with the same key.
const REPLAYED: (&str, &str) = (
    "Idempotency-Replayed",
    "`true`: the response to an earlier request with this Idempotency-Key.",
);

/// A header with text.
fn text(description: &str) -> Header {
    let mut header = Header::new(ObjectBuilder::new().schema_type(Type::String));
    header.description = Some(description.to_owned());
    header
}

/// What a success without a description of its own means, and the headers that come with what the operation honours.
fn finish_successes(operation: &mut Operation) {
    let honours = |name: &str| {
        let mut parameters = operation.parameters.iter().flatten();
        parameters.any(|parameter| matches!(parameter, RefOr::Ref(to) if to.ref_location.ends_with(name)))
    };
    let (keys, waits, versions) = (honours("IdempotencyKey"), honours("/Prefer"), honours("/IfNoneMatch"));
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        if response.description.is_empty() {
            response.description = match status.as_str() {
                "201" => "It was created; `Location` names it.",
                "202" => "It was accepted and is not done yet.",
                "204" => "It is done; there is no content.",
                _ => "The result.",
            }
            .to_owned();
        }
        let mut add = |(name, description): (&str, &str)| {
            response
                .headers
                .entry(name.to_owned())
                .or_insert(RefOr::T(text(description)));
        };
        let is_success = status.starts_with('2');
        if is_success && keys {
            add(REPLAYED);
        }
        if is_success && waits {
            add((
                "Preference-Applied",
                "`wait=N`: the response waited for the outcome, up to N seconds.",
            ));
        }
        if versions && (is_success || status == "304") {
            add(("ETag", "The version of what is shown."));
        }
    }
}

/// An optional text header.
pub(crate) fn header_parameter(name: &str, description: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .build()
}

/// Query parameters one by one; headers moved to the components.
fn finish_parameters(operation: &mut Operation, components: &mut Components) {
    let Some(parameters) = operation.parameters.take() else {
        return;
    };
    let (mut plain, mut finished) = (Vec::new(), Vec::new());
    for parameter in parameters {
        match parameter {
            RefOr::T(parameter) => plain.push(parameter),
            reference => finished.push(reference),
        }
    }
    let mut seen = BTreeSet::new();
    for mut parameter in query::flat(plain) {
        if !seen.insert((parameter.name.clone(), location(&parameter))) {
            continue;
        }
        tighten_schema(&mut parameter.schema);
        if parameter.parameter_in == ParameterIn::Header {
            let required = if parameter.required == Required::True {
                "Required"
            } else {
                ""
            };
            let name = format!("{required}{}", parameter.name.replace('-', ""));
            finished.push(RefOr::Ref(Ref::new(format!("#/components/parameters/{name}"))));
            components.parameters.entry(name).or_insert(RefOr::T(parameter));
        } else {
            finished.push(RefOr::T(parameter));
        }
    }
    operation.parameters = (!finished.is_empty()).then_some(finished);
}

fn location(parameter: &Parameter) -> &'static str {
    match parameter.parameter_in {
        ParameterIn::Query | ParameterIn::QueryString => "query",
        ParameterIn::Path => "path",
        ParameterIn::Header => "header",
        ParameterIn::Cookie => "cookie",
    }
}

/// Adds the problems that can happen here and that the module has not described better itself.
fn finish_responses(operation: &mut Operation) {
    let mut statuses = BTreeSet::from([421, 429, 431, 500, 503, 504]);
    for parameter in operation.parameters.iter().flatten() {
        match parameter {
            RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Path => statuses.extend([404]),
            RefOr::Ref(reference) if reference.ref_location.ends_with("IdempotencyKey") => {
                statuses.extend([400, 409, 422])
            }
            RefOr::Ref(reference) if reference.ref_location.ends_with("IfMatch") => statuses.extend([412]),
            RefOr::Ref(reference) if reference.ref_location.ends_with("IfNoneMatch") => {
                let unchanged = RefOr::T(Response::new("The client has the present version."));
                operation
                    .responses
                    .responses
                    .entry("304".to_owned())
                    .or_insert(unchanged);
            }
            RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Query => statuses.extend([400]),
            _ => {}
        }
    }
    if operation.request_body.is_some() {
        statuses.extend([400, 408, 413, 415, 422]);
    }
    if let Some(security) = operation.security.as_ref().filter(|all| !all.is_empty()) {
        statuses.insert(401);
        if !security.contains(&SecurityRequirement::default()) {
            statuses.insert(403);
        }
    }
    for (status, name, _) in PROBLEMS.iter().filter(|(status, ..)| statuses.contains(status)) {
        let reference = RefOr::Ref(Ref::new(format!("#/components/responses/{name}")));
        operation
            .responses
            .responses
            .entry(status.to_string())
            .or_insert(reference);
    }
    // A module may describe when it happens; the shape is the same everywhere.
    for (status, response) in &mut operation.responses.responses {
        let failed = status.starts_with('4') || status.starts_with('5');
        if let RefOr::T(response) = response
            && failed
        {
            let schema = RefOr::Ref(Ref::from_schema_name(ProblemBody::name()));
            response.content = [(PROBLEM_JSON.to_owned(), RefOr::T(Content::new(Some(schema))))].into();
        }
    }
}

/// Two modules may each have a `list`; the first keeps the name, the next gets its tag as a prefix.
fn make_id_unique(method: &str, operation: &mut Operation, ids: &mut BTreeSet<String>) {
    let id = operation.operation_id.clone().unwrap_or_else(|| method.to_owned());
    let tag = operation
        .tags
        .iter()
        .flatten()
        .next()
        .cloned()
        .unwrap_or_else(|| method.to_owned());
    let candidates = [id.clone(), format!("{tag}_{id}")]
        .into_iter()
        .chain((2..).map(|number| format!("{tag}_{id}_{number}")));
    let unique = candidates
        .into_iter()
        .find(|candidate| !ids.contains(candidate))
        .unwrap_or(id);
    ids.insert(unique.clone());
    operation.operation_id = Some(unique);
}

/// Documents the implicit limits of everything that a request body can contain.
fn tighten_requests(api: &mut OpenApi, components: &mut Components) {
    let mut wanted = BTreeSet::new();
    for item in api.paths.paths.values_mut() {
        for operation in [&mut item.put, &mut item.post, &mut item.delete, &mut item.patch]
            .into_iter()
            .flatten()
        {
            let Some(RefOr::T(body)) = &mut operation.request_body else {
                continue;
            };
            for content in body.content.values_mut() {
                let RefOr::T(content) = content else { continue };
                tighten_schema(&mut content.schema);
                references(&serde_json::to_value(&content.schema).unwrap_or_default(), &mut wanted);
            }
        }
    }
    let mut done = BTreeSet::new();
    while let Some(name) = wanted.pop_first() {
        if !done.insert(name.clone()) {
            continue;
        }
        if let Some(found) = components.schemas.remove(&name) {
            let mut schema = Some(found);
            tighten_schema(&mut schema);
            references(&serde_json::to_value(&schema).unwrap_or_default(), &mut wanted);
            components.schemas.extend(schema.map(|schema| (name, schema)));
        }
    }
}

fn tighten_schema(schema: &mut Option<RefOr<Schema>>) {
    let Some(loose) = schema else { return };
    let Ok(mut value) = serde_json::to_value(&*loose) else {
        return;
    };
    schema::tighten(&mut value);
    if let Ok(tight) = serde_json::from_value(value) {
        *loose = tight;
    }
}

/// The names of the components that `value` refers to.
fn references(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            let name = map
                .get("$ref")
                .and_then(Value::as_str)
                .and_then(|reference| reference.strip_prefix("#/components/schemas/"));
            names.extend(name.map(str::to_owned));
            map.values().for_each(|inner| references(inner, names));
        }
        Value::Array(all) => all.iter().for_each(|inner| references(inner, names)),
        _ => {}
    }
}

/// References in the document without a target, for tests.
pub fn dangling_references(api: &OpenApi) -> Vec<String> {
    fn walk<'v>(value: &'v Value, found: &mut BTreeMap<&'v str, ()>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(|reference| (reference, ())));
                map.values().for_each(|inner| walk(inner, found));
            }
            Value::Array(all) => all.iter().for_each(|inner| walk(inner, found)),
            _ => {}
        }
    }
    let document = serde_json::to_value(api).unwrap_or_default();
    let mut found = BTreeMap::new();
    walk(&document, &mut found);
    let has_no_target = |reference: &&str| document.pointer(reference.trim_start_matches('#')).is_none();
    found.into_keys().filter(has_no_target).map(str::to_owned).collect()
}
