//! Pods with claims at a kube-apiserver. Nobody else is there: the test is the volume controller and the provisioner.

use kelson_wire::kube::Gvr;
use serde_json::{Value, json};

use super::upstream::{REACTION, Upstream, on};
use crate::program::Program;

const CLAIMS: Gvr = Gvr {
    group: "",
    version: "v1",
    resource: "persistentvolumeclaims",
    kind: "PersistentVolumeClaim",
    namespaced: true,
};
const VOLUMES: Gvr =
    Gvr { group: "", version: "v1", resource: "persistentvolumes", kind: "PersistentVolume", namespaced: false };
const CLASSES: Gvr =
    Gvr { group: "storage.k8s.io", version: "v1", resource: "storageclasses", kind: "StorageClass", namespaced: false };
const CSI_NODES: Gvr =
    Gvr { group: "storage.k8s.io", version: "v1", resource: "csinodes", kind: "CSINode", namespaced: false };

const DRIVER: &str = "disks.example.com";
const SELECTED: &str = "volume.kubernetes.io/selected-node";

/// Volumes in every way in which the scheduler has a part.
pub fn volumes(upstream: &Upstream, scheduler: Program) {
    for (name, provisioner) in [("by-hand", "kubernetes.io/no-provisioner"), ("made", DRIVER)] {
        upstream.create(
            &CLASSES,
            "",
            &json!({
                "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
                "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer",
            }),
        );
    }
    by_hand(upstream);
    made_on_demand(upstream);
    failed_and_made_again(upstream);
    limited(upstream);
    finished_by_another(upstream, scheduler);
}

fn claim(upstream: &Upstream, name: &str, class: &str) {
    upstream.create(
        &CLAIMS,
        "default",
        &json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
            "spec": {
                "storageClassName": class, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
            },
        }),
    );
}

/// A volume that one node reaches, for a claim or for whoever wants it.
fn volume(upstream: &Upstream, name: &str, class: &str, node: &str, claim: &Value) {
    let here = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [node]});
    let reference = match claim {
        Value::Null => Value::Null,
        claim => json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "default",
            "name": claim["metadata"]["name"], "uid": claim["metadata"]["uid"],
        }),
    };
    upstream.create(
        &VOLUMES,
        "",
        &json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
            "spec": {
                "storageClassName": class, "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
                "csi": {"driver": DRIVER, "volumeHandle": name}, "claimRef": reference,
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
            },
        }),
    );
    upstream.patch(&VOLUMES, "", name, "status", &json!({"status": {"phase": "Available"}}));
}

/// What the volume controller does once a volume names its claim.
fn complete(upstream: &Upstream, claim: &str, volume: &str) {
    let done = json!({
        "metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": volume},
    });
    upstream.patch(&CLAIMS, "default", claim, "", &done);
}

fn pod(upstream: &Upstream, name: &str, claim: &str, mut spec: Value) {
    spec["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]);
    upstream.pod(name, json!({}), spec);
}

fn is_bound(upstream: &Upstream, pod: &str) -> bool {
    upstream.get(&Gvr::PODS, "default", pod).expect("it is there")["spec"]["nodeName"].is_string()
}

/// Waits until the scheduler has chosen a node for a claim.
fn selected(upstream: &Upstream, claim: &str) -> (Value, String) {
    upstream.until(&format!("a node is chosen for {claim}"), REACTION, || {
        let claim = upstream.get(&CLAIMS, "default", claim)?;
        let node = claim["metadata"]["annotations"][SELECTED].as_str().map(String::from);
        node.map(|node| (claim.clone(), node)).ok_or_else(|| claim["metadata"].to_string())
    })
}

fn by_hand(upstream: &Upstream) {
    pod(upstream, "by-hand", "data", json!({}));
    upstream.told("by-hand", "Unschedulable", "0/200 nodes are available: persistentvolumeclaim \"data\" not found.");
    claim(upstream, "data", "by-hand");
    upstream.told(
        "by-hand",
        "Unschedulable",
        "0/200 nodes are available: 200 node(s) didn't find available persistent volumes to bind.",
    );
    volume(upstream, "data-on-9", "by-hand", "node-9", &Value::Null);
    let claimed = upstream.get(&CLAIMS, "default", "data").expect("it is there");
    let chosen = upstream.until("the volume is chosen", REACTION, || {
        let volume = upstream.get(&VOLUMES, "", "data-on-9")?;
        if volume["spec"]["claimRef"].is_null() { Err(volume["spec"].to_string()) } else { Ok(volume) }
    });
    assert_eq!(chosen["spec"]["claimRef"]["uid"], claimed["metadata"]["uid"]);
    assert_eq!(chosen["metadata"]["annotations"]["pv.kubernetes.io/bound-by-controller"], "yes");
    assert!(!is_bound(upstream, "by-hand"), "its claim is not");
    complete(upstream, "data", "data-on-9");
    assert_eq!(upstream.node_of("by-hand"), "node-9");
}

fn made_on_demand(upstream: &Upstream) {
    claim(upstream, "fresh", "made");
    pod(upstream, "fresh", "fresh", on("node-10"));
    let (claim, node) = selected(upstream, "fresh");
    assert_eq!((&*node, is_bound(upstream, "fresh")), ("node-10", false));
    volume(upstream, "fresh-on-10", "made", "node-10", &claim);
    complete(upstream, "fresh", "fresh-on-10");
    assert_eq!(upstream.node_of("fresh"), "node-10");
}

fn failed_and_made_again(upstream: &Upstream) {
    claim(upstream, "unlucky", "made");
    pod(upstream, "unlucky", "unlucky", json!({}));
    selected(upstream, "unlucky");
    // No room there, says the provisioner.
    let reset = json!({"metadata": {"annotations": {SELECTED: null}}});
    upstream.patch(&CLAIMS, "default", "unlucky", "", &reset);
    upstream.told(
        "unlucky",
        "SchedulerError",
        "running PreBind plugin \"VolumeBinding\": binding volumes: selectedNode annotation reset for PVC \"unlucky\"",
    );
    let (claim, node) = selected(upstream, "unlucky");
    volume(upstream, "unlucky-made", "made", &node, &claim);
    complete(upstream, "unlucky", "unlucky-made");
    assert_eq!(upstream.node_of("unlucky"), node);
}

fn limited(upstream: &Upstream) {
    let node = upstream.get(&Gvr::NODES, "", "node-11").expect("it is there");
    upstream.create(
        &CSI_NODES,
        "",
        &json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "CSINode",
            "metadata": {"name": "node-11", "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": "node-11", "uid": node["metadata"]["uid"]}]},
            "spec": {"drivers": [{"name": DRIVER, "nodeID": "node-11", "allocatable": {"count": 1}}]},
        }),
    );
    for name in ["one", "two"] {
        claim(upstream, name, "made");
        let claimed = upstream.get(&CLAIMS, "default", name).expect("it is there");
        volume(upstream, &format!("{name}-on-11"), "made", "node-11", &claimed);
        complete(upstream, name, &format!("{name}-on-11"));
    }
    pod(upstream, "one", "one", json!({}));
    assert_eq!(upstream.node_of("one"), "node-11");
    pod(upstream, "two", "two", json!({}));
    upstream.told(
        "two",
        "Unschedulable",
        "0/200 nodes are available: 1 node(s) exceed max volume count, 199 node(s) didn't match PersistentVolume's node \
         affinity.",
    );
    upstream.delete(&Gvr::PODS, "default", "one");
    assert_eq!(upstream.node_of("two"), "node-11");
}

/// The scheduler dies between what it wrote about the claim and the pod's binding.
fn finished_by_another(upstream: &Upstream, scheduler: Program) {
    claim(upstream, "orphan", "made");
    pod(upstream, "orphan", "orphan", json!({}));
    let (claim, node) = selected(upstream, "orphan");
    scheduler.kill();
    let _another = upstream.scheduler();
    volume(upstream, "orphan-made", "made", &node, &claim);
    complete(upstream, "orphan", "orphan-made");
    assert_eq!(upstream.node_of("orphan"), node);
}
