//! Orders commands and makes them durable: openraft, log store, snapshots, read barrier.
//!
//! A command goes through a bounded queue into one log entry together with all others that were waiting, is synced to
//! disk with them once, applied to the engine and answered. Nothing outside this crate knows openraft.

mod barrier;
mod batch;
mod clock;
mod codec;
mod compaction;
mod config;
mod defrag;
mod dir;
mod error;
mod forward;
mod founding;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod inbox;
mod kept;
mod leases;
mod log;
mod membership;
mod network;
mod node;
mod peer;
mod proposer;
mod queue;
#[cfg(feature = "sim")]
pub mod sim;
mod start;
mod state;
mod stats;
mod status;
mod task;
#[cfg(test)]
mod tests;
mod types;

pub use clock::{Clock, MonotonicClock};
pub use config::{Config, Data};
pub use error::Error;
pub use founding::Founding;
pub use inbox::Inbox;
#[cfg(feature = "rocksdb")]
pub use log::segment::has_log;
pub use membership::Change;
pub use node::Node;
pub use peer::{Connection, Dial, Dialing, Found, GREETING, ask};
pub use stats::{SYNC_BUCKETS_US, SyncStats};
pub use status::{Member, Status};
