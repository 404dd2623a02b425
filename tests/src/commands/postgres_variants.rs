//! PostgreSQL reached in other ways than one host without anything between: a pooler, several hosts, an address of IPv6, TLS.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Stdio};

use banyan_durable_testing::PostgresHome;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};
use url::Url;

use super::{checks, installation::Installation};
use crate::{
    data,
    harness::{Postgres, Stage, free_port},
};

checks![
    the_shop_runs_behind_pgbouncer_by_sessions_and_refuses_transactions,
    of_several_hosts_the_first_that_can_be_written_to_serves,
    an_address_of_ipv6_is_a_host,
    sslmode_is_obeyed
];

/// The one login of the tests' server, for all modules.
const ONE_LOGIN: (&str, &str) = ("BANYAN__DATABASE__LOGIN_PER_MODULE", "false");

async fn sql(url: &str, sql: &str) {
    let connection = data::connect(&PathBuf::new(), Some(url), "public").await;
    data::execute(&connection, sql).await.expect("it runs");
    connection.close().await;
}

/// Sets it for the whole server.
async fn alter_system(server: &Postgres, setting: &str) {
    sql(&server.url(), &format!("alter system set {setting}")).await;
    sql(&server.url(), "select pg_reload_conf()").await;
}

/// A PgBouncer in front of the server of `home`; killed when dropped.
struct PgBouncer {
    port: u16,
    _child: Child,
}

impl PgBouncer {
    /// `None`: it is not installed.
    async fn start(installation: &Installation, home: &PostgresHome, mode: &str) -> Option<PgBouncer> {
        let server = Url::parse(&home.url()).expect("a URL");
        let port = free_port();
        fs::set_permissions(installation.directory(), fs::Permissions::from_mode(0o755)).expect("our directory");
        let users = installation.file("users.txt", &format!("\"{}\" \"\"\n", server.username()));
        let ini = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n\
             auth_file = {users}\npool_mode = {mode}\ndefault_pool_size = 100\nmax_client_conn = 400\n",
            server.host_str().expect("a host"),
            server.port().unwrap_or(5432),
        );
        let ini = installation.file(&format!("pgbouncer-{mode}.ini"), &ini);
        let mut command = Command::new("pgbouncer");
        // It refuses to run as root, which tests in a container do.
        if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
            command.args(["-u", "nobody"]);
        }
        let started = command
            .arg(ini)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = started.kill_on_drop(true).spawn().ok()?;
        let end = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(tokio::time::Instant::now() < end, "PgBouncer does not listen");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        Some(PgBouncer { port, _child: child })
    }

    fn url(&self, home: &PostgresHome) -> String {
        let mut url = Url::parse(&home.url()).expect("a URL");
        url.set_host(Some("127.0.0.1")).expect("a host");
        url.set_port(Some(self.port)).expect("a port");
        url.to_string()
    }
}

async fn the_shop_runs_behind_pgbouncer_by_sessions_and_refuses_transactions() {
    let (home, installation) = (PostgresHome::new().await, Installation::new(Stage::Sqlite).await);
    let Some(pooler) = PgBouncer::start(&installation, &home, "session").await else {
        eprintln!("skipped: PgBouncer is not installed (Debian: sudo apt-get install pgbouncer)");
        return home.remove().await;
    };
    let url = pooler.url(&home);
    let installation = installation.with(&[ONE_LOGIN, ("BANYAN__DATABASE__URL", &url)]);
    let shop = installation.serve().await;
    let customer = shop.client.new_customer().await;
    let order = customer.order("tea-01", 1, "pm_card_visa").await;
    assert_eq!(order["status"], "confirmed", "{order}");
    shop.stop().await;
    drop(pooler);

    let pooler = PgBouncer::start(&installation, &home, "transaction")
        .await
        .expect("it is installed");
    let url = pooler.url(&home);
    for arguments in [&["serve"][..], &["migrate"], &["migrate", "--provision"]] {
        let refused = installation
            .run_with(arguments, &[("BANYAN__DATABASE__URL", &url)])
            .await;
        refused
            .expect(1)
            .stderr_contains(&["database.url", "pool_mode = session", "connect to PostgreSQL itself"]);
    }
    drop(pooler);
    home.remove().await;
}

/// One that is closed, one that refuses to write, one that serves.
async fn of_several_hosts_the_first_that_can_be_written_to_serves() {
    let (home, standby) = (PostgresHome::new().await, Postgres::start());
    sql(&standby.url(), &format!("create database {}", home.name())).await;
    alter_system(&standby, "default_transaction_read_only = on").await;
    let (serving, read_only) = (
        Url::parse(&home.url()).expect("a URL"),
        Url::parse(&standby.url()).expect("a URL"),
    );
    let host = |url: &Url| format!("{}:{}", url.host_str().expect("a host"), url.port().unwrap_or(5432));
    let hosts = format!("127.0.0.1:{},{},{}", free_port(), host(&read_only), host(&serving));
    let url = home.url().replace(&host(&serving), &hosts);
    let installation = Installation::new(Stage::Sqlite).await;
    let any = [("BANYAN__DATABASE__URL", url.as_str())];
    let refused = installation.run_with(&["migrate", "--provision"], &any).await;
    refused.expect(1).stderr_contains(&["read-only"]);
    let url = format!("{url}?target_session_attrs=read-write");
    let read_write = [("BANYAN__DATABASE__URL", url.as_str())];
    installation
        .run_with(&["migrate", "--provision"], &read_write)
        .await
        .expect(0);
    let status = installation
        .run_with(&["migrate", "status"], &read_write)
        .await
        .expect(0);
    assert!(
        status.out.lines().all(|line| line.ends_with("up to date")),
        "{}",
        status.out
    );
    let wrong = url.replace("read-write", "standby");
    let refused = installation
        .run_with(&["migrate"], &[("BANYAN__DATABASE__URL", &wrong)])
        .await;
    refused
        .expect(1)
        .stderr_contains(&["database.url", "target_session_attrs=standby", "read-write"]);
    home.remove().await;
}

async fn an_address_of_ipv6_is_a_host() {
    let home = PostgresHome::new().await;
    let server = Url::parse(&home.url()).expect("a URL");
    let Ok(listener) = TcpListener::bind("[::1]:0").await else {
        eprintln!("skipped: this machine has no IPv6");
        return home.remove().await;
    };
    let port = listener.local_addr().expect("an address").port();
    let target = (
        server.host_str().expect("a host").to_owned(),
        server.port().unwrap_or(5432),
    );
    let proxy = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let target = target.clone();
            tokio::spawn(async move {
                if let Ok(mut server) = TcpStream::connect(target).await {
                    drop(copy_bidirectional(&mut client, &mut server).await);
                }
            });
        }
    });
    let mut url = server.clone();
    url.set_host(Some("[::1]")).expect("a host");
    url.set_port(Some(port)).expect("a port");
    let installation = Installation::new(Stage::Sqlite).await;
    let settings = [("BANYAN__DATABASE__URL", url.as_str())];
    installation
        .run_with(&["migrate", "--provision"], &settings)
        .await
        .expect(0);
    proxy.abort();
    home.remove().await;
}

async fn sslmode_is_obeyed() {
    let server = Postgres::start();
    let installation = Installation::new(Stage::Sqlite).await;
    let migrate = async |query: &str| {
        let url = format!("{}?{query}", server.url());
        let settings = [ONE_LOGIN, ("BANYAN__DATABASE__URL", url.as_str())];
        installation.run_with(&["migrate", "--provision"], &settings).await
    };
    // Without TLS at the server.
    migrate("sslmode=prefer").await.expect(0);
    migrate("sslmode=require")
        .await
        .expect(1)
        .stderr_contains(&["TLS", "database.url"]);
    // A certificate made by the server's own user, in its directory.
    let make = "openssl req -new -x509 -days 2 -nodes -subj /CN=localhost -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout server.key -out server.crt 2>/dev/null && cat server.crt";
    sql(&server.url(), "create table public.certificate (line text)").await;
    sql(&server.url(), &format!("copy public.certificate from program '{make}'")).await;
    let connection = data::connect(&PathBuf::new(), Some(&server.url()), "public").await;
    let lines = data::names(&connection, "select line as name from public.certificate").await;
    connection.close().await;
    let root = installation.file("root.crt", &(lines.join("\n") + "\n"));
    alter_system(&server, "ssl = on").await;
    for mode in ["disable", "prefer", "require"] {
        migrate(&format!("sslmode={mode}")).await.expect(0);
    }
    migrate(&format!("sslmode=verify-full&sslrootcert={root}"))
        .await
        .expect(0);
    // Not a certificate that anybody else vouches for.
    migrate("sslmode=verify-full")
        .await
        .expect(1)
        .stderr_contains(&["database.url"]);
    migrate("sslmode=sometimes")
        .await
        .expect(1)
        .stderr_contains(&["sslmode", "sometimes"]);
}
