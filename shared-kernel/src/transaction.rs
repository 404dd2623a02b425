//! Whether a write transaction is open around the running code: inside one, nothing outside the module may be asked (RELIABILITY.md, rule 2).
//!
//! An answer that does not come would hold its locks, and what was asked would stand even if the transaction is rolled back, or run again.

use crate::Fault;

tokio::task_local! {
    static OPEN: ();
}

/// Runs `work` as what happens inside a write transaction.
pub async fn inside_transaction<F: Future>(work: F) -> F::Output {
    OPEN.scope((), work).await
}

/// Whoever leaves the module asks this first. `what` is about to be asked, for example `Inventory.find_stock`.
///
/// # Errors
/// `inside_transaction` (internal): the caller is inside a write transaction, which is a bug.
pub fn outside_transaction(what: &str) -> Result<(), Fault> {
    match OPEN.try_with(|()| ()) {
        Ok(()) => Err(Fault::internal("inside_transaction", format!("{what} was asked inside a write transaction"))),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_runs_inside_is_inside() {
        assert_eq!(outside_transaction("it"), Ok(()));
        let (before, after, beside) = inside_transaction(async {
            let before = outside_transaction("it");
            tokio::task::yield_now().await;
            let beside = tokio::spawn(async { outside_transaction("it") }).await.unwrap();
            (before, outside_transaction("it"), beside)
        })
        .await;
        assert_eq!(before.unwrap_err().code, "inside_transaction");
        assert_eq!(after.unwrap_err().code, "inside_transaction");
        assert_eq!(beside, Ok(()), "a task of its own has no transaction");
        assert_eq!(outside_transaction("it"), Ok(()));
    }
}
