//! The pipeline on real sockets: what a client sees of each limit.

use std::net::IpAddr;

use actix_web::{App, HttpRequest, HttpResponse, web};
use banyan_http::TrustedProxies;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::*;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

struct Served {
    address: SocketAddr,
    stopping: CancellationToken,
    server: actix_web::dev::ServerHandle,
}

/// A server that responds with the address of its client.
fn served(per_address: usize, proxies: &[&str], proxy_protocol: bool) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stopping = CancellationToken::new();
    let proxies = proxies.iter().map(|text| text.parse().unwrap());
    let options = Options {
        admission: Admission::new(100, Some(per_address), TrustedProxies(proxies.collect())),
        proxy_protocol,
        tls: None,
        keep_alive: Duration::from_secs(3600),
        half_closed: true,
        stopping: stopping.clone(),
        workers: 1,
        shutdown_timeout: Duration::from_secs(600),
    };
    let app = || {
        App::new().default_service(web::to(|request: HttpRequest| async move {
            let client = request.peer_addr().map(|client| client.ip().to_string());
            HttpResponse::Ok().body(client.unwrap_or_default())
        }))
    };
    let server = serve(listener, options, app).unwrap();
    let handle = server.handle();
    actix_web::rt::spawn(server);
    Served {
        address,
        stopping,
        server: handle,
    }
}

impl Served {
    async fn connect_from(&self, address: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        let from: IpAddr = address.parse().unwrap();
        socket.bind(SocketAddr::new(from, 0)).unwrap();
        socket.connect(self.address).await.unwrap()
    }
}

/// The response to one request, of which the connection may stay open.
async fn responded(stream: &mut TcpStream, request: &[u8]) -> String {
    // A server that refuses may have closed already.
    let _ = stream.write_all(request).await;
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await.unwrap_or(0);
        text.extend(&buffer[..read]);
        let response = String::from_utf8_lossy(&text).into_owned();
        let is_whole = response.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            length.is_some_and(|length| body.len() >= length.parse::<usize>().unwrap())
        });
        if read == 0 || is_whole {
            return response;
        }
    }
}

#[actix_web::test]
async fn an_address_holds_its_maximum_and_is_told_so() {
    let served = served(2, &[], false);
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = served.connect_from("127.0.0.2").await;
        assert!(responded(&mut stream, REQUEST).await.ends_with("127.0.0.2"));
        held.push(stream);
    }
    let mut refused = served.connect_from("127.0.0.2").await;
    let response = responded(&mut refused, b"").await;
    assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
    assert!(response.contains("\"code\":\"too_many_connections\""), "{response}");
    let mut other = served.connect_from("127.0.0.3").await;
    assert!(responded(&mut other, REQUEST).await.ends_with("127.0.0.3"));
    drop(held);
    // Until the server has seen the end of the two.
    loop {
        let mut stream = served.connect_from("127.0.0.2").await;
        if responded(&mut stream, REQUEST).await.ends_with("127.0.0.2") {
            break;
        }
        tokio::task::yield_now().await;
    }
    served.server.stop(false).await;
}

#[actix_web::test]
async fn idle_connections_are_closed_when_the_process_stops() {
    let served = served(10, &[], false);
    let mut idle = served.connect_from("127.0.0.2").await;
    assert!(responded(&mut idle, REQUEST).await.starts_with("HTTP/1.1 200 "));
    let mut unused = served.connect_from("127.0.0.2").await;
    // Known to the server once it has answered a later one.
    let mut later = served.connect_from("127.0.0.2").await;
    responded(&mut later, REQUEST).await;
    served.stopping.cancel();
    let mut rest = Vec::new();
    assert_eq!(idle.read_to_end(&mut rest).await.unwrap(), 0);
    assert_eq!(unused.read_to_end(&mut rest).await.unwrap(), 0);
    // With limits of an hour and of ten minutes this would wait if a connection were still open.
    served.server.stop(true).await;
}

#[actix_web::test]
async fn a_trusted_proxy_says_whose_a_connection_is() {
    let served = served(1, &["127.0.0.2/32"], true);
    let from = |client: [u8; 4]| {
        let addresses = [&client[..], &[10, 0, 0, 1, 0x12, 0x34, 0x1f, 0x90]].concat();
        let prefix: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
        [prefix, &addresses, REQUEST].concat()
    };
    let mut first = served.connect_from("127.0.0.2").await;
    assert!(
        responded(&mut first, &from([203, 0, 113, 9]))
            .await
            .ends_with("203.0.113.9")
    );
    let mut again = served.connect_from("127.0.0.2").await;
    let refused = responded(&mut again, &from([203, 0, 113, 9])).await;
    assert!(refused.contains("too_many_connections"), "{refused}");
    let mut other = served.connect_from("127.0.0.2").await;
    assert!(
        responded(&mut other, &from([203, 0, 113, 10]))
            .await
            .ends_with("203.0.113.10")
    );
    let mut bare = served.connect_from("127.0.0.2").await;
    assert_eq!(responded(&mut bare, REQUEST).await, "", "without a header");
    let mut stranger = served.connect_from("127.0.0.3").await;
    let ignored = responded(&mut stranger, &from([203, 0, 113, 11])).await;
    assert_eq!(ignored, "", "from a peer that is not a proxy");
    served.server.stop(false).await;
}
