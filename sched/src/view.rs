//! One class looking at nodes through all filters, in their order. What the way of most pods needs of this is in plans;
//! this is for classes without one, for preemption, and for telling why.

use crate::allotment::Allotment;
use crate::binding::Binding;
use crate::ledger::NodeId;
use crate::lens::{self, Barred, Lens};
use crate::pod::Class;
use crate::reason::Reason;
use crate::state::State;
use crate::topology::Topology;

/// Valid until a node changes its shape, or anything about volumes or devices does.
#[derive(Debug)]
pub(crate) struct View {
    pub lens: Lens,
    pub topology: Topology,
    pub binding: Option<Binding>,
    pub allotment: Option<Allotment>,
}

impl View {
    pub fn new(state: &State, class: &Class) -> View {
        let mut lens = Lens::new(state, class);
        let topology = Topology::new(state, class, &mut lens);
        View { lens, topology, binding: Binding::new(state, class), allotment: Allotment::new(state, class) }
    }

    /// Why no node has to be looked at.
    pub fn refusal(&self, class: &Class) -> Option<Reason> {
        if class.named.as_ref().is_some_and(Vec::is_empty) {
            return Some(Reason::Contradiction);
        }
        let of_volumes = self.binding.as_ref().and_then(Binding::refusal);
        of_volumes.or_else(|| self.allotment.as_ref().and_then(Allotment::refusal)).cloned()
    }

    /// Whether what fits is all that is left to ask once a node's shape is right.
    pub fn is_plain(&self, class: &Class) -> bool {
        self.topology.is_empty()
            && self.binding.is_none()
            && self.allotment.is_none()
            && class.template.features.is_empty()
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
        if let Some(Err(reason)) = self.allotment.as_ref().map(|allotment| allotment.judge(state, id)) {
            return vec![reason];
        }
        looked.err().and_then(lens::reason).into_iter().collect()
    }
}
