//! Watchers that count what they are told, and how late.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kelson_wire::pb::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse, watch_request};
use parking_lot::Mutex;

use crate::connection::{Connection, Method, Receiving, Sending};
use crate::data::{age, range, stamp};
use crate::error::Error;
use crate::fleet::{AbortOnDrop, Fleet};
use crate::frame::frame;
use crate::pace::{histogram, record};
use crate::source::decode;
use crate::told;

/// What to watch.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// The folder, all of it.
    pub folder: &'static str,
    /// Streams, spread evenly over the fleet's connections.
    pub streams: usize,
    /// Watchers on each stream.
    pub each: usize,
}

/// What all watchers have seen so far.
pub struct Seen {
    events: AtomicU64,
    latencies: Mutex<Histogram<u64>>,
    failure: Mutex<Option<Error>>,
}

impl Seen {
    /// Events, of all watchers together.
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Fails if a watcher has.
    ///
    /// # Errors
    /// What ended it; once.
    pub fn check(&self) -> Result<(), Error> {
        self.failure.lock().take().map_or(Ok(()), Err)
    }

    /// Microseconds from when each write was due to each delivery since the last call.
    ///
    /// # Errors
    /// What ended a watcher.
    pub fn latencies(&self) -> Result<Histogram<u64>, Error> {
        self.check()?;
        Ok(std::mem::replace(&mut *self.latencies.lock(), histogram()?))
    }
}

/// Running watchers. They end when it is dropped.
pub struct Watching {
    /// What they have seen.
    pub seen: Arc<Seen>,
    _tasks: AbortOnDrop,
}

impl Fleet {
    /// Starts watchers and waits until the server has acknowledged every one. Blocks.
    ///
    /// # Errors
    /// If the server refuses one, or is not done within `limit`.
    pub fn watch(&self, watch: Watch, limit: Duration) -> Result<Watching, Error> {
        let seen = Arc::new(Seen {
            events: AtomicU64::new(0),
            latencies: Mutex::new(histogram()?),
            failure: Mutex::new(None),
        });
        let (sender, receiver) = channel();
        let mut tasks = AbortOnDrop(Vec::with_capacity(watch.streams));
        for stream in 0..watch.streams {
            let (handle, mut connection) = self.connection(stream);
            let (seen, sender) = (seen.clone(), sender.clone());
            let task = handle.spawn(async move {
                let created = create(&mut connection, watch).await;
                let (open, ready) = match created {
                    Ok(open) => (Some(open), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                let _ = sender.send(ready);
                if let Some((_sending, receiving)) = open
                    && let Err(error) = follow(receiving, &seen).await
                {
                    seen.failure.lock().get_or_insert(error);
                }
            });
            tasks.0.push(task.abort_handle());
        }
        let end = Instant::now() + limit;
        for _ in 0..watch.streams {
            let created = receiver.recv_timeout(end.saturating_duration_since(Instant::now()));
            created.map_err(|_| Error::Deadline { what: "creating watchers".into(), limit })??;
        }
        Ok(Watching { seen, _tasks: tasks })
    }
}

async fn create(connection: &mut Connection, watch: Watch) -> Result<(Sending, Receiving), Error> {
    let (key, range_end) = range(watch.folder);
    let create = WatchCreateRequest { key, range_end, ..WatchCreateRequest::default() };
    let request = frame(&WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) });
    let (mut sending, mut receiving) = connection.stream(Method::Watch, request.clone()).await?;
    for _ in 1..watch.each {
        sending.send(request.clone())?;
    }
    for _ in 0..watch.each {
        let answer: WatchResponse = match receiving.next().await? {
            Some(message) => decode(message)?,
            None => return Err(Error::Answer("the server ended a watch stream".into())),
        };
        if !answer.created || answer.canceled {
            return Err(Error::Answer(format!("a watch was not created: {:?}", answer.cancel_reason)));
        }
    }
    Ok((sending, receiving))
}

async fn follow(mut receiving: Receiving, seen: &Seen) -> Result<(), Error> {
    while let Some(message) = receiving.next().await? {
        let now = stamp(Instant::now());
        let mut latencies = seen.latencies.lock();
        let events = told::events(&message, |value| {
            record(&mut latencies, Duration::ZERO, value.and_then(|value| age(value, now)).unwrap_or_default());
        })?;
        drop(latencies);
        if events == 0 {
            let answer: WatchResponse = decode(message)?;
            if answer.canceled {
                return Err(Error::Answer(format!("a watch was cancelled: {:?}", answer.cancel_reason)));
            }
        }
        seen.events.fetch_add(events, Ordering::Relaxed);
    }
    Err(Error::Answer("the server ended a watch stream".into()))
}
