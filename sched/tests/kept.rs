//! What a class keeps between batches has to see what changed meanwhile.

use std::sync::Arc;

use kelson_sched::{
    Cluster, Decision, LabelSelector, NodeSpec, Pairs, Pod, PodId, PodTemplate, PodTerm, Resources, Tenure,
};

fn pairs(key: &str, value: &str) -> Pairs {
    vec![(key.into(), value.into())]
}

fn cluster() -> Cluster {
    let mut cluster = Cluster::new(1, 7);
    for name in ["node-0", "node-1"] {
        let allocatable = Resources { milli_cpu: 1000, memory: 1 << 30, ..Resources::default() };
        let labels = pairs("kubernetes.io/hostname", name);
        cluster.upsert_node(&NodeSpec { name: name.into(), allocatable, pods: 110, labels, ..NodeSpec::default() });
    }
    cluster
}

/// Nodes on which `count` pods of a template land, by name.
fn place(cluster: &mut Cluster, template: &Arc<PodTemplate>, ids: std::ops::Range<u64>) -> Vec<Arc<str>> {
    let class = cluster.class(template);
    let pods: Vec<Pod> = ids.map(|id| Pod { id: PodId(id), class: class.clone(), priority: 0 }).collect();
    let bound = cluster.schedule(&pods).into_iter().filter_map(|decision| match decision {
        Decision::Bound(node) => Some(node),
        Decision::Unschedulable(_) => None,
    });
    bound.map(|node| cluster.node_name(node).clone()).collect()
}

#[test]
fn a_namespace_that_changes_sides_is_seen_by_a_plan_that_is_kept() {
    let mut cluster = cluster();
    cluster.set_namespace(&"bank".into(), Some(pairs("team", "b")));
    let web = PodTemplate { namespace: "bank".into(), labels: pairs("app", "web"), ..PodTemplate::default() };
    cluster.add_pod(PodId(1), &"node-0".into(), &Arc::new(web), Tenure::default());
    let away = PodTerm {
        selector: Some(LabelSelector::of_pairs([("app", "web")])),
        namespaces: Vec::new(),
        namespace_selector: Some(LabelSelector::of_pairs([("team", "a")])),
        topology_key: "kubernetes.io/hostname".into(),
    };
    let shy = Arc::new(PodTemplate { namespace: "shop".into(), anti_affinity: vec![away], ..PodTemplate::default() });
    let before = place(&mut cluster, &shy, 10..30);
    assert!(before.iter().any(|node| &**node == "node-0"), "nothing keeps it away yet: {before:?}");
    cluster.set_namespace(&"bank".into(), Some(pairs("team", "a")));
    let after = place(&mut cluster, &shy, 30..50);
    assert_eq!(after.len(), 20);
    assert!(after.iter().all(|node| &**node == "node-1"), "{after:?}");
    cluster.set_namespace(&"bank".into(), None);
    let again = place(&mut cluster, &shy, 50..70);
    assert!(again.iter().any(|node| &**node == "node-0"), "a namespace without labels is on no side: {again:?}");
}
