//! The scheduler end to end: store with its log on disk, API server and scheduler in this process, as in `kelson dev`.
//!
//! Nodes and pods are those of kube-scheduler's `scheduler_perf` (4 CPUs, 32 GiB, 110 pods; 100m, 500 MiB), and nobody
//! runs pods. First all pods wait; the clock runs from when the scheduler has read the cluster until the API has
//! answered the last binding, which it does when that is durable. Then, the scheduler being idle, pods come one at a
//! time: the clock runs from the answer to the pod's creation until a watcher sees it bound.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use kelson_controllers::scheduler::{self, Attempt, Config, Metrics};
use kelson_etcd::{LocalStore, ServerOptions};
use kelson_kube::{Gateway, User};
use kelson_raft::{Data, Node};
use kelson_wire::kube::{ApiError, Cache, Client, Delta, Gvr, Keyed, ListParams, ObjectMeta, Reflector};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::ClusterBench;
use super::report::{Percentiles, Scheduling};
use crate::process::{peak_memory, usage};

/// Requests that set up the cluster, in flight.
const IN_FLIGHT: usize = 64;
/// Longest that the pods, or one of them, may wait for their binding.
const DEADLINE: Duration = Duration::from_secs(600);
/// Pause between two looks at the number of bindings.
const LOOK: Duration = Duration::from_millis(2);
/// Longest latency that the histogram holds, in microseconds.
const LONGEST: u64 = 600_000_000;
/// Milli-CPUs and pods that a node has, and a pod asks for.
const NODE_MILLIS: usize = 4_000;
const NODE_PODS: usize = 110;
const POD_MILLIS: usize = 100;

#[derive(Deserialize)]
struct Pod {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: String,
}

impl Keyed for Pod {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// Runs the workload.
pub async fn run(options: &ClusterBench) -> Result<Scheduling> {
    let (nodes, pods) = (options.nodes as usize, options.pods as usize);
    let room = nodes * NODE_PODS.min(NODE_MILLIS / POD_MILLIS);
    ensure!(pods + options.singles as usize <= room, "{nodes} nodes have room for {room} pods in all");
    let folder = options.folder()?;
    let data = Data::Dir(folder.path().to_path_buf());
    let node = Node::open(kelson_raft::Config::new("bench", data)).await?;
    let store = Arc::new(LocalStore::new(node.clone(), ServerOptions::default().max_request_bytes));
    let gateway = Gateway::start(store, kelson_kube::Config::default()).await?;
    let client = |name: &str| Client::new(gateway.transport(User::new(name, &[])), name);
    let bench = client("bench");

    let bar = ProgressBar::new((nodes + pods) as u64);
    bar.set_style(ProgressStyle::with_template("{msg:24} [{bar:40}] {pos}/{len} {elapsed}")?.progress_chars("=> "));
    bar.set_message("creating nodes and pods");
    each(nodes, &bar, |number| create_node(bench.clone(), number)).await?;
    let before = cpu_seconds()?;
    let began = Instant::now();
    each(pods, &bar, |number| create_pod(bench.clone(), format!("pod-{number}"))).await?;
    let create_us = (cpu_seconds()? - before) * 1e6 / pods as f64;
    let created_per_second = pods as f64 / began.elapsed().as_secs_f64();

    bar.set_message("scheduling");
    let metrics = Metrics::new(scheduler::DEFAULT_SCHEDULER);
    let stop = CancellationToken::new();
    let scheduling =
        tokio::spawn(scheduler::run(client("system:kube-scheduler"), Config::default(), metrics.clone(), stop.clone()));
    metrics.wait_leading().await;
    let (began, before) = (Instant::now(), cpu_seconds()?);
    let mut curve = vec![(0.0, 0)];
    loop {
        let bound = metrics.attempts(Attempt::Scheduled);
        curve.push((began.elapsed().as_secs_f64(), bound));
        if bound >= pods as u64 {
            break;
        }
        ensure!(began.elapsed() < DEADLINE, "{bound} of {pods} pods were bound after 10 minutes");
        tokio::time::sleep(LOOK).await;
    }
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds()? - before);
    audit(&bench, pods).await?;

    bar.set_message("one at a time");
    let single = singles(&client("watcher"), &bench, options.singles).await?;
    bar.finish_and_clear();
    stop.cancel();
    scheduling.await?;
    drop(gateway);
    node.shutdown().await?;
    Ok(Scheduling {
        nodes: options.nodes,
        pods: options.pods,
        seconds,
        pods_per_second: pods as f64 / seconds,
        cpu_us_per_pod: cpu * 1e6 / pods as f64,
        created_per_second,
        cpu_us_per_creation: create_us,
        single_bound: single,
        peak_rss_bytes: peak_memory(),
        curve,
    })
}

fn cpu_seconds() -> Result<f64> {
    Ok(usage(std::process::id())?.cpu_seconds)
}

/// Calls `make` for 0, 1, ... with a bounded number of calls in flight.
async fn each<F>(count: usize, bar: &ProgressBar, mut make: impl FnMut(usize) -> F) -> Result<()>
where
    F: Future<Output = Result<(), ApiError>> + Send + 'static,
{
    let mut running = JoinSet::new();
    for number in 0..count {
        if running.len() >= IN_FLIGHT {
            running.join_next().await.context("one runs")???;
            bar.inc(1);
        }
        running.spawn(make(number));
    }
    while let Some(done) = running.join_next().await {
        done??;
        bar.inc(1);
    }
    Ok(())
}

async fn create_node(client: Client, number: usize) -> Result<(), ApiError> {
    let name = format!("node-{number}");
    let allocatable = json!({"cpu": format!("{NODE_MILLIS}m"), "memory": "32Gi", "pods": NODE_PODS.to_string()});
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"capacity": allocatable, "allocatable": allocatable,
            "conditions": [{"type": "Ready", "status": "True"}]},
    });
    client.create::<IgnoredAny>(&Gvr::NODES, "", &node).await.map(|_| ())
}

async fn create_pod(client: Client, name: String) -> Result<(), ApiError> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{
            "name": "pause", "image": "registry.k8s.io/pause:3.10",
            "resources": {"requests": {"cpu": format!("{POD_MILLIS}m"), "memory": "500Mi"}},
        }]},
    });
    client.create::<IgnoredAny>(&Gvr::PODS, "default", &pod).await.map(|_| ())
}

/// Every pod is bound, and no node has more than it can hold.
async fn audit(client: &Client, pods: usize) -> Result<()> {
    let listed = client.list::<Pod>(&Gvr::PODS, "", &ListParams::default()).await?;
    let mut held: HashMap<&str, usize> = HashMap::new();
    for pod in &listed.items {
        ensure!(!pod.spec.node_name.is_empty(), "{} was said to be bound, and is not", pod.metadata.name);
        *held.entry(pod.spec.node_name.as_str()).or_default() += 1;
    }
    ensure!(listed.items.len() == pods, "{} pods instead of {pods}", listed.items.len());
    let most = held.values().max().copied().unwrap_or(0);
    ensure!(most <= NODE_PODS.min(NODE_MILLIS / POD_MILLIS), "a node was given {most} pods");
    Ok(())
}

/// Latencies of pods that come while nothing else is to be done.
async fn singles(watcher: &Client, client: &Client, count: u32) -> Result<Percentiles> {
    let (bound, mut seen) = mpsc::unbounded_channel();
    let cache = Cache::<Pod>::new();
    let watching = tokio::spawn(Reflector::all(watcher.clone(), Gvr::PODS).run(cache.clone(), {
        move |deltas: Vec<Delta<Pod>>| {
            let now = Instant::now();
            for pod in deltas.into_iter().filter_map(|delta| delta.new) {
                if !pod.spec.node_name.is_empty() {
                    // The receiver goes when the last one was seen.
                    let _ = bound.send((pod.metadata.name.clone(), now));
                }
            }
        }
    }));
    cache.wait_synced().await;
    let mut latency = Histogram::<u64>::new_with_bounds(1, LONGEST, 3)?;
    for number in 0..count {
        let name = format!("single-{number}");
        create_pod(client.clone(), name.clone()).await?;
        let created = Instant::now();
        let at = loop {
            match tokio::time::timeout(DEADLINE, seen.recv()).await {
                Ok(Some((seen, at))) if *seen == *name => break at,
                Ok(Some(_)) => {}
                _ => bail!("{name} was not bound in 10 minutes"),
            }
        };
        // A pod may be bound before its creator has the answer.
        let took = at.saturating_duration_since(created);
        latency.saturating_record(u64::try_from(took.as_micros()).unwrap_or(LONGEST).max(1));
    }
    watching.abort();
    Ok(Percentiles::of(&latency))
}
