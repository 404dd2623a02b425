//! The network address a request came from: what identifies a caller without a token.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use actix_web::{HttpRequest, http::header};
use ipnet::IpNet;

/// Proxies whose `Forwarded` (RFC 7239) and `X-Forwarded-For` headers are trusted: put it into the app's data. Without it no such header is trusted,
/// because any client can send one.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(pub Arc<[IpNet]>);

impl TrustedProxies {
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// In the app's data of a server that clients reach over TLS.
#[derive(Clone, Copy, Debug)]
pub struct OverTls;

/// In the app's data of a server whose peers have all authenticated as processes of this deployment (mutual TLS): their forwarding headers are trusted.
#[derive(Clone, Copy, Debug)]
pub struct TrustedPeers;

/// The client's address: behind trusted proxies the one they report, else the peer's. `None` only without a connection, as in a handler's own tests.
pub fn client_ip(request: &HttpRequest) -> Option<IpAddr> {
    let peer = request.peer_addr()?.ip().to_canonical();
    let headers = request.headers();
    if !headers.contains_key(header::FORWARDED) && !headers.contains_key(header::X_FORWARDED_FOR) {
        return Some(peer);
    }
    let trusted = request.app_data::<TrustedProxies>().cloned().unwrap_or_default();
    let peer_is_ours = request.app_data::<TrustedPeers>().is_some();
    let is_trusted = |address| trusted.contains(address) || peer_is_ours && address == peer;
    let reported = [forwarded_hops(request), x_forwarded_for_hops(request)]
        .into_iter()
        .filter(|hops| !hops.is_empty());
    let reported: BTreeSet<IpAddr> = reported.map(|hops| client_of(peer, is_trusted, &hops)).collect();
    // A proxy writes one of the two headers and may pass the other through from the client. If they disagree, neither can be trusted.
    Some(if reported.len() == 1 {
        reported.into_iter().next()?
    } else {
        peer
    })
}

/// The [client's address](client_ip) as the key of a rate limit. An IPv6 client owns a whole /64, so the key is its /64 prefix.
pub fn client_address(request: &HttpRequest) -> String {
    client_ip(request).map_or_else(|| "unknown".to_owned(), address_key)
}

/// Each proxy appends the address of its own client, so the list is read from its end, past the trusted proxies.
fn client_of(peer: IpAddr, is_trusted: impl Fn(IpAddr) -> bool, hops: &[String]) -> IpAddr {
    let mut client = peer;
    for hop in hops.iter().rev() {
        if !is_trusted(client) {
            break;
        }
        match parse(hop) {
            Some(address) => client = address.to_canonical(),
            None => break,
        }
    }
    client
}

/// The `for` parameters of `Forwarded`, in the order of the proxies.
fn forwarded_hops(request: &HttpRequest) -> Vec<String> {
    let of_element = |element: &str| {
        let pairs = unquoted(element, ';')
            .into_iter()
            .filter_map(|pair| pair.split_once('='));
        let of_for = pairs
            .into_iter()
            .find(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
        of_for.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let values = values(request, &header::FORWARDED);
    values
        .iter()
        .flat_map(|value| unquoted(value, ','))
        .map(of_element)
        .collect()
}

/// The addresses in `X-Forwarded-For`, in the order of the proxies.
fn x_forwarded_for_hops(request: &HttpRequest) -> Vec<String> {
    let values = values(request, &header::X_FORWARDED_FOR);
    values
        .iter()
        .flat_map(|value| value.split(','))
        .map(|hop| hop.trim().to_owned())
        .collect()
}

fn values(request: &HttpRequest, name: &header::HeaderName) -> Vec<String> {
    request
        .headers()
        .get_all(name)
        .filter_map(|value| value.to_str().ok())
        .map(str::to_owned)
        .collect()
}

/// Splits at separators outside quotes: a proxy quotes what a client sent, its host for example.
fn unquoted(text: &str, separator: char) -> Vec<&str> {
    let (mut in_quotes, mut escaped) = (false, false);
    let parts = text.split(move |letter| {
        let separates = letter == separator && !in_quotes;
        in_quotes ^= letter == '"' && !escaped;
        escaped = in_quotes && letter == '\\' && !escaped;
        separates
    });
    parts.collect()
}

/// An address with or without port, quotes and brackets. An obfuscated identifier (RFC 7239, section 6.3) is not an address.
fn parse(node: &str) -> Option<IpAddr> {
    let node = node.trim_matches('"');
    let socket = node.parse::<SocketAddr>().map(|socket| socket.ip()).ok();
    socket.or_else(|| node.trim_start_matches('[').trim_end_matches(']').parse().ok())
}

/// What stands for one client in limits: an address, of IPv6 the network `/64`.
pub fn address_key(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn an_ipv6_address_is_counted_by_its_64_bit_prefix() {
        let label = |text: &str| address_key(text.parse().unwrap());
        assert_eq!(label("192.0.2.7"), "192.0.2.7");
        assert_eq!(label("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(label("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_ne!(label("2001:db8:1:2::1"), label("2001:db8:1:3::1"));
    }

    fn counted(trusted: &[&str], header: (&str, &str)) -> String {
        counted_all(trusted, &[header])
    }

    fn counted_all(trusted: &[&str], headers: &[(&str, &str)]) -> String {
        let network = |text: &&str| {
            text.parse()
                .unwrap_or_else(|_| IpNet::from(text.parse::<IpAddr>().unwrap()))
        };
        let trusted = TrustedProxies(trusted.iter().map(network).collect());
        let request = TestRequest::default()
            .peer_addr("10.0.0.1:4711".parse().unwrap())
            .app_data(trusted);
        let request = headers
            .iter()
            .fold(request, |request, (name, value)| request.append_header((*name, *value)));
        client_address(&request.to_http_request())
    }

    #[test]
    fn only_headers_of_trusted_proxies_are_used() {
        let header = ("x-forwarded-for", "203.0.113.9");
        assert_eq!(counted(&[], header), "10.0.0.1");
        assert_eq!(counted(&["10.0.0.2"], header), "10.0.0.1");
        assert_eq!(counted(&["10.0.0.1"], header), "203.0.113.9");
        assert_eq!(counted(&["10.0.0.0/8", "2001:db8::/32"], header), "203.0.113.9");
        assert_eq!(counted(&["10.1.0.0/16"], header), "10.0.0.1");
    }

    #[test]
    fn the_header_of_a_trusted_peer_is_used() {
        let request = TestRequest::default()
            .peer_addr("10.0.0.1:4711".parse().unwrap())
            .insert_header(("forwarded", "for=203.0.113.9"));
        assert_eq!(
            client_address(&request.app_data(TrustedPeers).to_http_request()),
            "203.0.113.9"
        );
    }

    #[test]
    fn addresses_sent_by_the_client_itself_are_ignored() {
        let header = ("x-forwarded-for", "1.1.1.1, 203.0.113.9, 10.0.0.2");
        assert_eq!(counted(&["10.0.0.1", "10.0.0.2"], header), "203.0.113.9");
        assert_eq!(counted(&["10.0.0.1"], header), "10.0.0.2");
    }

    #[test]
    fn forwarded_is_parsed_with_ports_quotes_and_brackets() {
        assert_eq!(
            counted(&["10.0.0.1"], ("forwarded", "for=192.0.2.43:47011;proto=https")),
            "192.0.2.43"
        );
        assert_eq!(
            counted(
                &["10.0.0.1"],
                ("forwarded", "proto=https;For=\"[2001:db8:cafe::17]:4711\"")
            ),
            "2001:db8:cafe:0::/64"
        );
        assert_eq!(counted(&["10.0.0.1"], ("forwarded", "for=_hidden")), "10.0.0.1");
    }

    #[test]
    fn repeated_headers_form_one_list_and_addresses_may_have_ports() {
        let headers = [
            ("x-forwarded-for", "1.1.1.1, [2001:db8:cafe::17]:4711"),
            ("x-forwarded-for", "10.0.0.2:80"),
        ];
        assert_eq!(counted_all(&["10.0.0.1", "10.0.0.2"], &headers), "2001:db8:cafe:0::/64");
    }

    #[test]
    fn separators_inside_quotes_do_not_separate() {
        for forged in [
            "for=203.0.113.9;host=\"x, for=1.1.1.1\"",
            "host=\"x;for=1.1.1.1\";for=203.0.113.9",
            "host=\"\\\",for=1.1.1.1;\";for=203.0.113.9",
        ] {
            assert_eq!(counted(&["10.0.0.1"], ("forwarded", forged)), "203.0.113.9", "{forged}");
        }
    }

    #[test]
    fn two_headers_that_disagree_are_both_ignored() {
        let listed = ("x-forwarded-for", "203.0.113.9");
        assert_eq!(
            counted_all(&["10.0.0.1"], &[listed, ("forwarded", "for=1.1.1.1")]),
            "10.0.0.1"
        );
        assert_eq!(
            counted_all(&["10.0.0.1"], &[listed, ("forwarded", "for=203.0.113.9;proto=https")]),
            "203.0.113.9"
        );
    }
}
