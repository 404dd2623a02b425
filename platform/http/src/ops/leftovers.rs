//! Undoing what an abandoned saga has left in other modules.

use actix_web::{
    HttpResponse,
    http::{StatusCode, header::RETRY_AFTER},
    post,
    web::Data,
};
use banyan_core::{Call, Fault};
use banyan_durable::{Ops as ModuleOps, SagaOps, Undone};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;
use uuid::Uuid;

use super::Modules;
use crate::{
    Body, KeyedRequest, KeyedResponse, Ops, Path, Problem, Reason, RequiredKey, StoredResponse, claim_key, find_replay,
    key_reused, respond_once,
};

pub fn register(config: &mut ServiceConfig<'_>) {
    config.service(undo_leftover);
}

/// The path of something that a saga has left.
#[derive(Deserialize)]
struct OfSaga {
    module: String,
    id: Uuid,
    undo: String,
}

/// How far the undo of a leftover has come.
#[derive(Serialize, ToSchema)]
struct LeftoverUndo {
    /// As in the path.
    undo: String,
    #[schema(inline)]
    status: UndoStatus,
    /// What was done, in words.
    detail: String,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum UndoStatus {
    /// Nothing is left of it.
    Done,
    /// The other module is still working on it.
    InProgress,
}

/// Undoes something that an abandoned saga has left in another module: one of those that the saga's `leftovers` name as `undo`. Nothing happens twice:
/// what was undone before stays as it is. A refusal is kept for its key, so a new attempt needs a new one.
#[utoipa::path(tag = "operations",
    params(("module" = String, Path, description = "The module's name"), ("id" = Uuid, Path, description = "The saga"),
        ("undo" = String, Path, description = "As in `leftovers`", min_length = 1, max_length = 64), RequiredKey),
    request_body = Reason,
    responses((status = 200, description = "Nothing is left of it", body = LeftoverUndo),
        (status = 202, description = "In progress: ask again with the same key after `Retry-After`", body = LeftoverUndo),
        (status = 409, description = "`saga_not_abandoned`, `saga_unfinished`: a saga may still need it; or the other module's reason")),
    security(("bearer" = [])))]
#[post("/ops/{module}/sagas/{id}/leftovers/{undo}")]
async fn undo_leftover(
    ops: Ops,
    path: Path<OfSaga>,
    key: RequiredKey,
    reason: Body<Reason>,
    modules: Data<Modules>,
) -> Result<HttpResponse, Problem> {
    let module = modules.load(&path.0.module)?.clone();
    let request = key.keyed();
    if let Some(replay) = find_replay(module.db(), &request).await? {
        return Ok(replay);
    }
    // In a task of its own: a client that disconnects must not come between the other module's response and its record here.
    let undoing = tokio::spawn(undo_once(module, ops.call().clone(), request, path.0, reason.0));
    let response = undoing
        .await
        .map_err(|error| Fault::internal("work_panicked", error.to_string()))?;
    Ok(response?.into())
}

/// The namespace of the ids of the commands that undo leftovers, which are derived from the caller and the key of the request.
const UNDO_KEYS: Uuid = Uuid::from_u128(0x1d5b_8f0a_52c3_4e6e_9a57_0f6c_3b9d_e814);

async fn undo_once(
    module: ModuleOps,
    call: Call,
    request: KeyedRequest,
    path: OfSaga,
    why: Reason,
) -> Result<KeyedResponse, Problem> {
    // The work is in two modules: its id comes from caller and key, so that a repeat after a crash in between finds it.
    let command_id = Uuid::new_v5(&UNDO_KEYS, request.id().as_bytes());
    let OfSaga { id, undo, .. } = path;
    let Reason { reason, comment } = why;
    let fingerprint = format!("{id} {undo} {reason:?} {comment:?}");
    claim_key(module.db(), &request, "leftover_key", fingerprint.as_bytes()).await?;
    let undone = module
        .sagas()
        .undo_leftover(&call, id, &undo, command_id, &reason, comment.as_deref())
        .await;
    let detail = match undone {
        Ok(Undone::InProgress(after)) => {
            let seconds = after.as_secs_f64().ceil().max(1.0);
            let body = LeftoverUndo {
                undo,
                status: UndoStatus::InProgress,
                detail: "The other module is still working on it.".to_owned(),
            };
            // Not stored: the same request asks again.
            return Ok(KeyedResponse {
                response: StoredResponse::json(StatusCode::ACCEPTED, &body)
                    .with_header(RETRY_AFTER, &seconds.to_string()),
                replayed: false,
            });
        }
        Ok(Undone::Done(detail)) => Ok(detail),
        Err(fault) => Err(key_reused(fault)),
    };
    let context = (call, undo, reason, comment, detail);
    respond_once(module.db(), request, context, move |tx, context| async move {
        let (call, undo, reason, comment, detail) = context;
        let detail = detail?;
        SagaOps::record_undo(&tx, &call.actor, id, &undo, &detail, &reason, comment.as_deref()).await?;
        Ok(crate::ok(&LeftoverUndo {
            undo,
            status: UndoStatus::Done,
            detail,
        }))
    })
    .await
}
