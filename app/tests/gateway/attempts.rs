//! Which requests are retried at another instance, and the response when no instance responded.

use banyan_remote::balancing::{BreakerRules, BreakerState};

use super::{
    instance::{Behaviour, Instance},
    test_gateway::{Reply, TestGateway},
};

/// Port 1 refuses every connection: nothing listens there, and no process may without privileges.
const UNREACHABLE: &str = "http://127.0.0.1:1";
/// An interval at which no probe takes an instance out of rotation before the test has called it.
const NO_PROBES: (&str, &str) = ("BANYAN__DISCOVERY__PROBE_EVERY_MS", "600000");

/// One instance that closes connections and one that responds; either may be called first.
struct Pair {
    breaking: Instance,
    healthy: Instance,
    gateway: TestGateway,
}

impl Pair {
    async fn of_orders() -> Pair {
        let (breaking, healthy) = (
            Instance::start(Behaviour::CloseConnection).await,
            Instance::responding("{}").await,
        );
        let gateway = TestGateway::in_front_of("orders", &[&breaking, &healthy], &[NO_PROBES]).await;
        Pair {
            breaking,
            healthy,
            gateway,
        }
    }

    /// Sends the request until the breaking instance was called first; by chance that may take several requests.
    async fn send(&self, line: &str, headers: &[(&str, &str)]) -> Reply {
        for _ in 0..200 {
            let reply = self.gateway.send(line, headers, "{}").await;
            if !self.breaking.received().is_empty() {
                return reply;
            }
        }
        panic!("none of 200 requests called the breaking instance");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_is_retried_at_another_instance_for_every_method() {
    // Which of the two is called first is chance, so this repeats until it was the stopped one.
    for _ in 0..100 {
        let (stopping, healthy) = (Instance::responding("{}").await, Instance::responding("{}").await);
        let gateway = TestGateway::in_front_of("orders", &[&stopping, &healthy], &[NO_PROBES]).await;
        stopping.stop_after_first_probe().await;
        let reply = gateway.send("POST /api/v1/orders", &[], "{}").await;
        assert_eq!((reply.status, healthy.received().len()), (200, 1), "{reply:?}");
        if gateway
            .proxy
            .instances("orders")
            .iter()
            .any(|instance| !instance.in_rotation)
        {
            return;
        }
    }
    panic!("none of 100 requests called the stopped instance");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_without_a_key_is_not_sent_twice() {
    let pair = Pair::of_orders().await;
    let reply = pair.send("POST /api/v1/orders", &[]).await;
    assert_eq!((reply.status, reply.code().as_str()), (504, "connection_lost"));
    assert_eq!(pair.breaking.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_with_a_key_is_retried_at_another_instance() {
    let pair = Pair::of_orders().await;
    let reply = pair.send("POST /api/v1/orders", &[("idempotency-key", "k")]).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let (first, second) = (pair.breaking.received_once(), pair.healthy.received().pop().unwrap());
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
async fn an_idempotency_key_that_is_not_remembered_makes_no_request_repeatable() {
    for line in [
        "POST /api/v1/ops/orders/sagas/7/retry",
        "POST /api/v1/ops/orders/views/rebuild",
    ] {
        let pair = Pair::of_orders().await;
        let reply = pair.send(line, &[("idempotency-key", "k")]).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (504, "connection_lost"),
            "{line}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotent_request_is_retried_at_another_instance() {
    for line in [
        "GET /api/v1/orders",
        "PUT /api/v1/carts/1/items/a",
        "DELETE /api/v1/carts/1/items/a",
    ] {
        let pair = Pair::of_orders().await;
        let reply = pair.send(line, &[]).await;
        assert_eq!(reply.status, 200, "{line}: {reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_retry_and_no_third_attempt() {
    let instances = [
        Instance::start(Behaviour::CloseConnection).await,
        Instance::start(Behaviour::CloseConnection).await,
        Instance::start(Behaviour::CloseConnection).await,
    ];
    let gateway =
        TestGateway::in_front_of("orders", &[&instances[0], &instances[1], &instances[2]], &[NO_PROBES]).await;
    let reply = gateway.get("/api/v1/orders").await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "module_unavailable"));
    let attempts: Vec<usize> = instances.iter().map(|instance| instance.received().len()).collect();
    assert_eq!(
        (attempts.iter().sum::<usize>(), attempts.iter().max()),
        (2, Some(&1)),
        "{attempts:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_instance_the_client_gets_retry_after() {
    for endpoints in ["", UNREACHABLE] {
        let gateway = TestGateway::with_endpoints("orders", endpoints, &[]).await.unwrap();
        let reply = gateway.get("/api/v1/orders").await;
        assert_eq!(
            (reply.status, reply.code().as_str(), reply.header("retry-after")),
            (503, "module_unavailable", "2")
        );
        assert!(
            reply.body.contains("The module orders cannot be reached"),
            "{}",
            reply.body
        );
        // Requests for other modules are still forwarded.
        assert!(
            gateway
                .get("/api/v1/products")
                .await
                .body
                .contains("The module catalog")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_has_begun_is_not_retried() {
    let half = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{\"a\"";
    let (one, other) = (
        Instance::start(Behaviour::Respond(half.to_owned())).await,
        Instance::start(Behaviour::Respond(half.to_owned())).await,
    );
    let gateway = TestGateway::in_front_of("orders", &[&one, &other], &[NO_PROBES]).await;
    let sending = gateway.get("/api/v1/orders");
    let broken = async {
        while one.received().len() + other.received().len() == 0 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let attempts = (one.received().len(), other.received().len());
        drop((one, other));
        attempts
    };
    let (reply, attempts) = tokio::join!(sending, broken);
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (200, "{\"a\""),
        "the client sees that the response is incomplete"
    );
    assert_eq!(attempts.0 + attempts.1, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_module_times_out_and_prefer_wait_extends_the_timeout() {
    let mut orders = Instance::start(Behaviour::Hang).await;
    let gateway = TestGateway::in_front_of(
        "orders",
        &[&orders],
        &[("BANYAN__GATEWAY__TIMEOUT_MS", "100"), NO_PROBES],
    )
    .await;
    let begun = std::time::Instant::now();
    let reply = gateway.get("/api/v1/orders").await;
    assert_eq!((reply.status, reply.code().as_str()), (504, "timeout"));
    assert!(
        begun.elapsed().as_millis() < 1_000 && reply.body.contains("orders"),
        "{reply:?}"
    );
    orders.wait_for_disconnect().await;
    assert_eq!(
        orders.received().len(),
        1,
        "a request that may still be running is not retried"
    );
    let begun = std::time::Instant::now();
    let reply = gateway.send("GET /api/v1/orders", &[("prefer", "wait=1")], "").await;
    assert!(
        reply.status == 504 && begun.elapsed().as_millis() >= 1_100,
        "the time the client requests is added to the timeout"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_breaks_every_connection_is_not_called_while_its_breaker_is_open() {
    let breaking = Instance::start(Behaviour::CloseConnection).await;
    let gateway = TestGateway::in_front_of("orders", &[&breaking], &[NO_PROBES]).await;
    let calls = BreakerRules::default().calls as usize;
    for _ in 0..calls {
        assert_eq!(gateway.proxy.breaker_state("orders"), Some(BreakerState::Closed));
        let reply = gateway.send("POST /api/v1/orders", &[], "{}").await;
        assert_eq!((reply.status, reply.code().as_str()), (504, "connection_lost"));
    }
    assert_eq!(gateway.proxy.breaker_state("orders"), Some(BreakerState::Open));
    let reply = gateway.send("POST /api/v1/orders", &[], "{}").await;
    assert_eq!(
        (reply.status, reply.code().as_str(), reply.header("retry-after")),
        (503, "module_unavailable", "2")
    );
    assert_eq!(breaking.received().len(), calls, "an open breaker sends nothing");
    assert_eq!(gateway.proxy.breaker_state("catalog"), Some(BreakerState::Closed));
}
