//! Replays every change of every pod since the first revision: each is bound once, within what its node has, at each
//! moment, and no agent refused it.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use futures_util::StreamExt;
use kelson_wire::kube::{ObjectMeta, quantity};
use kelson_wire::remote::{RemoteOptions, RemoteStore};
use kelson_wire::store::{Change, ListOptions, Store};
use serde::Deserialize;
use serde_json::Value;

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

/// Name of a node and what it has for pods.
fn room(node: &Value) -> (String, Load) {
    let allocatable = &node["status"]["allocatable"];
    let text = |name: &str| allocatable[name].as_str().expect("allocatable").to_string();
    let room = [
        quantity::millis(&text("cpu")).expect("cpu"),
        quantity::units(&text("memory")).expect("memory"),
        quantity::units(&text("pods")).expect("pods"),
    ];
    (node["metadata"]["name"].as_str().expect("a name").to_string(), room)
}

/// What the changes so far amount to.
#[derive(Default)]
struct Audit {
    room: HashMap<String, Load>,
    used: HashMap<String, Load>,
    /// By uid: where it is bound, and what it takes there.
    bound: HashMap<String, (String, Load)>,
    seen: HashSet<String>,
}

impl Audit {
    fn put(&mut self, pod: &[u8]) -> Result<(), String> {
        let pod: Pod = serde_json::from_slice(pod).expect("a pod");
        let (name, uid) = (&pod.metadata.name, pod.metadata.uid.to_string());
        if pod.status["phase"] == "Failed" {
            return Err(format!("an agent refused {name}: {}", pod.status));
        }
        self.seen.insert(uid.clone());
        let node = pod.spec.node_name.clone();
        if let Some((before, _)) = self.bound.get(&uid) {
            return if *before == node { Ok(()) } else { Err(format!("{name} was bound to {before}, then to {node}")) };
        }
        if node.is_empty() {
            return Ok(());
        }
        let room = self.room.get(&node).ok_or_else(|| format!("{name} is on {node}, which is no node"))?;
        let (load, total) = (load(&pod), self.used.entry(node.clone()).or_default());
        for (at, amount) in load.iter().enumerate() {
            total[at] += amount;
            if total[at] > room[at] {
                return Err(format!("{node} is over-committed: {total:?} of {room:?}"));
            }
        }
        self.bound.insert(uid, (node, load));
        Ok(())
    }

    fn told(&self) -> Told {
        Told { pods: self.seen.len(), bound: self.bound.len() }
    }

    fn delete(&mut self, last: &[u8]) {
        let pod: Pod = serde_json::from_slice(last).expect("a pod");
        if let Some((node, load)) = self.bound.remove(pod.metadata.uid.as_ref()) {
            let total = self.used.get_mut(&node).expect("it was bound");
            (0..load.len()).for_each(|at| total[at] -= load[at]);
        }
    }
}

/// What a history told.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    /// Pods that there ever were.
    pub pods: usize,
    /// Those of them that are bound at the end.
    pub bound: usize,
}

/// Audits the store at `etcd` up to its present revision.
pub async fn replay(etcd: &str) -> Result<Told, String> {
    let store = RemoteStore::new(RemoteOptions::new([etcd])).expect("the store");
    let nodes = store.list(Bytes::from_static(b"/registry/minions/"), ListOptions::default()).await.expect("nodes");
    let read = |value: &Bytes| room(&serde_json::from_slice(value).expect("a node"));
    let room = nodes.objects.iter().map(|object| read(&object.value)).collect();
    let mut audit = Audit { room, ..Audit::default() };
    let mut changes = store.watch(Bytes::from_static(b"/registry/pods/"), 1).await.expect("a watch");
    while let Some(batch) = changes.next().await {
        for change in batch.expect("history is whole") {
            match change {
                Change::Progress { revision } if revision >= nodes.revision => return Ok(audit.told()),
                Change::Progress { .. } => {}
                Change::Put { object, .. } if object.mod_revision > nodes.revision => return Ok(audit.told()),
                Change::Put { object, .. } => audit.put(&object.value)?,
                Change::Delete { previous, .. } => {
                    audit.delete(&previous.expect("a deleted pod has a last state").value);
                }
            }
        }
        // The answer to the last of these is what ends the replay of a store that stands still.
        let _ = store.request_progress().await;
    }
    Err("the watch ended before the replay was complete".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn audit() -> Audit {
        Audit {
            room: HashMap::from([("a".into(), [1_000, 1 << 30, 2]), ("b".into(), [1_000, 1 << 30, 2])]),
            ..Audit::default()
        }
    }

    fn pod(uid: &str, node: &str, cpu: &str) -> Vec<u8> {
        let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu, "memory": "1Mi"}}});
        let pod = json!({
            "metadata": {"name": uid, "namespace": "default", "uid": uid},
            "spec": {"nodeName": node, "containers": [container]},
            "status": {"phase": "Pending"},
        });
        pod.to_string().into_bytes()
    }

    #[test]
    fn a_sound_history_passes() {
        let mut audit = audit();
        for state in [pod("1", "", "600m"), pod("1", "a", "600m"), pod("1", "a", "600m"), pod("2", "b", "600m")] {
            audit.put(&state).unwrap();
        }
        audit.delete(&pod("1", "a", "600m"));
        audit.put(&pod("3", "a", "1")).unwrap();
        assert_eq!(audit.told(), Told { pods: 3, bound: 2 });
    }

    #[test]
    fn each_violation_is_found() {
        let mut twice = audit();
        twice.put(&pod("1", "a", "1m")).unwrap();
        assert!(twice.put(&pod("1", "b", "1m")).unwrap_err().contains("then to b"));

        let mut crowded = audit();
        crowded.put(&pod("1", "a", "600m")).unwrap();
        assert!(crowded.put(&pod("2", "a", "600m")).unwrap_err().contains("over-committed"));

        let mut many = audit();
        many.put(&pod("1", "a", "1m")).unwrap();
        many.put(&pod("2", "a", "1m")).unwrap();
        assert!(many.put(&pod("3", "a", "1m")).unwrap_err().contains("over-committed"));

        assert!(audit().put(&pod("1", "c", "1m")).unwrap_err().contains("no node"));

        let refused = String::from_utf8(pod("1", "a", "1m")).unwrap().replace("Pending", "Failed");
        assert!(audit().put(refused.as_bytes()).unwrap_err().contains("refused"));
    }
}
