//! What is owed to a client, and counted until it is sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::{Buf, Bytes};

/// Bytes of answers that wait on one connection until its client takes them; beyond it nothing more is begun.
const MAX_OWED: usize = 8 << 20;
/// Bytes of requests that are there in part on one connection; beyond it such requests are refused.
const MAX_PARTIAL: usize = 256 << 20;

/// What one connection holds in memory.
#[derive(Debug, Default)]
pub(super) struct Held {
    owed: AtomicUsize,
    partial: AtomicUsize,
}

impl Held {
    /// Whether more may be begun.
    pub(super) fn has_room(&self) -> bool {
        self.owed.load(Relaxed) < MAX_OWED
    }

    /// Notes that a request now holds so many bytes, where it held `before`. Whether that is still bearable.
    pub(super) fn partial(&self, before: usize, now: usize) -> bool {
        if before == now {
            return true;
        }
        // Wrapping: what shrinks adds a negative number.
        let difference = now.wrapping_sub(before);
        self.partial.fetch_add(difference, Relaxed).wrapping_add(difference) <= MAX_PARTIAL
    }
}

/// A piece of an answer.
pub(super) struct Piece {
    bytes: Bytes,
    owed: Option<Owed>,
}

struct Owed {
    held: Arc<Held>,
    bytes: usize,
}

impl Piece {
    /// A piece that counts as owed until it is sent, or the client has gone.
    pub(super) fn owed(bytes: Bytes, held: &Arc<Held>) -> Self {
        held.owed.fetch_add(bytes.len(), Relaxed);
        let owed = Some(Owed { held: held.clone(), bytes: bytes.len() });
        Piece { bytes, owed }
    }
}

impl From<Bytes> for Piece {
    /// A piece that is made only when there is room in the client's window.
    fn from(bytes: Bytes) -> Self {
        Piece { bytes, owed: None }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.held.owed.fetch_sub(self.bytes, Relaxed);
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if self.bytes.is_empty() {
            self.owed = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_or_given_up_is_owed_no_more() {
        let held = Arc::new(Held::default());
        let mut sent = Piece::owed(vec![0; MAX_OWED / 2].into(), &held);
        let given_up = Piece::owed(vec![0; MAX_OWED / 2].into(), &held);
        assert!(!held.has_room());
        sent.advance(10);
        assert!(!held.has_room(), "in part is not sent");
        sent.advance(MAX_OWED / 2 - 10);
        assert!(held.has_room());
        drop(given_up);
        assert_eq!(held.owed.load(Relaxed), 0);
    }

    #[test]
    fn partial_requests_are_bounded_together() {
        let held = Held::default();
        assert!(held.partial(0, MAX_PARTIAL));
        assert!(!held.partial(0, 1));
        assert!(held.partial(MAX_PARTIAL, 5));
        assert!(held.partial(5, 0) && held.partial(1, 0));
        assert_eq!(held.partial.load(Relaxed), 0);
    }
}
