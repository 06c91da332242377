//! Dropping history. A compaction is published at once; the work is done in small steps behind it, so it never holds
//! up a write, and a crash in the middle only means that it is found and done again after the next start.

use crate::backend::Space;
use crate::engine::Engine;
use crate::{Error, Revision};

/// How far a compaction has come.
#[derive(Default)]
pub(crate) struct Compaction {
    from: Vec<u8>,
}

/// How much one step may do.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    /// Entries of the index looked at.
    visits: usize,
    /// Keys trimmed.
    keys: usize,
    /// Records deleted.
    records: usize,
}

impl Compaction {
    /// Some tens of microseconds at the end of an apply.
    pub const BESIDE_APPLY: Step = Step { visits: 1024, keys: 64, records: 512 };
    /// A millisecond or two when nothing else is to be done.
    const ALONE: Step = Step { visits: 8192, keys: 512, records: 1024 };
}

impl Engine {
    /// Goes on with a compaction by a bounded step of a millisecond or two; returns whether there is more to do. Every
    /// [`Engine::apply`] does a smaller step; this is for times without writes.
    ///
    /// # Errors
    /// [`Error::Storage`] as for [`Engine::apply`].
    pub fn compaction_step(&mut self) -> Result<bool, Error> {
        self.check_failed()?;
        if self.compaction_pending() {
            self.compact_some(Compaction::ALONE);
            self.failed = true;
            self.commit()?;
            self.failed = false;
        }
        Ok(self.compaction_pending())
    }

    /// Whether a compaction that was asked for has not yet freed everything.
    pub fn compaction_pending(&self) -> bool {
        self.compaction.is_some() || !self.dead.is_empty()
    }

    /// Trims the index as far as the published compaction allows and adds deletions to the batch at hand. Those who
    /// still read an older snapshot below that revision find out that they were overtaken.
    pub(crate) fn compact_some(&mut self, step: Step) {
        // Nothing was freed of what a compaction took away since a listing began, which has no way to find out.
        if self.shared.holds.any_before(self.shared.snapshot.load().compacted) {
            return;
        }
        if let Some(compaction) = &mut self.compaction
            && self.dead.len() < step.records
        {
            let revision = self.shared.snapshot.load().compacted;
            let mut keys = Vec::new();
            let next = self.tree.find_dead(&compaction.from, revision, step.keys, step.visits, &mut keys);
            for key in keys {
                self.tree.trim(&key, revision, &mut self.dead);
            }
            match next {
                Some(next) => compaction.from = next,
                None => self.compaction = None,
            }
        }
        for at in self.dead.drain(..self.dead.len().min(step.records)) {
            self.batch.delete(Space::Revisions, &Revision::to_bytes(at));
        }
    }
}
