//! Who is asked again when an instance does not answer, and what is said when nobody did.

use super::{
    edge::{Edge, Reply},
    instance::{Deed, Instance},
};

/// Port 1 refuses whoever comes: nothing listens there, and nobody may without privileges.
const NOBODY: &str = "http://127.0.0.1:1";
/// Rarely enough that no probe takes an instance out of rotation before the test has asked it.
const NO_PROBES: (&str, &str) = ("BANYAN__DISCOVERY__PROBE_EVERY_MS", "600000");

/// One instance that breaks connections and one that answers; either may be asked first.
struct Pair {
    breaking: Instance,
    well: Instance,
    edge: Edge,
}

impl Pair {
    async fn of_orders() -> Pair {
        let (breaking, well) = (Instance::that(Deed::Break).await, Instance::answering("{}").await);
        let edge = Edge::before("orders", &[&breaking, &well], &[NO_PROBES]).await;
        Pair { breaking, well, edge }
    }

    /// Asks until the breaking one was the first choice; by chance the other one may be for a while.
    async fn ask(&self, line: &str, headers: &[(&str, &str)]) -> Reply {
        for _ in 0..200 {
            let reply = self.edge.ask(line, headers, "{}").await;
            if !self.breaking.heard().is_empty() {
                return reply;
            }
        }
        panic!("in 200 requests nobody asked the breaking instance");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_is_asked_of_another_whatever_it_is() {
    // Which of two is asked is chance, so until the one that is away was asked first.
    for _ in 0..100 {
        let (dying, well) = (Instance::answering("{}").await, Instance::answering("{}").await);
        let edge = Edge::before("orders", &[&dying, &well], &[NO_PROBES]).await;
        dying.dies_after_its_first_probe().await;
        let reply = edge.ask("POST /api/v1/orders", &[], "{}").await;
        assert_eq!((reply.status, well.heard().len()), (200, 1), "{reply:?}");
        if edge
            .proxy
            .instances("orders")
            .iter()
            .any(|instance| !instance.in_rotation)
        {
            return;
        }
    }
    panic!("in 100 requests nobody asked the instance that is away");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_without_a_key_is_not_sent_twice() {
    let pair = Pair::of_orders().await;
    let reply = pair.ask("POST /api/v1/orders", &[]).await;
    assert_eq!((reply.status, reply.code().as_str()), (504, "connection_lost"));
    assert_eq!(pair.breaking.heard().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_with_a_key_is_asked_once_more_of_another() {
    let pair = Pair::of_orders().await;
    let reply = pair.ask("POST /api/v1/orders", &[("idempotency-key", "k")]).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let (first, second) = (pair.breaking.heard_once(), pair.well.heard().pop().unwrap());
    assert_eq!(
        (first.line(), first.body.as_str()),
        (second.line(), second.body.as_str())
    );
    assert_eq!(
        (first.header("idempotency-key"), second.header("idempotency-key")),
        ("k", "k")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_nobody_remembers_makes_no_request_repeatable() {
    for line in [
        "POST /api/v1/ops/orders/sagas/7/retry",
        "POST /api/v1/ops/orders/views/rebuild",
    ] {
        let pair = Pair::of_orders().await;
        let reply = pair.ask(line, &[("idempotency-key", "k")]).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (504, "connection_lost"),
            "{line}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_done_twice_is_asked_once_more_of_another() {
    for line in [
        "GET /api/v1/orders",
        "PUT /api/v1/carts/1/items/a",
        "DELETE /api/v1/carts/1/items/a",
    ] {
        let pair = Pair::of_orders().await;
        let reply = pair.ask(line, &[]).await;
        assert_eq!(reply.status, 200, "{line}: {reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_more_attempt_and_no_third() {
    let instances = [
        Instance::that(Deed::Break).await,
        Instance::that(Deed::Break).await,
        Instance::that(Deed::Break).await,
    ];
    let edge = Edge::before("orders", &[&instances[0], &instances[1], &instances[2]], &[NO_PROBES]).await;
    let reply = edge.get("/api/v1/orders").await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "module_unavailable"));
    let asked: Vec<usize> = instances.iter().map(|instance| instance.heard().len()).collect();
    assert_eq!(
        (asked.iter().sum::<usize>(), asked.iter().max()),
        (2, Some(&1)),
        "{asked:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_instance_the_client_is_told_when_to_come_back() {
    for endpoints in ["", NOBODY] {
        let edge = Edge::of("orders", endpoints, &[]).await.unwrap();
        let reply = edge.get("/api/v1/orders").await;
        assert_eq!(
            (reply.status, reply.code().as_str(), reply.header("retry-after")),
            (503, "module_unavailable", "2")
        );
        assert!(
            reply.body.contains("The module orders cannot be reached"),
            "{}",
            reply.body
        );
        // The others are still asked.
        assert!(edge.get("/api/v1/products").await.body.contains("The module catalog"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_has_begun_is_not_asked_for_again() {
    let half = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{\"a\"";
    let (one, other) = (
        Instance::that(Deed::Answer(half.to_owned())).await,
        Instance::that(Deed::Answer(half.to_owned())).await,
    );
    let edge = Edge::before("orders", &[&one, &other], &[NO_PROBES]).await;
    let asking = edge.get("/api/v1/orders");
    let broken = async {
        while one.heard().len() + other.heard().len() == 0 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let asked = (one.heard().len(), other.heard().len());
        drop((one, other));
        asked
    };
    let (reply, asked) = tokio::join!(asking, broken);
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (200, "{\"a\""),
        "the client sees that it is not whole"
    );
    assert_eq!(asked.0 + asked.1, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_module_is_waited_for_as_long_as_is_said_and_then_let_go() {
    let mut orders = Instance::that(Deed::Silence).await;
    let edge = Edge::before(
        "orders",
        &[&orders],
        &[("BANYAN__GATEWAY__TIMEOUT_MS", "100"), NO_PROBES],
    )
    .await;
    let begun = std::time::Instant::now();
    let reply = edge.get("/api/v1/orders").await;
    assert_eq!((reply.status, reply.code().as_str()), (504, "timeout"));
    assert!(
        begun.elapsed().as_millis() < 1_000 && reply.body.contains("orders"),
        "{reply:?}"
    );
    orders.is_left().await;
    assert_eq!(
        orders.heard().len(),
        1,
        "a request that may still be running is not asked for again"
    );
    let begun = std::time::Instant::now();
    let reply = edge.ask("GET /api/v1/orders", &[("prefer", "wait=1")], "").await;
    assert!(
        reply.status == 504 && begun.elapsed().as_millis() >= 1_100,
        "what the client waits for comes on top"
    );
}
