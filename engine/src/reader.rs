//! Consistent reads from any thread, without a lock, while the writer goes on.

use std::sync::Arc;

use crate::auth::{Asker, Auth, AuthListener, Refusal};
use crate::backend::Space;
use crate::command::{Command, RangeRequest, RangeResponse, Txn};
use crate::lease::{LeaseInfo, LeaseTime};
use crate::listing::{Head, Listing};
use crate::plant::{Bug, planted};
use crate::range;
use crate::snapshot::{Shared, Snapshot};
use crate::watch::{WatchSpec, Watcher};
use crate::{Alarm, Applied, Error, Revision};

/// Times that a read of the newest state is repeated because a compaction overtook it.
pub(crate) const RETRIES: usize = 8;

/// A handle on the published state. Cheap to clone; every call sees the newest published revision, and one call sees
/// one revision only.
#[derive(Clone)]
pub struct Reader {
    pub(crate) shared: Arc<Shared>,
}

impl Reader {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// The store's current revision, from 1.
    pub fn revision(&self) -> i64 {
        self.shared.snapshot.load().revision
    }

    /// The oldest revision that can still be read; 0 before the first compaction.
    pub fn compacted_revision(&self) -> i64 {
        self.shared.snapshot.load().compacted.max(0)
    }

    /// Position of the last entry whose effects can be read.
    pub fn applied(&self) -> Option<Applied> {
        self.shared.snapshot.load().applied
    }

    /// Reads keys; returns the store's current revision, for the response header, with the answer.
    ///
    /// # Errors
    /// [`Error::FutureRevision`] and [`Error::Compacted`] for a revision that does not exist yet or no longer;
    /// [`Error::Storage`] when the backend fails or lacks a record.
    pub fn range(&self, request: &RangeRequest) -> Result<(i64, RangeResponse), Error> {
        let mut attempt = 0;
        loop {
            let snapshot = self.snapshot();
            let at = read_revision(request, snapshot.revision, snapshot.compacted)?;
            match range::execute(&snapshot.tree, at, request, &*self.shared) {
                Ok(response) => return Ok((snapshot.revision, response)),
                // The record is gone. Either a compaction has passed this read's revision meanwhile, or it is lost.
                Err(Error::Compacted) if self.shared.snapshot.load().compacted <= at => {
                    return Err(Error::Storage(format!("a record of revision {at} or older is missing")));
                }
                Err(Error::Compacted) if request.revision <= 0 && attempt < RETRIES => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// What [`Reader::range`] would answer, to be read while it is sent; `None` where it is not worth it, or not known
    /// beforehand: see [`Listing::size`]. `size` tells the size of a key with a value of so many bytes, `least` from which
    /// sum on it is worth it.
    ///
    /// # Errors
    /// As [`Reader::range`].
    pub fn listing(
        &self,
        request: &RangeRequest,
        least: usize,
        size: &dyn Fn(&Head, usize) -> usize,
    ) -> Result<Option<Listing>, Error> {
        Listing::new(&self.shared, request, least, size)
    }

    /// Starts a watch.
    pub fn watch(&self, spec: WatchSpec) -> Watcher {
        Watcher::new(Arc::clone(&self.shared), spec)
    }

    /// A lease and its keys.
    pub fn lease(&self, id: i64) -> Option<LeaseInfo> {
        self.shared.leases.get(id)
    }

    /// Every lease, in id order, copied a bounded number at a time: the writer never waits for the whole list. A lease
    /// that comes or goes meanwhile may or may not be among them.
    pub fn leases(&self) -> impl Iterator<Item = LeaseTime> + '_ {
        self.shared.leases.each()
    }

    /// Number of leases.
    pub fn lease_count(&self) -> usize {
        self.shared.leases.len()
    }

    /// Number of keys that exist now.
    pub fn key_count(&self) -> u64 {
        self.shared.snapshot.load().tree.summary().live
    }

    /// Number of superseded writes and tombstones that a compaction could drop.
    pub fn history_count(&self) -> u64 {
        self.shared.snapshot.load().tree.summary().garbage
    }

    /// The alarms that stand, in order of kind and member.
    pub fn alarms(&self) -> Arc<[Alarm]> {
        Arc::clone(&self.shared.snapshot.load().alarms)
    }

    /// Users and roles, and whether they are asked for: the newest published state, which never changes itself.
    pub fn auth(&self) -> Arc<Auth> {
        self.shared.auth.load_full()
    }

    /// Whether requests are to be checked. Costs next to nothing, for the sake of all requests without auth.
    pub fn auth_enabled(&self) -> bool {
        self.shared.auth.load().enabled()
    }

    /// Another number after every change of [`Reader::auth`], cheap to look at.
    pub fn auth_stamp(&self) -> u64 {
        let auth = self.shared.auth.load();
        auth.revision() << 1 | u64::from(auth.enabled())
    }

    /// A command that this system asks for by itself, whatever users may do.
    pub fn by_system(&self, command: Command) -> Command {
        command.by(&self.shared.auth.load(), &Asker::System)
    }

    /// Whether the asker may do all that a transaction might do, at this moment: for those that need no place in the
    /// log. All others are checked when they are applied.
    ///
    /// # Errors
    /// As [`Auth::check_read`].
    pub fn check_txn(&self, auth: &Auth, asker: &Asker, txn: &Txn) -> Result<(), Refusal> {
        auth.check_txn(asker, txn, &self.shared.leases)
    }

    /// Whose a simple token is. It is then good for `ttl_ms` milliseconds from `now_ms` on, by the caller's clock.
    pub fn token_user(&self, token: &str, now_ms: u64, ttl_ms: u64) -> Option<Arc<str>> {
        self.shared.tokens.user(token, now_ms, ttl_ms)
    }

    /// Frees the memory of tokens that have run out. Those that nobody has used yet begin to run.
    pub fn sweep_tokens(&self, now_ms: u64, ttl_ms: u64) {
        self.shared.tokens.sweep(now_ms, ttl_ms);
    }

    /// Ends all simple tokens of this member: those that a replayed log has brought back are of another life.
    pub fn forget_tokens(&self) {
        self.shared.tokens.clear();
    }

    /// To be told when users, roles or their permissions change.
    pub fn auth_listener(&self) -> AuthListener {
        self.shared.listeners.join()
    }

    /// Bytes that the backend takes, what it holds in memory only included. Two loads: what was measured some writes
    /// ago and what was written since; [`Reader::measure_size`] is exact.
    pub fn size_bytes(&self) -> u64 {
        self.shared.size.total()
    }

    /// Bytes of [`Reader::size_bytes`] that are not free for new writes, estimated: the rest is what compaction has
    /// left behind and the backend has not yet given back.
    pub fn in_use_bytes(&self) -> u64 {
        self.shared.size.in_use()
    }

    /// Asks the backend how large it is, so that [`Reader::size_bytes`] and [`Reader::in_use_bytes`] are exact at this
    /// moment. Some microseconds.
    pub fn measure_size(&self) {
        self.shared.size.measure(&*self.shared.backend);
    }

    /// Rewrites the backend so that nothing of what was overwritten or deleted takes space any more. Takes as long as
    /// the disk takes to read and write the whole store; call it from a thread of its own, reads and writes go on.
    ///
    /// # Errors
    /// [`Error::Storage`] when the backend fails.
    pub fn defragment(&self) -> Result<(), Error> {
        Space::ALL.into_iter().try_for_each(|space| self.shared.backend.compact(space, None, true))?;
        self.measure_size();
        Ok(())
    }

    /// Gives back the space of history that a compaction has dropped. Like [`Reader::defragment`], but rewrites only
    /// what holds some of it.
    ///
    /// # Errors
    /// [`Error::Storage`] when the backend fails.
    pub fn free_compacted(&self) -> Result<(), Error> {
        let end = Revision { main: self.compacted_revision().saturating_add(1), sub: 0 };
        self.shared.backend.compact(Space::Revisions, Some(&end.to_bytes()), false)?;
        self.measure_size();
        Ok(())
    }

    /// Ends a [`Reader::defragment`] or [`Reader::free_compacted`] that is under way, and all later ones at once.
    pub fn interrupt(&self) {
        self.shared.backend.interrupt();
    }

    /// Bytes of records held in memory.
    pub fn cache_bytes(&self) -> u64 {
        self.shared.cache.used()
    }

    /// Makes everything durable that was applied when the call began, and returns its position. The backend has no
    /// log: entries behind this position must be applied again after a crash. Takes as long as the disk does; call
    /// it from a thread of its own, the writer need not wait.
    ///
    /// # Errors
    /// [`Error::Storage`] when the backend fails.
    pub fn flush(&self) -> Result<Option<Applied>, Error> {
        let applied = self.applied();
        self.shared.backend.flush()?;
        self.measure_size();
        Ok(applied)
    }
}

/// The revision that a request is to be answered at.
pub(crate) fn read_revision(request: &RangeRequest, current: i64, compacted: i64) -> Result<i64, Error> {
    if request.revision > current {
        return Err(Error::FutureRevision);
    }
    let at = if request.revision <= 0 { current } else { request.revision };
    if at < compacted && !planted(Bug::CompactedIsAnswered) { Err(Error::Compacted) } else { Ok(at) }
}
