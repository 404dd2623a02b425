//! TLS: between clients and the gateway, and between the gateway and the instances.

use std::{path::Path, process::Command, time::Duration};

use banyan_host::{server::Transport, settings::Settings};
use banyan_remote::mtls::Identity;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    instance::{Behaviour, Instance},
    test_gateway::TestGateway,
};

/// Certificates as files, deleted when this is dropped.
struct Certificates(tempfile::TempDir);

impl Certificates {
    /// The certificates of a CA and of one process.
    fn new() -> Certificates {
        let made = Certificates(tempfile::tempdir().unwrap());
        made.openssl("req -x509 -subj /CN=ca -keyout ca-key.pem -out ca.pem -addext basicConstraints=critical,CA:TRUE");
        made.issue();
        made
    }

    /// Renews the process's certificate.
    fn issue(&self) {
        let extensions = "-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
        self.openssl(&format!(
            "req -x509 -subj /CN=gateway -keyout key.pem -out certificate.pem -CA ca.pem -CAkey ca-key.pem {extensions}"
        ));
    }

    fn openssl(&self, arguments: &str) {
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
        let mut command = Command::new("openssl");
        let made = command
            .current_dir(self.0.path())
            .args(arguments.split(' '))
            .args(key.split(' '))
            .output()
            .expect("openssl is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn client(&self) -> reqwest::ClientBuilder {
        let ca = reqwest::Certificate::from_pem(&std::fs::read(self.0.path().join("ca.pem")).unwrap()).unwrap();
        reqwest::Client::builder().tls_certs_only([ca])
    }
}

fn failure(result: anyhow::Result<TestGateway>) -> String {
    format!("{:#}", result.err().expect("the start fails"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_serves_http_1_1_over_tls_also_to_clients_that_offer_http_2() {
    let certificates = Certificates::new();
    let (certificate, key) = (certificates.path("certificate.pem"), certificates.path("key.pem"));
    let settings = [
        ("BANYAN__HTTP__TLS_CERTIFICATE_FILE", certificate.as_str()),
        ("BANYAN__HTTP__TLS_KEY_FILE", key.as_str()),
    ];
    let catalog = Instance::responding(r#"{"a": 1}"#).await;
    let gateway = TestGateway::in_front_of("catalog", &[&catalog], &settings).await;
    assert_eq!(gateway.scheme, "https");
    let url = format!("https://localhost:{}/api/v1/products?q=1", gateway.address.port());
    let new = certificates.client().build().unwrap().get(&url).send().await.unwrap();
    assert_eq!((new.version(), new.status().as_u16()), (reqwest::Version::HTTP_11, 200));
    assert_eq!(new.headers()["content-length"], "8");
    assert_eq!(new.text().await.unwrap(), r#"{"a": 1}"#);
    let old = certificates
        .client()
        .http1_only()
        .build()
        .unwrap()
        .get(&url)
        .send()
        .await
        .unwrap();
    assert_eq!((old.version(), old.status().as_u16()), (reqwest::Version::HTTP_11, 200));
    let head = certificates.client().build().unwrap().head(&url).send().await.unwrap();
    assert_eq!(
        (head.version(), head.status().as_u16()),
        (reqwest::Version::HTTP_11, 200)
    );
    let received = catalog.received();
    assert_eq!(received[0].header("via"), "1.1 banyan");
    let forwarded = format!(
        "for=127.0.0.1;host=\"localhost:{}\";proto=https",
        gateway.address.port()
    );
    assert_eq!(
        (received[0].header("forwarded"), received[1].header("forwarded")),
        (forwarded.as_str(), forwarded.as_str())
    );
    assert_eq!(received[2].line(), "HEAD /api/v1/products?q=1 HTTP/1.1");

    let mut plain = gateway.connect().await;
    plain
        .write_all(b"GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let mut response = Vec::new();
    let _ = plain.read_to_end(&mut response).await;
    assert!(
        !String::from_utf8_lossy(&response).contains("HTTP/1.1 2"),
        "a plaintext request got a response"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_tls_configuration_is_refused_naming_the_setting() {
    let certificates = Certificates::new();
    let (certificate, key) = (certificates.path("certificate.pem"), certificates.path("key.pem"));
    let start = async |certificate: &str, key: &str| {
        let settings = [
            ("BANYAN__HTTP__TLS_CERTIFICATE_FILE", certificate),
            ("BANYAN__HTTP__TLS_KEY_FILE", key),
        ];
        failure(TestGateway::with_endpoints("catalog", "http://127.0.0.1:1", &settings).await)
    };
    assert!(start(&certificate, "").await.contains("http.tls_key_file"));
    assert!(start("", &key).await.contains("http.tls_certificate_file"));
    let missing = start(&certificate, "/nowhere/key.pem").await;
    assert!(
        missing.contains("http.tls_key_file") && missing.contains("/nowhere/key.pem"),
        "{missing}"
    );
    let swapped = start(&key, &key).await;
    assert!(
        swapped.contains("http.tls_certificate_file") && swapped.contains("certificate chain"),
        "{swapped}"
    );
    let mismatch = start(&certificates.path("ca.pem"), &key).await;
    assert!(mismatch.contains("do not match"), "{mismatch}");
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_called_over_mutual_tls_and_never_in_plaintext() {
    let certificates = Certificates::new();
    let files = ["ca.pem", "certificate.pem", "key.pem"].map(|name| certificates.path(name));
    let settings = [
        ("BANYAN__MTLS__CA_FILE", files[0].as_str()),
        ("BANYAN__MTLS__CERTIFICATE_FILE", files[1].as_str()),
        ("BANYAN__MTLS__KEY_FILE", files[2].as_str()),
    ];
    // A service's own HTTP server, as the instance.
    let text = settings
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let identity = banyan_remote::mtls::Identity::load(&banyan::settings(None, text).unwrap().mtls)
        .unwrap()
        .unwrap();
    let service = actix_web::HttpServer::new(|| {
        actix_web::App::new().default_service(actix_web::web::to(|| async {
            actix_web::HttpResponse::Ok().json("secret")
        }))
    });
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = rustls::ServerConfig::clone(&identity.server_config());
    let service = service
        .workers(1)
        .disable_signals()
        .listen_rustls_0_23(listener, config)
        .unwrap()
        .run();
    let handle = service.handle();
    tokio::spawn(service);

    let gateway = TestGateway::with_endpoints("catalog", &format!("https://127.0.0.1:{port}"), &settings)
        .await
        .unwrap();
    assert_eq!(gateway.scheme, "http", "[mtls] does not apply to the gateway's own API");
    let reply = gateway.get("/api/v1/products").await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "\"secret\""), "{reply:?}");
    let stranger = certificates
        .client()
        .build()
        .unwrap()
        .get(format!("https://localhost:{port}/"))
        .send()
        .await;
    assert!(
        stranger.is_err(),
        "a client without a certificate got a response: {stranger:?}"
    );

    let plain = Instance::start(Behaviour::Hang).await;
    let gateway = TestGateway::in_front_of("catalog", &[&plain], &settings).await;
    assert_eq!(gateway.get("/api/v1/products").await.code(), "module_unavailable");
    assert_eq!(plain.received().len(), 0);
    handle.stop(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_never_completes_the_tls_handshake_is_unavailable() {
    let certificates = Certificates::new();
    let files = ["ca.pem", "certificate.pem", "key.pem"].map(|name| certificates.path(name));
    let frozen = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://{}", frozen.local_addr().unwrap());
    let settings = [
        ("BANYAN__MTLS__CA_FILE", files[0].as_str()),
        ("BANYAN__MTLS__CERTIFICATE_FILE", files[1].as_str()),
        ("BANYAN__MTLS__KEY_FILE", files[2].as_str()),
        ("BANYAN__GATEWAY__TIMEOUT_MS", "5000"),
    ];
    let tune = |settings: &mut Settings| {
        settings.gateway.limits.connect_timeout = Duration::from_millis(100);
        // No probe detects it before the request does.
        settings.discovery.timing.probe_timeout = Duration::from_secs(600);
    };
    let gateway = TestGateway::tuned("orders", &endpoint, &settings, tune).await.unwrap();
    let reply = gateway.send("POST /api/v1/orders", &[], "{}").await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (503, "module_unavailable"),
        "{reply:?}"
    );
    assert!(
        !gateway.proxy.instances("orders")[0].in_rotation,
        "an unreachable instance is called again only after a successful probe"
    );
}

#[test]
fn the_settings_decide_between_plaintext_public_and_internal_tls() {
    let certificates = Certificates::new();
    let path = |name: &str| certificates.path(name);
    let mtls = [
        ("MTLS__CA_FILE", path("ca.pem")),
        ("MTLS__CERTIFICATE_FILE", path("certificate.pem")),
        ("MTLS__KEY_FILE", path("key.pem")),
    ];
    let public = [
        ("HTTP__TLS_CERTIFICATE_FILE", path("certificate.pem")),
        ("HTTP__TLS_KEY_FILE", path("key.pem")),
    ];
    let beyond = [
        ("PROFILE", "prod".to_owned()),
        ("HTTP__LISTEN", "0.0.0.0:0".to_owned()),
        ("AUTH__ISSUER", "https://shop.example".to_owned()),
        ("AUTH__SIGNING_KEY_FILE", "key.pem".to_owned()),
    ];
    let served = |has_gateway: bool, parts: &[&[(&str, String)]]| {
        let set = parts
            .iter()
            .flat_map(|part| part.iter())
            .map(|(name, value)| (format!("BANYAN__{name}"), value.clone()));
        let transport = banyan::settings(None, set).and_then(|settings| {
            let identity = Identity::load(&settings.mtls)?;
            Transport::of(&settings.http, identity.as_ref(), has_gateway)
        });
        match transport {
            Ok(Transport::Plain) => "plain".to_owned(),
            Ok(Transport::Public(_)) => "public".to_owned(),
            Ok(Transport::Internal(_)) => "internal".to_owned(),
            Err(error) => format!("{error:#}"),
        }
    };
    assert_eq!(served(true, &[]), "plain");
    assert_eq!(
        (served(true, &[&public]), served(false, &[&public])),
        ("public".to_owned(), "public".to_owned())
    );
    assert_eq!(
        (served(true, &[&mtls]), served(false, &[&mtls])),
        ("plain".to_owned(), "internal".to_owned())
    );
    assert_eq!(served(true, &[&mtls, &public]), "public");
    assert!(served(false, &[&mtls, &public]).contains("remove http.tls_certificate_file"));
    // Beyond loopback never in plaintext, unless the settings say that a proxy terminates TLS.
    assert!(served(true, &[&beyond]).contains("behind_tls"));
    assert!(served(true, &[&beyond, &mtls]).contains("this is the edge"));
    assert_eq!(
        (served(true, &[&beyond, &public]), served(false, &[&beyond, &mtls])),
        ("public".to_owned(), "internal".to_owned())
    );
    let behind = [("HTTP__BEHIND_TLS", "true".to_owned())];
    assert_eq!(served(true, &[&beyond, &mtls, &behind]), "plain");
}

#[test]
fn a_renewed_certificate_is_used_without_a_restart() {
    let certificates = Certificates::new();
    let path = |name: &str| Path::new(&certificates.path(name)).to_owned();
    let renewed = banyan_host::tls::Renewed::read(path("certificate.pem"), path("key.pem")).unwrap();
    let seen = || renewed.current(std::time::Duration::ZERO).cert.clone();
    let old = seen();
    assert_eq!(seen(), old);
    std::fs::write(path("certificate.pem"), "half of it").unwrap();
    assert_eq!(seen(), old, "an unusable certificate does not replace the old one");
    certificates.issue();
    let new = seen();
    assert_ne!(new, old);
    certificates.issue();
    assert_eq!(
        renewed.current(std::time::Duration::from_secs(3600)).cert,
        new,
        "files are not checked for every connection"
    );
}
