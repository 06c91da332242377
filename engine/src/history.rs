//! What the index knows of one key: its newest write in full, and the revisions of the older ones.
//!
//! What is known of the newest write is a plain value: a reader's copy never changes, and copying a leaf of the index
//! copies memory and counts no references. Older revisions lie in an array that the leaves of successive snapshots
//! share: the writer appends behind the length that any published leaf knows, so one more version costs 16 bytes and no
//! copy. When history is trimmed, or the array is full, a new one is made.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::Revision;
use crate::sync::{AtomicI64, AtomicU64};

/// A write to record in the index.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Put {
        at: Revision,
        lease: i64,
        /// Bytes of the value.
        length: u32,
    },
    Delete {
        at: Revision,
    },
    /// As read back from the backend, which knows the generation (`create` is 0 for a tombstone).
    Load {
        at: Revision,
        create: i64,
        version: i64,
        lease: i64,
        length: u32,
    },
}

/// The live version that a change replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Before {
    pub at: Revision,
    pub lease: i64,
}

/// What a change made of the key.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Written {
    pub create: i64,
    pub version: i64,
    pub before: Option<Before>,
}

/// The newest write of a key. `create` is 0 where it is a tombstone.
#[derive(Clone, Copy, Default)]
pub(crate) struct Newest {
    main: i64,
    pub create: i64,
    pub version: i64,
    pub lease: i64,
    sub: u32,
    /// Number of older ones.
    older: u32,
    /// Bytes of the value.
    pub length: u32,
}

/// One key's history, as it lies in a leaf.
#[derive(Clone, Copy, Default)]
pub(crate) struct Entry<'a> {
    newest: Newest,
    older: Option<&'a Older>,
}

/// Writes before the newest one, ascending. Slots behind every published number of them are the writer's.
#[derive(Clone)]
pub(crate) struct Older {
    slots: Arc<[Slot]>,
}

/// `tail` holds the sub revision and, in bit 32, whether the write was a tombstone. Relaxed order suffices: a slot
/// is written before the entry that counts it is published, and never again.
#[derive(Default)]
struct Slot {
    main: AtomicI64,
    tail: AtomicU64,
}

const TOMBSTONE: u64 = 1 << 32;

/// One write in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub at: Revision,
    pub tombstone: bool,
}

impl Older {
    fn with_slots(slots: usize) -> Older {
        Older { slots: (0..slots).map(|_| Slot::default()).collect() }
    }

    fn get(&self, index: usize) -> Version {
        let slot = &self.slots[index];
        let tail = slot.tail.load(Relaxed);
        let at = Revision { main: slot.main.load(Relaxed), sub: tail as u32 };
        Version { at, tombstone: tail & TOMBSTONE != 0 }
    }

    fn set(&self, index: usize, version: Version) {
        let slot = &self.slots[index];
        slot.main.store(version.at.main, Relaxed);
        slot.tail.store(u64::from(version.at.sub) | if version.tombstone { TOMBSTONE } else { 0 }, Relaxed);
    }
}

impl Newest {
    /// Reads it.
    pub fn touch(&self) {
        std::hint::black_box(self.version);
    }

    /// When it was written, and whether it is a tombstone.
    fn written(&self) -> Version {
        Version { at: Revision { main: self.main, sub: self.sub }, tombstone: self.create == 0 }
    }

    fn is_live(&self) -> bool {
        self.create != 0
    }

    /// Records a write; the writer alone calls this, in the newest tree. `older` is the array of those before; another
    /// one that takes its place is returned where it has no room.
    pub fn write(&mut self, older: Option<&Older>, change: Change) -> (Written, Option<Older>) {
        let before = self.is_live().then(|| Before { at: self.written().at, lease: self.lease });
        let grown = if self.main != 0 { self.push_older(older) } else { None };
        let (at, create, version, lease, length) = match change {
            Change::Put { at, lease, length } if before.is_some() => (at, self.create, self.version + 1, lease, length),
            Change::Put { at, lease, length } => (at, at.main, 1, lease, length),
            Change::Delete { at } => (at, 0, 0, 0, 0),
            Change::Load { at, create, version, lease, length } => (at, create, version, lease, length),
        };
        (self.main, self.sub) = (at.main, at.sub);
        (self.create, self.version, self.lease, self.length) = (create, version, lease, length);
        (Written { create, version, before }, grown)
    }

    fn push_older(&mut self, older: Option<&Older>) -> Option<Older> {
        let (length, newest) = (self.older as usize, self.written());
        self.older += 1;
        match older {
            Some(older) if length < older.slots.len() => {
                older.set(length, newest);
                None
            }
            full => {
                let grown = Older::with_slots((length * 2).max(2));
                if let Some(full) = full {
                    (0..length).for_each(|index| grown.set(index, full.get(index)));
                }
                grown.set(length, newest);
                Some(grown)
            }
        }
    }

    /// Forgets the oldest writes, so that `left` of those before the newest are left: the last ones of `older`, in an
    /// array of their own, which is returned.
    pub fn forget(&mut self, left: usize, older: Option<&Older>) -> Option<Older> {
        let gone = self.older as usize - left;
        self.older = left as u32;
        let older = older.filter(|_| left > 0)?;
        let trimmed = Older::with_slots(left);
        (0..left).for_each(|index| trimmed.set(index, older.get(gone + index)));
        Some(trimmed)
    }
}

impl Deref for Entry<'_> {
    type Target = Newest;

    fn deref(&self) -> &Newest {
        &self.newest
    }
}

impl<'a> Entry<'a> {
    pub fn new(newest: &Newest, older: Option<&'a Older>) -> Entry<'a> {
        Entry { newest: *newest, older }
    }

    /// The newest write.
    pub fn newest(self) -> Version {
        self.newest.written()
    }

    pub fn is_live(self) -> bool {
        self.newest.is_live()
    }

    /// Writes that a compaction may one day drop.
    pub fn garbage(self) -> u64 {
        u64::from(self.newest.older) + u64::from(!self.is_live())
    }

    /// Number of writes kept.
    pub fn versions(self) -> usize {
        self.newest.older as usize + 1
    }

    /// The write with this index, oldest first.
    pub fn version(self, index: usize) -> Version {
        match self.older {
            Some(older) if index < self.newest.older as usize => older.get(index),
            _ => self.newest(),
        }
    }

    /// Number of writes at `revision` or before it.
    fn upto(self, revision: i64) -> usize {
        if self.main <= revision {
            return self.versions();
        }
        let (mut low, mut high) = (0, self.newest.older as usize);
        while low < high {
            let middle = (low + high) / 2;
            if self.version(middle).at.main <= revision { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// The write that a reader at `revision` sees; `None` where the key does not exist then.
    pub fn visible(self, revision: i64) -> Option<Revision> {
        let upto = self.upto(revision);
        let version = self.version(upto.checked_sub(1)?);
        (!version.tombstone).then_some(version.at)
    }

    /// How many of the oldest writes nobody may read any more once history is compacted at `revision`: all before
    /// the one that is visible there, and that one too if it is a tombstone. Writes at `revision` itself are kept,
    /// tombstones and those that others of the same transaction replaced too, because a watch may start there.
    pub fn dead(self, revision: i64) -> usize {
        let Some(last) = self.upto(revision).checked_sub(1) else { return 0 };
        let version = self.version(last);
        if version.at.main == revision {
            return self.upto(revision - 1);
        }
        last + usize::from(version.tombstone)
    }

    /// Whether there is anything [`Entry::dead`].
    pub fn has_dead(self, revision: i64) -> bool {
        self.garbage() > 0 && self.dead(revision) > 0
    }

    /// The writes that are left when history is compacted at `revision`, oldest first.
    pub fn kept(self, revision: i64) -> impl Iterator<Item = Version> + 'a {
        (self.dead(revision)..self.versions()).map(move |index| self.version(index))
    }

    /// Whether the write at `at` is among [`Entry::kept`].
    pub fn keeps(self, at: Revision, revision: i64) -> bool {
        self.kept(revision).map(|version| version.at).take_while(|kept| *kept <= at).any(|kept| kept == at)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn at(main: i64) -> Revision {
        Revision { main, sub: 0 }
    }

    /// A key's history by itself.
    #[derive(Clone, Default)]
    struct Own {
        newest: Newest,
        older: Option<Older>,
    }

    impl Own {
        fn write(&mut self, change: Change) -> Written {
            let (written, grown) = self.newest.write(self.older.as_ref(), change);
            self.older = grown.or(self.older.take());
            written
        }

        fn is(&self) -> Entry<'_> {
            Entry::new(&self.newest, self.older.as_ref())
        }

        fn trim(&mut self, revision: i64, dropped: &mut Vec<Revision>) -> bool {
            let dead = self.is().dead(revision);
            dropped.extend((0..dead).map(|index| self.is().version(index).at));
            if dead == self.is().versions() {
                return true;
            }
            if dead > 0 {
                let left = self.is().versions() - 1 - dead;
                self.older = self.newest.forget(left, self.older.as_ref());
            }
            false
        }
    }

    fn entry() -> Own {
        let mut entry = Own::default();
        entry.write(Change::Put { at: at(2), lease: 0, length: 1 });
        entry.write(Change::Put { at: at(4), lease: 9, length: 1 });
        entry.write(Change::Delete { at: at(6) });
        entry.write(Change::Put { at: at(8), lease: 0, length: 1 });
        entry
    }

    #[test]
    fn generations() {
        let mut entry = Own::default();
        let first = entry.write(Change::Put { at: at(2), lease: 0, length: 1 });
        assert_eq!((first.create, first.version, first.before), (2, 1, None));
        let second = entry.write(Change::Put { at: at(3), lease: 5, length: 1 });
        assert_eq!((second.create, second.version), (2, 2));
        assert_eq!(second.before, Some(Before { at: at(2), lease: 0 }));
        let gone = entry.write(Change::Delete { at: at(4) });
        assert_eq!(gone.before, Some(Before { at: at(3), lease: 5 }));
        assert!(!entry.is().is_live());
        let again = entry.write(Change::Put { at: at(5), lease: 0, length: 1 });
        assert_eq!((again.create, again.version, again.before), (5, 1, None));
    }

    #[test]
    fn every_revision_sees_its_version() {
        let seen: Vec<_> = (1..=9).map(|revision| entry().is().visible(revision).map_or(0, |at| at.main)).collect();
        assert_eq!(seen, [0, 2, 2, 4, 4, 0, 0, 8, 8]);
    }

    #[test]
    fn a_published_copy_does_not_see_later_writes() {
        let mut writer = entry();
        let reader = writer.clone();
        for main in 9..30 {
            writer.write(Change::Put { at: at(main), lease: 0, length: 1 });
        }
        assert_eq!(reader.is().versions(), 4);
        assert_eq!(reader.is().visible(100), Some(at(8)));
        assert_eq!(reader.is().visible(5), Some(at(4)));
        assert_eq!(writer.is().visible(20), Some(at(20)));
        assert_eq!(writer.is().visible(5), Some(at(4)));
    }

    #[test]
    fn trimming_keeps_every_write_of_the_compacted_revision() {
        let mut entry = Own::default();
        for (main, sub) in [(2, 0), (4, 0), (4, 1), (5, 0)] {
            entry.write(Change::Put { at: Revision { main, sub }, lease: 0, length: 1 });
        }
        let mut dropped = Vec::new();
        assert!(!entry.trim(4, &mut dropped));
        assert_eq!(dropped, [at(2)]);
        assert!(!entry.trim(5, &mut dropped));
        assert_eq!(dropped, [at(2), at(4), Revision { main: 4, sub: 1 }]);
    }

    #[test]
    fn trimming_keeps_what_the_compacted_revision_sees() {
        for (revision, dropped_mains, empty) in [
            (1, vec![], false),
            (2, vec![], false),
            (4, vec![2], false),
            (5, vec![2], false),
            (6, vec![2, 4], false),
            (7, vec![2, 4, 6], false),
            (9, vec![2, 4, 6], false),
        ] {
            let mut entry = entry();
            let mut dropped = Vec::new();
            assert_eq!(entry.is().has_dead(revision), !dropped_mains.is_empty());
            assert_eq!(entry.trim(revision, &mut dropped), empty);
            assert_eq!(dropped.iter().map(|at| at.main).collect::<Vec<_>>(), dropped_mains, "at {revision}");
            assert_eq!(entry.is().versions(), 4 - dropped_mains.len());
            assert_eq!(entry.is().visible(9), Some(at(8)));
        }
        let mut deleted = entry();
        deleted.write(Change::Delete { at: at(10) });
        let mut dropped = Vec::new();
        assert!(!deleted.trim(10, &mut dropped), "a watch may start at the tombstone");
        assert!(deleted.trim(11, &mut dropped));
        assert_eq!(dropped.len(), 5);
    }
}
