//! The store seam: what a Kubernetes API server needs of etcd, and nothing more.
//!
//! The gateway is written against [`Store`] alone. `kelson_etcd::LocalStore` calls the raft handle in the same
//! process; [`crate::remote::RemoteStore`] speaks to any etcd v3 endpoint. The contract is that of etcd's own
//! Kubernetes client (`go.etcd.io/etcd/client/v3/kubernetes`): reads are linearizable, writes are guarded by the
//! modification revision, a revision is the whole store's logical clock.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;

/// One stored object at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Full key, for example `/registry/pods/default/web-0`.
    pub key: Bytes,
    /// The encoded object.
    pub value: Bytes,
    /// Revision of the write that produced this value; at least 1.
    pub mod_revision: i64,
    /// Revision of the write that created the key in its present life.
    pub create_revision: i64,
    /// Lease the key hangs on, 0 for none.
    pub lease: i64,
}

/// Answer to [`Store::get`].
#[derive(Clone, Debug)]
pub struct Got {
    /// Store revision at which the read was made.
    pub revision: i64,
    /// The object, if the key exists.
    pub object: Option<Object>,
}

/// What [`Store::list`] is to return.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// At most this many objects; 0 for all of them.
    pub limit: usize,
    /// Read at this revision; 0 for the newest.
    pub revision: i64,
    /// Start at this key instead of at the prefix itself (a page that follows another one).
    pub start_key: Option<Bytes>,
}

/// Answer to [`Store::list`].
#[derive(Clone, Debug)]
pub struct Listed {
    /// Store revision at which the read was made: the current one, even where an older one was asked for.
    pub revision: i64,
    /// Objects in key order.
    pub objects: Vec<Object>,
    /// Whether the limit cut the list short.
    pub more: bool,
    /// Number of keys from the start key to the end of the prefix, whatever the limit.
    pub count: i64,
}

/// Answer to a guarded write.
#[derive(Clone, Debug)]
pub enum Written {
    /// It took place, at this revision.
    Done { revision: i64 },
    /// The guard did not hold; here is what is there now (`None`: the key does not exist).
    Conflict { revision: i64, current: Option<Object> },
}

/// One change seen by a watch.
#[derive(Clone, Debug)]
pub enum Change {
    /// The key was written. `previous` is what it held before, if it existed.
    Put { object: Object, previous: Option<Object> },
    /// The key was deleted at `revision`. `previous` is what it held before.
    Delete { key: Bytes, revision: i64, previous: Option<Object> },
    /// Every change up to and including `revision` has been delivered.
    Progress { revision: i64 },
}

/// Changes in revision order; those of one revision arrive in one batch. It ends with an error, or when dropped.
pub type Changes = Pin<Box<dyn Stream<Item = Result<Vec<Change>, StoreError>> + Send>>;

/// Why the store refused or failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The revision was compacted away; `compacted` is the oldest one that can still be read, 0 if unknown.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted { compacted: i64 },
    /// The revision has not happened yet.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    Future,
    /// No quorum, no leader, stopped, or timed out: whether a write took place is unknown.
    #[error("{0}")]
    Unavailable(String),
    /// The request can never succeed as it is (too large, no such lease, …).
    #[error("{0}")]
    Rejected(String),
    /// The store is out of space.
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
}

/// The seam. Cheap to share behind an `Arc`; every method may be called concurrently.
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    /// The newest value of one key, linearizable.
    async fn get(&self, key: Bytes) -> Result<Got, StoreError>;

    /// Objects whose key starts with `prefix`, in key order.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] or [`StoreError::Future`] for an impossible `options.revision`.
    async fn list(&self, prefix: Bytes, options: ListOptions) -> Result<Listed, StoreError>;

    /// Number of keys with this prefix, and the store's revision.
    async fn count(&self, prefix: Bytes) -> Result<(i64, i64), StoreError>;

    /// Writes `value` if the key's modification revision is `expected` (0: the key must not exist).
    async fn put(&self, key: Bytes, value: Bytes, expected: i64, lease: i64) -> Result<Written, StoreError>;

    /// Deletes the key if its modification revision is `expected`.
    async fn delete(&self, key: Bytes, expected: i64) -> Result<Written, StoreError>;

    /// Changes under `prefix` from `start_revision` on (0: from now), with previous values, with a
    /// [`Change::Progress`] whenever [`Store::request_progress`] is called and at intervals of the store's own.
    async fn watch(&self, prefix: Bytes, start_revision: i64) -> Result<Changes, StoreError>;

    /// Asks for a [`Change::Progress`] on every open watch of this store handle.
    async fn request_progress(&self) -> Result<(), StoreError>;

    /// Drops history below `revision`.
    async fn compact(&self, revision: i64) -> Result<(), StoreError>;

    /// Creates a lease of `ttl` seconds and returns its id. Keys put under it vanish when it runs out.
    async fn grant_lease(&self, ttl: i64) -> Result<i64, StoreError>;
}
