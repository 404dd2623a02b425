//! Servers that are reached over a network: `prod` wants TLS to them, and a login.

use std::net::IpAddr;

/// Why a URL must not be used in `prod`; `None` if it may.
pub fn refusal(url: &str, plaintext_hosts: &[String]) -> Option<String> {
    let parts = Parts::of(url)?;
    let open = |host: &&String| !is_loopback(host) && !plaintext_hosts.contains(host);
    let host = parts.hosts.iter().find(open)?;
    let wanted = if parts.is_plaintext() {
        parts.how_to_secure()
    } else if parts.scheme.starts_with("http") && !parts.has_login {
        "give it a login (https://user:password@host)"
    } else {
        return None;
    };
    Some(format!(
        "reaches {host} {}, which prod refuses: {wanted}, or name the host in plaintext_hosts if only a trusted network lies between",
        if parts.is_plaintext() {
            "without TLS"
        } else {
            "without a login"
        }
    ))
}

struct Parts {
    scheme: String,
    has_login: bool,
    hosts: Vec<String>,
    /// The parameter of PostgreSQL.
    ssl_mode: String,
}

impl Parts {
    fn of(url: &str) -> Option<Parts> {
        let (scheme, rest) = url.split_once("://")?;
        let (before_query, query) = rest.split_once('?').unwrap_or((rest, ""));
        let authority = before_query.split('/').next().unwrap_or_default();
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let parameter = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs
                .clone()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
        };
        let mut hosts: Vec<String> = hosts.split(',').map(without_port).collect();
        // A socket of this machine.
        hosts.retain(|host| !host.is_empty() && !host.to_lowercase().starts_with("%2f"));
        if let Some(host) = parameter("host").filter(|host| !host.starts_with('/')) {
            hosts.push(host);
        }
        Some(Parts {
            scheme: scheme.to_owned(),
            has_login: !login.is_empty(),
            hosts,
            ssl_mode: parameter("sslmode")
                .or_else(|| parameter("ssl-mode"))
                .unwrap_or_default(),
        })
    }

    fn is_plaintext(&self) -> bool {
        match self.scheme.as_str() {
            "postgres" | "postgresql" => !["require", "verify-ca", "verify-full"].contains(&self.ssl_mode.as_str()),
            "amqp" | "http" => true,
            _ => false,
        }
    }

    fn how_to_secure(&self) -> &'static str {
        match self.scheme.as_str() {
            "amqp" => "write amqps://",
            "http" => "write https://",
            _ => "add ?sslmode=verify-full (or require)",
        }
    }
}

fn without_port(host: &str) -> String {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address.to_owned(),
        None => host.split(':').next().unwrap_or_default().to_owned(),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_beyond_loopback_are_reached_with_tls_and_a_login() {
        for (url, wanted) in [
            ("postgres://shop:secret@db:5432/shop", "sslmode=verify-full"),
            ("postgres://shop:secret@db/shop?sslmode=prefer", "sslmode=verify-full"),
            ("postgresql://shop:secret@localhost:1,db-2:2/shop", "db-2"),
            ("postgres://shop:secret@[2001:db8::1]:5432/shop", "2001:db8::1"),
            ("amqp://shop:secret@broker:5672/%2f", "amqps://"),
            ("http://user:secret@etcd:2379", "https://"),
            ("https://etcd:2379", "a login"),
        ] {
            let refused = refusal(url, &[]).unwrap_or_default();
            assert!(
                refused.contains(wanted) && !refused.contains("secret"),
                "{url}: {refused}"
            );
        }
        for url in [
            "postgres://shop:secret@localhost:5432/shop",
            "postgres://shop:secret@127.0.0.1,[::1]:5433/shop",
            "postgres://shop:secret@%2Fvar%2Frun%2Fpostgresql/shop",
            "postgres:///shop?host=/var/run/postgresql",
            "postgres://shop:secret@db/shop?target_session_attrs=read-write&sslmode=verify-full",
            "amqps://shop:secret@broker/%2f",
            "amqp://shop:secret@localhost/%2f",
            "https://user:secret@etcd:2379",
            "http://127.0.0.1:2379",
        ] {
            assert_eq!(refusal(url, &[]), None, "{url}");
        }
        let named = ["db".to_owned(), "etcd".to_owned()];
        assert_eq!(refusal("postgres://shop:secret@db/shop", &named), None);
        assert_eq!(refusal("http://etcd:2379", &named), None);
    }
}
