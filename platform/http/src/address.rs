//! Whom to count a caller as who has not said who they are: the network address a request came from.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use actix_web::{HttpRequest, http::header};

/// Proxies whose `Forwarded` (RFC 7239) and `X-Forwarded-For` are believed: put it into the app's data. Without it nobody's are, because any
/// client can write them.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(pub Arc<[IpAddr]>);

/// In the app's data where every peer has proven to be a process of this shop: what they say about whom they ask for is believed.
#[derive(Clone, Copy, Debug)]
pub struct PeersAreOurs;

/// The client's address: behind trusted proxies the one they name, else the one the connection came from. None only without a connection, as in a
/// handler's own tests.
pub fn client_ip(request: &HttpRequest) -> Option<IpAddr> {
    let peer = request.peer_addr()?.ip().to_canonical();
    let trusted = request.app_data::<TrustedProxies>().cloned().unwrap_or_default();
    let mut trusted = trusted.0.to_vec();
    trusted.extend(request.app_data::<PeersAreOurs>().map(|_| peer));
    let named = [standard(request), listed(request)]
        .into_iter()
        .filter(|hops| !hops.is_empty());
    let named: BTreeSet<IpAddr> = named.map(|hops| client_of(peer, &trusted, &hops)).collect();
    // A proxy writes one of the two headers and may let a client's other one through. If they disagree, nobody can tell which is which.
    Some(if named.len() == 1 {
        named.into_iter().next()?
    } else {
        peer
    })
}

/// The [client's address](client_ip) as it is counted. An IPv6 client commands a whole /64, so that is what is counted.
pub fn client_address(request: &HttpRequest) -> String {
    client_ip(request).map_or_else(|| "unknown".to_owned(), address_label)
}

/// Each proxy appends the address it was asked from, so the list is read from its end, past our own proxies.
fn client_of(peer: IpAddr, trusted: &[IpAddr], hops: &[String]) -> IpAddr {
    let mut client = peer;
    for hop in hops.iter().rev() {
        if !trusted.contains(&client) {
            break;
        }
        match parse(hop) {
            Some(address) => client = address.to_canonical(),
            None => break,
        }
    }
    client
}

/// For whom `Forwarded` says that the request was passed on, in the order of the proxies.
fn standard(request: &HttpRequest) -> Vec<String> {
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

/// The same of `X-Forwarded-For`.
fn listed(request: &HttpRequest) -> Vec<String> {
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

/// The parts between separators that do not stand in quotes: a proxy quotes what a client wrote, its host for example.
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

/// An address with or without port, quotes and brackets; obfuscated identifiers (RFC 7239, section 6.3) are none.
fn parse(node: &str) -> Option<IpAddr> {
    let node = node.trim_matches('"');
    let socket = node.parse::<SocketAddr>().map(|socket| socket.ip()).ok();
    socket.or_else(|| node.trim_start_matches('[').trim_end_matches(']').parse().ok())
}

fn address_label(address: IpAddr) -> String {
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
    fn an_address_is_counted_as_what_its_owner_commands() {
        let label = |text: &str| address_label(text.parse().unwrap());
        assert_eq!(label("192.0.2.7"), "192.0.2.7");
        assert_eq!(label("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(label("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_ne!(label("2001:db8:1:2::1"), label("2001:db8:1:3::1"));
    }

    fn counted(trusted: &[&str], header: (&str, &str)) -> String {
        counted_all(trusted, &[header])
    }

    fn counted_all(trusted: &[&str], headers: &[(&str, &str)]) -> String {
        let trusted: Vec<IpAddr> = trusted.iter().map(|address| address.parse().unwrap()).collect();
        let request = TestRequest::default()
            .peer_addr("10.0.0.1:4711".parse().unwrap())
            .app_data(TrustedProxies(trusted.into()));
        let request = headers
            .iter()
            .fold(request, |request, (name, value)| request.append_header((*name, *value)));
        client_address(&request.to_http_request())
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let header = ("x-forwarded-for", "203.0.113.9");
        assert_eq!(counted(&[], header), "10.0.0.1");
        assert_eq!(counted(&["10.0.0.2"], header), "10.0.0.1");
        assert_eq!(counted(&["10.0.0.1"], header), "203.0.113.9");
    }

    #[test]
    fn a_peer_that_is_ours_is_believed() {
        let request = TestRequest::default()
            .peer_addr("10.0.0.1:4711".parse().unwrap())
            .insert_header(("forwarded", "for=203.0.113.9"));
        assert_eq!(
            client_address(&request.app_data(PeersAreOurs).to_http_request()),
            "203.0.113.9"
        );
    }

    #[test]
    fn what_a_client_wrote_before_the_first_proxy_is_not_believed() {
        let header = ("x-forwarded-for", "1.1.1.1, 203.0.113.9, 10.0.0.2");
        assert_eq!(counted(&["10.0.0.1", "10.0.0.2"], header), "203.0.113.9");
        assert_eq!(counted(&["10.0.0.1"], header), "10.0.0.2");
    }

    #[test]
    fn the_standard_header_is_read_with_ports_quotes_and_brackets() {
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
    fn a_list_goes_on_in_the_next_header_of_its_name_and_may_have_ports() {
        let headers = [
            ("x-forwarded-for", "1.1.1.1, [2001:db8:cafe::17]:4711"),
            ("x-forwarded-for", "10.0.0.2:80"),
        ];
        assert_eq!(counted_all(&["10.0.0.1", "10.0.0.2"], &headers), "2001:db8:cafe:0::/64");
    }

    #[test]
    fn what_a_proxy_quotes_of_a_client_names_nobody() {
        for forged in [
            "for=203.0.113.9;host=\"x, for=1.1.1.1\"",
            "host=\"x;for=1.1.1.1\";for=203.0.113.9",
            "host=\"\\\",for=1.1.1.1;\";for=203.0.113.9",
        ] {
            assert_eq!(counted(&["10.0.0.1"], ("forwarded", forged)), "203.0.113.9", "{forged}");
        }
    }

    #[test]
    fn of_two_headers_that_disagree_one_is_the_clients_own_and_none_is_believed() {
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
