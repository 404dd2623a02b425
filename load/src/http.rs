//! A client of one HTTP/1.1 connection with as little work of its own as possible, because it shares the machine with the server it measures.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const MAX_RESPONSE_BYTES: usize = 16 * 1024 * 1024;

/// A response with its whole body.
pub struct Response {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Response {
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("the response is not JSON: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A request as it goes over the wire.
pub fn request(
    method: &str,
    path: &str,
    token: Option<&str>,
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
    let authorization = token.map(|token| ("Authorization", format!("Bearer {token}")));
    let own = authorization.iter().map(|(name, value)| (*name, value.as_str()));
    for (name, value) in own.chain(headers.iter().copied()) {
        text += &format!("{name}: {value}\r\n");
    }
    if let Some(body) = body {
        let body = body.to_string();
        text += &format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
    } else if method == "GET" {
        text += "\r\n";
    } else {
        text += "Content-Length: 0\r\n\r\n";
    }
    text.into_bytes()
}

/// A connection that is kept open between requests.
pub struct Connection {
    address: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects with the first request.
    pub fn new(address: SocketAddr) -> Self {
        Connection {
            address,
            stream: None,
            buffer: Vec::with_capacity(16 * 1024),
        }
    }

    /// Sends a request and reads its response. The server may have closed a connection that was idle; then the request is sent again on a new one.
    ///
    /// # Errors
    /// No connection, or a response that cannot be read.
    pub async fn send(&mut self, request: &[u8]) -> anyhow::Result<Response> {
        let was_open = self.stream.is_some();
        match self.exchange(request).await {
            Err(_) if was_open => self.exchange(request).await,
            done => done,
        }
    }

    async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<Response> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.address).await;
                let stream = stream.with_context(|| format!("there is no connection to {}", self.address))?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        stream.write_all(request).await?;
        self.buffer.clear();
        let (end, head) = loop {
            self.read_more(&mut stream).await?;
            if let Some(end) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break (end + 4, Head::parse(&self.buffer[..end])?);
            }
        };
        while self.buffer.len() < end + head.length {
            self.read_more(&mut stream).await?;
        }
        if !head.closes {
            self.stream = Some(stream);
        }
        Ok(Response {
            status: head.status,
            body: self.buffer[end..end + head.length].to_vec(),
        })
    }

    async fn read_more(&mut self, stream: &mut TcpStream) -> anyhow::Result<()> {
        if stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("{} closed the connection before it had responded", self.address);
        }
        if self.buffer.len() > MAX_RESPONSE_BYTES {
            bail!(
                "the response of {} is larger than {MAX_RESPONSE_BYTES} bytes",
                self.address
            );
        }
        Ok(())
    }
}

/// What the driver needs of a response's head.
#[derive(Debug, PartialEq)]
struct Head {
    status: u16,
    length: usize,
    closes: bool,
}

impl Head {
    fn parse(bytes: &[u8]) -> anyhow::Result<Head> {
        let text = std::str::from_utf8(bytes).context("the head of a response is not text")?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let status = status
            .and_then(|status| status.parse().ok())
            .context("a response without a status")?;
        let mut head = Head {
            status,
            length: 0,
            closes: false,
        };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                head.length = value.parse().with_context(|| format!("Content-Length: {value}"))?;
            } else if name.eq_ignore_ascii_case("connection") {
                head.closes = value.eq_ignore_ascii_case("close");
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                bail!("the driver does not read responses with Transfer-Encoding: {value}");
            }
        }
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_says_the_status_and_the_length() {
        let head = Head::parse(b"HTTP/1.1 201 Created\r\ncontent-length: 17\r\nConnection: close").expect("a head");
        assert_eq!(
            head,
            Head {
                status: 201,
                length: 17,
                closes: true
            }
        );
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked").is_err());
        assert!(Head::parse(b"nonsense").is_err());
    }

    #[test]
    fn a_request_states_the_length_of_its_body() {
        let sent = request(
            "POST",
            "/x",
            Some("t"),
            &[("Prefer", "wait=1")],
            Some(&serde_json::json!({"a": 1})),
        );
        let sent = String::from_utf8(sent).expect("text");
        assert!(
            sent.starts_with("POST /x HTTP/1.1\r\n") && sent.contains("Authorization: Bearer t\r\nPrefer: wait=1\r\n")
        );
        assert!(sent.ends_with("Content-Length: 7\r\n\r\n{\"a\":1}"));
    }
}
