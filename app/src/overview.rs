//! `/ops/modules`: every module of the shop, wherever it runs, and how its machinery does.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, get, web::Data};
use futures::future::join_all;
use serde::Serialize;
use shared_kernel::Fault;
use utoipa::ToSchema;
use web::{Ops, Problem, Routes};

use crate::{
    gateway::Proxy,
    local::{Counts, Local},
    rpc::{RemoteState, Remotes},
    wiring::Placement,
};

/// What the overview is made of.
pub struct Overview {
    pub placements: Vec<Placement>,
    pub local: Arc<Local>,
    pub remotes: Arc<Remotes>,
    /// The way to the modules that are elsewhere, where this process is the edge.
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
    /// How calls to it from here fare; null if it is in this binary.
    connection: Option<RemoteState>,
}

/// Every module of this shop.
#[derive(Serialize, ToSchema)]
struct ModuleList {
    items: Vec<ModuleView>,
}

impl Overview {
    async fn view(&self, placement: &Placement, request: &HttpRequest) -> Result<ModuleView, Fault> {
        let mut placement = placement.clone();
        if placement.placement == "local" {
            let machinery = Some(self.local.counts(&placement.name).await?);
            return Ok(ModuleView { placement, machinery, connection: None });
        }
        let connection = self.remotes.states().into_iter().find(|state| state.module == placement.name);
        let told = self.proxy.get_json(&placement.name, "/api/v1/ops/modules", request).await;
        // A module that is away is what an operator looks for here, so its row is shown all the same.
        let told = told.inspect_err(|error| tracing::warn!(module = placement.name, %error, "a module does not say how it does")).ok();
        let own = told.as_ref().and_then(|told| told["items"].as_array()?.iter().find(|item| item["name"] == placement.name.as_str()));
        let machinery = own.and_then(|own| serde_json::from_value(own["machinery"].clone()).ok());
        placement.data = own.and_then(|own| own["data"].as_str().map(str::to_owned));
        Ok(ModuleView { placement, machinery, connection })
    }
}

/// Which modules there are, where they run, how they are connected, and what waits in them.
#[utoipa::path(tag = "operations", responses((status = 200, description = "Every module", body = ModuleList)), security(("bearer" = [])))]
#[get("/ops/modules")]
async fn list_modules(_ops: Ops, request: HttpRequest, overview: Data<Overview>) -> Result<HttpResponse, Problem> {
    let views = join_all(overview.placements.iter().map(|placement| overview.view(placement, &request))).await;
    let items = views.into_iter().collect::<Result<_, Fault>>()?;
    Ok(HttpResponse::Ok().json(ModuleList { items }))
}
