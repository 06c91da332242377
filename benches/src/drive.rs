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
    /// Latest answer that still counts as good, from when the request was due.
    pub patience: Duration,
    /// Longest that the run may take.
    pub deadline: Duration,
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Requests that were answered well.
    pub answered: u64,
    /// Requests that were answered well within the run's patience.
    pub timely: u64,
    /// Requests that the server refused.
    pub failed: u64,
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

/// What the workers of one thread have seen.
pub(crate) struct Tally {
    pub timely: u64,
    pub failed: u64,
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

/// What the workers of one load thread share.
pub(crate) struct Lane {
    pub shared: Arc<Shared>,
    pub tally: Mutex<Tally>,
    /// Requests that are due and not sent yet, oldest first; at most as many as the run has.
    due: Mutex<VecDeque<(u64, Duration)>>,
    news: Notify,
    /// Every request of this lane has become due.
    all_due: AtomicBool,
}

impl Lane {
    pub fn new(shared: Arc<Shared>) -> Result<Lane, Error> {
        let tally = Tally { timely: 0, failed: 0, refusal: None, latencies: histogram()?, last: Duration::ZERO };
        Ok(Lane {
            shared,
            tally: Mutex::new(tally),
            due: Mutex::new(VecDeque::new()),
            news: Notify::new(),
            all_due: AtomicBool::new(false),
        })
    }

    /// The next request and when it is, or was, due; `None` when there is none left.
    async fn take(&self) -> Option<(u64, Duration)> {
        if let Pace::Closed { operations } = self.shared.load.pace {
            let number = self.shared.issued.fetch_add(1, Ordering::Relaxed);
            let more = number < operations && !self.shared.over.load(Ordering::Relaxed);
            return more.then(|| (number, self.shared.began.elapsed()));
        }
        loop {
            if self.shared.over.load(Ordering::Relaxed) {
                return None;
            }
            let news = self.news.notified();
            // The flag first: it is set after the last request was queued.
            let last = self.all_due.load(Ordering::Acquire);
            if let Some(request) = self.due.lock().pop_front() {
                return Some(request);
            }
            if last {
                return None;
            }
            news.await;
        }
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
                self.due.lock().push_back((next, schedule.due(next)));
                self.news.notify_one();
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
            let answer = connection.unary(call.method, call.framed, call.keep).await;
            let now = self.shared.began.elapsed();
            let refusal = match answer {
                Ok(message) => {
                    source.answered(message)?;
                    None
                }
                Err(Error::Status { method, code, message }) if load.failures == Failures::Counted => {
                    Some(Error::Status { method, code, message }.to_string())
                }
                Err(error) => return Err(error),
            };
            let mut tally = self.tally.lock();
            tally.last = now;
            match refusal {
                None => {
                    tally.timely += u64::from(now.saturating_sub(due) <= load.patience);
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
        Ok(())
    }
}
