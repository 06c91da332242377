//! The deterministic state machine of the store: what etcd calls mvcc, lessor and watchable store.
//!
//! One writer calls [`Engine::apply`] with committed commands in log order; any number of [`Reader`]s read
//! consistent snapshots without a lock. Nothing here knows a clock, a network, a thread pool or a random number:
//! times and ids arrive inside commands.
//!
//! The index ([`tree`]) is in memory, values are in a [`Backend`] by revision, the newest of them also in a cache and
//! in the ring that watchers read. The backend has no log of its own: the raft log is the log, and every batch
//! carries the position of the entry that it came from.

mod alarm;
pub mod auth;
pub mod backend;
mod cache;
mod clock;
mod codec;
pub mod command;
mod compaction;
mod engine;
mod error;
mod event;
mod events;
mod export;
#[cfg(any(all(test, not(loom)), feature = "fuzz"))]
pub mod fuzz;
mod hash;
mod history;
mod import;
#[cfg(feature = "bench")]
pub mod index;
mod interest;
mod lease;
mod listing;
#[cfg(all(test, loom))]
mod loom_tests;
mod memory;
#[cfg(any(all(test, not(loom)), feature = "fuzz"))]
#[path = "tests/model.rs"]
mod model;
pub mod plant;
mod range;
mod reader;
mod record;
mod recovery;
mod revision;
mod ring;
#[cfg(feature = "rocksdb")]
mod rocks;
mod size;
mod snapshot;
#[cfg(any(all(test, not(loom)), feature = "fuzz"))]
#[path = "tests/steps.rs"]
mod steps;
mod sync;
#[cfg(all(test, not(loom)))]
mod tests;
#[cfg(feature = "rocksdb")]
mod torn;
mod tree;
mod txn;
mod watch;

pub use alarm::{Alarm, AlarmAction, AlarmKind};
pub use backend::{Backend, View};
pub use clock::{LeaseClock, Renewal};
pub use codec::MAX_TXN_DEPTH;
pub use command::{Command, KeyRange, KeyValue, Outcome, RangeRequest, RangeResponse};
pub use engine::{Engine, EngineOptions};
pub use error::Error;
pub use event::{Event, EventKind};
pub use events::{Encoded, Events};
pub use export::{Export, Write};
pub use hash::HashKv;
pub use import::Importer;
pub use lease::{LeaseInfo, LeaseTime, MAX_LEASE_TTL};
pub use listing::{Head, Listing};
pub use memory::MemoryBackend;
pub use reader::Reader;
pub use revision::{Applied, Revision};
#[cfg(feature = "rocksdb")]
pub use rocks::RocksBackend;
#[cfg(feature = "rocksdb")]
pub use torn::check_tails;
pub use watch::{WatchPoll, WatchSpec, Watcher};
