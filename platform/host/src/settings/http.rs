//! `[http]`: how clients reach this process.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use anyhow::bail;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};

use crate::cors;

#[derive(Clone, Debug, Deserialize)]
pub struct Http {
    pub listen: SocketAddr,
    pub advertise: Option<String>,
    pub tls_certificate_file: Option<PathBuf>,
    pub tls_key_file: Option<PathBuf>,
    pub workers: usize,
    pub behind_tls: bool,
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    pub proxy_protocol: bool,
    pub hosts: Vec<String>,
    pub cors_origins: Vec<String>,
    pub connections: usize,
    pub connections_per_address: usize,
    pub keep_alive_s: u64,
    pub shutdown_timeout_ms: u64,
}

impl Http {
    pub(super) fn has_tls(&self) -> bool {
        self.tls_certificate_file.is_some() && self.tls_key_file.is_some()
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        let is_host = |host: &&String| {
            let name = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
            name || host.parse::<IpAddr>().is_ok()
        };
        if let Some(wrong) = self.hosts.iter().find(|host| !is_host(host)) {
            bail!(
                "http.hosts names {wrong:?}, which is not a host; write a name or an address, without scheme and port, such as shop.example"
            );
        }
        if let Some(wrong) = self.cors_origins.iter().find(|origin| !cors::is_origin(origin)) {
            bail!(
                "http.cors_origins names {wrong:?}, which is not an origin; write scheme and host, with the port unless it is the scheme's own, and \
                 without a path, such as https://shop.example, or * for every origin"
            );
        }
        if self.proxy_protocol && self.trusted_proxies.is_empty() {
            bail!(
                "http.proxy_protocol is true, but http.trusted_proxies is empty, so every connection would be refused; name the proxies or their \
                 network there, such as [\"10.0.0.0/8\"]"
            );
        }
        for (key, value) in [
            ("connections", self.connections),
            ("connections_per_address", self.connections_per_address),
        ] {
            if value == 0 {
                bail!("http.{key} is 0, so nobody could connect; it must be at least 1");
            }
        }
        Ok(())
    }
}

/// Networks, and addresses as networks of one.
fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let network = |text: String| {
        let address = text.parse::<IpAddr>().map(IpNet::from).ok();
        let network = address.or_else(|| text.parse().ok());
        network.ok_or_else(|| {
            de::Error::custom(format!(
                "{text:?} is neither an address nor a network; write 10.0.0.1 or 10.0.0.0/8"
            ))
        })
    };
    texts.into_iter().map(network).collect()
}
