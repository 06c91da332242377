//! Many workers on one cluster: nothing is over-committed, lost or placed twice.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kelson_sched::{
    Amount, ClaimUse, Cluster, ContainerRequests, Decision, Device, DeviceChoice, DeviceClass, DeviceHold,
    DeviceRequest, NodeId, NodeSpec, Pod, PodId, PodTemplate, Reach, Requests, ResourceClaim, ResourceSlice, Resources,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const WORKERS: usize = 4;

fn template(milli_cpu: i64, memory: i64) -> Arc<PodTemplate> {
    let container =
        ContainerRequests { milli_cpu: Some(milli_cpu), memory: Some(memory), ..ContainerRequests::default() };
    Arc::new(PodTemplate { requests: Requests::of_pod(&[container], &[], None, None), ..PodTemplate::default() })
}

fn node(name: String, milli_cpu: i64, memory: i64, pods: i64) -> NodeSpec {
    let allocatable = Resources { milli_cpu, memory, ..Resources::default() };
    NodeSpec { name: name.into(), allocatable, pods, ..NodeSpec::default() }
}

/// What the decisions say is what the nodes hold, and no more than they have.
fn check(cluster: &Cluster, nodes: &[NodeId], held: &HashMap<NodeId, (i64, i64, i64)>) {
    for node in nodes {
        let usage = cluster.usage(*node);
        let (pods, milli_cpu, memory) = held.get(node).copied().unwrap_or_default();
        assert_eq!((usage.pods, usage.requested.milli_cpu, usage.requested.memory), (pods, milli_cpu, memory));
        assert!(usage.pods <= usage.allocatable_pods);
        assert!(usage.requested.milli_cpu <= usage.allocatable.milli_cpu);
        assert!(usage.requested.memory <= usage.allocatable.memory);
    }
}

#[test]
fn workers_together_fill_the_cluster_and_no_more() {
    let mut rng = StdRng::seed_from_u64(7);
    let mut cluster = Cluster::new(WORKERS, 1);
    // Small enough that the workers fight for the last places of every node.
    for at in 0..300 {
        cluster.upsert_node(&node(
            format!("node-{at}"),
            rng.random_range(1000..4000),
            rng.random_range(1000..4000),
            12,
        ));
    }
    let nodes: Vec<NodeId> = (0..300).filter_map(|at| cluster.node(&format!("node-{at}"))).collect();
    let sizes: Vec<(i64, i64)> = (0..8).map(|_| (rng.random_range(100..900), rng.random_range(100..900))).collect();
    let classes: Vec<_> = sizes.iter().map(|(cpu, memory)| cluster.class(&template(*cpu, *memory))).collect();
    let mut held: HashMap<NodeId, (i64, i64, i64)> = HashMap::new();
    let mut live: Vec<(PodId, usize, NodeId)> = Vec::new();
    let mut next = 0;
    for _round in 0..30 {
        let batch: Vec<(usize, Pod)> = (0..5000)
            .map(|_| {
                next += 1;
                let size = rng.random_range(0..sizes.len());
                (size, Pod { id: PodId(next), class: classes[size].clone(), priority: 0 })
            })
            .collect();
        let pods: Vec<Pod> = batch.iter().map(|(_, pod)| pod.clone()).collect();
        let mut pending = 0;
        for ((size, pod), decision) in batch.iter().zip(cluster.schedule(&pods)) {
            match decision {
                Decision::Bound(node) => {
                    let sums = held.entry(node).or_default();
                    *sums = (sums.0 + 1, sums.1 + sizes[*size].0, sums.2 + sizes[*size].1);
                    live.push((pod.id, *size, node));
                }
                Decision::Unschedulable(_) => {
                    pending += 1;
                    if pending > 20 {
                        continue;
                    }
                    // Infeasible at the end of the batch, on every node, by what the nodes really hold.
                    for node in &nodes {
                        let usage = cluster.usage(*node);
                        let fits = usage.pods < usage.allocatable_pods
                            && sizes[*size].0 <= usage.allocatable.milli_cpu - usage.requested.milli_cpu
                            && sizes[*size].1 <= usage.allocatable.memory - usage.requested.memory;
                        assert!(!fits, "left pending beside a node with room");
                    }
                }
            }
        }
        assert!(pending > 0, "the batch is larger than the cluster");
        check(&cluster, &nodes, &held);
        assert_eq!(cluster.pods(), live.len());
        // A third of them goes, anywhere.
        for at in (0..live.len()).rev().filter(|at| at % 3 == 0) {
            let (id, size, node) = live.swap_remove(at);
            assert_eq!(cluster.remove_pod(id), Some(node));
            let sums = held.entry(node).or_default();
            *sums = (sums.0 - 1, sums.1 - sizes[size].0, sums.2 - sizes[size].1);
        }
        check(&cluster, &nodes, &held);
    }
}

/// Pool and name of a device.
type Key = (Arc<str>, Arc<str>);

/// A node with four devices of its own.
fn publish(cluster: &mut Cluster, name: &Arc<str>) {
    let device = |at| Device { name: format!("gpu-{at}").into(), ..Device::default() };
    let slice = ResourceSlice {
        driver: "gpu.com".into(),
        pool: name.clone(),
        generation: 1,
        slices: 1,
        reach: Reach::Node(name.clone()),
        devices: (0..4).map(device).collect(),
        counters: Vec::new(),
    };
    cluster.set_resource_slice(name, Some(slice));
}

fn claim(count: usize) -> ResourceClaim {
    let choice = DeviceChoice {
        name: "".into(),
        class: "gpu".into(),
        selectors: Vec::new(),
        amount: Amount::Exactly(count),
        admin: false,
        tolerations: Vec::new(),
    };
    let request = DeviceRequest { name: "gpu".into(), choices: vec![choice] };
    ResourceClaim { requests: vec![request], ..ResourceClaim::default() }
}

#[test]
fn a_device_is_never_given_twice() {
    let mut rng = StdRng::seed_from_u64(11);
    let mut cluster = Cluster::new(WORKERS, 1);
    cluster.set_device_class(&"gpu".into(), Some(DeviceClass::default()));
    let names: Vec<Arc<str>> = (0..50).map(|at| format!("node-{at}").into()).collect();
    for name in &names {
        cluster.upsert_node(&node(name.to_string(), 1_000_000, 1_000_000, 10_000));
        publish(&mut cluster, name);
    }
    let plain = cluster.class(&template(1, 1));
    let namespace: Arc<str> = "".into();
    let mut live: Vec<(PodId, Vec<Key>)> = Vec::new();
    let mut taken: HashSet<Key> = HashSet::new();
    let mut holds: Vec<(DeviceHold, Vec<Key>)> = Vec::new();
    let mut next = 0;
    for round in 0..20 {
        // Enough of both kinds that the workers would place them together if they might.
        let pods: Vec<Pod> = (0..4500)
            .map(|at| {
                next += 1;
                let id = PodId(next);
                if at % 10 > 0 {
                    return Pod { id, class: plain.clone(), priority: 0 };
                }
                let name: Arc<str> = format!("claim-{next}").into();
                cluster.set_resource_claim(&namespace, &name, Some(claim(rng.random_range(1..4))));
                let template = PodTemplate { claims: vec![ClaimUse::Named(name)], ..(*template(1, 1)).clone() };
                Pod { id, class: cluster.class(&Arc::new(template)), priority: 0 }
            })
            .collect();
        let decisions = cluster.schedule(&pods);
        for (pod, decision) in pods.iter().zip(decisions) {
            let Decision::Bound(node) = decision else { continue };
            let Some(plan) = cluster.device_plan(pod.id).filter(|plan| !plan.is_empty()) else {
                cluster.remove_pod(pod.id);
                continue;
            };
            let mut devices = Vec::new();
            for one in plan.iter().flat_map(|(_, allocation)| &allocation.devices) {
                assert_eq!(one.pool, *cluster.node_name(node), "of the node that was chosen");
                let device = (one.pool.clone(), one.device.clone());
                assert!(taken.insert(device.clone()), "{device:?} is given twice");
                devices.push(device);
            }
            live.push((pod.id, devices));
        }
        assert!(round > 0 || taken.len() > 190, "{} devices of 200 are given", taken.len());
        // Those who write about the devices of pods that are gone keep them from others.
        for (hold, devices) in std::mem::take(&mut holds) {
            cluster.release_devices(hold);
            devices.iter().for_each(|device| assert!(taken.remove(device)));
        }
        for at in (0..live.len()).rev().filter(|at| at % 3 == 0) {
            let (id, devices) = live.swap_remove(at);
            let hold = rng.random_bool(0.5).then(|| cluster.hold_devices(id)).flatten();
            cluster.remove_pod(id);
            match hold {
                Some(hold) => holds.push((hold, devices)),
                None => devices.iter().for_each(|device| assert!(taken.remove(device))),
            }
        }
    }
    for (hold, _) in holds {
        cluster.release_devices(hold);
    }
    for (id, _) in live {
        cluster.remove_pod(id);
    }
    assert!(cluster.promises_nothing());
}

#[test]
fn a_pod_that_is_in_a_batch_twice_is_placed_once() {
    for workers in [1, WORKERS] {
        let mut cluster = Cluster::new(workers, 1);
        cluster.upsert_node(&node("n".into(), 1_000_000, 1_000_000, 100_000));
        let class = cluster.class(&template(1, 1));
        let pods: Vec<Pod> = (0..5000).map(|at| Pod { id: PodId(at / 2), class: class.clone(), priority: 0 }).collect();
        assert!(cluster.schedule(&pods).iter().all(|decision| matches!(decision, Decision::Bound(_))));
        let id = cluster.node("n").expect("present");
        assert_eq!((cluster.pods(), cluster.usage(id).pods), (2500, 2500));
        cluster.schedule(&pods);
        assert_eq!(cluster.usage(id).pods, 2500, "a placed pod keeps its place");
    }
}

#[test]
fn one_daemon_pod_per_node_does_not_look_at_all_nodes() {
    let mut cluster = Cluster::default();
    for at in 0..2000 {
        cluster.upsert_node(&node(format!("node-{at}"), 1000, 1000, 10));
    }
    let pods: Vec<Pod> = (0..2000)
        .map(|at| {
            let name = kelson_sched::Requirement {
                key: "metadata.name".into(),
                operator: kelson_sched::Operator::In,
                values: vec![format!("node-{at}").into()],
            };
            let term = kelson_sched::NodeSelectorTerm { expressions: vec![], fields: vec![name] };
            let template = PodTemplate { required: Some(vec![term]), ..(*template(100, 100)).clone() };
            Pod { id: PodId(at), class: cluster.class(&Arc::new(template)), priority: 0 }
        })
        .collect();
    for (at, decision) in cluster.schedule(&pods).into_iter().enumerate() {
        match decision {
            Decision::Bound(node) => assert_eq!(**cluster.node_name(node), *format!("node-{at}")),
            Decision::Unschedulable(why) => panic!("{why}"),
        }
    }
}
