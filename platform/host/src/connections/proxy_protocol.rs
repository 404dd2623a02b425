//! The PROXY protocol, version 2: a proxy that passes bytes on says in front of them whose they are.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use ppp::v2::{Addresses, Command, Header};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Signature, version, family, and the length of what follows.
const PREFIX: usize = 16;
/// Enough for addresses and the usual extensions; the protocol allows 64 KiB.
const MAX_LENGTH: usize = 4096;

/// Reads the header that a proxy puts in front of every connection. The client's address, or `None` for a connection of the proxy itself, such as a
/// health probe.
///
/// # Errors
/// The connection does not begin with a header, or it ends.
pub async fn read_client(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut header = vec![0; PREFIX];
    stream.read_exact(&mut header).await?;
    if !header.starts_with(ppp::v2::PROTOCOL_PREFIX) {
        return Err(invalid("it does not begin with a PROXY header of version 2"));
    }
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if length > MAX_LENGTH {
        return Err(invalid("its PROXY header is too long"));
    }
    header.resize(PREFIX + length, 0);
    stream.read_exact(&mut header[PREFIX..]).await?;
    let header = Header::try_from(header.as_slice()).map_err(|_| invalid("its PROXY header is malformed"))?;
    if header.command == Command::Local {
        return Ok(None);
    }
    match header.addresses {
        Addresses::IPv4(addresses) => Ok(Some(SocketAddr::new(
            IpAddr::V4(addresses.source_address),
            addresses.source_port,
        ))),
        Addresses::IPv6(addresses) => Ok(Some(SocketAddr::new(
            IpAddr::V6(addresses.source_address).to_canonical(),
            addresses.source_port,
        ))),
        Addresses::Unix(_) | Addresses::Unspecified => Ok(None),
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
        [
            b"\r\n\r\n\0\r\nQUIT\n",
            &[0x20 | command, family][..],
            &length,
            addresses,
        ]
        .concat()
    }

    const OVER_IPV4: &[u8] = &[203, 0, 113, 9, 10, 0, 0, 1, 0x12, 0x34, 0x1f, 0x90];

    #[tokio::test]
    async fn the_client_is_the_source_and_the_request_behind_it_is_left() {
        let sent = [header(1, 0x11, OVER_IPV4), b"GET / HTTP/1.1".to_vec()].concat();
        let mut stream = sent.as_slice();
        let client = read_client(&mut stream).await.unwrap();
        assert_eq!(client, Some("203.0.113.9:4660".parse().unwrap()));
        assert_eq!(stream, b"GET / HTTP/1.1");
    }

    #[tokio::test]
    async fn addresses_may_be_of_ipv6_and_extensions_may_follow() {
        let mut addresses = vec![0; 36];
        addresses[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        addresses[15] = 7;
        addresses.extend([0x04, 0, 1, 0]);
        let client = read_client(&mut header(1, 0x21, &addresses).as_slice()).await.unwrap();
        assert_eq!(client.unwrap().ip(), "2001:db8::7".parse::<IpAddr>().unwrap());
    }

    #[tokio::test]
    async fn a_probe_of_the_proxy_has_no_client() {
        assert_eq!(read_client(&mut header(0, 0, &[]).as_slice()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        for sent in [
            b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9 10.0.0.1 1 2\r\n".to_vec(),
            header(1, 0x11, OVER_IPV4)[..20].to_vec(),
            header(1, 0x11, &OVER_IPV4[..4]),
            header(1, 0x11, &[0; MAX_LENGTH + 1]),
            header(7, 0x11, OVER_IPV4),
        ] {
            read_client(&mut sent.as_slice()).await.unwrap_err();
        }
    }
}
