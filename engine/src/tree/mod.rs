//! The index: a persistent (copy-on-write) B-tree from key to [`Entry`].
//!
//! One writer changes it; a clone is one pointer and never changes again, so a reader walks its clone for as long as
//! it likes without a lock and without holding anybody up. A change copies the nodes on one path, unless they were
//! made since the last clone. A leaf is a few flat arrays, of which a copy shares those with the keys until a key comes or goes,
//! and those with older writes.
//!
//! Every branch knows of each subtree how many live keys and how much garbage it holds and its newest revision:
//! counting a range is logarithmic, and compaction walks only where there is something to drop.

mod histories;
mod keys;
mod node;
mod scan;
#[cfg(test)]
mod tests;
mod warm;

use std::sync::Arc;

use crate::Revision;
use crate::command::KeyRange;
use crate::history::{Change, Entry, Written};
use node::Node;

/// Keys to look at. Built from a [`KeyRange`], whose encoding it resolves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span<'a> {
    Key(&'a [u8]),
    /// From the first (inclusive) to the second (exclusive; `None`: no bound).
    Range(&'a [u8], Option<&'a [u8]>),
}

impl<'a> From<&'a KeyRange> for Span<'a> {
    fn from(range: &'a KeyRange) -> Span<'a> {
        match &range.end[..] {
            [] => Span::Key(&range.start),
            [0] => Span::Range(&range.start, None),
            end => Span::Range(&range.start, Some(end)),
        }
    }
}

impl Span<'_> {
    pub fn contains(&self, key: &[u8]) -> bool {
        match *self {
            Span::Key(own) => own == key,
            Span::Range(start, end) => start <= key && end.is_none_or(|end| key < end),
        }
    }
}

/// What a subtree holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Keys that exist now.
    pub live: u64,
    /// Superseded writes and tombstones.
    pub garbage: u64,
    /// The newest revision of any of its keys; may be too high after a removal, never too low.
    pub newest: i64,
}

/// See the module's documentation.
#[derive(Clone, Default)]
pub(crate) struct Tree {
    root: Arc<Node>,
    summary: Summary,
}

impl Tree {
    pub fn summary(&self) -> Summary {
        self.summary
    }

    pub fn get(&self, key: &[u8]) -> Option<Entry<'_>> {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(leaf) => return leaf.get(key),
                Node::Branch(branch) => node = &branch.children[branch.child(key)].node,
            }
        }
    }

    /// Brings near what writes to these keys will need, and returns how many leaves that took. Worth it for many keys of a
    /// large tree.
    pub fn warm<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) -> usize {
        warm::warm(&self.root, keys)
    }

    /// Records a write, creating the key's entry if need be.
    pub fn write(&mut self, key: &[u8], change: Change) -> Written {
        let (written, difference, split) = node::write(&mut self.root, key, change);
        if let Some(split) = split {
            let left = std::mem::take(&mut self.root);
            self.root = Arc::new(Node::root_of(left, split));
        }
        difference.add_to(&mut self.summary);
        written
    }

    /// Drops what a compaction at `revision` allows to drop of one key, and reports it, oldest first.
    pub fn trim(&mut self, key: &[u8], revision: i64, dropped: &mut impl Extend<Revision>) {
        node::trim(&mut self.root, key, revision, dropped);
        while let Some(only) = self.root.only_child() {
            self.root = only;
        }
        self.summary = self.root.summary();
    }

    /// Visits every key of `span` that has an entry, live or not, in key order, until `visit` returns `false`.
    pub fn visit<'a>(&'a self, span: Span, visit: &mut dyn FnMut(&'a [u8], Entry<'a>) -> bool) {
        match span {
            Span::Key(key) => scan::visit_one(&self.root, key, visit),
            Span::Range(start, end) => {
                scan::visit(&self.root, Some(start), end, visit);
            }
        }
    }

    /// Number of keys in `span` that existed at `revision`. Logarithmic where nothing was written since.
    pub fn count(&self, span: Span, revision: i64) -> u64 {
        match span {
            Span::Key(key) => u64::from(self.get(key).is_some_and(|entry| entry.visible(revision).is_some())),
            Span::Range(start, Some(end)) if start >= end => 0,
            Span::Range(start, end) => scan::count(&self.root, Some(start), end, self.summary, revision),
        }
    }

    /// Collects up to `limit` keys from `from` on that a compaction at `revision` would trim, looking at no more
    /// than `visits` entries. Returns where to go on, `None` at the end.
    pub fn find_dead(
        &self,
        from: &[u8],
        revision: i64,
        limit: usize,
        visits: usize,
        found: &mut Vec<Vec<u8>>,
    ) -> Option<Vec<u8>> {
        scan::find_dead(&self.root, Some(from), self.summary, &mut scan::DeadSearch { revision, limit, visits, found })
    }
}
