//! A request is the same one over every version of HTTP, under every name of the server, and in every form of its target.

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::idempotency::Orchard;

#[actix_web::test]
async fn a_key_means_the_same_request_over_every_http_version_and_under_every_name() {
    banyan_durable_testing::on_both("orders", async |db| {
        let orchard = Orchard::new(&db);
        let (address, server) = orchard.serve();
        let token = orchard.signer.token(&["customer"]);
        let body = json!({"outcome": "ok"}).to_string();
        let client = reqwest::Client::new();
        let mut replayed = Vec::new();
        for host in [address.to_string(), format!("localhost:{}", address.port())] {
            let request = client.post(format!("http://{host}/figs?from=tree")).bearer_auth(&token);
            let request = request
                .header("Idempotency-Key", "k")
                .header("Content-Type", "application/json");
            let response = request.body(body.clone()).send().await.unwrap();
            assert_eq!(response.status(), 201, "{host}");
            replayed.push(response.headers().contains_key("idempotency-replayed"));
        }
        for (version, target) in [
            ("1.1", "/figs?from=tree"),
            ("1.0", "/figs?from=tree"),
            ("1.1", "http://shop.example/figs?from=tree"),
            ("1.1", "https://other.example:444/figs?from=tree"),
        ] {
            let answer = raw_post(address, version, target, &token, &body).await;
            assert!(answer.starts_with(&format!("HTTP/{version} 201")), "{target}: {answer}");
            replayed.push(answer.to_lowercase().contains("idempotency-replayed: true"));
        }
        assert_eq!(replayed, [false, true, true, true, true, true]);
        for other in ["/figs?from=shop", "/figs", "http://shop.example/figs"] {
            let answer = raw_post(address, "1.1", other, &token, &body).await;
            assert!(answer.contains("idempotency_key_reused"), "{other}: {answer}");
        }
        server.stop(false).await;
    })
    .await;
}

/// What a client sends to a proxy: the target as given.
async fn raw_post(address: std::net::SocketAddr, version: &str, target: &str, token: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {target} HTTP/{version}\r\nHost: shop.example\r\nAuthorization: Bearer {token}\r\nIdempotency-Key: k\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
