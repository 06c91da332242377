//! The scheduler core: batches of one class, of many classes, and single pods.

use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kelson_sched::{Class, Cluster, ContainerRequests, NodeSpec, Pod, PodId, PodTemplate, Requests, Resources};

const GIB: i64 = 1 << 30;
const MIB: i64 = 1 << 20;

/// kube-scheduler's own benchmark cluster: 4 CPUs, 32 GiB, 110 pods.
fn cluster(nodes: usize) -> Cluster {
    let mut cluster = Cluster::default();
    for at in 0..nodes {
        let name: Arc<str> = format!("node-{at}").into();
        cluster.upsert_node(&NodeSpec {
            labels: vec![
                ("kubernetes.io/hostname".into(), name.clone()),
                ("topology.kubernetes.io/zone".into(), format!("zone-{}", at % 3).into()),
            ],
            name,
            allocatable: Resources { milli_cpu: 4000, memory: 32 * GIB, ..Resources::default() },
            pods: 110,
            ..NodeSpec::default()
        });
    }
    cluster
}

/// Its pod, 100m and 500Mi; `extra` memory makes classes differ.
fn class(cluster: &mut Cluster, extra: i64) -> Arc<Class> {
    let container =
        ContainerRequests { milli_cpu: Some(100), memory: Some(500 * MIB + extra), ..ContainerRequests::default() };
    let requests = Requests::of_pod(&[container], &[], None, None);
    cluster.class(&Arc::new(PodTemplate { requests, ..PodTemplate::default() }))
}

/// `pods` pods of `classes` classes in turn.
fn batch(cluster: &mut Cluster, pods: u64, classes: u64) -> Vec<Pod> {
    let classes: Vec<_> = (0..classes).map(|at| class(cluster, at as i64)).collect();
    let pod = |at: u64| Pod { id: PodId(at), class: classes[at as usize % classes.len()].clone(), priority: 0 };
    (0..pods).map(pod).collect()
}

fn batches(c: &mut Criterion) {
    let mut group = c.benchmark_group("batch");
    group.sample_size(10);
    for (nodes, pods, classes) in
        [(1000, 5000, 1), (5000, 5000, 1), (5000, 5000, 100), (5000, 500, 500), (100_000, 100_000, 1)]
    {
        group.throughput(Throughput::Elements(pods));
        group.bench_function(
            BenchmarkId::from_parameter(format!("{nodes} nodes, {pods} pods, {classes} classes")),
            |b| {
                let setup = || {
                    let mut cluster = cluster(nodes);
                    let pods = batch(&mut cluster, pods, classes);
                    (cluster, pods)
                };
                let run = |(mut cluster, pods): (Cluster, Vec<Pod>)| {
                    let decisions = cluster.schedule(&pods);
                    (cluster, decisions)
                };
                b.iter_batched(setup, run, BatchSize::PerIteration);
            },
        );
    }
    group.finish();
}

fn one_pod(c: &mut Criterion) {
    let mut cluster = cluster(5000);
    let class = class(&mut cluster, 0);
    let mut next = 0;
    c.bench_function("one pod of a known class, 5000 nodes", |b| {
        b.iter(|| {
            next += 1;
            let id = PodId(next);
            let decision = cluster.schedule(&[Pod { id, class: class.clone(), priority: 0 }]);
            cluster.remove_pod(id);
            decision
        });
    });
}

criterion_group!(benches, batches, one_pod);
criterion_main!(benches);
