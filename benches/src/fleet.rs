//! Connections on threads of their own, and runs on them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::connection::{Connection, Method};
use crate::drive::{Lane, Load, Outcome, Shared, Source};
use crate::error::Error;
use crate::frame::Keep;
use crate::pace::histogram;

/// Called about ten times a second with the number of answers so far; says how the run goes on.
pub type Tick<'a> = &'a mut dyn FnMut(u64) -> Wish;

/// What the caller of a run wants of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Go on.
    Continue,
    /// Send no more; the run ends well when everything that is under way is answered.
    Finish,
    /// End now, as interrupted.
    Abort,
}

/// Pause between two ticks.
const TICK: Duration = Duration::from_millis(100);

/// A thread with a runtime of one thread.
struct LoadThread {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl LoadThread {
    fn start() -> Result<LoadThread, Error> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Error::Threads)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let body = move || {
            // Either way it is the end: somebody said so, or nobody is left to say it.
            let _ = runtime.block_on(stopped);
        };
        let thread = std::thread::Builder::new().name("load".into()).spawn(body).map_err(Error::Threads)?;
        Ok(LoadThread { handle, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for LoadThread {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Connections to one server. They close when it is dropped.
pub struct Fleet {
    threads: Vec<LoadThread>,
    /// Each with the number of its thread.
    connections: Vec<(usize, Connection)>,
}

/// Aborts tasks that nobody waits for any more.
pub(crate) struct AbortOnDrop(pub Vec<AbortHandle>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

impl Fleet {
    /// Opens `connections` (at least one) to `http://HOST:PORT` on `threads` threads, but no more threads than
    /// connections. Blocks.
    ///
    /// # Errors
    /// If one of them cannot be opened within `limit`.
    pub fn connect(url: &str, connections: usize, threads: usize, limit: Duration) -> Result<Fleet, Error> {
        let connections = connections.max(1);
        let threads: Result<Vec<_>, _> = (0..threads.clamp(1, connections)).map(|_| LoadThread::start()).collect();
        let mut fleet = Fleet { threads: threads?, connections: Vec::with_capacity(connections) };
        for number in 0..connections {
            let thread = number % fleet.threads.len();
            let (what, opened) = (format!("connecting to {url}"), url.to_owned());
            let connection = fleet.wait(thread, &what, limit, async move { Connection::open(&opened).await })?;
            fleet.connections.push((thread, connection));
        }
        Ok(fleet)
    }

    /// The `number`th connection, round and round, and the handle of the thread that drives it.
    pub fn connection(&self, number: usize) -> (Handle, Connection) {
        let (thread, connection) = &self.connections[number % self.connections.len()];
        (self.threads[*thread].handle.clone(), connection.clone())
    }

    fn wait<T: Send + 'static>(
        &self,
        thread: usize,
        what: &str,
        limit: Duration,
        future: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let (sender, receiver) = channel();
        let task = self.threads[thread].handle.spawn(async move {
            let _ = sender.send(future.await);
        });
        let _guard = AbortOnDrop(vec![task.abort_handle()]);
        receiver.recv_timeout(limit).map_err(|_| Error::Deadline { what: what.to_owned(), limit })?
    }

    /// Waits for one call on the first connection. Blocks.
    ///
    /// # Errors
    /// If the server refuses, or does not answer within `limit`.
    pub fn call(&self, method: Method, framed: Bytes, limit: Duration) -> Result<Bytes, Error> {
        let (thread, mut connection) = self.connections[0].clone();
        self.wait(thread, method.path(), limit, async move { connection.unary(method, framed, Keep::Whole).await })
    }

    /// Runs one client for each source, spread evenly over the connections, and gives the sources back. Blocks.
    ///
    /// # Errors
    /// What a client met, [`Error::Deadline`] after the load's time, [`Error::Interrupted`] if `tick` says so.
    pub fn run(
        &self,
        load: Load,
        sources: Vec<Box<dyn Source>>,
        tick: Tick<'_>,
    ) -> Result<(Outcome, Vec<Box<dyn Source>>), Error> {
        let (outcome, mut sources) =
            self.gather(load, sources.into_iter().enumerate(), tick, |lane, connection, client| async move {
                let (number, mut source) = client;
                let mut connection = match lane.shared.load.timeout {
                    Some(limit) => connection.with_timeout(limit),
                    None => connection,
                };
                lane.work(&mut connection, &mut *source).await?;
                Ok((number, source))
            })?;
        sources.sort_by_key(|(number, _)| *number);
        Ok((outcome, sources.into_iter().map(|(_, source)| source).collect()))
    }

    /// Runs `work` for each of `clients`, spread evenly over the connections, and gives back what they return, in no
    /// order. Blocks.
    pub(crate) fn gather<C, T, F>(
        &self,
        load: Load,
        clients: impl Iterator<Item = C>,
        tick: Tick<'_>,
        work: impl Fn(Arc<Lane>, Connection, C) -> F,
    ) -> Result<(Outcome, Vec<T>), Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let shared = Arc::new(Shared::new(load));
        let lanes: Result<Vec<_>, _> = self.threads.iter().map(|_| Lane::new(shared.clone()).map(Arc::new)).collect();
        let lanes = lanes?;
        let (sender, receiver) = channel();
        let mut tasks = AbortOnDrop(Vec::new());
        for (number, client) in clients.enumerate() {
            let (thread, connection) = self.connections[number % self.connections.len()].clone();
            let (working, sender) = (work(lanes[thread].clone(), connection, client), sender.clone());
            let task = self.threads[thread].handle.spawn(async move {
                // Nobody hears it when the run was given up.
                let _ = sender.send(working.await.map(Some));
            });
            tasks.0.push(task.abort_handle());
        }
        for (number, lane) in lanes.iter().enumerate() {
            let (lane, sender, count) = (lane.clone(), sender.clone(), lanes.len() as u64);
            let task = self.threads[number].handle.spawn(async move {
                let _ = sender.send(lane.dispatch(number as u64, count).await.map(|()| None));
            });
            tasks.0.push(task.abort_handle());
        }
        // Without a sender of its own it notices when a worker is gone.
        drop(sender);
        let ended = collect(&receiver, &lanes, &shared, tasks.0.len(), tick);
        shared.over.store(true, Ordering::Relaxed);
        Ok((sum(&lanes)?, ended?))
    }
}

fn collect<T>(
    receiver: &Receiver<Result<Option<T>, Error>>,
    lanes: &[Arc<Lane>],
    shared: &Shared,
    tasks: usize,
    tick: Tick<'_>,
) -> Result<Vec<T>, Error> {
    let limit = shared.load.deadline;
    let end = Instant::now() + limit;
    let mut found = Vec::with_capacity(tasks);
    let mut left = tasks;
    let mut next_tick = Instant::now() + TICK;
    while left > 0 {
        match receiver.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
            Ok(ended) => {
                found.extend(ended?);
                left -= 1;
            }
            Err(RecvTimeoutError::Timeout) => {}
            // A worker that panicked took its sender along.
            Err(RecvTimeoutError::Disconnected) => return Err(Error::Answer("a client of the load is gone".into())),
        }
        let now = Instant::now();
        if now >= next_tick {
            next_tick = now + TICK;
            let done = shared.done.load(Ordering::Relaxed);
            match tick(done) {
                Wish::Continue => {}
                Wish::Finish => {
                    shared.over.store(true, Ordering::Relaxed);
                    lanes.iter().for_each(|lane| lane.wake());
                }
                Wish::Abort => return Err(Error::Interrupted),
            }
            if now >= end {
                let operations = shared.load.pace.operations();
                return Err(Error::Deadline { what: format!("{done} of {operations} requests are answered"), limit });
            }
        }
    }
    Ok(found)
}

fn sum(lanes: &[Arc<Lane>]) -> Result<Outcome, Error> {
    let mut outcome = Outcome {
        answered: 0,
        within: 0,
        failed: 0,
        dropped: 0,
        refusal: None,
        elapsed: Duration::ZERO,
        latencies: histogram()?,
    };
    for lane in lanes {
        let tally = lane.tally.lock();
        outcome.answered += tally.latencies.len();
        outcome.within += tally.within;
        outcome.failed += tally.failed;
        outcome.dropped += tally.dropped;
        outcome.elapsed = outcome.elapsed.max(tally.last);
        if outcome.refusal.is_none() {
            outcome.refusal.clone_from(&tally.refusal);
        }
        outcome.latencies.add(&tally.latencies).map_err(|error| Error::Answer(error.to_string()))?;
    }
    Ok(outcome)
}
