//! The raft log: entries, vote, committed and purged positions, as openraft wants them stored.
//!
//! A leader's writes go to a thread of their own ([`writer`]), beside which entries are sent to the others; elsewhere the
//! thread that appends them writes them. They are readable at once from the tail in memory; openraft is told when they are
//! on stable storage. The order of writes is the order of calls, votes included.

pub(crate) mod disk;
pub(crate) mod memory;
#[cfg(any(test, feature = "rocksdb"))]
pub(crate) mod segment;
mod tail;
pub(crate) mod writer;

use std::{
    fmt::Debug,
    io,
    ops::{Bound, Range, RangeBounds},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt, stream};
use kelson_engine::plant::{Bug, planted};
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    entry::RaftEntry,
    storage::{IOFlushed, RaftLogStorage},
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use self::{
    disk::{Disk, Meta},
    tail::Tail,
    writer::{Done, Ended, LogThread, Request, Shared, Writes},
};
use crate::{
    codec::{self, Identity},
    types::{LocalVote, LogEntry, LogId, Membership, Types},
};

/// Bytes of entries that applying or replicating takes out of the log at once. Whoever shares a disk or a core with a member
/// that catches up waits as long as it takes to write and apply these.
const READ_BYTES: usize = 256 << 10;

/// The log of one member; clones share it.
#[derive(Clone)]
pub(crate) struct LogStore(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    disk: Arc<dyn Disk>,
    writes: Writes,
    shared: Arc<Shared>,
    /// Whether there is something else to do while an entry is on its way to the disk.
    overlaps: OnceLock<Box<dyn Fn() -> bool + Send + Sync>>,
    tail_bytes: usize,
}

#[derive(Debug)]
struct State {
    vote: Option<LocalVote>,
    purged: Option<LogId>,
    /// Index of the oldest entry.
    first: Option<u64>,
    /// The newest entry, or `purged` when there is none.
    last: Option<LogId>,
    tail: Tail,
}

impl State {
    fn next(&self) -> u64 {
        self.last.map_or(0, |last| last.index + 1)
    }
}

impl LogStore {
    /// Opens a log and starts its thread. At most `tail_bytes` of it stay in memory once on disk.
    ///
    /// An error names the log and what of it does not read back.
    pub(crate) fn open(disk: Arc<dyn Disk>, tail_bytes: usize) -> io::Result<(Self, LogThread)> {
        let vote = read_meta(&*disk, Meta::Vote, codec::decode_vote)?;
        let committed = read_meta(&*disk, Meta::Committed, codec::decode_log_id)?;
        let purged = read_meta(&*disk, Meta::Purged, codec::decode_log_id)?;
        let bounds = disk.bounds()?;
        let last = match bounds {
            None => purged,
            Some((first, last)) => {
                if first != purged.map_or(0, |purged| purged.index + 1) {
                    return Err(corrupt(
                        &*disk,
                        &format!("its first entry is {first}, which does not follow what was purged"),
                    ));
                }
                let mut found = load(&*disk, last..last + 1, READ_BYTES)?;
                found.pop().map(|entry| entry.log_id())
            }
        };
        let shared = Arc::new(Shared::new(bounds.map(|(_, last)| last), committed));
        let (writes, thread) = writer::start(disk.clone(), shared.clone())?;
        let state =
            Mutex::new(State { vote, purged, first: bounds.map(|(first, _)| first), last, tail: Tail::default() });
        Ok((LogStore(Arc::new(Inner { state, disk, writes, shared, overlaps: OnceLock::new(), tail_bytes })), thread))
    }

    /// What the log thread has counted.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// Bytes on disk.
    pub(crate) fn size(&self) -> u64 {
        self.0.disk.size()
    }

    /// Gives back what purged entries still take.
    pub(crate) fn compact(&self) -> io::Result<()> {
        self.0.disk.compact()
    }

    /// Ends a [`LogStore::compact`] that is under way.
    pub(crate) fn interrupt(&self) {
        self.0.disk.interrupt();
    }

    /// While `overlaps` says so, entries are left to the thread; else whoever appends them writes them, and does nothing else
    /// until they are on disk: right for all but a leader of others, since what comes next waits for it anyway.
    pub(crate) fn overlap_while(&self, overlaps: impl Fn() -> bool + Send + Sync + 'static) {
        // Said once.
        let _ = self.0.overlaps.set(Box::new(overlaps));
    }

    fn send(&self, request: Request) -> io::Result<()> {
        self.0.writes.send(request).map_err(|Ended| self.closed())
    }

    fn closed(&self) -> io::Error {
        io::Error::other(format!("{} is closed", self.0.disk.place()))
    }

    async fn ask(&self, request: impl FnOnce(Done) -> Request) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.send(request(done))?;
        answer.await.unwrap_or_else(|_| Err(self.closed()))
    }

    fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<LogEntry>> {
        // Under the lock only what is in memory; what the tail has forgotten is on disk and cannot change below it.
        let (on_disk, in_memory) = {
            let state = self.0.state.lock();
            let start = range.start.max(state.first.unwrap_or(state.next()));
            let end = range.end.min(state.next());
            let split = state.tail.first().unwrap_or(state.next()).clamp(start.min(end), end);
            let in_memory = if start < split { Vec::new() } else { state.tail.read(split..end, max_bytes) };
            (start..split, (split..end, in_memory))
        };
        if on_disk.is_empty() {
            return Ok(in_memory.1);
        }
        let wanted = on_disk.end - on_disk.start;
        let mut found = load(&*self.0.disk, on_disk, max_bytes)?;
        // With the disk's part cut short the rest would leave a hole.
        if found.len() as u64 == wanted && !in_memory.0.is_empty() {
            let left = max_bytes.saturating_sub(found.iter().map(tail::weight).sum());
            if left > 0 {
                found.extend(self.read(in_memory.0, left)?);
            }
        }
        Ok(found)
    }
}

/// Reads the log's owner, or puts one in when the log is new.
pub(crate) fn identify(disk: &dyn Disk, identity: Identity) -> io::Result<Identity> {
    if let Some(owner) = read_meta(disk, Meta::Identity, codec::decode_identity)? {
        return Ok(owner);
    }
    let record = codec::encode_identity(identity);
    disk.write(&[disk::Change::Meta { name: Meta::Identity, record }], true)?;
    Ok(identity)
}

/// Index that the log begins at.
pub(crate) fn purged_end(disk: &dyn Disk) -> io::Result<u64> {
    Ok(read_meta(disk, Meta::Purged, codec::decode_log_id)?.map_or(0, |purged| purged.index + 1))
}

/// Lets the log follow a state that has come from another member and contains everything up to `applied`: what is in the
/// log behind that entry stays only if the entry itself is there, since else it can never be committed.
pub(crate) fn follow(disk: &dyn Disk, applied: LogId) -> io::Result<()> {
    let index = applied.index;
    if purged_end(disk)? > index && !planted(Bug::OldStateKept) {
        // It begins right behind the state.
        return Ok(());
    }
    let bounds = disk.bounds()?;
    if bounds.is_some_and(|(first, last)| (first..=last).contains(&index)) {
        let found = load(disk, index..index + 1, READ_BYTES)?;
        if found.first().is_some_and(|entry| entry.log_id() == applied) {
            return Ok(());
        }
    }
    let changes = [
        disk::Change::Truncate { from: index },
        disk::Change::Purge { upto: index },
        disk::Change::Meta { name: Meta::Purged, record: codec::encode_log_id(&applied) },
    ];
    disk.write(&changes, true)
}

/// Makes a log that of a cluster whose only member is `alone`: what was not committed goes, and an entry of a new term
/// says who the members are.
pub(crate) fn isolate(disk: &dyn Disk, applied: Option<LogId>, alone: Membership) -> io::Result<()> {
    let Some(me) = alone.voter_ids().next() else { return Err(io::Error::other("a cluster needs a member")) };
    let term = read_meta(disk, Meta::Vote, codec::decode_vote)?.map_or(0, |vote| vote.leader_id.term) + 1;
    let committed = read_meta(disk, Meta::Committed, codec::decode_log_id)?.max(applied);
    let next = committed.map_or(0, |id| id.index + 1);
    let leader = crate::types::LeaderId { term, node_id: me };
    let id = LogId::new(leader, next);
    let entry = LogEntry { log_id: id, payload: openraft::EntryPayload::Membership(alone) };
    disk.write(
        &[
            disk::Change::Truncate { from: next },
            disk::Change::Put { index: next, record: codec::entry_record(&entry) },
            disk::Change::Meta { name: Meta::Vote, record: codec::encode_vote(&LocalVote::new(term, me)) },
            disk::Change::Meta { name: Meta::Committed, record: codec::encode_log_id(&id) },
        ],
        true,
    )
}

fn read_meta<T>(disk: &dyn Disk, name: Meta, decode: fn(&Bytes) -> Result<T, String>) -> io::Result<Option<T>> {
    let Some(record) = disk.meta(name)? else { return Ok(None) };
    decode(&record).map(Some).map_err(|e| corrupt(disk, &format!("record \"{}\": {e}", name.name())))
}

/// Entries of a range from disk: consecutive, or an error.
fn load(disk: &dyn Disk, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<LogEntry>> {
    let mut entries = Vec::new();
    for (index, record) in disk.read(range.clone(), max_bytes)? {
        let expected = range.start + entries.len() as u64;
        let entry = codec::decode_entry(&record).map_err(|e| corrupt(disk, &format!("entry {index}: {e}")))?;
        if index != expected || entry.index() != index {
            return Err(corrupt(disk, &format!("entry {expected} is missing")));
        }
        entries.push(entry);
    }
    if entries.is_empty() {
        return Err(corrupt(disk, &format!("entry {} is missing", range.start)));
    }
    Ok(entries)
}

fn corrupt(disk: &dyn Disk, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} is corrupted: {what}", disk.place()))
}

fn bounds(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end.max(start)
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<LogEntry>> {
        self.read(bounds(&range), usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<LocalVote>> {
        Ok(self.0.state.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<LogEntry>> {
        self.read(start..end, READ_BYTES)
    }

    /// In pieces, so that a long replay does not take the whole log into memory.
    async fn entries_stream<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<LogEntry>> + OptionalSend {
        let pieces = stream::try_unfold((self.clone(), bounds(&range)), |(log, left)| async move {
            let piece = log.read(left.clone(), READ_BYTES)?;
            let Some(last) = piece.last().map(RaftEntry::index) else { return Ok::<_, io::Error>(None) };
            let piece = stream::iter(piece.into_iter().map(Ok));
            Ok(Some((piece, (log, last + 1..left.end))))
        });
        Box::pin(pieces.try_flatten())
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let state = self.0.state.lock();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &LocalVote) -> io::Result<()> {
        let record = codec::encode_vote(vote);
        if !planted(Bug::VoteForgotten) {
            self.ask(|done| Request::Vote { record, done }).await?;
        }
        self.0.state.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        *self.0.shared.committed.lock() = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        // What is committed is in the log; a position past its end says that the log lost entries it had synced.
        let committed = *self.0.shared.committed.lock();
        let last = self.0.state.lock().last;
        if committed.map(|id| id.index) > last.map(|id| id.index) {
            return Err(corrupt(&*self.0.disk, "it ends before what was committed"));
        }
        Ok(committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        {
            let mut state = self.0.state.lock();
            for entry in &entries {
                if state.last.is_some() && entry.index() != state.next() {
                    let hole = format!("entry {} does not follow {}", entry.index(), state.next() - 1);
                    return Err(io::Error::other(format!("{}: {hole}", self.0.disk.place())));
                }
                state.first.get_or_insert(entry.index());
                state.last = Some(entry.log_id());
                state.tail.push(entry.clone());
            }
            let durable = if planted(Bug::ForgottenEarly) { Some(u64::MAX) } else { self.0.shared.durable() };
            state.tail.shrink(self.0.tail_bytes, durable);
        }
        let append = Request::Append { entries, done: callback };
        match self.0.overlaps.get().is_none_or(|overlaps| overlaps()) {
            true => self.send(append),
            false => self.0.writes.write(append).map_err(|Ended| self.closed()),
        }
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let from = last_log_id.map_or(0, |id| id.index + 1);
        {
            let mut state = self.0.state.lock();
            if from >= state.next() {
                return Ok(());
            }
            state.tail.truncate(from);
            state.first = state.first.filter(|first| *first < from);
            state.last = last_log_id.max(state.purged);
        }
        self.ask(|done| Request::Truncate { from, done }).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        {
            let mut state = self.0.state.lock();
            state.tail.purge(upto.index);
            state.purged = Some(upto).max(state.purged);
            state.last = state.last.max(state.purged);
            let end = state.next();
            state.first = state.first.map(|first| first.max(upto.index + 1)).filter(|first| *first < end);
        }
        self.send(Request::Purge { upto })
    }
}
