//! Which nodes changed, in order: how a plan that was ordered once stays ordered without a rescan.
//!
//! Workers append while they claim; each plan reads from its own position on. The journal keeps the newest part only:
//! a plan that fell behind the oldest entry is made anew.

use crate::ledger::NodeId;
use crate::sync::{AtomicU32, AtomicUsize, Ordering};

/// Set in an entry when more than the node's capacity changed (labels, taints, presence, images).
const SHAPE: u32 = 1 << 31;
/// An entry that a worker has reserved and not yet written.
const EMPTY: u32 = 0;

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub node: NodeId,
    /// Whether filters other than capacity may see the node differently now.
    pub shape: bool,
}

/// Positions count from the beginning of time, so that they stay valid when old entries go.
#[derive(Debug)]
pub(crate) struct Journal {
    base: u64,
    next: AtomicUsize,
    entries: Vec<AtomicU32>,
}

impl Journal {
    pub fn new() -> Journal {
        Journal { base: 0, next: AtomicUsize::new(0), entries: Vec::new() }
    }

    /// Makes room for `more` entries and keeps at least `keep` of the old ones. Only here do entries go.
    pub fn reserve(&mut self, more: usize, keep: usize) {
        let len = self.len();
        if len + more <= self.entries.len() {
            return;
        }
        // Dropping half of what may go, at least, makes the move free per entry.
        if len > keep.max(more) * 2 {
            let gone = len - keep;
            self.entries.drain(..gone);
            self.base += gone as u64;
            self.next = AtomicUsize::new(len - gone);
        }
        let room = (self.len() + more).next_power_of_two();
        if room > self.entries.len() {
            self.entries.resize_with(room, || AtomicU32::new(EMPTY));
        }
    }

    fn len(&self) -> usize {
        self.next.load(Ordering::Relaxed)
    }

    /// Oldest position that can still be read.
    pub fn oldest(&self) -> u64 {
        self.base
    }

    /// Position after the newest entry. Entries below it may still be on their way (see [`Journal::read`]).
    pub fn end(&self) -> u64 {
        self.base + self.len() as u64
    }

    /// Appends an entry; the room was made by [`Journal::reserve`].
    pub fn push(&self, node: NodeId, shape: bool) {
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = (node.0 + 1) | if shape { SHAPE } else { 0 };
        // Release: whoever reads the entry sees the claim that it tells of.
        self.entries[at].store(entry, Ordering::Release);
    }

    /// The entry at `position`, unless it is the end or its writer has not finished: then there is more later.
    pub fn read(&self, position: u64) -> Option<Change> {
        let at = usize::try_from(position.checked_sub(self.base)?).ok()?;
        match self.entries.get(at)?.load(Ordering::Acquire) {
            EMPTY => None,
            entry => Some(Change { node: NodeId((entry & !SHAPE) - 1), shape: entry & SHAPE != 0 }),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_the_loss_of_old_entries() {
        let mut journal = Journal::new();
        for round in 0..100u32 {
            journal.reserve(10, 20);
            for at in 0..10 {
                journal.push(NodeId(round * 10 + at), at == 3);
            }
        }
        assert_eq!(journal.end(), 1000);
        assert!(journal.oldest() <= 980 && journal.oldest() > 900, "kept from {}", journal.oldest());
        for position in journal.oldest()..1000 {
            let change = Change { node: NodeId(position as u32), shape: position % 10 == 3 };
            assert_eq!(journal.read(position), Some(change));
        }
        assert_eq!(journal.read(1000), None);
        assert_eq!(journal.read(journal.oldest() - 1), None);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;
    use crate::ledger::{Ledger, Take};

    /// Whoever reads an entry sees the claim behind it; no entry is lost, whatever the interleaving.
    #[test]
    fn an_entry_publishes_its_claim() {
        loom::model(|| {
            let mut ledger = Ledger::default();
            ledger.put_column(None, 0);
            ledger.push_row(|_| Some(1));
            ledger.push_row(|_| Some(1));
            let mut journal = Journal::new();
            journal.reserve(2, 0);
            let shared = Arc::new((ledger, journal));
            let take = [Take { column: 0, amount: 1 }];
            let threads: Vec<_> = (0..2)
                .map(|node| {
                    let shared = shared.clone();
                    thread::spawn(move || {
                        assert!(shared.0.claim(NodeId(node), &take));
                        shared.1.push(NodeId(node), false);
                    })
                })
                .collect();
            let mut position = 0;
            while let Some(change) = shared.1.read(position) {
                assert_eq!(shared.0.used(0, change.node), 1);
                position += 1;
            }
            for thread in threads {
                thread.join().unwrap();
            }
            let mut nodes: Vec<_> = (0..2).map(|at| shared.1.read(at).unwrap().node.0).collect();
            nodes.sort_unstable();
            assert_eq!(nodes, [0, 1]);
        });
    }
}
