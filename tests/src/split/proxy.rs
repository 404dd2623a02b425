//! A proxy between two processes that can be cut: connections hang, and new ones are accepted but not forwarded, as in a network partition.

use std::net::SocketAddr;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

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

    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub fn restore(&self) {
        self.cut.send_replace(false);
    }
}

async fn forward(mut caller: TcpStream, to: SocketAddr, mut is_cut: watch::Receiver<bool>) {
    if *is_cut.borrow() {
        // Nothing is forwarded until the network is restored; by then the caller has given up the connection.
        drop(is_cut.wait_for(|cut| !cut).await);
        return;
    }
    let Ok(mut callee) = TcpStream::connect(to).await else {
        return;
    };
    let is_partitioned = tokio::select! {
        _ = copy_bidirectional(&mut caller, &mut callee) => false,
        cut = is_cut.wait_for(|cut| *cut) => cut.is_ok(),
    };
    if is_partitioned {
        // Held open and silent, as both ends see a partition.
        drop(is_cut.wait_for(|cut| !cut).await);
    }
}
