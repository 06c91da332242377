//! The deterministic state machine of the store: what etcd calls mvcc, lessor and watchable store.
//!
//! One writer calls [`Engine::apply`] with committed commands in log order; any number of [`Reader`]s read
//! consistent snapshots without a lock. Nothing here knows a clock, a network, a thread pool or a random number:
//! times and ids arrive inside commands.

pub mod command;
mod error;

pub use command::{Command, Outcome};
pub use error::Error;
