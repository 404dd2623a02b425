//! Whether a write transaction is open around the running code: inside one, nothing outside the module may be asked (RELIABILITY.md, rule 2).
//!
//! An answer that does not come would hold its locks, and what was asked would stand even if the transaction is rolled back, or run again.

use std::{cell::Cell, future::poll_fn, pin::pin};

use crate::Fault;

thread_local! {
    static OPEN: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` as what happens inside a write transaction. A task of its own that it starts is not inside.
pub async fn inside_transaction<F: Future>(work: F) -> F::Output {
    /// What was so before, also after a panic.
    struct Before(bool);

    impl Drop for Before {
        fn drop(&mut self) {
            OPEN.set(self.0);
        }
    }

    let mut work = pin!(work);
    // While it waits the thread is others', so the mark stands only as long as it runs.
    poll_fn(|context| {
        let _before = Before(OPEN.replace(true));
        work.as_mut().poll(context)
    })
    .await
}

/// Whoever leaves the module asks this first. `what` is about to be asked, for example `Inventory.find_stock`.
///
/// # Errors
/// `inside_transaction` (internal): the caller is inside a write transaction, which is a bug.
pub fn outside_transaction(what: &str) -> Result<(), Fault> {
    if OPEN.get() {
        return Err(Fault::internal(
            "inside_transaction",
            format!("{what} was asked inside a write transaction"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        task::{Context, Poll, Waker},
    };

    use futures::{executor::block_on, pending};

    use super::*;

    fn is_inside() -> bool {
        outside_transaction("it").is_err_and(|fault| fault.code == "inside_transaction")
    }

    #[test]
    fn only_what_runs_inside_is_inside() {
        assert!(!is_inside());
        assert!(block_on(inside_transaction(async { is_inside() })));
        assert!(block_on(inside_transaction(async {
            inside_transaction(async {}).await;
            is_inside()
        })));
        assert!(!is_inside());
    }

    #[test]
    fn while_it_waits_its_thread_is_outside() {
        let mut work = pin!(inside_transaction(async {
            pending!();
            is_inside()
        }));
        let mut context = Context::from_waker(Waker::noop());
        assert!(work.as_mut().poll(&mut context).is_pending());
        assert!(!is_inside());
        assert_eq!(work.as_mut().poll(&mut context), Poll::Ready(true));
    }

    #[test]
    fn a_panic_inside_leaves_the_thread_outside() {
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            block_on(inside_transaction(async { panic!("as told") }))
        }));
        assert!(panicked.is_err() && !is_inside());
    }
}
