//! How one instance of a module is connected and probed: a gRPC channel, and the gRPC health protocol.
//!
//! One channel, which is one HTTP/2 connection, per instance: calls share it, and measured on two cores four channels carried a quarter less than
//! one.

use std::time::Duration;

use anyhow::{Context, bail};
use async_trait::async_trait;
use tonic::{
    codegen::http::Uri,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity as TlsIdentity},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::Settings;
use crate::{balancing::Connector, discovery::Address, mtls::Identity};

/// Connects the instances of one module.
pub struct GrpcConnector {
    /// The service its instances serve, by its full name.
    service: &'static str,
    identity: Option<Identity>,
    connect_timeout: Duration,
    keep_alive: Duration,
}

impl GrpcConnector {
    pub fn new(service: &'static str, identity: Option<Identity>, settings: &Settings) -> Self {
        GrpcConnector {
            service,
            identity,
            connect_timeout: settings.limits.connect_timeout,
            keep_alive: settings.limits.keep_alive,
        }
    }
}

#[async_trait]
impl Connector for GrpcConnector {
    type Connection = Channel;

    fn connect(&self, address: &Address) -> anyhow::Result<Channel> {
        let scheme = if address.is_tls() { "https" } else { "http" };
        let named = Uri::builder()
            .scheme(scheme)
            .authority(address.authority())
            .path_and_query("/")
            .build();
        let mut endpoint = Endpoint::from_shared(address.to_string())
            .with_context(|| format!("{address} is not a valid address"))?
            // The name it was resolved from, as in its certificate, and not its IP address.
            .origin(named.with_context(|| format!("{address} has no host name"))?)
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            // A peer that vanished silently is noticed although no call is in flight.
            .http2_keep_alive_interval(self.keep_alive)
            .keep_alive_timeout(self.keep_alive)
            .keep_alive_while_idle(true);
        match (&self.identity, address.is_tls()) {
            (None, false) => {}
            (Some(identity), true) => {
                let tls = ClientTlsConfig::new()
                    .domain_name(address.server_name())
                    .ca_certificate(Certificate::from_pem(identity.ca_pem()))
                    .identity(TlsIdentity::from_pem(identity.certificate_pem(), identity.key_pem()))
                    .timeout(self.connect_timeout);
                endpoint = endpoint.tls_config(tls).context("[mtls]")?;
            }
            (Some(_), false) => bail!("{address} is plaintext, which [mtls] forbids between processes; write https://"),
            (None, true) => bail!("{address} needs certificates: set ca_file, certificate_file and key_file in [mtls]"),
        }
        Ok(endpoint.connect_lazy())
    }

    async fn probe(&self, connection: &Channel) -> Result<(), String> {
        let request = HealthCheckRequest {
            service: self.service.to_owned(),
        };
        match HealthClient::new(connection.clone()).check(request).await {
            Ok(response) if response.get_ref().status() == ServingStatus::Serving => Ok(()),
            Ok(response) => Err(format!("its health is {}", response.get_ref().status().as_str_name())),
            Err(status) if status.code() == tonic::Code::NotFound => Err(format!("it does not serve {}", self.service)),
            Err(status) => Err(format!("{}: {}", status.code(), status.message())),
        }
    }
}
