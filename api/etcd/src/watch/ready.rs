//! Which watches of a stream have something to tell: only those are polled.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

/// The ids of watches that were woken, in the order of their waking.
#[derive(Default)]
pub(super) struct Ready {
    queue: Mutex<VecDeque<i64>>,
    stream: AtomicWaker,
}

impl Ready {
    /// Has `stream` woken from now on when a watch is.
    pub(super) fn register(&self, stream: &Waker) {
        self.stream.register(stream);
    }

    pub(super) fn pop(&self) -> Option<i64> {
        self.queue.lock().pop_front()
    }
}

/// The waker of one watch. It is in the queue at most once at a time.
pub(super) struct Bell {
    id: i64,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Bell {
    pub(super) fn new(id: i64, ready: Arc<Ready>) -> Arc<Self> {
        Arc::new(Self { id, queued: AtomicBool::new(false), ready })
    }

    /// To be called before the watch is polled, so that what happens during the poll queues it again.
    pub(super) fn taken(&self) {
        self.queued.store(false, Ordering::SeqCst);
    }

    /// Queues the watch.
    pub(super) fn ring(&self) {
        if !self.queued.swap(true, Ordering::SeqCst) {
            self.ready.queue.lock().push_back(self.id);
            self.ready.stream.wake();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_queued_once_until_taken() {
        let ready = Arc::new(Ready::default());
        let (one, two) = (Bell::new(1, ready.clone()), Bell::new(2, ready.clone()));
        let waker = Waker::from(one.clone());
        waker.wake_by_ref();
        two.ring();
        waker.wake_by_ref();
        assert_eq!((ready.pop(), ready.pop(), ready.pop()), (Some(1), Some(2), None));
        waker.wake_by_ref();
        assert_eq!(ready.pop(), None, "not taken yet");
        one.taken();
        waker.wake_by_ref();
        assert_eq!(ready.pop(), Some(1));
    }
}
