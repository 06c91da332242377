//! What the scheduler counts, under kube-scheduler's names and with its buckets.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

/// How an attempt to place a pod ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    Scheduled,
    Unschedulable,
    /// The API refused the binding.
    Error,
}

impl Attempt {
    const ALL: [Attempt; 3] = [Attempt::Scheduled, Attempt::Unschedulable, Attempt::Error];

    fn name(self) -> &'static str {
        match self {
            Attempt::Scheduled => "scheduled",
            Attempt::Unschedulable => "unschedulable",
            Attempt::Error => "error",
        }
    }
}

/// Pods that wait, by part of the queue, and what the scheduler holds in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub active: usize,
    pub backoff: usize,
    pub unschedulable: usize,
    pub gated: usize,
    pub nodes: usize,
    /// Pods that hold a place.
    pub pods: usize,
    /// Those of them that the watch has not shown on their node yet.
    pub assumed: usize,
}

/// `factor` to the power of 0, 1, ... times `first`.
const fn exponential<const N: usize>(first: f64, factor: f64) -> [f64; N] {
    let mut bounds = [first; N];
    let mut at = 1;
    while at < N {
        bounds[at] = bounds[at - 1] * factor;
        at += 1;
    }
    bounds
}

const ATTEMPT_SECONDS: [f64; 15] = exponential(0.001, 2.0);
const SLI_SECONDS: [f64; 20] = exponential(0.01, 2.0);
const POINT_SECONDS: [f64; 12] = exponential(0.0001, 2.0);
const ATTEMPTS: [f64; 5] = exponential(1.0, 2.0);
const VICTIMS: [f64; 7] = exponential(1.0, 2.0);
/// From so many attempts on they are one label.
const MANY_ATTEMPTS: u32 = 15;

#[derive(Debug)]
struct Histogram {
    bounds: &'static [f64],
    counts: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Histogram {
        Histogram { bounds, counts: vec![0; bounds.len()], count: 0, sum: 0.0 }
    }

    /// Notes `times` equal values.
    fn observe(&mut self, value: f64, times: u64) {
        if let Some(count) = self.bounds.iter().position(|bound| value <= *bound).map(|at| &mut self.counts[at]) {
            *count += times;
        }
        self.count += times;
        self.sum += value * times as f64;
    }

    fn write(&self, text: &mut String, name: &str, labels: &str) -> std::fmt::Result {
        let mut total = 0;
        let comma = if labels.is_empty() { "" } else { "," };
        for (bound, count) in self.bounds.iter().zip(&self.counts) {
            total += count;
            writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {total}")?;
        }
        writeln!(text, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {}", self.count)?;
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        writeln!(text, "{name}_sum{braces} {}\n{name}_count{braces} {}", self.sum, self.count)
    }
}

#[derive(Debug)]
struct Counts {
    /// By profile, and then by how they ended.
    attempts: Vec<[Histogram; 3]>,
    algorithm: Histogram,
    sli: BTreeMap<u32, Histogram>,
    pod_attempts: Histogram,
    points: BTreeMap<(usize, &'static str, &'static str), Histogram>,
    incoming: BTreeMap<(&'static str, &'static str), u64>,
    preemptions: u64,
    victims: Histogram,
    sizes: Sizes,
}

/// The counters of one scheduler. The number of series is fixed by the code and by the number of profiles, not by what
/// runs in the cluster.
#[derive(Debug)]
pub struct Metrics {
    /// Names of the profiles, as they are written in a label.
    profiles: Vec<String>,
    counts: Mutex<Counts>,
    leading: watch::Sender<bool>,
}

impl Metrics {
    /// Of a scheduler with one profile of this name.
    pub fn new(profile: &str) -> Arc<Metrics> {
        Metrics::of([profile])
    }

    /// Of a scheduler with these profiles, in their order.
    pub fn of<'a>(profiles: impl IntoIterator<Item = &'a str>) -> Arc<Metrics> {
        let attempts = || Histogram::new(&ATTEMPT_SECONDS);
        let profiles: Vec<String> = profiles.into_iter().map(escape).collect();
        Arc::new(Metrics {
            counts: Mutex::new(Counts {
                attempts: profiles.iter().map(|_| [attempts(), attempts(), attempts()]).collect(),
                algorithm: attempts(),
                sli: BTreeMap::new(),
                pod_attempts: Histogram::new(&ATTEMPTS),
                points: BTreeMap::new(),
                incoming: BTreeMap::new(),
                preemptions: 0,
                victims: Histogram::new(&VICTIMS),
                sizes: Sizes::default(),
            }),
            leading: watch::Sender::new(false),
            profiles,
        })
    }

    /// Returns when the scheduler has read the cluster and places pods.
    pub async fn wait_leading(&self) {
        // The sender lives in `self`, so the wait can only end with the value.
        let _ = self.leading.subscribe().wait_for(|leading| *leading).await;
    }

    pub(super) fn set_leading(&self, leading: bool) {
        self.leading.send_replace(leading);
    }

    /// Attempts that ended so, of all profiles.
    pub fn attempts(&self, how: Attempt) -> u64 {
        self.counts.lock().attempts.iter().map(|attempts| attempts[how as usize].count).sum()
    }

    /// Attempts of pods of a profile that were decided together ended: each took `took`.
    pub(super) fn attempted(&self, profile: usize, how: Attempt, times: usize, took: Duration) {
        if let Some(attempts) = self.counts.lock().attempts.get_mut(profile) {
            attempts[how as usize].observe(took.as_secs_f64(), times as u64);
        }
    }

    /// Deciding about these many pods took so long in all.
    pub(super) fn decided(&self, pods: usize, took: Duration) {
        if pods > 0 {
            self.counts.lock().algorithm.observe(took.as_secs_f64() / pods as f64, pods as u64);
        }
    }

    /// A pod is bound, so long after it could first be placed, at this attempt.
    pub(super) fn bound(&self, attempts: u32, since: Duration) {
        let mut counts = self.counts.lock();
        let label = attempts.min(MANY_ATTEMPTS);
        let sli = counts.sli.entry(label).or_insert_with(|| Histogram::new(&SLI_SECONDS));
        sli.observe(since.as_secs_f64(), 1);
        counts.pod_attempts.observe(f64::from(attempts), 1);
    }

    /// A step of the framework took so long for a pod of this profile.
    pub(super) fn point(&self, profile: usize, point: &'static str, status: &'static str, took: Duration) {
        let mut counts = self.counts.lock();
        let histogram = counts.points.entry((profile, point, status)).or_insert_with(|| Histogram::new(&POINT_SECONDS));
        histogram.observe(took.as_secs_f64(), 1);
    }

    /// Pods came into a part of the queue.
    pub(super) fn incoming(&self, event: &'static str, queue: &'static str, pods: usize) {
        if pods > 0 {
            *self.counts.lock().incoming.entry((event, queue)).or_default() += pods as u64;
        }
    }

    /// Room was looked for by evicting others; `victims` of them are to go, where it was found.
    pub(super) fn preempted(&self, victims: Option<usize>) {
        let mut counts = self.counts.lock();
        counts.preemptions += 1;
        if let Some(victims) = victims {
            counts.victims.observe(victims as f64, 1);
        }
    }

    pub(super) fn set_sizes(&self, sizes: Sizes) {
        self.counts.lock().sizes = sizes;
    }

    /// The text exposition.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(8 << 10);
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let counts = self.counts.lock();
        let series = || {
            let of = |(profile, attempts)| Attempt::ALL.into_iter().map(move |how: Attempt| (profile, how, attempts));
            self.profiles.iter().zip(&counts.attempts).flat_map(of)
        };
        let labels = |profile: &String, how: Attempt| format!("profile=\"{profile}\",result=\"{}\"", how.name());
        let name = "scheduler_schedule_attempts_total";
        head(text, name, "counter", "Attempts to schedule pods, by the result.")?;
        for (profile, how, attempts) in series() {
            writeln!(text, "{name}{{{}}} {}", labels(profile, how), attempts[how as usize].count)?;
        }
        let name = "scheduler_scheduling_attempt_duration_seconds";
        head(text, name, "histogram", "Scheduling attempt latency in seconds (scheduling algorithm + binding).")?;
        for (profile, how, attempts) in series().filter(|(_, how, attempts)| attempts[*how as usize].count > 0) {
            attempts[how as usize].write(text, name, &labels(profile, how))?;
        }
        let name = "scheduler_scheduling_algorithm_duration_seconds";
        head(text, name, "histogram", "Scheduling algorithm latency in seconds, of a pod's share of its batch.")?;
        counts.algorithm.write(text, name, "")?;
        let name = "scheduler_pod_scheduling_sli_duration_seconds";
        head(text, name, "histogram", "From when a pod could first be placed to when it is bound, in seconds.")?;
        for (attempts, histogram) in &counts.sli {
            let more = if *attempts == MANY_ATTEMPTS { "+" } else { "" };
            histogram.write(text, name, &format!("attempts=\"{attempts}{more}\""))?;
        }
        let name = "scheduler_pod_scheduling_attempts";
        head(text, name, "histogram", "Attempts that it took to schedule a pod.")?;
        counts.pod_attempts.write(text, name, "")?;
        let name = "scheduler_framework_extension_point_duration_seconds";
        head(text, name, "histogram", "Latency of the extension points that talk to the API or search, in seconds.")?;
        for ((profile, point, status), histogram) in &counts.points {
            let profile = self.profiles.get(*profile).map_or("", String::as_str);
            let labels = format!("extension_point=\"{point}\",profile=\"{profile}\",status=\"{status}\"");
            histogram.write(text, name, &labels)?;
        }
        let name = "scheduler_queue_incoming_pods_total";
        head(text, name, "counter", "Pods added to the scheduling queue, by event and part of the queue.")?;
        for ((event, queue), pods) in &counts.incoming {
            writeln!(text, "{name}{{event=\"{event}\",queue=\"{queue}\"}} {pods}")?;
        }
        let name = "scheduler_preemption_attempts_total";
        head(text, name, "counter", "Attempts to make room by preemption.")?;
        writeln!(text, "{name} {}", counts.preemptions)?;
        let name = "scheduler_preemption_victims";
        head(text, name, "histogram", "Pods evicted for another one.")?;
        counts.victims.write(text, name, "")?;
        self.write_sizes(text, &counts.sizes)
    }

    fn write_sizes(&self, text: &mut String, sizes: &Sizes) -> std::fmt::Result {
        let name = "scheduler_pending_pods";
        head(text, name, "gauge", "Pods that wait, by part of the queue.")?;
        for (queue, pods) in [
            ("active", sizes.active),
            ("backoff", sizes.backoff),
            ("gated", sizes.gated),
            ("unschedulable", sizes.unschedulable),
        ] {
            writeln!(text, "{name}{{queue=\"{queue}\"}} {pods}")?;
        }
        let name = "scheduler_cache_size";
        head(text, name, "gauge", "Nodes, pods and assumed pods that the scheduler knows.")?;
        for (kind, count) in [("assumed_pods", sizes.assumed), ("nodes", sizes.nodes), ("pods", sizes.pods)] {
            writeln!(text, "{name}{{type=\"{kind}\"}} {count}")?;
        }
        let name = "leader_election_master_status";
        head(text, name, "gauge", "Whether this process is the one that schedules.")?;
        writeln!(text, "{name}{{name=\"kube-scheduler\"}} {}", u8::from(*self.leading.borrow()))
    }
}

/// A label's value as the text exposition writes it.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_show_in_their_buckets() {
        let metrics = Metrics::new("default-scheduler");
        metrics.attempted(0, Attempt::Scheduled, 3, Duration::from_micros(1_500));
        metrics.attempted(0, Attempt::Error, 1, Duration::from_secs(100));
        metrics.bound(20, Duration::from_millis(15));
        let text = metrics.text();
        for line in [
            "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"} 3",
            "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"unschedulable\"} 0",
            "scheduler_scheduling_attempt_duration_seconds_bucket{profile=\"default-scheduler\",result=\"scheduled\",le=\"0.001\"} 0",
            "scheduler_scheduling_attempt_duration_seconds_bucket{profile=\"default-scheduler\",result=\"scheduled\",le=\"0.002\"} 3",
            "scheduler_scheduling_attempt_duration_seconds_bucket{profile=\"default-scheduler\",result=\"error\",le=\"16.384\"} 0",
            "scheduler_scheduling_attempt_duration_seconds_bucket{profile=\"default-scheduler\",result=\"error\",le=\"+Inf\"} 1",
            "scheduler_pod_scheduling_sli_duration_seconds_bucket{attempts=\"15+\",le=\"0.02\"} 1",
            "scheduler_pod_scheduling_attempts_sum 20",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn each_profile_has_its_series_and_no_name_breaks_the_text() {
        let metrics = Metrics::of(["first", "a\"b\\c\nd"]);
        metrics.attempted(1, Attempt::Scheduled, 2, Duration::ZERO);
        metrics.attempted(0, Attempt::Unschedulable, 1, Duration::ZERO);
        metrics.point(1, "Bind", "Success", Duration::ZERO);
        metrics.attempted(7, Attempt::Error, 1, Duration::ZERO);
        assert_eq!((metrics.attempts(Attempt::Scheduled), metrics.attempts(Attempt::Error)), (2, 0));
        let text = metrics.text();
        for line in [
            r#"scheduler_schedule_attempts_total{profile="first",result="scheduled"} 0"#,
            r#"scheduler_schedule_attempts_total{profile="first",result="unschedulable"} 1"#,
            r#"scheduler_schedule_attempts_total{profile="a\"b\\c\nd",result="scheduled"} 2"#,
            r#"scheduler_framework_extension_point_duration_seconds_count{extension_point="Bind",profile="a\"b\\c\nd",status="Success"} 1"#,
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in:\n{text}");
        }
    }
}
