//! The log thread: turns everything that waits into one write and one sync, in the order it was asked for.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

use crossbeam_channel::{Receiver, Sender};
use openraft::{entry::RaftEntry, storage::IOFlushed};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::disk::{Change, Disk, Meta};
use crate::{
    codec,
    stats::Syncs,
    types::{LogEntry, LogId, Types},
};

/// Requests that may wait for the thread; one more makes the raft core wait. The proposer keeps far fewer under way.
const QUEUE: usize = 1024;
/// Requests merged into one write.
const MAX_MERGE: usize = 256;

/// What the log thread is asked to do.
pub(crate) enum Request {
    Append {
        entries: Vec<LogEntry>,
        done: IOFlushed<Types>,
    },
    Vote {
        record: Vec<u8>,
        done: Done,
    },
    Truncate {
        from: u64,
        done: Done,
    },
    Purge {
        upto: LogId,
    },
    /// Writes what is left and ends the thread.
    Stop,
}

pub(crate) type Done = oneshot::Sender<io::Result<()>>;

/// What the thread and the store both know.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// One more than the index of the last entry that is on disk.
    durable_end: AtomicU64,
    /// Newest committed log id; written beside the next batch, never by a write of its own.
    pub(crate) committed: Mutex<Option<LogId>>,
    pub(crate) syncs: Syncs,
}

impl Shared {
    pub(crate) fn new(last: Option<u64>, committed: Option<LogId>) -> Self {
        Shared {
            durable_end: AtomicU64::new(last.map_or(0, |last| last + 1)),
            committed: Mutex::new(committed),
            syncs: Syncs::default(),
        }
    }

    pub(crate) fn durable(&self) -> Option<u64> {
        self.durable_end.load(Ordering::Acquire).checked_sub(1)
    }
}

/// Handle of the running thread.
pub(crate) struct LogThread {
    requests: Sender<Request>,
    thread: Option<JoinHandle<()>>,
}

/// Starts the thread; the sender is for the store.
pub(crate) fn start(disk: Arc<dyn Disk>, shared: Arc<Shared>) -> io::Result<(Sender<Request>, LogThread)> {
    let (requests, waiting) = crossbeam_channel::bounded(QUEUE);
    let written = *shared.committed.lock();
    let writer = Writer { disk, shared, written, failure: None };
    let thread = std::thread::Builder::new().name("kelson-log".to_owned()).spawn(move || writer.run(&waiting))?;
    Ok((requests.clone(), LogThread { requests, thread: Some(thread) }))
}

impl LogThread {
    /// Writes what waits and ends the thread; blocks until it has ended.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // A thread that is gone already needs no telling.
        let _ = self.requests.send(Request::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.end();
    }
}

struct Writer {
    disk: Arc<dyn Disk>,
    shared: Arc<Shared>,
    /// The committed id that is on disk.
    written: Option<LogId>,
    /// The first failed write. What reached the disk is unknown after it, so nothing is written any more.
    failure: Option<(io::ErrorKind, String)>,
}

impl Writer {
    fn run(mut self, waiting: &Receiver<Request>) {
        let mut merged = Vec::new();
        let mut running = true;
        while running {
            let Ok(first) = waiting.recv() else { break };
            merged.push(first);
            while merged.len() < MAX_MERGE {
                let Ok(next) = waiting.try_recv() else { break };
                merged.push(next);
            }
            running = !merged.iter().any(|request| matches!(request, Request::Stop));
            self.write(&mut merged, !running);
        }
    }

    fn write(&mut self, merged: &mut Vec<Request>, last: bool) {
        let mut changes = Vec::with_capacity(merged.len() + 1);
        let mut sync = last;
        let mut durable_end = None;
        for request in merged.iter() {
            match request {
                Request::Append { entries, .. } => {
                    sync = true;
                    for entry in entries {
                        changes.push(Change::Put { index: entry.index(), record: codec::entry_record(entry) });
                        durable_end = Some(entry.index() + 1);
                    }
                }
                Request::Vote { record, .. } => {
                    sync = true;
                    changes.push(Change::Meta { name: Meta::Vote, record: record.clone() });
                }
                Request::Truncate { from, .. } => {
                    sync = true;
                    changes.push(Change::Truncate { from: *from });
                    durable_end = Some(*from);
                }
                // Losing a purge loses nothing, so it waits for somebody else's sync.
                Request::Purge { upto } => {
                    changes.push(Change::Purge { upto: upto.index });
                    changes.push(Change::Meta { name: Meta::Purged, record: codec::encode_log_id(upto) });
                }
                Request::Stop => {}
            }
        }
        let committed = *self.shared.committed.lock();
        if let (true, Some(id)) = (sync && committed != self.written, &committed) {
            changes.push(Change::Meta { name: Meta::Committed, record: codec::encode_log_id(id) });
        }
        if !changes.is_empty() {
            self.store(&changes, sync);
        }
        if self.failure.is_none() {
            if sync {
                self.written = committed;
            }
            if let Some(end) = durable_end {
                self.shared.durable_end.store(end, Ordering::Release);
            }
        }
        self.answer(merged);
    }

    fn store(&mut self, changes: &[Change], sync: bool) {
        if self.failure.is_some() {
            return;
        }
        let start = Instant::now();
        if let Err(error) = self.disk.write(changes, sync) {
            tracing::error!("{error}");
            self.failure = Some((error.kind(), error.to_string()));
        } else if sync {
            self.shared.syncs.record(start.elapsed());
        }
    }

    fn answer(&self, merged: &mut Vec<Request>) {
        let outcome = || match &self.failure {
            None => Ok(()),
            Some((kind, text)) => Err(io::Error::new(*kind, text.clone())),
        };
        for request in merged.drain(..) {
            match request {
                Request::Append { done, .. } => done.io_completed(outcome()),
                // Whoever asked may be gone by now.
                Request::Vote { done, .. } | Request::Truncate { done, .. } => drop(done.send(outcome())),
                Request::Purge { .. } | Request::Stop => {}
            }
        }
    }
}
