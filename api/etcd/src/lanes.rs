//! The threads that serve connections, one to a core. Each has a runtime of its own and keeps the connections that it was
//! given: what belongs to one stays in one core's caches, and no thread wakes another to share what there is to do.

use std::io;
use std::num::NonZero;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// The threads. When this is dropped they end, and what still runs in them with them.
pub(crate) struct Lanes(Vec<Lane>);

struct Lane {
    runtime: Handle,
    /// Shared with every connection of it.
    users: Arc<()>,
    end: CancellationToken,
}

/// A connection's place, which counts until it is dropped.
pub(crate) struct Place {
    _user: Arc<()>,
}

impl Lanes {
    /// # Errors
    /// What the system says where it has no more threads or file descriptors.
    pub(crate) fn start() -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        (0..cores).map(|_| Lane::start()).collect::<io::Result<_>>().map(Lanes)
    }

    /// The runtime that has the fewest connections.
    pub(crate) fn pick(&self) -> Option<(&Handle, Place)> {
        let lane = self.0.iter().min_by_key(|lane| Arc::strong_count(&lane.users))?;
        Some((&lane.runtime, Place { _user: lane.users.clone() }))
    }
}

impl Lane {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (handle, end) = (runtime.handle().clone(), CancellationToken::new());
        let ended = end.clone();
        let run = move || runtime.block_on(ended.cancelled());
        std::thread::Builder::new().name("kelson-wire".to_owned()).spawn(run)?;
        Ok(Lane { runtime: handle, users: Arc::default(), end })
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.end.cancel();
    }
}
