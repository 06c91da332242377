//! Scores: integers from 0 to 100 per plugin, and their weights.
//!
//! `NodeResourcesFit` (least allocated), `NodeResourcesBalancedAllocation` and `ImageLocality` depend on one node
//! alone and are added up at once; `TaintToleration` and `NodeAffinity` are normalised over the feasible nodes.

use std::sync::Arc;

use crate::columns::{Columns, Demand, EPHEMERAL_STORAGE, MEMORY, MILLI_CPU, SCORED_MEMORY, SCORED_MILLI_CPU};
use crate::ledger::{Ledger, NodeId};
use crate::pod::Class;
use crate::profile::{FitStrategy, Profile, Weights};
use crate::resources::Requests;

/// Best score of one plugin.
pub const MAX_SCORE: i64 = 100;
/// Largest weighted sum of the scores that depend on one node alone, with the default weights.
const MAX_OWN: usize = 300;

const MIB: i64 = 1024 * 1024;
/// Image bytes per pod below which locality does not count.
const MIN_IMAGE_BYTES: i64 = 23 * MIB;
/// Image bytes per container above which more does not count.
const MAX_IMAGE_BYTES: i64 = 1000 * MIB;

/// The score vector of one feasible node, each plugin normalised, not yet weighted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scores {
    /// `NodeResourcesFit`.
    pub fit: i64,
    pub balanced_allocation: i64,
    pub image_locality: i64,
    pub taint_toleration: i64,
    pub node_affinity: i64,
    /// 0 where the pod has no soft constraint.
    pub topology_spread: i64,
    /// 0 where no term of any pod says anything about nodes.
    pub pod_affinity: i64,
    /// 0 where no claim of the pod lists choices.
    pub dynamic_resources: i64,
}

impl Scores {
    /// The weighted sum by which nodes are compared.
    pub fn total(&self, weights: &Weights) -> i64 {
        weights.fit * self.fit
            + weights.balanced_allocation * self.balanced_allocation
            + weights.image_locality * self.image_locality
            + weights.taint_toleration * self.taint_toleration
            + weights.node_affinity * self.node_affinity
            + weights.topology_spread * self.topology_spread
            + weights.pod_affinity * self.pod_affinity
            + weights.dynamic_resources * self.dynamic_resources
    }
}

/// One resource that is scored.
#[derive(Clone, Copy, Debug)]
struct Scored {
    capacity: u32,
    used: u32,
    wanted: i64,
    weight: i64,
}

/// The scores of one node alone, by a profile that is not the default one.
#[derive(Debug)]
pub(crate) struct Scoring {
    strategy: FitStrategy,
    fit: Vec<Scored>,
    balanced: Vec<Scored>,
    weights: Weights,
}

impl Scoring {
    /// `None` for the default.
    pub fn of(profile: &Profile, requests: &Requests, demand: &Demand, columns: &Columns) -> Option<Box<Scoring>> {
        let default = Profile::default();
        let own = |profile: &Profile| {
            let weights = &profile.weights;
            (weights.fit, weights.balanced_allocation, weights.image_locality)
        };
        if own(profile) == own(&default)
            && profile.fit == default.fit
            && profile.fit_resources == default.fit_resources
            && profile.balanced_resources == default.balanced_resources
        {
            return None;
        }
        let scored = |name: &Arc<str>, weight: i64, defaults: bool| {
            let (capacity, used, wanted) = match (&**name, defaults) {
                ("cpu", true) => (MILLI_CPU, SCORED_MILLI_CPU, demand.scored_milli_cpu),
                ("cpu", false) => (MILLI_CPU, MILLI_CPU, demand.milli_cpu),
                ("memory", true) => (MEMORY, SCORED_MEMORY, demand.scored_memory),
                ("memory", false) => (MEMORY, MEMORY, demand.memory),
                ("ephemeral-storage", _) => {
                    (EPHEMERAL_STORAGE, EPHEMERAL_STORAGE, requests.resources.ephemeral_storage)
                }
                // Counted only for pods that ask for it.
                (text, _) => {
                    let wanted = requests.resources.extended(text);
                    let column = Some(wanted).filter(|wanted| *wanted > 0).and_then(|_| columns.find_extended(name))?;
                    (column, column, wanted)
                }
            };
            Some(Scored { capacity, used, wanted, weight })
        };
        let fit = profile.fit_resources.iter().filter_map(|(name, weight)| scored(name, *weight, true));
        let balanced = profile.balanced_resources.iter().filter_map(|name| scored(name, 1, false));
        Some(Box::new(Scoring {
            strategy: profile.fit.clone(),
            fit: fit.collect(),
            balanced: balanced.collect(),
            weights: profile.weights,
        }))
    }

    fn fit(&self, ledger: &Ledger, node: NodeId) -> i64 {
        let (mut sum, mut weights) = (0, 0);
        for one in &self.fit {
            let capacity = ledger.capacity(one.capacity, node);
            if capacity == 0 {
                continue;
            }
            let used = ledger.used(one.used, node) + one.wanted;
            let score = match &self.strategy {
                FitStrategy::LeastAllocated if used > capacity => 0,
                FitStrategy::LeastAllocated => (capacity - used) * MAX_SCORE / capacity,
                FitStrategy::MostAllocated => used.min(capacity) * MAX_SCORE / capacity,
                FitStrategy::RequestedToCapacityRatio(shape) => {
                    let score = on_line(shape, if used > capacity { 100 } else { used * 100 / capacity });
                    if score <= 0 {
                        continue;
                    }
                    score
                }
            };
            sum += score * one.weight;
            weights += one.weight;
        }
        match self.strategy {
            _ if weights == 0 => 0,
            FitStrategy::RequestedToCapacityRatio(_) => (sum as f64 / weights as f64).round() as i64,
            _ => sum / weights,
        }
    }

    fn balanced(&self, ledger: &Ledger, node: NodeId) -> i64 {
        if self.balanced.iter().all(|one| one.wanted == 0) {
            return 0;
        }
        let balance = |with_pod: bool| {
            let fraction = |one: &Scored| {
                let capacity = ledger.capacity(one.capacity, node);
                let used = ledger.used(one.used, node) + if with_pod { one.wanted } else { 0 };
                (capacity > 0).then(|| (used as f64 / capacity as f64).min(1.0))
            };
            let fractions: Vec<f64> = self.balanced.iter().filter_map(fraction).collect();
            ((1.0 - deviation(&fractions)) * MAX_SCORE as f64) as i64
        };
        MAX_SCORE / 2 + (MAX_SCORE / 2 + balance(true) - balance(false)) / 2
    }
}

/// The standard deviation.
fn deviation(fractions: &[f64]) -> f64 {
    match fractions {
        [] | [_] => 0.0,
        [one, other] => ((one - other) / 2.0).abs(),
        all => {
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            (all.iter().map(|one| (one - mean) * (one - mean)).sum::<f64>() / all.len() as f64).sqrt()
        }
    }
}

/// The height of a broken line over a utilization, scaled to the scores' range.
fn on_line(shape: &[(i64, i64)], at: i64) -> i64 {
    let scaled = |(utilization, score): (i64, i64)| (utilization, score * MAX_SCORE / 10);
    let Some(&first) = shape.first() else { return 0 };
    let (mut x0, mut y0) = scaled(first);
    if at <= x0 {
        return y0;
    }
    for &point in &shape[1..] {
        let (x1, y1) = scaled(point);
        if at <= x1 {
            return y0 + (y1 - y0) * (at - x0) / (x1 - x0);
        }
        (x0, y0) = (x1, y1);
    }
    y0
}

/// `NodeResourcesFit`'s score.
pub(crate) fn fit(ledger: &Ledger, node: NodeId, class: &Class) -> i64 {
    match &class.scoring {
        None => least_allocated(ledger, node, &class.demand),
        Some(scoring) => scoring.fit(ledger, node),
    }
}

/// `NodeResourcesBalancedAllocation`'s score.
pub(crate) fn balanced(ledger: &Ledger, node: NodeId, class: &Class) -> i64 {
    match &class.scoring {
        None => balanced_allocation(ledger, node, &class.demand),
        Some(scoring) => scoring.balanced(ledger, node),
    }
}

/// The weighted sum of the scores that depend on one node alone, beside an image score.
pub(crate) fn own(ledger: &Ledger, node: NodeId, class: &Class, image: i64) -> i64 {
    match &class.scoring {
        None => least_allocated(ledger, node, &class.demand) + balanced_allocation(ledger, node, &class.demand) + image,
        Some(scoring) => {
            let Weights { fit, balanced_allocation, image_locality, .. } = scoring.weights;
            let weighted = |weight: i64, score: &dyn Fn() -> i64| if weight == 0 { 0 } else { weight * score() };
            weighted(fit, &|| scoring.fit(ledger, node))
                + weighted(balanced_allocation, &|| scoring.balanced(ledger, node))
                + image_locality * image
        }
    }
}

/// The most that [`own`] comes to.
pub(crate) fn max_own(class: &Class) -> usize {
    class.scoring.as_ref().map_or(MAX_OWN, |scoring| {
        let Weights { fit, balanced_allocation, image_locality, .. } = scoring.weights;
        usize::try_from(MAX_SCORE * (fit + balanced_allocation + image_locality)).unwrap_or(0)
    })
}

/// Mean over CPU and memory of the share that would be left; a resource that the node has none of does not count.
fn least_allocated(ledger: &Ledger, node: NodeId, demand: &Demand) -> i64 {
    let share = |capacity: i64, used: i64| {
        if used > capacity { 0 } else { (capacity - used) * MAX_SCORE / capacity }
    };
    let mut sum = 0;
    let mut count = 0;
    for (column, scored, wanted) in
        [(MILLI_CPU, SCORED_MILLI_CPU, demand.scored_milli_cpu), (MEMORY, SCORED_MEMORY, demand.scored_memory)]
    {
        let capacity = ledger.capacity(column, node);
        if capacity > 0 {
            sum += share(capacity, ledger.used(scored, node) + wanted);
            count += 1;
        }
    }
    if count == 0 { 0 } else { sum / count }
}

/// Half the scale, plus half of what the pod does for the balance of CPU and memory. 0 for a pod that requests
/// neither, as it would otherwise pile up on one node.
fn balanced_allocation(ledger: &Ledger, node: NodeId, demand: &Demand) -> i64 {
    if demand.milli_cpu == 0 && demand.memory == 0 {
        return 0;
    }
    let fraction = |column: u32, more: i64| {
        let capacity = ledger.capacity(column, node);
        (capacity > 0).then(|| ((ledger.used(column, node) + more) as f64 / capacity as f64).min(1.0))
    };
    let balance = |cpu: Option<f64>, memory: Option<f64>| {
        let deviation = match (cpu, memory) {
            (Some(cpu), Some(memory)) => ((cpu - memory) / 2.0).abs(),
            _ => 0.0,
        };
        ((1.0 - deviation) * MAX_SCORE as f64) as i64
    };
    let before = balance(fraction(MILLI_CPU, 0), fraction(MEMORY, 0));
    let after = balance(fraction(MILLI_CPU, demand.milli_cpu), fraction(MEMORY, demand.memory));
    MAX_SCORE / 2 + (MAX_SCORE / 2 + after - before) / 2
}

/// `bytes` of the pod's images on the node, each scaled by the share of nodes that have it.
pub(crate) fn image_locality(bytes: i64, containers: usize) -> i64 {
    if containers == 0 {
        return 0;
    }
    let most = MAX_IMAGE_BYTES.saturating_mul(containers as i64);
    MAX_SCORE * (bytes.clamp(MIN_IMAGE_BYTES, most) - MIN_IMAGE_BYTES) / (most - MIN_IMAGE_BYTES)
}

/// Taints that speak against the node: none is best.
pub(crate) fn normalized_taints(against: i64, most: i64) -> i64 {
    if most == 0 { MAX_SCORE } else { MAX_SCORE - MAX_SCORE * against / most }
}

/// Weights of the preferred terms that hold: the most is best.
pub(crate) fn normalized_affinity(weight: i64, most: i64) -> i64 {
    if most == 0 { 0 } else { MAX_SCORE * weight / most }
}

/// How early the choices come that claims are given: the most is best.
pub(crate) fn normalized_devices(score: i64, most: i64) -> i64 {
    if most == 0 { 0 } else { MAX_SCORE * score / most }
}

/// Crowding by topology spread: the least crowded of the feasible nodes is best.
pub(crate) fn normalized_spread(crowding: i64, fewest: i64, most: i64) -> i64 {
    if most == 0 { MAX_SCORE } else { MAX_SCORE * (most + fewest - crowding) / most }
}

/// Attraction by pod affinity, between the extremes of the feasible nodes.
pub(crate) fn normalized_attraction(attraction: i64, least: i64, most: i64) -> i64 {
    if most == least { 0 } else { (MAX_SCORE as f64 * ((attraction - least) as f64 / (most - least) as f64)) as i64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(milli_cpu: i64, memory: i64) -> (Ledger, NodeId) {
        let mut ledger = Ledger::default();
        let columns = Columns::new(&mut ledger);
        let node = ledger.push_row(|column| columns.own_capacity(column));
        ledger.set_capacity(MILLI_CPU, node, milli_cpu);
        ledger.set_capacity(MEMORY, node, memory);
        (ledger, node)
    }

    fn demand(milli_cpu: i64, memory: i64) -> Demand {
        Demand { takes: vec![], milli_cpu, memory, scored_milli_cpu: milli_cpu, scored_memory: memory }
    }

    #[test]
    fn least_allocated_is_the_mean_of_what_is_left() {
        let (ledger, id) = node(4000, 1000);
        assert_eq!(least_allocated(&ledger, id, &demand(1000, 500)), (75 + 50) / 2);
        assert_eq!(least_allocated(&ledger, id, &demand(5000, 500)), 25, "more than there is counts as nothing left");
        let (ledger, id) = node(4000, 0);
        assert_eq!(least_allocated(&ledger, id, &demand(1000, 500)), 75);
    }

    #[test]
    fn balanced_allocation_is_a_delta() {
        let (ledger, id) = node(4000, 1000);
        // Balanced before (100), 0.5 apart afterwards (75).
        assert_eq!(balanced_allocation(&ledger, id, &demand(2000, 0)), 50 + (50 + 75 - 100) / 2);
        assert_eq!(balanced_allocation(&ledger, id, &demand(2000, 500)), 75);
        assert_eq!(balanced_allocation(&ledger, id, &demand(0, 0)), 0);
    }

    #[test]
    fn a_broken_line_is_followed_between_its_points() {
        let shape = [(20, 10), (60, 0), (80, 5)];
        for (at, want) in [(0, 100), (20, 100), (40, 50), (60, 0), (70, 25), (90, 50)] {
            assert_eq!(on_line(&shape, at), want, "at {at}");
        }
    }

    #[test]
    fn deviation_of_one_two_and_more() {
        assert_eq!([deviation(&[0.5]), deviation(&[0.25, 0.75])], [0.0, 0.25]);
        assert!((deviation(&[0.0, 0.5, 1.0]) - (1.0f64 / 6.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn image_locality_is_clamped() {
        assert_eq!(image_locality(0, 1), 0);
        assert_eq!(image_locality(i64::MAX, 2), 100);
        assert_eq!(image_locality(500 * MIB, 1), 100 * (500 - 23) / (1000 - 23));
        assert_eq!(image_locality(500 * MIB, 0), 0);
    }

    #[test]
    fn normalisation_takes_the_extreme_as_the_scale() {
        assert_eq!([normalized_taints(0, 0), normalized_taints(1, 3), normalized_taints(3, 3)], [100, 67, 0]);
        assert_eq!([normalized_affinity(0, 0), normalized_affinity(1, 3), normalized_affinity(3, 3)], [0, 33, 100]);
    }
}
