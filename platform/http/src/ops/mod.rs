//! The operations API of the modules in this process: each one's sagas, outbox, dead letters and audit log. The machinery is the same in every
//! module, so its routes are written once, with the module's name in the path.

mod events;
mod leftovers;
mod sagas;
mod subscribers;

use std::collections::BTreeMap;

use actix_web::{HttpResponse, get, web::Data};
use banyan_core::Fault;
use banyan_durable::{AuditEntry, Ops as ModuleOps};
use serde::Deserialize;
use uuid::Uuid;

use crate::{Listed, Ops, PageQuery, Path, Problem, Query, Routes};

/// The operations API of these modules, relative to `/api/v1`.
pub fn routes(modules: Vec<ModuleOps>) -> Routes {
    let by_name = modules.into_iter().map(|ops| (ops.module().to_owned(), ops)).collect();
    let modules = Data::new(Modules { by_name });
    Routes::new(move |config| {
        config.app_data(modules.clone()).service(list_audit);
        sagas::register(config);
        leftovers::register(config);
        events::register(config);
        subscribers::register(config);
    })
}

/// The modules of this process that operators can inspect.
struct Modules {
    by_name: BTreeMap<String, ModuleOps>,
}

impl Modules {
    fn load(&self, module: &str) -> Result<&ModuleOps, Fault> {
        self.by_name.get(module).ok_or_else(|| Fault::not_found("module"))
    }
}

/// The path of an item of a module.
#[derive(Deserialize)]
struct InModule {
    module: String,
    id: Uuid,
}

/// What operators did to this module, newest first.
#[utoipa::path(tag = "operations", params(("module" = String, Path, description = "The module's name"), PageQuery),
    responses((status = 200, description = "The audit log", body = Listed<AuditEntry>)), security(("bearer" = [])))]
#[get("/ops/{module}/audit")]
async fn list_audit(
    _ops: Ops,
    module: Path<String>,
    page: Query<PageQuery>,
    modules: Data<Modules>,
) -> Result<HttpResponse, Problem> {
    let entries = modules.load(&module.0)?.list_audit(&page.0.request()).await?;
    Ok(HttpResponse::Ok().json(Listed::from(entries)))
}
