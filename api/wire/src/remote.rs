//! The store seam over the network: any etcd v3 endpoint, etcd's own or ours.

mod changes;
mod endpoint;
mod transfer;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tonic::{Code, Status};

use crate::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::pb::etcdserverpb::kv_client::KvClient;
use crate::pb::etcdserverpb::lease_client::LeaseClient;
use crate::pb::etcdserverpb::request_op::Request as RequestOpKind;
use crate::pb::etcdserverpb::response_op::Response as ResponseOpKind;
use crate::pb::etcdserverpb::watch_request::RequestUnion;
use crate::pb::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RangeResponse,
    RequestOp, TxnRequest, WatchProgressRequest, WatchRequest,
};
use crate::pb::mvccpb::KeyValue;
use crate::prefix::{prefix_end, prefix_range};
use crate::store::{Changes, Got, ListOptions, Listed, Object, Store, StoreError, Written};

use endpoint::Endpoints;
pub use endpoint::{ClientTls, RemoteOptions};
pub use transfer::{LeaseLeft, Page, SnapshotStream, Transfer, TransferError};

/// Keys in the first page of a list; later pages are sized by what the first ones weighed.
const FIRST_PAGE: i64 = 500;
/// Most keys in one page.
const MAX_PAGE: i64 = 20_000;
/// Bytes of keys and values that a page aims at.
const PAGE_BYTES: usize = 8 << 20;
/// How often a list of the newest revision starts over because a compaction overtook it.
const LIST_ATTEMPTS: usize = 4;
/// Largest answer taken. etcd sends up to 2 GiB; pages keep us far below, except for single huge values.
const MAX_ANSWER: usize = i32::MAX as usize;

/// An etcd cluster as a [`Store`]. Clones share connections.
///
/// Endpoints are tried in turn: a request that could not be sent goes to the next one, and one that failed for lack of
/// a leader or a lost connection makes the next request go there. A write that may have been sent is never repeated.
#[derive(Clone)]
pub struct RemoteStore {
    shared: Arc<Shared>,
}

struct Shared {
    endpoints: Endpoints,
    request_timeout: Duration,
    /// Where open watches of this handle take requests; closed ones are swept out when a watch opens.
    watches: Mutex<Vec<mpsc::WeakSender<WatchRequest>>>,
}

impl RemoteStore {
    /// A store at these endpoints. Connects when first used.
    ///
    /// # Errors
    /// [`StoreError::Rejected`] where an endpoint is no `http://` or `https://` URL, or the TLS files do not parse.
    pub fn new(options: RemoteOptions) -> Result<Self, StoreError> {
        let request_timeout = options.request_timeout;
        let endpoints = Endpoints::new(options)?;
        Ok(Self { shared: Arc::new(Shared { endpoints, request_timeout, watches: Mutex::default() }) })
    }

    /// Runs `call` on the endpoint in use, moving on where that one cannot be reached.
    ///
    /// `repeatable`: the call changes nothing, so that it may also be repeated when an answer was lost.
    async fn call<T, F, Fut>(&self, repeatable: bool, call: F) -> Result<T, StoreError>
    where
        F: Fn(tonic::transport::Channel) -> Fut,
        Fut: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let endpoints = &self.shared.endpoints;
        let mut tries = endpoints.len();
        loop {
            let (at, channel) = endpoints.current();
            let status = match tokio::time::timeout(self.shared.request_timeout, call(channel)).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::unavailable("etcdserver: request timed out"),
            };
            tries -= 1;
            if !endpoint::is_unavailable(&status) {
                return Err(store_error(&status));
            }
            endpoints.move_on(at);
            if tries == 0 || !(repeatable || endpoint::was_never_sent(&status)) {
                return Err(store_error(&status));
            }
        }
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        self.call(true, |channel| {
            let request = request.clone();
            async move { KvClient::new(channel).max_decoding_message_size(MAX_ANSWER).range(request).await }
        })
        .await
    }

    /// A guarded write: `write` if the key's modification revision is `expected`, else a read of what is there.
    async fn guarded(&self, key: Bytes, expected: i64, write: RequestOpKind) -> Result<Written, StoreError> {
        let guard = Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: key.clone(),
            target_union: Some(TargetUnion::ModRevision(expected)),
            range_end: Bytes::new(),
        };
        let read = RequestOpKind::RequestRange(RangeRequest { key, ..Default::default() });
        let request = TxnRequest {
            compare: vec![guard],
            success: vec![RequestOp { request: Some(write) }],
            failure: vec![RequestOp { request: Some(read) }],
        };
        let answer = self
            .call(false, |channel| {
                let request = request.clone();
                async move { KvClient::new(channel).max_decoding_message_size(MAX_ANSWER).txn(request).await }
            })
            .await?;
        let revision = answer.header.map_or(0, |header| header.revision);
        if answer.succeeded {
            return Ok(Written::Done { revision });
        }
        let current = match answer.responses.into_iter().next().and_then(|op| op.response) {
            Some(ResponseOpKind::ResponseRange(range)) => range.kvs.into_iter().next().map(object),
            _ => None,
        };
        Ok(Written::Conflict { revision, current })
    }

    async fn list_once(&self, prefix: &Bytes, options: &ListOptions) -> Result<Listed, StoreError> {
        let (mut start, end) = prefix_range(prefix);
        if let Some(key) = options.start_key.as_ref().filter(|key| **key > start) {
            start = key.clone();
        }
        let wanted = if options.limit == 0 { i64::MAX } else { i64::try_from(options.limit).unwrap_or(i64::MAX) };
        let mut page = FIRST_PAGE.min(wanted);
        let mut pinned = options.revision;
        let mut weight = 0;
        let mut listed: Option<Listed> = None;
        loop {
            let request = RangeRequest {
                key: start,
                range_end: end.clone(),
                limit: page,
                revision: pinned,
                ..Default::default()
            };
            let answer = self.range(request).await?;
            let revision = answer.header.map_or(0, |header| header.revision);
            let into = listed.get_or_insert_with(|| Listed {
                revision,
                objects: Vec::new(),
                more: false,
                count: answer.count,
            });
            into.objects.reserve(answer.kvs.len());
            for kv in answer.kvs {
                weight += kv.key.len() + kv.value.len();
                into.objects.push(object(kv));
            }
            let have = into.objects.len() as i64;
            let Some(last) = into.objects.last().filter(|_| answer.more && have < wanted) else {
                into.more = answer.more;
                break;
            };
            // The smallest key above the last one.
            start = [&last.key[..], &[0]].concat().into();
            // All pages are of the revision of the first.
            if pinned <= 0 {
                pinned = revision;
            }
            let fitting = PAGE_BYTES / (weight / into.objects.len()).max(1);
            page = i64::try_from(fitting).unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE).min(wanted - have);
        }
        Ok(listed.unwrap_or(Listed { revision: 0, objects: Vec::new(), more: false, count: 0 }))
    }
}

#[async_trait::async_trait]
impl Store for RemoteStore {
    async fn get(&self, key: Bytes) -> Result<Got, StoreError> {
        let answer = self.range(RangeRequest { key, ..Default::default() }).await?;
        let revision = answer.header.map_or(0, |header| header.revision);
        Ok(Got { revision, object: answer.kvs.into_iter().next().map(object) })
    }

    async fn list(&self, prefix: Bytes, options: ListOptions) -> Result<Listed, StoreError> {
        let mut attempts = 1;
        loop {
            match self.list_once(&prefix, &options).await {
                // The revision was of our own choice: choose anew.
                Err(StoreError::Compacted { .. }) if options.revision <= 0 && attempts < LIST_ATTEMPTS => attempts += 1,
                done => return done,
            }
        }
    }

    async fn count(&self, prefix: Bytes) -> Result<(i64, i64), StoreError> {
        let (key, range_end) = prefix_range(&prefix);
        let answer = self.range(RangeRequest { key, range_end, count_only: true, ..Default::default() }).await?;
        Ok((answer.count, answer.header.map_or(0, |header| header.revision)))
    }

    async fn put(&self, key: Bytes, value: Bytes, expected: i64, lease: i64) -> Result<Written, StoreError> {
        let put = PutRequest { key: key.clone(), value, lease, ..Default::default() };
        self.guarded(key, expected, RequestOpKind::RequestPut(put)).await
    }

    async fn delete(&self, key: Bytes, expected: i64) -> Result<Written, StoreError> {
        let delete = DeleteRangeRequest { key: key.clone(), ..Default::default() };
        self.guarded(key, expected, RequestOpKind::RequestDeleteRange(delete)).await
    }

    async fn watch(&self, prefix: Bytes, start_revision: i64) -> Result<Changes, StoreError> {
        let mut tries = self.shared.endpoints.len();
        loop {
            let (at, channel) = self.shared.endpoints.current();
            let range = (prefix.clone(), prefix_end(&prefix));
            let opening = changes::open(channel, range, start_revision);
            let failure = match tokio::time::timeout(self.shared.request_timeout, opening).await {
                Ok(Ok((requests, changes))) => {
                    let mut watches = self.shared.watches.lock();
                    watches.retain(|open| open.strong_count() > 0);
                    watches.push(requests);
                    return Ok(changes);
                }
                Ok(Err(failure)) => failure,
                Err(_) => StoreError::Unavailable("etcdserver: request timed out".into()),
            };
            tries -= 1;
            if !matches!(failure, StoreError::Unavailable(_)) {
                return Err(failure);
            }
            self.shared.endpoints.move_on(at);
            if tries == 0 {
                return Err(failure);
            }
        }
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        // A full queue holds a request already that will be answered with a revision at least as new.
        for watch in self.shared.watches.lock().iter().filter_map(mpsc::WeakSender::upgrade) {
            let progress = RequestUnion::ProgressRequest(WatchProgressRequest {});
            let _ = watch.try_send(WatchRequest { request_union: Some(progress) });
        }
        Ok(())
    }

    async fn compact(&self, revision: i64) -> Result<(), StoreError> {
        self.call(false, |channel| async move {
            KvClient::new(channel).compact(CompactionRequest { revision, physical: false }).await
        })
        .await?;
        Ok(())
    }

    async fn grant_lease(&self, ttl: i64) -> Result<i64, StoreError> {
        let request = LeaseGrantRequest { ttl, id: 0 };
        let answer =
            self.call(false, |channel| async move { LeaseClient::new(channel).lease_grant(request).await }).await?;
        Ok(answer.id)
    }
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

/// What a refusal means to the seam. etcd's clients tell its errors apart by their texts, and so do we.
fn store_error(status: &Status) -> StoreError {
    let text = status.message();
    match text {
        "etcdserver: mvcc: required revision has been compacted" => return StoreError::Compacted { compacted: 0 },
        "etcdserver: mvcc: required revision is a future revision" => return StoreError::Future,
        "etcdserver: mvcc: database space exceeded" => return StoreError::NoSpace,
        _ => {}
    }
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::ResourceExhausted
        | Code::Unimplemented => StoreError::Rejected(text.to_owned()),
        _ => StoreError::Unavailable(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real_etcd::RealEtcd;

    /// On an etcd endpoint that does not answer at first: the suite goes to the next one.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn passes_the_store_suite_on_a_real_etcd() {
        let Some(etcd) = RealEtcd::start(&["--watch-progress-notify-interval", "1s"]) else { return };
        let options = RemoteOptions::new(["http://127.0.0.1:1", etcd.endpoint()]);
        crate::store_suite::run(&RemoteStore::new(options).unwrap()).await;
    }

    #[tokio::test]
    async fn says_what_is_wrong_with_an_endpoint() {
        let refusal = |url: &str| match RemoteStore::new(RemoteOptions::new([url])) {
            Err(StoreError::Rejected(text)) => text,
            _ => panic!("{url} was taken"),
        };
        assert!(refusal("127.0.0.1:2379").contains("must begin with http://"));
        assert!(refusal("ftp://127.0.0.1").contains("must begin with http://"));
        assert!(refusal("https://127.0.0.1:2379").contains("authority"));
        assert!(refusal("http://a b").contains("a b"));
        assert!(RemoteStore::new(RemoteOptions::new(Vec::<String>::new())).is_err());
    }

    #[tokio::test]
    async fn an_unreachable_cluster_is_unavailable() {
        let store = RemoteStore::new(RemoteOptions::new(["http://127.0.0.1:1", "http://127.0.0.1:2"])).unwrap();
        assert!(matches!(store.get("k".into()).await, Err(StoreError::Unavailable(_))));
        assert!(matches!(store.put("k".into(), "v".into(), 0, 0).await, Err(StoreError::Unavailable(_))));
        assert!(matches!(store.watch("k".into(), 0).await, Err(StoreError::Unavailable(_))));
    }
}
