//! How many events a watch takes at a time.

use std::sync::Arc;

use kelson_engine::Event;

/// Bytes of keys and values that a batch aims at.
const BYTES: usize = 2 << 20;
/// Most events of a batch; the events of one revision are never split, whatever their number.
const MOST: usize = 2048;
/// Events of the first batch, when nothing is known of their size yet.
const FIRST: usize = 128;

/// Sizes batches by the events seen so far: many where they are small, few where they are large.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchSize {
    events: usize,
}

impl Default for BatchSize {
    fn default() -> Self {
        Self { events: FIRST }
    }
}

impl BatchSize {
    /// Most events that the next batch should have.
    pub(crate) fn most(self) -> usize {
        self.events
    }

    pub(crate) fn seen(&mut self, events: &[Arc<Event>]) {
        let bytes: usize = events.iter().map(|event| event.kv.key.len() + event.kv.value.len()).sum();
        let each = bytes / events.len().max(1);
        self.events = (BYTES / each.max(1)).clamp(1, MOST);
    }
}
