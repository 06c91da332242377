//! Revisions of a DaemonSet: what `kubectl rollout history` and `undo` read.

use std::sync::Arc;

use rustc_hash::FxHashSet;
use serde_json::{Value, json};

use super::plan::REVISION_HASH;
use crate::view::{Canonical, ControllerRevision, DaemonSet, Pod};

/// Revisions that are kept if the DaemonSet does not say.
const DEFAULT_LIMIT: i64 = 10;

/// What is to be written about the history.
#[derive(Debug, Default)]
pub(super) struct History {
    /// The current revision's hash.
    pub hash: String,
    /// The current revision does not exist: create it with this number.
    pub create: Option<i64>,
    /// The current revision exists, but is not the newest: give it this number.
    pub renumber: Option<(Arc<ControllerRevision>, i64)>,
    pub remove: Vec<Arc<ControllerRevision>>,
}

/// Finds the current template among the revisions. `revisions` are those of this DaemonSet.
pub(super) fn plan(set: &DaemonSet, mut revisions: Vec<Arc<ControllerRevision>>, pods: &[Arc<Pod>]) -> History {
    revisions.sort_by_key(|revision| revision.revision);
    let wanted = set.spec.template.canonical();
    let newest = revisions.last().map_or(0, |revision| revision.revision);
    let current = revisions.iter().rposition(|revision| template_of(revision) == wanted);
    let mut history = History::default();
    match current {
        Some(at) => {
            let revision = revisions.remove(at);
            history.hash = hash_of(&revision).unwrap_or_else(|| wanted.hash(set.status.collision_count));
            if revision.revision < newest {
                history.renumber = Some((revision, newest + 1));
            }
        }
        None => {
            history.hash = wanted.hash(set.status.collision_count);
            history.create = Some(newest + 1);
        }
    }
    let live: FxHashSet<&str> =
        pods.iter().filter_map(|pod| pod.labels.get(REVISION_HASH)).map(String::as_str).collect();
    let limit = usize::try_from(set.spec.revision_history_limit.unwrap_or(DEFAULT_LIMIT)).unwrap_or(0);
    let unused =
        |revision: &Arc<ControllerRevision>| hash_of(revision).is_none_or(|hash| !live.contains(hash.as_str()));
    let surplus = revisions.len().saturating_sub(limit);
    history.remove = revisions.into_iter().filter(unused).take(surplus).collect();
    history
}

/// The patch that brings this template back.
pub(super) fn data(set: &DaemonSet) -> Value {
    let mut template = set.spec.template.value();
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// Whether a revision holds the DaemonSet's template.
pub(super) fn is_current(set: &DaemonSet, revision: &ControllerRevision) -> bool {
    template_of(revision) == set.spec.template.canonical()
}

fn hash_of(revision: &ControllerRevision) -> Option<String> {
    revision.metadata.labels.get(REVISION_HASH).cloned()
}

fn template_of(revision: &ControllerRevision) -> Canonical {
    let mut data = revision.data.value();
    let mut template = data["spec"]["template"].take();
    if let Some(fields) = template.as_object_mut() {
        fields.remove("$patch");
    }
    Canonical::new(template)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(image: &str) -> DaemonSet {
        let template = json!({"spec": {"image": image}});
        let text = json!({"metadata": {"name": "d"}, "spec": {"template": template, "revisionHistoryLimit": 1}});
        serde_json::from_str(&text.to_string()).unwrap()
    }

    fn revision(image: &str, number: i64) -> Arc<ControllerRevision> {
        let set = set(image);
        let hash = set.spec.template.canonical().hash(None);
        let text = json!({
            "metadata": {"name": format!("d-{hash}"), "labels": {REVISION_HASH: hash}},
            "data": data(&set), "revision": number,
        });
        Arc::new(serde_json::from_str(&text.to_string()).unwrap())
    }

    #[test]
    fn templates_become_revisions_and_old_ones_are_used_again() {
        let first = plan(&set("v1"), vec![], &[]);
        assert_eq!(first.create, Some(1));
        let (one, two) = (revision("v1", 1), revision("v2", 2));
        assert!(is_current(&set("v1"), &one) && !is_current(&set("v1"), &two));
        let steady = plan(&set("v2"), vec![one.clone(), two.clone()], &[]);
        assert!(steady.create.is_none() && steady.renumber.is_none() && steady.remove.is_empty());
        let back = plan(&set("v1"), vec![one.clone(), two.clone()], &[]);
        assert_eq!(back.renumber.map(|(revision, number)| (revision.revision, number)), Some((1, 3)));
        assert_eq!(back.hash, first.hash);
    }

    #[test]
    fn old_revisions_go_unless_a_pod_runs_them() {
        let revisions = vec![revision("v1", 1), revision("v2", 2), revision("v3", 3)];
        let gone = |pods: &[Arc<Pod>]| -> Vec<i64> {
            plan(&set("v3"), revisions.clone(), pods).remove.iter().map(|revision| revision.revision).collect()
        };
        assert_eq!(gone(&[]), [1]);
        let label = [(REVISION_HASH.to_string(), hash_of(&revisions[0]).unwrap())];
        let pod = Pod { labels: Arc::new(label.into()), ..Pod::default() };
        assert_eq!(gone(&[Arc::new(pod)]), [2]);
    }
}
