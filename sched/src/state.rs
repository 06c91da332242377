//! Nodes: what workers read while they place pods, and how it changes between batches.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::census::Census;
use crate::columns::{Columns, EPHEMERAL_STORAGE, Kind, MEMORY, MILLI_CPU, PODS};
use crate::intern::{Interner, Symbol};
use crate::inventory::Inventory;
use crate::journal::Journal;
use crate::ledger::{Ledger, NodeId};
use crate::pod::Class;
use crate::queue::Events;
use crate::resources::Resources;
use crate::storage::Storage;
use crate::taint::Taint;

/// A node as the API tells of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeSpec {
    pub name: Arc<str>,
    /// `status.allocatable` without pods.
    pub allocatable: Resources,
    /// `status.allocatable.pods`.
    pub pods: i64,
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`: cordoned.
    pub unschedulable: bool,
    /// Names of images on the node, each with its size in bytes.
    pub images: Vec<(Arc<str>, i64)>,
    /// `status.declaredFeatures`.
    pub features: Vec<Arc<str>>,
}

/// One row's facts beside the ledger's.
#[derive(Debug)]
pub(crate) struct Node {
    pub name: Arc<str>,
    /// False where only pods remain of it, or nothing: pods may be known before, and stay after, their node.
    pub present: bool,
    pub unschedulable: bool,
    /// Sorted by key.
    pub labels: Box<[(Symbol, Symbol)]>,
    /// Index into the taint sets.
    pub taints: u32,
    /// Sorted by image.
    pub images: Box<[(Symbol, i64)]>,
    extended: Box<[u32]>,
    pub features: Box<[Arc<str>]>,
}

/// Distinct sets of taints, counted. Number 0 is the empty one, held for good.
#[derive(Debug)]
struct TaintSets {
    by_set: FxHashMap<Arc<[Taint]>, u32>,
    sets: Vec<(Arc<[Taint]>, u32)>,
    vacant: Vec<u32>,
}

impl TaintSets {
    fn hold(&mut self, taints: &[Taint]) -> u32 {
        if let Some(&set) = self.by_set.get(taints) {
            self.sets[set as usize].1 += 1;
            return set;
        }
        let taints: Arc<[Taint]> = taints.into();
        let set = match self.vacant.pop() {
            Some(set) => {
                self.sets[set as usize] = (taints.clone(), 1);
                set
            }
            None => {
                self.sets.push((taints.clone(), 1));
                (self.sets.len() - 1) as u32
            }
        };
        self.by_set.insert(taints, set);
        set
    }

    fn drop_hold(&mut self, set: u32) {
        let (taints, holds) = &mut self.sets[set as usize];
        *holds -= 1;
        if *holds == 0 {
            self.by_set.remove(taints);
            self.vacant.push(set);
        }
    }
}

/// Everything that workers share. They write to the ledger and the journal only.
#[derive(Debug)]
pub(crate) struct State {
    pub ledger: Ledger,
    pub columns: Columns,
    pub journal: Journal,
    pub nodes: Vec<Node>,
    pub labels: Interner,
    pub census: Census,
    pub storage: Storage,
    pub inventory: Inventory,
    /// Grows when selectors of namespaces may see one differently.
    pub namespace_epoch: u64,
    pub images: Interner,
    /// Grows when the share of nodes that have an image may have changed.
    pub image_epoch: u64,
    /// Nodes that are present.
    pub present: usize,
    taint_sets: TaintSets,
    rows: FxHashMap<Arc<str>, NodeId>,
    vacant: Vec<NodeId>,
}

/// The journal keeps at least this many entries, and twice the number of nodes.
const MIN_JOURNAL: usize = 1 << 14;

impl State {
    pub fn new() -> State {
        let mut ledger = Ledger::default();
        let columns = Columns::new(&mut ledger);
        let empty: Arc<[Taint]> = Arc::new([]);
        State {
            ledger,
            columns,
            journal: Journal::new(),
            nodes: Vec::new(),
            labels: Interner::default(),
            census: Census::default(),
            storage: Storage::default(),
            inventory: Inventory::default(),
            namespace_epoch: 0,
            images: Interner::default(),
            image_epoch: 0,
            present: 0,
            taint_sets: TaintSets {
                by_set: FxHashMap::from_iter([(empty.clone(), 0)]),
                sets: vec![(empty, 1)],
                vacant: Vec::new(),
            },
            rows: FxHashMap::default(),
            vacant: Vec::new(),
        }
    }

    /// The node with this name, whether or not it is present.
    pub fn row(&self, name: &str) -> Option<NodeId> {
        self.rows.get(name).copied()
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.row()]
    }

    /// The value of a node's label.
    pub fn label(&self, id: NodeId, key: Symbol) -> Option<Symbol> {
        let labels = &self.node(id).labels;
        labels.binary_search_by_key(&key, |(have, _)| *have).ok().map(|at| labels[at].1)
    }

    /// Rows in use or not, in order.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// The taints of a set.
    pub fn taints(&self, set: u32) -> &[Taint] {
        &self.taint_sets.sets[set as usize].0
    }

    /// Number of taint sets, vacant ones included.
    pub fn taint_set_count(&self) -> usize {
        self.taint_sets.sets.len()
    }

    /// Makes room in the journal for `more` entries.
    pub fn reserve_journal(&mut self, more: usize) {
        self.journal.reserve(more, MIN_JOURNAL.max(2 * self.nodes.len()));
    }

    /// Tells the plans that a node changed; `shape`: in more than its capacity and pods.
    pub fn touch(&mut self, id: NodeId, shape: bool) {
        self.reserve_journal(1);
        self.journal.push(id, shape);
    }

    /// The row of a node, made if there is none.
    pub fn row_or_new(&mut self, name: &Arc<str>) -> NodeId {
        if let Some(id) = self.row(name) {
            return id;
        }
        let node = Node {
            name: name.clone(),
            present: false,
            unschedulable: false,
            labels: Box::default(),
            taints: self.taint_sets.hold(&[]),
            images: Box::default(),
            extended: Box::default(),
            features: Box::default(),
        };
        let id = match self.vacant.pop() {
            Some(id) => {
                self.nodes[id.row()] = node;
                id
            }
            None => {
                self.nodes.push(node);
                self.ledger.push_row(|column| self.columns.own_capacity(column))
            }
        };
        self.rows.insert(name.clone(), id);
        id
    }

    /// Puts a node as it is now; says what pods that wait may hope for.
    pub fn upsert(&mut self, spec: &NodeSpec) -> Events {
        let id = self.row_or_new(&spec.name);
        let mut events = Events::default();
        if !self.nodes[id.row()].present {
            self.nodes[id.row()].present = true;
            self.present += 1;
            if !self.images.is_empty() {
                self.image_epoch += 1;
            }
            events |= Events::NODE_ADDED;
        }
        let (capacity_changed, capacity_grew) = self.set_capacities(id, spec);
        if capacity_grew {
            events |= Events::NODE_ALLOCATABLE;
        }
        events |= self.set_shape(id, spec);
        let cordon = &mut self.nodes[id.row()].unschedulable;
        let cordoned_before = std::mem::replace(cordon, spec.unschedulable);
        if cordoned_before && !spec.unschedulable {
            events |= Events::NODE_SCHEDULABLE;
        }
        let shape = cordoned_before != spec.unschedulable
            || events
                .intersects(Events::NODE_ADDED | Events::NODE_LABELS | Events::NODE_TAINTS | Events::NODE_FEATURES);
        if self.set_images(id, spec) {
            self.image_epoch += 1;
        }
        if shape || capacity_changed {
            self.touch(id, shape);
        }
        events
    }

    /// Whether any capacity changed, and whether one grew.
    fn set_capacities(&mut self, id: NodeId, spec: &NodeSpec) -> (bool, bool) {
        let mut wanted = vec![
            (PODS, spec.pods),
            (MILLI_CPU, spec.allocatable.milli_cpu),
            (MEMORY, spec.allocatable.memory),
            (EPHEMERAL_STORAGE, spec.allocatable.ephemeral_storage),
        ];
        let mut extended = Vec::with_capacity(spec.allocatable.extended.len());
        for (name, amount) in &spec.allocatable.extended {
            let column = self.columns.hold(&mut self.ledger, Kind::Extended(name.clone()));
            extended.push(column);
            wanted.push((column, *amount));
        }
        let before = std::mem::replace(&mut self.nodes[id.row()].extended, extended.into());
        for column in &before {
            if !self.nodes[id.row()].extended.contains(column) {
                wanted.push((*column, 0));
            }
        }
        let mut changed = false;
        let mut grew = false;
        for &(column, amount) in &wanted {
            match self.ledger.set_capacity(column, id, amount) {
                std::cmp::Ordering::Equal => {}
                ordering => {
                    changed = true;
                    grew |= ordering.is_gt();
                }
            }
        }
        // Only now: the last hold takes the column with it.
        for column in before {
            self.columns.drop_hold(&mut self.ledger, column);
        }
        (changed, grew)
    }

    fn set_shape(&mut self, id: NodeId, spec: &NodeSpec) -> Events {
        let mut events = Events::default();
        let mut labels: Vec<(Symbol, Symbol)> =
            spec.labels.iter().map(|(key, value)| (self.labels.hold(key), self.labels.hold(value))).collect();
        labels.sort_unstable();
        // The new ones are held before the old ones are dropped, so that symbols in both keep their numbers.
        let before = std::mem::replace(&mut self.nodes[id.row()].labels, labels.into());
        for (key, value) in &before {
            self.labels.drop_hold(*key);
            self.labels.drop_hold(*value);
        }
        if self.nodes[id.row()].labels != before {
            events |= Events::NODE_LABELS;
        }
        let taints = self.taint_sets.hold(&spec.taints);
        let before = std::mem::replace(&mut self.nodes[id.row()].taints, taints);
        self.taint_sets.drop_hold(before);
        if taints != before {
            events |= Events::NODE_TAINTS;
        }
        let features = &mut self.nodes[id.row()].features;
        if **features != *spec.features {
            *features = spec.features.as_slice().into();
            events |= Events::NODE_FEATURES;
        }
        events
    }

    fn set_images(&mut self, id: NodeId, spec: &NodeSpec) -> bool {
        let mut images: Vec<(Symbol, i64)> =
            spec.images.iter().map(|(name, size)| (self.images.hold(name), *size)).collect();
        images.sort_unstable();
        images.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                self.images.drop_hold(later.0);
            }
            same
        });
        let before = std::mem::replace(&mut self.nodes[id.row()].images, images.into());
        for (image, _) in &before {
            self.images.drop_hold(*image);
        }
        self.nodes[id.row()].images != before
    }

    /// Takes a node away; its pods stay booked until they go. False if it was not there.
    pub fn remove(&mut self, name: &str) -> bool {
        let Some(id) = self.row(name).filter(|id| self.node(*id).present) else { return false };
        let gone = NodeSpec { name: self.node(id).name.clone(), ..NodeSpec::default() };
        self.set_capacities(id, &gone);
        self.set_shape(id, &gone);
        if self.set_images(id, &gone) || !self.images.is_empty() {
            self.image_epoch += 1;
        }
        let node = &mut self.nodes[id.row()];
        node.present = false;
        node.unschedulable = false;
        self.present -= 1;
        self.touch(id, true);
        self.vacate(id);
        true
    }

    /// Books a pod that is bound already.
    pub fn book(&mut self, id: NodeId, class: &Class, live: bool) {
        self.ledger.book(id, &class.demand.takes);
        self.ledger.book(id, &class.demand.scored());
        self.count(id, class, live, 1);
        self.touch(id, false);
    }

    /// Frees what a pod held.
    pub fn release(&mut self, id: NodeId, class: &Class, live: bool) {
        self.lift(id, class, live);
        self.vacate(id);
    }

    /// Takes away for a moment what a pod holds; [`State::book`] puts it back.
    pub fn lift(&mut self, id: NodeId, class: &Class, live: bool) {
        self.ledger.release(id, &class.demand.takes);
        self.ledger.release(id, &class.demand.scored());
        self.count(id, class, live, -1);
        self.touch(id, false);
    }

    /// Counts a pod in (1) or out (-1), for the constraints of others. [`State::claim`] leaves that to its caller.
    pub fn count(&mut self, id: NodeId, class: &Class, live: bool, by: i32) {
        self.census.count(class.bonds.profile, &class.bonds.carries, id, live, by);
        if !class.template.volumes.is_empty() {
            self.storage.count(class, id, by);
        }
    }

    /// A pod that is there began to terminate.
    pub fn retire(&mut self, id: NodeId, class: &Class) {
        self.census.retire(class.bonds.profile, id);
        self.touch(id, false);
    }

    /// Gives up the row of a node that is gone with all its pods.
    fn vacate(&mut self, id: NodeId) {
        let node = &self.nodes[id.row()];
        if !node.present && self.ledger.used(PODS, id) == 0 && self.rows.remove(&node.name).is_some() {
            self.taint_sets.drop_hold(self.nodes[id.row()].taints);
            self.nodes[id.row()].name = "".into();
            self.vacant.push(id);
        }
    }

    /// Claims a node for a pod, and tells the other workers. False if it no longer fits.
    pub fn claim(&self, id: NodeId, class: &Class) -> bool {
        let won = self.ledger.claim(id, class.checked());
        if won {
            if let Some((_, free)) = &class.apart {
                self.ledger.book(id, free);
            }
            self.ledger.book(id, &class.demand.scored());
            self.journal.push(id, false);
        }
        won
    }
}
