//! A lean load generator for etcd-compatible stores.
//!
//! It drives HTTP/2 streams itself: requests are encoded once, windows are large, and the connections live on a few
//! threads of their own, so that on a small machine most of the CPU is left to the server that is measured. Closed
//! loops find the peak; open loops send at a fixed rate and measure from the moment at which a request was due, so that
//! a stalled server is not spared the requests that it held up (coordinated omission).
//!
//! It knows wire types and nothing of any server: no storage engine, no consensus, no process. `kelson bench store`
//! composes it with the servers. The criterion micro-benchmarks of the core are in `benches/`.

mod connection;
pub mod data;
mod drive;
mod error;
mod fleet;
mod frame;
pub mod lease;
mod pace;
pub mod source;
#[cfg(test)]
mod tests;
mod timer;
mod told;
mod transport;
mod watch;

pub use connection::{Connection, Method, Receiving, Sending};
pub use drive::{Call, Failures, Load, Outcome, Pace, Source};
pub use error::Error;
pub use fleet::{Fleet, Tick, Wish};
pub use frame::{Keep, frame};
pub use pace::{LONGEST, Schedule, histogram};
pub use watch::{Seen, Watch, Watching};
