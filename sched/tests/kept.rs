//! What a class keeps between batches has to see what changed meanwhile.

use std::sync::Arc;

use kelson_sched::{
    Cluster, Decision, LabelSelector, NodeSpec, Pairs, Pod, PodId, PodTemplate, PodTerm, Resources, StorageClass,
    Tenure, Volume, VolumeClaim, VolumeUse,
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

#[test]
fn a_pod_takes_back_no_promise_but_its_own() {
    let mut cluster = cluster();
    let class = StorageClass { wait_for_consumer: true, ..StorageClass::default() };
    cluster.set_storage_class(&"slow".into(), Some(class));
    let volume = Volume { capacity: 1, class: "slow".into(), available: true, ..Volume::default() };
    cluster.set_volume(&"only".into(), Some(volume));
    let claim = |name: &str, volume: Option<&str>| VolumeClaim {
        uid: name.into(),
        class: "slow".into(),
        size: Some(1),
        volume: volume.map(Into::into),
        ..VolumeClaim::default()
    };
    let namespace: Arc<str> = "shop".into();
    for name in ["a", "b"] {
        cluster.set_volume_claim(&namespace, &name.into(), Some(claim(name, None)));
    }
    let with = |name: &str| {
        let volumes = vec![VolumeUse::Claim(name.into())];
        Arc::new(PodTemplate { namespace: namespace.clone(), volumes, ..PodTemplate::default() })
    };
    assert_eq!(place(&mut cluster, &with("a"), 1..2).len(), 1);
    // The API shows the claim's volume, which ends the promise, and then takes it back.
    cluster.set_volume_claim(&namespace, &"a".into(), Some(claim("a", Some("only"))));
    cluster.set_volume_claim(&namespace, &"a".into(), Some(claim("a", None)));
    assert_eq!(place(&mut cluster, &with("a"), 2..3).len(), 1);
    cluster.forget(PodId(1));
    assert_eq!(place(&mut cluster, &with("b"), 3..4).len(), 0, "the volume is the second pod's");
    cluster.forget(PodId(2));
    assert_eq!(place(&mut cluster, &with("b"), 3..4).len(), 1);
}
