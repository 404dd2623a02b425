//! The OpenAPI document: assembled from the modules in this binary, each operation marked with its module.

use std::sync::Arc;

use banyan_http::Routes;
use utoipa::openapi::{Info as OpenApiInfo, License, OpenApi, OpenApiBuilder, Server, extensions::Extensions};

use crate::health::{self, Health};

/// The product's part of a document.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    pub name: &'static str,
    pub version: &'static str,
    pub description: &'static str,
}

/// The document of these modules' routes. `x-module` on every operation names its module, so that the document is a route table too; the value
/// `{module}` refers to the path parameter of that name.
///
/// # Errors
/// Two modules give different schemas the same name, so that one would replace the other.
pub fn assemble(
    info: &Info,
    modules: &[(&str, Routes)],
    well_known: &[(&str, Routes)],
    health: &Arc<Health>,
) -> anyhow::Result<OpenApi> {
    let mut all = base(info);
    let mut add = |module: &str, mut api: OpenApi| {
        refuse_collisions(&all, &api, module)?;
        for (path, item) in &mut api.paths.paths {
            let owner = if module == "app" { owner_of(path) } else { module };
            for operation in [
                &mut item.get,
                &mut item.put,
                &mut item.post,
                &mut item.delete,
                &mut item.patch,
            ]
            .into_iter()
            .flatten()
            {
                operation
                    .extensions
                    .get_or_insert_with(Extensions::default)
                    .insert("x-module".to_owned(), owner.into());
            }
        }
        all.merge(api);
        anyhow::Ok(())
    };
    for (module, routes) in modules {
        add(
            module,
            banyan_http::openapi::collect("/api/v1", std::slice::from_ref(routes)),
        )?;
    }
    for (module, routes) in well_known {
        add(module, banyan_http::openapi::collect("", std::slice::from_ref(routes)))?;
    }
    let health = health::routes(health.clone());
    add(
        "app",
        banyan_http::openapi::collect("", &[Routes::new(move |config| health(config))]),
    )?;
    let routes: Vec<Routes> = modules
        .iter()
        .chain(well_known)
        .map(|(_, routes)| routes.clone())
        .collect();
    banyan_http::openapi::finish(&mut all, &routes);
    Ok(all)
}

/// The module of an operation of the app: operations on a module are served where that module runs, and the path names it.
fn owner_of(path: &str) -> &str {
    match path.strip_prefix("/api/v1/ops/").and_then(|rest| rest.split_once('/')) {
        Some((parameter @ "{module}", _)) => parameter,
        _ => "app",
    }
}

fn refuse_collisions(all: &OpenApi, api: &OpenApi, module: &str) -> anyhow::Result<()> {
    let known = all.components.as_ref().map(|components| &components.schemas);
    let new = api.components.iter().flat_map(|components| &components.schemas);
    for (name, schema) in new {
        if known
            .and_then(|known| known.get(name))
            .is_some_and(|other| other != schema)
        {
            anyhow::bail!(
                "{module} documents a schema named {name}, and so does another module, differently: rename one"
            );
        }
    }
    Ok(())
}

fn base(of: &Info) -> OpenApi {
    let mut info = OpenApiInfo::new(of.name, of.version);
    info.description = Some(of.description.to_owned());
    let mut licence = License::new("Apache-2.0");
    licence.identifier = Some("Apache-2.0".to_owned());
    info.license = Some(licence);
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([Server::new("/")]))
        .build()
}
