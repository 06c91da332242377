//! Power cuts in the middle of a rollout: nothing acknowledged is lost, nothing happens twice, and it finishes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use kelson_wire::kube::{Client, Gvr, Https, Kubeconfig, ObjectMeta, quantity};
use kelson_wire::remote::{RemoteOptions, RemoteStore};
use kelson_wire::store::{Change, ListOptions, Store};
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cluster::{START, address_of, start_dev};
use crate::poll;

/// Times that the power is cut.
const CUTS: usize = 20;
const NODES: u32 = 200;
const REPLICAS: i64 = 5_000;
/// The cut comes at most this long after the Deployment was acknowledged.
const LATEST_CUT: Duration = Duration::from_millis(1_000);
/// Longest rollout on a busy machine, in seconds.
const ROLLOUT: u64 = 180;

fn client(kubeconfig: &Path) -> Client {
    let config = Kubeconfig::load(kubeconfig).expect("a kubeconfig");
    Client::new(std::sync::Arc::new(Https::new(&config).expect("a transport")), "crash-test")
}

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "wave"}, "spec": {
        "replicas": REPLICAS,
        "selector": {"matchLabels": {"app": "wave"}},
        "template": {"metadata": {"labels": {"app": "wave"}}, "spec": {"containers": [{
            "name": "web", "image": "nginx:1.27",
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        }]}},
    }})
}

#[test]
fn a_rollout_survives_power_cuts() {
    let seed = std::env::var("KELSON_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("KELSON_TEST_SEED={seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    for cut in 0..CUTS {
        let moment = Duration::from_millis(random.random_range(50..LATEST_CUT.as_millis() as u64));
        survive(&runtime, cut, moment);
    }
}

fn survive(runtime: &tokio::runtime::Runtime, cut: usize, moment: Duration) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let kubeconfig = folder.path().join("data/kubeconfig");
    let mut first = start_dev(folder.path(), NODES, &[]);
    first.wait_for("ready", START);

    // Acknowledged writes, right up to the cut.
    let api = client(&kubeconfig);
    runtime.block_on(api.create::<Value>(&Gvr::DEPLOYMENTS, "default", &deployment())).expect("created");
    let acknowledged = Mutex::new(Vec::new());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                let name = format!("note-{number}");
                let note = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
                let created = runtime.block_on(async {
                    let call = api.create::<Value>(&Gvr::CONFIG_MAPS, "default", &note);
                    tokio::time::timeout(Duration::from_secs(5), call).await
                });
                match created {
                    Ok(Ok(_)) => acknowledged.lock().expect("names").push(name),
                    _ if stop.load(Ordering::Relaxed) => return,
                    other => panic!("a write failed before the cut: {other:?}"),
                }
            }
        });
        poll::strike_after(moment);
        stop.store(true, Ordering::Relaxed);
        first.kill();
    });

    let began = Instant::now();
    let mut second = start_dev(folder.path(), NODES, &[]);
    second.wait_for("ready", START);
    let api = client(&kubeconfig);
    let acknowledged = acknowledged.into_inner().expect("names");
    runtime.block_on(async {
        let listed = api.list::<Meta>(&Gvr::CONFIG_MAPS, "default", &Default::default()).await.expect("a list");
        let names: std::collections::HashSet<_> =
            listed.items.iter().map(|map| map.metadata.name.to_string()).collect();
        let lost: Vec<_> = acknowledged.iter().filter(|name| !names.contains(*name)).collect();
        assert!(lost.is_empty(), "cut {cut} after {moment:?}: acknowledged and lost: {lost:?}");
    });
    poll::until(&format!("cut {cut} after {moment:?}: the rollout finishes"), ROLLOUT, || {
        let status =
            runtime.block_on(api.get::<Value>(&Gvr::DEPLOYMENTS, "default", "wave")).map_err(|e| e.to_string())?;
        let ready = status["status"]["readyReplicas"].as_i64().unwrap_or(0);
        if ready == REPLICAS { Ok(()) } else { Err(format!("{ready} ready")) }
    });
    let etcd = address_of(&second.output(), "http://");
    let seen = runtime.block_on(audit(&etcd));
    eprintln!(
        "cut {cut} after {moment:?}: {} acknowledged, {seen} pods, finished {:.1} s after the restart",
        acknowledged.len(),
        began.elapsed().as_secs_f64()
    );
}

#[derive(Deserialize)]
struct Meta {
    metadata: ObjectMeta,
}

#[derive(Deserialize)]
struct Pod {
    metadata: ObjectMeta,
    spec: PodSpec,
    #[serde(default)]
    status: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    #[serde(default)]
    node_name: String,
    containers: Vec<Container>,
}

#[derive(Deserialize)]
struct Container {
    #[serde(default)]
    resources: Value,
}

/// Milli-CPU, bytes of memory, pods.
type Load = [i64; 3];

fn load(pod: &Pod) -> Load {
    let sum = |name: &str, read: fn(&str) -> Option<i64>| {
        let requests =
            pod.spec.containers.iter().filter_map(|container| container.resources["requests"][name].as_str());
        requests.map(|text| read(text).expect("a quantity")).sum()
    };
    [sum("cpu", quantity::millis), sum("memory", quantity::units), 1]
}

/// Replays every change of every pod since the first revision: bound once, within what its node has, at each moment.
/// Returns the number of pods.
async fn audit(etcd: &str) -> usize {
    let store = RemoteStore::new(RemoteOptions::new([etcd])).expect("the store");
    let nodes = store.list(Bytes::from_static(b"/registry/minions/"), ListOptions::default()).await.expect("nodes");
    let room: HashMap<String, Load> = nodes
        .objects
        .iter()
        .map(|object| {
            let node: Value = serde_json::from_slice(&object.value).expect("a node");
            let allocatable = &node["status"]["allocatable"];
            let text = |name: &str| allocatable[name].as_str().expect("allocatable").to_string();
            let room = [
                quantity::millis(&text("cpu")).expect("cpu"),
                quantity::units(&text("memory")).expect("memory"),
                quantity::units(&text("pods")).expect("pods"),
            ];
            (node["metadata"]["name"].as_str().expect("a name").to_string(), room)
        })
        .collect();
    let mut used: HashMap<String, Load> = HashMap::new();
    let mut bound: HashMap<String, (String, Load)> = HashMap::new();
    let mut pods = std::collections::HashSet::new();
    let mut changes = store.watch(Bytes::from_static(b"/registry/pods/"), 1).await.expect("a watch");
    'replay: while let Some(batch) = changes.next().await {
        for change in batch.expect("history is whole") {
            match change {
                Change::Progress { revision } if revision >= nodes.revision => break 'replay,
                Change::Progress { .. } => {}
                Change::Put { object, .. } => {
                    if object.mod_revision > nodes.revision {
                        break 'replay;
                    }
                    let pod: Pod = serde_json::from_slice(&object.value).expect("a pod");
                    let uid = pod.metadata.uid.to_string();
                    assert_ne!(pod.status["phase"], "Failed", "an agent refused {}: {}", pod.metadata.name, pod.status);
                    pods.insert(uid.clone());
                    let node = pod.spec.node_name.clone();
                    if let Some((before, _)) = bound.get(&uid) {
                        assert_eq!(*before, node, "{} was bound twice", pod.metadata.name);
                    } else if !node.is_empty() {
                        let load = load(&pod);
                        let total = used.entry(node.clone()).or_default();
                        let room = room.get(&node).unwrap_or_else(|| panic!("{node} is no node"));
                        for (at, amount) in load.iter().enumerate() {
                            total[at] += amount;
                            assert!(total[at] <= room[at], "{node} is over-committed: {total:?} of {room:?}");
                        }
                        bound.insert(uid, (node, load));
                    }
                }
                Change::Delete { previous, .. } => {
                    let previous = previous.expect("a deleted pod has a last state");
                    let pod: Pod = serde_json::from_slice(&previous.value).expect("a pod");
                    if let Some((node, load)) = bound.remove(pod.metadata.uid.as_ref()) {
                        let total = used.get_mut(&node).expect("it was bound");
                        (0..load.len()).for_each(|at| total[at] -= load[at]);
                    }
                }
            }
        }
        let _ = store.request_progress().await;
    }
    pods.len()
}
