//! The shop as pages in a real browser use it: Chromium, whose rules for other origins no HTTP client has.

use std::{process::Stdio, sync::Arc, time::Duration};

use libtest_mimic::{Failed, Trial};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::oneshot,
};

use crate::{
    harness::{Shop, Stage, runtime},
    scenarios::new_product,
};

const TIMEOUT: Duration = Duration::from_secs(90);
/// It registers nobody: it logs in, orders `SKU`, and follows the order until it is confirmed. Then it reports to its own server.
const PAGE: &str = include_str!("browser/page.html");

pub fn trials() -> Vec<Trial> {
    let trial = |stage: Stage| {
        let name = format!(
            "browser[{}]::a_page_of_another_origin_logs_in_buys_and_follows_its_order",
            stage.name()
        );
        Trial::test(name, move || a_page_buys(stage))
    };
    vec![trial(Stage::Sqlite), trial(Stage::Split)]
}

fn a_page_buys(stage: Stage) -> Result<(), Failed> {
    let Some(chromium) = find_chromium() else {
        eprintln!("Chromium is not installed (Debian: sudo apt-get install chromium): not checked");
        return Ok(());
    };
    runtime().block_on(async {
        let pages = TcpListener::bind("127.0.0.1:0").await?;
        // Another origin than the shop's by name and by port.
        let origin = format!("http://localhost:{}", pages.local_addr()?.port());
        let shop = Shop::start_with(stage, &[("BANYAN__HTTP__CORS_ORIGINS", &origin)]).await;
        let sku = new_product(&shop.client(), 1_200, 5).await;
        let page = PAGE.replace("SHOP", shop.client().base()).replace("SKU", &sku);
        let reported = serve(pages, page);

        let profile = tempfile::tempdir()?;
        let mut browser = Command::new(chromium)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--remote-debugging-port=0",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(&origin)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let report = tokio::time::timeout(TIMEOUT, reported).await;
        browser.kill().await?;
        let report: Value = serde_json::from_str(&report.map_err(|_| "the page reported nothing")??)?;
        assert_eq!(report["error"], Value::Null, "{report}");
        assert_eq!(report["problem"], "unauthenticated", "a problem can be read");
        let events: Vec<&str> = report["events"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(
            (events.first(), events.last()),
            (Some(&"placed"), Some(&"confirmed")),
            "{report}"
        );
        assert_eq!(
            report["etag"].as_str().map(|etag| etag.starts_with('"')),
            Some(true),
            "{report}"
        );
        shop.remove().await;
        Ok(())
    })
}

fn find_chromium() -> Option<&'static str> {
    let is_there = |name: &&str| {
        let version = std::process::Command::new(name).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    };
    ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(is_there)
}

/// Serves the page, and returns the body of the first `POST`.
fn serve(listener: TcpListener, page: String) -> oneshot::Receiver<String> {
    let (sender, receiver) = oneshot::channel();
    let sender = Arc::new(Mutex::new(Some(sender)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (page, sender) = (page.clone(), sender.clone());
            tokio::spawn(async move {
                if let Ok(Some(report)) = answer(stream, &page).await
                    && let Some(sender) = sender.lock().take()
                {
                    drop(sender.send(report));
                }
            });
        }
    });
    receiver
}

/// One request per connection: the page for a `GET`; the body of a `POST` is returned.
async fn answer(mut stream: TcpStream, page: &str) -> std::io::Result<Option<String>> {
    let mut request = Vec::new();
    let (head, length) = loop {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some(end) = text.find("\r\n\r\n") {
            let length = text[..end].lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.trim().parse::<usize>().ok())?
            });
            break (end + 4, length.unwrap_or_default());
        }
    };
    while request.len() < head + length {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(None);
        }
    }
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
        page.len()
    );
    stream.write_all(response.as_bytes()).await?;
    let is_report = request.starts_with(b"POST");
    Ok(is_report.then(|| String::from_utf8_lossy(&request[head..]).into_owned()))
}
