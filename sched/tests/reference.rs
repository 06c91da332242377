//! The core against a scheduler written straight from the formulas: no columns, no classes, no plans, no columns for
//! ports, everything recomputed for every pod.

mod gear;
mod naive;
mod random;
mod workers;

use std::sync::Arc;

use gear::Gear;
use kelson_sched::{
    Budget, Cluster, Decision, NodeSpec, Pairs, Pod, PodId, PodTemplate, Profile, ResourceClaim, Tenure, Verdict,
};
use naive::Naive;
use proptest::prelude::{ProptestConfig, any, proptest};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use random::disks::{self, Disks};
use random::{label_selector, node, pick, template};

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
        let pod = Pod { id: PodId(u64::MAX), class: class.clone(), priority: 0 };
        let told = self.core.explain_pod(&pod);
        assert_eq!(told.nodes.len(), verdicts.len());
        for ((node, verdict), told) in verdicts.iter().zip(&told.nodes).filter(|_| told.refusal.is_none()) {
            let first =
                told.filters.iter().find(|(_, reasons)| !reasons.is_empty()).map(|(_, reasons)| reasons.clone());
            let weights = self.naive.profile(template).weights;
            match verdict {
                Verdict::Feasible(scores) => {
                    let (lines, total) = told.scores.as_ref().expect("feasible");
                    assert_eq!((first, *total), (None, scores.total(&weights)));
                    assert_eq!(lines.iter().map(|line| line.weight * line.normalized).sum::<i64>(), *total);
                }
                Verdict::Rejected(reasons) => assert_eq!((first.as_ref(), &told.scores), (Some(reasons), &None)),
            }
            assert_eq!(told.node, *node);
        }
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
            let weights = self.naive.profile(template).weights;
            match decision {
                Decision::Bound(node) => {
                    let name = self.core.node_name(*node).clone();
                    let chosen = scores.get(&name).unwrap_or_else(|| panic!("{name} is not feasible")).total(&weights);
                    let best = scores.values().map(|scores| scores.total(&weights)).max();
                    assert_eq!(Some(chosen), best, "{name} was not the best");
                    self.hold(pod, &name, template);
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
        let (all, outlook) = self.naive.preemptions(template, pod.priority);
        let cheapest = all.values().map(|(cost, _)| *cost).min();
        assert_eq!(found.as_ref().ok().map(|found| found.cost), cheapest);
        let found = match found {
            Ok(found) => found,
            Err(why) => {
                assert_eq!(why.to_string(), outlook);
                return;
            }
        };
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
        self.hold(pod, &name, template);
    }

    /// Drivers, users, and those who write what claims were promised.
    fn change_devices(&mut self, rng: &mut StdRng) {
        for _ in 0..rng.random_range(1..4) {
            let name: Arc<str> = format!("slice-{}", rng.random_range(0..10)).into();
            if rng.random_bool(0.8) {
                self.naive.gear.slices.insert(name, gear::slice(rng));
            } else {
                self.core.set_resource_slice(&name, None);
                self.naive.gear.slices.remove(&name);
            }
        }
        if rng.random_bool(0.8) {
            gear::count(rng, &mut self.naive.gear.slices);
        }
        for (name, slice) in &self.naive.gear.slices {
            self.core.set_resource_slice(name, Some(slice.clone()));
        }
        let (namespace, at) = (pick(rng, &gear::NAMESPACES).into(), rng.random_range(0..6));
        let key: disks::Key = (namespace, format!("claim-{at}").into());
        let claim = rng.random_bool(0.9).then(|| gear::claim(rng, &self.naive.gear.slices));
        self.put_claim(key, claim);
        let ids: Vec<PodId> = self.naive.pods.keys().copied().collect();
        for id in ids.choose_multiple(rng, 3) {
            let held = &self.naive.pods[id];
            for (name, allocation) in held.devices.clone() {
                let key = (self.naive.pods[id].template.namespace.clone(), name);
                let claim = self.naive.gear.claims.get(&key).cloned();
                self.put_claim(key, claim.map(|claim| ResourceClaim { allocation: Some(allocation), ..claim }));
            }
        }
    }

    /// Puts a claim. What it was promised ends when it has devices, or is gone.
    fn put_claim(&mut self, key: disks::Key, claim: Option<ResourceClaim>) {
        self.core.set_resource_claim(&key.0, &key.1, claim.clone());
        if claim.as_ref().is_none_or(|claim| claim.allocation.is_some()) {
            for held in self.naive.pods.values_mut().filter(|held| held.template.namespace == key.0) {
                held.devices.retain(|(name, _)| *name != key.1);
            }
        }
        match claim {
            Some(claim) => self.naive.gear.claims.insert(key, claim),
            None => self.naive.gear.claims.remove(&key),
        };
    }

    /// Notes a placed pod, with what it was promised.
    fn hold(&mut self, pod: &Pod, name: &Arc<str>, template: &Arc<PodTemplate>) {
        let node = self.naive.nodes.iter().find(|node| node.name == *name).expect("present");
        let plan = self.naive.bindings(template, node).expect("feasible");
        let (devices, _) = self.naive.devices(template, node).expect("feasible");
        assert_eq!(self.core.device_plan(pod.id).cloned().unwrap_or_default(), devices, "devices of {name}");
        assert_eq!(self.core.volume_plan(pod.id).cloned().unwrap_or_default(), plan, "promises of {name}");
        self.naive.hold(pod.id, name, template);
        let held = self.naive.pods.get_mut(&pod.id).expect("held");
        (held.priority, held.plan, held.devices) = (pod.priority, plan, devices);
    }
}

/// A pod with claims, maybe; `plain`: that asks for nothing else.
fn equipped(rng: &mut StdRng, roomy: bool, plain: bool) -> Arc<PodTemplate> {
    let mut template = template(rng, roomy);
    if plain {
        let (namespace, profile) = (template.namespace, template.profile);
        template = PodTemplate { namespace, profile, images: vec!["none".into()], ..PodTemplate::default() };
    }
    gear::equip(rng, &mut template);
    Arc::new(template)
}

/// Takes everything about devices from a cluster.
fn forget(gear: &Gear, cluster: &mut Cluster) {
    for name in gear.slices.keys() {
        cluster.set_resource_slice(name, None);
    }
    for name in gear.classes.keys() {
        cluster.set_device_class(name, None);
    }
    for (namespace, name) in gear.claims.keys() {
        cluster.set_resource_claim(namespace, name, None);
    }
}

fn run(seed: u64, steps: usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    let roomy = rng.random_bool(0.5);
    let plain = roomy && rng.random_bool(0.4);
    let templates = (0..6).map(|_| equipped(&mut rng, roomy, plain)).collect();
    let mut profiles = vec![Profile::default()];
    profiles.extend((0..2).map(|_| random::profile::profile(&mut rng)));
    let core = Cluster::with_profiles(1, seed, profiles.clone());
    let mut naive = Naive::default();
    naive.profiles = profiles;
    let mut pair = Pair { core, naive, templates, next_pod: 0, roomy };
    pair.naive.disks = Disks::random(&mut rng);
    pair.naive.disks.tell(&mut pair.core);
    pair.naive.gear = Gear::random(&mut rng);
    pair.naive.gear.tell(&mut pair.core);
    for at in 0..rng.random_range(0..10) {
        pair.upsert(node(&mut rng, &format!("node-{at}")));
    }
    for _ in 0..steps {
        let name = format!("node-{}", rng.random_range(0..12));
        match rng.random_range(0..12) {
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
            7 => {
                // Somebody else changes claims and volumes. What a pod was promised stays as it is.
                let promised: Vec<Arc<str>> = pair
                    .naive
                    .pods
                    .values()
                    .flat_map(|held| held.plan.bind.iter().map(|(_, volume)| volume.clone()))
                    .collect();
                let at = rng.random_range(0..9);
                let name: Arc<str> = format!("vol-{at}").into();
                if !promised.contains(&name) {
                    let volume = rng.random_bool(0.8).then(|| disks::volume(&mut rng, at));
                    pair.core.set_volume(&name, volume.clone());
                    match volume {
                        Some(volume) => pair.naive.disks.volumes.insert(name, volume),
                        None => pair.naive.disks.volumes.remove(&name),
                    };
                }
                let key: disks::Key =
                    (pick(&mut rng, &["shop", "bank"]).into(), format!("claim-{}", rng.random_range(0..6)).into());
                let held = |held: &naive::Held| {
                    let names = held.plan.bind.iter().map(|(claim, _)| claim).chain(&held.plan.provision);
                    held.template.namespace == key.0 && names.into_iter().any(|name| *name == key.1)
                };
                if !pair.naive.pods.values().any(held) {
                    let claim = rng.random_bool(0.9).then(|| disks::claim(&mut rng, &key.1));
                    pair.core.set_volume_claim(&key.0, &key.1, claim.clone());
                    match claim {
                        Some(claim) => pair.naive.disks.claims.insert(key, claim),
                        None => pair.naive.disks.claims.remove(&key),
                    };
                }
            }
            6 => {
                let at = rng.random_range(0..pair.templates.len());
                pair.templates[at] = equipped(&mut rng, roomy, plain);
            }
            8 | 9 => pair.change_devices(&mut rng),
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
    assert!(pair.core.promises_nothing());
    forget(&pair.naive.gear, &mut pair.core);
    assert_eq!(pair.core.devices(), (0, 0));
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
