//! Tests of the simulator on the real gateway, over a store in memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kelson_kube::{Gateway, User};
use kelson_wire::kube::{Client, Gvr, ListParams, PatchKind};
use kelson_wire::model::ModelStore;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{Config, Handle, Simulator, Timings};

struct Cluster {
    gateway: Gateway,
    client: Client,
}

impl Cluster {
    async fn new() -> Cluster {
        let gateway = Gateway::start(Arc::new(ModelStore::new()), kelson_kube::Config::default()).await.unwrap();
        let user = User::new("tester", &["system:masters", "system:authenticated"]);
        let client = Client::new(gateway.transport(user), "tester");
        Cluster { gateway, client }
    }

    async fn simulate(&self, config: Config) -> (Handle, impl AsyncFnOnce()) {
        let user = User::new("system:nodes", &["system:masters", "system:nodes", "system:authenticated"]);
        let client = Client::new(self.gateway.transport(user), "nodesim");
        let (simulator, handle) = Simulator::new(client, config).await.unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(simulator.run(stop.clone()));
        let end = async move || {
            stop.cancel();
            running.await.unwrap();
        };
        (handle, end)
    }

    async fn pod(&self, name: &str, node: &str, mut spec: Value) {
        spec["nodeName"] = json!(node);
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        let _: Value = self.client.create(&Gvr::PODS, "default", &pod).await.unwrap();
    }

    async fn get(&self, name: &str) -> Option<Value> {
        self.client.get(&Gvr::PODS, "default", name).await.ok()
    }

    /// Polls a pod until a condition holds, and returns it.
    async fn wait(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let pod = self.get(name).await.unwrap_or_default();
            if holds(&pod) {
                return pod;
            }
            assert!(Instant::now() < deadline, "{name} never {what}: {}", pod["status"]);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn until(what: &str, handle: &Handle, holds: impl Fn(&crate::Progress) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !holds(&handle.progress()) {
        assert!(Instant::now() < deadline, "never {what}: {:?}\n{}", handle.progress(), handle.metrics());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let list = object["status"]["conditions"].as_array();
    let found = list.into_iter().flatten().find(|condition| condition["type"] == kind);
    found.and_then(|condition| condition["status"].as_str()).unwrap_or("")
}

/// The value of a metric.
pub(crate) fn metric(handle: &Handle, name: &str) -> u64 {
    let metrics = handle.metrics();
    let line = metrics.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn quick(nodes: usize) -> Config {
    let timings = Timings { pull: (5, 5), lease: 1_000, beat: 20, ..Timings::instant_ish() };
    Config { nodes, timings, ..Config::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_lives_and_ends_on_the_gateway() {
    let cluster = Cluster::new().await;
    let (handle, stop) = cluster.simulate(quick(3)).await;
    until("ready", &handle, |progress| progress.ready == 3).await;
    let node: Value = cluster.client.get(&Gvr::NODES, "", "node-00001").await.unwrap();
    assert_eq!(condition(&node, "Ready"), "True");
    assert_eq!(node["status"]["allocatable"]["cpu"], "3860m");
    assert_eq!(node["status"]["nodeInfo"]["kubeletVersion"], crate::node::KUBELET_VERSION);
    assert_eq!(node["spec"]["podCIDR"], "10.128.1.0/24");
    assert!(node["spec"]["taints"].is_null(), "{}", node["spec"]);

    cluster.pod("web", "node-00001", json!({"containers": [{"name": "c", "image": "nginx:1.27"}]})).await;
    let pod = cluster.wait("web", "ready", |pod| condition(pod, "Ready") == "True").await;
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["status"]["podIP"], "10.128.1.2");
    assert_eq!(pod["status"]["podIPs"], json!([{"ip": "10.128.1.2"}]));
    assert_eq!(pod["status"]["hostIP"], "127.0.0.1");
    assert_eq!(pod["status"]["qosClass"], "BestEffort", "what the server set is kept");
    let container = &pod["status"]["containerStatuses"][0];
    assert_eq!((&container["ready"], &container["image"]), (&json!(true), &json!("docker.io/library/nginx:1.27")));
    assert!(container["containerID"].as_str().unwrap().starts_with("containerd://"));
    assert_eq!(metric(&handle, "nodesim_pod_status_writes_total"), 1);

    // Its image is replaced, then it is deleted.
    let patch = json!({"spec": {"containers": [{"name": "c", "image": "nginx:1.28"}]}});
    let _: Value = cluster.client.patch(&Gvr::PODS, "default", "web", "", PatchKind::Strategic, &patch).await.unwrap();
    let restarted =
        |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"] == 1 && condition(pod, "Ready") == "True";
    cluster.wait("web", "restarted", restarted).await;
    cluster.client.delete(&Gvr::PODS, "default", "web", &json!({})).await.unwrap();
    cluster.wait("web", "gone", Value::is_null).await;

    // A batch pod leaves its exit code, a refused one its reason.
    let script = json!(["sh", "-c", "echo hello; exit 4"]);
    cluster
        .pod(
            "batch",
            "node-00002",
            json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "busybox", "command": script}]}),
        )
        .await;
    let pod = cluster.wait("batch", "failed", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 4);
    let requests = json!({"requests": {"cpu": "64"}});
    cluster
        .pod("huge", "node-00002", json!({"containers": [{"name": "c", "image": "nginx", "resources": requests}]}))
        .await;
    let pod = cluster.wait("huge", "refused", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "OutOfcpu");
    assert_eq!(handle.progress().pods_refused, 1);

    // Somebody deletes a Node whose VM is still there.
    cluster.client.delete(&Gvr::NODES, "", "node-00000", &json!({})).await.unwrap();
    until("registered again", &handle, |progress| progress.ready == 3).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let lease: Value = cluster.client.get(&Gvr::LEASES, "kube-node-lease", "node-00000").await.unwrap_or_default();
        let node: Value = cluster.client.get(&Gvr::NODES, "", "node-00000").await.unwrap_or_default();
        if !node.is_null() && lease["metadata"]["ownerReferences"][0]["uid"] == node["metadata"]["uid"] {
            break;
        }
        assert!(Instant::now() < deadline, "the lease never follows its node: {lease}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let events = cluster.client.list::<Value>(&Gvr::EVENTS, "default", &ListParams::default()).await.unwrap().items;
    assert!(events.iter().any(|event| event["reason"] == "Started" && event["source"]["host"] == "node-00001"));
    assert_eq!(metric(&handle, "nodesim_api_refused_total"), 0);
    stop().await;
}

/// CPU time of this process, in seconds.
pub(crate) fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

pub(crate) fn size(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// `NODESIM_NODES` and `NODESIM_PODS` make it as large as one likes; it then tells what it costs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_nodes_and_pods_come_up_and_survive_a_restart() {
    let (nodes, pods) = (size("NODESIM_NODES", 200), size("NODESIM_PODS", 1_000));
    let cluster = Cluster::new().await;
    let (begun, spent) = (Instant::now(), cpu());
    // On a machine that is busy with other things pods may be on their way for seconds.
    let timings = Timings { report: 60_000, ..Timings::instant_ish() };
    let config = Config { nodes, timings, ..Config::default() };
    let (handle, stop) = cluster.simulate(config.clone()).await;
    until("ready", &handle, |progress| progress.ready == nodes).await;
    eprintln!("{nodes} nodes ready after {:?}, {:.2} CPU-s", begun.elapsed(), cpu() - spent);
    if nodes > 200 {
        let renewals = metric(&handle, "nodesim_lease_renewals_total");
        let (begun, spent) = (Instant::now(), cpu());
        tokio::time::sleep(Duration::from_secs(20)).await;
        let renewals = (metric(&handle, "nodesim_lease_renewals_total") - renewals) as f64;
        let elapsed = begun.elapsed().as_secs_f64();
        eprintln!("idle: {:.0} renewals/s, {:.3} of a core", renewals / elapsed, (cpu() - spent) / elapsed);
    }
    let (begun, spent) = (Instant::now(), cpu());
    for batch in (0..pods).collect::<Vec<_>>().chunks(100) {
        let creates = batch.iter().map(|index| {
            let node = format!("node-{:05}", index % nodes);
            let cluster = &cluster;
            async move {
                cluster
                    .pod(&format!("p{index}"), &node, json!({"containers": [{"name": "c", "image": "nginx"}]}))
                    .await;
            }
        });
        futures_util::future::join_all(creates).await;
    }
    eprintln!("{pods} pods created after {:?}, {:.2} CPU-s", begun.elapsed(), cpu() - spent);
    until("running", &handle, |progress| progress.pods_running == pods).await;
    let params = ListParams::default();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let list = cluster.client.list::<Value>(&Gvr::PODS, "", &params).await.unwrap().items;
        if list.iter().filter(|pod| condition(pod, "Ready") == "True").count() == pods {
            break;
        }
        assert!(Instant::now() < deadline, "not all pods became Ready");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    eprintln!("{pods} pods ready after {:?}, {:.2} CPU-s", begun.elapsed(), cpu() - spent);
    let writes = metric(&handle, "nodesim_pod_status_writes_total");
    assert_eq!(
        (writes, handle.progress().pods_refused),
        (pods as u64, 0),
        "one write for each pod\n{}",
        handle.metrics()
    );
    stop().await;

    let begun = Instant::now();
    let (handle, stop) = cluster.simulate(config).await;
    until("taken over", &handle, |progress| progress.pods_running == pods && progress.ready == nodes).await;
    eprintln!("taken over after {:?}", begun.elapsed());
    assert_eq!(metric(&handle, "nodesim_pod_status_writes_total"), 0, "what runs is left alone");
    stop().await;
}
