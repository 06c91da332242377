//! Where a node's tasks run: on the runtime at hand, blocking work on threads beside it. Under simulation everything is on
//! one thread, and a node's tasks can all be ended at once.

#[cfg(not(feature = "sim"))]
mod real {
    use std::io;

    pub(crate) use openraft::impls::TokioRuntime as Runtime;
    pub(crate) use tokio::{runtime::Handle as Home, spawn};

    /// Runs what takes as long as the disk does.
    pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
    }
}

#[cfg(not(feature = "sim"))]
pub(crate) use real::{Home, Runtime, blocking, spawn};

#[cfg(feature = "sim")]
pub(crate) use crate::sim::{Life as Home, Runtime, blocking, spawn};
