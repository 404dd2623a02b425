//! Which instances are picked, leave the rotation, and return to it.

use std::{collections::HashSet, sync::atomic::AtomicU8, time::Instant};

use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::*;

const TIMEOUT: Duration = Duration::from_secs(10);
const HEALTHY: u8 = 0;
const UNHEALTHY: u8 = 1;
const SILENT: u8 = 2;

/// A process that sends its state on every connection, over real sockets.
struct Server {
    address: Address,
    state: Arc<AtomicU8>,
    probes: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start() -> Server {
        Server::on(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn on(listener: TcpListener) -> Server {
        let address = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let (state, probes) = (Arc::new(AtomicU8::new(HEALTHY)), Arc::new(AtomicUsize::new(0)));
        let (its_state, its_probes) = (state.clone(), probes.clone());
        let task = tokio::spawn(async move {
            let mut held = Vec::new();
            loop {
                let (mut connection, _) = listener.accept().await.unwrap();
                its_probes.fetch_add(1, Ordering::SeqCst);
                match its_state.load(Ordering::SeqCst) {
                    SILENT => held.push(connection),
                    state => drop(connection.write_all(&[state]).await),
                }
            }
        });
        Server {
            address,
            state,
            probes,
            task,
        }
    }

    fn becomes(&self, state: u8) {
        self.state.store(state, Ordering::SeqCst);
    }

    /// As a killed process: its port refuses.
    async fn stop(self) -> Address {
        self.task.abort();
        let _ = self.task.await;
        self.address
    }

    async fn start_again(address: &Address) -> Server {
        let started = Instant::now();
        loop {
            match TcpListener::bind((address.host(), address.port())).await {
                Ok(listener) => return Server::on(listener),
                Err(why) => assert!(started.elapsed() < TIMEOUT, "{why}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Makes a new connection for every probe.
struct Tcp;

#[async_trait]
impl Connector for Tcp {
    type Connection = Address;

    fn connect(&self, address: &Address) -> anyhow::Result<Address> {
        Ok(address.clone())
    }

    async fn probe(&self, address: &Address) -> Result<(), String> {
        let mut connection = TcpStream::connect((address.host(), address.port()))
            .await
            .map_err(|why| why.to_string())?;
        match connection.read_u8().await {
            Ok(HEALTHY) => Ok(()),
            Ok(state) => Err(format!("its state is {state}")),
            Err(why) => Err(why.to_string()),
        }
    }
}

fn probing(every_ms: u64, timeout_ms: u64) -> Probing {
    Probing {
        every: Duration::from_millis(every_ms),
        timeout: Duration::from_millis(timeout_ms),
    }
}

fn balancer(servers: &[&Server], probing: Probing) -> (Balancer<Tcp>, watch::Sender<Vec<Address>>) {
    let (publisher, addresses) = watch::channel(servers.iter().map(|server| server.address.clone()).collect());
    (
        Balancer::start(Tcp, addresses, probing, CancellationToken::new()),
        publisher,
    )
}

/// Waits until exactly these are in rotation.
async fn until_in_rotation<C: Connector>(balancer: &Balancer<C>, expected: &[&Address]) {
    let started = Instant::now();
    loop {
        let states = balancer.states();
        let healthy: HashSet<&Address> = states
            .iter()
            .filter(|state| state.in_rotation)
            .map(|state| &state.address)
            .collect();
        if healthy == expected.iter().copied().collect() {
            return;
        }
        assert!(started.elapsed() < TIMEOUT, "{states:?} instead of {expected:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn picked_of_many<C: Connector>(balancer: &Balancer<C>) -> HashSet<Address> {
    (0..200)
        .filter_map(|_| balancer.pick())
        .map(|picked| picked.address().clone())
        .collect()
}

#[tokio::test]
async fn an_instance_that_stops_responding_leaves_the_rotation_and_comes_back_by_itself() {
    let (one, other) = (Server::start().await, Server::start().await);
    let (stays, comes_back) = (one.address.clone(), other.address.clone());
    let (balancer, _publisher) = balancer(&[&one, &other], probing(20, 200));
    assert_eq!(
        picked_of_many(&balancer),
        HashSet::from([stays.clone(), comes_back.clone()])
    );

    // Killed.
    let address = other.stop().await;
    until_in_rotation(&balancer, &[&stays]).await;
    assert_eq!(picked_of_many(&balancer), HashSet::from([stays.clone()]));
    let other = Server::start_again(&address).await;
    until_in_rotation(&balancer, &[&stays, &comes_back]).await;
    assert_eq!(picked_of_many(&balancer).len(), 2);

    // Hanging.
    other.becomes(SILENT);
    until_in_rotation(&balancer, &[&stays]).await;
    let reasons: Vec<_> = balancer.states().into_iter().filter_map(|state| state.reason).collect();
    assert_eq!(reasons, ["no response to a probe within 200 ms"]);
    other.becomes(HEALTHY);
    until_in_rotation(&balancer, &[&stays, &comes_back]).await;

    // Both report that they are unhealthy: none is left.
    one.becomes(UNHEALTHY);
    other.becomes(UNHEALTHY);
    until_in_rotation(&balancer, &[]).await;
    assert!(balancer.pick().is_none());
    one.becomes(HEALTHY);
    until_in_rotation(&balancer, &[&stays]).await;
}

#[tokio::test]
async fn an_instance_that_hangs_does_not_delay_the_probes_of_another() {
    let (hanging, other) = (Server::start().await, Server::start().await);
    hanging.becomes(SILENT);
    let (balancer, _publisher) = balancer(&[&hanging, &other], probing(20, 60_000));
    let started = Instant::now();
    while other.probes.load(Ordering::SeqCst) < 5 {
        assert!(started.elapsed() < TIMEOUT, "it was not probed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    other.becomes(UNHEALTHY);
    until_in_rotation(&balancer, &[&hanging.address]).await;
}

#[tokio::test]
async fn an_instance_that_refuses_a_connection_leaves_at_once_and_only_a_probe_brings_it_back() {
    let (one, other) = (Server::start().await, Server::start().await);
    let (balancer, _publisher) = balancer(&[&one, &other], probing(300, 200));
    let picked = balancer.pick().unwrap();
    let refuses = picked.address().clone();
    // The first probes are over, so that none is in flight.
    while one.probes.load(Ordering::SeqCst) == 0 || other.probes.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    picked.refused();
    // Released: with a call in flight it would be picked less often anyway.
    drop(picked);
    assert!(!picked_of_many(&balancer).contains(&refuses));
    until_in_rotation(&balancer, &[&one.address, &other.address]).await;
}

/// Probes succeed once the gate lets them.
struct Gated {
    begun: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

#[async_trait]
impl Connector for Gated {
    type Connection = ();

    fn connect(&self, _: &Address) -> anyhow::Result<()> {
        Ok(())
    }

    async fn probe(&self, (): &()) -> Result<(), String> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.map_err(|why| why.to_string())?.forget();
        Ok(())
    }
}

async fn until_begun(begun: &AtomicUsize, probes: usize) {
    let started = Instant::now();
    while begun.load(Ordering::SeqCst) < probes {
        assert!(started.elapsed() < TIMEOUT, "no probe");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_probe_that_began_before_a_refusal_proves_nothing() {
    let (begun, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let address: Address = "http://10.0.0.1:9000".parse().unwrap();
    let (_publisher, addresses) = watch::channel(vec![address.clone()]);
    let connector = Gated {
        begun: begun.clone(),
        gate: gate.clone(),
    };
    let balancer = Balancer::start(connector, addresses, probing(20, 60_000), CancellationToken::new());
    until_begun(&begun, 1).await;
    balancer.pick().unwrap().refused();
    gate.add_permits(1);
    until_begun(&begun, 2).await;
    assert!(balancer.pick().is_none());
    gate.add_permits(1);
    until_in_rotation(&balancer, &[&address]).await;
}

/// The second probe gets no response, every other one does.
struct LateOnce(Arc<AtomicUsize>);

#[async_trait]
impl Connector for LateOnce {
    type Connection = ();

    fn connect(&self, _: &Address) -> anyhow::Result<()> {
        Ok(())
    }

    async fn probe(&self, (): &()) -> Result<(), String> {
        if self.0.fetch_add(1, Ordering::SeqCst) == 1 {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

#[tokio::test]
async fn an_instance_whose_response_to_a_probe_is_late_once_stays() {
    let probes = Arc::new(AtomicUsize::new(0));
    let address: Address = "http://10.0.0.1:9000".parse().unwrap();
    let (_publisher, addresses) = watch::channel(vec![address]);
    let balancer = Balancer::start(
        LateOnce(probes.clone()),
        addresses,
        probing(100, 100),
        CancellationToken::new(),
    );
    let started = Instant::now();
    while probes.load(Ordering::SeqCst) < 4 {
        assert!(balancer.pick().is_some(), "{:?}", balancer.states());
        assert!(started.elapsed() < TIMEOUT, "no probe");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn an_instance_that_was_never_probed_counts_as_healthy() {
    let server = Server::start().await;
    server.becomes(SILENT);
    let (balancer, publisher) = balancer(&[], probing(20, 60_000));
    assert!(balancer.pick().is_none());
    publisher.send_replace(vec![server.address.clone()]);
    until_in_rotation(&balancer, &[&server.address]).await;
    assert!(balancer.pick().is_some());
}

#[tokio::test]
async fn an_instance_that_is_no_longer_known_is_removed_and_its_calls_may_finish() {
    let (one, other) = (Server::start().await, Server::start().await);
    let (balancer, publisher) = balancer(&[&one], probing(20, 200));
    let picked = balancer.pick().unwrap();
    publisher.send_replace(vec![other.address.clone()]);
    until_in_rotation(&balancer, &[&other.address]).await;
    assert_eq!(balancer.states().len(), 1);
    assert_eq!(picked.connection(), &one.address);
    picked.refused();
    drop(picked);
    assert_eq!(picked_of_many(&balancer), HashSet::from([other.address.clone()]));
    // It is no longer probed once a probe that may be in flight has ended.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let probes = one.probes.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(one.probes.load(Ordering::SeqCst), probes);
}

#[tokio::test]
async fn an_instance_that_stays_known_keeps_its_calls_and_its_state() {
    let (one, other) = (Server::start().await, Server::start().await);
    one.becomes(UNHEALTHY);
    let (balancer, publisher) = balancer(&[&one, &other], probing(60_000, 200));
    let picked = balancer.pick_other(&picked(&balancer, &other.address)).unwrap();
    assert_eq!(picked.address(), &one.address);
    until_in_rotation(&balancer, &[&other.address]).await;
    let third = Server::start().await;
    publisher.send_replace(vec![third.address.clone(), one.address.clone()]);
    until_in_rotation(&balancer, &[&third.address]).await;
    let states = balancer.states();
    let kept = states.iter().find(|state| state.address == one.address).unwrap();
    assert_eq!((kept.in_rotation, kept.in_flight), (false, 1));
}

fn picked(balancer: &Balancer<Tcp>, address: &Address) -> Picked<Address> {
    (0..1_000)
        .filter_map(|_| balancer.pick())
        .find(|picked| picked.address() == address)
        .unwrap()
}

#[tokio::test]
async fn the_instance_with_fewer_calls_in_flight_is_called() {
    let servers = [Server::start().await, Server::start().await, Server::start().await];
    let (two, _publisher_two) = balancer(&[&servers[0], &servers[1]], probing(60_000, 60_000));
    let slow = two.pick().unwrap();
    for _ in 0..100 {
        assert_ne!(two.pick().unwrap().address(), slow.address());
    }
    drop(slow);
    assert_eq!(picked_of_many(&two).len(), 2, "a finished call is not load");

    let (three, _publisher_three) = balancer(&[&servers[0], &servers[1], &servers[2]], probing(60_000, 60_000));
    let held: Vec<_> = (0..300).filter_map(|_| three.pick()).collect();
    assert_eq!(held.len(), 300);
    let loads: Vec<usize> = three.states().iter().map(|state| state.in_flight).collect();
    assert!(loads.iter().all(|load| (95..=105).contains(load)), "{loads:?}");
    drop(held);
    assert!(three.states().iter().all(|state| state.in_flight == 0));
}

#[tokio::test]
async fn a_second_attempt_goes_to_another_instance() {
    let (one, other) = (Server::start().await, Server::start().await);
    let (balancer, publisher) = balancer(&[&one, &other], probing(60_000, 60_000));
    for _ in 0..50 {
        let first = balancer.pick().unwrap();
        assert_ne!(balancer.pick_other(&first).unwrap().address(), first.address());
    }
    let first = picked(&balancer, &one.address);
    publisher.send_replace(vec![one.address.clone()]);
    until_in_rotation(&balancer, &[&one.address]).await;
    assert!(balancer.pick_other(&first).is_none());
}

#[tokio::test]
async fn probes_end_with_the_last_clone() {
    let server = Server::start().await;
    let (balancer, _publisher) = balancer(&[&server], probing(20, 200));
    let clone = balancer.clone();
    drop(balancer);
    let probes = server.probes.load(Ordering::SeqCst);
    until_begun(&server.probes, probes + 2).await;
    drop(clone);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let probes = server.probes.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.probes.load(Ordering::SeqCst), probes);
}

#[tokio::test]
async fn the_number_of_instances_in_rotation_is_measured() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    // The test's runtime is this thread.
    let _local = metrics::set_default_local_recorder(&recorder);
    let (one, other) = (Server::start().await, Server::start().await);
    let (balancer, _publisher) = balancer(&[&one, &other], probing(50, 200));
    let balancer = balancer.measured_as("users", Interface::Rpc);
    let measured = |name: &str, value: usize| {
        handle
            .render()
            .contains(&format!("{name}{{module=\"users\",interface=\"rpc\"}} {value}"))
    };
    assert!(
        measured("banyan_discovery_instances", 2) && measured("banyan_discovery_instances_in_rotation", 2),
        "{}",
        handle.render()
    );
    balancer.pick().unwrap().refused();
    assert!(
        measured("banyan_discovery_instances", 2) && measured("banyan_discovery_instances_in_rotation", 1),
        "{}",
        handle.render()
    );
    until_in_rotation(&balancer, &[&one.address, &other.address]).await;
    assert!(
        measured("banyan_discovery_instances_in_rotation", 2),
        "{}",
        handle.render()
    );
}
