//! Spreads a Service's endpoints over slices of at most 100, with as few writes as possible.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::routes::Group;
use crate::view::{Endpoint, EndpointPort, EndpointSlice};

/// Most endpoints of one slice.
pub(super) const CAPACITY: usize = 100;

/// A slice to create.
#[derive(Debug, Default, PartialEq)]
pub(super) struct NewSlice {
    pub family: &'static str,
    pub ports: Vec<EndpointPort>,
    pub endpoints: Vec<Endpoint>,
}

/// What to write.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub create: Vec<NewSlice>,
    /// A slice, and the endpoints it is to have.
    pub update: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)>,
    pub delete: Vec<Arc<EndpointSlice>>,
}

/// One slice in the works.
struct Draft {
    slice: Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

/// Compares what should be with what is. Every family keeps one slice, if only an empty one.
pub(super) fn reconcile(groups: Vec<Group>, families: &[&'static str], existing: Vec<Arc<EndpointSlice>>) -> Changes {
    let mut changes = Changes::default();
    let mut rest = existing;
    // Age decides, so that every run fills the same slices first.
    rest.sort_unstable_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut served: Vec<&'static str> = Vec::new();
    for group in groups {
        let of_group = |slice: &Arc<EndpointSlice>| {
            let mut ports = slice.ports.clone();
            ports.sort_unstable();
            slice.address_type == group.family && ports == group.ports
        };
        let (mine, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(of_group);
        rest = others;
        served.push(group.family);
        reconcile_group(group, mine, &mut changes);
    }
    for family in families.iter().filter(|family| !served.contains(family)) {
        match rest.iter().position(|slice| slice.address_type == **family) {
            Some(at) => {
                let kept = rest.remove(at);
                if !kept.endpoints.is_empty() {
                    changes.update.push((kept, Vec::new()));
                }
            }
            None => changes.create.push(NewSlice { family, ..NewSlice::default() }),
        }
    }
    changes.delete.extend(rest);
    changes
}

fn reconcile_group(group: Group, slices: Vec<Arc<EndpointSlice>>, changes: &mut Changes) {
    let Group { family, ports, endpoints } = group;
    let key = |endpoint: &Endpoint| {
        let uid = endpoint.target_ref.as_ref().map(|target| target.uid.clone()).unwrap_or_default();
        (uid, endpoint.addresses.first().cloned().unwrap_or_default())
    };
    let mut wanted: FxHashMap<_, Endpoint> = endpoints.iter().map(|each| (key(each), each.clone())).collect();
    let mut drafts: Vec<Draft> = Vec::new();
    for slice in slices {
        let mut changed = false;
        let mut kept = Vec::with_capacity(slice.endpoints.len());
        for endpoint in &slice.endpoints {
            match wanted.remove(&key(endpoint)) {
                Some(now) => {
                    changed |= now != *endpoint;
                    kept.push(now);
                }
                None => changed = true,
            }
        }
        drafts.push(Draft { slice, endpoints: kept, changed });
    }
    // What is new, in the order of the pods.
    let mut added: Vec<Endpoint> = endpoints.into_iter().filter(|each| wanted.contains_key(&key(each))).collect();
    fill(&mut drafts, &mut added, |draft| draft.changed);
    if !added.is_empty() && added.len() < CAPACITY {
        // One more write to the fullest slice that has room is better than one more slice.
        let len = added.len();
        let room = |draft: &&mut Draft| draft.endpoints.len() + len <= CAPACITY;
        if let Some(best) = drafts.iter_mut().filter(room).max_by_key(|draft| draft.endpoints.len()) {
            best.endpoints.append(&mut added);
            best.changed = true;
        }
    }
    while !added.is_empty() {
        let tail = added.split_off(added.len().min(CAPACITY));
        let endpoints = std::mem::replace(&mut added, tail);
        changes.create.push(NewSlice { family, ports: ports.clone(), endpoints });
    }
    for draft in drafts.into_iter() {
        if draft.endpoints.is_empty() {
            changes.delete.push(draft.slice);
        } else if draft.changed {
            changes.update.push((draft.slice, draft.endpoints));
        }
    }
}

/// Puts endpoints where a write is due anyway.
fn fill(drafts: &mut [Draft], added: &mut Vec<Endpoint>, choose: impl Fn(&Draft) -> bool) {
    for draft in drafts.iter_mut().filter(|draft| choose(draft)) {
        let room = CAPACITY.saturating_sub(draft.endpoints.len()).min(added.len());
        draft.endpoints.extend(added.drain(..room));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::routes::tests::{pod, service};
    use super::super::routes::{families, groups};
    use super::*;

    /// Applies changes as the API server would.
    fn apply(changes: Changes, slices: &mut Vec<Arc<EndpointSlice>>, counter: &mut usize) {
        for slice in changes.delete {
            slices.retain(|each| each.metadata.name != slice.metadata.name);
        }
        for (slice, endpoints) in changes.update {
            let at = slices.iter().position(|each| each.metadata.name == slice.metadata.name).unwrap();
            slices[at] = Arc::new(EndpointSlice { endpoints, ..EndpointSlice::clone(&slice) });
        }
        for new in changes.create {
            *counter += 1;
            let mut slice = EndpointSlice {
                address_type: new.family.into(),
                ports: new.ports,
                endpoints: new.endpoints,
                ..EndpointSlice::default()
            };
            slice.metadata.name = format!("s{counter:04}").into();
            slices.push(Arc::new(slice));
        }
    }

    fn step(pods: &[(usize, bool)], slices: &[Arc<EndpointSlice>]) -> Changes {
        let service = service();
        let pods: Vec<_> = pods.iter().map(|(number, ready)| pod(*number, *ready)).collect();
        reconcile(groups(&service, &pods, &|_| None), &families(&service), slices.to_vec())
    }

    #[test]
    fn an_empty_service_has_one_empty_slice() {
        let (mut slices, mut counter) = (Vec::new(), 0);
        apply(step(&[], &slices), &mut slices, &mut counter);
        assert_eq!(slices.len(), 1);
        let again = step(&[], &slices);
        assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
    }

    #[test]
    fn a_few_changes_cost_few_writes() {
        let (mut slices, mut counter) = (Vec::new(), 0);
        let mut pods: Vec<_> = (0..350).map(|number| (number, true)).collect();
        apply(step(&pods, &slices), &mut slices, &mut counter);
        assert_eq!(slices.len(), 4);
        pods[7].1 = false;
        pods.push((400, true));
        let changes = step(&pods, &slices);
        assert_eq!((changes.create.len(), changes.update.len(), changes.delete.len()), (0, 2, 0));
        pods.retain(|(number, _)| *number < 10);
        apply(step(&pods, &slices), &mut slices, &mut counter);
        assert_eq!(slices.len(), 1);
        pods.clear();
        let changes = step(&pods, &slices);
        assert_eq!((changes.create.len(), changes.update.len(), changes.delete.len()), (0, 1, 0), "the last one stays");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn slices_always_hold_exactly_the_pods(
            rounds in prop::collection::vec(prop::collection::btree_map(0usize..400, any::<bool>(), 0..300), 1..6),
        ) {
            let (mut slices, mut counter) = (Vec::new(), 0);
            for round in rounds {
                let pods: Vec<_> = round.into_iter().collect();
                apply(step(&pods, &slices), &mut slices, &mut counter);
                let mut held: Vec<_> = slices.iter().flat_map(|slice| &slice.endpoints)
                    .map(|each| (each.target_ref.as_ref().unwrap().name.to_string(), each.conditions.ready)).collect();
                held.sort_unstable();
                let wanted: Vec<_> = pods.iter().map(|(number, ready)| (format!("web-{number:05}"), *ready)).collect();
                prop_assert_eq!(held, wanted);
                prop_assert!(slices.iter().all(|slice| slice.endpoints.len() <= CAPACITY));
                let again = step(&pods, &slices);
                prop_assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
            }
        }
    }
}
