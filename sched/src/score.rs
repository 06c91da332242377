//! Scores: integers from 0 to 100 per plugin, and their weights.
//!
//! `NodeResourcesFit` (least allocated), `NodeResourcesBalancedAllocation` and `ImageLocality` depend on one node
//! alone and are added up at once; `TaintToleration` and `NodeAffinity` are normalised over the feasible nodes.

use crate::columns::{Demand, MEMORY, MILLI_CPU, SCORED_MEMORY, SCORED_MILLI_CPU};
use crate::ledger::{Ledger, NodeId};

/// Best score of one plugin.
pub const MAX_SCORE: i64 = 100;
/// Weight of `TaintToleration`.
pub const TAINT_WEIGHT: i64 = 3;
/// Weight of `NodeAffinity`.
pub const AFFINITY_WEIGHT: i64 = 2;
/// Weight of `PodTopologySpread`.
pub const SPREAD_WEIGHT: i64 = 2;
/// Weight of `InterPodAffinity`.
pub const POD_AFFINITY_WEIGHT: i64 = 2;
/// Largest sum of the scores that depend on one node alone, which have weight 1 each.
pub(crate) const MAX_OWN: usize = 300;

const MIB: i64 = 1024 * 1024;
/// Image bytes per pod below which locality does not count.
const MIN_IMAGE_BYTES: i64 = 23 * MIB;
/// Image bytes per container above which more does not count.
const MAX_IMAGE_BYTES: i64 = 1000 * MIB;

/// The score vector of one feasible node, each plugin normalised, not yet weighted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scores {
    pub least_allocated: i64,
    pub balanced_allocation: i64,
    pub image_locality: i64,
    pub taint_toleration: i64,
    pub node_affinity: i64,
    /// 0 where the pod has no soft constraint.
    pub topology_spread: i64,
    /// 0 where no term of any pod says anything about nodes.
    pub pod_affinity: i64,
}

impl Scores {
    /// The weighted sum by which nodes are compared.
    pub fn total(&self) -> i64 {
        self.least_allocated
            + self.balanced_allocation
            + self.image_locality
            + TAINT_WEIGHT * self.taint_toleration
            + AFFINITY_WEIGHT * self.node_affinity
            + SPREAD_WEIGHT * self.topology_spread
            + POD_AFFINITY_WEIGHT * self.pod_affinity
    }
}

/// Mean over CPU and memory of the share that would be left; a resource that the node has none of does not count.
pub(crate) fn least_allocated(ledger: &Ledger, node: NodeId, demand: &Demand) -> i64 {
    let share = |capacity: i64, used: i64| {
        if used > capacity { 0 } else { (capacity - used) * MAX_SCORE / capacity }
    };
    let mut sum = 0;
    let mut count = 0;
    for (column, scored, wanted) in
        [(MILLI_CPU, SCORED_MILLI_CPU, demand.scored_milli_cpu), (MEMORY, SCORED_MEMORY, demand.scored_memory)]
    {
        let capacity = ledger.column(column).capacity(node);
        if capacity > 0 {
            sum += share(capacity, ledger.column(scored).used(node) + wanted);
            count += 1;
        }
    }
    if count == 0 { 0 } else { sum / count }
}

/// Half the scale, plus half of what the pod does for the balance of CPU and memory. 0 for a pod that requests
/// neither, as it would otherwise pile up on one node.
pub(crate) fn balanced_allocation(ledger: &Ledger, node: NodeId, demand: &Demand) -> i64 {
    if demand.milli_cpu == 0 && demand.memory == 0 {
        return 0;
    }
    let fraction = |column: u32, more: i64| {
        let column = ledger.column(column);
        let capacity = column.capacity(node);
        (capacity > 0).then(|| ((column.used(node) + more) as f64 / capacity as f64).min(1.0))
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
    use crate::columns::Columns;

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
