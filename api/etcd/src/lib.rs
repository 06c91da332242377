//! The etcd v3 services, health and metrics on a raft handle, and the local store.
//!
//! [`serve`] is the client port: what an unmodified etcd client sees; [`serve_all`] adds etcd's other listeners.
//! [`LocalStore`] is the same store for callers in the same process. None of them knows how commands are ordered or stored.

mod asker;
mod auth;
mod background;
pub mod backup;
mod batch;
mod body;
mod call;
mod context;
mod convert;
mod deadline;
mod dial;
mod election;
mod error;
mod exposition;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod gateway;
mod health;
mod histogram;
mod http;
mod kv;
mod lanes;
mod large;
mod lease;
mod listener;
mod local;
mod lock;
mod maintenance;
mod member;
mod metrics;
mod options;
mod peers;
mod quota;
mod read_txn;
mod reads;
mod refusal;
mod retention;
mod router;
mod server;
mod tally;
mod tls;
mod validate;
mod watch;
mod wire;

pub use auth::{AuthOptions, TokenKind};
pub use context::ETCD_VERSION;
pub use dial::{PeerDial, PeerTls};
pub use error::Error;
pub use listener::{Listener, Serves, Socket};
pub use local::LocalStore;
pub use options::{AutoCompaction, ServerOptions};
pub use server::{serve, serve_all};
pub use tls::{
    Allowed, PeerCertificates, TlsFiles, TlsOptions, TlsSource, TlsVersion, server_tls, supported_cipher_suites,
};
