//! Pods with claims for devices at an unmodified kube-apiserver. Nobody else is there: the test is the devices' driver, and the
//! controller that frees the claims of pods that are gone.

use kelson_wire::kube::Gvr;
use serde_json::{Value, json};

use super::upstream::{REACTION, Upstream};
use crate::cluster::peer;

const CLAIMS: Gvr = Gvr {
    group: "resource.k8s.io",
    version: "v1",
    resource: "resourceclaims",
    kind: "ResourceClaim",
    namespaced: true,
};
const SLICES: Gvr = Gvr {
    group: "resource.k8s.io",
    version: "v1",
    resource: "resourceslices",
    kind: "ResourceSlice",
    namespaced: false,
};
const CLASSES: Gvr =
    Gvr { group: "resource.k8s.io", version: "v1", resource: "deviceclasses", kind: "DeviceClass", namespaced: false };

const DRIVER: &str = "gpu.example.com";

#[test]
fn devices_are_given_at_an_unmodified_kube_apiserver() {
    let Some(binary) = peer("KELSON_TEST_KUBE_APISERVER", "devices at a real kube-apiserver") else { return };
    let upstream = Upstream::start(&binary);
    upstream.nodes(2, "4");
    publish(&upstream);
    let _scheduler = upstream.scheduler();
    two_of_three(&upstream);
    shared(&upstream);
    chosen(&upstream);
}

/// Two devices on node-1, of which one is large.
fn publish(upstream: &Upstream) {
    let class = json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": DRIVER}, "spec": {
        "selectors": [{"cel": {"expression": format!("device.driver == '{DRIVER}'")}}],
        "config": [{"opaque": {"driver": DRIVER, "parameters": {"mode": "fast"}}}],
    }});
    upstream.create(&CLASSES, "", &class);
    let device = |name: &str, memory: &str| json!({"name": name, "attributes": {"model": {"string": name}}, "capacity": {"memory": {"value": memory}}});
    let slice = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "node-1-gpus"},
        "spec": {
            "driver": DRIVER, "nodeName": "node-1",
            "pool": {"name": "node-1", "generation": 1, "resourceSliceCount": 1},
            "devices": [device("gpu-0", "16Gi"), device("gpu-1", "80Gi")],
        },
    });
    upstream.create(&SLICES, "", &slice);
}

fn claim(upstream: &Upstream, name: &str, more: &[(&str, Value)]) {
    let mut exactly = json!({"deviceClassName": DRIVER});
    more.iter().for_each(|(field, value)| exactly[field] = value.clone());
    request(upstream, name, json!({"name": "gpu", "exactly": exactly}));
}

fn request(upstream: &Upstream, name: &str, request: Value) {
    let claim = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": name},
        "spec": {"devices": {"requests": [request]}}});
    upstream.create(&CLAIMS, "default", &claim);
}

fn pod(upstream: &Upstream, name: &str, claim: &str) {
    upstream.pod(name, json!({}), json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": claim}]}));
}

fn status(upstream: &Upstream, claim: &str) -> Value {
    upstream.get(&CLAIMS, "default", claim).expect("the claim")["status"].clone()
}

fn device_of(upstream: &Upstream, claim: &str) -> String {
    let status = status(upstream, claim);
    let device = status["allocation"]["devices"]["results"][0]["device"].as_str();
    device.unwrap_or_else(|| panic!("{claim} has {status}")).to_string()
}

/// What the claims' controller does when a pod is gone.
fn free(upstream: &Upstream, claim: &str) {
    let nothing = json!({"status": {"allocation": null, "reservedFor": null}});
    upstream.patch(&CLAIMS, "default", claim, "status", &nothing);
}

fn two_of_three(upstream: &Upstream) {
    for name in ["one", "two", "three"] {
        claim(upstream, name, &[]);
    }
    for name in ["one", "two"] {
        pod(upstream, name, name);
        assert_eq!(upstream.node_of(name), "node-1");
    }
    let mut devices = [device_of(upstream, "one"), device_of(upstream, "two")];
    devices.sort();
    assert_eq!(devices, ["gpu-0", "gpu-1"]);
    let claim = upstream.get(&CLAIMS, "default", "one").expect("the claim");
    assert_eq!(claim["metadata"]["finalizers"], json!(["resource.kubernetes.io/delete-protection"]));
    let pod_uid = upstream.get(&Gvr::PODS, "default", "one").expect("the pod")["metadata"]["uid"].clone();
    assert_eq!(claim["status"]["reservedFor"], json!([{"resource": "pods", "name": "one", "uid": pod_uid}]));
    let allocation = &claim["status"]["allocation"];
    let fields = &allocation["nodeSelector"]["nodeSelectorTerms"][0]["matchFields"];
    assert_eq!(fields, &json!([{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]));
    assert_eq!(allocation["devices"]["config"][0]["opaque"]["parameters"], json!({"mode": "fast"}));
    pod(upstream, "three", "three");
    upstream.told(
        "three",
        "Unschedulable",
        "0/2 nodes are available: 2 cannot allocate all claims. still not schedulable, preemption: 0/2 nodes are \
         available: 2 Preemption is not helpful for scheduling.",
    );
    pod(upstream, "four", "nobodys");
    let missing = "0/2 nodes are available: could not find ResourceClaim \"default/nobodys\".";
    upstream.told("four", "Unschedulable", missing);
    upstream.delete(&Gvr::PODS, "default", "four");
    // The pod's going alone frees nothing: its claim still has the device.
    let device = device_of(upstream, "one");
    upstream.delete(&Gvr::PODS, "default", "one");
    free(upstream, "one");
    assert_eq!(upstream.node_of("three"), "node-1");
    assert_eq!(device_of(upstream, "three"), device);
}

/// Pods that name one claim share its device.
fn shared(upstream: &Upstream) {
    pod(upstream, "guest", "three");
    assert_eq!(upstream.node_of("guest"), "node-1");
    upstream.until("both are reserved for", REACTION, || {
        let status = status(upstream, "three");
        let consumers = status["reservedFor"].as_array().map_or(0, Vec::len);
        if consumers == 2 { Ok(()) } else { Err(status.to_string()) }
    });
    for name in ["two", "three", "guest"] {
        upstream.delete(&Gvr::PODS, "default", name);
    }
    free(upstream, "two");
    free(upstream, "three");
}

/// Selectors and lists of choices decide which device it is.
fn chosen(upstream: &Upstream) {
    let large = format!("device.capacity['{DRIVER}'].memory.compareTo(quantity('64Gi')) >= 0");
    claim(upstream, "large", &[("selectors", json!([{"cel": {"expression": large}}]))]);
    pod(upstream, "large", "large");
    assert_eq!(upstream.node_of("large"), "node-1");
    assert_eq!(device_of(upstream, "large"), "gpu-1");
    let pair = json!({"name": "pair", "deviceClassName": DRIVER, "count": 2});
    let single = json!({"name": "single", "deviceClassName": DRIVER});
    request(upstream, "either", json!({"name": "gpu", "firstAvailable": [pair, single]}));
    pod(upstream, "either", "either");
    assert_eq!(upstream.node_of("either"), "node-1");
    let results = status(upstream, "either")["allocation"]["devices"]["results"].clone();
    assert_eq!((&results[0]["request"], &results[0]["device"]), (&json!("gpu/single"), &json!("gpu-0")));
    // A claim that was given a device for a node where its pod cannot be any more is freed.
    free(upstream, "large");
    upstream.delete(&Gvr::PODS, "default", "large");
    let elsewhere = json!({"status": {"allocation": {
        "devices": {"results": [{"request": "gpu", "driver": DRIVER, "pool": "node-1", "device": "gpu-1"}]},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": ["node-9"]}]}]},
    }}});
    upstream.patch(&CLAIMS, "default", "large", "status", &elsewhere);
    pod(upstream, "again", "large");
    assert_eq!(upstream.node_of("again"), "node-1");
}
