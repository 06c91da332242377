//! The etcd v3 services, health and metrics on a raft handle, and the local store.
//!
//! [`serve`] is the client port: what an unmodified etcd client sees; [`serve_all`] adds etcd's other listeners.
//! [`LocalStore`] is the same store for callers in the same process. None of them knows how commands are ordered or stored.

mod auth;
mod background;
mod batch;
mod context;
mod convert;
mod error;
mod exposition;
mod health;
mod http;
mod kv;
mod lease;
mod listener;
mod local;
mod maintenance;
mod member;
mod metrics;
mod options;
mod peers;
mod read_txn;
mod reads;
mod refusal;
mod retention;
mod router;
mod server;
mod tls;
mod validate;
mod watch;

pub use auth::AuthOptions;
pub use context::ETCD_VERSION;
pub use error::Error;
pub use listener::{Listener, Serves, Socket};
pub use local::LocalStore;
pub use options::{AutoCompaction, ServerOptions};
pub use server::{serve, serve_all};
pub use tls::{
    Allowed, PeerCertificates, TlsFiles, TlsOptions, TlsSource, TlsVersion, server_tls, supported_cipher_suites,
};
