//! TLS of the edge: the certificate for clients, reloaded when its file has changed, so that a renewal needs no restart.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, bail};
use parking_lot::Mutex;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::settings::Http;

/// The minimum interval between two checks of the files.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// The TLS configuration of the edge, by `http.tls_certificate_file` and `http.tls_key_file`: TLS 1.2 and 1.3. `None` without them.
///
/// # Errors
/// Names the key and the file: only one of the two is set, a file cannot be read, or the two do not match.
pub fn public(http: &Http) -> anyhow::Result<Option<ServerConfig>> {
    let (certificate, key) = match (&http.tls_certificate_file, &http.tls_key_file) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
        (Some(_), None) => {
            bail!("http.tls_certificate_file is set without http.tls_key_file, the private key of that certificate")
        }
        (None, Some(_)) => {
            bail!("http.tls_key_file is set without http.tls_certificate_file, the certificate of that key")
        }
    };
    let renewed = Renewed::read(certificate, key)?;
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(renewed));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(config))
}

/// The certificate and key in two files, reloaded when they change.
pub struct Renewed {
    certificate: PathBuf,
    key: PathBuf,
    seen: Mutex<Seen>,
}

struct Seen {
    certified: Arc<CertifiedKey>,
    changed: [Option<SystemTime>; 2],
    checked: Instant,
}

impl Renewed {
    pub fn read(certificate: PathBuf, key: PathBuf) -> anyhow::Result<Renewed> {
        // The modification times are read first, so that a change in between is detected at the next check.
        let changed = changed(&certificate, &key);
        let certified = certified(&certificate, &key)?;
        Ok(Renewed {
            certificate,
            key,
            seen: Mutex::new(Seen {
                certified,
                changed,
                checked: Instant::now(),
            }),
        })
    }

    pub fn current(&self, check_interval: Duration) -> Arc<CertifiedKey> {
        let mut seen = self.seen.lock();
        if seen.checked.elapsed() >= check_interval {
            seen.checked = Instant::now();
            let changed = changed(&self.certificate, &self.key);
            if changed != seen.changed {
                match certified(&self.certificate, &self.key) {
                    Ok(certified) => {
                        tracing::info!(file = %self.certificate.display(), "the renewed certificate was loaded");
                        seen.certified = certified;
                        seen.changed = changed;
                    }
                    // The renewal may be half done; the old certificate stays until both files match.
                    Err(error) => {
                        tracing::warn!("the renewed certificate cannot be used, the old one is kept: {error:#}")
                    }
                }
            }
        }
        seen.certified.clone()
    }
}

impl ResolvesServerCert for Renewed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current(CHECK_INTERVAL))
    }
}

impl fmt::Debug for Renewed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewed")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

fn changed(certificate: &Path, key: &Path) -> [Option<SystemTime>; 2] {
    [certificate, key].map(|file| file.metadata().and_then(|metadata| metadata.modified()).ok())
}

fn certified(certificate: &Path, key: &Path) -> anyhow::Result<Arc<CertifiedKey>> {
    let unreadable = |name: &str, file: &Path, what: &str| {
        format!(
            "{name} names the file {}, which must contain {what} in PEM",
            file.display()
        )
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let of_certificate = || unreadable("http.tls_certificate_file", certificate, "a certificate chain");
    let chain = chain.map_err(anyhow::Error::from).with_context(of_certificate)?;
    if chain.is_empty() {
        bail!(of_certificate());
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(anyhow::Error::from);
    let secret = secret.with_context(|| unreadable("http.tls_key_file", key, "a private key"))?;
    let certified = CertifiedKey::from_der(chain, secret, &aws_lc_rs::default_provider());
    let mismatch = || {
        format!(
            "{} and {} (http.tls_certificate_file, http.tls_key_file) do not match",
            certificate.display(),
            key.display()
        )
    };
    Ok(Arc::new(certified.with_context(mismatch)?))
}
