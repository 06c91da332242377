//! One class looking at nodes: its selectors resolved against the labels of now, its view of each set of taints.

use std::sync::Arc;

use crate::columns::{EPHEMERAL_STORAGE, Kind, MEMORY, MILLI_CPU, PODS};
use crate::intern::Symbol;
use crate::ledger::{NodeId, Take};
use crate::pod::Class;
use crate::reason::{Filter, Reason};
use crate::score;
use crate::selector::{NodeSelectorTerm, Required, Term};
use crate::state::{Node, State};
use crate::taint::{self, TaintVerdict};

/// What a node is to a class, whatever its capacity: the raw scores that are normalised over all feasible nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Shape {
    /// `PreferNoSchedule` taints that are not tolerated.
    pub against: u32,
    /// Weights of the preferred terms that hold.
    pub preferred: i64,
}

/// The filter that rejects a node whatever its capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Barred {
    Absent,
    Unschedulable,
    Name,
    Taint,
    /// By what the profile adds.
    Added,
    Affinity,
    Features,
}

/// Valid until a node changes its shape.
#[derive(Debug)]
pub(crate) struct Lens {
    required: Required,
    /// Required of all pods of the profile.
    added: Option<Vec<Term>>,
    preferred: Vec<(i64, Term)>,
    taints: Vec<Option<TaintVerdict>>,
    /// Images that some node has, with the share of nodes that do.
    images: Vec<(Symbol, f64)>,
}

impl Lens {
    pub fn new(state: &State, class: &Class) -> Lens {
        let template = &class.template;
        let compile = |term: &NodeSelectorTerm| Term::compile(term, &state.labels);
        let both = template.preferred.iter().chain(&class.profile.added_preferences);
        let weighted = both.filter(|(weight, term)| *weight != 0 && !term.is_empty());
        let image = |name: &str| {
            let symbol = state.images.find(name)?;
            Some((symbol, f64::from(state.images.holds(symbol)) / state.present.max(1) as f64))
        };
        Lens {
            required: Required::compile(&template.node_selector, template.required.as_deref(), &state.labels),
            added: class.profile.added_affinity.as_ref().map(|terms| terms.iter().map(compile).collect()),
            preferred: weighted.map(|(weight, term)| (i64::from(*weight), compile(term))).collect(),
            taints: vec![None; state.taint_set_count()],
            images: class.images.iter().filter_map(|name| image(name)).collect(),
        }
    }

    /// Whether any of the class's images is on any node.
    pub fn knows_images(&self) -> bool {
        !self.images.is_empty()
    }

    /// How the class sees a set of taints.
    pub fn judge_taints(&mut self, state: &State, class: &Class, set: u32) -> TaintVerdict {
        let judge = || taint::judge(state.taints(set), &class.template.tolerations);
        *self.taints[set as usize].get_or_insert_with(judge)
    }

    /// Runs the filters that do not depend on what is taken, in their order.
    pub fn look(&mut self, state: &State, class: &Class, node: &Node) -> Result<Shape, Barred> {
        if !node.present {
            return Err(Barred::Absent);
        }
        let filters = class.profile.filters;
        if node.unschedulable && !class.tolerates_cordon && filters.contains(Filter::NodeUnschedulable) {
            return Err(Barred::Unschedulable);
        }
        let other = class.template.node_name.as_ref().is_some_and(|name| *name != node.name);
        if other && filters.contains(Filter::NodeName) {
            return Err(Barred::Name);
        }
        let against = match self.judge_taints(state, class, node.taints) {
            TaintVerdict::Tolerated { against } => against,
            TaintVerdict::Untolerated if filters.contains(Filter::TaintToleration) => return Err(Barred::Taint),
            TaintVerdict::Untolerated => taint::count_against(state.taints(node.taints), &class.template.tolerations),
        };
        if filters.contains(Filter::NodeAffinity) {
            self.judge_affinity(state, node)?;
        }
        if !declares(node, &class.template.features) && filters.contains(Filter::NodeDeclaredFeatures) {
            return Err(Barred::Features);
        }
        let holds = |term: &Term| term.matches(&node.name, &node.labels, &state.labels);
        let preferred = self.preferred.iter().filter(|(_, term)| holds(term)).map(|(weight, _)| weight).sum();
        Ok(Shape { against, preferred })
    }

    /// The filter of node affinity.
    pub fn judge_affinity(&self, state: &State, node: &Node) -> Result<(), Barred> {
        let holds = |term: &Term| term.matches(&node.name, &node.labels, &state.labels);
        if self.added.as_ref().is_some_and(|terms| !terms.iter().any(holds)) {
            return Err(Barred::Added);
        }
        if self.admits(state, node) { Ok(()) } else { Err(Barred::Affinity) }
    }

    /// Whether the class's node selector and required affinity allow a node.
    pub fn admits(&self, state: &State, node: &Node) -> bool {
        self.required.matches(&node.name, &node.labels, &state.labels)
    }

    /// Whether the class tolerates the hard taints of a node.
    pub fn tolerates(&mut self, state: &State, class: &Class, node: &Node) -> bool {
        matches!(self.judge_taints(state, class, node.taints), TaintVerdict::Tolerated { .. })
    }

    /// The image score of a node.
    pub fn image_score(&self, class: &Class, node: &Node) -> i64 {
        let bytes = |(image, share): &(Symbol, f64)| {
            let at = node.images.binary_search_by_key(image, |(have, _)| *have).ok()?;
            Some((node.images[at].1 as f64 * share) as i64)
        };
        score::image_locality(self.images.iter().filter_map(bytes).fold(0, i64::saturating_add), class.images.len())
    }
}

/// Whether a node declares all these features.
pub(crate) fn declares(node: &Node, features: &[Arc<str>]) -> bool {
    features.iter().all(|feature| node.features.contains(feature))
}

/// The reason behind a bar; `None` for a node that is not there.
pub(crate) fn reason(barred: Barred) -> Option<Reason> {
    match barred {
        Barred::Absent => None,
        Barred::Unschedulable => Some(Reason::Unschedulable),
        Barred::Name => Some(Reason::OtherNodeName),
        Barred::Taint => Some(Reason::Untolerated),
        Barred::Added => Some(Reason::AddedAffinity),
        Barred::Affinity => Some(Reason::Affinity),
        Barred::Features => Some(Reason::Features),
    }
}

/// What the node lacks right now: ports first, then every resource that is short. Empty: it fits.
pub(crate) fn shortages(state: &State, class: &Class, id: NodeId) -> Vec<Reason> {
    if lacks_port(state, class, id) {
        return vec![Reason::Ports];
    }
    short_resources(state, class, id)
}

fn short<'a>(state: &'a State, class: &'a Class, id: NodeId) -> impl Iterator<Item = (u32, &'a Kind)> {
    let short = move |take: &&Take| !state.ledger.has_room(id, take);
    class.checked().iter().filter(short).map(|take| (take.column, state.columns.kind(take.column)))
}

/// Whether another pod has a port that the class asks for.
pub(crate) fn lacks_port(state: &State, class: &Class, id: NodeId) -> bool {
    short(state, class, id).any(|(_, kind)| matches!(kind, Kind::Port(..) | Kind::PortAt(..)))
}

/// Every resource that is short on a node.
pub(crate) fn short_resources(state: &State, class: &Class, id: NodeId) -> Vec<Reason> {
    let reason = |(column, kind): (u32, &Kind)| match kind {
        Kind::Port(..) | Kind::PortAt(..) => None,
        Kind::Extended(name) => Some(Reason::Insufficient(name.clone())),
        Kind::Fixed | Kind::Vacant if column == PODS => Some(Reason::TooManyPods),
        Kind::Fixed | Kind::Vacant => Some(Reason::Insufficient(fixed_name(column))),
    };
    short(state, class, id).filter_map(reason).collect()
}

fn fixed_name(column: u32) -> Arc<str> {
    match column {
        MILLI_CPU => "cpu",
        MEMORY => "memory",
        EPHEMERAL_STORAGE => "ephemeral-storage",
        _ => "pods",
    }
    .into()
}
