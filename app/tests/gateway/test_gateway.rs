//! The real server as a gateway whose modules are all remote, and a client that sends exactly the given bytes.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use actix_web::dev::ServerHandle;
use async_trait::async_trait;
use banyan_core::{Fault, RandomIds, SystemClock};
use banyan_http::{KeySource, Verifier, VerifyingKey};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::instance::{Instance, header};
use banyan_core::Checks;
use banyan_gateway::Proxy;
use banyan_host::{Health, server, settings::Settings};
use banyan_remote::{discovery, mtls::Identity};

struct NoKeys;

#[async_trait]
impl KeySource for NoKeys {
    async fn keys(&self) -> Result<Vec<VerifyingKey>, Fault> {
        Ok(Vec::new())
    }
}

/// A running gateway; it stops when this is dropped.
pub struct TestGateway {
    pub address: SocketAddr,
    pub scheme: &'static str,
    pub proxy: Arc<Proxy>,
    handles: Vec<ServerHandle>,
    _stop: DropGuard,
}

impl TestGateway {
    /// Starts in front of these instances of a module, with more settings as variables.
    pub async fn in_front_of(module: &str, instances: &[&Instance], settings: &[(&str, &str)]) -> TestGateway {
        let endpoints: Vec<&str> = instances.iter().map(|instance| instance.base.as_str()).collect();
        TestGateway::with_endpoints(module, &endpoints.join(","), settings)
            .await
            .unwrap()
    }

    /// As [`in_front_of`](TestGateway::in_front_of), with the addresses of the instances.
    pub async fn with_endpoints(
        module: &str,
        endpoints: &str,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<TestGateway> {
        TestGateway::tuned(module, endpoints, settings, |_| {}).await
    }

    /// As [`with_endpoints`](TestGateway::with_endpoints), with changes to limits that are not settings.
    pub async fn tuned(
        module: &str,
        endpoints: &str,
        settings: &[(&str, &str)],
        tune: impl FnOnce(&mut Settings),
    ) -> anyhow::Result<TestGateway> {
        let endpoint = format!("BANYAN__MODULES__{}__HTTP_ENDPOINT", module.to_uppercase());
        let fixed = [
            // The names that the tests call it by.
            ("BANYAN__HTTP__HOSTS", "localhost,shop.example,a"),
            (endpoint.as_str(), endpoints),
            ("BANYAN__HTTP__LISTEN", "127.0.0.1:0"),
            ("BANYAN__HTTP__WORKERS", "1"),
        ];
        let given = fixed.iter().chain(settings).filter(|(_, value)| !value.is_empty());
        let given = given.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut settings = banyan::settings(None, given)?;
        tune(&mut settings);
        let stop = CancellationToken::new();
        let identity = Identity::load(&settings.mtls)?;
        let discovery = discovery::start(&settings.discovery, settings.endpoints()?, &stop)?;
        let proxy = Proxy::start(
            settings.gateway.clone(),
            banyan::shop::SHOP.document,
            &banyan::MODULES,
            &discovery,
            settings.discovery.probing(),
            identity.as_ref(),
            &stop,
        )?;
        let health = Health::new(Checks::new(banyan_gateway::checks(&proxy)));
        health.started.cancel();
        let served = server::Served {
            api: Vec::new(),
            well_known: Vec::new(),
            document: utoipa::openapi::OpenApiBuilder::new().build(),
            verifier: Arc::new(Verifier::new(
                Arc::new(NoKeys),
                "http://localhost:8080",
                "banyan",
                Arc::new(SystemClock),
            )),
            health: Arc::new(health),
            ids: Arc::new(RandomIds),
            proxy: proxy.clone(),
            anyone_operates: false,
            is_edge: true,
        };
        let transport = server::Transport::of(&settings.http, identity.as_ref(), true)?;
        let listening = server::start(&settings, transport, served)?;
        let handles = listening.servers.iter().map(actix_web::dev::Server::handle).collect();
        listening
            .servers
            .into_iter()
            .for_each(|server| drop(tokio::spawn(server)));
        Ok(TestGateway {
            address: listening.api,
            scheme: listening.scheme,
            proxy,
            handles,
            _stop: stop.drop_guard(),
        })
    }

    /// Sends this head and body, and reads the response to its end.
    pub async fn send(&self, line: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let mut head = format!("{line} HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n");
        headers
            .iter()
            .for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        if !body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        self.exchange(self.connect().await, &format!("{head}\r\n{body}")).await
    }

    /// Sends a GET as a client with this loopback address.
    pub async fn get_from(&self, client: IpAddr, path: &str, headers: &[(&str, &str)]) -> Reply {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(client, 0)).unwrap();
        let headers: String = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let head = format!("GET {path} HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n{headers}\r\n");
        self.exchange(socket.connect(self.address).await.unwrap(), &head).await
    }

    async fn exchange(&self, mut connection: TcpStream, request: &str) -> Reply {
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut response = Vec::new();
        let reading = tokio::time::timeout(Duration::from_secs(10), connection.read_to_end(&mut response));
        reading.await.expect("the response ends").unwrap();
        Reply::of(&String::from_utf8(response).unwrap())
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(&format!("GET {path}"), &[], "").await
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        // Sending the stop is enough; nothing waits for its end.
        self.handles.iter().for_each(|handle| drop(handle.stop(false)));
    }
}

/// A response of the gateway.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    fn of(text: &str) -> Reply {
        let (head, body) = text
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("no response: {text:?}"));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or_else(|| panic!("no status: {head}"));
        Reply {
            status,
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    pub fn header(&self, name: &str) -> &str {
        header(&self.head, name)
    }

    pub fn count(&self, name: &str) -> usize {
        let names = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        names.filter(|(found, _)| found.eq_ignore_ascii_case(name)).count()
    }

    /// The code of the problem; panics if the response is not a problem.
    #[track_caller]
    pub fn code(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        problem["code"].as_str().unwrap().to_owned()
    }
}
