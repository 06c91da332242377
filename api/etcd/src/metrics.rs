//! What the services count, under the names that etcd's dashboards know.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tonic::{Code, Response, Status};

/// The calls that are counted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Method {
    Range,
    RangeStream,
    Put,
    DeleteRange,
    Txn,
    Compact,
    Watch,
    LeaseGrant,
    LeaseRevoke,
    LeaseKeepAlive,
    LeaseTimeToLive,
    LeaseLeases,
    MemberList,
    Status,
    Alarm,
    HealthCheck,
    HealthWatch,
}

/// Service, method and kind of each [`Method`], in its order.
pub(crate) const METHODS: [(&str, &str, &str); 17] = [
    ("etcdserverpb.KV", "Range", "unary"),
    ("etcdserverpb.KV", "RangeStream", "server_stream"),
    ("etcdserverpb.KV", "Put", "unary"),
    ("etcdserverpb.KV", "DeleteRange", "unary"),
    ("etcdserverpb.KV", "Txn", "unary"),
    ("etcdserverpb.KV", "Compact", "unary"),
    ("etcdserverpb.Watch", "Watch", "bidi_stream"),
    ("etcdserverpb.Lease", "LeaseGrant", "unary"),
    ("etcdserverpb.Lease", "LeaseRevoke", "unary"),
    ("etcdserverpb.Lease", "LeaseKeepAlive", "bidi_stream"),
    ("etcdserverpb.Lease", "LeaseTimeToLive", "unary"),
    ("etcdserverpb.Lease", "LeaseLeases", "unary"),
    ("etcdserverpb.Cluster", "MemberList", "unary"),
    ("etcdserverpb.Maintenance", "Status", "unary"),
    ("etcdserverpb.Maintenance", "Alarm", "unary"),
    ("grpc.health.v1.Health", "Check", "unary"),
    ("grpc.health.v1.Health", "Watch", "server_stream"),
];

/// gRPC's codes as Go's library names them, in the order of their numbers.
pub(crate) const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Counters of one server. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Metrics {
    counters: Arc<Counters>,
}

#[derive(Default)]
pub(crate) struct Counters {
    started: [AtomicU64; METHODS.len()],
    handled: [[AtomicU64; CODES.len()]; METHODS.len()],
    pub(crate) connections: AtomicU64,
    pub(crate) watch_streams: AtomicU64,
    pub(crate) watchers: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) health_successes: AtomicU64,
    pub(crate) health_failures: AtomicU64,
}

impl Counters {
    pub(crate) fn started(&self, method: usize) -> u64 {
        self.started[method].load(Relaxed)
    }

    pub(crate) fn handled(&self, method: usize, code: usize) -> u64 {
        self.handled[method][code].load(Relaxed)
    }

    fn ended(&self, method: Method, code: Code) {
        // Codes are numbered from 0 to 16.
        if let Some(counter) = self.handled[method as usize].get(code as usize) {
            counter.fetch_add(1, Relaxed);
        }
    }
}

impl Metrics {
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Counts one call with one answer.
    pub(crate) async fn unary<T>(
        &self,
        method: Method,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<Response<T>, Status> {
        self.counters.started[method as usize].fetch_add(1, Relaxed);
        let answer = call.await;
        self.counters.ended(method, answer.as_ref().err().map_or(Code::Ok, Status::code));
        answer.map(Response::new)
    }

    /// Counts one call that lasts until the returned guard goes.
    pub(crate) fn stream(&self, method: Method) -> Call {
        self.counters.started[method as usize].fetch_add(1, Relaxed);
        Call { counters: self.counters.clone(), method, code: AtomicU64::new(Code::Ok as u64) }
    }
}

/// A streaming call under way.
pub(crate) struct Call {
    counters: Arc<Counters>,
    method: Method,
    code: AtomicU64,
}

impl Call {
    /// Notes how the call will have ended.
    pub(crate) fn fails(&self, status: &Status) {
        self.code.store(status.code() as u64, Relaxed);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.counters.ended(self.method, Code::from(self.code.load(Relaxed) as i32));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_are_counted_by_their_codes() {
        let metrics = Metrics::default();
        let _ = metrics.unary(Method::Put, async { Ok(()) }).await;
        let _ = metrics.unary(Method::Put, async { Err::<(), _>(Status::not_found("x")) }).await;
        let call = metrics.stream(Method::HealthWatch);
        call.fails(&Status::unauthenticated("x"));
        drop(call);
        let counters = metrics.counters();
        let put = Method::Put as usize;
        assert_eq!(METHODS[put].1, "Put");
        assert_eq!((counters.started(put), counters.handled(put, 0), counters.handled(put, 5)), (2, 1, 1));
        assert_eq!(CODES[5], "NotFound");
        assert_eq!(METHODS[Method::HealthWatch as usize].1, "Watch");
        assert_eq!(counters.handled(Method::HealthWatch as usize, 16), 1);
    }
}
