//! URLs in settings: which of them may contain a password, and how they are shown.
//!
//! A password with `/`, `?` or `#` moves the end of the host, so that a parser takes a part of the password for a host, a path or a query. What such a
//! URL means cannot be known. It is refused, and no part of it is shown.

/// What is shown in the place of a URL that cannot be read.
const HIDDEN: &str = "(hidden: it cannot be read as a URL, and may contain a password)";

/// How a URL must be written; ends a sentence about one that is not.
const EXPECTED: &str = "write scheme://user:password@host:port/..., and in the user and the password %2F for a slash, %23 for #, %3F for ?, %40 for @ \
                        and %25 for %";

/// Words in a query that may name a secret. An encoded query may hide such a word.
const SECRET_QUERY: [&str; 5] = ["pass", "secret", "token", "key", "%"];

/// A URL, or a comma-separated list of URLs, without passwords, as it may be shown in logs and messages. What cannot be read as a URL is not shown.
pub fn without_password(text: &str) -> String {
    shown(text)
        .or_else(|| {
            text.split(',')
                .map(|each| shown(each.trim()))
                .collect::<Option<Vec<_>>>()
                .map(|urls| urls.join(","))
        })
        .unwrap_or_else(|| HIDDEN.to_owned())
}

/// Refuses a URL, or a comma-separated list of URLs, that [`without_password`] could not show.
///
/// # Errors
/// How it must be written. The text is not part of the message.
pub fn check_url(text: &str) -> Result<(), String> {
    if without_password(text) == HIDDEN {
        return Err(format!(
            "cannot be read as a URL, and is not shown because it may contain a password; {EXPECTED}"
        ));
    }
    Ok(())
}

fn shown(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let (authority, after) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // An @ behind the host is that of a login with a `/`, `?` or `#` in its password.
    if !is_scheme(scheme) || after.contains(['@', '#']) || url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return None;
    }
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (Some(login), hosts),
        None => (None, authority),
    };
    if !hosts.split(',').all(is_host) {
        return None;
    }
    let user = login.map(|login| format!("{}@", login.split(':').next().unwrap_or_default()));
    let after = match after.split_once('?') {
        Some((path, query)) if SECRET_QUERY.iter().any(|word| query.to_lowercase().contains(word)) => path,
        _ => after,
    };
    Some(format!("{scheme}://{}{hosts}{after}", user.unwrap_or_default()))
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// A name or address, with a port or without. A URL of a Unix socket has an empty host, or the path of the socket encoded with `%`.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((address, port)) => (
            address.parse::<std::net::Ipv6Addr>().is_ok(),
            port.strip_prefix(':').unwrap_or(port),
        ),
        None => {
            let (name, port) = text.split_once(':').map_or((text, "1"), |(name, port)| (name, port));
            (name.chars().all(|c| c.is_alphanumeric() || "-_.%".contains(c)), port)
        }
    };
    name && (port.is_empty() && text.ends_with(']') || port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        for (url, expected) in [
            (
                "postgres://shop:geheim@localhost:5432/shop",
                "postgres://shop@localhost:5432/shop",
            ),
            (
                "postgres://shop:ge@heim@db-1,[::1]:5433,10.0.0.3/shop?sslmode=require",
                "postgres://shop@db-1,[::1]:5433,10.0.0.3/shop?sslmode=require",
            ),
            ("postgres://shop:ge%2Fheim@h/shop", "postgres://shop@h/shop"),
            ("postgres://shop:ge%heim@h/shop", "postgres://shop@h/shop"),
            (
                "postgres:///shop?host=/run/postgresql",
                "postgres:///shop?host=/run/postgresql",
            ),
            (
                "postgres://localhost/shop?sslPassword=geheim",
                "postgres://localhost/shop",
            ),
            (
                "postgres://localhost/shop?p%61ssword=geheim",
                "postgres://localhost/shop",
            ),
            ("amqp://shop:geheim@[::1]:5672/%2f", "amqp://shop@[::1]:5672/%2f"),
            ("https://etcd-1:2379", "https://etcd-1:2379"),
            (
                "http://a:geheim@one:1,http://b:geheim@two:2",
                "http://a@one:1,http://b@two:2",
            ),
            (
                "smtp://post:geheim@mail:587?tls=required",
                "smtp://post@mail:587?tls=required",
            ),
        ] {
            assert_eq!(without_password(url), expected, "{url}");
            assert_eq!(check_url(url), Ok(()), "{url}");
        }
    }

    #[test]
    fn a_url_that_cannot_be_read_is_not_shown_at_all() {
        for url in [
            "",
            "geheim",
            "shop:geheim@localhost/shop",
            "postgres:shop:geheim@localhost/shop",
            "host=localhost user=shop password=geheim",
            "postgres://shop:geheim/x@localhost/shop",
            "postgres://shop:7/geheim@localhost/shop",
            "postgres://shop:geheim#x@localhost/shop",
            "postgres://shop:7#geheim@localhost/shop",
            "postgres://shop:7?geheim@localhost/shop",
            "postgres://shop:geheim@x/y@one,two:5433/shop",
            "postgres://shop:geheim localhost/shop",
            "postgres://shop:geheim@local host/shop",
            "postgres://shop:geheim",
            "postgres://shop:geheim@host:port/shop",
            "http://one:1, geheim",
        ] {
            assert_eq!(without_password(url), HIDDEN, "{url}");
            let error = check_url(url).unwrap_err();
            assert!(error.contains("%2F") && !error.contains("geheim"), "{error}");
        }
    }
}
