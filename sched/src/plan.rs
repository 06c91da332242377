//! A class's nodes in score order, kept so by reading what changed instead of looking at all of them again.
//!
//! Nodes are grouped by everything that is judged or normalised over all feasible nodes: taints, preferences, and the
//! cells of the class's topology. Within a group they lie in buckets by the sum of the scores that depend on one node
//! alone (0 to 300 by default). The best node is the best over groups of the normalised scores plus the group's highest bucket
//! that is not empty. A claim moves one node to another bucket, or to another group.

use rustc_hash::FxHashMap;

use crate::contest::{CELLS, Contest};
use crate::journal::Change;
use crate::ledger::NodeId;
use crate::lens::{Lens, Shape};
use crate::pod::Class;
use crate::score;
use crate::state::State;
use crate::topology::{self, Topology};

/// A node that a filter other than capacity and topology rejects.
const BARRED: u16 = u16::MAX;
/// A node that passes those filters and has no room.
const FULL: u16 = u16::MAX - 1;

/// Classes whose scores of one node alone may sum up to more than this have no plan.
pub(crate) const MAX_BUCKETS: usize = 4096;

/// Nodes from which on a plan is not all in a core's caches.
const LARGE: usize = 1 << 15;

/// Nodes of one key that have room.
#[derive(Debug)]
struct Group {
    key: Box<[i64]>,
    nodes: usize,
    buckets: Vec<Vec<NodeId>>,
    /// One bit per bucket: whether it holds anything.
    filled: Box<[u64]>,
}

impl Group {
    fn new(key: Box<[i64]>, buckets: usize) -> Group {
        Group { key, nodes: 0, buckets: vec![Vec::new(); buckets], filled: vec![0; buckets.div_ceil(64)].into() }
    }

    /// The highest bucket that holds anything.
    fn top(&self) -> Option<usize> {
        let word = self.filled.iter().rposition(|word| *word != 0)?;
        Some(word * 64 + 63 - self.filled[word].leading_zeros() as usize)
    }
}

/// Where a node lies.
#[derive(Clone, Copy, Debug)]
struct Place {
    group: u32,
    at: u32,
    bucket: u16,
}

const NOWHERE: Place = Place { group: 0, at: 0, bucket: BARRED };

/// The order, true of the cluster as of one position in the journal.
#[derive(Debug)]
pub(crate) struct Plan {
    position: u64,
    image_epoch: u64,
    lens: Lens,
    topology: Topology,
    /// One more than the largest sum of the scores that depend on one node alone.
    buckets: usize,
    groups: Vec<Group>,
    by_key: FxHashMap<Box<[i64]>, u32>,
    /// The group that was asked for last.
    last: u32,
    places: Vec<Place>,
    /// What each node is to the class beside its cells, where there are cells.
    shapes: Vec<Shape>,
    /// Image score per node, where any node has an image of the class.
    images: Vec<u8>,
    /// When it was last used, in the worker's count.
    pub used: u64,
    contest: Contest,
    key: Vec<i64>,
    feasible: Vec<u32>,
}

impl Plan {
    /// Looks at every node once.
    pub fn new(state: &State, class: &Class) -> Plan {
        let mut lens = Lens::new(state, class);
        // Before looking: what changes meanwhile is looked at again.
        let position = state.journal.end();
        let topology = Topology::new(state, class, &mut lens);
        let mut plan = Plan {
            position,
            image_epoch: state.image_epoch,
            lens,
            topology,
            buckets: score::max_own(class) + 1,
            groups: Vec::new(),
            by_key: FxHashMap::default(),
            last: 0,
            places: vec![NOWHERE; state.nodes.len()],
            shapes: Vec::new(),
            images: Vec::new(),
            used: 0,
            contest: Contest::default(),
            key: Vec::new(),
            feasible: Vec::new(),
        };
        if plan.lens.knows_images() {
            let score = |node| plan.lens.image_score(class, node) as u8;
            plan.images = state.nodes.iter().map(score).collect();
        }
        plan.grow(state);
        for id in state.ids() {
            plan.look(state, class, id);
        }
        plan
    }

    /// Memory it takes, in nodes.
    pub fn weight(&self) -> usize {
        self.places.len() * (1 + 2 * self.topology.width()) + self.groups.len() * self.buckets
    }

    /// Makes room for rows that are new.
    fn grow(&mut self, state: &State) {
        let rows = state.nodes.len();
        self.places.resize(rows, NOWHERE);
        if !self.images.is_empty() {
            self.images.resize(rows, 0);
        }
        if !self.topology.is_empty() {
            self.topology.grow(rows);
            self.shapes.resize(rows, Shape { against: 0, preferred: 0 });
        }
    }

    /// Reads the journal to its end. False if the plan cannot be brought up to date and must be made anew.
    pub fn catch_up(&mut self, state: &State, class: &Class) -> bool {
        if self.image_epoch != state.image_epoch {
            if self.lens.knows_images() || Lens::new(state, class).knows_images() {
                return false;
            }
            self.image_epoch = state.image_epoch;
        }
        if self.topology.is_empty() && topology::is_bound(state, class) || !self.topology.is_current(state, class) {
            return false;
        }
        let behind = state.journal.end() - self.position;
        if behind == 0 {
            return true;
        }
        // Groups that nodes left stay empty; where that is most of them, a new plan is smaller.
        let crowded = self.groups.len() > self.places.len() + 64;
        if crowded || self.position < state.journal.oldest() || behind > state.nodes.len() as u64 + 1024 {
            return false;
        }
        self.grow(state);
        let mut fresh = false;
        while let Some(Change { node, shape }) = state.journal.read(self.position) {
            self.position += 1;
            if shape {
                if !fresh {
                    self.lens = Lens::new(state, class);
                    fresh = true;
                }
                self.topology.settle(state, class, &mut self.lens, node);
                self.look(state, class, node);
                continue;
            }
            self.topology.refresh(state, node);
            if self.places[node.row()].bucket != BARRED {
                self.place(state, class, node);
            }
        }
        self.topology.is_current(state, class)
    }

    /// Looks at a node as if for the first time.
    fn look(&mut self, state: &State, class: &Class, id: NodeId) {
        self.take_out(id);
        match self.lens.look(state, class, state.node(id)) {
            Err(_) => self.places[id.row()].bucket = BARRED,
            Ok(shape) => {
                let group = self.group(id, shape);
                self.places[id.row()] = Place { group, at: 0, bucket: FULL };
                if !self.topology.is_empty() {
                    self.shapes[id.row()] = shape;
                }
                self.place(state, class, id);
            }
        }
    }

    /// The group that a node belongs to.
    fn group(&mut self, id: NodeId, shape: Shape) -> u32 {
        self.key.clear();
        self.key.extend([i64::from(shape.against), shape.preferred]);
        self.topology.cells(id, &mut self.key);
        // Nodes that are looked at one after another are often alike.
        if self.groups.get(self.last as usize).is_some_and(|group| *group.key == *self.key) {
            return self.last;
        }
        if let Some(group) = self.by_key.get(self.key.as_slice()) {
            self.last = *group;
            return *group;
        }
        let key: Box<[i64]> = self.key.as_slice().into();
        self.groups.push(Group::new(key.clone(), self.buckets));
        let group = (self.groups.len() - 1) as u32;
        self.by_key.insert(key, group);
        group
    }

    /// Moves a node to the group and bucket that its counts, room and scores of now ask for.
    pub fn place(&mut self, state: &State, class: &Class, id: NodeId) {
        let bucket = if state.ledger.fits(id, class.checked()) {
            let image = self.images.get(id.row()).copied().map_or(0, i64::from);
            score::own(&state.ledger, id, class, image) as u16
        } else {
            FULL
        };
        let before = self.places[id.row()];
        let group = if self.topology.is_empty() { before.group } else { self.group(id, self.shapes[id.row()]) };
        if (before.bucket, before.group) == (bucket, group) {
            return;
        }
        self.take_out(id);
        let place = &mut self.places[id.row()];
        (place.bucket, place.group) = (bucket, group);
        if bucket < FULL {
            let group = &mut self.groups[group as usize];
            let nodes = &mut group.buckets[bucket as usize];
            place.at = nodes.len() as u32;
            nodes.push(id);
            group.nodes += 1;
            group.filled[bucket as usize / 64] |= 1 << (bucket % 64);
        }
    }

    fn take_out(&mut self, id: NodeId) {
        let Place { group, at, bucket } = self.places[id.row()];
        if bucket >= FULL {
            return;
        }
        let group = &mut self.groups[group as usize];
        group.nodes -= 1;
        let nodes = &mut group.buckets[bucket as usize];
        nodes.swap_remove(at as usize);
        match nodes.get(at as usize) {
            Some(moved) => self.places[moved.row()].at = at,
            None if nodes.is_empty() => group.filled[bucket as usize / 64] &= !(1 << (bucket % 64)),
            None => {}
        }
        self.places[id.row()].bucket = FULL;
    }

    /// A node with the best total, any of them by `random`. `None`: no node has room.
    pub fn best(&mut self, class: &Class, random: u64) -> Option<NodeId> {
        let (nodes, _) = self.top(class)?;
        nodes.get((random % nodes.len() as u64) as usize).copied()
    }

    /// Reads what the next choices, by these numbers, will need if nobody else changes anything. In a large cluster it comes
    /// from memory: so all of it comes at once, instead of each piece when the one before has come.
    pub fn fetch(&mut self, state: &State, class: &Class, random: &[u64]) {
        if self.places.len() < LARGE {
            return;
        }
        let mut read = 0;
        if let Some((nodes, places)) = self.top(class) {
            // Each choice takes its node out of the bucket, and puts the last one where it was.
            for (random, left) in random.iter().zip((1..=nodes.len()).rev()) {
                let (chosen, moved) = (nodes[(random % left as u64) as usize], nodes[left - 1]);
                read += class.demand.takes.iter().map(|take| state.ledger.used(take.column, chosen)).sum::<i64>();
                read += i64::from(places[chosen.row()].at) + i64::from(places[moved.row()].at);
            }
        }
        std::hint::black_box(read);
    }

    /// The nodes with the best total, in no order, and the places of all.
    fn top(&mut self, class: &Class) -> Option<(&[NodeId], &[Place])> {
        let Plan { topology, groups, contest, feasible, places, .. } = self;
        feasible.clear();
        for (at, group) in groups.iter().enumerate() {
            if group.nodes > 0 && (topology.is_empty() || topology.judge(class, &group.key[CELLS..]).is_ok()) {
                feasible.push(at as u32);
            }
        }
        let candidates = feasible.iter().map(|at| &groups[*at as usize]).map(|group| (&*group.key, group.nodes));
        contest.open(class, topology, candidates);
        let mut best: Option<(i64, &[NodeId])> = None;
        for (at, group) in feasible.iter().map(|at| &groups[*at as usize]).enumerate() {
            let Some(top) = group.top() else { continue };
            let total = top as i64 + contest.marks(at, &group.key).total(&class.profile.weights);
            if best.is_none_or(|(best, _)| total > best) {
                best = Some((total, &group.buckets[top]));
            }
        }
        best.map(|(_, nodes)| (nodes, &**places))
    }
}
