//! `/ops/modules`: every module of the shop, wherever it runs, and how its machinery does.

use std::{fmt::Display, sync::Arc};

use actix_web::{HttpRequest, HttpResponse, get, web::Data};
use banyan_gateway::Proxy;
use banyan_http::{Ops, Problem, Query, Routes};
use banyan_remote::grpc::{RemoteState, Remotes};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::{
    local::{Counts, LocalModules},
    placement::Placement,
};

/// What the overview is made of.
pub struct Overview {
    pub placements: Vec<Placement>,
    pub local: Arc<LocalModules>,
    pub remotes: Arc<Remotes>,
    /// Passes requests on to remote modules, where this process is the edge.
    pub proxy: Arc<Proxy>,
}

/// The route, relative to `/api/v1`.
pub fn routes(overview: Overview) -> Routes {
    let overview = Data::new(overview);
    Routes::new(move |config| {
        config.app_data(overview.clone()).service(list_modules);
    })
}

/// A module: where it is, how it is connected, and how its machinery does.
#[derive(Serialize, ToSchema)]
struct ModuleView {
    #[serde(flatten)]
    placement: Placement,
    /// Null while the module is away.
    machinery: Option<Counts>,
    /// How calls to it from here fare; null if it is in this binary, or never asked from here.
    connection: Option<RemoteState>,
}

/// Every module of this shop.
#[derive(Serialize, ToSchema)]
struct ModuleList {
    items: Vec<ModuleView>,
}

/// Whose rows are asked for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ModulesQuery {
    /// Only the modules of the process that answers; it asks nobody else.
    #[serde(default)]
    #[param(required = false)]
    here: bool,
}

impl Overview {
    async fn view(&self, placement: &Placement, request: &HttpRequest) -> ModuleView {
        let mut placement = placement.clone();
        // A module that is away is what an operator looks for here, so its row is shown all the same.
        let name = placement.name.clone();
        let silent = |error: &dyn Display| tracing::warn!(module = name, %error, "a module does not say how it does");
        if placement.is_local() {
            let machinery = self
                .local
                .counts(&placement.name)
                .await
                .inspect_err(|fault| silent(fault))
                .ok();
            return ModuleView {
                placement,
                machinery,
                connection: None,
            };
        }
        let connection = self
            .remotes
            .states()
            .into_iter()
            .find(|state| state.module == placement.name);
        let told = match self.proxy.is_idle() {
            // Only an edge knows where to ask.
            true => None,
            false => fetch_own_view(&self.proxy, &placement.name, request)
                .await
                .inspect_err(|error| silent(error))
                .ok(),
        };
        let own = told.as_ref().and_then(|told| {
            told["items"]
                .as_array()?
                .iter()
                .find(|item| item["name"] == placement.name.as_str())
        });
        let machinery = own.and_then(|own| serde_json::from_value(own["machinery"].clone()).ok());
        placement.data = own.and_then(|own| own["data"].as_str().map(str::to_owned));
        ModuleView {
            placement,
            machinery,
            connection,
        }
    }
}

/// What the process that `module` runs in says of its own modules. It is not asked for more: it may be an edge too, and would ask in its turn.
///
/// # Errors
/// As [`Proxy::get_json`].
pub async fn fetch_own_view(proxy: &Proxy, module: &str, request: &HttpRequest) -> anyhow::Result<Value> {
    proxy.get_json(module, "/api/v1/ops/modules?here=true", request).await
}

/// Which modules there are, where they run, how they are connected, and what waits in them.
#[utoipa::path(tag = "operations", params(ModulesQuery), responses((status = 200, description = "Every module", body = ModuleList)),
    security(("bearer" = [])))]
#[get("/ops/modules")]
async fn list_modules(
    _ops: Ops,
    request: HttpRequest,
    query: Query<ModulesQuery>,
    overview: Data<Overview>,
) -> Result<HttpResponse, Problem> {
    let wanted = overview
        .placements
        .iter()
        .filter(|placement| placement.is_local() || !query.here);
    let items = join_all(wanted.map(|placement| overview.view(placement, &request))).await;
    Ok(HttpResponse::Ok().json(ModuleList { items }))
}
