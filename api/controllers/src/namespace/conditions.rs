//! Why a namespace is still there.

use std::collections::BTreeMap;

use kelson_wire::kube::{Gvr, ObjectMeta};

use crate::error::Error;
use crate::view::{Condition, Seconds, condition, rfc3339};

/// What a namespace still contains.
#[derive(Default)]
pub(super) struct Remains {
    resources: BTreeMap<String, usize>,
    finalizers: BTreeMap<String, usize>,
    failures: Vec<String>,
}

impl Remains {
    /// Counts objects of one resource.
    pub(super) fn add<'a>(&mut self, gvr: &Gvr, objects: impl Iterator<Item = &'a ObjectMeta>) {
        let mut count = 0;
        for object in objects {
            count += 1;
            for finalizer in &object.finalizers {
                *self.finalizers.entry(finalizer.clone()).or_default() += 1;
            }
        }
        if count > 0 {
            *self.resources.entry(format!("{}.{}", gvr.resource, gvr.group)).or_default() += count;
        }
    }

    /// Something could not be deleted.
    pub(super) fn failed(&mut self, error: &Error) {
        self.failures.push(error.to_string());
    }

    /// Whether nothing is left, for certain.
    pub(super) fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.failures.is_empty()
    }
}

/// The conditions after a look; a transition time changes only with the status.
pub(super) fn update(
    before: &[Condition],
    remains: &Remains,
    discovery: Option<&Error>,
    now: Seconds,
) -> Vec<Condition> {
    let counted = |counts: &BTreeMap<String, usize>, verb: &str| {
        counts.iter().map(|(what, count)| format!("{what} {verb} {count} resource instances")).collect::<Vec<_>>()
    };
    let discovery = discovery.map(|error| format!("Discovery failed for some groups: {error}"));
    let failed = (!remains.failures.is_empty()).then(|| {
        format!(
            "Failed to delete all resource types, {} remaining: {}",
            remains.failures.len(),
            remains.failures.join(", ")
        )
    });
    let content = counted(&remains.resources, "has");
    let content = (!content.is_empty()).then(|| format!("Some resources are remaining: {}", content.join(", ")));
    let finalizers = counted(&remains.finalizers, "in");
    let finalizers = (!finalizers.is_empty())
        .then(|| format!("Some content in the namespace has finalizers remaining: {}", finalizers.join(", ")));
    let rows = [
        (
            "NamespaceDeletionDiscoveryFailure",
            discovery,
            "DiscoveryFailed",
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            "GroupVersionParsingFailed",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            failed,
            "ContentDeletionFailed",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            content,
            "SomeResourcesRemain",
            "ContentRemoved",
            "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            finalizers,
            "SomeFinalizersRemain",
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    ];
    let mut conditions: Vec<Condition> =
        before.iter().filter(|old| rows.iter().all(|row| row.0 != old.kind)).cloned().collect();
    for (kind, problem, bad, good, fine) in rows {
        let (status, reason) = if problem.is_some() { ("True", bad) } else { ("False", good) };
        let old = condition(before, kind).filter(|old| old.status == status && old.reason == reason);
        conditions.push(Condition {
            kind: kind.into(),
            status: status.into(),
            last_transition_time: Some(
                old.and_then(|old| old.last_transition_time.clone()).unwrap_or_else(|| rfc3339(now)),
            ),
            reason: reason.into(),
            message: problem.unwrap_or_else(|| fine.to_string()),
            ..Condition::default()
        });
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_left_and_keeps_transition_times() {
        let mut remains = Remains::default();
        assert!(remains.is_empty());
        let object = ObjectMeta { finalizers: vec!["example.com/hold".into()], ..ObjectMeta::default() };
        remains.add(&Gvr::PODS, [&object, &ObjectMeta::default()].into_iter());
        remains.add(&Gvr::JOBS, [].into_iter());
        let first = update(&[], &remains, None, 100);
        let message = |conditions: &[Condition], kind: &str| condition(conditions, kind).unwrap().message.clone();
        assert_eq!(
            message(&first, "NamespaceContentRemaining"),
            "Some resources are remaining: pods. has 2 resource instances"
        );
        assert_eq!(
            message(&first, "NamespaceFinalizersRemaining"),
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
        );
        assert_eq!(update(&first, &remains, None, 200), first);
        let later = update(&first, &Remains::default(), None, 300);
        assert_eq!(condition(&later, "NamespaceContentRemaining").unwrap().status, "False");
        assert_eq!(condition(&later, "NamespaceContentRemaining").unwrap().last_transition_time, Some(rfc3339(300)));
        remains.failed(&Error::Invalid("x".into()));
        assert!(!remains.is_empty());
    }
}
