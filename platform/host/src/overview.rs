//! `/ops/modules`: every module of the product, local or remote, with the state of its machinery.

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

/// The sources of the overview.
pub struct Overview {
    pub placements: Vec<Placement>,
    pub local: Arc<LocalModules>,
    pub remotes: Arc<Remotes>,
    /// Forwards requests to remote modules, if this process is an edge.
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
        // A module that is unavailable is what an operator looks for here, so its row is shown without its machinery.
        let name = placement.name.clone();
        let log_failure =
            |error: &dyn Display| tracing::warn!(module = name, %error, "the state of a module could not be read");
        if placement.is_local() {
            let machinery = self
                .local
                .counts(&placement.name)
                .await
                .inspect_err(|fault| log_failure(fault))
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
        let fetched = match self.proxy.is_idle() {
            // Only an edge has the addresses of the other processes.
            true => None,
            false => fetch_own_view(&self.proxy, &placement.name, request)
                .await
                .inspect_err(|error| log_failure(error))
                .ok(),
        };
        let own = fetched.as_ref().and_then(|fetched| {
            fetched["items"]
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

/// Fetches the overview of the local modules from the process of `module`. It is limited to those: that process may be an edge too, and would
/// otherwise fetch from others in turn.
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
