//! Linearizable reads of a group of several: all readers that wait share one round of heartbeats.

use std::sync::Arc;

use openraft::{
    ReadPolicy,
    errors::{LinearizableReadError, RaftError},
};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::{Error, node::Raft};

type Reader = oneshot::Sender<Result<(), Error>>;

/// Readers that wait for the next round.
pub(crate) struct Barrier {
    /// `None` once closed.
    waiting: Mutex<Option<Vec<Reader>>>,
    joined: Notify,
    /// Most readers per round; one more is refused.
    limit: usize,
}

impl Barrier {
    pub(crate) fn new(limit: usize) -> Self {
        Barrier { waiting: Mutex::new(Some(Vec::new())), joined: Notify::new(), limit }
    }

    /// Joins the next round; the receiver hears when everything that was committed before this call is applied here.
    pub(crate) fn join(&self) -> Result<oneshot::Receiver<Result<(), Error>>, Error> {
        let (reader, answer) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        let readers = waiting.as_mut().ok_or(Error::Stopped)?;
        if readers.len() >= self.limit {
            return Err(Error::TooManyRequests);
        }
        readers.push(reader);
        drop(waiting);
        self.joined.notify_one();
        Ok(answer)
    }

    /// Drops those who wait, which tells them, and refuses whoever comes.
    pub(crate) fn close(&self) {
        self.waiting.lock().take();
    }
}

/// Runs rounds for ever. A round begins after its readers joined, or it could miss what they must see.
pub(crate) async fn run(raft: Raft, barrier: Arc<Barrier>) {
    loop {
        barrier.joined.notified().await;
        let readers = match &mut *barrier.waiting.lock() {
            Some(waiting) => std::mem::take(waiting),
            None => return,
        };
        if readers.is_empty() {
            continue;
        }
        let outcome = raft.ensure_linearizable(ReadPolicy::ReadIndex).await.map(|_| ()).map_err(|e| refusal(&e));
        for reader in readers {
            // A reader that has given up is none of our business.
            let _ = reader.send(outcome.clone());
        }
    }
}

fn refusal(error: &RaftError<crate::types::Types, LinearizableReadError<crate::types::Types>>) -> Error {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(_)) => Error::NoLeader,
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => Error::Timeout,
        RaftError::Fatal(_) => Error::Stopped,
    }
}
