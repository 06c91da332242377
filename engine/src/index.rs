//! The index by itself, for the benchmark that compares it with other ordered maps (`cargo bench -p kelson-benches --bench
//! index`).

use std::hint::black_box;

use crate::Revision;
use crate::history::Change;
use crate::tree::{Span, Tree};

/// The index of an engine, or one state of it: a clone never changes.
#[derive(Clone, Default)]
pub struct Index {
    tree: Tree,
}

impl Index {
    /// Records a put at a revision.
    pub fn put(&mut self, key: &[u8], revision: i64) {
        self.tree.write(key, Change::Put { at: Revision { main: revision, sub: 0 }, lease: 0, length: 0 });
    }

    /// Brings near what puts to these keys will need.
    pub fn warm<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) {
        black_box(self.tree.warm(keys));
    }

    /// The revision at which the key was put last.
    pub fn get(&self, key: &[u8]) -> Option<i64> {
        self.tree.get(key).map(|entry| entry.newest().at.main)
    }

    /// Visits up to `most` keys from `start` on and returns how many there were.
    pub fn scan(&self, start: &[u8], most: usize) -> usize {
        let mut seen = 0;
        self.tree.visit(Span::Range(start, None), &mut |key, entry| {
            black_box((key, entry.newest()));
            seen += 1;
            seen < most
        });
        seen
    }
}
