//! What a log needs of its medium.

use std::{io, ops::Range};

use bytes::Bytes;

/// Small records beside the entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Meta {
    Identity,
    Vote,
    Committed,
    Purged,
}

impl Meta {
    /// The name under which the record lies on disk.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Meta::Identity => "identity",
            Meta::Vote => "vote",
            Meta::Committed => "committed",
            Meta::Purged => "purged",
        }
    }
}

/// The record of an entry, in two parts that follow each other: what is large is not copied to be written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) head: Vec<u8>,
    pub(crate) payload: Bytes,
}

impl Record {
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    /// Both parts in one.
    pub(crate) fn to_bytes(&self) -> Bytes {
        [&self.head[..], &self.payload].concat().into()
    }
}

impl From<Bytes> for Record {
    fn from(payload: Bytes) -> Record {
        Record { head: Vec::new(), payload }
    }
}

/// One change; a list of them is written as one atomic, ordered unit.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Put {
        index: u64,
        record: Record,
    },
    /// Drops every entry from this index on.
    Truncate {
        from: u64,
    },
    /// Drops every entry up to and including this index.
    Purge {
        upto: u64,
    },
    Meta {
        name: Meta,
        record: Vec<u8>,
    },
}

/// Medium of a log. One thread writes; any thread reads.
pub(crate) trait Disk: Send + Sync + 'static {
    /// Applies all changes or none. With `sync` they, and all before them, are on stable storage when this returns.
    fn write(&self, changes: &[Change], sync: bool) -> io::Result<()>;

    fn meta(&self, name: Meta) -> io::Result<Option<Bytes>>;

    /// Takes the time that the write before takes, and says what became of it.
    #[cfg(feature = "sim")]
    fn settle(&self, _sync: bool) -> futures_util::future::BoxFuture<'_, io::Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// First and last index that are there.
    fn bounds(&self) -> io::Result<Option<(u64, u64)>>;

    /// Records of a range in order, stopping before the one that would exceed `max_bytes` (never before the first).
    fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<(u64, Bytes)>>;

    /// Gives back what purged entries still take. Writes and reads go on meanwhile.
    fn compact(&self) -> io::Result<()> {
        Ok(())
    }

    /// Ends a [`Disk::compact`] that is under way, and all later ones.
    fn interrupt(&self) {}

    /// Bytes taken up.
    fn size(&self) -> u64;

    /// Where it lies, for error texts.
    fn place(&self) -> String;
}
