//! Work on the files that takes as long as the disk does: on a thread of its own, one piece at a time, beside all else.

use std::sync::Arc;

use kelson_engine::Reader;
use tokio::sync::{Mutex, oneshot};

use crate::{Error, log::LogStore};

/// Whoever holds the lock has the disk's spare time.
#[derive(Clone)]
pub(crate) struct Defrag {
    turn: Arc<Mutex<()>>,
    state: Reader,
    log: LogStore,
}

impl Defrag {
    pub(crate) fn new(state: Reader, log: LogStore) -> Self {
        Defrag { turn: Arc::default(), state, log }
    }

    /// Rewrites state and log so that nothing dropped takes space any more.
    pub(crate) async fn whole(&self) -> Result<(), Error> {
        self.run(|state, log| {
            state.defragment()?;
            log.compact().map_err(|e| Error::Storage(e.to_string()))
        })
        .await
    }

    /// Frees what the last compaction has dropped.
    pub(crate) async fn compacted(&self) -> Result<(), Error> {
        self.run(|state, _| Ok(state.free_compacted()?)).await
    }

    async fn run(
        &self,
        work: impl FnOnce(&Reader, &LogStore) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        // Taken along to the thread: who gives up waiting does not let the next one in.
        let turn = self.turn.clone().lock_owned().await;
        let (state, log) = (self.state.clone(), self.log.clone());
        let (done, end) = oneshot::channel();
        let thread = std::thread::Builder::new().name("kelson-defrag".to_owned()).spawn(move || {
            let result = work(&state, &log);
            drop((state, log, turn));
            // Whoever asked may be gone.
            let _ = done.send(result);
        });
        thread.map_err(|e| Error::Storage(format!("no thread to defragment on: {e}")))?;
        end.await.unwrap_or(Err(Error::Stopped))
    }

    /// Ends what is under way, and waits for it: the files are about to be closed.
    pub(crate) async fn stop(&self) {
        self.state.interrupt();
        self.log.interrupt();
        drop(self.turn.lock().await);
    }
}
