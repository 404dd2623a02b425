//! The names under which clients may call this process.
//!
//! A page of another site can give its own name the address 127.0.0.1 after it was loaded (DNS rebinding). Its requests then reach a shop on the same
//! machine, and the browser takes them for requests to the page's own site. Only the `Host` tells.

use std::{net::IpAddr, sync::Arc};

use actix_web::{
    dev::ServiceRequest,
    http::{header, uri::Authority},
};
use banyan_core::{Fault, FaultKind};

/// Which hosts are served. The default is every host.
#[derive(Clone, Debug, Default)]
pub struct AllowedHosts(Option<Arc<[String]>>);

/// In a list of hosts: every name and address of the machine itself.
pub const LOOPBACK: &str = "localhost";

impl AllowedHosts {
    /// Only these names and addresses, without ports; with `localhost` all of the loopback interface. An empty list allows every host.
    pub fn only(hosts: impl IntoIterator<Item = String>) -> Self {
        let hosts: Arc<[String]> = hosts.into_iter().map(|host| normal(&host)).collect();
        AllowedHosts(Some(hosts).filter(|hosts| !hosts.is_empty()))
    }

    /// Health probes are served under every name: orchestrators call an address that no client knows.
    pub(crate) fn check(&self, request: &ServiceRequest) -> Result<(), Fault> {
        let Some(hosts) = &self.0 else { return Ok(()) };
        if request.path().starts_with("/health/") {
            return Ok(());
        }
        // The target of the request may name a host, as in HTTP/2, and the header another one.
        let target = request.uri().authority().map(Authority::as_str);
        let headers = request
            .headers()
            .get_all(header::HOST)
            .map(|value| value.to_str().unwrap_or_default());
        match target.into_iter().chain(headers).find(|host| !is_among(hosts, host)) {
            None => Ok(()),
            Some(_) => Err(Fault::new(
                FaultKind::Malformed,
                "misdirected_request",
                "Nothing is served under this host name. If it is right, the operator adds it to http.hosts.",
            )),
        }
    }
}

fn is_among(hosts: &[String], authority: &str) -> bool {
    let name = normal(without_port(authority));
    let is_loopback = name == LOOPBACK
        || name.ends_with(".localhost")
        || name
            .trim_matches(['[', ']'])
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    hosts
        .iter()
        .any(|host| *host == name || (host == LOOPBACK && is_loopback))
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => authority,
    }
}

/// Names are equal without regard to case, and a final dot changes nothing. An address of IPv6 is written in brackets.
fn normal(host: &str) -> String {
    let host = host.trim().trim_end_matches('.').to_ascii_lowercase();
    match host.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    fn allows(hosts: &[&str], host: &str) -> bool {
        let request = TestRequest::get()
            .uri("/api/v1/orders")
            .insert_header(("Host", host))
            .to_srv_request();
        AllowedHosts::only(hosts.iter().map(|host| (*host).to_owned()))
            .check(&request)
            .is_ok()
    }

    #[test]
    fn loopback_names_and_addresses_are_one_host_and_others_are_not() {
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "localhost.:1",
            "shop.localhost",
            "127.0.0.1:8080",
            "127.9.9.9",
            "[::1]:8080",
            "[::1]",
        ] {
            assert!(allows(&["localhost"], host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "[::2]",
            "",
            "a@localhost",
            "localhost:x",
        ] {
            assert!(!allows(&["localhost"], host), "{host}");
        }
    }

    #[test]
    fn a_listed_host_is_served_under_every_port_and_without_a_list_all_are() {
        for host in ["shop.example", "Shop.Example:443", "shop.example."] {
            assert!(allows(&["shop.example", "2001:db8::1"], host), "{host}");
        }
        assert!(allows(&["shop.example", "2001:db8::1"], "[2001:db8::1]:443"));
        assert!(!allows(&["shop.example"], "localhost") && !allows(&["shop.example"], "www.shop.example"));
        assert!(allows(&[], "evil.example"));
    }

    #[test]
    fn the_target_of_the_request_counts_as_well_and_health_probes_are_answered() {
        let hosts = AllowedHosts::only(["shop.example".to_owned()]);
        let request = |uri: &str| {
            TestRequest::get()
                .uri(uri)
                .insert_header(("Host", "shop.example"))
                .to_srv_request()
        };
        assert!(hosts.check(&request("http://evil.example/api/v1/orders")).is_err());
        assert!(hosts.check(&request("http://shop.example/api/v1/orders")).is_ok());
        assert!(hosts.check(&request("http://10.0.0.1/health/ready")).is_ok());
    }
}
