//! One class's sums over topology domains: what its spread constraints, its affinity and the terms of other pods
//! come to on each node.
//!
//! Each sum is over one topology key. Where every node is a domain of its own (host names), the sum of a domain is a
//! fact of that node, and nodes with equal sums are interchangeable; where domains span nodes (zones), nodes of one
//! domain are. Either way a node is described by one number per sum, its *cell*, and nodes with equal cells are judged
//! and scored once.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use crate::bond::{Link, Spread};
use crate::census::{Pull, TallyId};
use crate::intern::Symbol;
use crate::ledger::NodeId;
use crate::lens::Lens;
use crate::pod::Class;
use crate::reason::{Filter, Reason};
use crate::state::State;

/// The label whose values are nodes.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Cell of a node without the key.
pub(crate) const MISSING: i64 = i64::MIN;
const NO_DOMAIN: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Index into the class's hard constraints.
    Hard(usize),
    Soft(usize),
    Affinity,
    AntiAffinity,
    /// Terms of other pods that keep this class away.
    Barred,
    Preference,
}

#[derive(Clone, Copy, Debug)]
struct Share {
    domain: u32,
    counted: bool,
    value: i64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Domain {
    nodes: u32,
    /// Nodes that the constraint counts.
    counted: u32,
    sum: i64,
}

/// One sum.
#[derive(Debug)]
struct Sum {
    role: Role,
    key: Symbol,
    sources: Vec<(TallyId, i64)>,
    /// The cell is the node's own count, whatever its domain: how spread scores host names.
    own_only: bool,
    /// Every domain is one node, so far.
    local: bool,
    shares: Vec<Share>,
    domains: Vec<Domain>,
    by_value: FxHashMap<Symbol, u32>,
    /// Domains with more than one node.
    shared: usize,
    /// A domain of several nodes was met where every domain was one node: the cells are not to be trusted any more.
    mixed: bool,
    /// Sum over all domains.
    total: i64,
    /// How many counted domains have which sum, for hard spread only.
    levels: Option<BTreeMap<i64, u32>>,
}

impl Sum {
    fn new(role: Role, key: Symbol, sources: Vec<(TallyId, i64)>) -> Sum {
        let levels = matches!(role, Role::Hard(_)).then(BTreeMap::new);
        Sum {
            role,
            key,
            sources,
            own_only: false,
            local: true,
            shares: Vec::new(),
            domains: Vec::new(),
            by_value: FxHashMap::default(),
            shared: 0,
            mixed: false,
            total: 0,
            levels,
        }
    }

    fn read(&self, state: &State, node: NodeId) -> i64 {
        self.sources.iter().map(|(tally, weight)| weight * state.census.on(*tally, node)).sum()
    }

    fn level(&mut self, domain: u32, add: bool) {
        let Domain { counted, sum, .. } = self.domains[domain as usize];
        let Some(levels) = self.levels.as_mut().filter(|_| counted > 0) else { return };
        let count = levels.entry(sum).or_default();
        if add {
            *count += 1;
        } else {
            *count -= 1;
            if *count == 0 {
                levels.remove(&sum);
            }
        }
    }

    /// Changes what a node adds to its domain.
    fn put(&mut self, node: NodeId, counted: bool, value: i64) {
        let Share { domain, counted: counted_before, value: before } = self.shares[node.row()];
        if domain == NO_DOMAIN || (counted, value) == (counted_before, before) {
            return;
        }
        self.level(domain, false);
        let of = &mut self.domains[domain as usize];
        if counted_before {
            of.sum -= before;
            of.counted -= 1;
            self.total -= before;
        }
        if counted {
            of.sum += value;
            of.counted += 1;
            self.total += value;
        }
        self.level(domain, true);
        self.shares[node.row()] = Share { domain, counted, value };
    }

    /// Moves a node to the domain that its label names now.
    fn settle(&mut self, node: NodeId, value: Option<Symbol>) {
        self.put(node, false, 0);
        let before = self.shares[node.row()].domain;
        if before != NO_DOMAIN {
            let of = &mut self.domains[before as usize];
            of.nodes -= 1;
            self.shared -= usize::from(of.nodes == 1);
        }
        let domain = value.map_or(NO_DOMAIN, |value| {
            *self.by_value.entry(value).or_insert_with(|| {
                self.domains.push(Domain::default());
                (self.domains.len() - 1) as u32
            })
        });
        if domain != NO_DOMAIN {
            let of = &mut self.domains[domain as usize];
            of.nodes += 1;
            self.shared += usize::from(of.nodes == 2);
            self.mixed |= self.local && self.shared > 0;
        }
        self.shares[node.row()] = Share { domain, counted: false, value: 0 };
    }

    fn cell(&self, node: NodeId) -> i64 {
        let Share { domain, value, .. } = self.shares[node.row()];
        match domain {
            NO_DOMAIN => MISSING,
            _ if self.own_only => value,
            domain if self.local => self.domains[domain as usize].sum,
            domain => i64::from(domain),
        }
    }

    /// The sum behind a cell that is not [`MISSING`].
    fn of_cell(&self, cell: i64) -> i64 {
        if self.own_only || self.local { cell } else { self.domains[cell as usize].sum }
    }

    /// The fewest that any domain has, by the constraint's rules.
    fn fewest(&self, min_domains: usize) -> i64 {
        let Some(levels) = &self.levels else { return 0 };
        let domains: usize = levels.values().map(|count| *count as usize).sum();
        match levels.first_key_value() {
            _ if domains < min_domains => 0,
            Some((fewest, _)) => *fewest,
            None => i64::from(i32::MAX),
        }
    }
}

/// What the class's constraints on other pods come to, true of the cluster as its owner keeps it ([`Topology::refresh`]).
#[derive(Debug, Default)]
pub(crate) struct Topology {
    sums: Vec<Sum>,
    epochs: (u64, u64),
    all_topologies: bool,
    /// The pod satisfies its own required affinity, so that the first of its kind may be placed.
    selects_itself: bool,
    soft_keys: Vec<usize>,
    hard_keys: Vec<usize>,
}

/// Whether a class has anything to do with other pods, in either direction.
pub(crate) fn is_bound(state: &State, class: &Class) -> bool {
    !class.bonds.is_empty() || state.census.meets_terms(class.bonds.profile)
}

impl Topology {
    /// Empty for a class that has nothing to do with other pods.
    pub fn new(state: &State, class: &Class, lens: &mut Lens) -> Topology {
        let mut topology = Topology {
            epochs: epochs(state, class),
            all_topologies: class.bonds.all_topologies,
            ..Topology::default()
        };
        if !is_bound(state, class) {
            return topology;
        }
        topology.sums = sums(state, class);
        let selects = |link: &Link| state.census.selects(link.tally, class.bonds.profile);
        topology.selects_itself = class.bonds.affinity.first().is_some_and(selects);
        topology.hard_keys = topology.with_role(|role| matches!(role, Role::Hard(_)));
        topology.soft_keys = topology.with_role(|role| matches!(role, Role::Soft(_)));
        topology.grow(state.nodes.len());
        for id in state.ids() {
            topology.settle(state, class, lens, id);
        }
        for sum in &mut topology.sums {
            sum.local = sum.shared == 0;
            sum.mixed = false;
        }
        topology
    }

    fn with_role(&self, wanted: impl Fn(Role) -> bool) -> Vec<usize> {
        (0..self.sums.len()).filter(|at| wanted(self.sums[*at].role)).collect()
    }

    /// Whether the class has nothing to do with other pods.
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    /// Number of sums: memory per node.
    pub fn width(&self) -> usize {
        self.sums.len()
    }

    /// Whether it still sums up what it should: the terms of other pods are the same, and domains that were single
    /// nodes still are.
    pub fn is_current(&self, state: &State, class: &Class) -> bool {
        self.epochs == epochs(state, class) && self.sums.iter().all(|sum| !sum.mixed || sum.own_only)
    }

    /// Makes room for rows that are new.
    pub fn grow(&mut self, rows: usize) {
        let nowhere = Share { domain: NO_DOMAIN, counted: false, value: 0 };
        self.sums.iter_mut().for_each(|sum| sum.shares.resize(rows, nowhere));
    }

    /// Looks at a node as if for the first time.
    pub fn settle(&mut self, state: &State, class: &Class, lens: &mut Lens, id: NodeId) {
        if self.sums.is_empty() {
            return;
        }
        let node = state.node(id);
        for sum in &mut self.sums {
            let value = if node.present { state.label(id, sum.key) } else { None };
            sum.settle(id, value);
        }
        let complete = |keys: &[usize]| keys.iter().all(|at| self.sums[*at].shares[id.row()].domain != NO_DOMAIN);
        let (all_hard, all_soft) = (complete(&self.hard_keys), complete(&self.soft_keys) || !self.all_topologies);
        let (mut affinity, mut taints) = (None, None);
        for sum in &mut self.sums {
            let (spread, complete) = match sum.role {
                Role::Hard(at) => (&class.bonds.hard[at], all_hard),
                Role::Soft(at) => (&class.bonds.soft[at], all_soft),
                _ => {
                    let value = sum.read(state, id);
                    sum.put(id, node.present, value);
                    continue;
                }
            };
            let counted = node.present
                && complete
                && (!spread.honor_affinity || *affinity.get_or_insert_with(|| lens.admits(state, node)))
                && (!spread.honor_taints || *taints.get_or_insert_with(|| lens.tolerates(state, class, node)));
            let value = sum.read(state, id);
            sum.put(id, counted, value);
        }
    }

    /// Reads a node's counts again.
    pub fn refresh(&mut self, state: &State, id: NodeId) {
        for sum in &mut self.sums {
            let value = sum.read(state, id);
            let counted = sum.shares[id.row()].counted;
            if counted || sum.own_only {
                sum.put(id, counted, value);
            }
        }
    }

    /// Appends the node's cells.
    pub fn cells(&self, id: NodeId, into: &mut Vec<i64>) {
        into.extend(self.sums.iter().map(|sum| sum.cell(id)));
    }

    /// Runs the filters of topology spread and pod affinity on nodes with these cells.
    pub fn judge(&self, class: &Class, cells: &[i64]) -> Result<(), Reason> {
        self.judge_spread(class, cells).and_then(|()| self.judge_affinity(cells))
    }

    /// The filter of topology spread.
    pub fn judge_spread(&self, class: &Class, cells: &[i64]) -> Result<(), Reason> {
        for &at in &self.hard_keys {
            let (sum, cell) = (&self.sums[at], cells[at]);
            let Role::Hard(constraint) = sum.role else { continue };
            let Spread { max_skew, min_domains, own, .. } = class.bonds.hard[constraint];
            if cell == MISSING {
                return Err(Reason::SpreadLabel);
            }
            if sum.of_cell(cell) + own - sum.fewest(min_domains) > max_skew {
                return Err(Reason::Spread);
            }
        }
        Ok(())
    }

    /// The filter of pod affinity.
    pub fn judge_affinity(&self, cells: &[i64]) -> Result<(), Reason> {
        let mut affine = true;
        let mut lacks_key = false;
        let (mut anti, mut barred) = (false, false);
        for (sum, &cell) in self.sums.iter().zip(cells) {
            let here = |sum: &Sum| if cell == MISSING { 0 } else { sum.of_cell(cell) };
            match sum.role {
                Role::Affinity => {
                    lacks_key |= cell == MISSING;
                    affine &= here(sum) > 0;
                }
                Role::AntiAffinity => anti |= here(sum) > 0,
                Role::Barred => barred |= here(sum) > 0,
                Role::Hard(_) | Role::Soft(_) | Role::Preference => {}
            }
        }
        let joins = affine || self.selects_itself && self.nobody_to_join();
        if lacks_key || !joins {
            return Err(Reason::PodAffinity);
        }
        match (anti, barred) {
            (true, _) => Err(Reason::PodAntiAffinity),
            (_, true) => Err(Reason::ExistingAntiAffinity),
            _ => Ok(()),
        }
    }

    fn nobody_to_join(&self) -> bool {
        self.sums.iter().all(|sum| sum.role != Role::Affinity || sum.total == 0)
    }

    /// The raw score of pod affinity.
    pub fn attraction(&self, cells: &[i64]) -> i64 {
        let drawn = |(sum, cell): (&Sum, &i64)| {
            if sum.role == Role::Preference && *cell != MISSING { sum.of_cell(*cell) } else { 0 }
        };
        self.sums.iter().zip(cells).map(drawn).sum()
    }

    /// Whether nodes with these cells take no part in spreading.
    pub fn ignores(&self, cells: &[i64]) -> bool {
        self.all_topologies && self.soft_keys.iter().any(|at| cells[*at] == MISSING)
    }

    /// Whether there is a soft spread constraint.
    pub fn spreads(&self) -> bool {
        !self.soft_keys.is_empty()
    }

    /// The logarithmic weights of the soft constraints, from the cells of all feasible nodes with their numbers.
    pub fn spread_weights<'a>(&self, feasible: impl Iterator<Item = (&'a [i64], usize)> + Clone, into: &mut Vec<f64>) {
        into.clear();
        let taking_part = || feasible.clone().filter(|(cells, _)| !self.ignores(cells));
        for &at in &self.soft_keys {
            let sum = &self.sums[at];
            let size: usize = if sum.own_only {
                taking_part().map(|(_, nodes)| nodes).sum()
            } else if sum.local {
                // Nodes without the key are one domain more, where they take part at all.
                let with_key = taking_part().filter(|(cells, _)| cells[at] != MISSING).map(|(_, nodes)| nodes);
                with_key.sum::<usize>() + usize::from(taking_part().any(|(cells, _)| cells[at] == MISSING))
            } else {
                let mut seen = vec![false; sum.domains.len() + 1];
                let mut size = 0;
                for (cells, _) in taking_part() {
                    let slot = if cells[at] == MISSING { sum.domains.len() } else { cells[at] as usize };
                    size += usize::from(!std::mem::replace(&mut seen[slot], true));
                }
                size
            };
            into.push(((size + 2) as f64).ln());
        }
    }

    /// The raw score of spreading: the larger, the more crowded.
    pub fn crowding(&self, class: &Class, cells: &[i64], weights: &[f64]) -> i64 {
        let mut score = 0.0;
        for (at, weight) in self.soft_keys.iter().zip(weights) {
            let (sum, cell) = (&self.sums[*at], cells[*at]);
            if let (Role::Soft(constraint), true) = (sum.role, cell != MISSING) {
                score += sum.of_cell(cell) as f64 * weight + (class.bonds.soft[constraint].max_skew - 1) as f64;
            }
        }
        score.round() as i64
    }
}

fn epochs(state: &State, class: &Class) -> (u64, u64) {
    (state.census.epoch(class.bonds.profile), state.namespace_epoch)
}

/// The sums that a class needs, without any node yet.
fn sums(state: &State, class: &Class) -> Vec<Sum> {
    let (bonds, profile) = (&class.bonds, &class.profile);
    let barred = profile.filters.contains(Filter::InterPodAffinity);
    let required = i64::from(profile.hard_pod_affinity_weight);
    let drawn = profile.weights.pod_affinity != 0
        && !(profile.ignore_preferred_terms_of_existing_pods && bonds.preferred.is_empty());
    let sources = |spread: &Spread| spread.tally.map(|tally| (tally, 1)).into_iter().collect();
    let mut sums = Vec::new();
    for (at, spread) in bonds.hard.iter().enumerate() {
        sums.push(Sum::new(Role::Hard(at), spread.key, sources(spread)));
    }
    for (at, spread) in bonds.soft.iter().enumerate() {
        let mut sum = Sum::new(Role::Soft(at), spread.key, sources(spread));
        sum.own_only = state.labels.text(spread.key) == HOSTNAME;
        sums.push(sum);
    }
    for link in &bonds.affinity {
        sums.push(Sum::new(Role::Affinity, link.key, vec![(link.tally, 1)]));
    }
    // Sums of one role and key add up.
    let mut add = |role: Role, key: Symbol, tally: TallyId, weight: i64| match sums
        .iter_mut()
        .find(|sum| sum.role == role && sum.key == key)
    {
        Some(sum) => sum.sources.push((tally, weight)),
        None => sums.push(Sum::new(role, key, vec![(tally, weight)])),
    };
    for link in &bonds.anti_affinity {
        add(Role::AntiAffinity, link.key, link.tally, 1);
    }
    for link in &bonds.preferred {
        add(Role::Preference, link.key, link.tally, link.weight);
    }
    for (tally, carried) in state.census.terms(bonds.profile) {
        match carried.pull {
            Pull::Bar if barred => add(Role::Barred, carried.key, tally, 1),
            Pull::Required if drawn && required != 0 => add(Role::Preference, carried.key, tally, required),
            Pull::Weight(weight) if drawn => add(Role::Preference, carried.key, tally, i64::from(weight)),
            Pull::Bar | Pull::Required | Pull::Weight(_) => {}
        }
    }
    sums
}
