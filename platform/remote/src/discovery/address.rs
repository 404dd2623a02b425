//! The addresses of instances, and how they are written.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The address of one instance: scheme, host, port. Written `http://10.0.0.1:9000`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    tls: bool,
    /// A name or an IP address, IPv6 without its brackets.
    host: String,
    port: u16,
    /// The name by which `host`, an IP address, was found.
    found_as: Option<String>,
}

impl Address {
    /// The address that others are to call: `advertise` (`host:port`) or, without it, what the process listens on.
    ///
    /// # Errors
    /// Names the key (`section.advertise`) if it is not `host:port`, or if it is missing although the process listens on all addresses.
    pub fn advertised(
        section: &str,
        tls: bool,
        listen: SocketAddr,
        advertise: Option<&str>,
    ) -> anyhow::Result<Address> {
        let scheme = if tls { "https" } else { "http" };
        let Some(advertise) = advertise else {
            if listen.ip().is_unspecified() {
                bail!(
                    "{section}.listen is {listen}, which others cannot call; set {section}.advertise to the address that others are to call, such as \
                     \"orders-1.internal:{}\"",
                    listen.port()
                );
            }
            return Ok(Address {
                tls,
                host: listen.ip().to_string(),
                port: listen.port(),
                found_as: None,
            });
        };
        let wrong =
            || format!("{section}.advertise = {advertise:?} must be `host:port`, such as \"orders-1.internal:9000\"");
        let has_port = advertise
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0));
        if advertise.contains("://") || !has_port {
            bail!(wrong());
        }
        format!("{scheme}://{advertise}").parse().with_context(wrong)
    }

    /// Whether it is called over TLS.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The host to connect to: a name or an IP address, IPv6 without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The name its certificate must bear, and that belongs into `Host`: the one by which it was found.
    pub fn server_name(&self) -> &str {
        self.found_as.as_deref().unwrap_or(&self.host)
    }

    /// The name and the port, as they belong into `Host` and `:authority`.
    pub fn authority(&self) -> String {
        match self.server_name() {
            v6 if v6.contains(':') => format!("[{v6}]:{}", self.port),
            name => format!("{name}:{}", self.port),
        }
    }

    /// One of the IP addresses of this address's name. The certificate must still bear the name.
    #[must_use]
    pub fn at(&self, ip: IpAddr) -> Address {
        if self.host.parse::<IpAddr>().is_ok() {
            return self.clone();
        }
        Address {
            tls: self.tls,
            host: ip.to_string(),
            port: self.port,
            found_as: Some(self.host.clone()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for Address {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Address> {
        let wrong = || {
            let text = banyan_core::without_password(text);
            format!("{text} is not the address of an instance; write http://host:port or https://host:port")
        };
        let url = url::Url::parse(text).with_context(wrong)?;
        if !matches!(url.scheme(), "http" | "https") {
            bail!("{}: the scheme must be http or https", wrong());
        }
        let plain =
            url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
        if !plain || url.path() != "/" {
            bail!("{}, and nothing more: no login, path or query", wrong());
        }
        let host = url.host_str().with_context(wrong)?;
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let port = url
            .port_or_known_default()
            .filter(|port| *port > 0)
            .with_context(wrong)?;
        Ok(Address {
            tls: url.scheme() == "https",
            host: host.to_owned(),
            port,
            found_as: None,
        })
    }
}

impl TryFrom<String> for Address {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Address> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.to_string()
    }
}

/// One running process, as others are to find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Unique among all processes that ever ran.
    pub id: String,
    /// The modules that are in it.
    pub modules: Vec<String>,
    /// Its address for other modules (gRPC).
    pub rpc: Option<Address>,
    /// Its address for gateways (REST).
    pub http: Option<Address>,
}

impl Instance {
    /// This process, under a new id.
    pub fn new(modules: &[&str], rpc: Option<Address>, http: Option<Address>) -> Instance {
        let modules = modules.iter().map(|module| (*module).to_owned()).collect();
        Instance {
            id: Uuid::now_v7().to_string(),
            modules,
            rpc,
            http,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_it_is_parsed() {
        for (text, shown) in [
            ("http://10.0.0.1:9000", "http://10.0.0.1:9000"),
            ("https://orders-1.internal:9443/", "https://orders-1.internal:9443"),
            ("http://[::1]:9000", "http://[::1]:9000"),
            ("https://orders.internal", "https://orders.internal:443"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse::<Address>().unwrap(), address);
        }
    }

    #[test]
    fn an_invalid_address_gets_an_error_that_says_what_would_be_valid() {
        for text in [
            "",
            "orders:9000",
            "ftp://orders:9000",
            "http://orders:9000/api",
            "http://user:secret@orders:9000",
            "http://orders:0",
            "http://",
        ] {
            let error = format!("{:#}", text.parse::<Address>().unwrap_err());
            assert!(
                error.contains("write http://host:port or https://host:port"),
                "{text:?}: {error}"
            );
        }
    }

    #[test]
    fn a_certificate_bears_the_name_and_not_what_it_was_looked_up_as() {
        let named: Address = "https://orders.internal:9443".parse().unwrap();
        let found = named.at("fd00::7".parse().unwrap());
        assert_eq!(found.to_string(), "https://[fd00::7]:9443");
        assert_eq!(
            (found.host(), found.server_name(), &*found.authority()),
            ("fd00::7", "orders.internal", "orders.internal:9443")
        );
        assert_eq!(
            "http://[fd00::7]:9000".parse::<Address>().unwrap().authority(),
            "[fd00::7]:9000"
        );
        let by_number: Address = "https://10.0.0.1:9443".parse().unwrap();
        assert_eq!(by_number.at("10.0.0.1".parse().unwrap()), by_number);
    }

    #[test]
    fn an_address_that_others_can_call_is_advertised() {
        let any: SocketAddr = "0.0.0.0:9000".parse().unwrap();
        let specific: SocketAddr = "10.0.0.1:9000".parse().unwrap();
        let advertised =
            |listen, advertise| Address::advertised("rpc", false, listen, advertise).map(|address| address.to_string());
        assert_eq!(advertised(specific, None).unwrap(), "http://10.0.0.1:9000");
        assert_eq!(
            advertised(any, Some("orders-1.internal:9001")).unwrap(),
            "http://orders-1.internal:9001"
        );
        assert_eq!(
            advertised(any, Some("[fd00::7]:9001")).unwrap(),
            "http://[fd00::7]:9001"
        );
        assert!(advertised(any, None).unwrap_err().to_string().contains("rpc.advertise"));
        for wrong in [
            "orders-1.internal",
            "http://orders-1.internal:9000",
            "orders:0",
            ":9000",
            "[fd00::7]",
        ] {
            let error = advertised(any, Some(wrong)).unwrap_err().to_string();
            assert!(
                error.contains("rpc.advertise") && error.contains("host:port"),
                "{wrong}: {error}"
            );
        }
    }
}
