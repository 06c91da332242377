//! The newest entries of the log in memory: what applying and replicating reads.

use std::{collections::VecDeque, ops::Range};

use openraft::{EntryPayload, entry::RaftEntry};

use crate::{codec::ENTRY_OVERHEAD, types::LogEntry};

/// Consecutive entries up to the end of the log.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    entries: VecDeque<LogEntry>,
    bytes: usize,
}

impl Tail {
    /// Index of the first entry that is here.
    pub(crate) fn first(&self) -> Option<u64> {
        self.entries.front().map(RaftEntry::index)
    }

    /// Appends; indexes are consecutive, which the caller has checked.
    pub(crate) fn push(&mut self, entry: LogEntry) {
        self.bytes += weight(&entry);
        self.entries.push_back(entry);
    }

    /// Forgets entries at the front while there are more than `max_bytes`, but none above `durable`.
    pub(crate) fn shrink(&mut self, max_bytes: usize, durable: Option<u64>) {
        while self.bytes > max_bytes && self.first() <= durable && self.pop_front() {}
    }

    /// Forgets every entry up to and including `upto`.
    pub(crate) fn purge(&mut self, upto: u64) {
        while self.first().is_some_and(|first| first <= upto) && self.pop_front() {}
    }

    /// Forgets every entry from `from` on.
    pub(crate) fn truncate(&mut self, from: u64) {
        while self.entries.back().is_some_and(|last| last.index() >= from) {
            if let Some(gone) = self.entries.pop_back() {
                self.bytes -= weight(&gone);
            }
        }
    }

    /// Those entries of a range that are here, stopping before the one that would exceed `max_bytes` (never before the
    /// first).
    pub(crate) fn read(&self, range: Range<u64>, max_bytes: usize) -> Vec<LogEntry> {
        let Some(first) = self.first() else { return Vec::new() };
        let skip = range.start.saturating_sub(first) as usize;
        let end = range.end.saturating_sub(first).min(self.entries.len() as u64) as usize;
        let mut bytes = 0;
        let mut found = Vec::with_capacity(end.saturating_sub(skip));
        for entry in self.entries.iter().take(end).skip(skip) {
            bytes += weight(entry);
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        found
    }

    fn pop_front(&mut self) -> bool {
        let gone = self.entries.pop_front();
        if let Some(gone) = &gone {
            self.bytes -= weight(gone);
        }
        gone.is_some()
    }
}

pub(crate) fn weight(entry: &LogEntry) -> usize {
    let payload = match &entry.payload {
        EntryPayload::Normal(batch) => batch.encoded().len(),
        _ => 0,
    };
    ENTRY_OVERHEAD + payload
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        batch::Batch,
        types::{LeaderId, LogId},
    };

    fn entry(index: u64) -> LogEntry {
        let batch = Batch::from_log(vec![0; 100].into());
        LogEntry { log_id: LogId::new(LeaderId { term: 1, node_id: 1 }, index), payload: EntryPayload::Normal(batch) }
    }

    fn indexes(entries: &[LogEntry]) -> Vec<u64> {
        entries.iter().map(RaftEntry::index).collect()
    }

    #[test]
    fn keeps_what_is_not_durable_whatever_the_bound() {
        let mut tail = Tail::default();
        (5..10).for_each(|index| tail.push(entry(index)));
        tail.shrink(0, None);
        assert_eq!(tail.first(), Some(5));
        tail.shrink(0, Some(7));
        assert_eq!(tail.first(), Some(8));
        tail.shrink(0, Some(20));
        assert_eq!((tail.first(), tail.bytes), (None, 0));
    }

    #[test]
    fn reads_ranges_by_bytes_and_forgets_at_both_ends() {
        let mut tail = Tail::default();
        (5..10).for_each(|index| tail.push(entry(index)));
        assert_eq!(indexes(&tail.read(0..100, usize::MAX)), [5, 6, 7, 8, 9]);
        assert_eq!(indexes(&tail.read(6..8, usize::MAX)), [6, 7]);
        assert_eq!(indexes(&tail.read(6..8, 1)), [6]);
        assert_eq!(indexes(&tail.read(10..12, 1)), [0; 0]);
        tail.truncate(8);
        tail.purge(5);
        assert_eq!(indexes(&tail.read(0..100, usize::MAX)), [6, 7]);
        tail.purge(50);
        assert_eq!((tail.first(), tail.bytes), (None, 0));
    }
}
