//! The etcd v3 services, health and metrics on a raft handle, and the local store.
//!
//! [`serve`] is the client port: what an unmodified etcd client sees. [`LocalStore`] is the same store for callers in
//! the same process. Neither knows how commands are ordered or stored.

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
mod local;
mod maintenance;
mod member;
mod metrics;
mod options;
mod read_txn;
mod reads;
mod refusal;
mod retention;
mod router;
mod server;
mod tls;
mod validate;
mod watch;

pub use context::ETCD_VERSION;
pub use error::Error;
pub use local::LocalStore;
pub use options::{AutoCompaction, ServerOptions};
pub use server::serve;
pub use tls::server_tls;
