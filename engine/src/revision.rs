//! The store's logical clock.

/// One write: `main` is the revision of the transaction, `sub` the write's index in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// Revision of the transaction, from 2 (an empty store is at 1).
    pub main: i64,
    /// Index of the write within its transaction, from 0.
    pub sub: u32,
}

impl Revision {
    /// Length of [`Revision::to_bytes`].
    pub const BYTES: usize = 12;

    /// Big endian, so that byte order is revision order.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.main.to_be_bytes());
        bytes[8..].copy_from_slice(&self.sub.to_be_bytes());
        bytes
    }

    /// The reverse of [`Revision::to_bytes`]; `None` for anything of another length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Revision> {
        let (main, sub) = bytes.split_first_chunk::<8>()?;
        Some(Revision { main: i64::from_be_bytes(*main), sub: u32::from_be_bytes(sub.try_into().ok()?) })
    }
}

/// Position of a raft entry; opaque to the engine, stored in one batch with the state that it produced.
///
/// Ordered by `index` alone: of two entries of one index at most one was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    pub term: u64,
    pub node: u64,
    pub index: u64,
}

impl PartialOrd for Applied {
    fn partial_cmp(&self, other: &Applied) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Applied {
    fn cmp(&self, other: &Applied) -> std::cmp::Ordering {
        self.index.cmp(&other.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_is_revision_order() {
        let revisions = [(2, 0), (2, 1), (2, 256), (3, 0), (255, 7), (256, 0), (i64::MAX, u32::MAX)];
        let encoded: Vec<_> = revisions.iter().map(|&(main, sub)| Revision { main, sub }.to_bytes()).collect();
        assert!(encoded.is_sorted());
        for (bytes, &(main, sub)) in encoded.iter().zip(&revisions) {
            assert_eq!(Revision::from_bytes(bytes), Some(Revision { main, sub }));
        }
        assert_eq!(Revision::from_bytes(&[0; 11]), None);
        assert_eq!(Revision::from_bytes(&[0; 13]), None);
    }
}
