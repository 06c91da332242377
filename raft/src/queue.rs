//! Commands that wait for a place in the next log entry: bounded, lock-free for those who put something in.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam_queue::ArrayQueue;
use kelson_engine::{
    Command, MAX_TXN_DEPTH, Outcome,
    command::{Compare, CompareTarget, Op, Put, Txn},
};
use tokio::sync::{Notify, oneshot};

use crate::{
    Error,
    inbox::{Inboxes, Ticket},
};

/// Where the answer to one command goes. A caller that has given up is none of our business.
pub(crate) enum Reply {
    /// To one who waits for this answer alone.
    One(oneshot::Sender<Result<Outcome, Error>>),
    /// To one who waits for many.
    Many(Ticket),
}

impl Reply {
    /// Answers; those with an inbox hear of it when the inboxes are woken.
    pub(crate) fn send(self, answer: Result<Outcome, Error>, inboxes: &mut Inboxes) {
        match self {
            Reply::One(sender) => drop(sender.send(answer)),
            Reply::Many(ticket) => inboxes.put(ticket, answer),
        }
    }

    /// [`Reply::send`] to one alone.
    pub(crate) fn tell(self, answer: Result<Outcome, Error>) {
        self.send(answer, &mut Inboxes::default());
    }

    /// Whether nobody waits any more. One who waits for many is not asked: what it has given up may take effect late.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self, Reply::One(sender) if sender.is_closed())
    }

    /// For a command that was never let in: its caller is told otherwise.
    fn void(self) {
        match self {
            Reply::One(_) => {}
            Reply::Many(ticket) => ticket.void(),
        }
    }
}

/// One waiting command.
pub(crate) struct Waiting {
    pub(crate) command: Command,
    /// Weight of the command, see [`weight`].
    pub(crate) bytes: usize,
    pub(crate) reply: Reply,
    /// The term in which this member must lead for the command to make sense; 0 for any, and for any leader.
    pub(crate) term: u64,
}

impl Waiting {
    /// `None` for a command that could not have been put in; see [`Queue::push`].
    pub(crate) fn new(command: Command, reply: Reply) -> Option<Self> {
        let bytes = weight(&command).ok()?;
        Some(Waiting { command, bytes, reply, term: 0 })
    }
}

/// Between the callers of [`Node::propose`](crate::Node::propose) and the one proposer.
pub(crate) struct Queue {
    waiting: ArrayQueue<Waiting>,
    bytes: AtomicUsize,
    max_bytes: usize,
    closed: AtomicBool,
    filled: Notify,
    shut: Notify,
}

impl Queue {
    pub(crate) fn new(max_commands: usize, max_bytes: usize) -> Self {
        Queue {
            waiting: ArrayQueue::new(max_commands.max(1)),
            bytes: AtomicUsize::new(0),
            max_bytes,
            closed: AtomicBool::new(false),
            filled: Notify::new(),
            shut: Notify::new(),
        }
    }

    /// Puts a command in; the receiver gets its outcome.
    ///
    /// # Errors
    /// [`Error::TooManyRequests`] when full, [`Error::Stopped`] when closed, [`Error::TooDeep`].
    pub(crate) fn push(&self, command: Command) -> Result<oneshot::Receiver<Result<Outcome, Error>>, Error> {
        let (reply, answer) = oneshot::channel();
        self.push_for(command, Reply::One(reply))?;
        Ok(answer)
    }

    /// [`Queue::push`] where it is known who is to have the outcome.
    ///
    /// # Errors
    /// As there; then nobody is answered.
    pub(crate) fn push_for(&self, command: Command, reply: Reply) -> Result<(), Error> {
        self.enter(command, reply, 0).map_err(|(error, reply)| {
            reply.void();
            error
        })
    }

    /// As [`Queue::push`], for what may be proposed only while this member leads in `term`.
    pub(crate) fn push_in(
        &self,
        command: Command,
        term: u64,
    ) -> Result<oneshot::Receiver<Result<Outcome, Error>>, Error> {
        let (reply, answer) = oneshot::channel();
        self.enter(command, Reply::One(reply), term).map_err(|(error, _)| error)?;
        Ok(answer)
    }

    fn enter(&self, command: Command, reply: Reply, term: u64) -> Result<(), (Error, Reply)> {
        if self.closed.load(Ordering::SeqCst) {
            return Err((Error::Stopped, reply));
        }
        let bytes = match weight(&command) {
            Ok(bytes) => bytes,
            Err(error) => return Err((error, reply)),
        };
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        // The first one is let in whatever its size, or it could never be proposed.
        let fits = before == 0 || before.saturating_add(bytes) <= self.max_bytes;
        let waiting = Waiting { command, bytes, reply, term };
        let entered = if fits { self.waiting.push(waiting) } else { Err(waiting) };
        if let Err(refused) = entered {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err((Error::TooManyRequests, refused.reply));
        }
        if self.closed.load(Ordering::SeqCst) {
            // The one who closed may have looked before this command was in.
            self.refuse_all();
        } else {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Takes a command back that was popped and has had no effect, unless nobody waits for it any more.
    pub(crate) fn give_back(&self, waiting: Waiting) {
        if waiting.reply.is_closed() {
            return;
        }
        self.bytes.fetch_add(waiting.bytes, Ordering::Relaxed);
        if let Err(waiting) = self.waiting.push(waiting) {
            self.bytes.fetch_sub(waiting.bytes, Ordering::Relaxed);
            waiting.reply.tell(Err(Error::TooManyRequests));
        }
        if self.closed.load(Ordering::SeqCst) {
            self.refuse_all();
        } else {
            self.filled.notify_one();
        }
    }

    /// The next command, if one waits.
    pub(crate) fn pop(&self) -> Option<Waiting> {
        let next = self.waiting.pop()?;
        self.bytes.fetch_sub(next.bytes, Ordering::Relaxed);
        Some(next)
    }

    /// Waits for a command; `None` once closed. For one caller only.
    pub(crate) async fn next(&self) -> Option<Waiting> {
        loop {
            if let Some(next) = self.pop() {
                return Some(next);
            }
            if self.closed.load(Ordering::SeqCst) {
                return None;
            }
            self.filled.notified().await;
        }
    }

    /// Commands that wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Refuses what waits and whatever comes.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.refuse_all();
        self.filled.notify_one();
        self.shut.notify_waiters();
    }

    /// Waits until it is closed.
    pub(crate) async fn closed(&self) {
        // First the notice, so that a close between the look and the wait is not missed.
        let shut = self.shut.notified();
        if !self.closed.load(Ordering::SeqCst) {
            shut.await;
        }
    }

    fn refuse_all(&self) {
        let mut inboxes = Inboxes::default();
        while let Some(next) = self.pop() {
            next.reply.send(Err(Error::Stopped), &mut inboxes);
        }
    }
}

/// What a command costs against the byte bounds: its keys and values, and a little for the rest.
///
/// # Errors
/// [`Error::TooDeep`] for what could be written to the log but not read back.
fn weight(command: &Command) -> Result<usize, Error> {
    const FIXED: usize = 64;
    Ok(FIXED
        + match command.plain() {
            Command::Put(put) => put_weight(put),
            Command::DeleteRange(delete) => delete.range.start.len() + delete.range.end.len(),
            Command::Txn(txn) => txn_weight(txn, MAX_TXN_DEPTH).ok_or(Error::TooDeep)?,
            Command::LeaseCheckpoint { leases } => 16 * leases.len(),
            Command::Compact { .. }
            | Command::LeaseGrant { .. }
            | Command::LeaseRevoke { .. }
            | Command::Alarm { .. } => 0,
            Command::Auth(change) => change.encoded_hint(),
            // None is wrapped twice.
            Command::Asked(_) => 0,
        })
}

fn put_weight(put: &Put) -> usize {
    put.key.len() + put.value.len()
}

/// `None` when more than `depth` transactions are nested.
fn txn_weight(txn: &Txn, depth: usize) -> Option<usize> {
    const PER_PART: usize = 48;
    let depth = depth.checked_sub(1)?;
    let compare = |c: &Compare| {
        let value = if let CompareTarget::Value(value) = &c.target { value.len() } else { 0 };
        PER_PART + c.range.start.len() + c.range.end.len() + value
    };
    let mut bytes = txn.compares.iter().map(compare).sum();
    for op in txn.success.iter().chain(&txn.failure) {
        bytes += PER_PART
            + match op {
                Op::Range(range) => range.range.start.len() + range.range.end.len(),
                Op::Put(put) => put_weight(put),
                Op::DeleteRange(delete) => delete.range.start.len() + delete.range.end.len(),
                Op::Txn(nested) => txn_weight(nested, depth)?,
            };
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(len: usize) -> Command {
        Command::Put(Put { key: vec![b'k'; 10].into(), value: vec![b'v'; len].into(), ..Put::default() })
    }

    #[test]
    fn both_bounds_refuse_and_popping_makes_room() {
        let queue = Queue::new(2, 1000);
        let _first = queue.push(put(5000)).unwrap();
        assert_eq!(queue.push(put(1)).unwrap_err(), Error::TooManyRequests, "the bytes are used up");
        assert!(queue.pop().is_some());
        let _second = queue.push(put(1)).unwrap();
        let _third = queue.push(put(1)).unwrap();
        assert_eq!(queue.push(put(1)).unwrap_err(), Error::TooManyRequests, "the places are used up");
        queue.pop().unwrap();
        queue.pop().unwrap();
        assert_eq!(queue.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_could_not_be_read_back_is_refused() {
        let nested = |depth| {
            let innermost = Txn::default();
            let txn = (1..depth).fold(innermost, |inner, _| Txn { success: vec![Op::Txn(inner)], ..Txn::default() });
            Command::Txn(txn)
        };
        let queue = Queue::new(4, 1 << 20);
        for depth in [1, MAX_TXN_DEPTH] {
            let command = nested(depth);
            let mut encoded = Vec::new();
            command.encode(&mut encoded);
            assert_eq!(Command::decode(&encoded.into()), Ok(command.clone()));
            queue.push(command).unwrap();
        }
        assert_eq!(queue.push(nested(MAX_TXN_DEPTH + 1)).unwrap_err(), Error::TooDeep);
    }

    #[test]
    fn closing_answers_what_waits_and_refuses_what_comes() {
        let queue = Queue::new(4, 1000);
        let mut waiting = queue.push(put(1)).unwrap();
        queue.close();
        assert_eq!(waiting.try_recv().unwrap(), Err(Error::Stopped));
        assert_eq!(queue.push(put(1)).unwrap_err(), Error::Stopped);
        assert_eq!(queue.len(), 0);
    }
}
