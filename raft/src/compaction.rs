//! Frees compacted history while nobody writes; applying frees a little with every entry, which is enough otherwise.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Notify, watch};

use crate::node::Raft;

/// Pause between two steps of a millisecond or two, and how long the state must have stood still before one.
const PAUSE: Duration = Duration::from_millis(10);

/// Shared between the state machine, which says that there is something to free, and those who wait for the end.
pub(crate) struct Compaction {
    pending: watch::Sender<bool>,
    begun: Notify,
}

impl Compaction {
    pub(crate) fn new() -> Self {
        Compaction { pending: watch::Sender::new(false), begun: Notify::new() }
    }

    /// Told after every change of the state.
    pub(crate) fn set_pending(&self, pending: bool) {
        let begins = self.pending.send_if_modified(|now| std::mem::replace(now, pending) != pending) && pending;
        if begins {
            self.begun.notify_one();
        }
    }

    /// Follows whether a compaction has something left to free.
    pub(crate) fn subscribe(&self) -> watch::Receiver<bool> {
        self.pending.subscribe()
    }
}

/// Runs for ever.
pub(crate) async fn run(raft: Raft, compaction: Arc<Compaction>) {
    loop {
        compaction.begun.notified().await;
        let mut seen = None;
        while *compaction.pending.borrow() {
            tokio::time::sleep(PAUSE).await;
            let step = raft.with_state_machine(move |machine| Box::pin(async move { machine.compact_if_idle(seen) }));
            match step.await {
                Ok(Ok(applied)) => seen = applied,
                // The next entry fails too, and that ends the node.
                Ok(Err(error)) => {
                    tracing::error!("compaction: {error}");
                    return;
                }
                Err(_) => return,
            }
        }
    }
}
