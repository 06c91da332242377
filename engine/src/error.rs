//! The one error type of this crate; texts are etcd's own, because clients match on them.

/// Why the engine refused a command or a read, or could not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
    #[error("etcdserver: key not found")]
    KeyNotFound,
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    /// The alarm [`AlarmKind::NoSpace`](crate::AlarmKind) stands and the command would add to the store.
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    /// The alarm [`AlarmKind::Corrupt`](crate::AlarmKind) stands and the command would change the store.
    #[error("etcdserver: corrupt cluster")]
    Corrupt,
    /// The asker may not, or the change of users and roles makes no sense.
    #[error(transparent)]
    Auth(#[from] crate::auth::Refusal),
    /// Bytes that are not an encoded command: from a newer version, or damaged.
    #[error("malformed command: {0}")]
    Malformed(&'static str),
    /// The caller gave an entry at or before the last applied one; nothing was changed.
    #[error("entry {index} was already applied (applied index is {applied})")]
    OutOfOrder { index: u64, applied: u64 },
    /// The backend failed or holds what it cannot hold: the process must stop applying.
    #[error("storage: {0}")]
    Storage(String),
    /// What was to be taken over from another store is not a state that a store can have; the text names the record.
    #[error("import: {0}")]
    Import(String),
}
