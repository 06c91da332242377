//! Revision numbers and the annotations that carry them: what `kubectl rollout history` reads.

use kelson_wire::kube::meta::StringMap;

use super::plan::{DESIRED, MAX, Member, Planner};
use crate::view::Deployment;

/// Annotation: the revision of a ReplicaSet, or the current one of a Deployment.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Annotation: revisions that a ReplicaSet had before it was rolled back to.
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Longest history, in bytes.
const MAX_HISTORY: usize = 2000;

/// Annotations that are not handed down to ReplicaSets.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// The revision of a set, 0 if it has none.
pub(super) fn of(member: &Member) -> i64 {
    member.annotation(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The revision that the current template is to have: one more than any older one.
pub(super) fn next(planner: &Planner) -> i64 {
    planner.old().into_iter().map(|at| of(&planner.members[at])).max().unwrap_or(0) + 1
}

/// What a Deployment hands down.
pub(super) fn inherited(deployment: &Deployment) -> StringMap {
    let annotations = deployment.metadata.annotations.iter();
    annotations.filter(|(name, _)| !OWN.contains(&name.as_str())).map(|(n, v)| (n.clone(), v.clone())).collect()
}

/// Brings the annotations of the current set up to date; an old set that is current again remembers its earlier revision.
pub(super) fn annotate(deployment: &Deployment, member: &mut Member, revision: i64) {
    for (name, value) in inherited(deployment) {
        member.annotate(&name, &value);
    }
    let before = of(member);
    if before >= revision {
        return;
    }
    if before > 0 {
        let mut history: Vec<String> = member
            .annotation(HISTORY)
            .filter(|text| !text.is_empty())
            .map(|text| text.split(',').map(str::to_string).collect())
            .unwrap_or_default();
        history.push(before.to_string());
        while history.len() > 1 && history.iter().map(|entry| entry.len() + 1).sum::<usize>() > MAX_HISTORY {
            history.remove(0);
        }
        member.annotate(HISTORY, &history.join(","));
    }
    member.annotate(REVISION, &revision.to_string());
}
