//! `kelson scheduler` in kube-scheduler's place, at an unmodified kube-apiserver that runs on `kelson store`. No kubelet
//! runs: the test ends what is evicted, as a kubelet would.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use kelson_kube::pki::{Authority, kubeconfig};
use kelson_wire::kube::{Client, Gvr, ListParams, PatchKind};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::volumes::volumes;
use super::world::{self, pod};
use crate::cluster::{START, free_port, peer};
use crate::poll;
use crate::program::Program;
use crate::server::{Kind, Server};

const NODES: usize = 200;
const PODS: usize = 2_000;
/// Milli-CPUs of a node, and of a pod.
const CPU: &str = "4";
/// Longest reaction on a busy machine, in seconds.
pub const REACTION: u64 = 60;

const PRIORITY_CLASSES: Gvr = Gvr {
    group: "scheduling.k8s.io",
    version: "v1",
    resource: "priorityclasses",
    kind: "PriorityClass",
    namespaced: false,
};
const BUDGETS: Gvr = Gvr {
    group: "policy",
    version: "v1",
    resource: "poddisruptionbudgets",
    kind: "PodDisruptionBudget",
    namespaced: true,
};

/// The API server with its store, and a client of its administrator.
pub struct Upstream {
    _store: Server,
    _api: Program,
    runtime: Runtime,
    client: Client,
    /// The scheduler's kubeconfig.
    scheduler: PathBuf,
}

impl Upstream {
    pub fn start(binary: &std::path::Path) -> Upstream {
        let store = Server::start(&Kind::Kelson);
        let pki = store.path("pki");
        let authority = Authority::open(&pki).expect("an authority");
        authority.server(&[], [10, 96, 0, 1].into()).expect("a serving certificate");
        let port = free_port();
        let write = |name: &str, user: &str, groups: &[&str]| {
            let identity = authority.client(name, user, groups).expect("a certificate");
            let text = kubeconfig(&format!("https://127.0.0.1:{port}"), authority.certificate(), &identity);
            let file = store.path(&format!("{name}.kubeconfig"));
            std::fs::write(&file, text).expect("a kubeconfig");
            file
        };
        let admin = write("admin", "admin", &["system:masters"]);
        let scheduler = write("scheduler", "system:kube-scheduler", &[]);
        let at = |name: &str| pki.join(name).display().to_string();
        let flags = [
            ("etcd-servers", store.url()),
            ("bind-address", "127.0.0.1".into()),
            ("secure-port", port.to_string()),
            ("cert-dir", at("")),
            ("client-ca-file", at("ca.crt")),
            ("tls-cert-file", at("apiserver.crt")),
            ("tls-private-key-file", at("apiserver.key")),
            ("service-account-issuer", "https://kubernetes.default.svc".into()),
            ("service-account-signing-key-file", at("apiserver.key")),
            ("service-account-key-file", at("apiserver.crt")),
            ("service-cluster-ip-range", "10.96.0.0/16".into()),
            ("authorization-mode", "Node,RBAC".into()),
            // Nobody makes the accounts.
            ("disable-admission-plugins", "ServiceAccount".into()),
        ];
        let mut command = Command::new(binary);
        command.args(flags.iter().map(|(name, value)| format!("--{name}={value}")));
        let api = Program::start("kube-apiserver", &mut command);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let client = world::client(&admin);
        let upstream = Upstream { _store: store, _api: api, runtime, client, scheduler };
        upstream.until("kube-apiserver serves", START, || {
            upstream.get(&Gvr::NAMESPACES, "", "default")?;
            upstream.get(&PRIORITY_CLASSES, "", "system-node-critical")
        });
        upstream
    }

    /// Creates nodes that are ready.
    pub fn nodes(&self, count: usize, cpu: &str) {
        self.runtime.block_on(world::create_nodes(&self.client, count, cpu));
    }

    /// Starts a scheduler.
    pub fn scheduler(&self) -> Program {
        world::scheduler(&self.scheduler, &[])
    }

    pub fn get(&self, gvr: &Gvr, namespace: &str, name: &str) -> Result<Value, String> {
        self.runtime.block_on(self.client.get(gvr, namespace, name)).map_err(|error| error.to_string())
    }

    pub fn create(&self, gvr: &Gvr, namespace: &str, object: &Value) {
        let created = self.runtime.block_on(self.client.create::<IgnoredAny>(gvr, namespace, object));
        created.unwrap_or_else(|error| panic!("{error}: {object}"));
    }

    pub fn pod(&self, name: &str, metadata: Value, spec: Value) {
        self.create(&Gvr::PODS, "default", &pod(name, metadata, spec));
    }

    pub fn patch(&self, gvr: &Gvr, namespace: &str, name: &str, sub: &str, patch: &Value) {
        let call = self.client.patch::<IgnoredAny>(gvr, namespace, name, sub, PatchKind::Merge, patch);
        self.runtime.block_on(call).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// Deletes at once, without anybody's consent.
    pub fn delete(&self, gvr: &Gvr, namespace: &str, name: &str) {
        let options = json!({"gracePeriodSeconds": 0});
        self.runtime.block_on(self.client.delete(gvr, namespace, name, &options)).expect("deleted");
    }

    pub fn until<T>(&self, what: &str, seconds: u64, look: impl FnMut() -> Result<T, String>) -> T {
        poll::until(what, seconds, look)
    }

    pub fn node_of(&self, name: &str) -> String {
        self.until(&format!("{name} is bound"), REACTION, || {
            let pod = self.get(&Gvr::PODS, "default", name)?;
            pod["spec"]["nodeName"].as_str().map(String::from).ok_or_else(|| pod["status"].to_string())
        })
    }

    /// Waits until the scheduler says why a pod waits.
    pub fn told(&self, name: &str, reason: &str, message: &str) {
        self.until(&format!("{name}: {message}"), REACTION, || {
            let pod = self.get(&Gvr::PODS, "default", name)?;
            let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let found = conditions.iter().any(|condition| {
                condition["type"] == "PodScheduled"
                    && condition["status"] == "False"
                    && condition["reason"] == reason
                    && condition["message"].as_str().is_some_and(|text| text.starts_with(message))
            });
            if found { Ok(()) } else { Err(pod["status"].to_string()) }
        });
    }

    /// Waits until an event about a pod has this reason.
    fn has_event(&self, name: &str, reason: &str) {
        self.until(&format!("an event {reason} of {name}"), REACTION, || {
            let reasons = self.events(name);
            if reasons.iter().any(|have| have == reason) { Ok(()) } else { Err(format!("{reasons:?}")) }
        });
    }

    /// Reasons of the events about a pod.
    fn events(&self, name: &str) -> Vec<String> {
        let params = ListParams { field_selector: format!("involvedObject.name={name}"), ..ListParams::default() };
        let listed = self.runtime.block_on(self.client.list::<Value>(&Gvr::EVENTS, "default", &params));
        let reason = |event: Value| event["reason"].as_str().unwrap_or_default().to_string();
        listed.expect("events").items.into_iter().map(reason).collect()
    }
}

/// A pod for one node alone.
pub fn on(node: &str) -> Value {
    json!({"nodeSelector": {"kubernetes.io/hostname": node}})
}

#[test]
fn an_unmodified_kube_apiserver_is_served() {
    let Some(binary) = peer("KELSON_TEST_KUBE_APISERVER", "the scheduler at a real kube-apiserver") else { return };
    let upstream = Upstream::start(&binary);
    upstream.nodes(NODES, CPU);
    let mut scheduler = upstream.scheduler();
    burst(&upstream, &mut scheduler);
    taints_and_cordons(&upstream);
    deletions(&upstream);
    preemption(&upstream);
    budgets(&upstream);
    volumes(&upstream, scheduler);
}

fn burst(upstream: &Upstream, scheduler: &mut Program) {
    let before = cpu_seconds(scheduler.id());
    let began = Instant::now();
    let client = upstream.client.clone();
    upstream.runtime.block_on(world::each(PODS, |number| {
        let (client, pod) = (client.clone(), pod(&format!("burst-{number}"), json!({}), json!({})));
        async move { client.create::<IgnoredAny>(&Gvr::PODS, "default", &pod).await.map(|_| ()) }
    }));
    let created = began.elapsed();
    // One of them tells: the API server is to bind pods, not to list them.
    let unbound = ListParams { field_selector: "spec.nodeName=".into(), limit: 1, ..ListParams::default() };
    upstream.until("every pod is bound", 300, || {
        assert!(scheduler.exited().is_none(), "the scheduler has ended: {}", scheduler.output());
        let left = upstream.runtime.block_on(upstream.client.list::<Value>(&Gvr::PODS, "default", &unbound));
        let left = left.map_err(|error| error.to_string())?.items;
        left.first().map_or(Ok(()), |pod| Err(format!("{} is not: {}", pod["metadata"]["name"], pod["status"])))
    });
    let took = began.elapsed();
    eprintln!(
        "{PODS} pods on {NODES} nodes: created in {:.1} s, all bound after {:.1} s, {:.2} ms of the scheduler's CPU a pod",
        created.as_secs_f64(),
        took.as_secs_f64(),
        (cpu_seconds(scheduler.id()) - before) * 1e3 / PODS as f64,
    );
    upstream.has_event("burst-0", "Scheduled");
    // PODS divided evenly: the best node is always the emptiest.
    let listed = upstream.runtime.block_on(upstream.client.list::<Value>(
        &Gvr::PODS,
        "default",
        &ListParams { field_selector: "spec.nodeName=node-7".into(), ..ListParams::default() },
    ));
    assert_eq!(listed.expect("pods").items.len(), PODS / NODES);
}

/// User and system time of a process so far.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let fields: Vec<f64> = stat
        .rsplit_once(')')
        .expect("a name")
        .1
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|n| n.parse().ok())
        .collect();
    fields.iter().sum::<f64>() / 100.0
}

fn taints_and_cordons(upstream: &Upstream) {
    let taint = |taints: Value| {
        upstream.patch(&Gvr::NODES, "", "node-1", "", &json!({"spec": {"taints": taints}}));
    };
    taint(json!([{"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}]));
    let cordon = |on: bool| upstream.patch(&Gvr::NODES, "", "node-2", "", &json!({"spec": {"unschedulable": on}}));
    cordon(true);
    // Both changes have reached the scheduler when it refuses.
    upstream.pod("tainted", json!({}), on("node-1"));
    upstream.pod("cordoned", json!({}), on("node-2"));
    let tolerations = json!([{"key": "dedicated", "operator": "Exists"}]);
    upstream.pod(
        "tolerant",
        json!({}),
        json!({"nodeSelector": {"kubernetes.io/hostname": "node-1"}, "tolerations": tolerations}),
    );
    upstream.told("tainted", "Unschedulable", "0/200 nodes are available: 1 node(s) had untolerated taint");
    upstream.told(
        "cordoned",
        "Unschedulable",
        "0/200 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, \
         198 node(s) didn't match Pod's node affinity/selector.",
    );
    assert_eq!(upstream.node_of("tolerant"), "node-1");
    upstream.has_event("tainted", "FailedScheduling");
    taint(Value::Null);
    cordon(false);
    assert_eq!(upstream.node_of("tainted"), "node-1");
    assert_eq!(upstream.node_of("cordoned"), "node-2");
}

fn deletions(upstream: &Upstream) {
    // A node that is gone takes nothing; when it comes back, it does.
    upstream.delete(&Gvr::NODES, "", "node-3");
    upstream.until("the scheduler has noticed", REACTION, || {
        upstream.pod("probe", json!({}), on("node-3"));
        let told = upstream.until("told or bound", REACTION, || {
            let pod = upstream.get(&Gvr::PODS, "default", "probe")?;
            let waits = pod["status"]["conditions"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one["status"] == "False"));
            let bound = pod["spec"]["nodeName"].is_string();
            if waits || bound { Ok(waits) } else { Err("neither".to_string()) }
        });
        if told {
            return Ok(());
        }
        upstream.delete(&Gvr::PODS, "default", "probe");
        Err("bound to a node that is gone".into())
    });
    upstream.told(
        "probe",
        "Unschedulable",
        "0/199 nodes are available: 199 node(s) didn't match Pod's node affinity/selector.",
    );
    // It comes back under its name; node-0 to node-199 exist but for this one.
    let allocatable = json!({"cpu": CPU, "memory": "32Gi", "pods": "110"});
    upstream.create(
        &Gvr::NODES,
        "",
        &json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "node-3", "labels": {"kubernetes.io/hostname": "node-3"}},
            "status": {"capacity": allocatable, "allocatable": allocatable},
        }),
    );
    upstream.patch(&Gvr::NODES, "", "node-3", "", &json!({"spec": {"taints": null}}));
    assert_eq!(upstream.node_of("probe"), "node-3");

    // A pod that is gone leaves its place to one that waits.
    let all = json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"memory": "31Gi"}}}]});
    let big = |name: &str| {
        let mut spec = on("node-4");
        spec["containers"] = all["containers"].clone();
        upstream.pod(name, json!({}), spec);
    };
    big("holder");
    assert_eq!(upstream.node_of("holder"), "node-4");
    big("waiter");
    upstream.told(
        "waiter",
        "Unschedulable",
        "0/200 nodes are available: 1 Insufficient memory, 199 node(s) didn't match Pod's node affinity/selector.",
    );
    upstream.delete(&Gvr::PODS, "default", "holder");
    assert_eq!(upstream.node_of("waiter"), "node-4");
}

/// Takes the part of a kubelet: what is terminating ends. Returns the conditions of what ended.
fn end_terminating(upstream: &Upstream, name: &str) -> Result<Value, String> {
    let pod = upstream.get(&Gvr::PODS, "default", name)?;
    if pod["metadata"]["deletionTimestamp"].is_null() {
        return Err("not evicted yet".into());
    }
    upstream.delete(&Gvr::PODS, "default", name);
    Ok(pod["status"]["conditions"].clone())
}

fn important(node: &str, memory: &str) -> Value {
    let mut spec = on(node);
    spec["priorityClassName"] = json!("important");
    spec["containers"] =
        json!([{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m", "memory": memory}}}]);
    spec
}

fn preemption(upstream: &Upstream) {
    upstream.create(
        &PRIORITY_CLASSES,
        "",
        &json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "important"}, "value": 1_000}),
    );
    // `waiter` has node-4's memory.
    upstream.pod("preemptor", json!({}), important("node-4", "31Gi"));
    // While its victim is on the way out: a binding ends the nomination.
    upstream.until("it is nominated", REACTION, || {
        let preemptor = upstream.get(&Gvr::PODS, "default", "preemptor")?;
        if preemptor["status"]["nominatedNodeName"] == "node-4" { Ok(()) } else { Err(preemptor["status"].to_string()) }
    });
    let conditions = upstream.until("the victim goes", REACTION, || end_terminating(upstream, "waiter"));
    let target =
        conditions.as_array().and_then(|all| all.iter().find(|one| one["type"] == "DisruptionTarget").cloned());
    let target = target.unwrap_or_else(|| panic!("no DisruptionTarget in {conditions}"));
    assert_eq!((&target["status"], &target["reason"]), (&json!("True"), &json!("PreemptionByScheduler")));
    assert_eq!(upstream.node_of("preemptor"), "node-4");
    upstream.has_event("waiter", "Preempted");
}

/// Of two nodes, one has a victim that a budget protects: the other one's goes.
fn budgets(upstream: &Upstream) {
    for node in ["node-5", "node-6"] {
        upstream.patch(&Gvr::NODES, "", node, "", &json!({"metadata": {"labels": {"pool": "small"}}}));
        let mut spec = on(node);
        spec["containers"] =
            json!([{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m", "memory": "31Gi"}}}]);
        upstream.pod(&format!("on-{node}"), json!({"labels": {"app": node}}), spec);
        assert_eq!(upstream.node_of(&format!("on-{node}")), node);
    }
    upstream.create(
        &BUDGETS,
        "default",
        &json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "keep"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "node-5"}}},
        }),
    );
    let status =
        json!({"status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
    upstream.patch(&BUDGETS, "default", "keep", "status", &status);
    let mut spec = important("", "31Gi");
    spec["nodeSelector"] = json!({"pool": "small"});
    upstream.pod("choosy", json!({}), spec);
    upstream.until("the pod that nobody protects goes", REACTION, || end_terminating(upstream, "on-node-6"));
    assert_eq!(upstream.node_of("choosy"), "node-6");
    assert_eq!(upstream.node_of("on-node-5"), "node-5");
}
