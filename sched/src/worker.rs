//! One worker: places pods on the shared state, with plans of its own.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::contest::{CELLS, Contest, Key};
use crate::ledger::NodeId;
use crate::plan::{MAX_BUCKETS, Plan};
use crate::pod::Class;
use crate::score::{self, Scores};
use crate::state::State;
use crate::topology;
use crate::view::View;

/// Nodes that all plans of one worker may hold together (12 bytes each): the least recently used ones go.
const MAX_WEIGHT: usize = 4 << 20;

/// What one worker keeps between batches.
#[derive(Debug)]
pub(crate) struct Worker {
    plans: FxHashMap<u64, Plan>,
    weight: usize,
    clock: u64,
    random: Random,
    scan: Scan,
    contest: Contest,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: NodeId,
    own: i64,
    /// By its devices, not normalised.
    devices: i64,
}

impl Worker {
    /// A worker whose choices among equals follow from `seed`.
    pub fn new(seed: u64) -> Worker {
        Worker {
            plans: FxHashMap::default(),
            weight: 0,
            clock: 0,
            random: Random::new(seed),
            scan: Scan::default(),
            contest: Contest::default(),
        }
    }

    /// Chooses a node with the best score and claims it; `None` if no node has room.
    pub fn place(&mut self, state: &State, class: &Class) -> Option<NodeId> {
        let asked_before = class.ask();
        let bound = topology::is_bound(state, class);
        // A class that looks at other pods has sums to keep; one that names its nodes has few to look at.
        let planned = !class.attached
            && (bound || class.named.is_none() && (asked_before || self.plans.contains_key(&class.id)))
            && score::max_own(class) < MAX_BUCKETS;
        loop {
            let id = if planned { self.choose_planned(state, class) } else { self.choose_scanned(state, class) }?;
            if state.claim(id, class) {
                return Some(id);
            }
            // Another worker was faster, and the journal may not tell of it yet.
            if let Some(plan) = self.plans.get_mut(&class.id) {
                plan.place(state, class, id);
            }
        }
    }

    fn choose_planned(&mut self, state: &State, class: &Class) -> Option<NodeId> {
        let random = self.random.next();
        self.clock += 1;
        if let Some(plan) = self.plans.get_mut(&class.id) {
            let before = plan.weight();
            if plan.catch_up(state, class) {
                self.weight = self.weight + plan.weight() - before;
                plan.used = self.clock;
                if self.random.is_new() {
                    plan.fetch(state, class, self.random.ahead());
                }
                return plan.best(class, random);
            }
            self.weight -= before;
            self.plans.remove(&class.id);
        }
        let mut plan = Plan::new(state, class);
        plan.used = self.clock;
        let best = plan.best(class, random);
        self.make_room(plan.weight());
        self.weight += plan.weight();
        self.plans.insert(class.id, plan);
        best
    }

    fn make_room(&mut self, weight: usize) {
        if self.weight + weight <= MAX_WEIGHT {
            return;
        }
        // Half at once, so that this stays rare.
        let mut by_age: Vec<(u64, u64)> = self.plans.iter().map(|(class, plan)| (plan.used, *class)).collect();
        by_age.sort_unstable();
        for (_, class) in by_age {
            if self.weight + weight <= MAX_WEIGHT / 2 {
                break;
            }
            if let Some(plan) = self.plans.remove(&class) {
                self.weight -= plan.weight();
            }
        }
    }

    /// Drops the plans of classes that are gone.
    pub fn keep_only(&mut self, alive: &FxHashSet<u64>) {
        self.plans.retain(|class, _| alive.contains(class));
        self.weight = self.plans.values().map(Plan::weight).sum();
    }

    /// Looks at each node that may do, once, and keeps nothing.
    fn choose_scanned(&mut self, state: &State, class: &Class) -> Option<NodeId> {
        let mut scan = std::mem::take(&mut self.scan);
        let mut view = View::new(state, class);
        candidates(state, class, &mut view, &mut scan);
        self.contest.open(class, &view.topology, scan.keys());
        let (most_devices, weights) = (scan.most_devices(), &class.profile.weights);
        let mut best = None;
        let mut most = i64::MIN;
        let mut equals = 0;
        for (at, (candidate, key)) in scan.nodes.iter().zip(scan.keys().map(|(key, _)| key)).enumerate() {
            let devices = weights.dynamic_resources * score::normalized_devices(candidate.devices, most_devices);
            let total = candidate.own + devices + self.contest.marks(at, key).total(weights);
            if total > most {
                (most, best, equals) = (total, Some(candidate.id), 1);
            } else if total == most {
                // Each of n equals is chosen with probability 1/n.
                equals += 1;
                if self.random.next().is_multiple_of(equals) {
                    best = Some(candidate.id);
                }
            }
        }
        self.scan = scan;
        best
    }
}

/// Numbers that chance draws, known some draws ahead.
#[derive(Debug)]
struct Random {
    state: u64,
    drawn: [u64; Random::AHEAD],
    next: usize,
}

impl Random {
    const AHEAD: usize = 16;

    fn new(seed: u64) -> Random {
        // An xorshift generator must not start from 0.
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Random { state, drawn: [0; Random::AHEAD], next: Random::AHEAD }
    }

    fn next(&mut self) -> u64 {
        if self.next == Random::AHEAD {
            for drawn in &mut self.drawn {
                self.state ^= self.state << 13;
                self.state ^= self.state >> 7;
                self.state ^= self.state << 17;
                *drawn = self.state;
            }
            self.next = 0;
        }
        self.next += 1;
        self.drawn[self.next - 1]
    }

    /// Whether the last number was the first of those that are known.
    fn is_new(&self) -> bool {
        self.next == 1
    }

    /// The last number and those to come.
    fn ahead(&self) -> &[u64] {
        &self.drawn[self.next - 1..]
    }
}

/// Feasible nodes with their keys, one after another.
#[derive(Debug, Default)]
struct Scan {
    nodes: Vec<Candidate>,
    keys: Vec<i64>,
    width: usize,
}

impl Scan {
    fn most_devices(&self) -> i64 {
        self.nodes.iter().map(|candidate| candidate.devices).max().unwrap_or(0)
    }

    fn keys(&self) -> impl Iterator<Item = (&Key, usize)> + Clone {
        self.keys.chunks_exact(self.width.max(1)).map(|key| (key, 1))
    }
}

/// Collects the feasible nodes.
fn candidates(state: &State, class: &Class, view: &mut View, into: &mut Scan) {
    into.nodes.clear();
    into.keys.clear();
    into.width = CELLS + view.topology.width();
    if view.refusal(class).is_some() {
        return;
    }
    let View { lens, topology, binding, allotment } = view;
    let mut look = |id: NodeId| {
        if !state.ledger.fits(id, class.checked()) {
            return;
        }
        let node = state.node(id);
        let Ok(shape) = lens.look(state, class, node) else { return };
        if binding.as_ref().is_some_and(|binding| binding.judge(state, id).is_err()) {
            return;
        }
        let before = into.keys.len();
        into.keys.extend([i64::from(shape.against), shape.preferred]);
        topology.cells(id, &mut into.keys);
        if topology.judge(class, &into.keys[before + CELLS..]).is_err() {
            into.keys.truncate(before);
            return;
        }
        let devices = match allotment.as_ref().map_or(Ok(0), |allotment| allotment.judge(state, id)) {
            Ok(devices) => devices,
            Err(_) => {
                into.keys.truncate(before);
                return;
            }
        };
        let own = score::own(&state.ledger, id, class, lens.image_score(class, node));
        into.nodes.push(Candidate { id, own, devices });
    };
    match &class.named {
        Some(names) => names.iter().filter_map(|name| state.row(name)).for_each(&mut look),
        None => state.ids().for_each(&mut look),
    }
}

/// Scores as plugins count them, before they are normalised.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw {
    pub against: i64,
    pub preferred: i64,
    /// `None`: the node takes no part in spreading.
    pub crowding: Option<i64>,
    /// `None`: no pod says anything about it.
    pub attraction: Option<i64>,
    /// `None`: the pod has no claims.
    pub devices: Option<i64>,
}

/// The score vectors of all feasible nodes, in row order.
pub(crate) fn score_all(state: &State, class: &Class) -> Vec<(NodeId, Scores, Raw)> {
    let mut view = View::new(state, class);
    let mut scan = Scan::default();
    candidates(state, class, &mut view, &mut scan);
    let mut contest = Contest::default();
    contest.open(class, &view.topology, scan.keys());
    let most_devices = scan.most_devices();
    let scored = class.profile.weights.dynamic_resources != 0;
    let scores = |(at, (candidate, (key, _))): (usize, (&Candidate, (&Key, usize)))| {
        let marks = contest.marks(at, key);
        let scores = Scores {
            fit: score::fit(&state.ledger, candidate.id, class),
            balanced_allocation: score::balanced(&state.ledger, candidate.id, class),
            image_locality: view.lens.image_score(class, state.node(candidate.id)),
            taint_toleration: marks.taint_toleration,
            node_affinity: marks.node_affinity,
            topology_spread: marks.topology_spread,
            pod_affinity: marks.pod_affinity,
            dynamic_resources: if scored { score::normalized_devices(candidate.devices, most_devices) } else { 0 },
        };
        let (crowding, attraction) = contest.raw(at);
        let devices = view.allotment.as_ref().map(|_| candidate.devices);
        (candidate.id, scores, Raw { against: key[0], preferred: key[1], crowding, attraction, devices })
    };
    let mut scored: Vec<_> = scan.nodes.iter().zip(scan.keys()).enumerate().map(scores).collect();
    scored.sort_unstable_by_key(|(id, ..)| *id);
    scored
}
