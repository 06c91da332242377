//! `/metrics`: Prometheus' text format, with etcd's names for what there is.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kelson_raft::SYNC_BUCKETS_US;

use crate::context::{CLUSTER_VERSION, Context, ETCD_VERSION};
use crate::health::Check;
use crate::histogram::{Histogram, number};
use crate::metrics::{self, CODES, Calls, Counters, METHODS};

/// Content type of the answer.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        let _ = writeln!(self.0, "{name} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.one(name, "gauge", help, value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.one(name, "counter", help, value);
    }
}

/// The whole page.
pub(crate) fn render(context: &Context) -> String {
    context.metrics.counters().scrapes.fetch_add(1, Relaxed);
    let mut page = Page(String::with_capacity(64 << 10));
    server(&mut page, context);
    raft(&mut page, context);
    storage(&mut page, context);
    watches(&mut page, context);
    leases(&mut page, context);
    probes(&mut page, context);
    services(&mut page, context);
    process(&mut page);
    page.0
}

impl Page {
    fn count(&mut self, name: &str, help: &str, count: &AtomicU64) {
        self.counter(name, help, number(count.load(Relaxed) as f64));
    }

    fn level(&mut self, name: &str, help: &str, count: &AtomicU64) {
        self.gauge(name, help, number(count.load(Relaxed) as f64));
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        histogram.render(name, "", &mut self.0);
    }
}

fn server(page: &mut Page, context: &Context) {
    let status = context.node.status();
    let counters = context.metrics.counters();
    page.gauge("etcd_server_has_leader", "Whether a leader is known: 1 or 0.", u8::from(status.leader != 0));
    page.gauge("etcd_server_is_leader", "Whether this member leads: 1 or 0.", u8::from(status.is_leader));
    page.gauge("etcd_server_is_learner", "Whether this member is a learner: 1 or 0.", u8::from(status.is_learner));
    page.head("etcd_server_id", "gauge", "Identity of this member, in hexadecimal.");
    let _ = writeln!(page.0, "etcd_server_id{{server_id=\"{:x}\"}} 1", status.member_id);
    page.head("etcd_server_version", "gauge", "The release of etcd whose behaviour this server has.");
    let _ = writeln!(page.0, "etcd_server_version{{server_version=\"{ETCD_VERSION}\"}} 1");
    page.head("etcd_cluster_version", "gauge", "The version of the cluster's protocol.");
    let minor = CLUSTER_VERSION.trim_end_matches(".0");
    let _ = writeln!(page.0, "etcd_cluster_version{{cluster_version=\"{minor}\"}} 1");
    page.counter(
        "etcd_server_leader_changes_seen_total",
        "Leaders that this member has seen, counted when it is asked.",
        context.leaders_seen(status.leader),
    );
    page.counter("etcd_server_learner_promote_successes", "Learners that were made voters.", promotions(counters));
    let quota = number(context.quota.told() as f64);
    page.gauge("etcd_server_quota_backend_bytes", "Most bytes that the state may take.", quota);
    page.level("etcd_server_client_connections", "Open client connections.", &counters.connections);
    page.head("etcd_network_known_peers", "gauge", "Members, by who tells of them.");
    for member in context.node.members() {
        let (local, remote) = (status.member_id, member.id);
        let _ = writeln!(page.0, "etcd_network_known_peers{{Local=\"{local:x}\",Remote=\"{remote:x}\"}} 1");
    }
}

fn promotions(counters: &Counters) -> u64 {
    let place = metrics::place("/etcdserverpb.Cluster/MemberPromote");
    place.map_or(0, |place| counters.calls[place].handled[0].load(Relaxed))
}

fn raft(page: &mut Page, context: &Context) {
    let status = context.node.status();
    let counters = context.metrics.counters();
    page.gauge("etcd_server_proposals_committed_total", "Index of the newest committed log entry.", status.committed);
    page.gauge("etcd_server_proposals_applied_total", "Index of the newest applied log entry.", status.applied);
    page.gauge("etcd_server_proposals_pending", "Commands that wait for a place in the log.", status.pending);
    page.count(
        "etcd_server_proposals_failed_total",
        "Commands that were not ordered, or of unknown fate.",
        &counters.failed_proposals,
    );
    page.count(
        "etcd_server_read_indexes_failed_total",
        "Linearizable reads that the cluster did not confirm.",
        &context.reads.failed,
    );
    page.count(
        "etcd_server_slow_read_indexes_total",
        "Linearizable reads that were confirmed after more than half a second.",
        &context.reads.slow,
    );
    page.gauge("etcd_debugging_raft_log_size_in_bytes", "Bytes of the log.", status.log_size);
    if !status.states_sent.is_empty() {
        let name = "etcd_network_snapshot_send_success";
        page.head(name, "counter", "Whole states that another member has taken.");
        for (to, count) in &status.states_sent {
            let _ = writeln!(page.0, "{name}{{To=\"{to:x}\"}} {count}");
        }
    }

    let name = "etcd_disk_wal_fsync_duration_seconds";
    page.head(name, "histogram", "How long synced writes of the log took.");
    let mut below = 0;
    for (bound, count) in SYNC_BUCKETS_US.iter().zip(status.syncs.buckets) {
        below += count;
        let _ = writeln!(page.0, "{name}_bucket{{le=\"{}\"}} {below}", seconds(*bound));
    }
    let total = status.syncs.count;
    let _ = writeln!(page.0, "{name}_bucket{{le=\"+Inf\"}} {total}");
    let _ = writeln!(page.0, "{name}_sum {}\n{name}_count {total}", seconds(status.syncs.total_us));
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn storage(page: &mut Page, context: &Context) {
    let reader = context.node.reader();
    let counters = context.metrics.counters();
    page.gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes of the state, on disk or in memory.", reader.size_bytes());
    page.gauge(
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "Bytes of the state without what compaction has left to be reused.",
        reader.in_use_bytes(),
    );
    let reads = context.reads.under_way();
    page.gauge("etcd_mvcc_db_open_read_transactions", "Large reads under way.", reads);
    page.gauge("etcd_debugging_mvcc_current_revision", "The store's revision.", reader.revision());
    page.gauge("etcd_debugging_mvcc_compact_revision", "Revision of the last compaction.", reader.compacted_revision());
    page.gauge("etcd_debugging_mvcc_keys_total", "Keys that exist.", reader.key_count());
    page.gauge("etcd_debugging_mvcc_history_total", "Superseded writes and deletions kept.", reader.history_count());
    page.gauge("etcd_debugging_mvcc_cache_size_in_bytes", "Bytes of records held in memory.", reader.cache_bytes());
    if context.reads.took.iter().any(|took| took.count() > 0) {
        let name = "etcd_server_range_duration_seconds";
        page.head(name, "histogram", "How long it took to read ranges.");
        for (took, success) in context.reads.took.iter().zip(["false", "true"]).filter(|(took, _)| took.count() > 0) {
            took.render(name, &format!("success=\"{success}\","), &mut page.0);
        }
    }
    page.gauge("etcd_debugging_auth_revision", "Revision of users and roles.", reader.auth().revision());
    page.count("etcd_mvcc_range_total", "Ranges read for clients.", &counters.ranges);
    page.count("etcd_mvcc_put_total", "Puts made for clients.", &counters.puts);
    page.count("etcd_mvcc_delete_total", "Deletions made for clients.", &counters.deletes);
    page.count("etcd_mvcc_txn_total", "Transactions of more than one operation.", &counters.txns);
    page.level(
        "etcd_debugging_mvcc_total_put_size_in_bytes",
        "Bytes of keys and values put by clients.",
        &counters.put_bytes,
    );
    page.level("etcd_disk_defrag_inflight", "Defragmentations under way.", &counters.defrags);
    page.histogram(
        "etcd_disk_backend_defrag_duration_seconds",
        "How long defragmentations took.",
        &counters.defrag_seconds,
    );
    page.histogram(
        "etcd_disk_backend_snapshot_duration_seconds",
        "How long it took to send snapshots.",
        &counters.snapshot_seconds,
    );
    page.histogram("etcd_mvcc_hash_duration_seconds", "How long hashing the state took.", &counters.hash_seconds);
    page.histogram(
        "etcd_mvcc_hash_rev_duration_seconds",
        "How long hashing the history took.",
        &counters.hash_kv_seconds,
    );
}

fn watches(page: &mut Page, context: &Context) {
    let counters = context.metrics.counters();
    page.level("etcd_debugging_mvcc_watch_stream_total", "Open watch streams.", &counters.watch_streams);
    page.level("etcd_debugging_mvcc_watcher_total", "Open watches.", &counters.watchers);
    page.level(
        "etcd_debugging_mvcc_slow_watcher_total",
        "Watches that had events to tell when they were last asked.",
        &counters.slow_watchers,
    );
    page.count("etcd_debugging_mvcc_events_total", "Events sent to watches.", &counters.events);
}

fn leases(page: &mut Page, context: &Context) {
    let counters = context.metrics.counters();
    page.gauge("etcd_debugging_lease_leases_total", "Leases that exist.", context.node.reader().lease_count());
    page.count("etcd_debugging_lease_granted_total", "Leases granted.", &counters.leases_granted);
    page.count("etcd_debugging_lease_renewed_total", "Renewals of leases.", &counters.leases_renewed);
    page.count("etcd_debugging_lease_revoked_total", "Leases that clients revoked.", &counters.leases_revoked);
    page.histogram("etcd_debugging_lease_ttl_total", "Seconds to live of granted leases.", &counters.lease_ttls);
}

fn probes(page: &mut Page, context: &Context) {
    let counters = context.metrics.counters();
    page.count("etcd_server_health_success", "Health checks that succeeded.", &counters.health_successes);
    page.count("etcd_server_health_failures", "Health checks that failed.", &counters.health_failures);
    let kinds = [("livez", Check::LIVE), ("readyz", Check::READY)];
    let named = kinds.into_iter().flat_map(|(kind, checks)| checks.iter().map(move |check| (kind, check.name())));
    let run: Vec<_> = named
        .zip(&counters.checks)
        .map(|(name, (fine, failed, last))| (name, fine.load(Relaxed), failed.load(Relaxed), last.load(Relaxed)))
        .filter(|(_, fine, failed, _)| fine + failed > 0)
        .collect();
    if !run.is_empty() {
        page.head("etcd_server_healthcheck", "gauge", "Whether each check found nothing when it was last run.");
        for ((kind, name), _, _, last) in &run {
            let _ = writeln!(page.0, "etcd_server_healthcheck{{name=\"{name}\",type=\"{kind}\"}} {}", u8::from(*last));
        }
        page.head("etcd_server_healthchecks_total", "counter", "Runs of each check, by what came of them.");
        for ((kind, name), fine, failed, _) in &run {
            for (status, count) in [("success", fine), ("error", failed)] {
                if *count > 0 {
                    let labels = format!("name=\"{name}\",status=\"{status}\",type=\"{kind}\"");
                    let _ = writeln!(page.0, "etcd_server_healthchecks_total{{{labels}}} {count}");
                }
            }
        }
    }
    page.gauge("promhttp_metric_handler_requests_in_flight", "Pages of metrics being written.", 1);
    page.head("promhttp_metric_handler_requests_total", "counter", "Pages of metrics written, by status.");
    let scrapes = counters.scrapes.load(Relaxed) - 1;
    for (code, count) in [("200", scrapes), ("500", 0), ("503", 0)] {
        let _ = writeln!(page.0, "promhttp_metric_handler_requests_total{{code=\"{code}\"}} {count}");
    }
}

fn services(page: &mut Page, context: &Context) {
    let counters = context.metrics.counters();
    page.count(
        "etcd_network_client_grpc_received_bytes_total",
        "Bytes of clients' messages.",
        &counters.received_bytes,
    );
    page.count("etcd_network_client_grpc_sent_bytes_total", "Bytes of messages to clients.", &counters.sent_bytes);
    type Column = fn(&Calls) -> &AtomicU64;
    let columns: [(&str, &str, Column); 3] = [
        ("grpc_server_started_total", "Calls that began.", |calls| &calls.started),
        ("grpc_server_msg_received_total", "Messages received.", |calls| &calls.received),
        ("grpc_server_msg_sent_total", "Messages sent.", |calls| &calls.sent),
    ];
    for (name, help, column) in columns {
        page.head(name, "counter", help);
        for ((service, method, kind), calls) in METHODS.iter().zip(&counters.calls) {
            let labels = format!("grpc_method=\"{method}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"");
            let _ = writeln!(page.0, "{name}{{{labels}}} {}", column(calls).load(Relaxed));
        }
    }
    page.head("grpc_server_handled_total", "counter", "Calls that ended, by code.");
    for ((service, method, kind), calls) in METHODS.iter().zip(&counters.calls) {
        for (code, count) in CODES.iter().zip(&calls.handled) {
            let labels = format!(
                "grpc_code=\"{code}\",grpc_method=\"{method}\",grpc_service=\"{service}\",grpc_type=\"{kind}\""
            );
            let _ = writeln!(page.0, "grpc_server_handled_total{{{labels}}} {}", count.load(Relaxed));
        }
    }
}

/// Most files that this process may have open; 0 where the system does not tell.
pub(crate) fn file_limit() -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    limit(&limits, "Max open files").unwrap_or(0)
}

/// A soft limit; what is unlimited is as large as it can be.
fn limit(limits: &str, name: &str) -> Option<u64> {
    let value = limits.lines().find_map(|line| line.strip_prefix(name)?.split_ascii_whitespace().next())?;
    if value == "unlimited" { Some(u64::MAX) } else { value.parse().ok() }
}

/// What the system knows of this process; nothing where it does not tell it in Linux' way.
fn process(page: &mut Page) {
    // Linux counts process times in hundredths of a second for every reader, whatever its own clock does.
    const TICKS: f64 = 100.0;
    const PAGE_BYTES: u64 = 4096;
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let stat = read("stat");
    // The process' name, in brackets, may hold anything; the fields behind it are numbered from 3.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok());
    if let (Some(user), Some(system)) = (field(14), field(15)) {
        let spent = (user + system) as f64 / TICKS;
        page.counter("process_cpu_seconds_total", "CPU time spent, in seconds.", spent);
    }
    if let Some(bytes) = field(23) {
        page.gauge("process_virtual_memory_bytes", "Size of the address space in bytes.", bytes);
    }
    if let Some(pages) = field(24) {
        page.gauge("process_resident_memory_bytes", "Memory in use in bytes.", pages * PAGE_BYTES);
    }
    let system = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = system.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    if let (Some(boot), Some(start)) = (boot, field(22)) {
        let at = boot + start as f64 / TICKS;
        page.gauge("process_start_time_seconds", "Start of the process in seconds since 1970.", at);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        let files = files.count();
        page.gauge("process_open_fds", "Open file descriptors.", files);
        page.gauge("os_fd_used", "Open file descriptors.", files);
    }
    let limits = read("limits");
    if let Some(max) = limit(&limits, "Max open files") {
        page.gauge("process_max_fds", "Most file descriptors that may be open.", max);
        page.gauge("os_fd_limit", "Most file descriptors that may be open.", max);
    }
    if let Some(max) = limit(&limits, "Max address space") {
        let max = number(max as f64);
        page.gauge("process_virtual_memory_max_bytes", "Largest address space that is allowed, in bytes.", max);
    }
    if let Some((received, sent)) = network(&read("net/netstat")) {
        let help = "Bytes that came over the network to this network namespace.";
        page.counter("process_network_receive_bytes_total", help, number(received));
        let help = "Bytes that went over the network from this network namespace.";
        page.counter("process_network_transmit_bytes_total", help, number(sent));
    }
}

/// Bytes received and sent, from a table whose lines come in pairs: names, then numbers.
fn network(table: &str) -> Option<(f64, f64)> {
    let mut lines = table.lines().filter_map(|line| line.strip_prefix("IpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let find = |wanted: &str| {
        let mut pairs = names.split_ascii_whitespace().zip(numbers.split_ascii_whitespace());
        pairs.find(|(name, _)| *name == wanted).and_then(|(_, number)| number.parse::<f64>().ok())
    };
    Some((find("InOctets")?, find("OutOctets")?))
}
