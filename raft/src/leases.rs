//! Deadlines of leases. The leader counts them and proposes the revocation of those that ran out; only then do they
//! end, at one revision, for everybody.

use std::{future::Future, sync::Arc, time::Duration};

use kelson_engine::{Command, LeaseClock, Outcome, Reader};
use openraft::{RaftMetrics, ServerState, async_runtime::WatchReceiver, type_config::alias::WatchReceiverOf};
use parking_lot::Mutex;

use crate::{
    clock::Clock,
    queue::Queue,
    types::{Replies, Types},
};

/// The deadlines of this member; those of a member that does not lead mean nothing.
pub(crate) struct Leases {
    clock: Mutex<LeaseClock>,
    time: Arc<dyn Clock>,
    state: Reader,
}

/// How expired leases are revoked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expiry {
    pub(crate) every: Duration,
    /// Per look.
    pub(crate) most: usize,
}

impl Leases {
    /// Every lease of the state starts with its full time: how much of it had passed before is not known.
    pub(crate) fn new(time: Arc<dyn Clock>, state: Reader) -> Self {
        let leases = Leases { clock: Mutex::new(LeaseClock::new()), time, state };
        leases.renew_all();
        leases
    }

    /// Follows what was applied.
    pub(crate) fn observe(&self, commands: &[Command], replies: &Replies) {
        for (command, reply) in commands.iter().zip(replies) {
            match (command.plain(), reply) {
                (Command::LeaseGrant { .. }, Ok(Outcome::LeaseGrant { id, ttl, .. })) => {
                    self.clock.lock().insert(*id, *ttl, self.time.now_ms());
                }
                (Command::LeaseRevoke { id }, Ok(_)) => self.clock.lock().remove(*id),
                _ => {}
            }
        }
    }

    pub(crate) fn renew(&self, id: i64) -> Option<i64> {
        self.clock.lock().renew(id, self.time.now_ms())
    }

    /// Whole seconds that are left.
    pub(crate) fn remaining(&self, id: i64) -> Option<i64> {
        let left = self.clock.lock().remaining(id, self.time.now_ms())?;
        Some(i64::try_from(left / 1000).unwrap_or(i64::MAX))
    }

    /// Renews all: a new leader has not heard who renewed with the old one.
    fn renew_all(&self) {
        // The state is read under the lock, or a lease granted in between would be forgotten.
        let mut clock = self.clock.lock();
        clock.sync(self.state.leases(), self.time.now_ms());
    }

    /// Leases that have run out, the longest overdue first.
    fn due(&self, most: usize) -> Vec<i64> {
        self.clock.lock().expired(self.time.now_ms(), most)
    }
}

/// Revokes what has run out while this member leads. Made as soon as [`Leases::new`] has started the clock.
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

    /// Runs for ever; leadership at the moment of the call is that which the clock was started for.
    pub(crate) fn run(self) -> impl Future<Output = ()> {
        let mut led = self.leads();
        async move {
            let mut ticks = tokio::time::interval(self.expiry.every);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let leads = self.leads();
                if leads != led {
                    self.leases.renew_all();
                    led = leads;
                }
                if leads.is_some() {
                    self.revoke().await;
                }
            }
        }
    }

    async fn revoke(&self) {
        let due = self.leases.due(self.expiry.most).into_iter();
        let answers: Vec<_> =
            due.map(|id| self.queue.push(self.leases.state.by_system(Command::LeaseRevoke { id }))).collect();
        // The clock reports one again that could not be proposed, or whose fate is unknown.
        for answer in answers.into_iter().flatten() {
            let _ = answer.await;
        }
    }
}
