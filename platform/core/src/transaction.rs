//! Whether the running code is inside a write transaction: inside one, no other module may be called (RELIABILITY.md, rule 2).
//!
//! A response that does not come would keep the transaction's locks, and the effect of the call would remain if the transaction is rolled back or
//! repeated.

use std::{cell::Cell, future::poll_fn, pin::pin};

use crate::Fault;

thread_local! {
    static OPEN: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` as the inside of a write transaction. A task that it spawns is not inside.
pub async fn inside_transaction<F: Future>(work: F) -> F::Output {
    /// Restores the mark, also after a panic.
    struct Before(bool);

    impl Drop for Before {
        fn drop(&mut self) {
            OPEN.set(self.0);
        }
    }

    let mut work = pin!(work);
    // While it waits the thread runs other tasks, so the mark is set only while it is polled.
    poll_fn(|context| {
        let _before = Before(OPEN.replace(true));
        work.as_mut().poll(context)
    })
    .await
}

/// Every call that leaves the module checks this first. `what` is about to be called, for example `Accounts.find_account`.
///
/// # Errors
/// `inside_transaction` (internal): the caller is inside a write transaction, which is a bug.
pub fn outside_transaction(what: &str) -> Result<(), Fault> {
    if OPEN.get() {
        return Err(Fault::internal(
            "inside_transaction",
            format!("{what} was called inside a write transaction"),
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
    fn only_code_within_the_transaction_is_inside() {
        assert!(!is_inside());
        assert!(block_on(inside_transaction(async { is_inside() })));
        assert!(block_on(inside_transaction(async {
            inside_transaction(async {}).await;
            is_inside()
        })));
        assert!(!is_inside());
    }

    #[test]
    fn while_a_transaction_waits_its_thread_is_outside() {
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
            block_on(inside_transaction(async { panic!("on purpose") }))
        }));
        assert!(panicked.is_err() && !is_inside());
    }
}
