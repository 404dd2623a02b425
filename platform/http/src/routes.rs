//! A module's routes, in a form that every worker of the server can register.

use std::sync::Arc;

use utoipa_actix_web::service_config::ServiceConfig;

use crate::openapi::KnownProblem;

/// The routes of one module, relative to `/api/v1`. Register handlers with `.service(..)`; `.route(..)` would be missing from the document.
#[derive(Clone)]
pub struct Routes {
    configure: Arc<dyn Fn(&mut ServiceConfig<'_>) + Send + Sync>,
    problems: &'static [KnownProblem],
}

impl Routes {
    pub fn new(configure: impl Fn(&mut ServiceConfig<'_>) + Send + Sync + 'static) -> Self {
        Routes {
            configure: Arc::new(configure),
            problems: &[],
        }
    }

    /// Names the problems that clients may meet here beside those of every route, for the document.
    #[must_use]
    pub fn with_problems(self, problems: &'static [KnownProblem]) -> Self {
        Routes { problems, ..self }
    }

    pub(crate) fn problems(&self) -> &'static [KnownProblem] {
        self.problems
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
