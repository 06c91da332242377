//! Drives the core: two watches in, API calls out, one loop that sleeps until something is due.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kelson_wire::kube::{ApiError, Cache, Client, Gvr, ListParams, ObjectReference, PatchKind, Recorder, Reflector};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::Millis;
use crate::agents::{Agents, Call, Failed, Request};
use crate::config::Config;
use crate::error::Error;
use crate::kubelet::Listener;
use crate::lease;
use crate::node::Mode;
use crate::notes::Note;
use crate::provider::{Provider, ProviderError, Vm, VmRequest};
use crate::view::{Node, Passing, Pod, Written};

/// Longest that one API call may take; what it did is then unknown.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long calls in flight may go on after a shutdown.
const DRAIN: Duration = Duration::from_secs(2);
/// Wake-ups are rounded up to this, so that what is due together is done together.
const QUANTUM: Millis = 10;

/// The wall clock at the start, moved on by a clock that never goes back.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    wall: Millis,
    start: Instant,
}

impl Clock {
    pub fn new() -> Clock {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { wall: u64::try_from(wall.as_millis()).unwrap_or(0), start: Instant::now() }
    }

    pub fn now(&self) -> Millis {
        self.wall + u64::try_from(self.start.elapsed().as_millis()).unwrap_or(0)
    }
}

/// The core and what is needed to drive it.
pub(crate) struct Shared {
    pub core: Mutex<Core>,
    pub clock: Clock,
    client: Client,
    recorder: Recorder,
    wake: Notify,
    /// When the loop wakes by itself.
    sleeps_until: AtomicU64,
    concurrency: usize,
}

/// What one lock guards.
pub(crate) struct Core {
    pub agents: Agents,
    /// Callers at work.
    callers: usize,
}

/// How far the agents are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// VMs that exist.
    pub nodes: usize,
    /// Of these, those whose Node object is known to exist.
    pub registered: usize,
    /// Of these, those that the API shows as Ready.
    pub ready: usize,
    /// Pods that run.
    pub pods_running: usize,
    /// Pods that their node refused: over-commitment, if the scheduler is not to blame for something else.
    pub pods_refused: u64,
}

/// Looks at a simulator and disturbs it. Clones share the simulator.
///
/// After a restart, VMs that had been created through the [`Provider`] are to be created again before
/// [`Simulator::run`]: the pods of a VM that is not there when pods are listed are not taken over.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

/// A simulator that is ready to run.
pub struct Simulator {
    shared: Arc<Shared>,
    listener: Option<Listener>,
}

/// Runs a simulator until `shutdown`; for those who need no [`Handle`].
///
/// # Errors
/// If the configuration cannot be carried out or the kubelet address not be listened on.
pub async fn run(client: Client, config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let (simulator, _) = Simulator::new(client, config).await?;
    simulator.run(shutdown).await;
    Ok(())
}

impl Simulator {
    /// Checks the configuration and listens on the kubelet address; nothing is sent yet.
    ///
    /// # Errors
    /// If the configuration cannot be carried out or the kubelet address not be listened on.
    pub async fn new(client: Client, mut config: Config) -> Result<(Simulator, Handle), Error> {
        let sizes = config.checked_sizes()?;
        let listener = match &config.kubelet {
            Some(kubelet) => Some(Listener::bind(kubelet).await?),
            None => None,
        };
        let mut port = 0;
        if let Some(listener) = &listener {
            config.address = listener.address.ip();
            port = listener.address.port();
        }
        let clock = Clock::new();
        let agents = Agents::new(&config, &sizes, port, clock.now());
        let recorder = Recorder::new(client.clone(), "kubelet", config.events_per_second);
        let shared = Arc::new(Shared {
            core: Mutex::new(Core { agents, callers: 0 }),
            clock,
            client,
            recorder,
            wake: Notify::new(),
            sleeps_until: AtomicU64::new(0),
            concurrency: config.concurrency,
        });
        Ok((Simulator { shared: shared.clone(), listener }, Handle { shared }))
    }

    /// Runs until `shutdown`. Failures of single calls are retried for as long as it takes.
    pub async fn run(self, shutdown: CancellationToken) {
        let Simulator { shared, listener } = self;
        let nodes = Cache::new();
        let pods = Cache::new();
        let watch_nodes = {
            let shared = shared.clone();
            Reflector::all(shared.client.clone(), Gvr::NODES).run(nodes.clone(), move |deltas| {
                shared.feed(|agents, now| {
                    for delta in deltas {
                        match (&delta.new, &delta.old) {
                            (Some(node), _) => {
                                if let Some(node) = Passing::<Node>::take(node) {
                                    agents.node(now, *node);
                                }
                            }
                            (None, Some(old)) => {
                                let meta = kelson_wire::kube::Keyed::meta(&**old);
                                agents.node_gone(&meta.name, &meta.uid);
                            }
                            (None, None) => {}
                        }
                    }
                });
            })
        };
        let watch_pods = {
            let shared = shared.clone();
            let nodes = nodes.clone();
            let pods = pods.clone();
            async move {
                // Admission looks at a node's labels and taints: nodes come first.
                nodes.wait_synced().await;
                let scheduled = ListParams { field_selector: "spec.nodeName!=".into(), ..ListParams::default() };
                let reflector = Reflector { params: scheduled, ..Reflector::all(shared.client.clone(), Gvr::PODS) };
                let feeder = shared.clone();
                let changed = move |deltas: Vec<kelson_wire::kube::Delta<Passing<Pod>>>| {
                    feeder.feed(|agents, now| {
                        for delta in deltas {
                            match (&delta.new, &delta.old) {
                                (Some(pod), _) => {
                                    if let Some(pod) = pod.take() {
                                        agents.pod(now, pod);
                                    }
                                }
                                (None, Some(old)) => {
                                    let meta = kelson_wire::kube::Keyed::meta(&**old);
                                    agents.pod_gone(&meta.key(), &meta.uid);
                                }
                                (None, None) => {}
                            }
                        }
                    });
                };
                reflector.run(pods, changed).await;
            }
        };
        let begin = {
            let shared = shared.clone();
            async move {
                pods.wait_synced().await;
                shared.feed(|agents, now| agents.start(now));
                std::future::pending::<()>().await;
            }
        };
        // Watches run beside the loop, on whatever thread is free.
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(watch_nodes);
        tasks.spawn(watch_pods);
        tasks.spawn(begin);
        if let Some(listener) = listener {
            tasks.spawn(listener.serve(shared.clone()));
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = shared.drive() => {}
            // None of them ends unless it fails.
            Some(ended) = tasks.join_next() => tracing::error!(?ended, "the node simulator cannot go on"),
        }
        tasks.shutdown().await;
        let end = Instant::now() + DRAIN;
        while shared.core.lock().callers > 0 && Instant::now() < end {
            let _ = tokio::time::timeout(Duration::from_millis(20), shared.wake.notified()).await;
        }
    }
}

impl Shared {
    /// Tells the core something, and wakes the loop if there is something to do earlier than it knows.
    fn feed(&self, tell: impl FnOnce(&mut Agents, Millis)) {
        let early = {
            let mut core = self.core.lock();
            tell(&mut core.agents, self.clock.now());
            self.is_early(&core)
        };
        if early {
            self.wake.notify_one();
        }
    }

    /// Whether the loop has something to do before it wakes by itself.
    fn is_early(&self, core: &Core) -> bool {
        let due = core.agents.next_deadline().unwrap_or(Millis::MAX);
        due.saturating_add(QUANTUM) < self.sleeps_until.load(Ordering::Relaxed)
            || (core.agents.backlog() > 0 && core.callers < self.concurrency)
    }

    /// The event loop.
    async fn drive(self: &Arc<Shared>) {
        loop {
            let (wake_at, begin, notes) = {
                let mut core = self.core.lock();
                core.agents.advance(self.clock.now());
                let begin = core.agents.backlog().min(self.concurrency - core.callers.min(self.concurrency));
                core.callers += begin;
                let due = core.agents.next_deadline().unwrap_or(Millis::MAX);
                let wake_at = due.checked_next_multiple_of(QUANTUM).unwrap_or(Millis::MAX);
                self.sleeps_until.store(wake_at, Ordering::Relaxed);
                (wake_at, begin, core.agents.take_notes())
            };
            for _ in 0..begin {
                tokio::spawn(self.clone().call_all());
            }
            for note in notes {
                self.record(note);
            }
            let pause = Duration::from_millis(wake_at.saturating_sub(self.clock.now()).min(60_000));
            let _ = tokio::time::timeout(pause, self.wake.notified()).await;
        }
    }

    /// A caller: makes calls for as long as there are any.
    async fn call_all(self: Arc<Shared>) {
        loop {
            let call = {
                let mut core = self.core.lock();
                let call = core.agents.next_call(self.clock.now());
                if call.is_none() {
                    core.callers -= 1;
                }
                call
            };
            let Some(call) = call else { break };
            let answer = match tokio::time::timeout(CALL_TIMEOUT, self.perform(&call)).await {
                Ok(answer) => answer.map_err(|error| classify(&call, &error)),
                Err(_) => Err(Failed::Retry),
            };
            self.feed(|agents, now| agents.answered(now, &call, answer));
        }
        self.wake.notify_one();
    }

    async fn perform(&self, call: &Call) -> Result<Written, ApiError> {
        let client = &self.client;
        let ignored = |_: serde::de::IgnoredAny| Written::default();
        match &call.request {
            Request::CreateNode(node) => client.create(&Gvr::NODES, "", node).await,
            Request::NodeStatus { name, patch } => {
                client.patch(&Gvr::NODES, "", name, "status", PatchKind::Strategic, patch).await
            }
            Request::CreateLease(lease) => client.create(&Gvr::LEASES, lease::NAMESPACE, lease).await,
            Request::RenewLease { name, lease } => client.update(&Gvr::LEASES, lease::NAMESPACE, name, "", lease).await,
            Request::ReadLease { name } => client.get(&Gvr::LEASES, lease::NAMESPACE, name).await,
            Request::PodStatus { key, patch } => {
                let (namespace, name) = key.split_once('/').unwrap_or(("", key));
                client.patch(&Gvr::PODS, namespace, name, "status", PatchKind::Strategic, patch).await.map(ignored)
            }
            Request::DeletePod { key, uid } => {
                let (namespace, name) = key.split_once('/').unwrap_or(("", key));
                let options = json!({
                    "apiVersion": "v1", "kind": "DeleteOptions",
                    "gracePeriodSeconds": 0, "preconditions": {"uid": &**uid},
                });
                client.delete(&Gvr::PODS, namespace, name, &options).await.map(|()| Written::default())
            }
        }
    }

    fn record(&self, note: Note) {
        let (namespace, name) = note.key.split_once('/').unwrap_or(("", &note.key));
        let regarding = ObjectReference {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: namespace.into(),
            name: name.into(),
            uid: note.uid,
            field_path: match &*note.container {
                "" => String::new(),
                container => format!("spec.containers{{{container}}}"),
            },
        };
        let kind = if note.warning { "Warning" } else { "Normal" };
        self.recorder.event_from(&regarding, kind, note.reason, &note.message, &note.node);
    }
}

fn classify(call: &Call, error: &ApiError) -> Failed {
    let failed = match error {
        error if error.is_not_found() => Failed::NotFound,
        error if error.is_already_exists() => Failed::Exists,
        ApiError::Status { code: 409, .. } => Failed::Conflict,
        // What cannot be read is not what was asked for, but the call may have taken place: try again.
        ApiError::Status { code: 400 | 405 | 413 | 415 | 422, .. } => Failed::Refused,
        _ => Failed::Retry,
    };
    tracing::debug!(job = ?call.job, ?failed, %error, "API call failed");
    failed
}

impl Handle {
    /// How far the agents are.
    pub fn progress(&self) -> Progress {
        let core = self.shared.core.lock();
        let (nodes, registered, ready) = core.agents.node_counts();
        Progress {
            nodes,
            registered,
            ready,
            pods_running: core.agents.counts.pods_running,
            pods_refused: core.agents.counts.refusals.values().sum(),
        }
    }

    /// Stops a node's agent: no heartbeat, nothing moves on the node until [`Handle::resume`].
    ///
    /// # Errors
    /// If there is no VM of this name.
    pub fn crash(&self, node: &str) -> Result<(), ProviderError> {
        self.set_mode(node, Mode::Crashed)
    }

    /// Cuts a node off from the API server: its pods run on, but nobody hears of it until [`Handle::resume`].
    ///
    /// # Errors
    /// If there is no VM of this name.
    pub fn partition(&self, node: &str) -> Result<(), ProviderError> {
        self.set_mode(node, Mode::Partitioned)
    }

    /// Ends a crash or a partition: the agent catches up with what it missed.
    ///
    /// # Errors
    /// If there is no VM of this name.
    pub fn resume(&self, node: &str) -> Result<(), ProviderError> {
        self.set_mode(node, Mode::Up)
    }

    fn set_mode(&self, node: &str, mode: Mode) -> Result<(), ProviderError> {
        let mut result = Ok(());
        self.shared.feed(|agents, now| result = agents.set_mode(node, mode, now));
        result
    }

    /// Counters and gauges in the Prometheus text format.
    pub fn metrics(&self) -> String {
        crate::kubelet::metrics(&self.shared)
    }
}

#[async_trait::async_trait]
impl Provider for Handle {
    async fn create(&self, request: VmRequest) -> Result<Vm, ProviderError> {
        let mut result = Err(ProviderError::NotFound(request.name.clone()));
        self.shared.feed(|agents, now| result = agents.create_vm(&request, now));
        result
    }

    async fn delete(&self, name: &str) -> Result<(), ProviderError> {
        let mut result = Ok(());
        self.shared.feed(|agents, _| result = agents.delete_vm(name));
        result
    }

    async fn list(&self) -> Vec<Vm> {
        self.shared.core.lock().agents.vms()
    }
}
