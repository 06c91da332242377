//! The log thread: turns everything that waits into one write and one sync, in the order it was asked for. A
//! member that is alone has nobody to talk to meanwhile: it writes itself and saves the wake-ups of two threads.

#[cfg(not(feature = "sim"))]
use std::thread::JoinHandle;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use crossbeam_channel::{Receiver, Sender};
#[cfg(feature = "sim")]
use kelson_engine::plant::{Bug, planted};
use openraft::{entry::RaftEntry, storage::IOFlushed};
use parking_lot::Mutex;
use tokio::sync::oneshot;
#[cfg(feature = "sim")]
use tokio::task::JoinHandle;

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
    /// Requests that are not carried out yet; not [`Request::Stop`].
    pending: AtomicUsize,
    /// Told when something waits.
    #[cfg(feature = "sim")]
    pub(crate) filled: tokio::sync::Notify,
}

impl Shared {
    pub(crate) fn new(last: Option<u64>, committed: Option<LogId>) -> Self {
        Shared {
            durable_end: AtomicU64::new(last.map_or(0, |last| last + 1)),
            committed: Mutex::new(committed),
            syncs: Syncs::default(),
            pending: AtomicUsize::new(0),
            #[cfg(feature = "sim")]
            filled: tokio::sync::Notify::new(),
        }
    }

    pub(crate) fn durable(&self) -> Option<u64> {
        self.durable_end.load(Ordering::Acquire).checked_sub(1)
    }
}

/// The way to the thread, and past it. For one caller at a time: the order of calls is the order of writes.
pub(crate) struct Writes {
    requests: Sender<Request>,
    shared: Arc<Shared>,
    #[cfg(not(feature = "sim"))]
    writer: Arc<Mutex<Writer>>,
}

impl Writes {
    /// Leaves a request to the thread; an error says that it has ended.
    pub(crate) fn send(&self, request: Request) -> Result<(), Ended> {
        self.shared.pending.fetch_add(1, Ordering::AcqRel);
        let sent = self.requests.send(request);
        #[cfg(feature = "sim")]
        self.shared.filled.notify_one();
        sent.map_err(|_| Ended)
    }

    /// Does what is asked before it returns. As long as the thread still has something to write, it is left to the thread.
    #[cfg(not(feature = "sim"))]
    pub(crate) fn write(&self, request: Request) -> Result<(), Ended> {
        if self.shared.pending.load(Ordering::Acquire) > 0 {
            return self.send(request);
        }
        self.shared.pending.fetch_add(1, Ordering::AcqRel);
        self.writer.lock().carry_out(&mut vec![request], false);
        Ok(())
    }

    /// The simulated disk's time passes in the thread's task.
    #[cfg(feature = "sim")]
    pub(crate) fn write(&self, request: Request) -> Result<(), Ended> {
        self.send(request)
    }
}

/// The log thread has ended.
#[derive(Debug)]
pub(crate) struct Ended;

/// Handle of the running thread.
pub(crate) struct LogThread {
    requests: Sender<Request>,
    thread: Option<JoinHandle<()>>,
    #[cfg(feature = "sim")]
    shared: Arc<Shared>,
}

/// Starts the thread; [`Writes`] is for the store.
pub(crate) fn start(disk: Arc<dyn Disk>, shared: Arc<Shared>) -> io::Result<(Writes, LogThread)> {
    let (requests, waiting) = crossbeam_channel::bounded(QUEUE);
    let written = *shared.committed.lock();
    let writer = Writer { disk, shared: shared.clone(), written, failure: None };
    #[cfg(feature = "sim")]
    {
        let thread = Some(crate::task::spawn(writer.run_as_task(waiting)));
        Ok((Writes { requests: requests.clone(), shared: shared.clone() }, LogThread { requests, thread, shared }))
    }
    #[cfg(not(feature = "sim"))]
    {
        let writer = Arc::new(Mutex::new(writer));
        let run = {
            let writer = writer.clone();
            move || Writer::run(&writer, &waiting)
        };
        let thread = std::thread::Builder::new().name("kelson-log".to_owned()).spawn(run)?;
        Ok((Writes { requests: requests.clone(), shared, writer }, LogThread { requests, thread: Some(thread) }))
    }
}

impl LogThread {
    /// Writes what waits and ends the thread; blocks until it has ended.
    #[cfg(not(feature = "sim"))]
    pub(crate) async fn stop(mut self) {
        self.end();
    }

    #[cfg(not(feature = "sim"))]
    fn end(&mut self) {
        // A thread that is gone already needs no telling.
        let _ = self.requests.send(Request::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    #[cfg(feature = "sim")]
    pub(crate) async fn stop(mut self) {
        self.end();
        if let Some(task) = self.thread.take() {
            let _ = task.await;
        }
    }

    #[cfg(feature = "sim")]
    fn end(&mut self) {
        let _ = self.requests.send(Request::Stop);
        self.shared.filled.notify_one();
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

/// What a write contained, to be noted when it has succeeded.
struct Written {
    sync: bool,
    committed: Option<LogId>,
    durable_end: Option<u64>,
}

impl Writer {
    #[cfg(not(feature = "sim"))]
    fn run(writer: &Mutex<Writer>, waiting: &Receiver<Request>) {
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
            writer.lock().carry_out(&mut merged, !running);
        }
    }

    #[cfg(not(feature = "sim"))]
    fn carry_out(&mut self, merged: &mut Vec<Request>, last: bool) {
        let written = self.write(merged, last);
        self.finish(&written, merged);
    }

    /// As [`Writer::run`], on a disk that takes simulated time.
    #[cfg(feature = "sim")]
    async fn run_as_task(mut self, waiting: Receiver<Request>) {
        let mut merged = Vec::new();
        let mut running = true;
        // Says that from now on somebody waits; nothing can fail.
        let _ = self.disk.settle(false).await;
        while running {
            merged.extend(waiting.try_iter().take(MAX_MERGE));
            if merged.is_empty() {
                self.shared.filled.notified().await;
                continue;
            }
            running = !merged.iter().any(|request| matches!(request, Request::Stop));
            let written = self.write(&merged, !running);
            if planted(Bug::AnswerBeforeSync) {
                self.finish(&written, &mut merged);
            }
            if let Err(error) = self.disk.settle(written.sync).await {
                self.fail(&error);
            }
            self.finish(&written, &mut merged);
        }
    }

    fn write(&mut self, merged: &[Request], last: bool) -> Written {
        let mut changes = Vec::with_capacity(merged.len() + 1);
        let mut sync = last;
        let mut durable_end = None;
        for request in merged {
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
        // What is committed by the others may still wait here to be written: a position beyond the log's end would be taken
        // for entries that were lost.
        let end = durable_end.unwrap_or_else(|| self.shared.durable_end.load(Ordering::Acquire));
        let is_here = |id: &LogId| id.index < end;
        let committed = self.shared.committed.lock().filter(is_here).or(self.written);
        if let (true, Some(id)) = (sync && committed != self.written, &committed) {
            changes.push(Change::Meta { name: Meta::Committed, record: codec::encode_log_id(id) });
        }
        if !changes.is_empty() {
            self.store(&changes, sync);
        }
        Written { sync, committed, durable_end }
    }

    /// Notes and answers what was written.
    fn finish(&mut self, written: &Written, merged: &mut Vec<Request>) {
        if self.failure.is_none() {
            if written.sync {
                self.written = written.committed;
            }
            if let Some(end) = written.durable_end {
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
            self.fail(&error);
        } else if sync {
            self.shared.syncs.record(start.elapsed());
        }
    }

    fn fail(&mut self, error: &io::Error) {
        tracing::error!("{error}");
        self.failure = Some((error.kind(), error.to_string()));
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
                Request::Purge { .. } => {}
                Request::Stop => continue,
            }
            self.shared.pending.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
