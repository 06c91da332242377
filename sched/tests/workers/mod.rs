//! Workers that fight for the last places of nodes which come, go and change between batches. After each batch every
//! node is summed up anew: none holds more than it has, none holds what it must not, and what was left pending fits nowhere.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use kelson_sched::{Cluster, Decision, NodeSpec, Pod, PodId, PodTemplate, Resources, Tenure};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::naive::{Naive, conflict};
use crate::random::{node, pick, template};

const WORKERS: usize = 4;
/// Places that are claimed in a run of all tests; `KELSON_TEST_CLAIMS` sets another number.
const CLAIMS: u64 = 100_000;
const NODES: usize = 160;
const TEMPLATES: usize = 10;
/// Pods in a batch: enough for several workers, and more than there is room for.
const BATCH: usize = 6_000;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

struct Held {
    node: Arc<str>,
    template: usize,
}

struct World {
    random: StdRng,
    core: Cluster,
    nodes: BTreeMap<Arc<str>, NodeSpec>,
    templates: Vec<Arc<PodTemplate>>,
    held: HashMap<PodId, Held>,
    next: u64,
    claims: u64,
}

/// What matters of a template where pods do not look at each other: only such are placed by several workers.
fn apart(random: &mut StdRng) -> Arc<PodTemplate> {
    let own = PodTemplate { volumes: Vec::new(), profile: 0, ..template(random, false) };
    Arc::new(PodTemplate {
        requests: own.requests,
        node_selector: own.node_selector,
        required: own.required,
        preferred: own.preferred,
        tolerations: own.tolerations,
        host_ports: if random.random_bool(0.2) { own.host_ports } else { Vec::new() },
        images: own.images,
        namespace: own.namespace,
        labels: own.labels,
        ..PodTemplate::default()
    })
}

/// What pods take of a node, by resource.
fn amounts(resources: &Resources) -> Vec<(String, i64)> {
    let mut amounts = vec![
        ("cpu".to_string(), resources.milli_cpu),
        ("memory".to_string(), resources.memory),
        ("ephemeral-storage".to_string(), resources.ephemeral_storage),
    ];
    amounts.extend(resources.extended.iter().map(|(name, amount)| (name.to_string(), *amount)));
    amounts
}

fn of(resources: &Resources, name: &str) -> i64 {
    amounts(resources).iter().find(|(have, _)| have == name).map_or(0, |(_, amount)| *amount)
}

impl World {
    fn put_node(&mut self, at: usize) {
        let name = format!("node-{at}");
        let mut spec = node(&mut self.random, &name);
        // Room for a few dozen pods, of which some resource runs out first.
        spec.allocatable.milli_cpu *= 4;
        spec.allocatable.memory *= 2;
        spec.pods = pick(&mut self.random, &[3, 12, 40, 110]);
        self.core.upsert_node(&spec);
        self.nodes.insert(spec.name.clone(), spec);
    }

    /// Pods of each node, the reference's way.
    fn by_node(&self) -> BTreeMap<Arc<str>, Naive> {
        let alone = |spec: &NodeSpec| {
            let mut naive = Naive::default();
            naive.nodes.push(spec.clone());
            (spec.name.clone(), naive)
        };
        let mut all: BTreeMap<Arc<str>, Naive> = self.nodes.values().map(alone).collect();
        for (id, held) in &self.held {
            if let Some(naive) = all.get_mut(&held.node) {
                naive.hold(*id, &held.node, &self.templates[held.template]);
            }
        }
        all
    }

    /// Places a batch, and looks at what came of it.
    fn schedule(&mut self) {
        let batch: Vec<(usize, Pod)> = (0..BATCH)
            .map(|_| {
                self.next += 1;
                let at = self.random.random_range(0..self.templates.len());
                let class = self.core.class(&self.templates[at]);
                (at, Pod { id: PodId(self.next), class, priority: 0 })
            })
            .collect();
        let pods: Vec<Pod> = batch.iter().map(|(_, pod)| pod.clone()).collect();
        let (mut placed, mut pending) = (HashMap::<Arc<str>, Vec<usize>>::new(), BTreeSet::new());
        for ((at, pod), decision) in batch.iter().zip(self.core.schedule(&pods)) {
            match decision {
                Decision::Bound(node) => {
                    let node = self.core.node_name(node).clone();
                    placed.entry(node.clone()).or_default().push(*at);
                    let before = self.held.insert(pod.id, Held { node, template: *at });
                    assert!(before.is_none(), "a pod that is new");
                    self.claims += 1;
                }
                Decision::Unschedulable(_) => {
                    pending.insert(*at);
                }
            }
        }
        self.audit(&placed, &pending);
    }

    fn audit(&mut self, placed: &HashMap<Arc<str>, Vec<usize>>, pending: &BTreeSet<usize>) {
        let by_node = self.by_node();
        assert!(placed.keys().all(|name| by_node.contains_key(name)), "a node that is gone was given pods");
        let nothing = Vec::new();
        for (name, naive) in &by_node {
            let spec = &self.nodes[name];
            let new = placed.get(name).unwrap_or(&nothing);
            let usage = self.core.usage(self.core.node(name).expect("present"));
            let sum = |resource: &str| -> i64 {
                naive.pods.values().map(|held| of(&held.template.requests.resources, resource)).sum()
            };
            assert_eq!(usage.pods, naive.pods.len() as i64, "pods of {name}");
            for (resource, requested) in amounts(&usage.requested) {
                assert_eq!(requested, sum(&resource), "{resource} of {name}");
                let added = |at: &&usize| of(&self.templates[**at].requests.resources, &resource) > 0;
                // A node that shrank, or that others filled, may hold too much: then nothing is added.
                let within = requested <= of(&spec.allocatable, &resource);
                assert!(within || !new.iter().any(|at| added(&at)), "{resource} of {name} is over-committed");
            }
            assert!(usage.pods <= spec.pods || new.is_empty(), "{name} has too many pods");
            for at in new {
                let template = &self.templates[*at];
                let mut empty = Naive::default();
                empty.nodes.push(spec.clone());
                assert!(empty.takes(template), "{name} would not take it if it were empty");
                for port in &template.host_ports {
                    let has = |template: &PodTemplate| template.host_ports.iter().any(|other| conflict(port, other));
                    // Itself is one of them, though two ports of its own may conflict.
                    let rivals = naive.pods.values().filter(|held| has(&held.template)).count();
                    assert!(rivals <= 1, "{port:?} of {name}");
                }
            }
            for at in pending {
                assert!(!naive.takes(&self.templates[*at]), "left pending beside {name}, which takes it");
            }
        }
    }

    /// Pods end, nodes come, go and change, others bind pods of their own.
    fn change(&mut self) {
        let share = pick(&mut self.random, &[0.2, 0.6, 0.95]);
        let mut ids: Vec<PodId> = self.held.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            if self.random.random_bool(share) {
                assert!(self.core.remove_pod(id).is_some());
                self.held.remove(&id);
            }
        }
        let names: Vec<Arc<str>> = self.nodes.keys().cloned().collect();
        let going = self.random.random_range(0..6);
        for name in names.choose_multiple(&mut self.random, going) {
            assert!(self.core.remove_node(name));
            self.nodes.remove(name);
            if self.random.random_bool(0.5) {
                // Its pods follow; where they do not, they are there when it comes back.
                let core = &mut self.core;
                self.held.retain(|id, held| held.node != *name || core.remove_pod(*id).is_none());
            }
        }
        for _ in 0..self.random.random_range(0..12) {
            let at = self.random.random_range(0..NODES);
            self.put_node(at);
        }
        for _ in 0..self.random.random_range(0..8) {
            self.next += 1;
            let (id, at) = (PodId(self.next), self.random.random_range(0..self.templates.len()));
            let name: Arc<str> = format!("node-{}", self.random.random_range(0..NODES)).into();
            self.core.add_pod(id, &name, &self.templates[at], Tenure::default());
            self.held.insert(id, Held { node: name, template: at });
        }
        if self.random.random_bool(0.3) {
            let at = self.random.random_range(0..self.templates.len());
            if self.held.values().all(|held| held.template != at) {
                self.templates[at] = apart(&mut self.random);
            }
        }
    }
}

#[test]
fn workers_never_over_commit_and_leave_nothing_pending_that_fits() {
    let wanted = setting("KELSON_TEST_CLAIMS").unwrap_or(CLAIMS);
    let seed = setting("KELSON_TEST_SEED").unwrap_or_else(rand::random);
    eprintln!(
        "replay: KELSON_TEST_SEED={seed} KELSON_TEST_CLAIMS={wanted} cargo test -p kelson-sched --test reference workers_never"
    );
    let mut random = StdRng::seed_from_u64(seed);
    let templates = (0..TEMPLATES).map(|_| apart(&mut random)).collect();
    let core = Cluster::new(WORKERS, seed);
    let (nodes, held) = (BTreeMap::new(), HashMap::new());
    let mut world = World { random, core, nodes, templates, held, next: 0, claims: 0 };
    (0..NODES).for_each(|at| world.put_node(at));
    let mut batches = 0_u64;
    while world.claims < wanted && batches < wanted {
        world.schedule();
        world.change();
        batches += 1;
    }
    assert!(world.claims >= wanted, "only {} places were claimed in {batches} batches", world.claims);
    eprintln!("{} places claimed in {batches} batches", world.claims);
    for id in world.held.keys() {
        assert!(world.core.remove_pod(*id).is_some());
    }
    for name in world.nodes.keys() {
        let usage = world.core.usage(world.core.node(name).expect("present"));
        assert!(usage.pods == 0 && amounts(&usage.requested).iter().all(|(_, amount)| *amount == 0), "left on {name}");
    }
}
