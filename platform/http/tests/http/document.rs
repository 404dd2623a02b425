//! What all operations have in common is declared once in the document.

use actix_web::{HttpResponse, delete, get, patch, post};
use banyan_http::{IfMatch, IfNoneMatch, Listed, OptionalKey, PageQuery, Path, Prefer, Query, RequiredKey, Routes};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{
    IntoParams, ToSchema,
    openapi::{InfoBuilder, OpenApiBuilder},
};

#[derive(Debug, Serialize, Deserialize, ToSchema)]
struct Fig {
    name: String,
    weight: i64,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct NewFig {
    name: String,
    #[schema(minimum = 1)]
    weight: i64,
    seeds: Option<Vec<Seed>>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Seed {
    colour: String,
}

#[derive(Debug, Deserialize, IntoParams)]
#[allow(dead_code)]
struct Search {
    q: Option<String>,
    #[serde(flatten)]
    page: PageQuery,
}

#[utoipa::path(tag = "figs", params(Search), responses((status = 200, body = Listed<Fig>)))]
#[get("/figs")]
async fn list(_query: Query<Search>) -> HttpResponse {
    HttpResponse::Ok().finish()
}

#[utoipa::path(tag = "other", params(PageQuery), responses((status = 200, body = Listed<Fig>)), security((), ("bearer" = [])))]
#[get("/others")]
async fn list_of_others(_query: Query<PageQuery>) -> HttpResponse {
    HttpResponse::Ok().finish()
}

#[utoipa::path(tag = "figs", params(RequiredKey, Prefer), request_body = NewFig, security(("bearer" = [])),
    responses((status = 201, body = Fig), (status = 409, body = banyan_http::ProblemBody, description = "There are no figs left.")))]
#[post("/figs")]
async fn create() -> HttpResponse {
    HttpResponse::Ok().finish()
}

#[utoipa::path(tag = "figs", operation_id = "list", params(IfNoneMatch), responses((status = 200, body = Fig)))]
#[get("/figs/{id}")]
async fn show(_id: Path<uuid::Uuid>) -> HttpResponse {
    HttpResponse::Ok().finish()
}

#[utoipa::path(tag = "figs", params(IfMatch, ("id" = uuid::Uuid, Path)), request_body = NewFig, responses((status = 200, body = Fig)))]
#[patch("/figs/{id}")]
async fn change() -> HttpResponse {
    HttpResponse::Ok().finish()
}

#[utoipa::path(tag = "figs", params(OptionalKey, ("id" = uuid::Uuid, Path)), responses((status = 204)))]
#[delete("/figs/{id}")]
async fn remove() -> HttpResponse {
    HttpResponse::Ok().finish()
}

fn document() -> (utoipa::openapi::OpenApi, Value) {
    let routes = Routes::new(|config| {
        config
            .service(list)
            .service(list_of_others)
            .service(create)
            .service(show)
            .service(change)
            .service(remove);
    });
    let base = OpenApiBuilder::new()
        .info(InfoBuilder::new().title("Figs").version("1"))
        .build();
    let api = banyan_http::openapi::document(base, &[routes]);
    let json = serde_json::to_value(&api).unwrap();
    (api, json)
}

fn statuses(operation: &Value) -> Vec<u16> {
    operation["responses"]
        .as_object()
        .unwrap()
        .keys()
        .map(|status| status.parse().unwrap())
        .collect()
}

#[test]
fn each_operation_documents_its_possible_problems() {
    let (_, document) = document();
    let figs = &document["paths"]["/api/v1/figs"];
    assert_eq!(statuses(&figs["get"]), [200, 400, 421, 429, 431, 500, 503, 504]);
    assert_eq!(
        statuses(&figs["post"]),
        [
            201, 400, 401, 403, 408, 409, 413, 415, 421, 422, 429, 431, 500, 503, 504
        ]
    );
    assert_eq!(
        statuses(&document["paths"]["/api/v1/others"]["get"]),
        [200, 400, 401, 421, 429, 431, 500, 503, 504]
    );
    let fig = &document["paths"]["/api/v1/figs/{id}"];
    assert_eq!(statuses(&fig["get"]), [200, 304, 404, 421, 429, 431, 500, 503, 504]);
    assert_eq!(
        statuses(&fig["patch"]),
        [200, 400, 404, 408, 412, 413, 415, 421, 422, 429, 431, 500, 503, 504]
    );
    assert_eq!(
        statuses(&fig["delete"]),
        [204, 400, 404, 409, 421, 422, 429, 431, 500, 503, 504]
    );
    let own = &figs["post"]["responses"]["409"];
    assert_eq!(own["description"], "There are no figs left.");
    assert_eq!(
        own["content"].as_object().unwrap().len(),
        1,
        "a problem is never application/json"
    );
    assert_eq!(
        own["content"]["application/problem+json"]["schema"]["$ref"],
        "#/components/schemas/Problem"
    );
    assert_eq!(
        figs["post"]["responses"]["429"]["$ref"],
        "#/components/responses/TooManyRequests"
    );
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
}

#[test]
fn query_parameters_are_documented_one_by_one_and_headers_are_shared() {
    let (api, document) = document();
    let names = |operation: &Value| -> Vec<String> {
        let parameters = operation["parameters"].as_array().unwrap().iter();
        parameters
            .map(|parameter| {
                parameter["name"]
                    .as_str()
                    .or(parameter["$ref"].as_str())
                    .unwrap()
                    .to_owned()
            })
            .collect()
    };
    assert_eq!(
        names(&document["paths"]["/api/v1/figs"]["get"]),
        ["q", "limit", "cursor"]
    );
    assert_eq!(names(&document["paths"]["/api/v1/others"]["get"]), ["limit", "cursor"]);
    let limit = &document["paths"]["/api/v1/figs"]["get"]["parameters"][1];
    assert_eq!(
        (
            &limit["schema"]["type"],
            &limit["schema"]["maximum"],
            &limit["required"]
        ),
        (&json!("integer"), &json!(100), &json!(false))
    );
    assert_eq!(
        names(&document["paths"]["/api/v1/figs"]["post"]),
        [
            "#/components/parameters/RequiredIdempotencyKey",
            "#/components/parameters/Prefer"
        ]
    );
    assert_eq!(
        document["components"]["parameters"]["RequiredIdempotencyKey"]["required"],
        true
    );
    assert_eq!(
        document["components"]["parameters"]["IdempotencyKey"]["required"],
        false
    );
    assert_eq!(banyan_http::openapi::dangling_references(&api), [] as [&str; 0]);
    assert_eq!(document["openapi"], "3.1.0");
}

#[test]
fn implicit_limits_are_documented_for_everything_a_body_can_contain() {
    let (_, document) = document();
    let schemas = &document["components"]["schemas"];
    let forbids_control_characters = |schema: &str, property: &str| {
        let pattern = schemas[schema]["properties"][property]["pattern"].as_str();
        pattern.is_some_and(|pattern| pattern.starts_with(r"^[^\u0000-\u0008"))
    };
    assert!(forbids_control_characters("NewFig", "name"));
    assert!(forbids_control_characters("Seed", "colour"), "behind a reference too");
    assert_eq!(schemas["NewFig"]["properties"]["weight"]["maximum"], json!(i64::MAX));
    assert_eq!(schemas["NewFig"]["properties"]["weight"]["minimum"], 1);
    assert_eq!(schemas["NewFig"]["additionalProperties"], false);
    assert_eq!(
        schemas["Fig"]["properties"]["name"].get("pattern"),
        None,
        "responses are left unchanged"
    );
}

#[test]
fn operation_ids_are_unique() {
    let (_, document) = document();
    let mut ids = Vec::new();
    for item in document["paths"].as_object().unwrap().values() {
        ids.extend(
            item.as_object()
                .unwrap()
                .values()
                .filter_map(|operation| operation["operationId"].as_str()),
        );
    }
    let unique: std::collections::BTreeSet<&&str> = ids.iter().collect();
    assert_eq!(unique.len(), ids.len(), "{ids:?}");
}
