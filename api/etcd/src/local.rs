//! The store seam on a node in the same process: no gRPC, no copy.

mod changes;

use std::sync::Arc;

use bytes::Bytes;
use kelson_engine::Error as EngineError;
use kelson_engine::WatchSpec;
use kelson_engine::command::{
    Command, Compare, CompareResult, CompareTarget, DeleteRange, KeyRange, KeyValue, Op, OpResponse, Outcome, Put,
    RangeRequest, Txn,
};
use kelson_raft::{Error, Node};
use kelson_wire::prefix::{prefix_end, prefix_range};
use kelson_wire::store::{Changes, Got, ListOptions, Listed, Object, Store, StoreError, Written};

use crate::lease;
use crate::reads::Reads;
use crate::refusal;
use changes::{Bells, LocalChanges};

/// Large lists that run at a time.
const LARGE_LISTS: usize = 8;

/// A node as a [`Store`]. Clones share it.
#[derive(Clone)]
pub struct LocalStore {
    shared: Arc<Shared>,
}

struct Shared {
    node: Node,
    reads: Reads,
    bells: Arc<Bells>,
    max_request_bytes: usize,
}

impl LocalStore {
    /// A store on `node` that takes keys and values of up to `max_request_bytes` together (etcd's own bound is 1.5 MiB).
    pub fn new(node: Node, max_request_bytes: usize) -> Self {
        let reads = Reads::new(node.clone(), LARGE_LISTS);
        Self { shared: Arc::new(Shared { node, reads, bells: Arc::default(), max_request_bytes }) }
    }

    async fn read(&self, request: RangeRequest) -> Result<(i64, kelson_engine::command::RangeResponse), StoreError> {
        self.shared.reads.linearizable(request).await.map_err(|error| self.refused(error))
    }

    /// What runs in this process does not say who it is, and may do everything.
    async fn propose(&self, command: Command) -> Result<Outcome, Error> {
        let node = &self.shared.node;
        node.propose(node.reader().by_system(command)).await
    }

    /// A guarded write: `write` if the key's modification revision is `expected`, else a read of what is there.
    async fn guarded(&self, key: Bytes, expected: i64, write: Op) -> Result<Written, StoreError> {
        required(&key)?;
        let range = KeyRange { start: key, end: Bytes::new() };
        let guard = Compare {
            range: range.clone(),
            result: CompareResult::Equal,
            target: CompareTarget::ModRevision(expected),
        };
        let txn = Txn { compares: vec![guard], success: vec![write], failure: vec![Op::Range(newest(range))] };
        match self.propose(Command::Txn(txn)).await.map_err(|error| self.refused(error))? {
            Outcome::Txn { revision, response } if response.succeeded => Ok(Written::Done { revision }),
            Outcome::Txn { revision, response } => {
                let current = match response.responses.into_iter().next() {
                    Some(OpResponse::Range(answer)) => answer.kvs.into_iter().next().map(object),
                    _ => None,
                };
                Ok(Written::Conflict { revision, current })
            }
            other => Err(StoreError::Unavailable(format!("a transaction was answered with {other:?}"))),
        }
    }

    fn refused(&self, error: Error) -> StoreError {
        match error {
            Error::Engine(EngineError::Compacted) => {
                StoreError::Compacted { compacted: self.shared.node.reader().compacted_revision() }
            }
            Error::Engine(EngineError::FutureRevision) => StoreError::Future,
            Error::Engine(EngineError::Storage(_)) => StoreError::Unavailable(error.to_string()),
            Error::Engine(refusal) => StoreError::Rejected(refusal.to_string()),
            other => StoreError::Unavailable(other.to_string()),
        }
    }
}

#[async_trait::async_trait]
impl Store for LocalStore {
    async fn get(&self, key: Bytes) -> Result<Got, StoreError> {
        required(&key)?;
        let (revision, answer) = self.read(newest(KeyRange { start: key, end: Bytes::new() })).await?;
        Ok(Got { revision, object: answer.kvs.into_iter().next().map(object) })
    }

    async fn list(&self, prefix: Bytes, options: ListOptions) -> Result<Listed, StoreError> {
        let (mut start, end) = prefix_range(&prefix);
        if let Some(key) = options.start_key.filter(|key| *key > start) {
            start = key;
        }
        let limit = i64::try_from(options.limit).unwrap_or(i64::MAX);
        let request = RangeRequest { limit, revision: options.revision, ..newest(KeyRange { start, end }) };
        let (revision, answer) = self.read(request).await?;
        let objects = answer.kvs.into_iter().map(object).collect();
        Ok(Listed { revision, objects, more: answer.more, count: answer.count })
    }

    async fn count(&self, prefix: Bytes) -> Result<(i64, i64), StoreError> {
        let (start, end) = prefix_range(&prefix);
        let (revision, answer) =
            self.read(RangeRequest { count_only: true, ..newest(KeyRange { start, end }) }).await?;
        Ok((answer.count, revision))
    }

    async fn put(&self, key: Bytes, value: Bytes, expected: i64, lease: i64) -> Result<Written, StoreError> {
        if key.len() + value.len() > self.shared.max_request_bytes {
            return Err(StoreError::Rejected(refusal::TOO_LARGE.into()));
        }
        let put = Put { key: key.clone(), value, lease, ..Put::default() };
        self.guarded(key, expected, Op::Put(put)).await
    }

    async fn delete(&self, key: Bytes, expected: i64) -> Result<Written, StoreError> {
        let range = KeyRange { start: key.clone(), end: Bytes::new() };
        self.guarded(key, expected, Op::DeleteRange(DeleteRange { range, prev_kv: false })).await
    }

    async fn watch(&self, prefix: Bytes, start_revision: i64) -> Result<Changes, StoreError> {
        // "From now" means from what is acknowledged by now.
        self.shared.node.read_barrier().await.map_err(|error| self.refused(error))?;
        let (start, end) = (prefix_range(&prefix).0, prefix_end(&prefix));
        let watcher = self.shared.node.reader().watch(WatchSpec {
            range: KeyRange { start, end },
            start_revision,
            no_put: false,
            no_delete: false,
            prev_kv: true,
        });
        Ok(Box::pin(LocalChanges::new(watcher, self.shared.node.clone(), self.shared.bells.clone())))
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        self.shared.bells.ring();
        Ok(())
    }

    async fn compact(&self, revision: i64) -> Result<(), StoreError> {
        self.shared.node.propose(Command::Compact { revision }).await.map_err(|error| self.refused(error))?;
        Ok(())
    }

    async fn grant_lease(&self, ttl: i64) -> Result<i64, StoreError> {
        let granted =
            lease::grant(&self.shared.node, 0, ttl, lease::MIN_TTL).await.map_err(|error| self.refused(error))?;
        Ok(granted.id)
    }
}

fn required(key: &Bytes) -> Result<(), StoreError> {
    if key.is_empty() { Err(StoreError::Rejected(refusal::EMPTY_KEY.into())) } else { Ok(()) }
}

fn newest(range: KeyRange) -> RangeRequest {
    RangeRequest::whole(range, 0)
}

fn object(kv: KeyValue) -> Object {
    Object {
        key: kv.key,
        value: kv.value,
        mod_revision: kv.mod_revision,
        create_revision: kv.create_revision,
        lease: kv.lease,
    }
}
