//! The part of etcd's API that discovery needs, over its JSON gateway (`/v3/...`), which needs no generated client.
//!
//! Keys and values are base64 there, and 64-bit integers are strings. Streams are one JSON object per line.

use std::{
    collections::BTreeMap,
    fs,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{Certificate, Response, StatusCode, redirect};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::super::{Address, Settings};

/// The maximum length of a line of a stream: etcd itself refuses requests beyond 1.5 MiB.
const LINE_BYTES: usize = 4 << 20;

/// Calls the endpoints in turn, beginning with the one that responded last.
pub struct Client {
    http: reqwest::Client,
    endpoints: Vec<Address>,
    preferred: AtomicUsize,
    timeout: Duration,
}

/// A lease on keys, and its time to live.
pub struct Lease {
    pub id: String,
    pub ttl: Duration,
}

/// All keys with a prefix at one revision.
pub struct Snapshot {
    /// The id of the cluster that returned it.
    pub cluster: String,
    pub revision: i64,
    pub entries: BTreeMap<String, Vec<u8>>,
}

/// A key has this value now, or was deleted if it is `None`.
pub struct Change {
    pub revision: i64,
    pub key: String,
    pub value: Option<Vec<u8>>,
}

/// A watch that was created.
pub struct Watching {
    response: Response,
    unread: Vec<u8>,
}

impl Client {
    pub fn new(settings: &Settings) -> anyhow::Result<Client> {
        let parsed = settings
            .etcd_endpoints
            .iter()
            .map(|endpoint| endpoint.parse().context("discovery.etcd_endpoints"));
        let endpoints: Vec<Address> = parsed.collect::<anyhow::Result<_>>()?;
        if endpoints.is_empty() {
            bail!(
                "discovery.kind is etcd, but discovery.etcd_endpoints is empty; name etcd's client URLs, such as http://127.0.0.1:2379"
            );
        }
        let request_timeout = settings.timing.etcd_timeout;
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(request_timeout);
        let http = match &settings.etcd_ca_file {
            Some(file) => {
                let wrong = || {
                    format!(
                        "discovery.etcd_ca_file names {}, which cannot be read as certificates in PEM",
                        file.display()
                    )
                };
                http.tls_certs_only(
                    Certificate::from_pem_bundle(&fs::read(file).with_context(wrong)?).with_context(wrong)?,
                )
            }
            None if endpoints.iter().any(Address::is_tls) => http,
            // A machine without any certificates can talk to an etcd without TLS.
            None => http.tls_certs_only([]),
        };
        Ok(Client {
            http: http.build().context("preparing to talk to etcd")?,
            endpoints,
            preferred: AtomicUsize::new(0),
            timeout: request_timeout,
        })
    }

    pub async fn grant(&self, ttl_s: u64) -> anyhow::Result<Lease> {
        #[derive(Deserialize)]
        struct Granted {
            #[serde(rename = "ID")]
            id: String,
            // etcd may grant more than was requested.
            #[serde(rename = "TTL", deserialize_with = "int64")]
            ttl_s: i64,
        }
        let Granted { id, ttl_s } = self.call("lease/grant", &json!({ "TTL": ttl_s.to_string() })).await?;
        Ok(Lease {
            id,
            ttl: seconds(ttl_s),
        })
    }

    /// `None` if the lease no longer exists.
    pub async fn keep_alive(&self, lease: &str) -> anyhow::Result<Option<Duration>> {
        #[derive(Deserialize)]
        struct Streamed {
            result: KeptAlive,
        }
        #[derive(Deserialize)]
        struct KeptAlive {
            #[serde(rename = "TTL", default, deserialize_with = "int64")]
            ttl_s: i64,
        }
        let kept: Streamed = self.call("lease/keepalive", &json!({ "ID": lease })).await?;
        Ok(Some(seconds(kept.result.ttl_s)).filter(|ttl| !ttl.is_zero()))
    }

    /// Ends a lease, and with it all its keys at once.
    pub async fn revoke(&self, lease: &str) -> anyhow::Result<()> {
        self.call("lease/revoke", &json!({ "ID": lease }))
            .await
            .map(|_: Value| ())
    }

    /// Sets all keys in one transaction, for as long as the lease exists.
    pub async fn put(&self, entries: &BTreeMap<String, Vec<u8>>, lease: &str) -> anyhow::Result<()> {
        self.call("kv/txn", &json!({ "success": puts(entries, lease) }))
            .await
            .map(|_: Value| ())
    }

    /// Like [`put`](Client::put), but only if one of the keys is missing; returns whether one was. If all exist, nothing is written.
    pub async fn put_missing(&self, entries: &BTreeMap<String, Vec<u8>>, lease: &str) -> anyhow::Result<bool> {
        #[derive(Deserialize)]
        struct Compared {
            // Left out where it is false.
            #[serde(default)]
            succeeded: bool,
        }
        let exists = |key| json!({ "key": BASE64_STANDARD.encode(key), "target": "VERSION", "result": "GREATER", "version": "0" });
        let all_exist: Vec<Value> = entries.keys().map(exists).collect();
        let compared: Compared = self
            .call(
                "kv/txn",
                &json!({ "compare": all_exist, "failure": puts(entries, lease) }),
            )
            .await?;
        Ok(!compared.succeeded)
    }

    /// The maximum duration of a request, for which every endpoint is called in turn.
    pub fn maximum_duration(&self) -> Duration {
        self.timeout
            .saturating_mul(u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX))
    }

    pub async fn range(&self, prefix: &str) -> anyhow::Result<Snapshot> {
        #[derive(Deserialize)]
        struct Ranged {
            header: Header,
            #[serde(default)]
            kvs: Vec<KeyValue>,
        }
        let ranged: Ranged = self.call("kv/range", &all_with(prefix)).await?;
        let entries = ranged
            .kvs
            .iter()
            .map(|entry| Ok((entry.key()?, entry.value()?)))
            .collect::<anyhow::Result<_>>()?;
        Ok(Snapshot {
            cluster: ranged.header.cluster_id,
            revision: ranged.header.revision,
            entries,
        })
    }

    /// Every change from this revision on.
    pub async fn watch(&self, prefix: &str, from: i64) -> anyhow::Result<Watching> {
        let mut request = all_with(prefix);
        request["start_revision"] = Value::String(from.to_string());
        let request = json!({ "create_request": request });
        let response = self
            .in_turn("watch", |url| async {
                timeout(self.timeout, self.http.post(url).json(&request).send())
                    .await
                    .ok()
            })
            .await?;
        Ok(Watching {
            response,
            unread: Vec::new(),
        })
    }

    async fn call<T: DeserializeOwned>(&self, what: &str, request: &Value) -> anyhow::Result<T> {
        let send = |url| async { Some(self.http.post(url).json(request).timeout(self.timeout).send().await) };
        let response = self.in_turn(what, send).await?;
        let body = response
            .bytes()
            .await
            .with_context(|| format!("etcd's response to {what}"))?;
        serde_json::from_slice(&body).with_context(|| {
            format!(
                "etcd's response to {what} cannot be parsed: {}",
                String::from_utf8_lossy(&body)
            )
        })
    }

    /// Calls one endpoint after another until one responds. Every request here is idempotent.
    async fn in_turn<F>(&self, what: &str, send: impl Fn(String) -> F) -> anyhow::Result<Response>
    where
        F: Future<Output = Option<reqwest::Result<Response>>>,
    {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut failures = Vec::new();
        for nth in (0..self.endpoints.len()).map(|further| (first + further) % self.endpoints.len()) {
            let endpoint = &self.endpoints[nth];
            let why = match send(format!("{endpoint}/v3/{what}")).await {
                Some(Ok(response)) if response.status() == StatusCode::OK => {
                    self.preferred.store(nth, Ordering::Relaxed);
                    return Ok(response);
                }
                Some(Ok(response)) => {
                    let status = response.status();
                    let text = response.text().await.unwrap_or_default();
                    if status.is_client_error() {
                        bail!("etcd at {endpoint} refuses {what} with {status}: {text}");
                    }
                    format!("{status}: {text}")
                }
                Some(Err(error)) => format!("{:#}", anyhow!(error.without_url())),
                None => format!("no response within {} ms", self.timeout.as_millis()),
            };
            failures.push(format!("{endpoint}: {why}"));
        }
        bail!("etcd does not respond to {what}: {}", failures.join("; "))
    }
}

impl Watching {
    /// The next changes; those of one transaction come together. Cancel safe.
    ///
    /// # Errors
    /// The watch has ended; to learn of later changes, everything must be read again.
    pub async fn next(&mut self) -> anyhow::Result<Vec<Change>> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                let changes = read_line(&line)?;
                if !changes.is_empty() {
                    return Ok(changes);
                }
                continue;
            }
            if self.unread.len() > LINE_BYTES {
                bail!("etcd's watch sends a line of more than {LINE_BYTES} bytes");
            }
            let chunk = self
                .response
                .chunk()
                .await
                .context("etcd's watch broke off")?
                .context("etcd ended the watch")?;
            self.unread.extend_from_slice(&chunk);
        }
    }
}

fn read_line(line: &[u8]) -> anyhow::Result<Vec<Change>> {
    #[derive(Deserialize)]
    struct Streamed {
        result: Option<Watched>,
    }
    #[derive(Deserialize)]
    struct Watched {
        #[serde(default)]
        canceled: bool,
        #[serde(default)]
        events: Vec<WatchEvent>,
    }
    #[derive(Deserialize)]
    struct WatchEvent {
        #[serde(default)]
        r#type: String,
        kv: KeyValue,
    }
    if line.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let text = || {
        format!(
            "etcd's watch sent something that cannot be parsed: {}",
            String::from_utf8_lossy(line)
        )
    };
    let streamed: Streamed = serde_json::from_slice(line).with_context(text)?;
    let watched = streamed.result.with_context(text)?;
    if watched.canceled {
        bail!("etcd cancelled the watch: {}", String::from_utf8_lossy(line).trim_end());
    }
    let change = |event: &WatchEvent| {
        let value = if event.r#type == "DELETE" {
            None
        } else {
            Some(event.kv.value()?)
        };
        Ok(Change {
            revision: event.kv.mod_revision,
            key: event.kv.key()?,
            value,
        })
    };
    watched.events.iter().map(change).collect()
}

#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    cluster_id: String,
    #[serde(default, deserialize_with = "int64")]
    revision: i64,
}

#[derive(Deserialize)]
struct KeyValue {
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default, deserialize_with = "int64")]
    mod_revision: i64,
}

impl KeyValue {
    fn key(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8(BASE64_STANDARD.decode(&self.key)?)?)
    }

    fn value(&self) -> anyhow::Result<Vec<u8>> {
        Ok(BASE64_STANDARD.decode(&self.value)?)
    }
}

fn puts(entries: &BTreeMap<String, Vec<u8>>, lease: &str) -> Vec<Value> {
    let encoded = entries
        .iter()
        .map(|(key, value)| (BASE64_STANDARD.encode(key), BASE64_STANDARD.encode(value)));
    encoded
        .map(|(key, value)| json!({ "request_put": { "key": key, "value": value, "lease": lease } }))
        .collect()
}

/// The range of all keys that begin with `prefix`, which ends in `/`: up to what follows it.
fn all_with(prefix: &str) -> Value {
    let after = format!("{}0", prefix.trim_end_matches('/'));
    json!({ "key": BASE64_STANDARD.encode(prefix), "range_end": BASE64_STANDARD.encode(after) })
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn int64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    String::deserialize(deserializer)?
        .parse()
        .map_err(serde::de::Error::custom)
}
