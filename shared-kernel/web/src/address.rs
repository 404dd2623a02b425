//! Whom to count a caller as who has not said who they are: the network address a request came from.

use std::{
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

/// The client's address as it is counted: behind trusted proxies the one they name, else the one the connection came from. An IPv6 client
/// commands a whole /64, so that is what is counted.
pub fn client_address(request: &HttpRequest) -> String {
    let Some(peer) = request.peer_addr() else { return "unknown".to_owned() };
    let trusted = request.app_data::<TrustedProxies>().cloned().unwrap_or_default();
    let peer = peer.ip().to_canonical();
    let mut trusted = trusted.0.to_vec();
    trusted.extend(request.app_data::<PeersAreOurs>().map(|_| peer));
    address_label(client_of(peer, &trusted, &forwarded(request)))
}

/// Each proxy appends the address it was asked from, so the list is read from its end, past our own proxies.
fn client_of(peer: IpAddr, trusted: &[IpAddr], forwarded: &[String]) -> IpAddr {
    let mut client = peer.to_canonical();
    for hop in forwarded.iter().rev() {
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

/// The addresses a request says it was passed on for, in the order of the proxies.
fn forwarded(request: &HttpRequest) -> Vec<String> {
    let all = |name: header::HeaderName| -> Vec<String> {
        let values = request.headers().get_all(name).filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).map(|part| part.trim().to_owned()).collect()
    };
    let standard = all(header::FORWARDED);
    if standard.is_empty() {
        return all(header::X_FORWARDED_FOR);
    }
    let of_element = |element: &String| {
        let pairs = element.split(';').filter_map(|pair| pair.trim().split_once('='));
        pairs.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("for")).map(|(_, value)| value.trim().to_owned())
    };
    standard.iter().map(|element| of_element(element).unwrap_or_default()).collect()
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
        let trusted: Vec<IpAddr> = trusted.iter().map(|address| address.parse().unwrap()).collect();
        let request = TestRequest::default()
            .peer_addr("10.0.0.1:4711".parse().unwrap())
            .insert_header((header.0.to_owned(), header.1.to_owned()))
            .app_data(TrustedProxies(trusted.into()))
            .to_http_request();
        client_address(&request)
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
        let request = TestRequest::default().peer_addr("10.0.0.1:4711".parse().unwrap()).insert_header(("forwarded", "for=203.0.113.9"));
        assert_eq!(client_address(&request.app_data(PeersAreOurs).to_http_request()), "203.0.113.9");
    }

    #[test]
    fn what_a_client_wrote_before_the_first_proxy_is_not_believed() {
        let header = ("x-forwarded-for", "1.1.1.1, 203.0.113.9, 10.0.0.2");
        assert_eq!(counted(&["10.0.0.1", "10.0.0.2"], header), "203.0.113.9");
        assert_eq!(counted(&["10.0.0.1"], header), "10.0.0.2");
    }

    #[test]
    fn the_standard_header_is_read_with_ports_quotes_and_brackets() {
        assert_eq!(counted(&["10.0.0.1"], ("forwarded", "for=192.0.2.43:47011;proto=https")), "192.0.2.43");
        assert_eq!(counted(&["10.0.0.1"], ("forwarded", "proto=https;For=\"[2001:db8:cafe::17]:4711\"")), "2001:db8:cafe:0::/64");
        assert_eq!(counted(&["10.0.0.1"], ("forwarded", "for=_hidden")), "10.0.0.1");
    }
}
