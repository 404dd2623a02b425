//! Certificates for tests, made by the script that makes them for developers.

use std::{path::PathBuf, process::Command};

use uuid::Uuid;

/// A temporary CA and its certificates, in a directory that is removed when this is dropped.
pub struct Authority(PathBuf);

impl Authority {
    pub fn new(names: &[&str]) -> Self {
        let directory = std::env::temp_dir().join(format!("banyan-certs-{}", Uuid::now_v7()));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../scripts/dev-certs");
        let made = Command::new(script)
            .arg(&directory)
            .args(names)
            .output()
            .expect("scripts/dev-certs runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Authority(directory)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The environment variables for a process of this name.
    pub fn settings(&self, name: &str) -> [(&'static str, String); 3] {
        let path = |file: String| self.file(&file).display().to_string();
        [
            ("BANYAN__MTLS__CA_FILE", path("ca.pem".to_owned())),
            ("BANYAN__MTLS__CERTIFICATE_FILE", path(format!("{name}.pem"))),
            ("BANYAN__MTLS__KEY_FILE", path(format!("{name}-key.pem"))),
        ]
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
