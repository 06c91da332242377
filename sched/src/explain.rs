//! Telling why: for one pod, what every filter says of every node, and how the nodes that are left score.

use crate::cluster::Cluster;
use crate::ledger::NodeId;
use crate::lens::{self, declares};
use crate::pod::{Class, Pod};
use crate::reason::{Filter, Reason};
use crate::score::Scores;
use crate::state::State;
use crate::taint::TaintVerdict;
use crate::view::View;
use crate::worker::{Raw, score_all};

/// Why a pod goes, or does not go, to each node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// Why no node is looked at, if none is.
    pub refusal: Option<Reason>,
    /// Every node, in no particular order.
    pub nodes: Vec<NodeExplanation>,
    /// The nodes with the best total: any of them may be chosen.
    pub best: Vec<NodeId>,
}

/// What one node is to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeExplanation {
    pub node: NodeId,
    /// Every filter that the pod's profile has on, in order, with what it says: nothing where it lets the pod through.
    /// The first that rejects is the one that the node is charged to; here the others are asked all the same, except of
    /// nodes that required affinity does not name.
    pub filters: Vec<(Filter, Vec<Reason>)>,
    /// Where every filter lets the pod through: the scores with a weight, and their weighted sum.
    pub scores: Option<(Vec<ScoreLine>, i64)>,
}

/// One score of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScoreLine {
    /// The plugin's name.
    pub plugin: &'static str,
    /// As the plugin counts: taints against, weights for, pods in the domain and so on. `None`: the node takes no part.
    pub raw: Option<i64>,
    /// From 0 to 100.
    pub normalized: i64,
    pub weight: i64,
}

impl Cluster {
    /// Explains where a pod may go, as things stand; for a pod that has a place, as if it had none.
    pub fn explain_pod(&mut self, pod: &Pod) -> Explanation {
        let aside = self.set_aside(pod.priority, Some(pod.id));
        let place = self.pods.get(pod.id).map(|placed| (placed.node, placed.class.clone(), placed.tenure));
        if let Some((node, class, tenure)) = &place {
            // Its row stays: whoever is present keeps it, and an absent node's last pod is put back below.
            self.state.lift(*node, class, !tenure.terminating);
        }
        let explanation = self.explain_now(&pod.class);
        if let Some((node, class, tenure)) = &place {
            self.state.book(*node, class, !tenure.terminating);
        }
        self.put_back(aside);
        explanation
    }

    fn explain_now(&self, class: &Class) -> Explanation {
        let state = &self.state;
        let mut view = View::new(state, class);
        let mut explanation = Explanation { refusal: view.refusal(class), ..Explanation::default() };
        let mut scored = score_all(state, class).into_iter().peekable();
        let mut most = i64::MIN;
        for id in state.ids().filter(|id| state.node(*id).present) {
            let mut node = NodeExplanation { node: id, filters: verdicts(&mut view, state, class, id), scores: None };
            if let Some((_, scores, raw)) = scored.next_if(|(scored, ..)| *scored == id) {
                let total = scores.total(&class.profile.weights);
                node.scores = Some((lines(class, &scores, &raw), total));
                if total > most {
                    (most, explanation.best) = (total, Vec::new());
                }
                if total == most {
                    explanation.best.push(id);
                }
            }
            explanation.nodes.push(node);
        }
        explanation
    }
}

fn lines(class: &Class, scores: &Scores, raw: &Raw) -> Vec<ScoreLine> {
    let weights = &class.profile.weights;
    let line = |plugin, raw, normalized, weight| ScoreLine { plugin, raw, normalized, weight };
    let lines = [
        line("NodeResourcesFit", Some(scores.fit), scores.fit, weights.fit),
        line(
            "NodeResourcesBalancedAllocation",
            Some(scores.balanced_allocation),
            scores.balanced_allocation,
            weights.balanced_allocation,
        ),
        line("ImageLocality", Some(scores.image_locality), scores.image_locality, weights.image_locality),
        line("TaintToleration", Some(raw.against), scores.taint_toleration, weights.taint_toleration),
        line("NodeAffinity", Some(raw.preferred), scores.node_affinity, weights.node_affinity),
        line("PodTopologySpread", raw.crowding, scores.topology_spread, weights.topology_spread),
        line("InterPodAffinity", raw.attraction, scores.pod_affinity, weights.pod_affinity),
        line("DynamicResources", raw.devices, scores.dynamic_resources, weights.dynamic_resources),
    ];
    lines.into_iter().filter(|line| line.weight != 0).collect()
}

/// What each filter that is on says of a node, whatever the others say.
fn verdicts(view: &mut View, state: &State, class: &Class, id: NodeId) -> Vec<(Filter, Vec<Reason>)> {
    let node = state.node(id);
    let template = &class.template;
    if class.named.as_ref().is_some_and(|names| !names.contains(&node.name)) {
        // Nobody asks the other filters of a node that is not named.
        return vec![(Filter::NodeAffinity, vec![Reason::NotNamed])];
    }
    let mut cells = Vec::with_capacity(view.topology.width());
    view.topology.cells(id, &mut cells);
    let when = |rejects: bool, reason: Reason| if rejects { vec![reason] } else { Vec::new() };
    let mut verdict = |filter: Filter| match filter {
        Filter::NodeUnschedulable => when(node.unschedulable && !class.tolerates_cordon, Reason::Unschedulable),
        Filter::NodeName => {
            when(template.node_name.as_ref().is_some_and(|name| *name != node.name), Reason::OtherNodeName)
        }
        Filter::TaintToleration => {
            when(view.lens.judge_taints(state, class, node.taints) == TaintVerdict::Untolerated, Reason::Untolerated)
        }
        Filter::NodeAffinity => match view.lens.judge_affinity(state, node) {
            Err(barred) => lens::reason(barred).into_iter().collect(),
            Ok(()) => Vec::new(),
        },
        Filter::NodePorts => when(lens::lacks_port(state, class, id), Reason::Ports),
        Filter::NodeResourcesFit => lens::short_resources(state, class, id),
        Filter::VolumeRestrictions => {
            let verdict = view.binding.as_ref().map(|binding| binding.restrictions(state, id));
            verdict.and_then(Result::err).into_iter().collect()
        }
        Filter::NodeVolumeLimits => {
            let beyond = view.binding.as_ref().is_some_and(|binding| binding.beyond_limit(state, id));
            when(beyond, Reason::TooManyVolumes)
        }
        Filter::VolumeBinding => {
            view.binding.as_ref().and_then(|binding| binding.plan(state, id).err()).unwrap_or_default()
        }
        Filter::VolumeZone => {
            when(view.binding.as_ref().is_some_and(|binding| binding.elsewhere(state, id)), Reason::VolumeZone)
        }
        Filter::PodTopologySpread => view.topology.judge_spread(class, &cells).err().into_iter().collect(),
        Filter::InterPodAffinity if view.topology.is_empty() => Vec::new(),
        Filter::InterPodAffinity => view.topology.judge_affinity(&cells).err().into_iter().collect(),
        Filter::DynamicResources => {
            let verdict = view.allotment.as_ref().map(|allotment| allotment.judge(state, id));
            verdict.and_then(Result::err).into_iter().collect()
        }
        Filter::NodeDeclaredFeatures => when(!declares(node, &template.features), Reason::Features),
    };
    let on = Filter::ALL.into_iter().filter(|filter| class.profile.filters.contains(*filter));
    on.map(|filter| (filter, verdict(filter))).collect()
}
