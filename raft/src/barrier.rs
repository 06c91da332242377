//! Linearizable reads of a group of several: all readers that wait share one round of heartbeats.

use std::{sync::Arc, time::Duration};

use kelson_engine::plant::{Bug, planted};
use openraft::{
    ReadPolicy,
    async_runtime::WatchReceiver,
    errors::{LinearizableReadError, RaftError},
};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, timeout},
};

use crate::{
    Error,
    node::Raft,
    peer::{Failure, Kind, Roster, message},
};

/// Pause before a round that found no leader is tried again.
const PAUSE: Duration = Duration::from_millis(10);

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
pub(crate) async fn run(raft: Raft, roster: Arc<Roster>, barrier: Arc<Barrier>) {
    loop {
        barrier.joined.notified().await;
        let readers = match &mut *barrier.waiting.lock() {
            Some(waiting) => std::mem::take(waiting),
            None => return,
        };
        if readers.is_empty() {
            continue;
        }
        let outcome = round(&raft, &roster).await;
        for reader in readers {
            // A reader that has given up is none of our business.
            let _ = reader.send(outcome.clone());
        }
    }
}

/// One round: by heartbeats where this member leads, else by asking the leader how far this member must have applied.
/// Asking again does no harm, so a change of leader is waited for.
async fn round(raft: &Raft, roster: &Roster) -> Result<(), Error> {
    let until = Instant::now() + roster.timing.request;
    loop {
        let leader = raft.metrics().borrow_watched().current_leader;
        let left = until.saturating_duration_since(Instant::now());
        let asked = match leader {
            Some(leader) if leader != roster.me && roster.hears() => {
                let link = roster.link(leader);
                match link.call(roster, Kind::Read, left, |_| ()).await {
                    Ok(_) if planted(Bug::FollowerReadsEarly) => Ok(()),
                    Ok(body) => applied(raft, message::number(body).map_err(Error::Storage)?, left).await,
                    Err(Failure::Refused(error)) => Err(error),
                    Err(Failure::Unreached(_) | Failure::Lost(_)) => Err(Error::NoLeader),
                }
            }
            Some(leader) if leader == roster.me => {
                if planted(Bug::LeaderReadsAlone) {
                    return Ok(());
                }
                let confirmed = raft.ensure_linearizable(ReadPolicy::ReadIndex).await;
                confirmed.map(|_| ()).map_err(|e| refusal(&e))
            }
            _ => Err(Error::NoLeader),
        };
        match asked {
            Err(Error::NoLeader | Error::Timeout) if Instant::now() + PAUSE < until => tokio::time::sleep(PAUSE).await,
            asked => return asked,
        }
    }
}

/// Waits until an entry is applied here.
pub(crate) async fn applied(raft: &Raft, index: u64, limit: Duration) -> Result<(), Error> {
    let mut metrics = raft.metrics();
    let reached = async {
        loop {
            if metrics.borrow_watched().last_applied.is_some_and(|id| id.index >= index) {
                return Ok(());
            }
            metrics.changed().await.map_err(|_| Error::Stopped)?;
        }
    };
    timeout(limit, reached).await.unwrap_or(Err(Error::Timeout))
}

fn refusal(error: &RaftError<crate::types::Types, LinearizableReadError<crate::types::Types>>) -> Error {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(_)) => Error::NoLeader,
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => Error::Timeout,
        RaftError::Fatal(_) => Error::Stopped,
    }
}
