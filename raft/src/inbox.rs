//! Outcomes for callers who have many commands under way: gathered, so that a whole batch wakes each of them once.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use kelson_engine::Outcome;
use parking_lot::Mutex;

use crate::Error;

/// An outcome, under the number that its command was submitted with.
type Numbered = (u64, Result<Outcome, Error>);

/// Where the outcomes of [`Node::submit`](crate::Node::submit) go. It holds as many as there were commands under way, which the queue
/// of commands bounds.
#[derive(Debug, Default)]
pub struct Inbox {
    arrived: Mutex<Vec<Numbered>>,
    waker: AtomicWaker,
}

impl Inbox {
    /// Takes what has arrived, in the order in which it was decided, into `into`, which must be empty. For one caller only, who is woken
    /// when more arrives.
    pub fn poll_take(&self, task: &mut Context<'_>, into: &mut Vec<(u64, Result<Outcome, Error>)>) -> Poll<()> {
        debug_assert!(into.is_empty());
        // First the waker: what arrives behind the look wakes it.
        self.waker.register(task.waker());
        // The room of what was taken before is used again.
        std::mem::swap(&mut *self.arrived.lock(), into);
        if into.is_empty() { Poll::Pending } else { Poll::Ready(()) }
    }
}

/// The right to put one outcome into an inbox, and the duty: one that is dropped says that the node has stopped.
#[derive(Debug)]
pub(crate) struct Ticket {
    inbox: Option<Arc<Inbox>>,
    number: u64,
}

impl Ticket {
    pub(crate) fn new(inbox: &Arc<Inbox>, number: u64) -> Self {
        Ticket { inbox: Some(inbox.clone()), number }
    }

    /// Gives back the right unused.
    pub(crate) fn void(mut self) {
        self.inbox = None;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(inbox) = self.inbox.take() {
            inbox.arrived.lock().push((self.number, Err(Error::Stopped)));
            inbox.waker.wake();
        }
    }
}

/// Inboxes into which something was put, woken when this goes.
#[derive(Default)]
pub(crate) struct Inboxes(Vec<Arc<Inbox>>);

impl Inboxes {
    pub(crate) fn put(&mut self, mut ticket: Ticket, answer: Result<Outcome, Error>) {
        let Some(inbox) = ticket.inbox.take() else { return };
        let first = {
            let mut arrived = inbox.arrived.lock();
            arrived.push((ticket.number, answer));
            arrived.len() == 1
        };
        // One that holds more is to be woken already, or its owner is about to look.
        if first {
            self.0.push(inbox);
        }
    }
}

impl Drop for Inboxes {
    fn drop(&mut self) {
        self.0.drain(..).for_each(|inbox| inbox.waker.wake());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Waker;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn outcome(revision: i64) -> Result<Outcome, Error> {
        Ok(Outcome::Compact { revision })
    }

    #[test]
    fn a_batch_wakes_each_inbox_once() {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let task = &mut Context::from_waker(&waker);
        let inboxes = [(); 2].map(|()| Arc::new(Inbox::default()));
        let mut taken = Vec::new();
        assert!(inboxes.iter().all(|inbox| inbox.poll_take(task, &mut taken).is_pending()));
        {
            let mut batch = Inboxes::default();
            for number in 0..10 {
                batch.put(Ticket::new(&inboxes[number as usize % 2], number), outcome(number as i64));
            }
            assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        }
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        for (first, inbox) in inboxes.iter().enumerate() {
            taken.clear();
            assert!(inbox.poll_take(task, &mut taken).is_ready());
            let numbers: Vec<u64> = taken.iter().map(|(number, _)| *number).collect();
            assert_eq!(numbers, [0, 2, 4, 6, 8].map(|number| number + first as u64));
            taken.clear();
            assert!(inbox.poll_take(task, &mut taken).is_pending());
        }
    }

    #[test]
    fn a_ticket_that_is_lost_says_so_and_one_given_back_nothing() {
        let inbox = Arc::new(Inbox::default());
        drop(Ticket::new(&inbox, 7));
        Ticket::new(&inbox, 8).void();
        let mut taken = Vec::new();
        assert!(inbox.poll_take(&mut Context::from_waker(Waker::noop()), &mut taken).is_ready());
        assert_eq!(taken, [(7, Err(Error::Stopped))]);
    }
}
