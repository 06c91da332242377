//! Deadlines of leases. The leader counts them and proposes the revocation of those that ran out; only then do they
//! end, at one revision, for everybody. Now and then it proposes to note what long leases have left, so that a restart
//! or a change of leader does not give them their full time again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kelson_engine::{
    Applied, Command, LeaseClock, Outcome, Reader,
    plant::{Bug, planted},
};
use openraft::{RaftMetrics, ServerState, async_runtime::WatchReceiver, type_config::alias::WatchReceiverOf};
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    Error,
    barrier::Barrier,
    clock::Clock,
    queue::Queue,
    types::{Replies, Types},
};

/// After a batch of revocations the log is left to others for this many times as long as the batch took.
const YIELD: u32 = 3;

/// The deadlines of this member; those of a member that does not lead mean nothing.
pub(crate) struct Leases {
    /// The term of this member's lead that the deadlines are counted for; 0 for none.
    term: AtomicU64,
    clock: Mutex<LeaseClock>,
    time: Arc<dyn Clock>,
    state: Reader,
    me: u64,
}

/// How expired leases are revoked and long ones noted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expiry {
    pub(crate) every: Duration,
    /// Revocations at once.
    pub(crate) revokes: usize,
    /// Checkpoints at once.
    pub(crate) checkpoints: usize,
}

/// A renewal that has begun.
enum Renewal {
    /// The lease has its full time again, in seconds.
    Done(i64),
    /// It has once the state notes nothing else any more.
    Noting(i64, oneshot::Receiver<Result<Outcome, Error>>),
}

impl Leases {
    /// Of the member `me`. Follows what is applied from now on; [`Leases::start`] adds what the state holds.
    pub(crate) fn new(me: u64, time: Arc<dyn Clock>, checkpoint: Duration, state: Reader) -> Self {
        let checkpoint = u64::try_from(checkpoint.as_millis()).unwrap_or(u64::MAX);
        Leases { term: AtomicU64::new(0), clock: Mutex::new(LeaseClock::new(checkpoint)), time, state, me }
    }

    /// Follows what was applied.
    pub(crate) fn observe(&self, commands: &[Command], replies: &Replies) {
        for (command, reply) in commands.iter().zip(replies) {
            match (command.plain(), reply) {
                (Command::LeaseGrant { .. }, Ok(Outcome::LeaseGrant { id, ttl, .. })) => {
                    self.clock.lock().insert(*id, *ttl, self.time.now_ms());
                }
                (Command::LeaseRevoke { id }, Ok(_)) => self.clock.lock().remove(*id),
                (Command::LeaseCheckpoint { leases }, Ok(_)) => {
                    let mut clock = self.clock.lock();
                    leases.iter().for_each(|(id, remaining)| clock.noted(*id, *remaining));
                }
                _ => {}
            }
        }
    }

    /// Gives a lease its full time again; `None` for one that is gone or has run out.
    fn renew(&self, id: i64, queue: &Queue, term: u64) -> Result<Option<Renewal>, Error> {
        self.lead(term)?;
        let mut clock = self.clock.lock();
        let Some(renewal) = clock.renew(id, self.time.now_ms()) else { return Ok(None) };
        if !renewal.noted || planted(Bug::RenewalNotNoted) {
            return Ok(Some(Renewal::Done(renewal.ttl)));
        }
        let answer = queue.push(Command::LeaseCheckpoint { leases: vec![(id, 0)] })?;
        Ok(Some(Renewal::Noting(renewal.ttl, answer)))
    }

    /// Whole seconds that are left, in the term in which this member leads.
    ///
    /// # Errors
    /// As [`Leases::lead`].
    pub(crate) fn remaining(&self, id: i64, term: u64) -> Result<Option<i64>, Error> {
        self.lead(term)?;
        let left = self.clock.lock().remaining(id, self.time.now_ms());
        Ok(left.map(|left| i64::try_from(left / 1000).unwrap_or(i64::MAX)))
    }

    /// Starts all leases of the state anew, each with what is noted of it, else with its full time: neither a new leader
    /// nor a restart knows who renewed before. To be called when all that was committed before is applied.
    pub(crate) fn start(&self) {
        // The state is read under the lock, or a lease granted in between would be forgotten.
        let mut clock = self.clock.lock();
        clock.sync(self.state.leases(), self.time.now_ms());
    }

    /// As [`Leases::start`], once for each term in which this member leads: what it counted while another led means
    /// nothing, and must neither end a lease early nor refuse to renew it.
    ///
    /// # Errors
    /// [`Error::NoLeader`] until an entry of this lead is applied: what earlier leaders have left in the log may say that
    /// a lease has more time than the state knows of.
    pub(crate) fn lead(&self, term: u64) -> Result<(), Error> {
        let is_mine = |applied: Applied| (applied.term, applied.node) == (term, self.me);
        if !self.state.applied().is_some_and(is_mine) && !planted(Bug::LeaseCountedEarly) {
            return Err(Error::NoLeader);
        }
        let mut clock = self.clock.lock();
        if self.term.swap(term, Ordering::SeqCst) != term && !planted(Bug::LeaseCarriedOver) {
            clock.sync(self.state.leases(), self.time.now_ms());
        }
        Ok(())
    }

    /// Leases that have run out, the longest overdue first.
    fn due(&self, most: usize) -> Vec<i64> {
        self.clock.lock().expired(self.time.now_ms(), most)
    }

    /// Proposes to note what some leases have left.
    fn checkpoint(&self, most: usize, queue: &Queue, term: u64) -> Option<oneshot::Receiver<Result<Outcome, Error>>> {
        let mut clock = self.clock.lock();
        let mut answer = None;
        // Pushed under the lock: a renewal that finds a checkpoint taken finds it in the queue as well.
        clock.checkpoint(self.time.now_ms(), most, |leases| {
            answer = queue.push_in(Command::LeaseCheckpoint { leases }, term).ok();
            answer.is_some()
        });
        answer
    }
}

/// Gives a lease its full time again, in the term in which this member leads; returns that in seconds, `None` for a lease
/// that is gone or has run out.
///
/// `barrier`, unless this member is alone, makes sure that it still leads and has applied what earlier leaders have left:
/// else a lease could be promised time that its end, decided elsewhere or in the log already, does not know of.
pub(crate) async fn renew(
    leases: &Leases,
    queue: &Queue,
    barrier: Option<&Barrier>,
    id: i64,
    term: u64,
) -> Result<Option<i64>, Error> {
    if let Some(barrier) = barrier.filter(|_| !planted(Bug::LeaderRenewsAlone)) {
        barrier.join()?.await.unwrap_or(Err(Error::Stopped))?;
    }
    let (ttl, answer) = match leases.renew(id, queue, term)? {
        None => return Ok(None),
        Some(Renewal::Done(ttl)) => return Ok(Some(ttl)),
        Some(Renewal::Noting(ttl, answer)) => (ttl, answer),
    };
    answer.await.unwrap_or(Err(Error::Stopped))?;
    Ok(Some(ttl))
}

/// Revokes what has run out while this member leads.
pub(crate) struct Revoker {
    pub(crate) metrics: WatchReceiverOf<Types, RaftMetrics<Types>>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) expiry: Expiry,
}

impl Revoker {
    /// The term in which this member leads.
    fn leads(&self) -> Option<u64> {
        let now = self.metrics.borrow_watched();
        (now.state == ServerState::Leader).then_some(now.current_term)
    }

    /// Runs for ever.
    pub(crate) async fn run(self) {
        let Expiry { every, checkpoints, .. } = self.expiry;
        let (mut pause, mut noted) = (every, Instant::now());
        loop {
            tokio::time::sleep(pause).await;
            pause = every;
            let Some(term) = self.leads() else { continue };
            if self.leases.lead(term).is_err() {
                continue;
            }
            if noted.elapsed() >= every {
                noted = Instant::now();
                // A checkpoint that is lost only costs the lease's early end.
                if let Some(answer) = self.leases.checkpoint(checkpoints, &self.queue, term) {
                    let _ = answer.await;
                }
            }
            if let Some(took) = self.revoke(term).await {
                pause = (took * YIELD).min(every);
            }
        }
    }

    /// Revokes one batch; returns how long that took if it was a full one, so that more may be due.
    ///
    /// Proposed in this term or not at all: who leads in the next one counts the deadlines anew.
    async fn revoke(&self, term: u64) -> Option<Duration> {
        let start = Instant::now();
        let due = self.leases.due(self.expiry.revokes);
        let is_full = due.len() == self.expiry.revokes;
        let term = if planted(Bug::RevokedInAnyTerm) { 0 } else { term };
        let revoke = |id| self.queue.push_in(self.leases.state.by_system(Command::LeaseRevoke { id }), term);
        let answers: Vec<_> = due.into_iter().map(revoke).collect();
        // The clock reports one again that could not be proposed, or whose fate is unknown.
        for answer in answers.into_iter().flatten() {
            let _ = answer.await;
        }
        is_full.then(|| start.elapsed())
    }
}
