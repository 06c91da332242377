//! One watch of the local store. It is polled by whoever reads it, and by nothing else.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::Stream;
use kelson_engine::{Event, EventKind, WatchPoll, Watcher};
use kelson_raft::Node;
use kelson_wire::store::{Change, StoreError};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use super::object;
use crate::batch::BatchSize;

/// Progress is told at least so often while nothing else is.
const PROGRESS: Duration = Duration::from_secs(10);

/// The open watches of a store, to be woken when progress is asked for.
#[derive(Default)]
pub(super) struct Bells {
    /// How often progress was asked for.
    rung: AtomicU64,
    next: AtomicU64,
    wakers: Mutex<HashMap<u64, Waker>>,
}

impl Bells {
    pub(super) fn ring(&self) {
        self.rung.fetch_add(1, Ordering::SeqCst);
        let wakers = std::mem::take(&mut *self.wakers.lock());
        for waker in wakers.into_values() {
            waker.wake();
        }
    }
}

pub(super) struct LocalChanges {
    watcher: Watcher,
    node: Node,
    size: BatchSize,
    bells: Arc<Bells>,
    id: u64,
    /// Rings of the bell that were answered.
    answered: u64,
    /// A request for progress that is to be answered: the revision that must be reached.
    wanted: Option<i64>,
    clock: Pin<Box<Sleep>>,
    ended: bool,
}

impl LocalChanges {
    pub(super) fn new(watcher: Watcher, node: Node, bells: Arc<Bells>) -> Self {
        let id = bells.next.fetch_add(1, Ordering::Relaxed);
        let answered = bells.rung.load(Ordering::SeqCst);
        let clock = Box::pin(tokio::time::sleep(PROGRESS));
        Self { watcher, node, size: BatchSize::default(), bells, id, answered, wanted: None, clock, ended: false }
    }

    /// Looks for requests for progress, and has `task` woken by further ones.
    fn listen(&mut self, task: &mut Context<'_>) {
        self.bells.wakers.lock().insert(self.id, task.waker().clone());
        let rung = self.bells.rung.load(Ordering::SeqCst);
        let due = self.clock.as_mut().poll(task).is_ready();
        if due {
            self.clock.as_mut().reset(Instant::now() + PROGRESS);
            // A clock that was not polled since its reset wakes nobody.
            if self.clock.as_mut().poll(task).is_ready() {
                task.waker().wake_by_ref();
            }
        }
        if due || rung != self.answered {
            self.answered = rung;
            self.wanted = Some(self.node.reader().revision());
        }
    }
}

impl Stream for LocalChanges {
    type Item = Result<Vec<Change>, StoreError>;

    fn poll_next(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        this.listen(task);
        let failure = match this.watcher.poll(task, this.size.most()) {
            WatchPoll::Events { events, .. } => {
                this.size.seen(&events);
                return Poll::Ready(Some(Ok(events.iter().map(|event| change(event)).collect())));
            }
            WatchPoll::Idle { synced_to } => {
                // Nothing is told of a watch that begins later: there is no progress yet.
                let begun = this.watcher.spec().start_revision <= synced_to;
                if begun && this.wanted.take_if(|wanted| *wanted <= synced_to).is_some() {
                    return Poll::Ready(Some(Ok(vec![Change::Progress { revision: synced_to }])));
                }
                return Poll::Pending;
            }
            WatchPoll::Compacted { compact_revision } => StoreError::Compacted { compacted: compact_revision },
            WatchPoll::Failed(error) => StoreError::Unavailable(error.to_string()),
        };
        this.ended = true;
        Poll::Ready(Some(Err(failure)))
    }
}

impl Drop for LocalChanges {
    fn drop(&mut self) {
        self.bells.wakers.lock().remove(&self.id);
    }
}

fn change(event: &Event) -> Change {
    let previous = event.prev_kv().cloned().map(object);
    match event.kind {
        EventKind::Put => Change::Put { object: object(event.kv.clone()), previous },
        EventKind::Delete => Change::Delete { key: event.kv.key.clone(), revision: event.revision(), previous },
    }
}
