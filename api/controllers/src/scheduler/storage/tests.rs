//! Pods with claims in the model: what is written, what is waited for, what gives the place back.

use kelson_sched::Waits;
use serde::Deserialize;
use tokio::time::Instant;

use super::super::configuration::ProfileSettings;
use super::super::metrics::Metrics;
use super::super::model::{DEFAULT_SCHEDULER, Next, Outcome};
use super::super::view::{NodeView, PodView};
use super::*;

fn read<T: for<'de> Deserialize<'de>>(json: &str) -> Arc<T> {
    Arc::new(serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}")))
}

/// A pod of one CPU with the claim `data`; `rest` closes the spec.
fn pod(uid: &str, rest: &str) -> Arc<PodView> {
    read(&format!(
        r#"{{"metadata":{{"name":"{uid}","namespace":"d","uid":"{uid}"}},"spec":{{
            "containers":[{{"resources":{{"requests":{{"cpu":"1"}}}}}}],
            "volumes":[{{"name":"v","persistentVolumeClaim":{{"claimName":"data"}}}}]{rest}}}"#
    ))
}

/// The claim `data` of class `slow`, which waits for its first pod.
fn claim(version: u32, annotations: &str, volume: &str) -> Arc<ClaimView> {
    read(&format!(
        r#"{{"metadata":{{"name":"data","namespace":"d","uid":"c","resourceVersion":"{version}","annotations":{annotations}}},
            "spec":{{"storageClassName":"slow","volumeName":"{volume}","accessModes":["ReadWriteOnce"],
              "resources":{{"requests":{{"storage":"1Gi"}}}}}}}}"#
    ))
}

/// A volume that node `n` reaches.
fn volume(version: u32, reference: &str) -> Arc<VolumeView> {
    read(&format!(
        r#"{{"metadata":{{"name":"pv","uid":"v","resourceVersion":"{version}"}},
            "spec":{{"storageClassName":"slow","capacity":{{"storage":"2Gi"}},"accessModes":["ReadWriteOnce"],
              "claimRef":{reference},
              "nodeAffinity":{{"required":{{"nodeSelectorTerms":[{{"matchExpressions":[
                {{"key":"host","operator":"In","values":["n"]}}]}}]}}}}}},
            "status":{{"phase":"Available"}}}}"#
    ))
}

const OURS: &str = r#"{"namespace":"d","name":"data","uid":"c"}"#;
const BOUND: &str = r#"{"pv.kubernetes.io/bind-completed":"yes"}"#;
const SELECTED: &str = r#"{"volume.kubernetes.io/selected-node":"n"}"#;
const SELECTED_AND_BOUND: &str =
    r#"{"volume.kubernetes.io/selected-node":"n","pv.kubernetes.io/bind-completed":"yes"}"#;

struct World {
    model: Model,
}

impl World {
    /// Nodes of one CPU, and the class `slow` with this provisioner.
    fn new(nodes: &[&str], provisioner: &str) -> World {
        let profiles = vec![ProfileSettings::default()];
        let model = Model::new(profiles, 1, 1, Waits::default(), Metrics::new(DEFAULT_SCHEDULER));
        let mut world = World { model };
        nodes.iter().for_each(|name| world.node(name, name));
        let class = format!(
            r#"{{"metadata":{{"name":"slow"}},"provisioner":"{provisioner}","volumeBindingMode":"WaitForFirstConsumer"}}"#
        );
        world.model.class_changed(&Delta { old: None, new: Some(read(&class)) }, 0);
        world
    }

    fn node(&mut self, name: &str, host: &str) {
        let json = format!(
            r#"{{"metadata":{{"name":"{name}","uid":"{name}","labels":{{"host":"{host}"}}}},
                "status":{{"allocatable":{{"cpu":"1","memory":"1Gi","pods":"9"}}}}}}"#
        );
        self.model.node_changed(&Delta { old: None, new: Some(read::<NodeView>(&json)) }, 0);
    }

    fn see(&mut self, pod: &Arc<PodView>, now: u64) {
        self.model.pod_changed(&Delta { old: None, new: Some(pod.clone()) }, now);
    }

    fn see_claim(&mut self, claim: Arc<ClaimView>, now: u64) {
        self.model.claim_changed(&Delta { old: None, new: Some(claim) }, now);
    }

    fn see_volume(&mut self, volume: Arc<VolumeView>, now: u64) {
        self.model.volume_changed(&Delta { old: None, new: Some(volume) }, now);
    }

    /// Places what waits; each with what is to be written first.
    fn schedule(&mut self, now: u64) -> Vec<(Sending, Option<Result<Writes, String>>)> {
        self.model.wake(now);
        let bindings = self.model.schedule(100, now).bindings;
        let sending = |binding| Sending { binding, began: Instant::now(), next: Next::Volumes };
        let with_writes = |one: Sending| {
            let writes = self.model.volume_writes(&one.binding);
            (one, writes)
        };
        bindings.into_iter().map(sending).map(with_writes).collect()
    }

    /// Places the one pod that waits, and writes for it: the API's answers have version 50.
    fn write(&mut self, now: u64) {
        let mut placed = self.schedule(now);
        assert_eq!(placed.len(), 1);
        let (sending, writes) = placed.remove(0);
        let writes = writes.expect("something to write").expect("it can be written");
        let name = |claim: &Arc<ClaimView>| claim.meta().name.clone();
        let written = Written {
            volumes: writes.volumes.iter().map(|(pv, claim)| (pv.meta().name.clone(), 50, name(claim))).collect(),
            claims: writes.claims.iter().map(|claim| (name(claim), 50)).collect(),
        };
        self.model.await_volumes(sending, written, now);
    }

    fn settled(&mut self, now: u64) -> Vec<Result<String, String>> {
        let settled = self.model.settled(now);
        settled.into_iter().map(|(sending, outcome)| outcome.map(|()| sending.binding.node.to_string())).collect()
    }
}

#[test]
fn a_claim_is_waited_for_and_nothing_else_takes_the_place() {
    let mut world = World::new(&["n", "m"], "kubernetes.io/no-provisioner");
    world.see_claim(claim(1, "{}", ""), 0);
    world.see(&pod("a", "}"), 0);
    assert!(world.schedule(0).is_empty());
    let told = world.model.next_report().expect("told");
    assert_eq!(
        &*told.message,
        "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind. preemption: 0/2 nodes are \
         available: 2 Preemption is not helpful for scheduling."
    );
    // The volume helps, on the node that reaches it.
    world.see_volume(volume(2, "null"), 2_000);
    world.write(2_000);
    assert_eq!(world.settled(2_000), [], "the volume as it was");
    world.see_volume(volume(50, OURS), 2_001);
    assert_eq!(world.settled(2_001), [], "the claim is not bound");
    world.see(&pod("b", r#","nodeSelector":{"host":"n"}}"#), 2_002);
    assert!(world.schedule(2_002).is_empty(), "the place is kept");
    world.see_claim(claim(51, BOUND, "pv"), 2_003);
    assert_eq!(world.settled(2_003), [Ok("n".to_string())]);
    assert_eq!(world.settled(900_000), [], "it settled once");
}

#[test]
fn a_volume_is_made_where_the_pod_goes() {
    let mut world = World::new(&["n"], "d.example.com");
    world.see(&pod("a", "}"), 0);
    assert!(world.schedule(0).is_empty());
    assert!(world.model.next_report().expect("told").message.contains("persistentvolumeclaim \"data\" not found"));
    world.see_claim(claim(1, "{}", ""), 2_000);
    world.write(2_000);
    world.see_claim(claim(50, SELECTED, ""), 2_001);
    assert_eq!(world.settled(2_001), []);
    // The claim may be seen bound before its volume is seen.
    world.see_claim(claim(51, SELECTED_AND_BOUND, "pv"), 2_002);
    assert_eq!(world.settled(2_002), []);
    world.see_volume(volume(52, OURS), 2_003);
    assert_eq!(world.settled(2_003), [Ok("n".to_string())]);
}

#[test]
fn what_cannot_be_bound_any_more_says_why_and_comes_again() {
    type Happens = fn(&mut World);
    let cases: [(&str, &str, Happens); 8] = [
        ("no-provisioner", "ClaimRef got reset for pv \"pv\"", |world| world.see_volume(volume(60, "null"), 1)),
        ("no-provisioner", "failed to check binding: persistentvolumes \"pv\" not found", |world| {
            world.model.volume_changed(&Delta { old: Some(volume(50, OURS)), new: None }, 1)
        }),
        ("no-provisioner", "failed to check binding: persistentvolumeclaims \"d/data\" not found", |world| {
            world.model.claim_changed(&Delta { old: Some(claim(1, "{}", "")), new: None }, 1)
        }),
        ("made", "selectedNode annotation reset for PVC \"data\"", |world| world.see_claim(claim(60, "{}", ""), 1)),
        ("made", "provisioning failed for PVC \"data\"", |world| {
            world.see_claim(claim(60, r#"{"volume.kubernetes.io/selected-node":"other"}"#, ""), 1);
        }),
        ("made", "pv \"pv\" node affinity doesn't match node \"n\": no matching NodeSelectorTerms", |world| {
            world.node("n", "moved");
            world.see_volume(volume(52, OURS), 1);
            world.see_claim(claim(60, SELECTED_AND_BOUND, "pv"), 1);
        }),
        ("made", "failed to get node \"n\": node \"n\" not found", |world| {
            let json = r#"{"metadata":{"name":"n","uid":"n"}}"#;
            world.model.node_changed(&Delta { old: Some(read::<NodeView>(json)), new: None }, 1);
        }),
        ("made", "context deadline exceeded", |_| {}),
    ];
    for (kind, why, happens) in cases {
        let provisioner = if kind == "made" { "d.example.com" } else { "kubernetes.io/no-provisioner" };
        let mut world = World::new(&["n"], provisioner);
        world.see_claim(claim(1, "{}", ""), 0);
        if kind != "made" {
            world.see_volume(volume(2, "null"), 0);
        }
        world.see(&pod("a", "}"), 0);
        world.write(0);
        assert_eq!(world.settled(0), [], "{why}");
        happens(&mut world);
        let now = world.model.next_wake().filter(|_| why.contains("deadline")).unwrap_or(1);
        assert_eq!(now, if why.contains("deadline") { 600_000 } else { 1 });
        let mut settled = world.model.settled(now);
        let (sending, outcome) = settled.pop().unwrap_or_else(|| panic!("{why}"));
        let want = format!("binding volumes: {why}");
        assert_eq!(outcome, Err(want.clone()));
        world.model.binding_ended(sending.binding, Outcome::Refused(want), now, now);
        assert_eq!(world.model.cluster.pods(), 0, "{why}: the place is free");
        assert!(world.model.cluster.promises_nothing(), "{why}: and nothing is promised");
        let [active, backoff, unschedulable] = world.model.queue.depths();
        assert_eq!((active + backoff, unschedulable), (1, 0), "{why}: it comes again without an event");
    }
}

#[test]
fn a_pod_that_goes_while_its_claims_are_bound_leaves_nothing() {
    let mut world = World::new(&["n"], "d.example.com");
    world.see_claim(claim(1, "{}", ""), 0);
    world.see(&pod("a", "}"), 0);
    world.write(0);
    world.model.pod_changed(&Delta { old: Some(pod("a", "}")), new: None }, 1);
    assert_eq!((world.settled(700_000), world.model.storage.next_deadline()), (vec![], None));
    assert!(world.model.storage.by_claim.is_empty() && world.model.cluster.promises_nothing());
    // The next pod with that claim goes on from what was written.
    world.see_claim(claim(50, SELECTED, ""), 700_000);
    world.see(&pod("b", "}"), 700_000);
    world.write(700_000);
    world.see_volume(volume(52, OURS), 700_001);
    world.see_claim(claim(53, SELECTED_AND_BOUND, "pv"), 700_001);
    assert_eq!(world.settled(700_001), [Ok("n".to_string())]);
}

#[test]
fn a_pod_whose_claims_are_bound_needs_nothing() {
    let mut world = World::new(&["n", "m"], "d.example.com");
    world.see_volume(volume(1, OURS), 0);
    world.see_claim(claim(2, BOUND, "pv"), 0);
    world.see(&pod("a", "}"), 0);
    let placed = world.schedule(0);
    assert_eq!((placed.len(), &*placed[0].0.binding.node), (1, "n"), "where its volume can be reached");
    assert!(placed[0].1.is_none());
}

#[test]
fn limits_of_volumes_are_respected() {
    let mut world = World::new(&["n"], "d.example.com");
    let limits = r#"{"metadata":{"name":"n"},"spec":{"drivers":[{"name":"d.example.com","allocatable":{"count":0}}]}}"#;
    world.model.limits_changed(&Delta { old: None, new: Some(read(limits)) }, 0);
    world.see_claim(claim(1, "{}", ""), 0);
    world.see(&pod("a", "}"), 0);
    assert!(world.schedule(0).is_empty());
    let told = world.model.next_report().expect("told").message.to_string();
    assert!(told.starts_with("0/1 nodes are available: 1 node(s) exceed max volume count."), "{told}");
    let more = limits.replace("\"count\":0", "\"count\":1");
    world.model.limits_changed(&Delta { old: Some(read(limits)), new: Some(read(&more)) }, 2_000);
    world.write(2_000);
}
