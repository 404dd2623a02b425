//! How processes authenticate to each other: the certificates of `[mtls]`.
//!
//! A certificate of this CA names the modules of its process, which may make the calls of these modules and of no other; so the CA is the product's own
//! and signs nothing else. Changed files are read at the next start.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use serde::Deserialize;

/// `[mtls]`: all three or none; each is described in the file of defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub ca_file: Option<PathBuf>,
    pub certificate_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

/// This process's certificate and key, and the CA that it trusts. Checked: the key belongs to the certificate.
#[derive(Clone)]
pub struct Identity {
    ca: Arc<[u8]>,
    certificate: Arc<[u8]>,
    key: Arc<[u8]>,
    server: Arc<ServerConfig>,
    names: Arc<[String]>,
}

/// The names in a certificate that may be a module's: a DNS name as it is, and of a SPIFFE ID (`spiffe://banyan.example/ns/banyan/sa/orders`) the last
/// part of its path. None in what is not a certificate.
pub fn names_in(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else {
        return Vec::new();
    };
    let spiffe = |uri: &str| {
        Some(
            uri.strip_prefix("spiffe://")?
                .split_once('/')?
                .1
                .rsplit('/')
                .next()?
                .to_owned(),
        )
    };
    let of_uris = certificate.valid_uri_names().filter_map(spiffe);
    let of_hosts = certificate.valid_dns_names().map(str::to_owned);
    let mut names: Vec<String> = of_hosts.chain(of_uris).collect();
    names.sort();
    names.dedup();
    names
}

impl Identity {
    /// `None` without `[mtls]`: then processes communicate in plaintext, which is allowed on loopback only.
    ///
    /// # Errors
    /// Names the key, and the file that is missing or holds something else.
    pub fn load(settings: &Settings) -> anyhow::Result<Option<Identity>> {
        let files = [
            ("mtls.ca_file", &settings.ca_file),
            ("mtls.certificate_file", &settings.certificate_file),
            ("mtls.key_file", &settings.key_file),
        ];
        let names = |set: bool| {
            files
                .iter()
                .filter(|(_, file)| file.is_some() == set)
                .map(|(key, _)| *key)
                .collect::<Vec<_>>()
        };
        let (Some(ca), Some(certificate), Some(key)) =
            (&settings.ca_file, &settings.certificate_file, &settings.key_file)
        else {
            if names(true).is_empty() {
                return Ok(None);
            }
            bail!(
                "{} set, but not {}; TLS between processes needs all three, or none",
                names(true).join(" and "),
                names(false).join(" and ")
            );
        };
        let (ca_pem, certificate_pem, key_pem) = (
            read("mtls.ca_file", ca)?,
            read("mtls.certificate_file", certificate)?,
            read("mtls.key_file", key)?,
        );
        let authorities = certificates("mtls.ca_file", ca, &ca_pem)?;
        let chain = certificates("mtls.certificate_file", certificate, &certificate_pem)?;
        let names = names_in(&chain[0]).into();
        let secret = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|error| {
            anyhow::anyhow!(
                "{} (mtls.key_file) holds no private key in PEM: {error:?}",
                key.display()
            )
        })?;
        let server = server_config(authorities, chain, secret).with_context(|| {
            format!(
                "{} and {} (mtls.certificate_file, mtls.key_file) do not go together",
                certificate.display(),
                key.display()
            )
        })?;
        Ok(Some(Identity {
            ca: ca_pem.into(),
            certificate: certificate_pem.into(),
            key: key_pem.into(),
            server: Arc::new(server),
            names,
        }))
    }

    /// The certificates of the trusted CA, in PEM.
    pub fn ca_pem(&self) -> &[u8] {
        &self.ca
    }

    /// This process's certificate chain, in PEM.
    pub fn certificate_pem(&self) -> &[u8] {
        &self.certificate
    }

    /// Its private key, in PEM.
    pub fn key_pem(&self) -> &[u8] {
        &self.key
    }

    /// The names in this process's certificate.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// For an HTTP server between processes: a client without a certificate of the CA is refused.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(not shown)")
    }
}

fn read(key: &str, file: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("{key} names the file {}, which cannot be read", file.display()))
}

fn certificates(key: &str, file: &Path, pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => bail!(
            "{} ({key}) holds no certificates in PEM (-----BEGIN CERTIFICATE-----)",
            file.display()
        ),
    }
}

fn server_config(
    authorities: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> anyhow::Result<ServerConfig> {
    let provider = CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(aws_lc_rs::default_provider()));
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots
            .add(authority)
            .context("mtls.ca_file holds an invalid certificate")?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, process::Command};

    use actix_web::{App, HttpResponse, HttpServer, web};

    use banyan_remote_testing::Authority;

    use super::*;

    /// The files of the CA, the certificate and its key.
    type Files = [Option<PathBuf>; 3];

    fn files_of(authority: &Authority, name: &str) -> Files {
        authority.settings(name).map(|(_, file)| Some(file.into()))
    }

    /// An HTTP client that presents this certificate, trusts only the CA, and uses only TLS.
    fn client_of(identity: &Identity) -> reqwest::ClientBuilder {
        let authorities = reqwest::Certificate::from_pem_bundle(identity.ca_pem()).unwrap();
        let both = [identity.certificate_pem(), b"\n", identity.key_pem()].concat();
        let shown = reqwest::Identity::from_pem(&both).unwrap();
        reqwest::Client::builder()
            .tls_certs_only(authorities)
            .identity(shown)
            .https_only(true)
    }

    fn load(files: Files) -> anyhow::Result<Option<Identity>> {
        let [ca_file, certificate_file, key_file] = files;
        Identity::load(&Settings {
            ca_file,
            certificate_file,
            key_file,
        })
    }

    fn error(files: Files) -> String {
        format!("{:#}", load(files).unwrap_err())
    }

    #[test]
    fn all_three_files_are_required_or_none() {
        let authority = Authority::new(&["orders"]);
        let all = files_of(&authority, "orders");
        assert!(load(Files::default()).unwrap().is_none());
        assert!(load(all.clone()).unwrap().is_some());
        let text = error([all[0].clone(), all[1].clone(), None]);
        assert!(
            text.contains("mtls.ca_file and mtls.certificate_file set, but not mtls.key_file"),
            "{text}"
        );
    }

    #[test]
    fn a_file_that_is_missing_or_something_else_is_named_with_its_key() {
        let authority = Authority::new(&["orders", "users"]);
        let with = |at: usize, file: &str| {
            let mut files = files_of(&authority, "orders");
            files[at] = Some(authority.file(file));
            error(files)
        };
        let text = with(2, "lost.pem");
        assert!(text.contains("mtls.key_file") && text.contains("lost.pem"), "{text}");
        let text = with(1, "orders-key.pem");
        assert!(
            text.contains("mtls.certificate_file") && text.contains("orders-key.pem"),
            "{text}"
        );
        let text = with(2, "orders.pem");
        assert!(text.contains("mtls.key_file") && text.contains("private key"), "{text}");
        let text = with(2, "users-key.pem");
        assert!(text.contains("do not go together"), "{text}");
    }

    #[test]
    fn a_certificate_names_the_modules_of_its_process() {
        let authority = Authority::new(&["orders+shipping", "users"]);
        let names = |name| load(files_of(&authority, name)).unwrap().unwrap().names().to_vec();
        assert_eq!(
            names("orders+shipping"),
            ["*.banyan.internal", "localhost", "orders", "shipping"]
        );
        assert_eq!(names("users"), ["*.banyan.internal", "localhost", "users"]);
        assert!(names_in(&CertificateDer::from(vec![1, 2, 3])).is_empty());
    }

    #[test]
    fn the_script_keeps_keys_to_their_owner_and_replaces_nothing_unasked() {
        let authority = Authority::new(&["orders"]);
        let key = authority.file("orders-key.pem");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let before = fs::read(&key).unwrap();
        let again = |force: &[&str]| {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/dev-certs");
            Command::new(script)
                .args(force)
                .arg(authority.file(""))
                .arg("orders")
                .output()
                .unwrap()
                .status
                .success()
        };
        assert!(!again(&[]));
        assert_eq!(fs::read(&key).unwrap(), before);
        assert!(again(&["--force"]));
        assert_ne!(fs::read(&key).unwrap(), before);
    }

    #[actix_web::test]
    async fn over_http_too_only_processes_of_the_same_authority_are_served() {
        let _ = aws_lc_rs::default_provider().install_default();
        let (ours, theirs) = (Authority::new(&["gateway", "orders"]), Authority::new(&["gateway"]));
        let orders = load(files_of(&ours, "orders")).unwrap().unwrap();
        let server =
            HttpServer::new(|| App::new().default_service(web::to(|| async { HttpResponse::Ok().body("served") })))
                .workers(1)
                .disable_signals()
                .listen_rustls_0_23(
                    std::net::TcpListener::bind("127.0.0.1:0").unwrap(),
                    (*orders.server_config()).clone(),
                )
                .unwrap();
        let port = server.addrs()[0].port();
        let server = server.run();
        let handle = server.handle();
        actix_web::rt::spawn(server);

        let url = format!("https://localhost:{port}/");
        let is_served =
            async |client: reqwest::ClientBuilder, url: &str| client.build().unwrap().get(url).send().await.is_ok();
        let secured = |authority: &Authority| client_of(&load(files_of(authority, "gateway")).unwrap().unwrap());
        let trusting = || {
            let authorities = reqwest::Certificate::from_pem_bundle(orders.ca_pem()).unwrap();
            reqwest::Client::builder().tls_certs_only(authorities)
        };
        let stranger = [
            fs::read(theirs.file("gateway.pem")).unwrap(),
            fs::read(theirs.file("gateway-key.pem")).unwrap(),
        ]
        .concat();
        let stranger = trusting().identity(reqwest::Identity::from_pem(&stranger).unwrap());
        assert!(is_served(secured(&ours), &url).await, "one of ours");
        assert!(!is_served(trusting(), &url).await, "without a certificate");
        assert!(!is_served(stranger, &url).await, "with one of another authority");
        assert!(
            !is_served(secured(&theirs), &url).await,
            "a client that does not trust our CA"
        );
        assert!(
            !is_served(reqwest::Client::builder(), &format!("http://localhost:{port}/")).await,
            "plaintext"
        );
        assert!(
            !is_served(secured(&ours), &format!("http://localhost:{port}/")).await,
            "our own client over plaintext"
        );
        handle.stop(false).await;
    }
}
