//! What a process depends on, and whether that can be used now.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;

/// Something this process depends on.
#[async_trait]
pub trait Check: Send + Sync {
    /// `<kind>:<name>`, as it is shown.
    fn name(&self) -> String;

    /// The module that cannot respond without it; `None` if that is the whole process.
    fn module(&self) -> Option<&str> {
        None
    }

    async fn run(&self) -> CheckResult;
}

/// What a [`Check`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckResult {
    /// `ok`, or what is wrong.
    pub text: String,
    /// Requests should not be sent to this process while it is so.
    pub fails_readiness: bool,
}

impl CheckResult {
    pub fn ok() -> Self {
        CheckResult::degraded("ok")
    }

    /// Something is wrong, but requests can be answered all the same: an open breaker, an unavailable broker.
    pub fn degraded(what_is_wrong: impl Into<String>) -> Self {
        CheckResult {
            text: what_is_wrong.into(),
            fails_readiness: false,
        }
    }

    /// No request of the module, or of the whole process, can be answered.
    pub fn failed(what_is_wrong: impl Into<String>) -> Self {
        CheckResult {
            text: what_is_wrong.into(),
            fails_readiness: true,
        }
    }
}

/// All checks of a process.
#[derive(Clone, Default)]
pub struct Checks(Arc<[Arc<dyn Check>]>);

impl Checks {
    pub fn new(checks: Vec<Arc<dyn Check>>) -> Self {
        Checks(checks.into())
    }

    /// The results of all checks, by their names.
    pub async fn run(&self) -> Vec<(String, CheckResult)> {
        join_all(
            self.0
                .iter()
                .map(|check| async move { (check.name(), check.run().await) }),
        )
        .await
    }

    /// Whose checks fail readiness now: modules, or, as `None`, the whole process.
    pub async fn failing(&self) -> Vec<Option<String>> {
        let results = join_all(self.0.iter().map(|check| async move { (check, check.run().await) })).await;
        results
            .into_iter()
            .filter(|(_, result)| result.fails_readiness)
            .map(|(check, _)| check.module().map(str::to_owned))
            .collect()
    }
}
