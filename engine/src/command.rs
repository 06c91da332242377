//! What can be asked of the state machine, and what comes back.
//!
//! Field meanings are those of etcd's API reference (`etcdserverpb`), named the same.

use std::sync::Arc;

use bytes::Bytes;

use crate::alarm::{Alarm, AlarmAction, AlarmKind};
use crate::auth::{Asked, AuthCommand};

/// Keys from `start` (inclusive) to `end`, as etcd encodes ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    pub start: Bytes,
    /// Empty: the one key `start`. A single zero byte: every key from `start` on. Else: exclusive end.
    pub end: Bytes,
}

/// A key's value at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    pub create_revision: i64,
    pub mod_revision: i64,
    /// Number of writes in the key's present life, from 1.
    pub version: i64,
    /// 0 for none.
    pub lease: i64,
}

/// A change to the state. Everything nondeterministic was decided before it came here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Put(Put),
    DeleteRange(DeleteRange),
    Txn(Txn),
    /// Drops history below `revision`.
    Compact {
        revision: i64,
    },
    /// `id` is never 0 here: the proposer draws one. `ttl` in seconds.
    LeaseGrant {
        id: i64,
        ttl: i64,
    },
    /// Deletes the lease and, at one revision, every key that hangs on it.
    LeaseRevoke {
        id: i64,
    },
    /// Raises or ends an alarm about a member.
    Alarm {
        action: AlarmAction,
        member: u64,
        alarm: AlarmKind,
    },
    /// Notes how many seconds leases have left, by id, so that a restart does not give them their full time again; 0
    /// gives the lease its full time again. Leases that are gone are passed over.
    LeaseCheckpoint {
        leases: Vec<(i64, i64)>,
    },
    /// A change of users and roles.
    Auth(AuthCommand),
    /// One of the others, with who asks for it; see [`Command::by`]. Without auth there are none.
    Asked(Box<Asked>),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Put {
    pub key: Bytes,
    pub value: Bytes,
    pub lease: i64,
    pub prev_kv: bool,
    pub ignore_value: bool,
    pub ignore_lease: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteRange {
    pub range: KeyRange,
    pub prev_kv: bool,
}

/// Compares, then one of two lists of operations, all at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub success: Vec<Op>,
    pub failure: Vec<Op>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Range(RangeRequest),
    Put(Put),
    DeleteRange(DeleteRange),
    Txn(Txn),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    pub range: KeyRange,
    pub result: CompareResult,
    pub target: CompareTarget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareResult {
    Equal,
    Greater,
    Less,
    NotEqual,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    Version(i64),
    CreateRevision(i64),
    ModRevision(i64),
    Value(Bytes),
    Lease(i64),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortTarget {
    #[default]
    Key,
    Version,
    CreateRevision,
    ModRevision,
    Value,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    #[default]
    None,
    Ascend,
    Descend,
}

/// A read; the fields are those of etcd's `RangeRequest`. Bounds of 0 mean "no bound".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeRequest {
    pub range: KeyRange,
    pub limit: i64,
    /// 0 or less: the newest.
    pub revision: i64,
    pub sort_order: SortOrder,
    pub sort_target: SortTarget,
    pub keys_only: bool,
    pub count_only: bool,
    pub min_mod_revision: i64,
    pub max_mod_revision: i64,
    pub min_create_revision: i64,
    pub max_create_revision: i64,
}

impl RangeRequest {
    /// A read of every key of a range, in order, at a revision (0: the newest).
    pub fn whole(range: KeyRange, revision: i64) -> RangeRequest {
        RangeRequest {
            range,
            limit: 0,
            revision,
            sort_order: SortOrder::None,
            sort_target: SortTarget::Key,
            keys_only: false,
            count_only: false,
            min_mod_revision: 0,
            max_mod_revision: 0,
            min_create_revision: 0,
            max_create_revision: 0,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResponse {
    pub kvs: Vec<KeyValue>,
    pub more: bool,
    /// Keys in the range, whatever the limit.
    pub count: i64,
}

/// What a command did. `revision` is the store's revision right after it: the one for the response header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Put {
        revision: i64,
        prev_kv: Option<KeyValue>,
    },
    DeleteRange {
        revision: i64,
        deleted: i64,
        prev_kvs: Vec<KeyValue>,
    },
    Txn {
        revision: i64,
        response: TxnResponse,
    },
    Compact {
        revision: i64,
    },
    LeaseGrant {
        revision: i64,
        id: i64,
        ttl: i64,
    },
    LeaseRevoke {
        revision: i64,
    },
    /// The alarm that was raised or ended; none where the one to be ended did not stand.
    Alarm {
        revision: i64,
        alarms: Vec<Alarm>,
    },
    LeaseCheckpoint {
        revision: i64,
    },
    /// `token` is the answer to [`AuthCommand::Authenticate`].
    Auth {
        revision: i64,
        token: Option<Arc<str>>,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnResponse {
    pub succeeded: bool,
    pub responses: Vec<OpResponse>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResponse {
    Range(RangeResponse),
    Put { prev_kv: Option<KeyValue> },
    DeleteRange { deleted: i64, prev_kvs: Vec<KeyValue> },
    Txn(TxnResponse),
}
