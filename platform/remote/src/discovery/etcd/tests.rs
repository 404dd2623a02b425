//! Against a real etcd, started by the test on free ports with a data directory of its own.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use base64::Engine;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener as AsyncListener, TcpStream},
};

use super::*;

const TIMEOUT: Duration = Duration::from_secs(15);
/// Long enough that a busy machine does not lose it by accident.
const LEASE_S: u64 = 2;

/// An etcd of this test's own; killed when it is dropped.
struct Server {
    directory: PathBuf,
    client: u16,
    peer: u16,
    tls: bool,
    process: Option<Child>,
}

impl Server {
    fn new() -> Server {
        static STARTED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let nth = STARTED.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("banyan-etcd-test-{}-{nth}", std::process::id()));
        let free = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let [client, peer] = free.map(|listener| listener.local_addr().unwrap().port());
        Server {
            directory,
            client,
            peer,
            tls: false,
            process: None,
        }
    }

    async fn started() -> Server {
        let mut server = Server::new();
        server.start().await;
        server
    }

    fn url(&self) -> String {
        format!(
            "{}://127.0.0.1:{}",
            if self.tls { "https" } else { "http" },
            self.client
        )
    }

    /// The certificate that `--auto-tls` makes.
    fn certificate(&self) -> PathBuf {
        self.directory.join("data/fixtures/client/cert.pem")
    }

    /// Whether it exists, to its last line.
    fn has_certificate(&self) -> bool {
        std::fs::read_to_string(self.certificate())
            .is_ok_and(|pem| pem.trim_end().ends_with("-----END CERTIFICATE-----"))
    }

    async fn start(&mut self) {
        std::fs::create_dir_all(&self.directory).unwrap();
        let (url, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer));
        let mut command = Command::new(program());
        command.arg("--data-dir").arg(self.directory.join("data")).args([
            "--heartbeat-interval",
            "20",
            "--election-timeout",
            "200",
        ]);
        command.args([
            "--listen-client-urls",
            &url,
            "--advertise-client-urls",
            &url,
            "--listen-peer-urls",
            &peer,
        ]);
        command.args([
            "--initial-advertise-peer-urls",
            &peer,
            "--initial-cluster",
            &format!("default={peer}"),
        ]);
        if self.tls {
            command.arg("--auto-tls");
        }
        let log = std::fs::File::create(self.directory.join("log")).unwrap();
        self.process = Some(
            command
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap(),
        );
        let started = Instant::now();
        // Its certificate exists before it listens.
        while self.tls && !self.has_certificate() && started.elapsed() < TIMEOUT {
            sleep(Duration::from_millis(20)).await;
        }
        while let Err(why) = self.new_client().range("/").await {
            assert!(
                started.elapsed() < TIMEOUT,
                "etcd does not start: {why:#}\n{}",
                std::fs::read_to_string(self.directory.join("log")).unwrap()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// As by `kill -9`.
    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn lose_data(&self) {
        std::fs::remove_dir_all(self.directory.join("data")).unwrap();
    }

    fn new_client(&self) -> Client {
        let trusted = self.tls.then(|| self.certificate());
        Client::new(&Settings {
            etcd_ca_file: trusted,
            ..settings(&[self.url()])
        })
        .unwrap()
    }

    /// As an operator would.
    async fn delete(&self, key: &str) {
        let request = serde_json::json!({ "key": base64::prelude::BASE64_STANDARD.encode(key) });
        let deleted = reqwest::Client::new()
            .post(format!("{}/v3/kv/deleterange", self.url()))
            .json(&request)
            .send()
            .await
            .unwrap();
        assert!(deleted.status().is_success(), "{deleted:?}");
    }

    async fn keys(&self) -> Vec<String> {
        self.new_client()
            .range("/banyan/services/")
            .await
            .unwrap()
            .entries
            .into_keys()
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|directory| directory.join("etcd"))
        .find(|program| program.is_file());
    found.expect(
        "these tests need etcd (its program, not a running server): apt-get install etcd-server, or brew install etcd",
    )
}

fn settings(endpoints: &[String]) -> Settings {
    Settings {
        etcd_endpoints: endpoints.to_vec(),
        etcd_lease_s: LEASE_S,
        timing: crate::discovery::Timing {
            etcd_timeout: Duration::from_millis(500),
            ..crate::discovery::Timing::default()
        },
        ..crate::discovery::tests::settings(crate::discovery::Kind::Etcd)
    }
}

fn etcd(endpoints: &[String]) -> Etcd {
    Etcd::start(&settings(endpoints), Endpoints::new(), &CancellationToken::new()).unwrap()
}

fn instance(address: &str) -> Instance {
    Instance::new(&["users", "catalog"], Some(address.parse().unwrap()), None)
}

async fn until(limit: Duration, receiver: &mut watch::Receiver<Vec<Address>>, expected: &[&str]) {
    let is_expected = |known: &Vec<Address>| {
        known
            .iter()
            .map(ToString::to_string)
            .eq(expected.iter().map(ToString::to_string))
    };
    let found = timeout(limit, receiver.wait_for(is_expected)).await.is_ok();
    assert!(found, "{:?} instead of {expected:?} after {limit:?}", receiver.borrow());
}

async fn stays(span: Duration, receiver: &mut watch::Receiver<Vec<Address>>, expected: &[&str]) {
    let is_expected = |known: &Vec<Address>| {
        known
            .iter()
            .map(ToString::to_string)
            .eq(expected.iter().map(ToString::to_string))
    };
    let changed = timeout(span, receiver.wait_for(|known| !is_expected(known)))
        .await
        .map(|known| known.unwrap().clone());
    assert!(changed.is_err(), "{changed:?} instead of {expected:?}");
}

const ONE: &str = "http://10.0.0.1:9000";
const TWO: &str = "http://10.0.0.2:9000";

#[tokio::test]
async fn an_instance_is_seen_within_a_second_for_as_long_as_it_runs_and_disappears_at_once_when_it_stops() {
    let server = Server::started().await;
    let silent = AsyncListener::bind("127.0.0.1:0").await.unwrap();
    // One that refuses and one that never responds are skipped.
    let in_turn = [
        "http://127.0.0.1:1".to_owned(),
        format!("http://{}", silent.local_addr().unwrap()),
        server.url(),
    ];
    let (watching, registering) = (etcd(&[server.url()]), etcd(&in_turn));
    let (mut users, mut catalog) = (
        watching.watch("users", Interface::Rpc),
        watching.watch("catalog", Interface::Rpc),
    );
    until(TIMEOUT, &mut users, &[]).await;
    let stop = CancellationToken::new();
    registering.register(instance(ONE), stop.clone()).await.unwrap();
    let started = Instant::now();
    while server.keys().await.len() < 2 {
        assert!(started.elapsed() < TIMEOUT, "it was not registered");
        sleep(Duration::from_millis(5)).await;
    }
    until(Duration::from_secs(1), &mut users, &[ONE]).await;
    until(Duration::from_secs(1), &mut catalog, &[ONE]).await;
    assert!(watching.watch("users", Interface::Http).borrow().is_empty());
    // A later watcher sees it as well.
    until(
        TIMEOUT,
        &mut etcd(&[server.url()]).watch("users", Interface::Rpc),
        &[ONE],
    )
    .await;
    // Far beyond the lease; etcd checks for expired leases twice a second.
    stays(Duration::from_secs(3 * LEASE_S + 1), &mut users, &[ONE]).await;

    stop.cancel();
    timeout(TIMEOUT, registering.withdrawn()).await.unwrap();
    assert!(
        server.keys().await.is_empty(),
        "it is still registered after it was withdrawn"
    );
    until(Duration::from_secs(1), &mut users, &[]).await;
}

#[tokio::test]
async fn an_instance_that_stops_renewing_disappears_with_its_lease() {
    let server = Server::started().await;
    let (watching, registering) = (etcd(&[server.url()]), etcd(&[server.url()]));
    let mut users = watching.watch("users", Interface::Rpc);
    registering
        .register(instance(ONE), CancellationToken::new())
        .await
        .unwrap();
    watching
        .register(instance(TWO), CancellationToken::new())
        .await
        .unwrap();
    until(TIMEOUT, &mut users, &[ONE, TWO]).await;
    // As after `kill -9`: it neither renews nor withdraws.
    registering
        .registered
        .lock()
        .drain(..)
        .for_each(|running| running.abort());
    until(Duration::from_secs(LEASE_S + 2), &mut users, &[TWO]).await;
}

#[tokio::test]
async fn an_instance_that_lost_its_lease_registers_again() {
    let server = Server::started().await;
    let watching = etcd(&[server.url()]);
    let mut users = watching.watch("users", Interface::Rpc);
    let client = Arc::new(server.new_client());
    let entries = entries("/banyan/services/", &instance(ONE)).unwrap();
    let registration = Arc::new(Registration::new(client.clone(), entries, LEASE_S));
    let (mut registered, kept) = (registration.registered(), registration.clone());
    let running = tokio::spawn(async move { kept.keep().await });
    registered.wait_for(|registered| *registered).await.unwrap();
    until(TIMEOUT, &mut users, &[ONE]).await;
    // As after a pause that was longer than the lease.
    let lease = registration.lease().unwrap();
    client.revoke(&lease).await.unwrap();
    until(TIMEOUT, &mut users, &[]).await;
    until(TIMEOUT, &mut users, &[ONE]).await;
    assert_ne!(registration.lease().unwrap(), lease);
    running.abort();
}

#[tokio::test]
async fn while_etcd_is_unavailable_the_known_instances_stay_in_use() {
    let mut server = Server::started().await;
    let (watching, registering) = (etcd(&[server.url()]), etcd(&[server.url()]));
    let mut users = watching.watch("users", Interface::Rpc);
    registering
        .register(instance(ONE), CancellationToken::new())
        .await
        .unwrap();
    until(TIMEOUT, &mut users, &[ONE]).await;

    server.kill();
    stays(Duration::from_secs(2 * LEASE_S + 1), &mut users, &[ONE]).await;
    server.start().await;
    stays(Duration::from_secs(LEASE_S + 1), &mut users, &[ONE]).await;
    let stop = CancellationToken::new();
    watching.register(instance(TWO), stop.clone()).await.unwrap();
    until(TIMEOUT, &mut users, &[ONE, TWO]).await;
}

#[tokio::test]
async fn after_etcd_lost_its_data_every_instance_registers_again_and_none_was_forgotten() {
    let mut server = Server::started().await;
    let (watching, registering) = (etcd(&[server.url()]), etcd(&[server.url()]));
    let mut users = watching.watch("users", Interface::Rpc);
    registering
        .register(instance(ONE), CancellationToken::new())
        .await
        .unwrap();
    until(TIMEOUT, &mut users, &[ONE]).await;
    server.kill();
    server.lose_data();
    server.start().await;
    let started = Instant::now();
    while server.keys().await.is_empty() {
        assert_eq!(users.borrow().len(), 1, "a registered instance is forgotten");
        assert!(started.elapsed() < TIMEOUT, "it did not register again");
        sleep(Duration::from_millis(5)).await;
    }
    stays(Duration::from_secs(2 * LEASE_S + 1), &mut users, &[ONE]).await;
    watching
        .register(instance(TWO), CancellationToken::new())
        .await
        .unwrap();
    until(TIMEOUT, &mut users, &[ONE, TWO]).await;
}

#[tokio::test]
async fn an_etcd_that_is_unavailable_at_the_start_is_retried() {
    let mut server = Server::new();
    let etcd = etcd(&[server.url()]);
    let mut users = etcd.watch("users", Interface::Rpc);
    timeout(TIMEOUT, etcd.register(instance(ONE), CancellationToken::new()))
        .await
        .unwrap()
        .unwrap();
    assert!(users.borrow_and_update().is_empty());
    server.start().await;
    until(TIMEOUT, &mut users, &[ONE]).await;
}

#[tokio::test]
async fn a_deleted_key_is_written_again_and_nothing_is_written_while_all_keys_exist() {
    let server = Server::started().await;
    let registering = etcd(&[server.url()]);
    registering
        .register(instance(ONE), CancellationToken::new())
        .await
        .unwrap();
    let keys = server.keys().await;
    assert_eq!(keys.len(), 2);
    let client = server.new_client();
    let before = client.range("/banyan/services/").await.unwrap().revision;
    sleep(Duration::from_secs(LEASE_S)).await;
    assert_eq!(
        client.range("/banyan/services/").await.unwrap().revision,
        before,
        "nothing is written without need"
    );
    server.delete(&keys[1]).await;
    let started = Instant::now();
    while server.keys().await.len() < 2 {
        assert!(started.elapsed() < TIMEOUT, "it was not written again");
        sleep(Duration::from_millis(20)).await;
    }
    // With the same lease, or it would stay for ever.
    registering
        .registered
        .lock()
        .drain(..)
        .for_each(|running| running.abort());
    let started = Instant::now();
    while !server.keys().await.is_empty() {
        assert!(started.elapsed() < TIMEOUT, "it outlives its process");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn an_instance_that_stops_is_withdrawn_at_once_although_most_endpoints_do_not_respond() {
    let server = Server::started().await;
    let (first, second) = (Proxy::to(server.client).await, Proxy::to(server.client).await);
    let registering = etcd(&[first.url.clone(), second.url.clone(), server.url()]);
    let stop = CancellationToken::new();
    registering.register(instance(ONE), stop.clone()).await.unwrap();
    assert_eq!(server.keys().await.len(), 2);
    first.stall_all();
    second.stall_all();
    stop.cancel();
    timeout(TIMEOUT, registering.withdrawn()).await.unwrap();
    assert!(server.keys().await.is_empty(), "it stays until its lease ends");
}

/// A TCP proxy to etcd, whose connections can be cut, or stay open and carry nothing.
struct Proxy {
    url: String,
    cut: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<CancellationToken>>>,
    stall: CancellationToken,
    /// New connections stall too.
    stall_new: Arc<AtomicBool>,
}

impl Proxy {
    async fn to(port: u16) -> Proxy {
        let listener = AsyncListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let proxy = Proxy {
            url,
            cut: Arc::default(),
            connections: Arc::default(),
            stall: CancellationToken::new(),
            stall_new: Arc::default(),
        };
        let (cut, connections, stall, stall_new) = (
            proxy.cut.clone(),
            proxy.connections.clone(),
            proxy.stall.clone(),
            proxy.stall_new.clone(),
        );
        tokio::spawn(async move {
            loop {
                let (mut inbound, _) = listener.accept().await.unwrap();
                if cut.load(Ordering::SeqCst) {
                    continue;
                }
                let (end, stalled) = (CancellationToken::new(), stall.clone());
                connections.lock().push(end.clone());
                let later = stall.is_cancelled() && !stall_new.load(Ordering::SeqCst);
                tokio::spawn(async move {
                    let Ok(mut outbound) = TcpStream::connect(("127.0.0.1", port)).await else {
                        return;
                    };
                    tokio::select! {
                        () = end.cancelled() => {}
                        // Open on our side, and nothing gets through any more.
                        () = stalled.cancelled(), if !later => std::future::pending().await,
                        _ = copy_bidirectional(&mut inbound, &mut outbound) => {}
                    }
                });
            }
        });
        proxy
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        self.connections
            .lock()
            .drain(..)
            .for_each(|connection| connection.cancel());
    }

    /// Nothing gets through any more, on open connections and on new ones.
    fn stall_all(&self) {
        self.stall_new.store(true, Ordering::SeqCst);
        self.stall.cancel();
    }

    fn restore(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_change_while_the_connection_to_etcd_was_cut_is_seen_afterwards() {
    let server = Server::started().await;
    let proxy = Proxy::to(server.client).await;
    let (watching, registering) = (etcd(std::slice::from_ref(&proxy.url)), etcd(&[server.url()]));
    let mut users = watching.watch("users", Interface::Rpc);
    let stop = CancellationToken::new();
    registering.register(instance(ONE), stop.clone()).await.unwrap();
    until(TIMEOUT, &mut users, &[ONE]).await;
    proxy.cut();
    stop.cancel();
    registering.withdrawn().await;
    registering
        .register(instance(TWO), CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(server.keys().await.len(), 2);
    stays(Duration::from_millis(500), &mut users, &[ONE]).await;
    proxy.restore();
    until(TIMEOUT, &mut users, &[TWO]).await;
}

#[tokio::test]
async fn a_watch_whose_connection_stalls_is_noticed() {
    let server = Server::started().await;
    let proxy = Proxy::to(server.client).await;
    let (watching, registering) = (etcd(std::slice::from_ref(&proxy.url)), etcd(&[server.url()]));
    let mut users = watching.watch("users", Interface::Rpc);
    registering
        .register(instance(ONE), CancellationToken::new())
        .await
        .unwrap();
    until(TIMEOUT, &mut users, &[ONE]).await;
    proxy.stall.cancel();
    registering
        .register(instance(TWO), CancellationToken::new())
        .await
        .unwrap();
    until(TIMEOUT, &mut users, &[ONE, TWO]).await;
}

#[tokio::test]
async fn an_etcd_behind_tls_must_have_a_trusted_certificate() {
    let mut server = Server::new();
    server.tls = true;
    server.start().await;
    let trusting = Settings {
        etcd_ca_file: Some(server.certificate()),
        ..settings(&[server.url()])
    };
    let etcd = Etcd::start(&trusting, Endpoints::new(), &CancellationToken::new()).unwrap();
    etcd.register(instance(ONE), CancellationToken::new()).await.unwrap();
    until(TIMEOUT, &mut etcd.watch("users", Interface::Rpc), &[ONE]).await;
    // The certificate of another server is not trusted.
    let mut other = Server::new();
    other.tls = true;
    other.start().await;
    let distrusting = Settings {
        etcd_ca_file: Some(other.certificate()),
        ..settings(&[server.url()])
    };
    let why = Client::new(&distrusting).unwrap().range("/").await.err().unwrap();
    assert!(format!("{why:#}").contains("certificate"), "{why:#}");
}

#[tokio::test]
async fn an_endpoint_in_the_settings_needs_no_registration() {
    let endpoints = Endpoints::from([(("users".to_owned(), Interface::Rpc), vec![TWO.parse().unwrap()])]);
    let etcd = Etcd::start(
        &settings(&["http://127.0.0.1:1".to_owned()]),
        endpoints,
        &CancellationToken::new(),
    )
    .unwrap();
    assert_eq!(
        etcd.watch("users", Interface::Rpc).borrow().clone(),
        [TWO.parse().unwrap()]
    );
}

#[test]
fn an_unreachable_address_is_not_registered() {
    let prefix = "/banyan/services/";
    assert!(entries(prefix, &Instance::new(&[], None, None)).unwrap().is_empty());
    assert!(
        entries(prefix, &Instance::new(&["users"], None, None))
            .unwrap_err()
            .to_string()
            .contains("rpc.listen")
    );
    assert!(
        entries(prefix, &instance("http://0.0.0.0:9000"))
            .unwrap_err()
            .to_string()
            .contains("rpc.advertise")
    );
    let at = |rpc: &str, http: &str| {
        let instance = Instance::new(&["users"], Some(rpc.parse().unwrap()), Some(http.parse().unwrap()));
        entries(prefix, &instance).map(drop).map_err(|why| why.to_string())
    };
    for (rpc, http) in [
        ("http://10.0.0.5:9000", "http://127.0.0.1:8080"),
        ("http://localhost:9000", "http://users-1.internal:8080"),
    ] {
        let why = at(rpc, http).unwrap_err();
        assert!(why.contains("rpc.listen") && why.contains("http.listen"), "{why}");
    }
    at("http://10.0.0.5:9000", "http://10.0.0.5:8080").unwrap();
    at("http://127.0.0.1:9000", "http://[::1]:8080").unwrap();
}
