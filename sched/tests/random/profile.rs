//! Random profiles, and the configuration files that they stand for.

use kelson_sched::{Filter, FitStrategy, NodeSelectorTerm, Operator, Profile, Requirement};
use rand::Rng;
use rand::rngs::StdRng;

use super::pick;

fn term(key: &str, value: &str) -> NodeSelectorTerm {
    let expressions = vec![Requirement { key: key.into(), operator: Operator::In, values: vec![value.into()] }];
    NodeSelectorTerm { expressions, fields: Vec::new() }
}

/// Anything but the volume filters may be off, and every score may weigh anything.
pub fn profile(rng: &mut StdRng) -> Profile {
    let mut profile = Profile::default();
    for filter in [
        Filter::NodeUnschedulable,
        Filter::TaintToleration,
        Filter::NodeAffinity,
        Filter::NodePorts,
        Filter::NodeResourcesFit,
        Filter::NodeVolumeLimits,
        Filter::PodTopologySpread,
        Filter::InterPodAffinity,
        Filter::DynamicResources,
    ] {
        if rng.random_bool(0.1) {
            profile.filters.remove(filter);
        }
    }
    let weights = &mut profile.weights;
    for weight in [
        &mut weights.fit,
        &mut weights.balanced_allocation,
        &mut weights.image_locality,
        &mut weights.taint_toleration,
        &mut weights.node_affinity,
        &mut weights.topology_spread,
        &mut weights.pod_affinity,
    ] {
        if rng.random_bool(0.3) {
            *weight = pick(rng, &[0, 1, 4, 60]);
        }
    }
    profile.fit = match rng.random_range(0..3) {
        0 => FitStrategy::LeastAllocated,
        1 => FitStrategy::MostAllocated,
        _ => FitStrategy::RequestedToCapacityRatio(pick(
            rng,
            &[vec![(0, 0), (100, 10)], vec![(0, 10), (30, 3), (100, 0)], vec![(20, 4)]],
        )),
    };
    let resources = ["cpu", "memory", "ephemeral-storage", "example.com/gpu"];
    let some = |rng: &mut StdRng| {
        let some: Vec<&str> = resources.iter().copied().filter(|_| rng.random_bool(0.6)).collect();
        if some.is_empty() { vec!["cpu"] } else { some }
    };
    profile.fit_resources = some(rng).into_iter().map(|name| (name.into(), pick(rng, &[1, 2, 5]))).collect();
    profile.balanced_resources = some(rng).into_iter().map(Into::into).collect();
    match rng.random_range(0..4) {
        0 => profile.ignored_resources.push("example.com/gpu".into()),
        1 => profile.ignored_groups.push("example.com".into()),
        _ => {}
    }
    profile.hard_pod_affinity_weight = pick(rng, &[0, 1, 10]);
    profile.ignore_preferred_terms_of_existing_pods = rng.random_bool(0.3);
    if rng.random_bool(0.3) {
        profile.added_affinity = Some(vec![term("zone", "a"), term("zone", "b")]);
    }
    if rng.random_bool(0.3) {
        profile.added_preferences.push((7, term("rack", "r1")));
    }
    profile
}
