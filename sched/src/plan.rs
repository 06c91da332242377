//! A class's nodes in score order, kept so by reading what changed instead of looking at all of them again.
//!
//! Nodes are grouped by the raw scores that are normalised over all feasible nodes; within a group they lie in buckets
//! by the sum of the scores that depend on one node alone (0 to 300). The best node is the best over groups of the
//! normalised scores plus the group's highest bucket that is not empty. A claim moves one node to another bucket.

use rustc_hash::FxHashMap;

use crate::columns::Demand;
use crate::journal::Change;
use crate::ledger::NodeId;
use crate::lens::{Lens, Shape};
use crate::pod::Class;
use crate::score::{self, AFFINITY_WEIGHT, MAX_OWN, TAINT_WEIGHT};
use crate::state::State;

/// A node that a filter other than capacity rejects.
const BARRED: u16 = u16::MAX;
/// A node that passes all other filters and has no room.
const FULL: u16 = u16::MAX - 1;

const BUCKETS: usize = MAX_OWN + 1;
const WORDS: usize = BUCKETS.div_ceil(64);

/// Nodes of one shape that have room.
#[derive(Debug)]
struct Group {
    shape: Shape,
    buckets: Vec<Vec<NodeId>>,
    /// One bit per bucket: whether it holds anything.
    filled: [u64; WORDS],
}

impl Group {
    fn new(shape: Shape) -> Group {
        Group { shape, buckets: vec![Vec::new(); BUCKETS], filled: [0; WORDS] }
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

/// The order, true of the cluster as of one position in the journal.
#[derive(Debug)]
pub(crate) struct Plan {
    position: u64,
    image_epoch: u64,
    lens: Lens,
    groups: Vec<Group>,
    by_shape: FxHashMap<Shape, u32>,
    places: Vec<Place>,
    /// Image score per node, where any node has an image of the class.
    images: Vec<u8>,
    /// When it was last used, in the worker's count.
    pub used: u64,
}

impl Plan {
    /// Looks at every node once.
    pub fn new(state: &State, class: &Class) -> Plan {
        let barred = Place { group: 0, at: 0, bucket: BARRED };
        let mut plan = Plan {
            // Before looking: what changes meanwhile is looked at again.
            position: state.journal.end(),
            image_epoch: state.image_epoch,
            lens: Lens::new(state, class),
            groups: Vec::new(),
            by_shape: FxHashMap::default(),
            places: vec![barred; state.nodes.len()],
            images: Vec::new(),
            used: 0,
        };
        if plan.lens.knows_images() {
            let score = |node| plan.lens.image_score(class, node) as u8;
            plan.images = state.nodes.iter().map(score).collect();
        }
        for id in state.ids() {
            plan.look(state, class, id);
        }
        plan
    }

    /// Memory it takes, in nodes.
    pub fn weight(&self) -> usize {
        self.places.len() + self.groups.len() * BUCKETS
    }

    /// Reads the journal to its end. False if the plan cannot be brought up to date and must be made anew.
    pub fn catch_up(&mut self, state: &State, class: &Class) -> bool {
        if self.image_epoch != state.image_epoch {
            if self.lens.knows_images() || Lens::new(state, class).knows_images() {
                return false;
            }
            self.image_epoch = state.image_epoch;
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
        let barred = Place { group: 0, at: 0, bucket: BARRED };
        self.places.resize(state.nodes.len(), barred);
        if !self.images.is_empty() {
            self.images.resize(state.nodes.len(), 0);
        }
        let mut fresh = false;
        while let Some(Change { node, shape }) = state.journal.read(self.position) {
            self.position += 1;
            if shape {
                if !fresh {
                    self.lens = Lens::new(state, class);
                    fresh = true;
                }
                self.look(state, class, node);
            } else if self.places[node.row()].bucket != BARRED {
                self.place(state, &class.demand, node);
            }
        }
        true
    }

    /// Looks at a node as if for the first time.
    fn look(&mut self, state: &State, class: &Class, id: NodeId) {
        self.take_out(id);
        match self.lens.look(state, class, state.node(id)) {
            Err(_) => self.places[id.row()].bucket = BARRED,
            Ok(shape) => {
                let group = *self.by_shape.entry(shape).or_insert_with(|| {
                    self.groups.push(Group::new(shape));
                    (self.groups.len() - 1) as u32
                });
                self.places[id.row()] = Place { group, at: 0, bucket: FULL };
                self.place(state, &class.demand, id);
            }
        }
    }

    /// Moves a node to the bucket that its room and scores of now ask for.
    pub fn place(&mut self, state: &State, demand: &Demand, id: NodeId) {
        let bucket = if state.ledger.fits(id, &demand.takes) {
            let own = score::least_allocated(&state.ledger, id, demand)
                + score::balanced_allocation(&state.ledger, id, demand)
                + self.images.get(id.row()).copied().map_or(0, i64::from);
            own as u16
        } else {
            FULL
        };
        let before = self.places[id.row()];
        if before.bucket == bucket {
            return;
        }
        self.take_out(id);
        let place = &mut self.places[id.row()];
        place.bucket = bucket;
        if bucket < FULL {
            let group = &mut self.groups[before.group as usize];
            let nodes = &mut group.buckets[bucket as usize];
            place.at = nodes.len() as u32;
            nodes.push(id);
            group.filled[bucket as usize / 64] |= 1 << (bucket % 64);
        }
    }

    fn take_out(&mut self, id: NodeId) {
        let Place { group, at, bucket } = self.places[id.row()];
        if bucket >= FULL {
            return;
        }
        let group = &mut self.groups[group as usize];
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
    pub fn best(&self, random: u64) -> Option<NodeId> {
        let (mut most_against, mut most_preferred) = (0, 0);
        for group in self.groups.iter().filter(|group| group.top().is_some()) {
            most_against = most_against.max(i64::from(group.shape.against));
            most_preferred = most_preferred.max(group.shape.preferred);
        }
        let mut best: Option<(i64, &[NodeId])> = None;
        for group in &self.groups {
            let Some(top) = group.top() else { continue };
            let total = top as i64
                + TAINT_WEIGHT * score::normalized_taints(i64::from(group.shape.against), most_against)
                + AFFINITY_WEIGHT * score::normalized_affinity(group.shape.preferred, most_preferred);
            if best.is_none_or(|(best, _)| total > best) {
                best = Some((total, &group.buckets[top]));
            }
        }
        let (_, nodes) = best?;
        nodes.get((random % nodes.len() as u64) as usize).copied()
    }
}
