//! What a ReplicaSet lacks and how it stands, from its pods alone.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kelson_wire::kube::meta::StringMap;
use kelson_wire::kube::timestamp;
use serde_json::Value;

use crate::error::Error;
use crate::view::{Condition, Pod, ReplicaSet, ReplicaSetStatus, Seconds};

/// Pods to create, or, if negative, to delete. `pods` are the active ones.
pub(super) fn missing(set: &ReplicaSet, pods: &[Arc<Pod>]) -> isize {
    let wanted = isize::try_from(set.replicas().max(0)).unwrap_or(isize::MAX);
    wanted - isize::try_from(pods.len()).unwrap_or(isize::MAX)
}

/// The status that these pods amount to. `failure` is what kept the last run from scaling.
pub(super) fn status(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    failure: Option<&Error>,
    now: SystemTime,
) -> ReplicaSetStatus {
    let labels = template_labels(set);
    let seconds = crate::view::since_epoch(now);
    let mut status = ReplicaSetStatus {
        observed_generation: set.metadata.generation.unwrap_or(0),
        conditions: conditions(set, pods, failure, now),
        ..ReplicaSetStatus::default()
    };
    // Pods of one template share their labels: compare each distinct set once.
    let mut last: Option<(*const StringMap, bool)> = None;
    for pod in pods {
        let at = Arc::as_ptr(&pod.labels);
        let labelled = match last {
            Some((seen, labelled)) if seen == at => labelled,
            _ => labels.iter().all(|(name, value)| pod.labels.get(name) == Some(value)),
        };
        last = Some((at, labelled));
        status.replicas += 1;
        status.fully_labeled_replicas += i64::from(labelled);
        status.ready_replicas += i64::from(pod.ready);
        status.available_replicas += i64::from(pod.is_available(set.spec.min_ready_seconds, seconds));
    }
    status
}

/// When the next ready pod becomes available.
pub(super) fn next_available(set: &ReplicaSet, pods: &[Arc<Pod>], now: Seconds) -> Option<Duration> {
    let wait = set.spec.min_ready_seconds;
    let waiting = pods.iter().filter(|pod| pod.ready && !pod.is_available(wait, now));
    let next = waiting.map(|pod| pod.ready_since + wait - now).min()?;
    Some(Duration::from_secs(u64::try_from(next).unwrap_or(1).max(1)))
}

fn template_labels(set: &ReplicaSet) -> StringMap {
    let template = set.spec.template.value();
    let labels = template.get("metadata").and_then(|metadata| metadata.get("labels")).and_then(Value::as_object);
    let text = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_string()));
    labels.map(|labels| labels.iter().filter_map(text).collect()).unwrap_or_default()
}

fn conditions(set: &ReplicaSet, pods: &[Arc<Pod>], failure: Option<&Error>, now: SystemTime) -> Vec<Condition> {
    const FAILURE: &str = "ReplicaFailure";
    let mut conditions = set.status.conditions.clone();
    match failure {
        Some(error) if crate::view::condition(&conditions, FAILURE).is_none() => {
            let reason = if missing(set, pods) > 0 { "FailedCreate" } else { "FailedDelete" };
            conditions.push(Condition {
                kind: FAILURE.into(),
                status: "True".into(),
                last_transition_time: Some(timestamp::format(now)),
                reason: reason.into(),
                message: error.to_string(),
                ..Condition::default()
            });
        }
        Some(_) => {}
        // It is gone with the first run that has nothing more to do.
        None if missing(set, pods) == 0 => conditions.retain(|condition| condition.kind != FAILURE),
        None => {}
    }
    conditions
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(replicas: i64) -> ReplicaSet {
        serde_json::from_str(
            &json!({"metadata": {"name": "web", "generation": 3}, "spec": {"replicas": replicas, "minReadySeconds": 10,
                "template": {"metadata": {"labels": {"app": "web"}}}}})
            .to_string(),
        )
        .unwrap()
    }

    fn pod(app: &str, ready_since: Option<Seconds>) -> Arc<Pod> {
        Arc::new(Pod {
            labels: Arc::new([("app".to_string(), app.to_string()), ("x".into(), "y".into())].into()),
            ready: ready_since.is_some(),
            ready_since: ready_since.unwrap_or(0),
            ..Pod::default()
        })
    }

    #[test]
    fn counts_labels_readiness_and_availability() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let pods = [pod("web", Some(90)), pod("web", Some(91)), pod("web", None), pod("db", Some(10))];
        let status = status(&set(4), &pods, None, now);
        assert_eq!((status.replicas, status.fully_labeled_replicas), (4, 3));
        assert_eq!((status.ready_replicas, status.available_replicas), (3, 2));
        assert_eq!(status.observed_generation, 3);
        assert_eq!(next_available(&set(4), &pods, 100), Some(Duration::from_secs(1)));
        assert_eq!(next_available(&set(4), &pods, 101), None);
    }

    #[test]
    fn a_failure_is_a_condition_until_the_count_is_right() {
        let now = SystemTime::UNIX_EPOCH;
        let mut set = set(2);
        let one = [pod("web", None)];
        set.status = status(&set, &one, Some(&Error::Invalid("quota".into())), now);
        assert_eq!(set.status.conditions[0].reason, "FailedCreate");
        assert_eq!(set.status.conditions[0].message, "quota");
        assert_eq!(status(&set, &one, None, now).conditions.len(), 1);
        assert!(status(&set, &[one[0].clone(), one[0].clone()], None, now).conditions.is_empty());
        assert_eq!(missing(&set, &one), 1);
        assert_eq!(missing(&set, &[one[0].clone(), one[0].clone(), one[0].clone()]), -1);
    }
}
