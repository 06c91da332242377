//! Whether a node is alive, and what its taints should be.

use crate::config::Config;
use crate::view::{Condition, Node, Seconds, Taint, condition, rfc3339, seconds};

pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
pub(super) const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Conditions a kubelet reports, which nobody knows once it is silent.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Conditions that keep new pods away, with the status that does and the taint.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// What was last heard of a node. Time is this process's own, so that clocks of nodes do not matter.
#[derive(Clone, Debug, Default)]
pub(super) struct Heartbeat {
    /// Last renewal seen, as the node wrote it.
    renewed: u64,
    /// Last heartbeat of the `Ready` condition seen, likewise.
    reported: String,
    /// When either was seen to change, in seconds since 1970.
    pub heard: Seconds,
}

impl Heartbeat {
    /// Takes in what the caches show now.
    pub(super) fn observe(&mut self, node: &Node, renewed: u64, now: Seconds) {
        let ready = condition(&node.conditions, "Ready");
        let reported = ready.and_then(|ready| ready.last_heartbeat_time.as_deref()).unwrap_or_default();
        if self.heard == 0 {
            // A node that never reported is measured from its creation.
            let silent = ready.is_none() && renewed == 0;
            let created = seconds(node.metadata.creation_timestamp.as_deref());
            self.heard = if silent && created > 0 { created } else { now };
        } else if renewed > self.renewed || reported != self.reported {
            self.heard = now;
        }
        self.renewed = self.renewed.max(renewed);
        if self.reported != reported {
            self.reported = reported.to_string();
        }
    }

    /// Whether the node is lost.
    pub(super) fn is_lost(&self, node: &Node, config: &Config, now: Seconds) -> bool {
        let reported = condition(&node.conditions, "Ready").is_some();
        let grace = if reported { config.node_monitor_grace_period } else { config.node_startup_grace_period };
        now - self.heard > i64::try_from(grace.as_secs()).unwrap_or(i64::MAX)
    }
}

/// The conditions to write for a lost node: those that do not say `Unknown` yet.
pub(super) fn unknown_conditions(node: &Node, now: Seconds) -> Vec<Condition> {
    let unknown = |kind: &&str| {
        let before = condition(&node.conditions, kind);
        if before.is_some_and(|before| before.status == "Unknown") {
            return None;
        }
        let (reason, message) = match before {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        let heartbeat = before.map_or(&node.metadata.creation_timestamp, |before| &before.last_heartbeat_time);
        Some(Condition {
            kind: kind.to_string(),
            status: "Unknown".into(),
            last_heartbeat_time: heartbeat.clone(),
            last_transition_time: Some(rfc3339(now)),
            reason: reason.into(),
            message: message.into(),
            ..Condition::default()
        })
    };
    REPORTED.iter().filter_map(unknown).collect()
}

/// Status of the `Ready` condition; `Unknown` if there is none.
pub(super) fn readiness(node: &Node) -> &str {
    condition(&node.conditions, "Ready").map_or("Unknown", |ready| ready.status.as_str())
}

/// What may be done to the pods of a node that is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Eviction {
    /// Its turn has come.
    Allowed,
    /// Not yet: the rate limit.
    Waiting,
    /// Every zone is lost, so it is this process that is cut off: evict nobody.
    Suspended,
}

/// The taints the node should have, if they differ from those it has.
pub(super) fn taints(node: &Node, eviction: Eviction, now: Seconds) -> Option<Vec<Taint>> {
    let mut wanted = node.spec.taints.clone();
    let mut set = |key: &str, effect: &str, on: bool| {
        let has = wanted.iter().any(|taint| taint.is(key, effect));
        if on && !has {
            let time_added = Some(rfc3339(now));
            wanted.push(Taint { key: key.into(), effect: effect.into(), time_added, ..Taint::default() });
        } else if !on && has {
            wanted.retain(|taint| !taint.is(key, effect));
        }
    };
    let ready = condition(&node.conditions, "Ready").map(|ready| ready.status.as_str());
    // A node that has not reported yet is neither: it keeps the taint it was admitted with.
    if let Some(ready) = ready {
        set(NOT_READY, "NoSchedule", ready == "False");
        set(UNREACHABLE, "NoSchedule", ready == "Unknown");
        match (ready, eviction) {
            ("True", _) | (_, Eviction::Suspended) => {
                set(NOT_READY, "NoExecute", false);
                set(UNREACHABLE, "NoExecute", false);
            }
            (_, Eviction::Waiting) => {}
            ("False", Eviction::Allowed) => {
                set(NOT_READY, "NoExecute", true);
                set(UNREACHABLE, "NoExecute", false);
            }
            (_, Eviction::Allowed) => {
                set(UNREACHABLE, "NoExecute", true);
                set(NOT_READY, "NoExecute", false);
            }
        }
    }
    for (kind, key) in PRESSURES {
        set(key, "NoSchedule", condition(&node.conditions, kind).is_some_and(|pressure| pressure.status == "True"));
    }
    set(UNSCHEDULABLE, "NoSchedule", node.spec.unschedulable);
    (wanted != node.spec.taints).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn node(ready: Option<&str>) -> Node {
        let mut node = Node::default();
        node.metadata.creation_timestamp = Some(rfc3339(1000));
        if let Some(status) = ready {
            node.conditions.push(Condition { kind: "Ready".into(), status: status.into(), ..Condition::default() });
        }
        node
    }

    fn keys(taints: &[Taint]) -> Vec<(&str, &str)> {
        taints.iter().map(|taint| (taint.key.as_str(), taint.effect.as_str())).collect()
    }

    #[test]
    fn a_node_is_lost_when_nothing_changes_for_the_grace_period() {
        let config = Config { node_monitor_grace_period: Duration::from_secs(40), ..Config::default() };
        let node = node(Some("True"));
        let mut heartbeat = Heartbeat::default();
        heartbeat.observe(&node, 5, 2000);
        assert!(!heartbeat.is_lost(&node, &config, 2040));
        heartbeat.observe(&node, 6, 2035);
        assert!(!heartbeat.is_lost(&node, &config, 2075));
        heartbeat.observe(&node, 6, 2076);
        assert!(heartbeat.is_lost(&node, &config, 2076));
        let written: Vec<_> = unknown_conditions(&node, 2076).into_iter().map(|c| (c.kind, c.reason)).collect();
        assert_eq!(written[0], ("Ready".into(), "NodeStatusUnknown".into()));
        assert_eq!(written[1], ("MemoryPressure".into(), "NodeStatusNeverUpdated".into()));
        let mut lost = node.clone();
        lost.conditions = unknown_conditions(&node, 2076);
        assert!(unknown_conditions(&lost, 2077).is_empty());
    }

    #[test]
    fn a_node_that_never_reported_is_measured_from_its_creation() {
        let config = Config::default();
        let node = node(None);
        let mut heartbeat = Heartbeat::default();
        heartbeat.observe(&node, 0, 1050);
        assert!(!heartbeat.is_lost(&node, &config, 1060));
        assert!(heartbeat.is_lost(&node, &config, 1061));
    }

    #[test]
    fn taints_follow_readiness_and_the_cordon() {
        let mut lost = node(Some("Unknown"));
        let waiting = taints(&lost, Eviction::Waiting, 0).unwrap();
        assert_eq!(keys(&waiting), [(UNREACHABLE, "NoSchedule")]);
        lost.spec.taints = taints(&lost, Eviction::Allowed, 7).unwrap();
        assert_eq!(keys(&lost.spec.taints), [(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]);
        assert_eq!(lost.spec.taints[1].time_added, Some(rfc3339(7)));
        assert_eq!(taints(&lost, Eviction::Allowed, 9), None, "written once");
        assert_eq!(keys(&taints(&lost, Eviction::Suspended, 9).unwrap()), [(UNREACHABLE, "NoSchedule")]);
        lost.conditions[0].status = "False".into();
        assert_eq!(
            keys(&taints(&lost, Eviction::Allowed, 9).unwrap()),
            [(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]
        );
        lost.conditions[0].status = "True".into();
        lost.spec.unschedulable = true;
        assert_eq!(keys(&taints(&lost, Eviction::Waiting, 9).unwrap()), [(UNSCHEDULABLE, "NoSchedule")]);
        let mut other = node(Some("True"));
        other.spec.taints = vec![Taint { key: "mine".into(), effect: "NoSchedule".into(), ..Taint::default() }];
        assert_eq!(taints(&other, Eviction::Allowed, 9), None, "others' taints are left alone");
    }
}
