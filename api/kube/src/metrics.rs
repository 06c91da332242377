//! `/metrics`, with kube-apiserver's names.

use std::fmt::Write;
use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};
use kelson_wire::kube::{Body, full};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::gateway::{Inner, Label};

/// Upper bounds of the duration buckets, in seconds.
const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 60.0];

/// Verb, group, version, resource, subresource. All of them come from fixed tables, so their number is bounded.
type Key = (&'static str, &'static str, &'static str, &'static str, &'static str);

/// Requests of one key.
#[derive(Default)]
struct Requests {
    codes: FxHashMap<u16, u64>,
    buckets: [u64; BUCKETS.len()],
    count: u64,
    seconds: f64,
}

/// Counters of a gateway.
#[derive(Default)]
pub struct Metrics {
    requests: Mutex<FxHashMap<Key, Requests>>,
}

impl Metrics {
    /// Counts one answered request. Watches count when they are opened.
    pub fn observe(&self, label: &Label, status: StatusCode, took: Duration) {
        let key = (label.verb, label.group, label.version, label.resource, label.subresource);
        let seconds = took.as_secs_f64();
        let mut requests = self.requests.lock();
        let requests = requests.entry(key).or_default();
        *requests.codes.entry(status.as_u16()).or_default() += 1;
        if label.verb == "WATCH" {
            return;
        }
        requests.count += 1;
        requests.seconds += seconds;
        if let Some(bucket) = BUCKETS.iter().position(|bound| seconds <= *bound) {
            requests.buckets[bucket] += 1;
        }
    }

    /// The text exposition.
    pub fn response(&self, gateway: &Inner) -> Response<Body> {
        let mut text = String::with_capacity(16 << 10);
        // Writing to a string cannot fail.
        let _ = self.write(gateway, &mut text);
        let mut response = Response::new(full(text));
        let media = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, media);
        response
    }

    fn write(&self, gateway: &Inner, text: &mut String) -> std::fmt::Result {
        let requests = self.requests.lock();
        let mut keys: Vec<_> = requests.keys().copied().collect();
        keys.sort_unstable();
        head(text, "apiserver_request_total", "counter", "Requests answered, by verb, resource and HTTP code.")?;
        for key in &keys {
            let mut codes: Vec<_> = requests[key].codes.iter().collect();
            codes.sort_unstable();
            for (code, count) in codes {
                writeln!(text, "apiserver_request_total{{code=\"{code}\",{}}} {count}", labels(key))?;
            }
        }
        let name = "apiserver_request_duration_seconds";
        head(text, name, "histogram", "Time to answer a request in seconds, watches left out.")?;
        for key in &keys {
            let one = &requests[key];
            if one.count == 0 {
                continue;
            }
            let labels = labels(key);
            let mut sum = 0;
            for (bound, count) in BUCKETS.iter().zip(one.buckets) {
                sum += count;
                writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {sum}")?;
            }
            writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", one.count)?;
            writeln!(text, "{name}_sum{{{labels}}} {}", one.seconds)?;
            writeln!(text, "{name}_count{{{labels}}} {}", one.count)?;
        }
        drop(requests);
        let (reads, writes, waiting) = gateway.limits.in_flight();
        head(text, "apiserver_current_inflight_requests", "gauge", "Requests being answered now.")?;
        writeln!(text, "apiserver_current_inflight_requests{{request_kind=\"mutating\"}} {writes}")?;
        writeln!(text, "apiserver_current_inflight_requests{{request_kind=\"readOnly\"}} {reads}")?;
        head(text, "apiserver_current_inqueue_requests", "gauge", "Requests waiting for a place.")?;
        writeln!(text, "apiserver_current_inqueue_requests {waiting}")?;
        head(text, "apiserver_longrunning_requests", "gauge", "Open watches.")?;
        for cache in &gateway.caches {
            let row = cache.row();
            let key = ("WATCH", row.group, row.version, row.plural, "");
            writeln!(text, "apiserver_longrunning_requests{{{}}} {}", labels(&key), cache.watchers())?;
        }
        head(text, "apiserver_storage_objects", "gauge", "Objects stored, by resource.")?;
        for cache in &gateway.caches {
            writeln!(text, "apiserver_storage_objects{{resource=\"{}\"}} {}", cache.row().qualified(), cache.len())?;
        }
        process(text)
    }
}

fn labels((verb, group, version, resource, subresource): &Key) -> String {
    format!(
        "verb=\"{verb}\",group=\"{group}\",version=\"{version}\",resource=\"{resource}\",subresource=\"{subresource}\""
    )
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

/// What the kernel says of this process; left out where there is no `/proc`.
fn process(text: &mut String) -> std::fmt::Result {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return Ok(()) };
    // The command name in parentheses may hold spaces: count fields after it.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let number = |position: usize| fields.get(position).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // Fields 14, 15 and 24 of proc(5), in ticks of a hundredth of a second and pages of 4 KiB.
    head(text, "process_cpu_seconds_total", "counter", "User and system CPU time in seconds.")?;
    writeln!(text, "process_cpu_seconds_total {}", (number(11) + number(12)) / 100.0)?;
    head(text, "process_resident_memory_bytes", "gauge", "Resident memory in bytes.")?;
    writeln!(text, "process_resident_memory_bytes {}", number(21) * 4096.0)?;
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    head(text, "process_open_fds", "gauge", "Open file descriptors.")?;
    writeln!(text, "process_open_fds {open}")
}
