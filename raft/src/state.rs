//! Applies committed entries to the engine and vouches for what of it is on stable storage.
//!
//! The state is its own snapshot: the backend is written without a log of its own, so "building a snapshot" means
//! flushing it, after which the raft log in front of the flushed position is not needed by this member any more.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use kelson_engine::{
    Applied, Engine, Reader,
    plant::{Bug, planted},
};
use openraft::{
    EntryPayload, LogIdOptionExt, OptionalSend, RaftSnapshotBuilder, Snapshot,
    entry::RaftEntry,
    storage::{EntryResponder, RaftStateMachine},
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    codec,
    compaction::Compaction,
    forward::Forward,
    leases::Leases,
    task::blocking,
    types::{LeaderId, LogEntry, LogId, Membership, Peer, SnapshotMeta, StoredMembership, Types},
};

/// Name of the engine's blob that holds the membership.
pub(crate) const MEMBERSHIP: &str = "membership";

/// When to flush the state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Thresholds {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

/// The state machine as openraft sees it. The only writer of the engine.
pub(crate) struct StateMachine {
    engine: Engine,
    last: Option<LogId>,
    membership: StoredMembership,
    leases: Arc<Leases>,
    compaction: Arc<Compaction>,
    thresholds: Thresholds,
    /// Entries and bytes applied since the last flush was begun.
    entries: u64,
    bytes: u64,
    /// Told when a threshold is passed.
    wanted: Arc<Notify>,
    snapshot: Arc<Mutex<Option<SnapshotMeta>>>,
    /// Waits for what this member has sent to the leader.
    forward: Option<Arc<Forward>>,
}

/// Stands for the state in the backend, which is what another member is sent: see [`crate::network`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalState;

pub(crate) type LocalSnapshot = Snapshot<LeaderId, u64, Peer, LocalState>;

impl StateMachine {
    pub(crate) fn new(
        engine: Engine,
        leases: Arc<Leases>,
        compaction: Arc<Compaction>,
        thresholds: Thresholds,
        wanted: Arc<Notify>,
    ) -> Result<Self, kelson_engine::Error> {
        let last = engine.applied().map(log_id);
        let membership = match engine.meta(MEMBERSHIP)? {
            None => StoredMembership::default(),
            Some(record) => codec::decode_stored_membership(&record)
                .map_err(|e| kelson_engine::Error::Storage(format!("membership in the state is corrupted: {e}")))?,
        };
        // What was just read from the backend is on stable storage.
        let snapshot = last.map(|id| SnapshotMeta { last_log_id: Some(id), last_membership: membership.clone() });
        // A compaction that a stop has interrupted goes on.
        compaction.set_pending(engine.compaction_pending());
        Ok(StateMachine {
            engine,
            last,
            membership,
            leases,
            compaction,
            thresholds,
            entries: 0,
            bytes: 0,
            wanted,
            snapshot: Arc::new(Mutex::new(snapshot)),
            forward: None,
        })
    }

    /// Tells `forward` what is applied.
    pub(crate) fn tell(mut self, forward: Arc<Forward>) -> Self {
        self.forward = Some(forward);
        self
    }

    fn apply_entry(&mut self, entry: LogEntry) -> Result<crate::types::Replies, io::Error> {
        let log_id = entry.log_id();
        if self.last.next_index() > log_id.index {
            return Err(io::Error::other(format!("entry {} is applied already", log_id.index)));
        }
        if let Some(forward) = &self.forward
            && self.last.is_none_or(|last| last.leader_id != log_id.leader_id)
        {
            forward.observe(log_id.leader_id);
        }
        let replies = match entry.payload {
            EntryPayload::Blank => self.write(&log_id, &[], &[])?,
            EntryPayload::Membership(membership) => self.adopt(&log_id, membership)?,
            EntryPayload::Normal(batch) => {
                self.bytes += batch.encoded().len() as u64;
                let commands = batch.take_commands().map_err(|e| corrupt(&log_id, &e))?;
                let mut replies = self.write(&log_id, &commands, &[])?;
                self.leases.observe(&commands, &replies);
                batch.release_slot();
                if let (Some(origin), Some(forward)) = (batch.origin(), &self.forward) {
                    forward.complete(origin, &mut replies);
                }
                replies
            }
        };
        self.last = Some(log_id);
        self.entries += 1;
        if self.entries >= self.thresholds.entries || self.bytes >= self.thresholds.bytes {
            self.wanted.notify_one();
        }
        #[cfg(feature = "sim")]
        crate::sim::applied(&self.engine);
        Ok(replies)
    }

    fn adopt(&mut self, log_id: &LogId, membership: Membership) -> io::Result<crate::types::Replies> {
        let stored = StoredMembership::new(Some(*log_id), membership);
        let record = Bytes::from(codec::encode_stored_membership(&stored));
        let replies = self.write(log_id, &[], &[(MEMBERSHIP, record)])?;
        self.membership = stored;
        Ok(replies)
    }

    fn write(
        &mut self,
        log_id: &LogId,
        commands: &[kelson_engine::Command],
        meta: &[(&'static str, Bytes)],
    ) -> io::Result<crate::types::Replies> {
        let applied = Applied { term: log_id.leader_id.term, node: log_id.leader_id.node_id, index: log_id.index };
        let replies = self.engine.apply(applied, commands, meta).map_err(io::Error::other)?;
        self.compaction.set_pending(self.engine.compaction_pending());
        Ok(replies)
    }

    /// Frees some compacted history, unless something was applied since the entry `seen`; returns the last entry.
    pub(crate) fn compact_if_idle(&mut self, seen: Option<LogId>) -> Result<Option<LogId>, kelson_engine::Error> {
        if self.last == seen {
            let pending = self.engine.compaction_step()?;
            self.compaction.set_pending(pending);
        }
        Ok(self.last)
    }
}

pub(crate) fn log_id(applied: Applied) -> LogId {
    LogId::new(LeaderId { term: applied.term, node_id: applied.node }, applied.index)
}

fn corrupt(log_id: &LogId, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("log entry {} is corrupted: {what}", log_id.index))
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = LocalState;
    type SnapshotBuilder = Flush;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let replies = self.apply_entry(entry)?;
            if let Some(responder) = responder {
                responder.send(replies);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Flush {
        self.entries = 0;
        self.bytes = 0;
        Flush {
            state: self.engine.reader(),
            meta: SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() },
            snapshot: self.snapshot.clone(),
        }
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, _snapshot: LocalState) -> io::Result<()> {
        // A state that comes is put beside this one, and the node starts again from it: see `peer::state`.
        Err(io::Error::new(io::ErrorKind::Unsupported, "another member's state is not installed in a running node"))
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<LocalSnapshot>> {
        Ok(self.snapshot.lock().clone().map(|meta| Snapshot { meta, snapshot: LocalState }))
    }
}

/// One flush of the state as it was when this was made.
pub(crate) struct Flush {
    state: Reader,
    meta: SnapshotMeta,
    snapshot: Arc<Mutex<Option<SnapshotMeta>>>,
}

impl RaftSnapshotBuilder<Types> for Flush {
    type SnapshotData = LocalState;

    async fn build_snapshot(&mut self) -> io::Result<LocalSnapshot> {
        let state = self.state.clone();
        // Takes as long as the disk takes to write a memtable.
        let flush = move || if planted(Bug::PurgeBeforeFlush) { Ok(state.applied()) } else { state.flush() };
        let flushed = blocking(flush).await?;
        let durable = flushed.map_err(io::Error::other)?.map(log_id);
        // The log is dropped up to the position named here, so it must not be past what was flushed.
        if durable < self.meta.last_log_id {
            return Err(io::Error::other("a flush of the state has left out entries that were applied before"));
        }
        *self.snapshot.lock() = Some(self.meta.clone());
        Ok(Snapshot { meta: self.meta.clone(), snapshot: LocalState })
    }
}
