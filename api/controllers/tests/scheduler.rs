//! The scheduler on a gateway: what ends up in the API, whatever happens on the way.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kelson_controllers::scheduler::{self, Attempt, Config, Metrics};
use kelson_kube::{Gateway, User};
use kelson_sched::Waits;
use kelson_wire::kube::{Body, BoxError, Client, Gvr, ListParams, PatchKind, Transport};
use kelson_wire::model::ModelStore;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long anything here may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// Time between two looks at a state that is waited for.
const PACE: Duration = Duration::from_millis(10);

/// A network that loses one of `every` bindings on the way there, and one on the way back.
struct Lossy {
    inner: Arc<dyn Transport>,
    every: u64,
    sent: AtomicU64,
    lost: Arc<AtomicU64>,
}

#[async_trait::async_trait]
impl Transport for Lossy {
    async fn call(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, BoxError> {
        if !request.uri().path().ends_with("/binding") {
            return self.inner.call(request).await;
        }
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        match number % self.every {
            0 => {
                self.lost.fetch_add(1, Ordering::Relaxed);
                Err("the request was lost".into())
            }
            1 => {
                self.lost.fetch_add(1, Ordering::Relaxed);
                self.inner.call(request).await?;
                Err("the answer was lost".into())
            }
            _ => self.inner.call(request).await,
        }
    }
}

struct World {
    gateway: Gateway,
    client: Client,
}

struct Running {
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }

    /// As a killed process would: whatever was sent is sent, nothing is waited for.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

impl World {
    async fn new() -> World {
        let gateway = Gateway::start(Arc::new(ModelStore::new()), kelson_kube::Config::default()).await.unwrap();
        let client = Client::new(gateway.transport(admin()), "test");
        World { gateway, client }
    }

    fn start(&self) -> Running {
        self.start_on(self.gateway.transport(admin()), 1)
    }

    fn start_on(&self, transport: Arc<dyn Transport>, workers: usize) -> Running {
        let waits = Waits { initial_backoff: 20, max_backoff: 200, ..Waits::default() };
        let config = Config { waits, seed: 7, workers, ..Config::default() };
        let shutdown = CancellationToken::new();
        let client = Client::new(transport, "scheduler");
        let metrics = Metrics::new("default-scheduler");
        let task = tokio::spawn(scheduler::run(client, config, metrics.clone(), shutdown.clone()));
        Running { metrics, shutdown, task }
    }

    async fn node(&self, name: &str, milli_cpu: u32, spec: Value) {
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": { "host": name } }, "spec": spec,
        });
        let _: Value = self.client.create(&Gvr::NODES, "", &node).await.unwrap();
        let amounts = json!({ "cpu": format!("{milli_cpu}m"), "memory": "16Gi", "pods": "110" });
        let status = json!({ "status": { "capacity": amounts, "allocatable": amounts } });
        let _: Value = self.client.patch(&Gvr::NODES, "", name, "status", PatchKind::Merge, &status).await.unwrap();
    }

    async fn pod(&self, name: &str, milli_cpu: u32, more: Value) {
        let mut spec = json!({ "containers": [{
            "name": "c", "image": "i", "resources": { "requests": { "cpu": format!("{milli_cpu}m"), "memory": "64Mi" } },
        }] });
        if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
            spec.extend(more.clone());
        }
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec });
        let _: Value = self.client.create(&Gvr::PODS, "default", &pod).await.unwrap();
    }

    async fn pods(&self) -> Vec<Value> {
        self.client.list::<Value>(&Gvr::PODS, "", &ListParams::default()).await.unwrap().items
    }

    /// All pods by name, once they satisfy `wanted`.
    async fn until(&self, what: &str, wanted: impl Fn(&BTreeMap<String, Value>) -> bool) -> BTreeMap<String, Value> {
        let mut seen = BTreeMap::new();
        let mut pace = tokio::time::interval(PACE);
        let reached = async {
            loop {
                let named = |pod: Value| (pod["metadata"]["name"].as_str().unwrap_or("").to_string(), pod);
                seen = self.pods().await.into_iter().map(named).collect();
                if wanted(&seen) {
                    return;
                }
                pace.tick().await;
            }
        };
        if tokio::time::timeout(DEADLINE, reached).await.is_err() {
            let bound = seen.values().filter(|pod| !node_of(pod).is_empty()).count();
            panic!("{what}: {bound} of {} pods are bound", seen.len());
        }
        seen
    }
}

fn admin() -> User {
    User::new("admin", &["system:masters", "system:authenticated"])
}

fn node_of(pod: &Value) -> &str {
    pod["spec"]["nodeName"].as_str().unwrap_or("")
}

/// The message of a `PodScheduled` condition that is `False`.
fn told(pod: &Value) -> &str {
    let conditions = pod["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let condition = conditions.iter().find(|one| one["type"] == "PodScheduled" && one["status"] == "False");
    condition.and_then(|one| one["message"].as_str()).unwrap_or("")
}

fn all_bound(pods: &BTreeMap<String, Value>) -> bool {
    pods.values().all(|pod| !node_of(pod).is_empty())
}

/// Milli-CPUs requested per node; the pods of these tests write them as such.
fn requested(pods: &BTreeMap<String, Value>) -> HashMap<String, u64> {
    let mut sums = HashMap::new();
    for pod in pods.values() {
        let cpu = pod["spec"]["containers"][0]["resources"]["requests"]["cpu"].as_str().unwrap_or("0m");
        *sums.entry(node_of(pod).to_string()).or_default() += cpu.trim_end_matches('m').parse::<u64>().unwrap();
    }
    sums
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_pods_fill_two_hundred_nodes_exactly_through_losses_and_restarts() {
    let world = World::new().await;
    for at in 0..200 {
        world.node(&format!("node-{at}"), 1_000, json!({})).await;
    }
    let lost = Arc::new(AtomicU64::new(0));
    let lossy = |every| -> Arc<dyn Transport> {
        let inner = world.gateway.transport(admin());
        Arc::new(Lossy { inner, every, sent: AtomicU64::new(0), lost: lost.clone() })
    };
    let first = world.start_on(lossy(7), 2);
    // Every place is needed: one booked twice, or lost, and the last pods find none.
    for at in 0..1_000 {
        world.pod(&format!("pod-{at}"), 100, json!({})).await;
    }
    first.kill().await;
    let before = world.pods().await;
    let second = world.start_on(lossy(11), 2);
    for at in 1_000..2_000 {
        world.pod(&format!("pod-{at}"), 100, json!({})).await;
    }
    let pods = world.until("all bound", |pods| pods.len() == 2_000 && all_bound(pods)).await;
    let errors = second.metrics.attempts(Attempt::Error);
    second.stop().await;
    assert_eq!(errors, 0, "a binding that was lost, or is there already, is asked about, and is no failure");
    assert_eq!(requested(&pods).values().filter(|sum| **sum == 1_000).count(), 200);
    assert!(lost.load(Ordering::Relaxed) > 100, "the network was not lossy");
    for pod in before.iter().filter(|pod| !node_of(pod).is_empty()) {
        let name = pod["metadata"]["name"].as_str().unwrap();
        assert_eq!(node_of(&pods[name]), node_of(pod), "a bound pod stays where it is");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_wait_for_what_lets_them_through() {
    let world = World::new().await;
    let taint = json!({ "taints": [{ "key": "gpu", "value": "yes", "effect": "NoSchedule" }] });
    world.node("tainted", 1_000, taint).await;
    world.node("cordoned", 1_000, json!({ "unschedulable": true })).await;
    world.node("open", 500, json!({})).await;
    let running = world.start();
    world.pod("first", 500, json!({})).await;
    world.until("the open node", |pods| node_of(&pods["first"]) == "open").await;
    world.pod("second", 500, json!({})).await;
    let why = "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), \
               1 node(s) were unschedulable. preemption: 0/3 nodes are available: 1 No preemption victims found for \
               incoming pod, 2 Preemption is not helpful for scheduling.";
    world.until("the reason", |pods| told(&pods["second"]) == why).await;
    let mut pace = tokio::time::interval(PACE);
    let event = async {
        loop {
            let events = world.client.list::<Value>(&Gvr::EVENTS, "default", &ListParams::default()).await.unwrap();
            let about = |event: &&Value| event["involvedObject"]["name"] == "second" && event["message"] == why;
            if let Some(event) = events.items.iter().find(about) {
                return event.clone();
            }
            pace.tick().await;
        }
    };
    let event = tokio::time::timeout(DEADLINE, event).await.expect("an event");
    assert_eq!((&event["reason"], &event["type"]), (&json!("FailedScheduling"), &json!("Warning")));
    // A toleration lets another pod through at once.
    let tolerations = json!({ "tolerations": [{ "key": "gpu", "operator": "Exists" }] });
    world.pod("tolerant", 500, tolerations).await;
    let pods = world.until("the tainted node", |pods| node_of(&pods["tolerant"]) == "tainted").await;
    assert_eq!(told(&pods["second"]), why);
    let uncordon = json!({ "spec": { "unschedulable": null } });
    let _: Value = world.client.patch(&Gvr::NODES, "", "cordoned", "", PatchKind::Merge, &uncordon).await.unwrap();
    let pods = world.until("the node that was cordoned", |pods| node_of(&pods["second"]) == "cordoned").await;
    assert_eq!(told(&pods["second"]), "", "the condition is true now");
    // A pod that goes makes room for the one that waits.
    world.pod("third", 500, json!({ "nodeSelector": { "host": "open" } })).await;
    world.until("told", |pods| !told(&pods["third"]).is_empty()).await;
    let now = json!({ "gracePeriodSeconds": 0 });
    world.client.delete(&Gvr::PODS, "default", "first", &now).await.unwrap();
    world.until("the freed place", |pods| node_of(&pods["third"]) == "open").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_come_and_go() {
    let world = World::new().await;
    let running = world.start();
    world.pod("early", 100, json!({})).await;
    let none = "no nodes available to schedule pods";
    world.until("told", |pods| told(&pods["early"]) == none).await;
    world.node("a", 1_000, json!({})).await;
    world.until("the first node", |pods| node_of(&pods["early"]) == "a").await;
    world.client.delete(&Gvr::NODES, "", "a", &json!({})).await.unwrap();
    // Nodes and pods come by two streams: once a pod finds no node, the deletion has been seen.
    for at in 0.. {
        let name = format!("probe-{at}");
        world.pod(&name, 1, json!({ "nodeSelector": { "host": "a" } })).await;
        let decided = |pods: &BTreeMap<String, Value>| !node_of(&pods[&name]).is_empty() || told(&pods[&name]) == none;
        if told(&world.until("decided", decided).await[&name]) == none {
            break;
        }
    }
    world.node("b", 1_000, json!({})).await;
    for at in 0..9 {
        world.pod(&format!("later-{at}"), 100, json!({})).await;
    }
    let on_b = |pods: &BTreeMap<String, Value>| pods.values().filter(|pod| node_of(pod) == "b").count();
    world.until("the other node", |pods| on_b(pods) == 9).await;
    // The node of that name comes back with its old pod on it: 900m are left.
    world.node("a", 1_000, json!({})).await;
    world.pod("big", 950, json!({})).await;
    let why = "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 No preemption victims \
               found for incoming pod.";
    world.until("told", |pods| told(&pods["big"]) == why).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn priority_decides_who_gets_the_last_place() {
    let world = World::new().await;
    for (name, priority) in [("low", 0), ("high", 100), ("middle", 50)] {
        world.pod(name, 400, json!({ "priority": priority })).await;
    }
    world.node("only", 1_000, json!({})).await;
    let running = world.start();
    let pods = world.until("two bound", |pods| !told(&pods["low"]).is_empty()).await;
    assert!(node_of(&pods["low"]).is_empty());
    world.until("the others", |pods| node_of(&pods["high"]) == "only" && node_of(&pods["middle"]) == "only").await;
    // Others' pods are left alone.
    world.pod("foreign", 10, json!({ "schedulerName": "other" })).await;
    world.pod("ours", 10, json!({})).await;
    let pods = world.until("ours", |pods| !node_of(&pods["ours"]).is_empty()).await;
    assert!(node_of(&pods["foreign"]).is_empty());
    running.stop().await;
}
