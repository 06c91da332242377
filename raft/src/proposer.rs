//! Group commit: everything that waits becomes one log entry; the next one forms while this one is on its way to disk.

use std::{sync::Arc, time::Duration};

use kelson_engine::Command;
use openraft::{errors::ClientWriteError, raft::ClientWriteResult};
use tokio::sync::Semaphore;

use crate::{
    Error,
    batch::Batch,
    forward::Forward,
    inbox::Inboxes,
    log::LogStore,
    node::Raft,
    queue::{Queue, Reply, Waiting},
    types::{Callback, Types},
};

/// Entries that may be under way at once. The next one forms meanwhile, and leaves when the one before is applied: were it
/// to leave as soon as that is synced, it would be small, because those whose writes are being applied have nothing new to
/// say yet, and small entries beget small ones. Each costs a sync and half a dozen wake-ups, however little is in it.
const PIPELINE: usize = 1;

/// Pause after raft has refused a batch, before it is proposed again or sent to who leads now.
const PAUSE: Duration = Duration::from_millis(5);

/// Bounds of one log entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) commands: usize,
    pub(crate) bytes: usize,
}

/// Runs until the queue is closed or raft has stopped.
pub(crate) async fn run(raft: Raft, log: LogStore, queue: Arc<Queue>, limits: Limits, forward: Arc<Forward>) {
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
        let Some(lead) = forward.lead() else {
            forward.send(waiting(first, &queue, limits)).await;
            continue;
        };
        let Collected { commands, replies, bytes, terms } = collect(first, &queue, limits, lead.term);
        if commands.is_empty() {
            continue;
        }
        log.set_alone(forward.is_alone());
        let batch = Batch::new(commands, bytes, slot);
        let (refused, returns, bound) = (batch.clone(), forward.clone(), !terms.is_empty());
        let answer = Callback::new(move |result| answer(result, replies, (&refused, &terms[..]), &returns));
        // An error here drops the replies, which tells their callers that the node has stopped.
        let proposed = match bound {
            true => raft.write(batch).responder(answer).with_leader(lead).await,
            false => raft.client_write_ff(batch, Some(answer)).await,
        };
        if proposed.is_err() {
            queue.close();
            return;
        }
        if forward.was_refused() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// As [`collect`], each with its place to answer.
fn waiting(first: Waiting, queue: &Queue, limits: Limits) -> Vec<Waiting> {
    let mut waiting = vec![first];
    let mut bytes = waiting[0].bytes;
    while waiting.len() < limits.commands && bytes < limits.bytes {
        let Some(next) = queue.pop() else { break };
        bytes += next.bytes;
        waiting.push(next);
    }
    waiting
}

/// What goes into one entry.
#[derive(Default)]
struct Collected {
    commands: Vec<Command>,
    replies: Vec<Reply>,
    bytes: usize,
    /// The term that each command is bound to; empty when none is.
    terms: Vec<u64>,
}

/// What is bound to another term than `term` is refused.
fn collect(first: Waiting, queue: &Queue, limits: Limits, term: u64) -> Collected {
    let places = (queue.len() + 1).min(limits.commands);
    let mut collected =
        Collected { commands: Vec::with_capacity(places), replies: Vec::with_capacity(places), ..Collected::default() };
    let mut next = Some(first);
    while let Some(waiting) = next {
        if waiting.term != 0 && waiting.term != term {
            waiting.reply.tell(Err(Error::LeaderChanged));
            next = queue.pop();
            continue;
        }
        if waiting.term != 0 || !collected.terms.is_empty() {
            collected.terms.resize(collected.commands.len(), 0);
            collected.terms.push(waiting.term);
        }
        collected.bytes += waiting.bytes;
        collected.commands.push(waiting.command);
        collected.replies.push(waiting.reply);
        let fits = collected.commands.len() < limits.commands && collected.bytes < limits.bytes;
        next = if fits { queue.pop() } else { None };
    }
    collected
}

fn answer(result: ClientWriteResult<Types>, replies: Vec<Reply>, (batch, terms): (&Batch, &[u64]), forward: &Forward) {
    let mut inboxes = Inboxes::default();
    match result {
        Ok(done) => {
            for (reply, outcome) in replies.into_iter().zip(done.data) {
                reply.send(outcome.map_err(Error::Engine), &mut inboxes);
            }
        }
        // The lead was lost, or is about to be: it is in no log.
        Err(ClientWriteError::ForwardToLeader(_)) => forward.refused(batch, replies, terms),
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
