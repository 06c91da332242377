//! Many workers on one cluster: nothing is over-committed, lost or placed twice.

use std::collections::HashMap;
use std::sync::Arc;

use kelson_sched::{
    Cluster, ContainerRequests, Decision, NodeId, NodeSpec, Pod, PodId, PodTemplate, Requests, Resources,
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
