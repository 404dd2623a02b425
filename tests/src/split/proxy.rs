//! A wire between two processes that can be cut: connections break, and new ones are taken and lead nowhere, as when a network is parted.

use std::net::SocketAddr;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Passes on to an address while it is not cut.
pub struct Wire {
    pub port: u16,
    cut: watch::Sender<bool>,
}

impl Wire {
    /// Listens on a free port, and passes on to where `to` says at that moment.
    pub async fn new(to: watch::Receiver<SocketAddr>) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let (cut, is_cut) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                tokio::spawn(pass_on(caller, *to.borrow(), is_cut.clone()));
            }
        });
        Wire { port, cut }
    }

    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub fn mend(&self) {
        self.cut.send_replace(false);
    }
}

async fn pass_on(mut caller: TcpStream, to: SocketAddr, mut is_cut: watch::Receiver<bool>) {
    if *is_cut.borrow() {
        // Packets go nowhere until the network is whole again; then the connection has long been given up.
        drop(is_cut.wait_for(|cut| !cut).await);
        return;
    }
    let Ok(mut callee) = TcpStream::connect(to).await else {
        return;
    };
    let is_parted = tokio::select! {
        _ = copy_bidirectional(&mut caller, &mut callee) => false,
        cut = is_cut.wait_for(|cut| *cut) => cut.is_ok(),
    };
    if is_parted {
        // Held open and silent, as both ends would see it.
        drop(is_cut.wait_for(|cut| !cut).await);
    }
}
