//! The core against a scheduler written straight from the formulas: no columns, no classes, no plans, no columns for
//! ports, everything recomputed for every pod.

mod naive;

use std::sync::Arc;

use kelson_sched::{
    Budget, Cluster, ContainerRequests, Decision, Effect, HostPort, LabelSelector, NodeSelectorTerm, NodeSpec,
    Operator, Pairs, Pod, PodId, PodTemplate, PodTerm, Protocol, Requests, Requirement, Resources, SpreadConstraint,
    Taint, Tenure, Toleration, TolerationOperator, Verdict,
};
use naive::Naive;
use proptest::prelude::{ProptestConfig, any, proptest};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

const MIB: i64 = 1 << 20;

fn pick<T: Clone>(rng: &mut StdRng, from: &[T]) -> T {
    from.choose(rng).cloned().expect("not empty")
}

fn node(rng: &mut StdRng, name: &str) -> NodeSpec {
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
    NodeSpec { name: name.into(), allocatable, pods, labels, taints, unschedulable: rng.random_bool(0.1), images }
}

fn requirement(rng: &mut StdRng) -> Requirement {
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

fn term(rng: &mut StdRng) -> NodeSelectorTerm {
    let expressions = (0..rng.random_range(0..3)).map(|_| requirement(rng)).collect();
    let mut fields = Vec::new();
    if rng.random_bool(0.2) {
        let names = (0..rng.random_range(1..3)).map(|_| format!("node-{}", rng.random_range(0..12)).into()).collect();
        let operator = pick(rng, &[Operator::In, Operator::In, Operator::NotIn]);
        fields.push(Requirement { key: "metadata.name".into(), operator, values: names });
    }
    NodeSelectorTerm { expressions, fields }
}

fn container(rng: &mut StdRng) -> ContainerRequests {
    ContainerRequests {
        milli_cpu: pick(rng, &[None, Some(0), Some(100), Some(300), Some(1500)]),
        memory: pick(rng, &[None, Some(0), Some(64 * MIB), Some(700 * MIB)]),
        ephemeral_storage: pick(rng, &[0, 0, 0, 600]),
        extended: if rng.random_bool(0.1) { vec![("example.com/gpu".into(), 1)] } else { vec![] },
        sidecar: false,
    }
}

fn template(rng: &mut StdRng, roomy: bool) -> PodTemplate {
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
fn others(rng: &mut StdRng) -> PodTemplate {
    let namespace = pick(rng, &["shop", "shop", "bank", "farm"]).into();
    let mut labels: Pairs = Vec::new();
    for (key, values) in [("app", ["web", "db"]), ("tier", ["front", "back"])] {
        if rng.random_bool(0.7) {
            labels.push((key.into(), pick(rng, &values).into()));
        }
    }
    let mut template = PodTemplate { namespace, labels, ..PodTemplate::default() };
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
fn topology_key(rng: &mut StdRng) -> Arc<str> {
    pick(rng, &["kubernetes.io/hostname", "zone", "rack", "nowhere"]).into()
}

fn label_selector(rng: &mut StdRng) -> Option<LabelSelector> {
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

fn pod_term(rng: &mut StdRng, own: &Arc<str>) -> PodTerm {
    let (namespaces, namespace_selector) = match rng.random_range(0..4) {
        0 => (vec!["bank".into(), "shop".into()], None),
        1 => (vec![], Some(LabelSelector::default())),
        2 => (vec![], Some(LabelSelector::of_pairs([("team", "a")]))),
        _ => (vec![own.clone()], None),
    };
    PodTerm { selector: label_selector(rng), namespaces, namespace_selector, topology_key: topology_key(rng) }
}

/// Both schedulers, side by side.
struct Pair {
    core: Cluster,
    naive: Naive,
    templates: Vec<Arc<PodTemplate>>,
    next_pod: u64,
    /// Room everywhere, so that what pods ask of each other decides.
    roomy: bool,
}

impl Pair {
    fn upsert(&mut self, mut node: NodeSpec) {
        if self.roomy {
            (node.pods, node.unschedulable) = (110, false);
            (node.allocatable.milli_cpu, node.allocatable.memory) = (16_000, 64 << 30);
        }
        self.core.upsert_node(&node);
        self.naive.nodes.retain(|have| have.name != node.name);
        self.naive.nodes.push(node);
    }

    fn remove(&mut self, name: &str) {
        let known = self.naive.nodes.iter().any(|have| &*have.name == name);
        assert_eq!(self.core.remove_node(name), known);
        self.naive.nodes.retain(|have| &*have.name != name);
    }

    /// Feasible sets, score vectors and messages are equal right now.
    fn compare(&mut self, template: &Arc<PodTemplate>) {
        let class = self.core.class(template);
        let verdicts = self.core.explain(&class);
        assert_eq!(verdicts.len(), self.naive.nodes.len());
        let scores = self.naive.scores(template);
        for (node, verdict) in verdicts {
            let name = self.core.node_name(node).clone();
            match (verdict, scores.get(&name)) {
                (Verdict::Feasible(core), Some(naive)) => assert_eq!(core, *naive, "scores of {name}"),
                (Verdict::Rejected(_), None) => {}
                (verdict, naive) => panic!("{name}: core says {verdict:?}, the reference {naive:?}"),
            }
        }
        if scores.is_empty() {
            assert_eq!(self.core.diagnose(&class).to_string(), self.naive.message(template));
        }
    }

    fn schedule(&mut self, rng: &mut StdRng, count: usize) {
        let pods: Vec<(Pod, Arc<PodTemplate>)> = (0..count)
            .map(|_| {
                self.next_pod += 1;
                let template = pick(rng, &self.templates);
                let priority = pick(rng, &[0, 0, 0, 10, 20]);
                (Pod { id: PodId(self.next_pod), class: self.core.class(&template), priority }, template)
            })
            .collect();
        let batch: Vec<Pod> = pods.iter().map(|(pod, _)| pod.clone()).collect();
        let decisions = self.core.schedule(&batch);
        for ((pod, template), decision) in pods.iter().zip(&decisions) {
            let scores = self.naive.scores(template);
            match decision {
                Decision::Bound(node) => {
                    let name = self.core.node_name(*node).clone();
                    let chosen = scores.get(&name).unwrap_or_else(|| panic!("{name} is not feasible")).total();
                    let best = scores.values().map(|scores| scores.total()).max();
                    assert_eq!(Some(chosen), best, "{name} was not the best");
                    self.naive.hold(pod.id, &name, template);
                    self.naive.pods.get_mut(&pod.id).expect("held").priority = pod.priority;
                }
                Decision::Unschedulable(_) => assert!(scores.is_empty(), "left pending, but fits {:?}", scores.keys()),
            }
        }
        for ((_, template), decision) in pods.iter().zip(&decisions) {
            if let Decision::Unschedulable(diagnosis) = decision {
                assert_eq!(diagnosis.to_string(), self.naive.message(template));
            }
        }
        let refused =
            pods.iter().zip(&decisions).filter(|(_, decision)| matches!(decision, Decision::Unschedulable(_)));
        for ((pod, template), _) in refused.take(5) {
            self.preempt(rng, pod, template);
        }
    }

    /// The cheapest node is found, with its victims; and once they are gone, the pod goes there.
    fn preempt(&mut self, rng: &mut StdRng, pod: &Pod, template: &Arc<PodTemplate>) {
        if !self.naive.scores(template).is_empty() {
            return;
        }
        let found = self.core.preempt(pod);
        let all = self.naive.preemptions(template, pod.priority);
        let cheapest = all.values().map(|(cost, _)| *cost).min();
        assert_eq!(found.as_ref().map(|found| found.cost), cheapest);
        let Some(found) = found else { return };
        let name = self.core.node_name(found.node).clone();
        assert_eq!((found.cost, &found.victims), (all[&name].0, &all[&name].1), "on {name}");
        if rng.random_bool(0.5) {
            return;
        }
        for victim in &found.victims {
            self.core.remove_pod(*victim);
            self.naive.pods.remove(victim);
        }
        self.core.nominate(pod, found.node);
        let decisions = self.core.schedule(std::slice::from_ref(pod));
        assert!(matches!(decisions[0], Decision::Bound(node) if node == found.node), "{:?}", decisions[0]);
        self.naive.hold(pod.id, &name, template);
        self.naive.pods.get_mut(&pod.id).expect("held").priority = pod.priority;
    }
}

fn run(seed: u64, steps: usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    let roomy = rng.random_bool(0.5);
    let templates = (0..6).map(|_| Arc::new(template(&mut rng, roomy))).collect();
    let mut pair = Pair { core: Cluster::new(1, seed), naive: Naive::default(), templates, next_pod: 0, roomy };
    for at in 0..rng.random_range(0..10) {
        pair.upsert(node(&mut rng, &format!("node-{at}")));
    }
    for _ in 0..steps {
        let name = format!("node-{}", rng.random_range(0..12));
        match rng.random_range(0..10) {
            0 | 1 => pair.upsert(node(&mut rng, &name)),
            2 => pair.remove(&name),
            3 => {
                // Bound by somebody else, fitting or not, its node known or not.
                let (id, template) = (PodId(pair.next_pod + 1), pick(&mut rng, &pair.templates));
                pair.next_pod += 1;
                pair.core.add_pod(id, &name.as_str().into(), &template, Tenure::default());
                pair.naive.hold(id, &name.as_str().into(), &template);
            }
            4 | 5 => {
                let ids: Vec<PodId> = pair.naive.pods.keys().copied().collect();
                for id in ids.choose_multiple(&mut rng, 3) {
                    assert!(pair.core.remove_pod(*id).is_some());
                    pair.naive.pods.remove(id);
                }
            }
            7 if rng.random_bool(0.6) => {
                // Pods start, deletion begins, budgets change, a namespace changes sides.
                let ids: Vec<PodId> = pair.naive.pods.keys().copied().collect();
                for (at, id) in ids.choose_multiple(&mut rng, 4).enumerate() {
                    if let Some(held) = pair.naive.pods.get_mut(id) {
                        held.terminating |= at % 2 == 0;
                        held.started = rng.random_range(0..50);
                        let (priority, started) = (held.priority, held.started);
                        let tenure = Tenure { priority, started, terminating: held.terminating };
                        pair.core.add_pod(*id, &held.node, &held.template, tenure);
                    }
                }
                let budget = |rng: &mut StdRng| Budget {
                    namespace: pick(rng, &["shop", "bank"]).into(),
                    selector: label_selector(rng),
                    allowed: rng.random_range(0..3),
                };
                pair.naive.budgets = (0..rng.random_range(0..3)).map(|_| budget(&mut rng)).collect();
                pair.core.set_budgets(pair.naive.budgets.clone());
                let namespace: Arc<str> = pick(&mut rng, &["shop", "bank", "farm"]).into();
                let labels: Pairs = vec![("team".into(), pick(&mut rng, &["a", "b"]).into())];
                pair.core.set_namespace(&namespace, Some(labels.clone()));
                pair.naive.namespaces.insert(namespace, labels);
            }
            6 => {
                let at = rng.random_range(0..pair.templates.len());
                pair.templates[at] = Arc::new(template(&mut rng, roomy));
            }
            _ => {
                let count = rng.random_range(1..25);
                pair.schedule(&mut rng, count);
            }
        }
        for template in pair.templates.clone() {
            pair.compare(&template);
        }
    }
    for id in pair.naive.pods.keys() {
        assert!(pair.core.remove_pod(*id).is_some());
    }
    assert_eq!(pair.core.pods(), 0);
    for node in &pair.naive.nodes {
        let usage = pair.core.usage(pair.core.node(&node.name).expect("present"));
        let nothing = usage.requested.extended.iter().all(|(_, amount)| *amount == 0);
        assert!(nothing && usage.pods == 0 && usage.requested.milli_cpu == 0 && usage.requested.memory == 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decisions_equal_the_reference(seed in any::<u64>(), steps in 5..40usize) {
        run(seed, steps);
    }
}
