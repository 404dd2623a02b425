//! An actix server that sends a page's bytes from memory and does nothing else, in a process of its own.

use std::{io::Read, net::SocketAddr, path::Path, process::Stdio, time::Duration};

use actix_web::{App, HttpResponse, HttpServer, web};
use anyhow::Context;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::yardstick;
use crate::{
    customers::Seed,
    results::{StageResult, Yardstick},
    shop::Shop,
    stages::{Kind, Stage, read_pages},
};

/// Serves the pages of a directory until standard input ends, so that it does not outlive the driver. Prints its address first.
pub fn serve(directory: &Path) -> anyhow::Result<()> {
    let [product, list] = [Kind::Product, Kind::List].map(|kind| std::fs::read(directory.join(kind.name())));
    let pages = web::Data::new([web::Bytes::from(product?), web::Bytes::from(list?)]);
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    actix_web::rt::System::new().block_on(async move {
        let page = |at: usize| {
            move |pages: web::Data<[web::Bytes; 2]>| async move {
                HttpResponse::Ok()
                    .content_type("application/json")
                    .body(pages[at].clone())
            }
        };
        let server = HttpServer::new(move || {
            App::new()
                .app_data(pages.clone())
                .route("/product", web::get().to(page(0)))
                .route("/list", web::get().to(page(1)))
        });
        let server = server.bind("127.0.0.1:0")?;
        let address = server
            .addrs()
            .first()
            .copied()
            .context("the bare server has no address")?;
        std::io::Write::write_all(&mut std::io::stdout(), format!("{address}\n").as_bytes())?;
        server.run().await?;
        Ok(())
    })
}

/// Reads the shop's pages from a bare server, as the stages read them from the shop.
pub async fn measure(
    shop: &Shop<'_>,
    seed: &Seed,
    results: &[StageResult],
    stages: &[Stage],
    duration: Duration,
) -> anyhow::Result<Vec<Yardstick>> {
    let mut yardsticks = Vec::new();
    if stages.iter().all(|stage| stage.kind == Kind::Orders) {
        return Ok(yardsticks);
    }
    let directory = tempfile::tempdir()?;
    for kind in [Kind::Product, Kind::List] {
        let path = kind.path(seed).context("reads have a path")?;
        std::fs::write(directory.path().join(kind.name()), shop.get(&path).await?)?;
    }
    let (_server, address) = start(directory.path()).await?;
    for (result, stage) in results
        .iter()
        .zip(stages)
        .filter(|(_, stage)| stage.kind != Kind::Orders)
    {
        let path = format!("/{}", stage.kind.name());
        let loops = read_pages(address, &path, stage.customers, duration).await?;
        yardsticks.push(yardstick("bare actix endpoint", *stage, result, loops.per_second()));
    }
    Ok(yardsticks)
}

async fn start(directory: &Path) -> anyhow::Result<(Child, SocketAddr)> {
    let mut server = Command::new(std::env::current_exe()?)
        .arg("bare-endpoint")
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdout = server.stdout.take().context("its standard output")?;
    let line = BufReader::new(stdout).lines().next_line().await?;
    let address = line.context("the bare server ended")?.parse()?;
    Ok((server, address))
}
