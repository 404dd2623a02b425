//! Concurrent requests with the same key in this process: they run one after the other. Among several processes the database's row lock does the same.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Weak},
    time::Duration,
};

use banyan_core::Fault;
use parking_lot::Mutex;

/// How long the second of two equal requests waits for the first.
pub const TWIN_TIMEOUT: Duration = Duration::from_secs(2);

pub fn twin_in_progress() -> Fault {
    let fault = Fault::conflict(
        "twin_in_progress",
        "A request with this Idempotency-Key is still running.",
    );
    fault.retry_after(Duration::from_secs(1))
}

/// One lock per module and running request; removed when no request holds or awaits it.
type Running = HashMap<(String, String), Weak<tokio::sync::Mutex<()>>>;
static RUNNING: LazyLock<Mutex<Running>> = LazyLock::new(Mutex::default);

/// The right to carry out a request; the next one with the same key gets it when this is dropped.
pub struct Turn {
    name: (String, String),
    guard: Option<tokio::sync::OwnedMutexGuard<()>>,
}

/// Waits until no other request with this id is running in the module.
///
/// # Errors
/// `twin_in_progress` after [`TWIN_TIMEOUT`].
pub async fn take_turn(module: &str, id: &str) -> Result<Turn, Fault> {
    let name = (module.to_owned(), id.to_owned());
    let lock = {
        let mut running = RUNNING.lock();
        let known = running.get(&name).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let fresh = Arc::new(tokio::sync::Mutex::new(()));
            running.insert(name.clone(), Arc::downgrade(&fresh));
            fresh
        })
    };
    match tokio::time::timeout(TWIN_TIMEOUT, lock.lock_owned()).await {
        Ok(guard) => Ok(Turn {
            name,
            guard: Some(guard),
        }),
        Err(_) => {
            forget_idle(&name);
            Err(twin_in_progress())
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.guard.take();
        forget_idle(&self.name);
    }
}

fn forget_idle(name: &(String, String)) {
    let mut running = RUNNING.lock();
    // A waiting request holds a strong reference too.
    if running.get(name).is_some_and(|lock| lock.strong_count() == 0) {
        running.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_web::test]
    async fn an_equal_request_waits_two_seconds_and_gets_a_409() {
        let turn = take_turn("test", "ada k1").await.unwrap();
        let begun = std::time::Instant::now();
        let fault = take_turn("test", "ada k1").await.map(drop).unwrap_err();
        assert_eq!(
            (fault.code.as_str(), crate::status_of(&fault).as_u16()),
            ("twin_in_progress", 409)
        );
        assert!(fault.retry_after.is_some() && begun.elapsed() >= Duration::from_secs(2));
        assert!(
            take_turn("test", "ada k2").await.is_ok() && take_turn("other", "ada k1").await.is_ok(),
            "others do not wait"
        );
        let waiting = tokio::spawn(take_turn("test", "ada k1"));
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(turn);
        drop(waiting.await.unwrap().expect("its turn"));
        assert!(
            !RUNNING.lock().keys().any(|(module, _)| module == "test"),
            "nothing is left behind"
        );
    }
}
