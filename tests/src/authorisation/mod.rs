//! The matrix of authorisation: every operation of the running shop's document, tried by every kind of caller on real objects of one customer,
//! against the policies in [`policies`].
//!
//! Callers without permission are tried first, with a valid body and with an invalid one, and must change nothing; then those with permission.

mod objects;
mod policies;

use std::collections::BTreeSet;

use libtest_mimic::{Failed, Trial};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    harness::{Client, Shop, Stage, new_key, order_body, runtime},
    openapi::operations,
};
use objects::Objects;
use policies::{Caller, Expected, POLICIES, Who};

pub fn trials() -> Vec<Trial> {
    let on_stage = |stage: Stage| {
        Trial::test(
            format!(
                "authorisation[{}]::every_operation_admits_exactly_the_callers_of_its_policy",
                stage.name()
            ),
            move || runtime().block_on(matrix(stage)),
        )
    };
    Stage::ALL_IN_ONE.into_iter().map(on_stage).collect()
}

async fn matrix(stage: Stage) -> Result<(), Failed> {
    let shop = Shop::start_with(stage, &[("BANYAN__LOG__FILTER", "warn")]).await;
    let document = shop.client().get("/openapi.json").await.expect(200).json();
    let mut wrong = compare_with_document(&document);
    let objects = Objects::make(&shop).await;
    let matrix = Matrix {
        objects: &objects,
        document: &document,
    };

    let before = objects.snapshot().await;
    for (method, template, who) in POLICIES {
        for caller in Caller::ALL {
            wrong.extend(matrix.try_forbidden(method, template, *who, caller).await);
        }
    }
    let after = objects.snapshot().await;
    if before != after {
        wrong.push(format!(
            "a caller without permission has changed something:\n  before {before}\n  after  {after}"
        ));
    }
    wrong.extend(a_key_is_its_callers_own(&objects).await);
    for (method, template, who) in POLICIES {
        for caller in Caller::ALL
            .into_iter()
            .filter(|caller| who.expects(*caller) == Expected::Allowed)
        {
            wrong.extend(matrix.try_allowed(method, template, caller).await);
        }
    }
    shop.remove().await;
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}

/// Every operation has a policy and every policy an operation; the document requires a token where the policy does.
fn compare_with_document(document: &Value) -> Vec<String> {
    let route = |template: &str| template.split('?').next().unwrap_or_default().to_owned();
    let with_policy: BTreeSet<(String, String)> = POLICIES
        .iter()
        .map(|(method, template, _)| ((*method).to_owned(), route(template)))
        .collect();
    let mut wrong = Vec::new();
    let mut documented = BTreeSet::new();
    for (path, method, operation) in operations(document) {
        if !with_policy.contains(&(method.clone(), path.clone())) {
            wrong.push(format!(
                "{method} {path} has no policy: add one in tests/src/authorisation/policies.rs"
            ));
        }
        let requires_token = operation["security"]
            .as_array()
            .is_some_and(|ways| !ways.is_empty() && ways.iter().all(|way| way.get("bearer").is_some()));
        let row = POLICIES
            .iter()
            .find(|(m, template, _)| **m == method && *template == path);
        if row.is_some_and(|(.., who)| who.needs_token() != requires_token) {
            wrong.push(format!(
                "{method} {path}: its policy and `security` in the document disagree on whether it needs a token"
            ));
        }
        documented.insert((method, path));
    }
    let without_operation = with_policy
        .difference(&documented)
        .map(|(method, path)| format!("{method} {path} has a policy, but there is no such operation"));
    wrong.extend(without_operation);
    wrong
}

/// The body of an operation that requires one, made of the examples of its required members.
fn example(document: &Value, method: &str, template: &str) -> Option<Value> {
    let body = &document["paths"][template][method]["requestBody"];
    let reference = body["content"]["application/json"]["schema"]["$ref"].as_str()?;
    let schema = document.pointer(reference.trim_start_matches('#'))?;
    let required = schema["required"].as_array()?.iter().filter_map(Value::as_str);
    let members = required.map(|name| Some((name.to_owned(), schema["properties"][name].get("example")?.clone())));
    let members = members.collect::<Option<serde_json::Map<_, _>>>()?;
    (body["required"] == true).then_some(Value::Object(members))
}

/// A response without the parts that differ from one request to the next.
#[derive(Debug, PartialEq)]
struct Seen {
    status: u16,
    headers: BTreeSet<String>,
    body: Value,
}

struct Matrix<'a> {
    objects: &'a Objects,
    document: &'a Value,
}

impl Matrix<'_> {
    /// One cell that must be refused: with a valid body, with an invalid one, and exactly as for a missing object.
    async fn try_forbidden(&self, method: &str, template: &str, who: Who, caller: Caller) -> Vec<String> {
        let cell = format!("{method} {template} by {caller:?} ({who:?})");
        let expected = who.expects(caller);
        if expected == Expected::Allowed {
            return Vec::new();
        }
        let (path, missing) = (self.objects.path(template), self.objects.missing(template));
        let body = self.body(method, template, caller).await;
        let good = self.send(caller, method, &path, body.as_ref()).await;
        let mut wrong = self.carries_nothing(&cell, caller, &path, &good);
        wrong.extend(self.is_documented(&cell, template, method, good.status));
        // No operation accepts this body; many accept none, and must not admit a caller because of it.
        let bad_body = json!({"no such member": true});
        let bad = self.send(caller, method, &path, Some(&bad_body)).await;
        match expected {
            Expected::Refused(status) => {
                if good.status != status {
                    wrong.push(format!("{cell}: expected {status}, got {good:?}"));
                }
                if bad.status != status {
                    wrong.push(format!(
                        "{cell}, with a bad body: expected {status}, as this caller has no permission, got {bad:?}"
                    ));
                }
            }
            Expected::Missing => {
                let none = self.send(caller, method, &missing, body.as_ref()).await;
                if good.status != 404 || good != none {
                    wrong.push(format!(
                        "{cell}: another customer's object must look like a missing one:\n  theirs  {good:?}\n  missing {none:?}"
                    ));
                }
                let none = self.send(caller, method, &missing, Some(&bad_body)).await;
                if bad != none || bad.status < 400 {
                    wrong.push(format!("{cell}, with a bad body: another customer's object must look like a missing one:\n  theirs  {bad:?}\n  missing {none:?}"));
                }
            }
            Expected::Allowed => {}
        }
        wrong
    }

    /// One cell that must be allowed: it succeeds, or the object is in a state that does not allow it any more.
    async fn try_allowed(&self, method: &str, template: &str, caller: Caller) -> Vec<String> {
        let cell = format!("{method} {template} by {caller:?}");
        let path = self.objects.path(template);
        let body = self.body(method, template, caller).await;
        let seen = self.send(caller, method, &path, body.as_ref()).await;
        let mut wrong = self.is_documented(&cell, template, method, seen.status);
        if !(200..300).contains(&seen.status) && seen.status != 409 {
            wrong.push(format!("{cell}: must be allowed, got {seen:?}"));
        }
        // An operator sees the sagas and events of all customers, which is the purpose of the operations API.
        if !(caller == Caller::Operator && (template.contains("/ops/") || template.starts_with("/api/v1/users/{id}/")))
        {
            wrong.extend(self.carries_nothing(&cell, caller, &path, &seen));
        }
        wrong
    }

    /// A body that the operation accepts: about the objects of the matrix, or made of the document's examples.
    async fn body(&self, method: &str, template: &str, caller: Caller) -> Option<Value> {
        let about_objects = self.objects.body(method, template, caller).await;
        about_objects.or_else(|| example(self.document, method, template))
    }

    /// Sends a request as `caller`, with a key of its own.
    async fn send(&self, caller: Caller, method: &str, path: &str, body: Option<&Value>) -> Seen {
        let mut request = self
            .objects
            .client(caller)
            .request(method.to_uppercase().parse::<Method>().expect("a method"), path);
        if method == "post" {
            request = request.header("Idempotency-Key", new_key());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request
            .send()
            .await
            .unwrap_or_else(|error| panic!("{method} {path}: {error:?}"));
        let status = response.status().as_u16();
        // Whether the connection is kept depends on how much of the body had arrived when the response was sent.
        let headers = response
            .headers()
            .keys()
            .map(ToString::to_string)
            .filter(|name| name != "connection")
            .collect();
        // The stream of an order in progress does not end; its headers are enough.
        let is_stream = response
            .headers()
            .get("content-type")
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        let text = if is_stream {
            String::new()
        } else {
            response.text().await.expect("a readable response")
        };
        let mut body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        if let Some(problem) = body.as_object_mut().filter(|body| body.contains_key("trace_id")) {
            problem.remove("trace_id");
            problem.remove("instance");
        }
        Seen { status, headers, body }
    }

    /// G1: nothing in the response is the owner's, unless the caller may see the owner's things, or named it.
    fn carries_nothing(&self, cell: &str, caller: Caller, path: &str, seen: &Seen) -> Vec<String> {
        if matches!(caller, Caller::Owner | Caller::Clerk) {
            return Vec::new();
        }
        let text = seen.body.to_string();
        let carried = self
            .objects
            .marks()
            .into_iter()
            .filter(|mark| text.contains(mark) && !path.contains(mark));
        carried
            .map(|mark| format!("{cell}: the response carries {mark}, which is the owner's: {text}"))
            .collect()
    }

    /// The status of a response is in the document.
    fn is_documented(&self, cell: &str, template: &str, method: &str, status: u16) -> Vec<String> {
        let route = template.split('?').next().unwrap_or_default();
        let documented = &self.document["paths"][route][method]["responses"];
        if documented.get(status.to_string()).is_some() {
            Vec::new()
        } else {
            vec![format!("{cell}: the status {status} is not in the document")]
        }
    }
}

/// Another customer's Idempotency-Key does not return that customer's response.
async fn a_key_is_its_callers_own(objects: &Objects) -> Vec<String> {
    let (key, body) = (new_key(), order_body("rare-fig", 1, "pm_card_declined"));
    let place_order = |client: Client| {
        let (key, body) = (key.clone(), body.clone());
        async move {
            client
                .send(
                    Method::POST,
                    "/api/v1/orders",
                    &[("Idempotency-Key", &key)],
                    Some(&body),
                )
                .await
                .expect(201)
                .json()
        }
    };
    let first = place_order(objects.client(Caller::Owner).clone()).await;
    let second = place_order(objects.client(Caller::Stranger).clone()).await;
    if first["id"] == second["id"] || first["user_id"] == second["user_id"] {
        return vec![format!(
            "the owner's Idempotency-Key gave a stranger the owner's order: {second}"
        )];
    }
    Vec::new()
}
