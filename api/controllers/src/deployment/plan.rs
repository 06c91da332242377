//! What to do for one Deployment, from its ReplicaSets alone.
//!
//! The rules are those of the Deployment page of the Kubernetes documentation and of kube-controller-manager; each run takes
//! one careful step and the resulting events bring the next.

use std::sync::Arc;
use std::time::Duration;

use kelson_wire::kube::meta::StringMap;

use super::{revision, rolling, scaling, status};
use crate::view::{Canonical, Deployment, DeploymentStatus, ReplicaSet, Seconds};

/// Annotation: the replicas the Deployment asked for when it last sized this set.
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// Annotation: those plus the surge.
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// One ReplicaSet and what is to change about it.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub set: Arc<ReplicaSet>,
    /// Replicas it is to have.
    pub replicas: i64,
    /// Annotations to set.
    pub annotations: StringMap,
    pub min_ready_seconds: i64,
}

impl Member {
    /// The annotation as it will be.
    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).or_else(|| self.set.metadata.annotations.get(name)).map(String::as_str)
    }

    /// Sets an annotation unless it is that already.
    pub(super) fn annotate(&mut self, name: &str, value: &str) {
        if self.annotation(name) != Some(value) {
            self.annotations.insert(name.to_string(), value.to_string());
        }
    }

    /// Whether there is anything to write.
    pub(super) fn is_changed(&self) -> bool {
        self.replicas != self.set.replicas()
            || !self.annotations.is_empty()
            || self.min_ready_seconds != self.set.spec.min_ready_seconds
    }
}

/// A ReplicaSet to create.
#[derive(Clone, Debug)]
pub(super) struct NewSet {
    pub hash: String,
    pub name: String,
    pub replicas: i64,
    pub annotations: StringMap,
}

/// The outcome.
#[derive(Debug)]
pub(super) struct Plan {
    pub create: Option<NewSet>,
    pub members: Vec<Member>,
    /// Indices of `members` to delete.
    pub remove: Vec<usize>,
    /// Revision to write on the Deployment.
    pub revision: Option<String>,
    pub status: DeploymentStatus,
    pub recheck: Option<Duration>,
    /// Messages of `ScalingReplicaSet` events, for when the writes went well.
    pub events: Vec<String>,
}

/// The state of planning.
pub(super) struct Planner<'a> {
    pub deployment: &'a Deployment,
    pub now: Seconds,
    /// Oldest first.
    pub members: Vec<Member>,
    /// Index of the set with the current template.
    pub new: Option<usize>,
    pub create: Option<NewSet>,
    pub remove: Vec<usize>,
    pub revision: Option<String>,
    pub events: Vec<String>,
    /// Status so far: conditions change on the way, counts come last.
    pub status: DeploymentStatus,
}

/// Plans one step. `has_live_pods` tells whether a ReplicaSet has pods that have not ended.
pub(super) fn plan(
    deployment: &Deployment,
    sets: Vec<Arc<ReplicaSet>>,
    has_live_pods: &dyn Fn(&ReplicaSet) -> bool,
    now: Seconds,
) -> Plan {
    let mut planner = Planner::new(deployment, sets, now);
    if deployment.metadata.is_terminating() {
        return planner.finish();
    }
    planner.note_pause();
    if deployment.spec.paused || scaling::is_due(&planner) {
        planner.keep_revision();
        scaling::scale(&mut planner);
        if deployment.spec.paused {
            planner.clean_up();
        }
    } else if deployment.recreates() {
        rolling::recreate(&mut planner, has_live_pods);
    } else {
        rolling::roll(&mut planner);
    }
    planner.finish()
}

impl<'a> Planner<'a> {
    fn new(deployment: &'a Deployment, mut sets: Vec<Arc<ReplicaSet>>, now: Seconds) -> Planner<'a> {
        sets.sort_by(|a, b| {
            let age = |set: &Arc<ReplicaSet>| set.metadata.creation_timestamp.clone();
            age(a).cmp(&age(b)).then_with(|| a.metadata.name.cmp(&b.metadata.name))
        });
        let wanted = deployment.spec.template.canonical();
        let new = sets.iter().position(|set| set.spec.template.canonical() == wanted);
        let members = sets.into_iter().map(|set| Member {
            replicas: set.replicas(),
            annotations: StringMap::new(),
            min_ready_seconds: set.spec.min_ready_seconds,
            set,
        });
        Planner {
            deployment,
            now,
            members: members.collect(),
            new,
            create: None,
            remove: Vec::new(),
            revision: None,
            events: Vec::new(),
            status: deployment.status.clone(),
        }
    }

    /// Indices of the sets of earlier templates, oldest first.
    pub(super) fn old(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|at| Some(*at) != self.new).collect()
    }

    /// Replicas asked of all sets together.
    pub(super) fn total(&self) -> i64 {
        self.members.iter().map(|member| member.replicas).sum()
    }

    /// Available pods of all sets together.
    pub(super) fn available(&self) -> i64 {
        self.members.iter().map(|member| member.set.status.available_replicas).sum()
    }

    /// Gives a set this many replicas. Whether that is a change.
    pub(super) fn resize(&mut self, at: usize, replicas: i64) -> bool {
        let wanted = self.deployment.replicas();
        let (surge, _) = self.deployment.fences();
        let member = &mut self.members[at];
        member.annotate(DESIRED, &wanted.to_string());
        member.annotate(MAX, &(wanted + surge).to_string());
        if member.replicas == replicas {
            return false;
        }
        let direction = if replicas > member.replicas { "up" } else { "down" };
        let message = format!(
            "Scaled {direction} replica set {} from {} to {replicas}",
            member.set.metadata.name, member.replicas
        );
        member.replicas = replicas;
        self.events.push(message);
        true
    }

    /// Makes the set of the current template carry the newest revision, if it exists.
    pub(super) fn keep_revision(&mut self) {
        let Some(at) = self.new else { return };
        let revision = revision::next(self);
        revision::annotate(self.deployment, &mut self.members[at], revision);
        self.members[at].min_ready_seconds = self.deployment.spec.min_ready_seconds;
        self.revision = self.members[at].annotation(revision::REVISION).map(str::to_string);
        if self.deployment.spec.progress_deadline_seconds.is_some() {
            let name = self.members[at].set.metadata.name.clone();
            status::note_found(self, &name);
        }
    }

    /// The set of the current template: brought up to date, or planned to be created (then `None`).
    pub(super) fn ensure_new(&mut self) -> Option<usize> {
        if self.new.is_some() {
            self.keep_revision();
            return self.new;
        }
        let hash = self.deployment.spec.template.canonical().hash(self.deployment.status.collision_count);
        let name = set_name(&self.deployment.metadata.name, &hash);
        let replicas = rolling::new_replicas(self, 0);
        let revision = revision::next(self);
        let (surge, _) = self.deployment.fences();
        let mut annotations = revision::inherited(self.deployment);
        annotations.insert(revision::REVISION.into(), revision.to_string());
        annotations.insert(DESIRED.into(), self.deployment.replicas().to_string());
        annotations.insert(MAX.into(), (self.deployment.replicas() + surge).to_string());
        if replicas > 0 {
            self.events.push(format!("Scaled up replica set {name} from 0 to {replicas}"));
        }
        self.revision = Some(revision.to_string());
        if self.deployment.spec.progress_deadline_seconds.is_some() {
            status::note_created(self, &name);
        }
        self.create = Some(NewSet { hash, name, replicas, annotations });
        None
    }

    /// Deletes the oldest empty sets beyond the history limit.
    pub(super) fn clean_up(&mut self) {
        let Some(limit) = self.deployment.spec.revision_history_limit else { return };
        let mut old = self.old();
        old.retain(|at| !self.members[*at].set.metadata.is_terminating());
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by_key(|at| revision::of(&self.members[*at]));
        for at in old.into_iter().take(surplus) {
            let member = &self.members[at];
            let set = &member.set;
            let settled = set.metadata.generation.unwrap_or(0) <= set.status.observed_generation;
            if member.replicas == 0 && set.replicas() == 0 && set.status.replicas == 0 && settled {
                self.remove.push(at);
            }
        }
    }

    /// Whether the rollout has come to its end.
    pub(super) fn is_complete(&self) -> bool {
        status::is_complete(self.deployment, &self.deployment.status)
    }

    fn note_pause(&mut self) {
        status::note_pause(self);
    }

    fn finish(mut self) -> Plan {
        let recheck = status::settle(&mut self);
        let revision = self
            .revision
            .filter(|revision| self.deployment.metadata.annotations.get(revision::REVISION) != Some(revision));
        Plan {
            create: self.create,
            members: self.members,
            remove: self.remove,
            revision,
            status: self.status,
            recheck,
            events: self.events,
        }
    }
}

/// Whether two templates are the same but for the hash label.
pub(super) fn same_template(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let canonical: Canonical = deployment.spec.template.canonical();
    canonical == set.spec.template.canonical()
}

/// `deployment-hash`, the Deployment's part cut so that pod names made from it still fit a label.
fn set_name(deployment: &str, hash: &str) -> String {
    /// Longest name that is also a DNS subdomain, in bytes.
    const LONGEST: usize = 253;
    let room = LONGEST - hash.len() - 1;
    let cut = deployment.get(..room.min(deployment.len())).unwrap_or(deployment);
    format!("{cut}-{hash}")
}
