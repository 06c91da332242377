//! Workers that send requests and time the answers: as fast as they are answered, or at a fixed rate.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::connection::{Connection, Method};
use crate::error::Error;
use crate::frame::Keep;
use crate::pace::{Schedule, histogram, record};
use crate::timer::Timer;

/// One request, ready to be sent.
pub struct Call {
    /// Which call.
    pub method: Method,
    /// The framed request.
    pub framed: Bytes,
    /// What of the answer [`Source::answered`] wants to see.
    pub keep: Keep,
}

/// What one client asks for, and what it thinks of the answers.
pub trait Source: Send {
    /// The request with this number, which is, or was, due then. Numbers are given once in a run, in no order that a
    /// client could rely on.
    fn next(&mut self, number: u64, due: Instant) -> Call;

    /// Sees the answer to the request that [`Source::next`] made last.
    ///
    /// # Errors
    /// If the answer is not one that the request can have.
    fn answered(&mut self, message: Bytes) -> Result<(), Error>;
}

/// How fast requests are sent.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// Every client sends its next request when it has its answer: finds the peak.
    Closed {
        /// Requests in all.
        operations: u64,
    },
    /// At a fixed rate. A request that finds no idle client waits, and its latency counts from when it was due.
    Open {
        /// Requests in a second.
        rate: f64,
        /// Requests in all.
        operations: u64,
    },
}

impl Pace {
    /// Requests in all.
    pub fn operations(self) -> u64 {
        match self {
            Pace::Closed { operations } | Pace::Open { operations, .. } => operations,
        }
    }
}

/// What a refused request means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failures {
    /// The end of the run, with the server's words.
    Fatal,
    /// A request that failed; the next one is sent. A broken connection still ends the run.
    Counted,
}

/// A run.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How fast.
    pub pace: Pace,
    /// The number of the first request.
    pub first: u64,
    /// What a refusal means.
    pub failures: Failures,
    /// How long a client waits for an answer, from the sending; the server is told, and the request cancelled then.
    pub timeout: Option<Duration>,
    /// Whether a request that is due while every client waits is dropped. Otherwise it is sent late. Open loops only.
    pub drop_late: bool,
    /// Answers later than this after the start are counted, but not as [`Outcome::within`].
    pub window: Duration,
    /// Longest that the run may take.
    pub deadline: Duration,
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Requests that were answered well.
    pub answered: u64,
    /// Those of them that came within the load's window.
    pub within: u64,
    /// Requests that the server refused, or did not answer in time.
    pub failed: u64,
    /// Requests that were due and never sent: no client was idle.
    pub dropped: u64,
    /// The first refusal.
    pub refusal: Option<String>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Microseconds from when a request was due (sent, in a closed loop) to its good answer.
    pub latencies: Histogram<u64>,
}

impl Outcome {
    /// Good answers in a second.
    pub fn throughput(&self) -> f64 {
        self.answered as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// What a server says, or would say, of a request whose time is over.
fn timed_out(method: Method) -> Error {
    Error::Status { method: method.path(), code: 4, message: "context deadline exceeded".into() }
}

/// What the workers of one thread have seen.
pub(crate) struct Tally {
    pub within: u64,
    pub failed: u64,
    pub dropped: u64,
    pub refusal: Option<String>,
    pub latencies: Histogram<u64>,
    /// Since the start of the run.
    pub last: Duration,
}

/// What all workers of a run share.
pub(crate) struct Shared {
    pub load: Load,
    pub began: Instant,
    /// Requests given out, in a closed loop.
    issued: AtomicU64,
    /// Answers, good and bad.
    pub done: AtomicU64,
    /// A worker has failed, or the caller wants no more.
    pub over: AtomicBool,
}

impl Shared {
    pub fn new(load: Load) -> Shared {
        Shared {
            load,
            began: Instant::now(),
            issued: AtomicU64::new(0),
            done: AtomicU64::new(0),
            over: AtomicBool::new(false),
        }
    }
}

/// Requests that are due and not sent yet, and those who may send them.
#[derive(Default)]
struct Due {
    /// Oldest first. As many as there are idle workers where late requests are dropped, else as many as the run has.
    requests: VecDeque<(u64, Duration)>,
    /// Workers that wait for a request.
    idle: usize,
}

impl Due {
    /// Queues a request; false if it is to be dropped.
    fn push(&mut self, request: (u64, Duration), drop_late: bool) -> bool {
        let room = !drop_late || self.requests.len() < self.idle;
        if room {
            self.requests.push_back(request);
        }
        room
    }
}

/// What the workers of one load thread share.
pub(crate) struct Lane {
    pub shared: Arc<Shared>,
    pub tally: Mutex<Tally>,
    due: Mutex<Due>,
    news: Notify,
    /// Every request of this lane has become due.
    all_due: AtomicBool,
}

impl Lane {
    pub fn new(shared: Arc<Shared>) -> Result<Lane, Error> {
        let tally =
            Tally { within: 0, failed: 0, dropped: 0, refusal: None, latencies: histogram()?, last: Duration::ZERO };
        Ok(Lane {
            shared,
            tally: Mutex::new(tally),
            due: Mutex::default(),
            news: Notify::new(),
            all_due: AtomicBool::new(false),
        })
    }

    /// The next request and when it is, or was, due; `None` when there is none left.
    pub async fn take(&self) -> Option<(u64, Duration)> {
        if let Pace::Closed { operations } = self.shared.load.pace {
            let number = self.shared.issued.fetch_add(1, Ordering::Relaxed);
            let more = number < operations && !self.shared.over.load(Ordering::Relaxed);
            return more.then(|| (number, self.shared.began.elapsed()));
        }
        self.due.lock().idle += 1;
        let request = self.take_due().await;
        self.due.lock().idle -= 1;
        request
    }

    async fn take_due(&self) -> Option<(u64, Duration)> {
        loop {
            if self.shared.over.load(Ordering::Relaxed) {
                return None;
            }
            let news = self.news.notified();
            // The flag first: it is set after the last request was queued.
            let last = self.all_due.load(Ordering::Acquire);
            if let Some(request) = self.due.lock().requests.pop_front() {
                return Some(request);
            }
            if last {
                return None;
            }
            news.await;
        }
    }

    /// Lets idle workers see that the run is over.
    pub fn wake(&self) {
        self.news.notify_waiters();
    }

    /// Queues the requests of lane `lane` of `lanes` as they become due.
    pub async fn dispatch(self: Arc<Lane>, lane: u64, lanes: u64) -> Result<(), Error> {
        let Pace::Open { rate, operations } = self.shared.load.pace else { return Ok(()) };
        let schedule = Schedule::new(rate, operations);
        let timer = Timer::new().map_err(Error::Threads)?;
        let mut next = lane;
        while next < schedule.total() && !self.shared.over.load(Ordering::Relaxed) {
            let elapsed = self.shared.began.elapsed();
            let count = schedule.count(elapsed);
            while next < count {
                let due = (next, schedule.due(next));
                match self.due.lock().push(due, self.shared.load.drop_late) {
                    true => self.news.notify_one(),
                    false => self.tally.lock().dropped += 1,
                }
                next += lanes;
            }
            if next < schedule.total() {
                timer.wait(schedule.due(next).saturating_sub(elapsed)).await.map_err(Error::Threads)?;
            }
        }
        self.all_due.store(true, Ordering::Release);
        self.news.notify_waiters();
        Ok(())
    }

    /// One client, until there is nothing left to send.
    pub async fn work(&self, connection: &mut Connection, source: &mut dyn Source) -> Result<(), Error> {
        let load = &self.shared.load;
        while let Some((number, due)) = self.take().await {
            let call = source.next(load.first + number, self.shared.began + due);
            let answering = connection.unary(call.method, call.framed, call.keep);
            let answer = match load.timeout {
                None => answering.await,
                // The server is told of the same limit, so either side may be the first to give up.
                Some(limit) => {
                    tokio::time::timeout(limit, answering).await.unwrap_or_else(|_| Err(timed_out(call.method)))
                }
            };
            let now = self.shared.began.elapsed();
            let refusal = match answer {
                Ok(message) => {
                    source.answered(message)?;
                    None
                }
                Err(Error::Status { method, code, message }) if load.failures == Failures::Counted => {
                    Some(Error::Status { method, code, message }.to_string())
                }
                // A server that gives up a request whose time is over may reset its stream without a status.
                Err(error @ Error::Reset { .. }) if load.failures == Failures::Counted => Some(error.to_string()),
                Err(error) => return Err(error),
            };
            self.note(due, now, refusal);
        }
        Ok(())
    }

    /// Counts an answer.
    pub fn note(&self, due: Duration, now: Duration, refusal: Option<String>) {
        let mut tally = self.tally.lock();
        tally.last = now;
        match refusal {
            None => {
                tally.within += u64::from(now <= self.shared.load.window);
                record(&mut tally.latencies, due, now);
            }
            Some(words) => {
                tally.failed += 1;
                tally.refusal.get_or_insert(words);
            }
        }
        drop(tally);
        self.shared.done.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_dropped_when_no_client_is_idle_and_only_if_that_is_wanted() {
        let mut due = Due { idle: 2, ..Due::default() };
        let pushed: Vec<_> = (0..4).map(|number| due.push((number, Duration::ZERO), true)).collect();
        assert_eq!(pushed, [true, true, false, false]);
        assert!(due.push((4, Duration::ZERO), false), "a late request waits");
        assert_eq!(due.requests.len(), 3);
    }
}
