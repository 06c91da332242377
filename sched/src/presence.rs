//! On which nodes the pods of one kind are.

use crate::ledger::NodeId;
use crate::near::NearMap;

/// Changes that are kept beyond two for each pod.
const SLACK: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// A pod came that topology spread counts.
    Came,
    /// One came that is being deleted.
    CameRetired,
    /// One went that was counted.
    Went,
    WentRetired,
    /// One that is there began to be deleted.
    Retired,
}

/// Pods of one kind on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Presence {
    pub all: u32,
    /// Without those that are being deleted.
    pub live: u32,
}

/// Pods of one kind, written down as they come and go: each pod is a line more, and only what is new to count them looks
/// where they are. Takes up to 16 bytes a pod.
#[derive(Debug, Default)]
pub(crate) struct Presences {
    changes: Vec<(NodeId, Event)>,
    pods: usize,
}

impl Presences {
    pub fn is_empty(&self) -> bool {
        self.pods == 0
    }

    /// A pod came (`by` = 1) or went (-1).
    pub fn count(&mut self, node: NodeId, live: bool, by: i32) {
        let event = match (by > 0, live) {
            (true, true) => Event::Came,
            (true, false) => Event::CameRetired,
            (false, true) => Event::Went,
            (false, false) => Event::WentRetired,
        };
        self.pods = self.pods.wrapping_add_signed(by.signum() as isize);
        self.note(node, event);
    }

    /// A pod began to be deleted.
    pub fn retire(&mut self, node: NodeId) {
        self.note(node, Event::Retired);
    }

    fn note(&mut self, node: NodeId, event: Event) {
        if self.changes.len() >= 2 * self.pods + SLACK {
            self.sum_up();
        }
        self.changes.push((node, event));
    }

    /// What the changes come to.
    pub fn sums(&self) -> NearMap<NodeId, Presence> {
        let mut sums: NearMap<NodeId, Presence> = NearMap::default();
        for (node, event) in &self.changes {
            let sum = sums.entry(*node).or_default();
            let (all, live) = match event {
                Event::Came => (1, 1),
                Event::CameRetired => (1, 0),
                Event::Went => (-1, -1),
                Event::WentRetired => (-1, 0),
                Event::Retired => (0, -1),
            };
            sum.all = sum.all.wrapping_add_signed(all);
            sum.live = sum.live.wrapping_add_signed(live);
        }
        sums
    }

    /// Leaves one line for each pod.
    fn sum_up(&mut self) {
        let sums = self.sums();
        debug_assert!(
            sums.values().all(|here| here.live <= here.all && here.all <= i32::MAX as u32),
            "none goes that had not come"
        );
        self.changes.clear();
        for (node, Presence { all, live }) in sums {
            let event = |at| if at < live { Event::Came } else { Event::CameRetired };
            self.changes.extend((0..all).map(|at| (node, event(at))));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn changes_add_up_and_stay_few(steps in prop::collection::vec((0..6_u32, 0..5_u8), 0..2_000)) {
            let (mut presences, mut model) = (Presences::default(), BTreeMap::<NodeId, Presence>::new());
            for (node, step) in steps {
                let node = NodeId(node);
                let here = model.entry(node).or_default();
                match step {
                    0 | 1 => {
                        here.all += 1;
                        here.live += u32::from(step == 0);
                        presences.count(node, step == 0, 1);
                    }
                    2 if here.live > 0 => {
                        here.all -= 1;
                        here.live -= 1;
                        presences.count(node, true, -1);
                    }
                    3 if here.all > here.live => {
                        here.all -= 1;
                        presences.count(node, false, -1);
                    }
                    4 if here.live > 0 => {
                        here.live -= 1;
                        presences.retire(node);
                    }
                    _ => {}
                }
                let pods = model.values().map(|here| here.all as usize).sum::<usize>();
                prop_assert_eq!(presences.is_empty(), pods == 0);
                prop_assert!(presences.changes.len() <= 2 * (pods + 1) + SLACK + 1);
            }
            let sums: BTreeMap<_, _> = presences.sums().into_iter().filter(|(_, here)| here.all > 0).collect();
            model.retain(|_, here| here.all > 0);
            prop_assert_eq!(sums, model);
        }
    }
}
