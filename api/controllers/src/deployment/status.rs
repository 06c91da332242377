//! Counts and conditions: what `kubectl rollout status` and `kubectl wait` read.

use std::time::Duration;

use super::plan::Planner;
use crate::view::{Condition, Deployment, DeploymentStatus, condition, rfc3339, seconds};

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const DEADLINE_EXCEEDED: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// Whether this status says that the whole Deployment runs the current template.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = deployment.replicas();
    status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
        && status.observed_generation >= deployment.metadata.generation.unwrap_or(0)
}

/// An existing set turned out to have the current template: a rollback.
pub(super) fn note_found(planner: &mut Planner, name: &str) {
    if condition(&planner.status.conditions, PROGRESSING).is_none() {
        set(planner, PROGRESSING, "True", "FoundNewReplicaSet", format!("Found new replica set {name:?}"));
    }
}

/// A set is created.
pub(super) fn note_created(planner: &mut Planner, name: &str) {
    set(planner, PROGRESSING, "True", "NewReplicaSetCreated", format!("Created new replica set {name:?}"));
}

/// The set could not be created.
pub(super) fn note_failed(deployment: &Deployment, status: &mut DeploymentStatus, message: String, now: i64) {
    if deployment.spec.progress_deadline_seconds.is_some() {
        replace(status, PROGRESSING, "False", "ReplicaSetCreateError", message, now);
    }
}

/// Pausing stops the clock of the deadline.
pub(super) fn note_pause(planner: &mut Planner) {
    if planner.deployment.spec.progress_deadline_seconds.is_none() {
        return;
    }
    let reason = condition(&planner.status.conditions, PROGRESSING).map(|progressing| progressing.reason.as_str());
    let paused = planner.deployment.spec.paused;
    match reason {
        Some(DEADLINE_EXCEEDED) => {}
        Some(PAUSED) if !paused => {
            set(planner, PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed".into());
        }
        reason if paused && reason != Some(PAUSED) => {
            set(planner, PROGRESSING, "Unknown", PAUSED, "Deployment is paused".into());
        }
        _ => {}
    }
}

/// Completes the status. Returns when the deadline may pass.
pub(super) fn settle(planner: &mut Planner) -> Option<Duration> {
    count(planner);
    let deployment = planner.deployment;
    let terminating = deployment.metadata.is_terminating();
    if deployment.spec.progress_deadline_seconds.is_none() {
        planner.status.conditions.retain(|condition| condition.kind != PROGRESSING);
    } else if !terminating && planner.create.is_none() && !deployment.spec.paused {
        progress(planner);
    }
    failures(planner);
    recheck(planner)
}

fn count(planner: &mut Planner) {
    let deployment = planner.deployment;
    let sum = |of: fn(&crate::view::ReplicaSetStatus) -> i64| -> i64 {
        planner.members.iter().map(|member| of(&member.set.status)).sum()
    };
    let (replicas, ready, available) =
        (sum(|status| status.replicas), sum(|status| status.ready_replicas), sum(|status| status.available_replicas));
    let updated = planner.new.map_or(0, |new| planner.members[new].set.status.replicas);
    let (_, max_unavailable) = deployment.fences();
    let unavailable = (planner.total() - available).max(0);
    let status = &mut planner.status;
    status.observed_generation = deployment.metadata.generation.unwrap_or(0);
    (status.replicas, status.updated_replicas) = (replicas, updated);
    (status.ready_replicas, status.available_replicas) = (ready, available);
    status.unavailable_replicas = unavailable;
    if available >= deployment.replicas() - max_unavailable {
        let message = "Deployment has minimum availability.";
        set(planner, AVAILABLE, "True", "MinimumReplicasAvailable", message.into());
    } else {
        let message = "Deployment does not have minimum availability.";
        set(planner, AVAILABLE, "False", "MinimumReplicasUnavailable", message.into());
    }
}

fn progress(planner: &mut Planner) {
    let (deployment, before) = (planner.deployment, &planner.deployment.status);
    let reason = condition(&planner.status.conditions, PROGRESSING).map(|progressing| progressing.reason.clone());
    let after = &planner.status;
    if after.replicas == after.updated_replicas && reason.as_deref() == Some(NEW_SET_AVAILABLE) {
        return;
    }
    let subject = match planner.new {
        Some(new) => format!("ReplicaSet {:?}", planner.members[new].set.metadata.name),
        None => format!("Deployment {:?}", deployment.metadata.name),
    };
    let stale = |status: &DeploymentStatus| status.replicas - status.updated_replicas;
    if is_complete(deployment, after) {
        let message = format!("{subject} has successfully progressed.");
        set(planner, PROGRESSING, "True", NEW_SET_AVAILABLE, message);
    } else if after.updated_replicas > before.updated_replicas
        || stale(after) < stale(before)
        || after.ready_replicas > before.ready_replicas
        || after.available_replicas > before.available_replicas
    {
        // Written anew even if it says the same: its update time is what the deadline counts from.
        let now = planner.now;
        replace(
            &mut planner.status,
            PROGRESSING,
            "True",
            "ReplicaSetUpdated",
            format!("{subject} is progressing."),
            now,
        );
    } else if deadline(planner).is_some_and(|deadline| planner.now > deadline) {
        set(planner, PROGRESSING, "False", DEADLINE_EXCEEDED, format!("{subject} has timed out progressing."));
    }
}

/// When the rollout counts as stuck, in seconds since 1970; none if it is complete or the clock stands.
fn deadline(planner: &Planner) -> Option<i64> {
    let progressing = condition(&planner.status.conditions, PROGRESSING)?;
    if progressing.reason == NEW_SET_AVAILABLE {
        return None;
    }
    let since = seconds(progressing.last_update_time.as_deref());
    Some(since + planner.deployment.spec.progress_deadline_seconds?)
}

fn recheck(planner: &Planner) -> Option<Duration> {
    let deployment = planner.deployment;
    if deployment.spec.paused || deployment.metadata.is_terminating() || is_complete(deployment, &planner.status) {
        return None;
    }
    let progressing = condition(&planner.status.conditions, PROGRESSING)?;
    if progressing.reason == DEADLINE_EXCEEDED {
        return None;
    }
    let left = (deadline(planner)? - planner.now).max(0) + 1;
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(1)))
}

/// A ReplicaSet's failure is the Deployment's; the current set's counts first.
fn failures(planner: &mut Planner) {
    let of = |at: usize| condition(&planner.members[at].set.status.conditions, REPLICA_FAILURE).cloned();
    match planner.new.and_then(of).or_else(|| planner.old().into_iter().find_map(of)) {
        Some(failure) => set(planner, REPLICA_FAILURE, &failure.status, &failure.reason, failure.message.clone()),
        None => planner.status.conditions.retain(|condition| condition.kind != REPLICA_FAILURE),
    }
}

/// Sets a condition, unless it has this status and reason already.
fn set(planner: &mut Planner, kind: &str, status: &str, reason: &str, message: String) {
    let same = condition(&planner.status.conditions, kind)
        .is_some_and(|condition| condition.status == status && condition.reason == reason);
    if !same {
        replace(&mut planner.status, kind, status, reason, message, planner.now);
    }
}

fn replace(whole: &mut DeploymentStatus, kind: &str, status: &str, reason: &str, message: String, now: i64) {
    let before = condition(&whole.conditions, kind).filter(|before| before.status == status);
    let transition = before.and_then(|before| before.last_transition_time.clone()).unwrap_or_else(|| rfc3339(now));
    whole.conditions.retain(|condition| condition.kind != kind);
    whole.conditions.push(Condition {
        kind: kind.into(),
        status: status.into(),
        last_update_time: Some(rfc3339(now)),
        last_transition_time: Some(transition),
        reason: reason.into(),
        message,
        ..Condition::default()
    });
}
