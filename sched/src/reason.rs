//! Why a pod does not fit, in the words that kube-scheduler's users know.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A filter plugin. Filters run in this order; a node is charged to the first one that rejects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Filter {
    NodeUnschedulable,
    NodeName,
    TaintToleration,
    NodeAffinity,
    NodePorts,
    NodeResourcesFit,
    VolumeRestrictions,
    NodeVolumeLimits,
    VolumeBinding,
    VolumeZone,
    PodTopologySpread,
    InterPodAffinity,
    DynamicResources,
    NodeDeclaredFeatures,
}

impl Filter {
    /// All filters, in their order.
    pub const ALL: [Filter; 14] = [
        Filter::NodeUnschedulable,
        Filter::NodeName,
        Filter::TaintToleration,
        Filter::NodeAffinity,
        Filter::NodePorts,
        Filter::NodeResourcesFit,
        Filter::VolumeRestrictions,
        Filter::NodeVolumeLimits,
        Filter::VolumeBinding,
        Filter::VolumeZone,
        Filter::PodTopologySpread,
        Filter::InterPodAffinity,
        Filter::DynamicResources,
        Filter::NodeDeclaredFeatures,
    ];

    /// The plugin's name.
    pub fn name(self) -> &'static str {
        match self {
            Filter::NodeUnschedulable => "NodeUnschedulable",
            Filter::NodeName => "NodeName",
            Filter::TaintToleration => "TaintToleration",
            Filter::NodeAffinity => "NodeAffinity",
            Filter::NodePorts => "NodePorts",
            Filter::NodeResourcesFit => "NodeResourcesFit",
            Filter::VolumeRestrictions => "VolumeRestrictions",
            Filter::NodeVolumeLimits => "NodeVolumeLimits",
            Filter::VolumeBinding => "VolumeBinding",
            Filter::VolumeZone => "VolumeZone",
            Filter::PodTopologySpread => "PodTopologySpread",
            Filter::InterPodAffinity => "InterPodAffinity",
            Filter::DynamicResources => "DynamicResources",
            Filter::NodeDeclaredFeatures => "NodeDeclaredFeatures",
        }
    }
}

/// Why one node rejects one pod. `NodeResourcesFit` alone may give several reasons for one node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    Unschedulable,
    OtherNodeName,
    /// A taint that the pod does not tolerate.
    Untolerated,
    /// Node selector or required affinity.
    Affinity,
    /// Not among the nodes that required affinity names.
    NotNamed,
    Ports,
    TooManyPods,
    Insufficient(Arc<str>),
    /// Topology spread.
    Spread,
    /// Topology spread, on a node without the topology key.
    SpreadLabel,
    PodAffinity,
    PodAntiAffinity,
    /// The anti-affinity of a pod that is there.
    ExistingAntiAffinity,
    /// Node affinity that the profile adds.
    AddedAffinity,
    /// Required affinity that contradicts itself: no node is looked at.
    Contradiction,
    DiskConflict,
    /// A claim for one pod at a time has one.
    ClaimInUse,
    TooManyVolumes,
    /// The node affinity of a volume.
    VolumeAffinity,
    NoVolumeToBind,
    NotEnoughStorage,
    /// A claim is bound to a volume that is not there.
    NoVolume,
    VolumeZone,
    /// No devices for a claim.
    Devices,
    /// A claim has devices that are elsewhere.
    ClaimElsewhere,
    /// The node does not declare the features.
    Features,
    /// What a filter says in its own words.
    Refused(Filter, Arc<str>),
}

impl Reason {
    /// The filter that gives it.
    pub fn filter(&self) -> Filter {
        match self {
            Reason::Unschedulable => Filter::NodeUnschedulable,
            Reason::OtherNodeName => Filter::NodeName,
            Reason::Untolerated => Filter::TaintToleration,
            Reason::Affinity | Reason::NotNamed | Reason::AddedAffinity | Reason::Contradiction => Filter::NodeAffinity,
            Reason::Ports => Filter::NodePorts,
            Reason::TooManyPods | Reason::Insufficient(_) => Filter::NodeResourcesFit,
            Reason::Spread | Reason::SpreadLabel => Filter::PodTopologySpread,
            Reason::PodAffinity | Reason::PodAntiAffinity | Reason::ExistingAntiAffinity => Filter::InterPodAffinity,
            Reason::DiskConflict | Reason::ClaimInUse => Filter::VolumeRestrictions,
            Reason::TooManyVolumes => Filter::NodeVolumeLimits,
            Reason::VolumeAffinity | Reason::NoVolumeToBind | Reason::NotEnoughStorage | Reason::NoVolume => {
                Filter::VolumeBinding
            }
            Reason::VolumeZone => Filter::VolumeZone,
            Reason::Devices | Reason::ClaimElsewhere => Filter::DynamicResources,
            Reason::Features => Filter::NodeDeclaredFeatures,
            Reason::Refused(filter, _) => *filter,
        }
    }

    /// Whether evicting pods from the node may help (`Unschedulable`, not `UnschedulableAndUnresolvable`).
    pub fn is_mendable(&self) -> bool {
        match self {
            Reason::PodAffinity | Reason::SpreadLabel => false,
            reason => matches!(
                reason.filter(),
                Filter::NodePorts
                    | Filter::NodeResourcesFit
                    | Filter::VolumeRestrictions
                    | Filter::NodeVolumeLimits
                    | Filter::PodTopologySpread
                    | Filter::InterPodAffinity
            ),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Unschedulable => f.write_str("node(s) were unschedulable"),
            Reason::OtherNodeName => f.write_str("node(s) didn't match the requested node name"),
            Reason::Untolerated => f.write_str("node(s) had untolerated taint(s)"),
            Reason::Affinity => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Reason::NotNamed => f.write_str("node(s) didn't satisfy plugin(s) [NodeAffinity]"),
            Reason::Ports => f.write_str("node(s) didn't have free ports for the requested pod ports"),
            Reason::TooManyPods => f.write_str("Too many pods"),
            Reason::Insufficient(resource) => write!(f, "Insufficient {resource}"),
            Reason::Spread => f.write_str("node(s) didn't match pod topology spread constraints"),
            Reason::SpreadLabel => {
                f.write_str("node(s) didn't match pod topology spread constraints (missing required label)")
            }
            Reason::PodAffinity => f.write_str("node(s) didn't match pod affinity rules"),
            Reason::PodAntiAffinity => f.write_str("node(s) didn't match pod anti-affinity rules"),
            Reason::ExistingAntiAffinity => f.write_str("node(s) didn't satisfy existing pods anti-affinity rules"),
            Reason::AddedAffinity => f.write_str("node(s) didn't match scheduler-enforced node affinity"),
            Reason::Contradiction => f.write_str("pod affinity terms conflict"),
            Reason::DiskConflict => f.write_str("node(s) had no available disk"),
            Reason::ClaimInUse => f.write_str(
                "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by \
                 another pod",
            ),
            Reason::TooManyVolumes => f.write_str("node(s) exceed max volume count"),
            Reason::VolumeAffinity => f.write_str("node(s) didn't match PersistentVolume's node affinity"),
            Reason::NoVolumeToBind => f.write_str("node(s) didn't find available persistent volumes to bind"),
            Reason::NotEnoughStorage => f.write_str("node(s) did not have enough free storage"),
            Reason::NoVolume => {
                f.write_str("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
            }
            Reason::VolumeZone => f.write_str("node(s) had no available volume zone"),
            Reason::Devices => f.write_str("cannot allocate all claims"),
            Reason::ClaimElsewhere => f.write_str("resourceclaim not available on the node"),
            Reason::Features => f.write_str("node(s) didn't match Pod's required features"),
            Reason::Refused(_, text) => f.write_str(text),
        }
    }
}

/// A set of filters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FilterSet(u16);

impl FilterSet {
    /// Every filter: for a pod that failed for no filter's reason.
    pub const ALL: FilterSet = FilterSet(0x3fff);

    /// Adds a filter.
    pub fn insert(&mut self, filter: Filter) {
        self.0 |= 1 << filter as u8;
    }

    /// Takes a filter out.
    pub fn remove(&mut self, filter: Filter) {
        self.0 &= !(1 << filter as u8);
    }

    /// Whether the filter is in the set.
    pub fn contains(self, filter: Filter) -> bool {
        self.0 & (1 << filter as u8) != 0
    }
}

/// Why no node takes a pod: for how many nodes each reason was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// Nodes there are.
    pub nodes: usize,
    /// Nodes per reason.
    pub reasons: BTreeMap<Reason, usize>,
    /// Why no node was looked at, if none was.
    pub refusal: Option<Reason>,
    /// What came of making room, if that was tried in vain.
    pub preemption: Option<Outlook>,
}

impl Diagnosis {
    /// The filters that reject, which decide what may change the outcome.
    pub fn filters(&self) -> FilterSet {
        if self.nodes == 0 {
            return FilterSet::ALL;
        }
        let mut filters = FilterSet::default();
        self.refusal.iter().chain(self.reasons.keys()).for_each(|reason| filters.insert(reason.filter()));
        filters
    }
}

/// Sorted as text, numbers included, as kube-scheduler does.
fn write_counts<R: fmt::Display>(f: &mut fmt::Formatter<'_>, reasons: &BTreeMap<R, usize>) -> fmt::Result {
    if reasons.is_empty() {
        return Ok(());
    }
    let mut parts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort_unstable();
    write!(f, " {}.", parts.join(", "))
}

/// Why evicting pods makes no room, in the words of `DefaultPreemption`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// The pod may not evict others now.
    Ineligible(&'static str),
    /// Evictions help nowhere.
    Hindered {
        /// Nodes there are.
        nodes: usize,
        /// Nodes per hindrance.
        hindrances: BTreeMap<Hindrance, usize>,
    },
}

impl Outlook {
    /// Of a pod whose `preemptionPolicy` is `Never`.
    pub const NEVER: Outlook = Outlook::Ineligible("not eligible due to preemptionPolicy=Never.");
}

/// Why evicting pods from one node makes no room.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hindrance {
    /// What rejects the pod is not mended by evictions.
    Unhelpful,
    /// No pod there is of lower priority.
    NoVictims,
    /// Even without them it does not fit.
    Still(Reason),
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hindrance::Unhelpful => f.write_str("Preemption is not helpful for scheduling"),
            Hindrance::NoVictims => f.write_str("No preemption victims found for incoming pod"),
            Hindrance::Still(reason) => reason.fmt(f),
        }
    }
}

impl fmt::Display for Outlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outlook::Ineligible(why) => write!(f, "preemption: {why}"),
            Outlook::Hindered { nodes, hindrances } => {
                write!(f, "preemption: 0/{nodes} nodes are available:")?;
                write_counts(f, hindrances)
            }
        }
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        write!(f, "0/{} nodes are available:", self.nodes)?;
        match &self.refusal {
            Some(refusal) => write!(f, " {refusal}.")?,
            None => write_counts(f, &self.reasons)?,
        }
        self.preemption.iter().try_for_each(|outlook| write!(f, " {outlook}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_as_kube_scheduler_writes_them() {
        let mut diagnosis = Diagnosis { nodes: 15, ..Diagnosis::default() };
        diagnosis.reasons.insert(Reason::Insufficient("cpu".into()), 2);
        diagnosis.reasons.insert(Reason::Untolerated, 3);
        diagnosis.reasons.insert(Reason::Unschedulable, 10);
        assert_eq!(
            diagnosis.to_string(),
            "0/15 nodes are available: 10 node(s) were unschedulable, 2 Insufficient cpu, \
             3 node(s) had untolerated taint(s)."
        );
        assert!(diagnosis.filters().contains(Filter::NodeResourcesFit));
        assert!(!diagnosis.filters().contains(Filter::NodePorts));
        assert_eq!(Diagnosis::default().to_string(), "no nodes available to schedule pods");
    }
}
