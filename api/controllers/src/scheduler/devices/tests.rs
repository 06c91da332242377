//! Pods with claims for devices in the model: what is written, who is given what, what gives it back.

use kelson_sched::Waits;
use serde::Deserialize;
use tokio::time::Instant;

use super::super::configuration::ProfileSettings;
use super::super::metrics::Metrics;
use super::super::model::{Batch, DEFAULT_SCHEDULER, Next, Outcome, Sending};
use super::super::view::{NodeView, PodView};
use super::*;

fn read<T: for<'de> Deserialize<'de>>(json: &Value) -> Arc<T> {
    Arc::new(serde_json::from_str(&json.to_string()).unwrap_or_else(|error| panic!("{error}: {json}")))
}

/// A pod with the claim of this name.
fn pod(name: &str, claim: &str) -> Arc<PodView> {
    read(&json!({
        "metadata": {"name": name, "namespace": "d", "uid": name},
        "spec": {"containers": [{}], "resourceClaims": [{"name": "gpu", "resourceClaimName": claim}]},
    }))
}

fn claim(name: &str, version: u32, status: &Value) -> Arc<ResourceClaimView> {
    read(&json!({
        "metadata": {"name": name, "namespace": "d", "uid": format!("uid-{name}"), "resourceVersion": version.to_string()},
        "spec": {"devices": {
            "requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu.com", "allocationMode": "ExactCount", "count": 1,
                "tolerations": [{"key": "worn", "operator": "Exists"}],
                "selectors": [{"cel": {"expression": "device.attributes['gpu.com'].model == 'a100'"}}]}}],
            "config": [{"requests": ["gpu"], "opaque": {"driver": "gpu.com", "parameters": {"of": "claim"}}},
                {"requests": ["other"], "opaque": {"driver": "gpu.com", "parameters": {}}}],
        }},
        "status": status,
    }))
}

/// What a claim with the device of a node has, reserved for a pod.
fn given(node: &str, pod: Option<&str>) -> Value {
    let result = json!({
        "request": "gpu", "driver": "gpu.com", "pool": node, "device": "gpu-0",
        "tolerations": [{"key": "worn", "operator": "Exists"}],
    });
    let named = json!({"key": "metadata.name", "operator": "In", "values": [node]});
    let reserved_for: Vec<Value> = pod.iter().map(|pod| json!({"uid": pod})).collect();
    json!({
        "allocation": {
            "devices": {
                "results": [result],
                "config": [
                    {"source": "FromClass", "opaque": {"driver": "gpu.com", "parameters": {"of": "class"}}},
                    {"source": "FromClaim", "opaque": {"driver": "gpu.com", "parameters": {"of": "claim"}}},
                ],
            },
            "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [named]}]},
        },
        "reservedFor": reserved_for,
    })
}

struct World {
    model: Model,
}

impl World {
    /// Nodes with one device each.
    fn new(nodes: &[&str]) -> World {
        let profiles = vec![ProfileSettings::default()];
        let model = Model::new(profiles, 1, 1, Waits::default(), Metrics::new(DEFAULT_SCHEDULER));
        let mut world = World { model };
        let class = json!({"metadata": {"name": "gpu.com"}, "spec": {
            "selectors": [{"cel": {"expression": "device.driver == 'gpu.com'"}}],
            "config": [{"opaque": {"driver": "gpu.com", "parameters": {"of": "class"}}}],
        }});
        world.model.device_class_changed(&Delta { old: None, new: Some(read(&class)) }, 0);
        for name in nodes {
            let node = json!({
                "metadata": {"name": name, "uid": name},
                "status": {"allocatable": {"cpu": "8", "memory": "8Gi", "pods": "9"}},
            });
            world.model.node_changed(&Delta { old: None, new: Some(read::<NodeView>(&node)) }, 0);
            let slice = json!({"metadata": {"name": name}, "spec": {
                "driver": "gpu.com", "nodeName": name, "pool": {"name": name, "generation": 1, "resourceSliceCount": 1},
                "devices": [{"name": "gpu-0", "attributes": {"model": {"string": "a100"}}}],
            }});
            world.model.resource_slice_changed(&Delta { old: None, new: Some(read(&slice)) }, 0);
        }
        world
    }

    fn see(&mut self, pod: &Arc<PodView>, now: u64) {
        self.model.pod_changed(&Delta { old: None, new: Some(pod.clone()) }, now);
    }

    fn lose(&mut self, pod: &Arc<PodView>, now: u64) {
        self.model.pod_changed(&Delta { old: Some(pod.clone()), new: None }, now);
    }

    fn see_claim(&mut self, claim: Arc<ResourceClaimView>, now: u64) {
        self.model.resource_claim_changed(&Delta { old: None, new: Some(claim) }, now);
    }

    fn schedule(&mut self, now: u64) -> Batch {
        self.model.wake(now);
        self.model.schedule(100, now)
    }

    /// Places the one pod that waits. Returns what is to be written for it.
    fn place(&mut self, now: u64) -> (Binding, Writes, Option<DeviceHold>) {
        let binding = self.schedule(now).bindings.pop().expect("placed");
        let (writes, hold) = self.model.device_writes(&binding).expect("something to write").expect("possible");
        (binding, writes, hold)
    }

    fn told(&mut self) -> String {
        self.model.next_report().expect("told").message.to_string()
    }
}

#[test]
fn a_claim_is_given_a_device_and_nobody_else_is() {
    let mut world = World::new(&["n"]);
    world.see_claim(claim("a", 1, &json!({})), 0);
    world.see_claim(claim("b", 2, &json!({})), 0);
    world.see(&pod("first", "a"), 0);
    let (binding, writes, hold) = world.place(0);
    let (seen, wanted) = &writes.claims[0];
    assert_eq!((&*binding.node, &*writes.pod.uid, seen.meta().revision()), ("n", "first", 1));
    assert_eq!(wanted.as_ref().map(|given| &given.allocation), Some(&given("n", None)["allocation"]));
    world.see(&pod("second", "b"), 1);
    assert!(world.schedule(1).bindings.is_empty());
    assert_eq!(
        world.told(),
        "0/1 nodes are available: 1 cannot allocate all claims. still not schedulable, preemption: 0/1 nodes are \
         available: 1 Preemption is not helpful for scheduling."
    );
    // The pod goes while the API is asked: who knows what the claim has by then?
    world.lose(&pod("first", "a"), 10_000);
    assert!(world.schedule(10_000).bindings.is_empty());
    // It has been given the device: it stays so, even if the watch is late.
    world.model.claims_answered(&[claim("a", 7, &given("n", Some("first")))], 10_001);
    world.model.release_devices(hold, 10_001);
    world.see_claim(claim("a", 5, &json!({})), 10_002);
    assert!(world.schedule(30_000).bindings.is_empty());
    // Freed by the claims' controller.
    world.see_claim(claim("a", 9, &json!({})), 30_001);
    assert_eq!(world.schedule(60_000).bindings.len(), 1);
}

#[test]
fn a_write_that_was_refused_frees_the_device() {
    let mut world = World::new(&["n"]);
    world.see_claim(claim("a", 1, &json!({})), 0);
    world.see_claim(claim("b", 2, &json!({})), 0);
    world.see(&pod("first", "a"), 0);
    let (_, _, hold) = world.place(0);
    world.see(&pod("second", "b"), 1);
    assert!(world.schedule(1).bindings.is_empty());
    world.lose(&pod("first", "a"), 10_000);
    world.model.release_devices(hold, 10_001);
    assert_eq!(world.schedule(20_000).bindings.len(), 1, "it was woken");
}

#[test]
fn what_is_reserved_already_needs_no_write() {
    let mut world = World::new(&["n", "m"]);
    world.see_claim(claim("a", 1, &given("m", Some("first"))), 0);
    world.see(&pod("first", "a"), 0);
    let binding = world.schedule(0).bindings.pop().expect("placed");
    assert_eq!(&*binding.node, "m", "where the device is");
    assert!(world.model.device_writes(&binding).is_none());
    assert_eq!(world.model.reserved(&binding).len(), 1);
    // Another pod shares it.
    world.see(&pod("second", "a"), 1);
    let (_, writes, hold) = world.place(1);
    assert!(writes.claims[0].1.is_none() && hold.is_none());
    // A claim that goes is not bound.
    world.model.resource_claim_changed(&Delta { old: Some(claim("a", 1, &json!({}))), new: None }, 2);
    assert!(world.model.device_writes(&binding).expect("told").is_err());
}

#[test]
fn devices_that_nobody_uses_are_freed_for_a_pod_that_cannot_be_there() {
    let mut world = World::new(&["n"]);
    world.see_claim(claim("a", 1, &given("gone", None)), 0);
    world.see(&pod("first", "a"), 0);
    let batch = world.schedule(0);
    assert_eq!(batch.deallocations.iter().map(|claim| claim.meta().revision()).collect::<Vec<_>>(), [1]);
    assert_eq!(
        world.told(),
        "0/1 nodes are available: 1 resourceclaim not available on the node. deallocation of ResourceClaim completed, \
         preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
    world.model.claims_answered(&[claim("a", 2, &json!({}))], 1);
    assert_eq!(world.schedule(10_000).bindings.len(), 1);
    // What somebody uses stays.
    let mut world = World::new(&["n"]);
    world.see_claim(claim("a", 1, &given("gone", Some("other"))), 0);
    world.see(&pod("first", "a"), 0);
    assert!(world.schedule(0).deallocations.is_empty());
}

#[test]
fn a_refused_binding_comes_again_with_what_its_claim_has() {
    let mut world = World::new(&["n"]);
    world.see_claim(claim("a", 1, &json!({})), 0);
    world.see(&pod("first", "a"), 0);
    let (binding, _, hold) = world.place(0);
    let sending = Sending { binding, began: Instant::now(), next: Next::Bind };
    world.model.claims_answered(&[claim("a", 5, &given("n", Some("first")))], 1);
    world.model.release_devices(hold, 1);
    world.model.binding_ended(sending.binding, Outcome::Refused("no".into()), 1, 1);
    world.model.claims_answered(&[claim("a", 6, &given("n", None))], 2);
    let (_, writes, hold) = world.place(10_000);
    assert!(writes.claims[0].1.is_none() && hold.is_none(), "reserved anew, nothing else");
}

#[test]
fn another_claim_of_the_same_name_has_nothing() {
    let mut world = World::new(&["n"]);
    world.see_claim(claim("a", 1, &given("n", None)), 0);
    let other: Arc<ResourceClaimView> = read(&json!({
        "metadata": {"name": "a", "namespace": "d", "uid": "another", "resourceVersion": "9"}, "spec": {},
    }));
    let old = Some(claim("a", 1, &given("n", None)));
    world.model.resource_claim_changed(&Delta { old, new: Some(other) }, 1);
    // An answer about the one that is gone comes late.
    world.model.claims_answered(&[claim("a", 10, &given("n", None))], 2);
    world.see_claim(claim("b", 2, &json!({})), 3);
    world.see(&pod("first", "b"), 3);
    assert_eq!(world.place(3).1.claims.len(), 1);
}
