//! The scores that are normalised over all feasible nodes: taints, node affinity, topology spread, pod affinity.
//!
//! Candidates are nodes, or groups of nodes that these scores cannot tell apart.

use crate::pod::Class;
use crate::profile::Weights;
use crate::score;
use crate::topology::Topology;

/// What a node is to these scores: `PreferNoSchedule` taints that are not tolerated, the weights of the preferred
/// terms that hold, then the cells of the class's topology.
pub(crate) type Key = [i64];
/// Where the cells begin in a key.
pub(crate) const CELLS: usize = 2;

/// The four scores of one candidate, normalised.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marks {
    pub taint_toleration: i64,
    pub node_affinity: i64,
    pub topology_spread: i64,
    pub pod_affinity: i64,
}

impl Marks {
    /// Their weighted sum.
    pub fn total(&self, weights: &Weights) -> i64 {
        weights.taint_toleration * self.taint_toleration
            + weights.node_affinity * self.node_affinity
            + weights.topology_spread * self.topology_spread
            + weights.pod_affinity * self.pod_affinity
    }
}

/// The extremes that the scores are normalised by. Buffers are kept between uses.
#[derive(Debug, Default)]
pub(crate) struct Contest {
    most_against: i64,
    most_preferred: i64,
    weights: Vec<f64>,
    /// Crowding (`None`: takes no part) and attraction of each candidate, where the class has a topology.
    raw: Vec<(Option<i64>, i64)>,
    crowding: (i64, i64),
    attraction: (i64, i64),
    spreads: bool,
}

impl Contest {
    /// Takes in the candidates, each with the number of its nodes.
    pub fn open<'a>(
        &mut self,
        class: &Class,
        topology: &Topology,
        candidates: impl Iterator<Item = (&'a Key, usize)> + Clone,
    ) {
        (self.most_against, self.most_preferred) = (0, 0);
        for (key, _) in candidates.clone() {
            self.most_against = self.most_against.max(key[0]);
            self.most_preferred = self.most_preferred.max(key[1]);
        }
        self.raw.clear();
        self.spreads = topology.spreads();
        if topology.is_empty() {
            return;
        }
        if self.spreads {
            let cells = candidates.clone().map(|(key, nodes)| (&key[CELLS..], nodes));
            topology.spread_weights(cells, &mut self.weights);
        }
        (self.crowding, self.attraction) = ((i64::MAX, 0), (i64::MAX, i64::MIN));
        for (key, _) in candidates {
            let cells = &key[CELLS..];
            let crowding =
                (self.spreads && !topology.ignores(cells)).then(|| topology.crowding(class, cells, &self.weights));
            if let Some(crowding) = crowding {
                self.crowding = (self.crowding.0.min(crowding), self.crowding.1.max(crowding));
            }
            let attraction = topology.attraction(cells);
            self.attraction = (self.attraction.0.min(attraction), self.attraction.1.max(attraction));
            self.raw.push((crowding, attraction));
        }
    }

    /// Crowding and attraction of the candidate that came at this place, where it has any.
    pub fn raw(&self, at: usize) -> (Option<i64>, Option<i64>) {
        self.raw.get(at).map_or((None, None), |(crowding, attraction)| (*crowding, Some(*attraction)))
    }

    /// The marks of the candidate that came at this place.
    pub fn marks(&self, at: usize, key: &Key) -> Marks {
        let (mut topology_spread, mut pod_affinity) = (0, 0);
        if let Some(&(crowding, attraction)) = self.raw.get(at) {
            if let Some(crowding) = crowding {
                topology_spread = score::normalized_spread(crowding, self.crowding.0, self.crowding.1);
            }
            pod_affinity = score::normalized_attraction(attraction, self.attraction.0, self.attraction.1);
        }
        Marks {
            taint_toleration: score::normalized_taints(key[0], self.most_against),
            node_affinity: score::normalized_affinity(key[1], self.most_preferred),
            topology_spread,
            pod_affinity,
        }
    }
}
