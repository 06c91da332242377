//! Requests that the server makes of its own services on behalf of a client: what Lock and Election consist of. They go
//! through the services' own doors, so whatever holds for the client's requests holds for them.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use kelson_engine::command::KeyRange;
use kelson_engine::{Events, WatchPoll, WatchSpec, Watcher};
use kelson_wire::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kelson_wire::pb::etcdserverpb::kv_server::Kv;
use kelson_wire::pb::etcdserverpb::lease_server::Lease;
use kelson_wire::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use kelson_wire::pb::etcdserverpb::request_op::Request as Op;
use kelson_wire::pb::etcdserverpb::response_op::Response as Answer;
use kelson_wire::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest, PutRequest, RangeRequest, RangeResponse,
    RequestOp, TxnRequest, TxnResponse,
};
use kelson_wire::pb::mvccpb::KeyValue;
use kelson_wire::prefix::prefix_end;
use tokio::sync::SemaphorePermit;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Status};

use crate::auth::{Caller, Holder};
use crate::context::Context;
use crate::kv::KvService;
use crate::lease::LeaseService;
use crate::refusal;

/// Time to live in seconds of the lease that is made for those who bring none.
const SESSION_TTL: i64 = 60;

/// The services that requests are made of.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) context: Arc<Context>,
    kv: KvService,
    lease: LeaseService,
}

impl Services {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self { kv: KvService::new(context.clone()), lease: LeaseService::new(context.clone()), context }
    }

    /// Takes a request apart into who asks and what is asked.
    pub(crate) fn asker<T>(&self, request: Request<T>) -> (Asker, T) {
        let (metadata, extensions, message) = request.into_parts();
        (Asker { services: self.clone(), metadata, extensions }, message)
    }
}

/// A client in whose name requests are made.
#[derive(Clone)]
pub(crate) struct Asker {
    pub(crate) services: Services,
    metadata: MetadataMap,
    extensions: Extensions,
}

/// What a refusal within a request becomes: etcd's own client within the server tells the text and forgets the code.
fn inner(status: Status) -> Status {
    Status::unknown(status.message())
}

impl Asker {
    fn request<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), self.extensions.clone(), message)
    }

    fn caller(&self) -> Caller {
        Caller::of(&self.request(()))
    }

    pub(crate) async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        let answer = self.services.kv.txn(self.request(request)).await;
        answer.map(tonic::Response::into_inner).map_err(inner)
    }

    /// Makes a transaction to its end, whoever waits for it, and with it a guard by what it came to. Where the caller has
    /// gone meanwhile the guard goes as well, so that what the store took is not left behind.
    pub(crate) async fn txn_with(
        &self,
        request: TxnRequest,
        guard: impl FnOnce(&TxnResponse) -> Otherwise + Send + 'static,
    ) -> Result<(TxnResponse, Otherwise), Status> {
        let asker = self.clone();
        let made = tokio::spawn(async move {
            let answer = asker.txn(request).await?;
            let guard = guard(&answer);
            Ok((answer, guard))
        });
        made.await.unwrap_or_else(|_| Err(Status::unavailable(refusal::STOPPED)))
    }

    pub(crate) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        let answer = self.services.kv.range(self.request(request)).await;
        answer.map(tonic::Response::into_inner).map_err(inner)
    }

    pub(crate) async fn delete(&self, key: Bytes) -> Result<DeleteRangeResponse, Status> {
        let request = DeleteRangeRequest { key, ..Default::default() };
        let answer = self.services.kv.delete_range(self.request(request)).await;
        answer.map(tonic::Response::into_inner).map_err(inner)
    }

    /// The lease that is to be used: a new one in place of 0, else the one given, with its full time again.
    pub(crate) async fn session(&self, lease: i64) -> Result<i64, Status> {
        let lease = match lease {
            0 => {
                let grant = LeaseGrantRequest { ttl: SESSION_TTL, id: 0 };
                self.services.lease.lease_grant(self.request(grant)).await.map_err(inner)?.into_inner().id
            }
            given => given,
        };
        // Who may not renew it gets the lease all the same, and finds out when it ends.
        if self.services.lease.check_renew(&self.caller(), lease).await.is_ok() {
            let renewed = self.services.context.node.lease_renew(lease).await;
            renewed.map_err(|error| crate::refusal::of_raft(&error))?;
        }
        Ok(lease)
    }

    /// The key under a prefix that was created first.
    pub(crate) async fn first(&self, prefix: &Bytes) -> Result<RangeResponse, Status> {
        self.range(by_creation(prefix, SortOrder::Ascend, 0)).await
    }

    /// Returns when no key under the prefix is left that was created at `newest` or before.
    pub(crate) async fn wait_for_others(&self, prefix: &Bytes, newest: i64) -> Result<(), Status> {
        let mut place: Option<SemaphorePermit> = None;
        loop {
            let last = self.range(by_creation(prefix, SortOrder::Descend, newest)).await?;
            let Some(other) = last.kvs.into_iter().next() else { return Ok(()) };
            if place.is_none() {
                let free = self.services.context.waiters.try_acquire();
                place = Some(free.map_err(|_| Status::unknown(refusal::TOO_MANY_REQUESTS))?);
            }
            let seen = last.header.map_or(0, |header| header.revision);
            self.watch(other.key, seen + 1, true).next().await?;
        }
    }

    /// Watches a key from a revision on; maybe only its deletion.
    pub(crate) fn watch(&self, key: Bytes, from: i64, only_deletion: bool) -> Changes {
        self.changes(KeyRange { start: key, end: Bytes::new() }, from, only_deletion)
    }

    /// Watches all keys under a prefix.
    pub(crate) fn watch_prefix(&self, prefix: &Bytes, from: i64) -> Changes {
        self.changes(KeyRange { start: prefix.clone(), end: prefix_end(prefix) }, from, false)
    }

    fn changes(&self, range: KeyRange, start_revision: i64, no_put: bool) -> Changes {
        let spec = WatchSpec { range, start_revision, no_put, no_delete: false, prev_kv: false };
        let context = self.services.context.clone();
        let holder = context.holder(self.caller());
        Changes { watcher: context.node.reader().watch(spec), holder, context }
    }
}

/// A watch within the server. What is behind it was read through the services, and will be again.
pub(crate) struct Changes {
    context: Arc<Context>,
    holder: Holder,
    watcher: Watcher,
}

/// Most events taken at a time.
const BATCH: usize = 64;

impl Changes {
    /// Waits for what happens next; with it the revision up to which there is no more.
    pub(crate) async fn next(&mut self) -> Result<(Arc<Events>, i64), Status> {
        let next = poll_fn(|task| match self.watcher.poll(task, BATCH) {
            WatchPoll::Idle { .. } => Poll::Pending,
            found => Poll::Ready(found),
        });
        let found = tokio::select! {
            found = next => found,
            () = self.context.shutdown.cancelled() => return Err(Status::unavailable(refusal::STOPPED)),
        };
        match found {
            WatchPoll::Events { events, revision } => {
                self.holder.check_read(&self.context, &self.watcher.spec().range)?;
                Ok((events, revision))
            }
            WatchPoll::Failed(error) => Err(Status::unknown(error.to_string())),
            WatchPoll::Compacted { .. } | WatchPoll::Idle { .. } => Err(Status::unknown(refusal::COMPACTED)),
        }
    }
}

/// The key of a session under a prefix.
pub(crate) fn own_key(prefix: &Bytes, lease: i64) -> Bytes {
    [&prefix[..], format!("{:x}", HexSigned(lease)).as_bytes()].concat().into()
}

/// Hexadecimal digits after the sign, as Go writes them.
struct HexSigned(i64);

impl std::fmt::LowerHex for HexSigned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{:x}", self.0.unsigned_abs())
    }
}

/// The prefix of all keys of a lock or an election.
pub(crate) fn prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

fn by_creation(prefix: &Bytes, order: SortOrder, newest: i64) -> RangeRequest {
    RangeRequest {
        key: prefix.clone(),
        range_end: prefix_end(prefix),
        limit: 1,
        sort_order: order.into(),
        sort_target: SortTarget::Create.into(),
        max_create_revision: newest,
        ..Default::default()
    }
}

/// Whether a key is of this creation; 0 for one that does not exist.
pub(crate) fn created_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        range_end: Bytes::new(),
    }
}

pub(crate) fn put(key: &Bytes, value: Bytes, lease: i64) -> RequestOp {
    op(Op::RequestPut(PutRequest { key: key.clone(), value, lease, ..Default::default() }))
}

pub(crate) fn get(key: &Bytes) -> RequestOp {
    op(Op::RequestRange(RangeRequest { key: key.clone(), ..Default::default() }))
}

/// Reads the key under a prefix that was created first.
pub(crate) fn get_first(prefix: &Bytes) -> RequestOp {
    op(Op::RequestRange(by_creation(prefix, SortOrder::Ascend, 0)))
}

pub(crate) fn op(request: Op) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// The first key that a transaction's operation has read.
pub(crate) fn read_by(answer: &TxnResponse, operation: usize) -> Option<&KeyValue> {
    match answer.responses.get(operation)?.response.as_ref()? {
        Answer::ResponseRange(range) => range.kvs.first(),
        _ => None,
    }
}

/// Does something unless it is told not to: what a request that is given up leaves behind goes with it.
pub(crate) struct Otherwise(Option<Box<dyn FnOnce() + Send>>);

impl Otherwise {
    /// Runs a future, on its own, when this is dropped.
    pub(crate) fn run<F: Future<Output = ()> + Send + 'static>(future: F) -> Self {
        Self(Some(Box::new(move || {
            // A runtime that ends takes the store with it.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(future);
            }
        })))
    }

    /// Does nothing.
    pub(crate) fn nothing() -> Self {
        Self(None)
    }

    pub(crate) fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Otherwise {
    fn drop(&mut self) {
        if let Some(act) = self.0.take() {
            act();
        }
    }
}

#[cfg(test)]
mod tests;
