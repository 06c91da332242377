//! `/metrics`: Prometheus' text format, with etcd's names for what there is.

use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

use kelson_raft::SYNC_BUCKETS_US;

use crate::context::{CLUSTER_VERSION, Context, ETCD_VERSION};
use crate::metrics::{CODES, METHODS};

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
    let mut page = Page(String::with_capacity(16 << 10));
    server(&mut page, context);
    storage(&mut page, context);
    services(&mut page, context);
    process(&mut page);
    page.0
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
    page.gauge("etcd_server_proposals_committed_total", "Index of the newest committed log entry.", status.committed);
    page.gauge("etcd_server_proposals_applied_total", "Index of the newest applied log entry.", status.applied);
    page.gauge("etcd_server_proposals_pending", "Commands that wait for a place in the log.", status.pending);
    page.counter(
        "etcd_server_health_success",
        "Health checks that succeeded.",
        counters.health_successes.load(Relaxed),
    );
    page.counter("etcd_server_health_failures", "Health checks that failed.", counters.health_failures.load(Relaxed));

    page.gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes of the state, on disk or in memory.", status.db_size);
    // The backend cannot tell live data from what it will drop with its next merge.
    page.gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the state in use, at most.", status.db_size);
    page.gauge("etcd_debugging_raft_log_size_in_bytes", "Bytes of the log.", status.log_size);

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
    page.gauge("etcd_debugging_mvcc_current_revision", "The store's revision.", reader.revision());
    page.gauge("etcd_debugging_mvcc_compact_revision", "Revision of the last compaction.", reader.compacted_revision());
    page.gauge("etcd_debugging_mvcc_keys_total", "Keys that exist.", reader.key_count());
    page.gauge("etcd_debugging_mvcc_history_total", "Superseded writes and deletions kept.", reader.history_count());
    page.gauge("etcd_debugging_mvcc_cache_size_in_bytes", "Bytes of records held in memory.", reader.cache_bytes());
    page.gauge("etcd_debugging_lease_leases_total", "Leases that exist.", reader.lease_count());
    let counters = context.metrics.counters();
    page.gauge("etcd_debugging_mvcc_watch_stream_total", "Open watch streams.", counters.watch_streams.load(Relaxed));
    page.gauge("etcd_debugging_mvcc_watcher_total", "Open watches.", counters.watchers.load(Relaxed));
    page.counter("etcd_debugging_mvcc_events_total", "Events sent to watches.", counters.events.load(Relaxed));
}

fn services(page: &mut Page, context: &Context) {
    let counters = context.metrics.counters();
    page.gauge("etcd_server_client_connections", "Open client connections.", counters.connections.load(Relaxed));
    page.head("grpc_server_started_total", "counter", "Calls that began.");
    for (index, (service, method, kind)) in METHODS.iter().enumerate() {
        let labels = format!("grpc_method=\"{method}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"");
        let _ = writeln!(page.0, "grpc_server_started_total{{{labels}}} {}", counters.started(index));
    }
    page.head("grpc_server_handled_total", "counter", "Calls that ended, by code.");
    for (index, (service, method, kind)) in METHODS.iter().enumerate() {
        for (code, code_name) in CODES.iter().enumerate() {
            let count = counters.handled(index, code);
            if count == 0 && code != 0 {
                continue;
            }
            let labels = format!(
                "grpc_code=\"{code_name}\",grpc_method=\"{method}\",grpc_service=\"{service}\",grpc_type=\"{kind}\""
            );
            let _ = writeln!(page.0, "grpc_server_handled_total{{{labels}}} {count}");
        }
    }
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
        page.gauge("process_open_fds", "Open file descriptors.", files.count());
    }
    let limits = read("limits");
    let max = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_ascii_whitespace().next());
    if let Some(max) = max.and_then(|text| text.parse::<u64>().ok()) {
        page.gauge("process_max_fds", "Most file descriptors that may be open.", max);
    }
}
