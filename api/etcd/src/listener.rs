//! The sockets of a server, and what each of them serves.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};

use crate::tls::TlsSource;

/// A bound socket.
#[derive(Debug)]
pub enum Socket {
    Tcp(TcpListener),
    /// With the path to remove at the end.
    Unix(UnixListener, PathBuf),
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Socket::Unix(_, path) = self {
            // Nobody can connect to it any more; who cannot remove it leaves it to the next start.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What is answered on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// gRPC, and plain HTTP beside it.
    Everything,
    /// gRPC alone (etcd's client port beside `listen-client-http-urls`).
    Grpc,
    /// Plain HTTP alone (`listen-client-http-urls`).
    Http,
    /// `/metrics`, `/health`, `/livez` and `/readyz` alone (`listen-metrics-urls`).
    Metrics,
    /// What members ask each other in plain HTTP: `/version` and `/members` (`listen-peer-urls`).
    Peers,
}

/// A socket, what it serves, and whether it speaks TLS.
pub struct Listener {
    pub socket: Socket,
    pub serves: Serves,
    pub tls: Option<Arc<dyn TlsSource>>,
}
