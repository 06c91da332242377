//! The pods that hold places.

use std::hash::{BuildHasher, BuildHasherDefault};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::cluster::Placed;
use crate::near::NearHasher;
use crate::pod::PodId;

/// Slots that memory is taken for at a time.
const PAGE: usize = 4096;

type Page = Vec<Option<(PodId, Placed)>>;

/// A map of pods to their places. What is held of a pod lies in a slot that it keeps, so that only a small index is written
/// anew where the map grows: the memory of millions of pods costs more time to get than to fill. Slots that are free are
/// used again, and never given back.
#[derive(Debug, Default)]
pub(crate) struct Placements {
    /// Slots by the pods that are in them.
    index: HashTable<u32>,
    /// All full but the last.
    pages: Vec<Page>,
    free: Vec<u32>,
}

fn hash(id: PodId) -> u64 {
    BuildHasherDefault::<NearHasher>::default().hash_one(id)
}

fn holds(pages: &[Page], slot: u32, id: PodId) -> bool {
    matches!(&pages[slot as usize / PAGE][slot as usize % PAGE], Some((held, _)) if *held == id)
}

fn new_slot(pages: &mut Vec<Page>) -> u32 {
    if pages.last().is_none_or(|page| page.len() == PAGE) {
        pages.push(Vec::with_capacity(PAGE));
    }
    let last = pages.len() - 1;
    pages[last].push(None);
    u32::try_from(last * PAGE + pages[last].len() - 1).expect("fewer than 2^32 pods hold places")
}

impl Placements {
    pub fn len(&self) -> usize {
        self.index.len()
    }

    fn slot(&self, id: PodId) -> Option<usize> {
        self.index.find(hash(id), |slot| holds(&self.pages, *slot, id)).map(|slot| *slot as usize)
    }

    pub fn contains(&self, id: PodId) -> bool {
        self.slot(id).is_some()
    }

    pub fn get(&self, id: PodId) -> Option<&Placed> {
        let slot = self.slot(id)?;
        self.pages[slot / PAGE][slot % PAGE].as_ref().map(|(_, placed)| placed)
    }

    pub fn get_mut(&mut self, id: PodId) -> Option<&mut Placed> {
        let slot = self.slot(id)?;
        self.pages[slot / PAGE][slot % PAGE].as_mut().map(|(_, placed)| placed)
    }

    /// Puts a pod, and returns what was known of it.
    ///
    /// # Panics
    /// With more than 2^32 pods.
    pub fn insert(&mut self, id: PodId, placed: Placed) -> Option<Placed> {
        let Self { index, pages, free } = self;
        let again =
            |slot: &u32| pages[*slot as usize / PAGE][*slot as usize % PAGE].as_ref().map_or(0, |(id, _)| hash(*id));
        match index.entry(hash(id), |slot| holds(pages, *slot, id), again) {
            Entry::Occupied(entry) => {
                let slot = *entry.get() as usize;
                pages[slot / PAGE][slot % PAGE].replace((id, placed)).map(|(_, before)| before)
            }
            Entry::Vacant(entry) => {
                let slot = free.pop().unwrap_or_else(|| new_slot(pages));
                pages[slot as usize / PAGE][slot as usize % PAGE] = Some((id, placed));
                entry.insert(slot);
                None
            }
        }
    }

    pub fn remove(&mut self, id: PodId) -> Option<Placed> {
        let Self { index, pages, free } = self;
        let entry = index.find_entry(hash(id), |slot| holds(pages, *slot, id)).ok()?;
        let (slot, _) = entry.remove();
        free.push(slot);
        pages[slot as usize / PAGE][slot as usize % PAGE].take().map(|(_, placed)| placed)
    }

    pub fn iter(&self) -> impl Iterator<Item = (PodId, &Placed)> {
        self.pages.iter().flatten().flatten().map(|(id, placed)| (*id, placed))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::cluster::{Cluster, Tenure};
    use crate::ledger::NodeId;
    use crate::pod::{Class, PodTemplate};

    fn placed(class: &Arc<Class>, priority: i32) -> Placed {
        let tenure = Tenure { priority, ..Tenure::default() };
        Placed { node: NodeId(priority as u32), class: class.clone(), tenure, holdings: None }
    }

    fn class() -> Arc<Class> {
        Cluster::default().class(&Arc::new(PodTemplate::default()))
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0_u64..40, any::<bool>(), 0..1000), 0..400)) {
            let class = class();
            let (mut placements, mut model) = (Placements::default(), BTreeMap::new());
            for (id, put, priority) in steps {
                // Some lie near each other, some far apart.
                let id = PodId(if id % 3 == 0 { id << 40 } else { id });
                let before = if put {
                    let before = placements.insert(id, placed(&class, priority));
                    prop_assert_eq!(before.map(|placed| placed.tenure.priority), model.insert(id.0, priority));
                    Some(priority)
                } else {
                    let before = placements.remove(id);
                    prop_assert_eq!(before.map(|placed| placed.tenure.priority), model.remove(&id.0));
                    None
                };
                prop_assert_eq!(placements.get(id).map(|placed| placed.tenure.priority), before);
                prop_assert_eq!(placements.contains(id), put);
                prop_assert_eq!(placements.len(), model.len());
            }
            let all: BTreeMap<u64, i32> = placements.iter().map(|(id, placed)| (id.0, placed.tenure.priority)).collect();
            prop_assert_eq!(all, model);
        }
    }

    #[test]
    fn pods_that_come_and_go_take_no_more_memory_than_those_that_are_there() {
        let class = class();
        let mut placements = Placements::default();
        for id in 0..10 * PAGE as u64 {
            placements.insert(PodId(id), placed(&class, 0));
            if id >= PAGE as u64 {
                assert!(placements.remove(PodId(id - PAGE as u64)).is_some());
            }
        }
        assert_eq!((placements.len(), placements.pages.len()), (PAGE, 2));
    }
}
