//! Group commit: everything that waits becomes one log entry; the next one forms while this one is on its way to disk.

use std::sync::Arc;

use kelson_engine::Command;
use openraft::{errors::ClientWriteError, raft::ClientWriteResult};
use tokio::sync::Semaphore;

use crate::{
    Error,
    batch::Batch,
    inbox::Inboxes,
    node::Raft,
    queue::{Queue, Reply, Waiting},
    types::{Callback, Types},
};

/// Entries that may be under way at once. The next one forms meanwhile, and leaves when the one before is applied: were it
/// to leave as soon as that is synced, it would be small, because those whose writes are being applied have nothing new to
/// say yet, and small entries beget small ones. Each costs a sync and half a dozen wake-ups, however little is in it.
const PIPELINE: usize = 1;

/// Bounds of one log entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) commands: usize,
    pub(crate) bytes: usize,
}

/// Runs until the queue is closed or raft has stopped.
pub(crate) async fn run(raft: Raft, queue: Arc<Queue>, limits: Limits) {
    let slots = Arc::new(Semaphore::new(PIPELINE));
    loop {
        // First the slot, then the commands: whatever comes in while the disk is busy joins this batch.
        let slot = tokio::select! {
            biased;
            slot = slots.clone().acquire_owned() => slot,
            // What is under way may never be applied.
            () = queue.closed() => return,
        };
        let Ok(slot) = slot else { return };
        let Some(first) = queue.next().await else { return };
        let (commands, replies, bytes) = collect(first, &queue, limits);
        let batch = Batch::new(commands, bytes, slot);
        let answer = Callback::new(move |result| answer(result, replies));
        // An error here drops the replies, which tells their callers that the node has stopped.
        if raft.client_write_ff(batch, Some(answer)).await.is_err() {
            queue.close();
            return;
        }
    }
}

fn collect(first: Waiting, queue: &Queue, limits: Limits) -> (Vec<Command>, Vec<Reply>, usize) {
    let places = (queue.len() + 1).min(limits.commands);
    let (mut commands, mut replies) = (Vec::with_capacity(places), Vec::with_capacity(places));
    let mut bytes = 0;
    let mut next = Some(first);
    while let Some(waiting) = next {
        bytes += waiting.bytes;
        commands.push(waiting.command);
        replies.push(waiting.reply);
        next = if commands.len() < limits.commands && bytes < limits.bytes { queue.pop() } else { None };
    }
    (commands, replies, bytes)
}

fn answer(result: ClientWriteResult<Types>, replies: Vec<Reply>) {
    let mut inboxes = Inboxes::default();
    match result {
        Ok(done) => {
            for (reply, outcome) in replies.into_iter().zip(done.data) {
                reply.send(outcome.map_err(Error::Engine), &mut inboxes);
            }
        }
        Err(error) => {
            let error = refusal(&error);
            for reply in replies {
                reply.send(Err(error.clone()), &mut inboxes);
            }
        }
    }
}

pub(crate) fn refusal(error: &ClientWriteError<Types>) -> Error {
    match error {
        ClientWriteError::ForwardToLeader(_) => Error::NoLeader,
        ClientWriteError::LogEntryDiscarded(_) => Error::LeaderChanged,
        // Neither is possible for commands; whatever it was, the command is not in the log.
        ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => Error::NoLeader,
    }
}
