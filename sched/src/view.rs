//! One class looking at nodes through all filters, in their order. What the way of most pods needs of this is in plans;
//! this is for classes without one, for preemption, and for telling why.

use crate::binding::Binding;
use crate::ledger::NodeId;
use crate::lens::{self, Barred, Lens};
use crate::pod::Class;
use crate::reason::{Filter, Reason};
use crate::state::State;
use crate::topology::Topology;

/// Devices are not allocated here: a pod that claims some stays pending.
const NO_DEVICES: &str = "resource claims are not supported by this scheduler";

/// Valid until a node changes its shape, or anything about volumes does.
#[derive(Debug)]
pub(crate) struct View {
    pub lens: Lens,
    pub topology: Topology,
    pub binding: Option<Binding>,
}

impl View {
    pub fn new(state: &State, class: &Class) -> View {
        let mut lens = Lens::new(state, class);
        let topology = Topology::new(state, class, &mut lens);
        View { lens, topology, binding: Binding::new(state, class) }
    }

    /// Why no node has to be looked at.
    pub fn refusal(&self, class: &Class) -> Option<Reason> {
        if class.named.as_ref().is_some_and(Vec::is_empty) {
            return Some(Reason::Contradiction);
        }
        let refused = self.binding.as_ref().and_then(Binding::refusal).cloned();
        let devices = !class.template.claims.is_empty() && class.profile.filters.contains(Filter::DynamicResources);
        refused.or_else(|| devices.then(|| Reason::Refused(Filter::DynamicResources, NO_DEVICES.into())))
    }

    /// Whether what fits is all that is left to ask once a node's shape is right.
    pub fn is_plain(&self, class: &Class) -> bool {
        self.topology.is_empty() && self.binding.is_none() && class.template.features.is_empty()
    }

    /// Why a node does not take a pod: what the first filter that rejects says. Empty: it does, or is not there.
    pub fn reasons(&mut self, state: &State, class: &Class, id: NodeId) -> Vec<Reason> {
        let looked = self.lens.look(state, class, state.node(id));
        match looked {
            // The last filter of all.
            Ok(_) | Err(Barred::Features) => {}
            Err(barred) => return lens::reason(barred).into_iter().collect(),
        }
        let shortages = lens::shortages(state, class, id);
        if !shortages.is_empty() {
            return shortages;
        }
        let volumes = self.binding.as_ref().map_or(Ok(Default::default()), |binding| binding.judge(state, id));
        if let Err(reasons) = volumes {
            return reasons;
        }
        if !self.topology.is_empty() {
            let mut cells = Vec::with_capacity(self.topology.width());
            self.topology.cells(id, &mut cells);
            if let Err(reason) = self.topology.judge(class, &cells) {
                return vec![reason];
            }
        }
        looked.err().and_then(lens::reason).into_iter().collect()
    }
}
