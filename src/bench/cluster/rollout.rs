//! A cluster from start to a Deployment with every pod Running.
//!
//! The cluster is `kelson dev` in a process of its own, durable, over its public sockets; the kernel's accounting of
//! that process is what is reported, so the load generator is not in the figures.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use kelson_wire::kube::{Cache, Client, Gvr, Https, Keyed, Kubeconfig, ObjectMeta, Reflector};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::ClusterBench;
use super::report::{Percentiles, Report};
use crate::process::{Usage, usage};

/// Longest wait for the nodes, and for the pods, each.
const DEADLINE: Duration = Duration::from_secs(600);
/// Longest latency that the histograms hold, in microseconds.
const LONGEST: u64 = 600_000_000;
/// What a list of all pods is repeated for a steady figure.
const LISTS: u32 = 3;

/// What the benchmark reads of a pod.
#[derive(Deserialize)]
struct Pod {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: Option<Box<str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: Box<str>,
}

impl Keyed for Pod {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// When a watcher saw each stage of each pod.
struct Stages {
    created: HashMap<Arc<str>, Instant>,
    bound: Histogram<u64>,
    running: Histogram<u64>,
    running_count: u32,
    last_running: Option<Instant>,
}

impl Stages {
    fn see(&mut self, old: Option<&Pod>, new: &Pod, now: Instant) {
        let created = *self.created.entry(new.metadata.uid.clone()).or_insert(now);
        let micros = u64::try_from((now - created).as_micros()).unwrap_or(LONGEST).clamp(1, LONGEST);
        let was_bound = old.is_some_and(|old| old.spec.node_name.is_some());
        if new.spec.node_name.is_some() && !was_bound {
            self.bound.saturating_record(micros);
        }
        let was_running = old.is_some_and(|old| &*old.status.phase == "Running");
        if &*new.status.phase == "Running" && !was_running {
            self.running.saturating_record(micros);
            self.running_count += 1;
            self.last_running = Some(now);
        }
    }
}

/// The cluster under measurement.
struct Server {
    child: Child,
    pid: u32,
    ready_seconds: f64,
    client: Client,
}

impl Server {
    async fn start(nodes: u32, folder: &Path) -> Result<Server> {
        let began = Instant::now();
        let data = folder.join("data");
        let mut child = Command::new(std::env::current_exe()?)
            .args(["dev", "--client-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--nodes"])
            .arg(nodes.to_string())
            .arg("--data-dir")
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .context("starting kelson dev")?;
        let pid = child.id().context("kelson dev ended at once")?;
        let mut lines = BufReader::new(child.stdout.take().context("piped")?).lines();
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                if line.trim() == "ready" {
                    return Ok(());
                }
            }
            bail!("kelson dev ended before it was ready")
        };
        tokio::time::timeout(DEADLINE, ready).await.context("the nodes were not ready in 10 minutes")??;
        let ready_seconds = began.elapsed().as_secs_f64();
        let kubeconfig = Kubeconfig::load(&data.join("kubeconfig"))?;
        let https = Https::new(&kubeconfig).map_err(anyhow::Error::from_boxed)?;
        Ok(Server { child, pid, ready_seconds, client: Client::new(Arc::new(https), "kelson-bench") })
    }

    fn usage(&self) -> Result<Usage> {
        usage(self.pid)
    }

    async fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.pid)?;
        // SAFETY: kill(2) has no memory effects, and the child has not been waited for.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await.context("kelson dev does not end")??;
        Ok(())
    }
}

/// Runs the workload.
pub async fn run(options: &ClusterBench) -> Result<Report> {
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let bar = ProgressBar::new(u64::from(options.pods));
    bar.set_style(ProgressStyle::with_template("{msg:24} [{bar:40}] {pos}/{len} {elapsed}")?.progress_chars("=> "));
    bar.set_message(format!("starting {} nodes", options.nodes));
    bar.enable_steady_tick(Duration::from_millis(200));
    let server = Server::start(options.nodes, folder.path()).await?;
    let started = server.usage()?;

    bar.set_message("idle");
    tokio::time::sleep(Duration::from_secs(u64::from(options.idle))).await;
    let idle = server.usage()?;

    bar.set_message("rollout");
    let rollout = roll_out(&server, options.pods, &bar).await?;
    let loaded = server.usage()?;
    let list_cpu_seconds = list_cost(&server).await?;
    bar.finish_and_clear();

    let report = Report {
        nodes: options.nodes,
        pods: options.pods,
        ready_seconds: server.ready_seconds,
        ready_cpu_seconds: started.cpu_seconds,
        idle_cores: (idle.cpu_seconds - started.cpu_seconds) / f64::from(options.idle),
        idle_rss_bytes: idle.rss_bytes,
        rollout_seconds: rollout.seconds,
        pods_per_second: f64::from(options.pods) / rollout.seconds,
        create_to_bound: rollout.bound,
        create_to_running: rollout.running,
        rollout_cpu_seconds: loaded.cpu_seconds - idle.cpu_seconds,
        cpu_milliseconds_per_pod: (loaded.cpu_seconds - idle.cpu_seconds) * 1e3 / f64::from(options.pods),
        loaded_rss_bytes: loaded.rss_bytes,
        list_cpu_seconds,
    };
    server.stop().await?;
    Ok(report)
}

struct Rollout {
    seconds: f64,
    bound: Percentiles,
    running: Percentiles,
}

async fn roll_out(server: &Server, pods: u32, bar: &ProgressBar) -> Result<Rollout> {
    let cache = Cache::<Pod>::new();
    let stages = Arc::new(Mutex::new(Stages {
        created: HashMap::new(),
        bound: Histogram::new_with_bounds(1, LONGEST, 3)?,
        running: Histogram::new_with_bounds(1, LONGEST, 3)?,
        running_count: 0,
        last_running: None,
    }));
    let reflector = Reflector::all(server.client.clone(), Gvr::PODS);
    let watching = tokio::spawn(reflector.run(cache.clone(), {
        let (stages, bar) = (stages.clone(), bar.clone());
        move |deltas| {
            let now = Instant::now();
            let mut stages = stages.lock();
            for delta in &deltas {
                if let Some(new) = &delta.new {
                    stages.see(delta.old.as_deref(), new, now);
                }
            }
            bar.set_position(u64::from(stages.running_count));
        }
    }));
    cache.wait_synced().await;
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "bench"},
        "spec": {
            "replicas": pods,
            "selector": {"matchLabels": {"app": "bench"}},
            "template": {"metadata": {"labels": {"app": "bench"}}, "spec": {"containers": [{
                "name": "web", "image": "nginx:1.27",
                "resources": {"requests": {"cpu": "100m", "memory": "100Mi"}},
            }]}},
        },
    });
    let applied = Instant::now();
    server.client.create::<serde::de::IgnoredAny>(&Gvr::DEPLOYMENTS, "default", &deployment).await?;
    while stages.lock().running_count < pods {
        if applied.elapsed() > DEADLINE {
            bail!("{} of {pods} pods were Running after 10 minutes", stages.lock().running_count);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    watching.abort();
    let stages = stages.lock();
    let end = stages.last_running.context("a pod ran")?;
    Ok(Rollout {
        seconds: (end - applied).as_secs_f64(),
        bound: Percentiles::of(&stages.bound),
        running: Percentiles::of(&stages.running),
    })
}

/// Server CPU of one `kubectl get pods -A`: a Table of every pod.
async fn list_cost(server: &Server) -> Result<f64> {
    let before = server.usage()?;
    for _ in 0..LISTS {
        server.client.table(&Gvr::PODS, "").await?;
    }
    Ok((server.usage()?.cpu_seconds - before.cpu_seconds) / f64::from(LISTS))
}
