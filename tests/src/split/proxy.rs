//! A proxy between two processes that can fall silent, as a network partition does: connections stay open and nothing passes, and new ones are accepted
//! but not forwarded. Afterwards what was under way arrives, late.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// The bytes that are forwarded at once.
const CHUNK: usize = 16 * 1024;

/// Forwards connections to an address while it is not cut.
pub struct Proxy {
    pub port: u16,
    cut: watch::Sender<bool>,
}

impl Proxy {
    /// Listens on a free port, and forwards each connection to the current address in `to`.
    pub async fn new(to: watch::Receiver<SocketAddr>) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let (cut, is_cut) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                tokio::spawn(forward(caller, *to.borrow(), is_cut.clone()));
            }
        });
        Proxy { port, cut }
    }

    /// As [`new`](Self::new), to a server on this machine that is known from the beginning.
    pub async fn to_port(port: u16) -> Proxy {
        let (_, to) = watch::channel(SocketAddr::from(([127, 0, 0, 1], port)));
        Proxy::new(to).await
    }

    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub fn restore(&self) {
        self.cut.send_replace(false);
    }
}

async fn forward(caller: TcpStream, to: SocketAddr, mut is_cut: watch::Receiver<bool>) {
    if *is_cut.borrow() {
        // Nothing is forwarded until the network is restored; by then the caller has given up the connection.
        drop(is_cut.wait_for(|cut| !cut).await);
        return;
    }
    let Ok(callee) = TcpStream::connect(to).await else {
        return;
    };
    let ((from_caller, to_caller), (from_callee, to_callee)) = (caller.into_split(), callee.into_split());
    // An error of one direction ends both.
    drop(tokio::try_join!(
        pass(from_caller, to_callee, is_cut.clone()),
        pass(from_callee, to_caller, is_cut)
    ));
}

/// Passes on what arrives, and its end, while the network is not cut; what has arrived meanwhile, afterwards.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut is_cut: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = from.read(&mut chunk).await?;
        // An error means that the test has ended.
        drop(is_cut.wait_for(|cut| !cut).await.map_err(std::io::Error::other)?);
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&chunk[..length]).await?;
    }
}
