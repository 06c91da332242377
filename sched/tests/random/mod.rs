//! Random nodes and pods, with every constraint.

pub mod disks;
pub mod profile;

use std::sync::Arc;

use kelson_sched::{
    ContainerRequests, Effect, HostPort, LabelSelector, NodeSelectorTerm, NodeSpec, Operator, Pairs, PodTemplate,
    PodTerm, Protocol, Requests, Requirement, Resources, SpreadConstraint, Taint, Toleration, TolerationOperator,
};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

const MIB: i64 = 1 << 20;

pub fn pick<T: Clone>(rng: &mut StdRng, from: &[T]) -> T {
    from.choose(rng).cloned().expect("not empty")
}

pub fn node(rng: &mut StdRng, name: &str) -> NodeSpec {
    let mut labels: Vec<(Arc<str>, Arc<str>)> = vec![("kubernetes.io/hostname".into(), name.into())];
    if rng.random_bool(0.15) {
        // Two nodes may say that they are the same host, or none.
        labels[0].1 = "node-0".into();
    }
    if rng.random_bool(0.05) {
        labels.clear();
    }
    if rng.random_bool(0.5) {
        labels.push(("rack".into(), pick(rng, &["r1", "r2", "r3", "r4", "r5", "r6"]).into()));
    }
    if rng.random_bool(0.8) {
        labels.push(("zone".into(), pick(rng, &["a", "b", "c"]).into()));
    }
    if rng.random_bool(0.4) {
        let key = pick(rng, &[disks::ZONE, disks::ZONE, "failure-domain.beta.kubernetes.io/zone"]);
        labels.push((key.into(), pick(rng, &["a", "b", "c"]).into()));
    }
    if rng.random_bool(0.5) {
        labels.push(("cores".into(), pick(rng, &["2", "4", "8", "many"]).into()));
    }
    let mut taints = Vec::new();
    for key in ["gpu", "old", "slow"] {
        if rng.random_bool(0.25) {
            let effect = pick(rng, &[Effect::NoSchedule, Effect::PreferNoSchedule, Effect::NoExecute]);
            taints.push(Taint { key: key.into(), value: pick(rng, &["", "yes"]).into(), effect });
        }
    }
    let mut images = Vec::new();
    for image in ["web:latest", "db:1", "reg:5000/tool:latest"] {
        if rng.random_bool(0.3) {
            images.push((image.into(), pick(rng, &[10, 200, 900]) * MIB));
        }
    }
    let mut allocatable = Resources {
        milli_cpu: pick(rng, &[0, 500, 1000, 4000]),
        memory: pick(rng, &[0, 512, 1024, 8192]) * MIB,
        ephemeral_storage: pick(rng, &[0, 1000, 100_000]),
        extended: Vec::new(),
    };
    if rng.random_bool(0.3) {
        allocatable.set_extended("example.com/gpu", pick(rng, &[1, 2, 4]));
    }
    let pods = pick(rng, &[0, 2, 5, 110]);
    let features = ["fast", "safe"].into_iter().filter(|_| rng.random_bool(0.7)).map(Into::into).collect();
    NodeSpec {
        name: name.into(),
        allocatable,
        pods,
        labels,
        taints,
        unschedulable: rng.random_bool(0.1),
        images,
        features,
    }
}

pub fn requirement(rng: &mut StdRng) -> Requirement {
    let operators =
        [Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist, Operator::Gt, Operator::Lt];
    let operator = pick(rng, &operators);
    let (key, mut values): (&str, Vec<Arc<str>>) = match operator {
        Operator::Gt | Operator::Lt => ("cores", vec![pick(rng, &["3", "4", "x"]).into()]),
        Operator::Exists | Operator::DoesNotExist => (pick(rng, &["zone", "cores", "disk"]), vec![]),
        Operator::In | Operator::NotIn => ("zone", vec![pick(rng, &["a", "b", "nowhere"]).into(), "c".into()]),
    };
    values.truncate(rng.random_range(1..=2));
    Requirement { key: key.into(), operator, values }
}

pub fn term(rng: &mut StdRng) -> NodeSelectorTerm {
    let expressions = (0..rng.random_range(0..3)).map(|_| requirement(rng)).collect();
    let mut fields = Vec::new();
    if rng.random_bool(0.2) {
        let names = (0..rng.random_range(1..3)).map(|_| format!("node-{}", rng.random_range(0..12)).into()).collect();
        let operator = pick(rng, &[Operator::In, Operator::In, Operator::NotIn]);
        fields.push(Requirement { key: "metadata.name".into(), operator, values: names });
    }
    NodeSelectorTerm { expressions, fields }
}

pub fn container(rng: &mut StdRng) -> ContainerRequests {
    ContainerRequests {
        milli_cpu: pick(rng, &[None, Some(0), Some(100), Some(300), Some(1500)]),
        memory: pick(rng, &[None, Some(0), Some(64 * MIB), Some(700 * MIB)]),
        ephemeral_storage: pick(rng, &[0, 0, 0, 600]),
        extended: if rng.random_bool(0.1) { vec![("example.com/gpu".into(), 1)] } else { vec![] },
        sidecar: false,
    }
}

pub fn template(rng: &mut StdRng, roomy: bool) -> PodTemplate {
    let containers: Vec<_> = (0..rng.random_range(1..3)).map(|_| container(rng)).collect();
    let mut tolerations = Vec::new();
    for key in ["gpu", "old", "slow", "node.kubernetes.io/unschedulable", ""] {
        if rng.random_bool(if key.is_empty() { 0.05 } else { 0.3 }) {
            let operator = pick(rng, &[TolerationOperator::Equal, TolerationOperator::Exists]);
            let operator = if key.is_empty() { TolerationOperator::Exists } else { operator };
            let effect = pick(rng, &[None, Some(Effect::NoSchedule), Some(Effect::PreferNoSchedule)]);
            tolerations.push(Toleration { key: key.into(), operator, value: "yes".into(), effect });
        }
    }
    let mut host_ports = Vec::new();
    if rng.random_bool(0.2) {
        for _ in 0..rng.random_range(1..3) {
            let ip = pick(rng, &["", "0.0.0.0", "10.0.0.1", "10.0.0.2"]).into();
            let protocol = pick(rng, &[Protocol::Tcp, Protocol::Udp]);
            host_ports.push(HostPort { protocol, port: pick(rng, &[80, 443]), ip });
        }
    }
    if roomy {
        return PodTemplate { tolerations, images: vec!["none".into()], ..others(rng) };
    }
    PodTemplate {
        requests: Requests::of_pod(&containers, &[], None, None),
        node_name: rng.random_bool(0.03).then(|| "node-1".into()),
        node_selector: if rng.random_bool(0.15) { vec![("zone".into(), "a".into())] } else { vec![] },
        required: rng.random_bool(0.25).then(|| (0..rng.random_range(1..3)).map(|_| term(rng)).collect()),
        preferred: (0..rng.random_range(0..3)).map(|_| (rng.random_range(0..=100), term(rng))).collect(),
        tolerations,
        host_ports,
        images: containers.iter().map(|_| pick(rng, &["web", "db:1", "reg:5000/tool", "none"]).into()).collect(),
        ..others(rng)
    }
}

/// Who a pod is, and what it asks of others.
pub fn others(rng: &mut StdRng) -> PodTemplate {
    let namespace = pick(rng, &["shop", "shop", "bank", "farm"]).into();
    let mut labels: Pairs = Vec::new();
    for (key, values) in [("app", ["web", "db"]), ("tier", ["front", "back"])] {
        if rng.random_bool(0.7) {
            labels.push((key.into(), pick(rng, &values).into()));
        }
    }
    let features = if rng.random_bool(0.05) { vec![pick(rng, &["fast", "safe"]).into()] } else { vec![] };
    let volumes = disks::uses(rng);
    let profile = pick(rng, &[0, 0, 1, 2]);
    let mut template = PodTemplate { namespace, labels, volumes, features, profile, ..PodTemplate::default() };
    if rng.random_bool(0.4) {
        return template;
    }
    for _ in 0..rng.random_range(0..3) {
        template.spread.push(SpreadConstraint {
            max_skew: rng.random_range(1..4),
            topology_key: topology_key(rng),
            hard: rng.random_bool(0.5),
            selector: label_selector(rng),
            min_domains: pick(rng, &[1, 1, 2, 4]),
            honor_affinity: rng.random_bool(0.7),
            honor_taints: rng.random_bool(0.3),
        });
    }
    template.spread_defaulted = template.spread.iter().all(|one| !one.hard) && rng.random_bool(0.3);
    let some = |rng: &mut StdRng, chance: f64| (0..2).filter(|_| rng.random_bool(chance)).count();
    let namespace = template.namespace.clone();
    template.affinity = (0..some(rng, 0.15)).map(|_| pod_term(rng, &namespace)).collect();
    template.anti_affinity = (0..some(rng, 0.15)).map(|_| pod_term(rng, &namespace)).collect();
    let weighted = |rng: &mut StdRng| (rng.random_range(1..=100), pod_term(rng, &namespace));
    template.preferred_affinity = (0..some(rng, 0.2)).map(|_| weighted(rng)).collect();
    template.preferred_anti_affinity = (0..some(rng, 0.2)).map(|_| weighted(rng)).collect();
    template
}

/// Host names are unique, zones are shared, racks are sometimes either.
pub fn topology_key(rng: &mut StdRng) -> Arc<str> {
    pick(rng, &["kubernetes.io/hostname", "zone", "rack", "nowhere"]).into()
}

pub fn label_selector(rng: &mut StdRng) -> Option<LabelSelector> {
    let requirements = (0..rng.random_range(0..3)).map(|_| {
        let operator =
            pick(rng, &[Operator::In, Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist]);
        let (key, value) = pick(rng, &[("app", "web"), ("app", "db"), ("tier", "front")]);
        let values = if matches!(operator, Operator::In | Operator::NotIn) { vec![value.into()] } else { vec![] };
        Requirement { key: key.into(), operator, values }
    });
    let selector = LabelSelector { requirements: requirements.collect() };
    rng.random_bool(0.9).then_some(selector)
}

pub fn pod_term(rng: &mut StdRng, own: &Arc<str>) -> PodTerm {
    let (namespaces, namespace_selector) = match rng.random_range(0..4) {
        0 => (vec!["bank".into(), "shop".into()], None),
        1 => (vec![], Some(LabelSelector::default())),
        2 => (vec![], Some(LabelSelector::of_pairs([("team", "a")]))),
        _ => (vec![own.clone()], None),
    };
    PodTerm { selector: label_selector(rng), namespaces, namespace_selector, topology_key: topology_key(rng) }
}
