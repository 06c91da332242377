//! What the services count, under the names that etcd's dashboards know.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use http::HeaderMap;
use tonic::Code;

use crate::histogram::{self, Histogram};

/// Service, method and kind of every call that there is.
pub(crate) const METHODS: [(&str, &str, &str); 51] = [
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
    ("etcdserverpb.Cluster", "MemberAdd", "unary"),
    ("etcdserverpb.Cluster", "MemberRemove", "unary"),
    ("etcdserverpb.Cluster", "MemberUpdate", "unary"),
    ("etcdserverpb.Cluster", "MemberList", "unary"),
    ("etcdserverpb.Cluster", "MemberPromote", "unary"),
    ("etcdserverpb.Maintenance", "Alarm", "unary"),
    ("etcdserverpb.Maintenance", "Status", "unary"),
    ("etcdserverpb.Maintenance", "Defragment", "unary"),
    ("etcdserverpb.Maintenance", "Hash", "unary"),
    ("etcdserverpb.Maintenance", "HashKV", "unary"),
    ("etcdserverpb.Maintenance", "Snapshot", "server_stream"),
    ("etcdserverpb.Maintenance", "MoveLeader", "unary"),
    ("etcdserverpb.Maintenance", "Downgrade", "unary"),
    ("etcdserverpb.Auth", "AuthEnable", "unary"),
    ("etcdserverpb.Auth", "AuthDisable", "unary"),
    ("etcdserverpb.Auth", "AuthStatus", "unary"),
    ("etcdserverpb.Auth", "Authenticate", "unary"),
    ("etcdserverpb.Auth", "UserAdd", "unary"),
    ("etcdserverpb.Auth", "UserGet", "unary"),
    ("etcdserverpb.Auth", "UserList", "unary"),
    ("etcdserverpb.Auth", "UserDelete", "unary"),
    ("etcdserverpb.Auth", "UserChangePassword", "unary"),
    ("etcdserverpb.Auth", "UserGrantRole", "unary"),
    ("etcdserverpb.Auth", "UserRevokeRole", "unary"),
    ("etcdserverpb.Auth", "RoleAdd", "unary"),
    ("etcdserverpb.Auth", "RoleGet", "unary"),
    ("etcdserverpb.Auth", "RoleList", "unary"),
    ("etcdserverpb.Auth", "RoleDelete", "unary"),
    ("etcdserverpb.Auth", "RoleGrantPermission", "unary"),
    ("etcdserverpb.Auth", "RoleRevokePermission", "unary"),
    ("v3lockpb.Lock", "Lock", "unary"),
    ("v3lockpb.Lock", "Unlock", "unary"),
    ("v3electionpb.Election", "Campaign", "unary"),
    ("v3electionpb.Election", "Proclaim", "unary"),
    ("v3electionpb.Election", "Leader", "unary"),
    ("v3electionpb.Election", "Observe", "server_stream"),
    ("v3electionpb.Election", "Resign", "unary"),
    ("grpc.health.v1.Health", "Check", "unary"),
    ("grpc.health.v1.Health", "Watch", "server_stream"),
];

/// Each method's place in [`METHODS`], by its path.
static PLACES: LazyLock<HashMap<String, usize>> = LazyLock::new(|| {
    let path = |(place, (service, method, _)): (usize, &(&str, &str, &str))| (format!("/{service}/{method}"), place);
    METHODS.iter().enumerate().map(path).collect()
});

/// A method's place in [`METHODS`].
pub(crate) fn place(path: &str) -> Option<usize> {
    PLACES.get(path).copied()
}

/// Whether there is such a service.
pub(crate) fn is_service(name: &str) -> bool {
    METHODS.iter().any(|(service, ..)| *service == name)
}

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

/// Most warnings of slow calls in a second; when everything is slow, more of them say no more.
const SLOW_PER_SECOND: u64 = 100;

/// Counters of one server. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Metrics {
    counters: Arc<Counters>,
    /// Time after which a call is worth a warning; zero gives none.
    slow: Duration,
}

/// What is counted of one method.
#[derive(Default)]
pub(crate) struct Calls {
    pub(crate) started: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) handled: [AtomicU64; CODES.len()],
}

pub(crate) struct Counters {
    pub(crate) calls: [Calls; METHODS.len()],
    pub(crate) connections: AtomicU64,
    pub(crate) watch_streams: AtomicU64,
    pub(crate) watchers: AtomicU64,
    pub(crate) slow_watchers: AtomicU64,
    /// Of the warnings of slow calls.
    slow: Sampler,
    pub(crate) events: AtomicU64,
    pub(crate) health_successes: AtomicU64,
    pub(crate) health_failures: AtomicU64,
    /// By [`crate::health::Check`]: runs that found nothing, runs that found something, whether the last found nothing.
    pub(crate) checks: [(AtomicU64, AtomicU64, AtomicBool); 5],
    /// Pages of metrics that were asked for, this one included.
    pub(crate) scrapes: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) ranges: AtomicU64,
    pub(crate) puts: AtomicU64,
    pub(crate) put_bytes: AtomicU64,
    pub(crate) deletes: AtomicU64,
    pub(crate) txns: AtomicU64,
    pub(crate) failed_proposals: AtomicU64,
    pub(crate) leases_granted: AtomicU64,
    pub(crate) leases_revoked: AtomicU64,
    pub(crate) leases_renewed: AtomicU64,
    pub(crate) defrags: AtomicU64,
    pub(crate) lease_ttls: Histogram,
    pub(crate) defrag_seconds: Histogram,
    pub(crate) hash_seconds: Histogram,
    pub(crate) hash_kv_seconds: Histogram,
    pub(crate) snapshot_seconds: Histogram,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            calls: std::array::from_fn(|_| Calls::default()),
            connections: AtomicU64::default(),
            watch_streams: AtomicU64::default(),
            watchers: AtomicU64::default(),
            slow_watchers: AtomicU64::default(),
            slow: Sampler::default(),
            events: AtomicU64::default(),
            health_successes: AtomicU64::default(),
            health_failures: AtomicU64::default(),
            checks: Default::default(),
            scrapes: AtomicU64::default(),
            received_bytes: AtomicU64::default(),
            sent_bytes: AtomicU64::default(),
            ranges: AtomicU64::default(),
            puts: AtomicU64::default(),
            put_bytes: AtomicU64::default(),
            deletes: AtomicU64::default(),
            txns: AtomicU64::default(),
            failed_proposals: AtomicU64::default(),
            leases_granted: AtomicU64::default(),
            leases_revoked: AtomicU64::default(),
            leases_renewed: AtomicU64::default(),
            defrags: AtomicU64::default(),
            lease_ttls: Histogram::new(&histogram::LEASE_TTL),
            defrag_seconds: Histogram::new(&histogram::DEFRAG),
            hash_seconds: Histogram::new(&histogram::HASH),
            hash_kv_seconds: Histogram::new(&histogram::HASH),
            snapshot_seconds: Histogram::new(&histogram::SNAPSHOT),
        }
    }
}

impl Metrics {
    /// Counters of a server that warns of unary calls which last longer than `slow`, unless that is zero.
    pub(crate) fn new(slow: Duration) -> Self {
        Self { slow, ..Self::default() }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Counts a call of the method at this place of [`METHODS`]; it ends when what is returned goes.
    pub(crate) fn call(&self, place: usize) -> Call {
        // Locks and elections wait for others, and streams for what is to come.
        let (service, _, kind) = METHODS[place];
        let timed = !self.slow.is_zero() && kind == "unary" && service.starts_with("etcdserverpb.");
        let call = Call {
            counters: self.counters.clone(),
            place,
            code: AtomicU8::new(Code::Cancelled as u8),
            began: Instant::now(),
            limit: timed.then_some(self.slow),
        };
        call.calls().started.fetch_add(1, Relaxed);
        call
    }
}

/// A call under way. One whose end is never told was given up by the client.
pub(crate) struct Call {
    counters: Arc<Counters>,
    place: usize,
    code: AtomicU8,
    began: Instant,
    /// How long it may last without a warning.
    limit: Option<Duration>,
}

impl Call {
    fn calls(&self) -> &Calls {
        &self.counters.calls[self.place]
    }

    /// Counts what came from the client.
    pub(crate) fn received(&self, messages: u64, bytes: u64) {
        self.calls().received.fetch_add(messages, Relaxed);
        self.counters.received_bytes.fetch_add(bytes, Relaxed);
    }

    /// Counts what went to the client.
    pub(crate) fn sent(&self, messages: u64, bytes: u64) {
        self.calls().sent.fetch_add(messages, Relaxed);
        self.counters.sent_bytes.fetch_add(bytes, Relaxed);
    }

    /// Notes how the call has ended.
    pub(crate) fn ended_with(&self, code: Code) {
        self.code.store(code as u8, Relaxed);
    }

    /// Notes how the call has ended, if these headers or trailers tell it.
    pub(crate) fn ended(&self, headers: &HeaderMap) {
        let code = headers.get("grpc-status").and_then(|value| value.to_str().ok()?.parse::<u8>().ok());
        if let Some(code) = code.filter(|code| usize::from(*code) < CODES.len()) {
            self.code.store(code, Relaxed);
        }
    }
}

impl Call {
    /// Warns of a call that has lasted too long, in etcd's words.
    fn tell_slow(&self) {
        let Some(limit) = self.limit else { return };
        let took = self.began.elapsed();
        if took > limit && self.counters.slow.admits() {
            let (service, method, _) = METHODS[self.place];
            tracing::warn!(
                "took" = ?took,
                "expected-duration" = ?limit,
                "method" = format!("/{service}/{method}"),
                "code" = CODES[usize::from(self.code.load(Relaxed))],
                "apply request took too long"
            );
        }
    }
}

/// Lets so many through in each second.
pub(crate) struct Sampler {
    began: Instant,
    second: AtomicU64,
    admitted: AtomicU64,
}

impl Default for Sampler {
    fn default() -> Self {
        Sampler { began: Instant::now(), second: AtomicU64::new(0), admitted: AtomicU64::new(0) }
    }
}

impl Sampler {
    /// Whether one more may go; those of several threads at the turn of a second may be counted to either.
    fn admits(&self) -> bool {
        let now = self.began.elapsed().as_secs();
        if self.second.swap(now, Relaxed) != now {
            self.admitted.store(0, Relaxed);
        }
        self.admitted.fetch_add(1, Relaxed) < SLOW_PER_SECOND
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.tell_slow();
        let code = self.code.load(Relaxed);
        self.calls().handled[usize::from(code)].fetch_add(1, Relaxed);
        if METHODS[self.place].1 == "Snapshot" && code == Code::Ok as u8 {
            self.counters.snapshot_seconds.took(self.began.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_their_codes() {
        let metrics = Metrics::default();
        let put = place("/etcdserverpb.KV/Put").unwrap();
        assert_eq!(METHODS[put], ("etcdserverpb.KV", "Put", "unary"));
        let status =
            |code: &'static str| HeaderMap::from_iter([("grpc-status".parse().unwrap(), code.parse().unwrap())]);
        for code in ["0", "5", "99", "x"] {
            metrics.call(put).ended(&status(code));
        }
        drop(metrics.call(put));
        let counted: Vec<u64> = metrics.counters().calls[put].handled.iter().map(|count| count.load(Relaxed)).collect();
        assert_eq!(metrics.counters().calls[put].started.load(Relaxed), 5);
        assert_eq!((counted[0], counted[5], CODES[5]), (1, 1, "NotFound"));
        assert_eq!((counted[1], CODES[1]), (3, "Canceled"), "an end that was not told");
    }

    #[test]
    fn methods_are_distinct_and_found() {
        assert_eq!(PLACES.len(), METHODS.len());
        assert!(is_service("v3lockpb.Lock") && !is_service("v3lockpb.Other"));
        assert_eq!(place("/etcdserverpb.KV/Other"), None);
    }

    #[test]
    fn warnings_of_slow_calls_are_bounded() {
        let sampler = Sampler::default();
        let admitted = (0..10 * SLOW_PER_SECOND).filter(|_| sampler.admits()).count() as u64;
        // A machine that stands still for a second may let twice as many through.
        assert!((SLOW_PER_SECOND..3 * SLOW_PER_SECOND).contains(&admitted), "{admitted}");
        assert!(Metrics::default().call(0).limit.is_none());
        let timed = Metrics::new(Duration::from_millis(300));
        assert!(timed.call(0).limit.is_some());
        let is_timed =
            |name: &str| timed.call(METHODS.iter().position(|(_, method, _)| *method == name).unwrap()).limit;
        assert!(is_timed("Watch").is_none() && is_timed("Lock").is_none());
    }
}
