//! A module's routes, in a form that every worker of the server can register.

use std::sync::Arc;

use utoipa_actix_web::service_config::ServiceConfig;

/// The routes of one module, relative to `/api/v1`. Register handlers with `.service(..)`; `.route(..)` would be missing from the document.
#[derive(Clone)]
pub struct Routes {
    configure: Arc<dyn Fn(&mut ServiceConfig<'_>) + Send + Sync>,
}

impl Routes {
    pub fn new(configure: impl Fn(&mut ServiceConfig<'_>) + Send + Sync + 'static) -> Self {
        Routes {
            configure: Arc::new(configure),
        }
    }

    pub fn configure(&self, config: &mut ServiceConfig<'_>) {
        (self.configure)(config);
    }
}

impl std::fmt::Debug for Routes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Routes")
    }
}
