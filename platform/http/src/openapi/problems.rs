//! The problems that the document names: each code under its status, with an example of the whole body.

use std::collections::BTreeMap;

use serde_json::json;
use utoipa::openapi::{
    Components, Content, Ref, RefOr, Response,
    example::{Example, ExampleBuilder},
    path::Operation,
};

use super::{PROBLEMS, shared_response};
use crate::{
    Routes,
    problem::{PROBLEM_JSON, title_of},
};

/// A problem that clients may meet, for the document.
#[derive(Clone, Copy, Debug)]
pub struct KnownProblem {
    pub status: u16,
    /// The member `code` of the body.
    pub code: &'static str,
    /// An example of the member `detail`.
    pub detail: &'static str,
    /// The ids of the operations that may respond with it. Empty: every operation that may respond with this status.
    pub operations: &'static [&'static str],
}

impl KnownProblem {
    /// A problem of these operations; of every operation that may respond with this status if there are none.
    pub const fn of(
        status: u16,
        code: &'static str,
        detail: &'static str,
        operations: &'static [&'static str],
    ) -> Self {
        KnownProblem {
            status,
            code,
            detail,
            operations,
        }
    }
}

const fn anywhere(status: u16, code: &'static str, detail: &'static str) -> KnownProblem {
    KnownProblem::of(status, code, detail, &[])
}

const SAGA_ACTIONS: &[&str] = &["retry_saga", "compensate_saga", "abandon_saga"];
const DEAD_LETTER_ACTIONS: &[&str] = &["retry_dead_letter", "discard_dead_letter"];

/// The platform's own problems.
pub const PLATFORM_PROBLEMS: &[KnownProblem] = &[
    anywhere(400, "bad_request", "The request cannot be understood."),
    anywhere(
        400,
        "malformed_json",
        "The body is not JSON: expected `,` or `}` at line 1 column 17.",
    ),
    anywhere(400, "broken_body", "The body ended before it was complete."),
    anywhere(400, "invalid_parameter", "limit must be a number from 1 to 100."),
    anywhere(400, "invalid_cursor", "The cursor is not one of this list."),
    anywhere(
        400,
        "idempotency_key_required",
        "Send an Idempotency-Key, so that the request can be retried safely.",
    ),
    anywhere(
        400,
        "invalid_idempotency_key",
        "Idempotency-Key must be one string of 1 to 255 visible ASCII characters, best a UUID in quotes.",
    ),
    anywhere(401, "unauthenticated", "This needs an access token."),
    anywhere(401, "invalid_token", "The access token has expired."),
    anywhere(403, "forbidden", "This is not allowed."),
    anywhere(
        403,
        "insufficient_role",
        "This needs a role that the caller does not have.",
    ),
    anywhere(404, "not_found", "There is no such thing."),
    anywhere(405, "method_not_allowed", "This path has no method PUT."),
    anywhere(408, "request_timeout", "The body took too long to arrive."),
    anywhere(409, "conflict", "The present state does not allow this."),
    anywhere(
        409,
        "twin_in_progress",
        "An equal request is still running; ask again later.",
    ),
    anywhere(
        412,
        "precondition_failed",
        "It has changed since you read it: read it again and repeat the change with its new ETag.",
    ),
    anywhere(413, "body_too_large", "The body may have 65536 bytes."),
    anywhere(415, "unsupported_media_type", "Send application/json."),
    anywhere(422, "invalid_body", "The body breaks a rule."),
    anywhere(422, "invalid", "The request breaks a rule."),
    anywhere(422, "invalid_id", "This is not an id."),
    anywhere(
        422,
        "idempotency_key_reused",
        "This Idempotency-Key was used before, for a different request.",
    ),
    anywhere(
        421,
        "misdirected_request",
        "Nothing is served under this host name. If it is right, the operator adds it to http.hosts.",
    ),
    anywhere(429, "too_many_requests", "Too many requests."),
    anywhere(
        431,
        "header_fields_too_large",
        "The request line and headers may have 16384 bytes.",
    ),
    anywhere(
        500,
        "internal_error",
        "Something went wrong on our side. It has been logged under this trace_id.",
    ),
    anywhere(503, "unavailable", "This cannot be answered now."),
    anywhere(
        503,
        "too_many_connections",
        "Too many connections are open; close some, or try again later.",
    ),
    anywhere(
        503,
        "module_unavailable",
        "The module `accounts` cannot be reached now; nothing has happened.",
    ),
    anywhere(
        503,
        "module_busy",
        "Too many requests to the module `accounts` are under way; nothing has happened.",
    ),
    anywhere(
        504,
        "timeout",
        "The response did not arrive in time; the outcome is not known.",
    ),
    anywhere(
        504,
        "connection_lost",
        "The connection to `accounts` broke before it responded; what happened is not known.",
    ),
    KnownProblem::of(409, "saga_finished", "The saga has ended.", SAGA_ACTIONS),
    KnownProblem::of(
        409,
        "saga_not_parked",
        "Only a parked saga can be abandoned.",
        &["abandon_saga"],
    ),
    KnownProblem::of(
        409,
        "saga_compensating",
        "The saga is being compensated already.",
        &["compensate_saga"],
    ),
    KnownProblem::of(
        409,
        "saga_not_abandoned",
        "The saga is neither abandoned nor parked.",
        &["undo_leftover"],
    ),
    KnownProblem::of(
        409,
        "saga_unfinished",
        "The saga may still need it.",
        &["undo_leftover"],
    ),
    KnownProblem::of(
        409,
        "saga_unknown",
        "This process does not know the definition of this saga.",
        &["retry_saga", "compensate_saga", "abandon_saga", "undo_leftover"],
    ),
    KnownProblem::of(
        422,
        "reason_required",
        "Say why.",
        &["retry_saga", "compensate_saga", "abandon_saga", "undo_leftover"],
    ),
    KnownProblem::of(
        422,
        "invalid_state",
        "There is no such state.",
        &["list_sagas", "list_outbox", "list_dead_letters"],
    ),
    KnownProblem::of(409, "not_dead", "It is not a dead letter.", DEAD_LETTER_ACTIONS),
    KnownProblem::of(
        409,
        "not_discardable",
        "It cannot be given up.",
        &["discard_dead_letter"],
    ),
    KnownProblem::of(
        422,
        "invalid_confirmation",
        "Confirm with the number of events that are given up.",
        &["give_up_subscriber"],
    ),
];

/// Every known problem of the document, the platform's and those that its routes name.
pub(super) struct Known(Vec<&'static KnownProblem>);

impl Known {
    pub fn of(routes: &[Routes]) -> Self {
        let named = routes.iter().flat_map(Routes::problems);
        Known(PLATFORM_PROBLEMS.iter().chain(named).collect())
    }

    /// The examples that the shared response of a status refers to.
    pub fn shared(&self, status: u16) -> BTreeMap<String, RefOr<Example>> {
        let everywhere = self
            .0
            .iter()
            .filter(|known| known.status == status && known.operations.is_empty());
        everywhere.map(|known| reference(known.code)).collect()
    }

    /// Names this operation's own problems under their statuses, beside those that are shared.
    pub fn describe(&self, operation: &mut Operation) {
        let id = operation.operation_id.clone().unwrap_or_default();
        for known in self.0.iter().filter(|known| known.operations.contains(&id.as_str())) {
            let responses = &mut operation.responses.responses;
            let response = responses
                .entry(known.status.to_string())
                .or_insert(RefOr::T(Response::new("")));
            if !matches!(response, RefOr::T(own) if !own.description.is_empty()) {
                let meaning = PROBLEMS
                    .iter()
                    .find(|(status, ..)| *status == known.status)
                    .map_or("", |(.., meaning)| meaning);
                *response = RefOr::T(shared_response(known.status, meaning, self));
            }
        }
        for (status, response) in &mut operation.responses.responses {
            let (Ok(status), RefOr::T(response)) = (status.parse::<u16>(), response) else {
                continue;
            };
            let own = self
                .0
                .iter()
                .filter(|known| known.status == status && known.operations.contains(&id.as_str()));
            let own: Vec<&str> = own.map(|known| known.code).collect();
            let unnamed: Vec<String> = own
                .iter()
                .map(|code| format!("`{code}`"))
                .filter(|code| !response.description.contains(code))
                .collect();
            if !unnamed.is_empty() {
                response.description = format!("{} Here: {}.", response.description, unnamed.join(", "));
            }
            if let Some(RefOr::T(content)) = response.content.get_mut(PROBLEM_JSON) {
                content.examples = self.shared(status);
                content.examples.extend(own.into_iter().map(reference));
            }
        }
    }

    /// The examples, and a list of all codes with what they mean.
    pub fn declare(&self, components: &mut Components) {
        for known in &self.0 {
            components
                .examples
                .insert(known.code.to_owned(), RefOr::T(example(known)));
        }
    }
}

/// The content of a problem's response.
pub(super) fn content(schema: RefOr<utoipa::openapi::Schema>, examples: BTreeMap<String, RefOr<Example>>) -> Content {
    let mut content = Content::new(Some(schema));
    content.examples = examples;
    content
}

fn reference(code: &str) -> (String, RefOr<Example>) {
    (
        code.to_owned(),
        RefOr::Ref(Ref::new(format!("#/components/examples/{code}"))),
    )
}

fn example(known: &KnownProblem) -> Example {
    let mut body = json!({
        "type": format!("https://banyan.example/problems/{}", known.code),
        "title": title_of(known.code),
        "status": known.status,
        "code": known.code,
        "detail": known.detail,
        "instance": "/api/v1/some/thing",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    });
    if known.code == "invalid_body" {
        body["errors"] = json!([{"pointer": "/items/0/quantity", "detail": "must be at most 999"}]);
    }
    ExampleBuilder::new()
        .summary(title_of(known.code))
        .value(Some(body))
        .build()
}
