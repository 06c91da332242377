//! Short calls to one member: many callers share one stream, which is dialled when it is needed and again after it broke.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{
    Connection, Purpose, broken,
    frame::{self, Frame, Frames},
    message::{self, Kind},
    roster::Roster,
};
use crate::{Error, task};

/// Calls that may wait to be written; one more waits for a place.
const WAITING: usize = 64;

/// Answers carry this kind, and then whether the call was refused.
pub(crate) const DONE: u8 = 0;
pub(crate) const REFUSED: u8 = 1;

/// Why a call came to nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No stream could be had: the call has not been made.
    Unreached(io::Error),
    /// The stream broke, or no answer came in time: the call may have been carried out.
    Lost(String),
    /// The other member has refused it.
    Refused(Error),
}

type Answer = oneshot::Sender<Result<Bytes, Error>>;

/// The way to one member.
pub(crate) struct Link {
    target: u64,
    live: AsyncMutex<Option<Arc<Live>>>,
}

struct Live {
    calls: mpsc::Sender<Frame>,
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Live {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

struct Shared {
    pending: Mutex<Pending>,
    heard: Mutex<Instant>,
}

#[derive(Default)]
struct Pending {
    next: u64,
    answers: BTreeMap<u64, Answer>,
    broken: bool,
}

impl Link {
    pub(crate) fn new(target: u64) -> Self {
        Link { target, live: AsyncMutex::new(None) }
    }

    /// Makes a call and waits for its answer, for at most `limit` including the dialling.
    pub(crate) async fn call(
        &self,
        roster: &Roster,
        kind: Kind,
        limit: Duration,
        body: impl FnOnce(&mut Frame),
    ) -> Result<Bytes, Failure> {
        let begun = Instant::now();
        let dialled = timeout(limit.min(roster.timing.connect), self.live(roster)).await;
        let live = dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(Failure::Unreached)?;
        let (answer, answered) = oneshot::channel();
        let number = {
            let mut pending = live.shared.pending.lock();
            pending.next += 1;
            let number = pending.next;
            // What has broken meanwhile drops the answer at once.
            if !pending.broken {
                pending.answers.insert(number, answer);
            }
            number
        };
        let mut frame = Frame::new(kind as u8);
        frame.put(&number.to_le_bytes());
        body(&mut frame);
        let made = async {
            if live.calls.send(frame).await.is_err() {
                return Err(Failure::Lost("the stream has ended".to_owned()));
            }
            match answered.await {
                Ok(answer) => answer.map_err(Failure::Refused),
                Err(_) => Err(Failure::Lost("the stream has ended".to_owned())),
            }
        };
        let outcome = timeout(limit.saturating_sub(begun.elapsed()), made).await;
        if outcome.is_err() {
            live.shared.pending.lock().answers.remove(&number);
        }
        let outcome = outcome.unwrap_or_else(|_| Err(Failure::Lost("no answer in time".to_owned())));
        if matches!(outcome, Err(Failure::Refused(Error::Removed))) {
            roster.removed();
        }
        let silent = live.shared.heard.lock().elapsed() > roster.timing.stall;
        if matches!(outcome, Err(Failure::Lost(_))) && silent {
            // After a partition a stream can stay silent for long: the next call dials anew.
            self.forget(&live).await;
        }
        outcome
    }

    async fn live(&self, roster: &Roster) -> io::Result<Arc<Live>> {
        let mut live = self.live.lock().await;
        if let Some(live) = live.as_ref().filter(|live| !live.shared.pending.lock().broken) {
            return Ok(live.clone());
        }
        *live = None;
        let stream = roster.open(self.target, Purpose::Calls).await?;
        let made = Arc::new(Live::new(stream));
        *live = Some(made.clone());
        Ok(made)
    }

    async fn forget(&self, old: &Arc<Live>) {
        let mut live = self.live.lock().await;
        if live.as_ref().is_some_and(|live| Arc::ptr_eq(live, old)) {
            *live = None;
        }
    }
}

impl Live {
    fn new(stream: Frames<Box<dyn Connection>>) -> Self {
        let shared = Arc::new(Shared { pending: Mutex::default(), heard: Mutex::new(Instant::now()) });
        let (calls, mut waiting) = mpsc::channel::<Frame>(WAITING);
        let (mut frames, mut into) = stream.split();
        let writing = {
            let shared = shared.clone();
            task::spawn(async move {
                while let Some(frame) = waiting.recv().await {
                    if frame::write(&mut into, frame).await.is_err() {
                        break;
                    }
                }
                shared.end();
            })
        };
        let reading = {
            let shared = shared.clone();
            task::spawn(async move {
                let ended = loop {
                    match frames.next().await {
                        Ok(Some((kind, body))) => {
                            if let Err(error) = shared.take(kind, body) {
                                break error.to_string();
                            }
                        }
                        Ok(None) => break "it was closed".to_owned(),
                        Err(error) => break error.to_string(),
                    }
                };
                tracing::debug!("a stream of calls has ended: {ended}");
                shared.end();
            })
        };
        Live { calls, shared, tasks: [writing, reading] }
    }
}

impl Shared {
    fn take(&self, kind: u8, mut body: Bytes) -> io::Result<()> {
        *self.heard.lock() = Instant::now();
        if body.len() < 8 {
            return Err(broken("an answer without a number"));
        }
        let mut number = [0; 8];
        number.copy_from_slice(&body.split_to(8));
        // Who has given up waiting is not there any more.
        let Some(answer) = self.pending.lock().answers.remove(&u64::from_le_bytes(number)) else { return Ok(()) };
        let _ = match kind {
            DONE => answer.send(Ok(body)),
            REFUSED => answer.send(Err(message::error(body))),
            other => return Err(broken(format!("an answer of kind {other}"))),
        };
        Ok(())
    }

    fn end(&self) {
        let mut pending = self.pending.lock();
        pending.broken = true;
        pending.answers.clear();
    }
}
