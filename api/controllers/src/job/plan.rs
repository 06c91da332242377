//! What to do for one Job, from its pods alone.
//!
//! Every pod carries a finalizer, and counts exactly once: first its uid is written to the status as uncounted, guarded by the
//! resource version that was read; then its finalizer is taken off; then, once the cache shows it without, it moves from the list
//! to the count, in another guarded write. A crash or a stale view between any two steps repeats the step, never the count. Indexed
//! successes need no list: the set of completed indexes takes an index twice as well as once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::indexes;
use crate::view::{Condition, Job, JobStatus, Phase, Pod, Seconds, Uncounted, condition, rfc3339, seconds};

/// Finalizer of pods that are not counted yet.
pub(super) const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Most uids listed as uncounted at a time, which bounds the status.
const MAX_UNCOUNTED: usize = 500;
/// Most pods created or deleted in one run.
const BURST: usize = 500;
/// Delay after the first failure; each further one doubles it.
const BACKOFF: i64 = 10;
const MAX_BACKOFF: i64 = 600;

const COMPLETE: &str = "Complete";
const FAILED: &str = "Failed";
const SUSPENDED: &str = "Suspended";
const SUCCESS_MET: &str = "SuccessCriteriaMet";
const FAILURE_TARGET: &str = "FailureTarget";

/// The outcome.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// To be written before anything else, guarded by the Job's resource version.
    pub status: JobStatus,
    /// Pods whose finalizer goes once the status is written.
    pub release: Vec<Arc<Pod>>,
    /// Pods to delete that count as failed.
    pub kill: Vec<Arc<Pod>>,
    /// Pods to delete that do not count: the finalizer goes first.
    pub retire: Vec<Arc<Pod>>,
    /// Pods to create, with their completion index.
    pub create: Vec<Option<u32>>,
    /// The Job has been finished long enough.
    pub expired: bool,
    pub recheck: Option<Duration>,
    /// Kind, reason and message.
    pub events: Vec<(bool, &'static str, String)>,
}

/// The state of planning.
struct Planner<'a> {
    job: &'a Job,
    pods: &'a [Arc<Pod>],
    now: Seconds,
    completed: BTreeSet<u32>,
    uncounted: Uncounted,
    plan: Plan,
}

/// Plans one run. `may_write`: the cache has seen all pods that were created and deleted before.
pub(super) fn plan(job: &Job, pods: &[Arc<Pod>], may_write: bool, now: Seconds) -> Plan {
    let mut planner = Planner {
        job,
        pods,
        now,
        completed: indexes::parse(&job.status.completed_indexes, limit(job)),
        uncounted: job.status.uncounted_terminated_pods.clone().unwrap_or_default(),
        plan: Plan { status: job.status.clone(), ..Plan::default() },
    };
    if job.metadata.is_terminating() || is_finished(job) {
        planner.let_go();
        return planner.plan;
    }
    planner.settle();
    planner.collect();
    planner.drive(may_write);
    planner.finish()
}

/// Whether the Job has come to its end.
pub(super) fn is_finished(job: &Job) -> bool {
    finished_at(job).is_some()
}

fn finished_at(job: &Job) -> Option<Seconds> {
    let mut ends = [COMPLETE, FAILED].iter().filter_map(|kind| condition(&job.status.conditions, kind));
    let end = ends.find(|end| end.status == "True")?;
    Some(seconds(end.last_transition_time.as_deref()))
}

/// Whether pods carry a completion index.
pub(super) fn is_indexed(job: &Job) -> bool {
    job.spec.completion_mode == "Indexed"
}

/// Number of completion indexes.
fn limit(job: &Job) -> u32 {
    if !is_indexed(job) {
        return 0;
    }
    job.spec.completions.and_then(|completions| u32::try_from(completions).ok()).unwrap_or(0)
}

fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().any(|finalizer| finalizer == TRACKING)
}

fn is_active(pod: &Pod) -> bool {
    !pod.is_finished() && pod.deleted == 0
}

impl Planner<'_> {
    /// Nothing is counted any more: pods are free to go.
    fn let_go(&mut self) {
        self.plan.release = self.pods.iter().filter(|pod| is_tracked(pod)).cloned().collect();
        let Some(ended) = finished_at(self.job).filter(|_| !self.job.metadata.is_terminating()) else { return };
        if let Some(ttl) = self.job.spec.ttl_seconds_after_finished {
            let left = ended + ttl - self.now;
            self.plan.expired = left <= 0;
            self.plan.recheck = u64::try_from(left).ok().filter(|left| *left > 0).map(Duration::from_secs);
        }
    }

    /// Counts the uids whose pods are free of the finalizer, or gone, which they can be only when free of it.
    fn settle(&mut self) {
        let tracked: FxHashMap<&str, ()> =
            self.pods.iter().filter(|pod| is_tracked(pod)).map(|pod| (&*pod.metadata.uid, ())).collect();
        let count = |uids: &mut Vec<String>| {
            let before = uids.len();
            uids.retain(|uid| tracked.contains_key(uid.as_str()));
            i64::try_from(before - uids.len()).unwrap_or(0)
        };
        let succeeded = count(&mut self.uncounted.succeeded);
        self.plan.status.succeeded += succeeded;
        self.plan.status.failed += count(&mut self.uncounted.failed);
    }

    /// Lists the pods that have ended since.
    fn collect(&mut self) {
        let indexed = is_indexed(self.job);
        let limit = limit(self.job);
        let mut room = MAX_UNCOUNTED.saturating_sub(self.uncounted.succeeded.len() + self.uncounted.failed.len());
        for pod in self.pods.iter().filter(|pod| is_tracked(pod)) {
            if is_active(pod) {
                continue;
            }
            let uid = &*pod.metadata.uid;
            let listed = |uids: &[String]| uids.iter().any(|each| each == uid);
            if listed(&self.uncounted.succeeded) || listed(&self.uncounted.failed) {
                self.plan.release.push(pod.clone());
                continue;
            }
            let succeeded = pod.phase == Phase::Succeeded;
            if succeeded && indexed {
                if let Some(index) = pod.completion_index.filter(|index| *index < limit) {
                    self.completed.insert(index);
                }
                self.plan.release.push(pod.clone());
                continue;
            }
            if room == 0 {
                continue;
            }
            room -= 1;
            let list = if succeeded { &mut self.uncounted.succeeded } else { &mut self.uncounted.failed };
            list.push(uid.to_string());
            self.plan.release.push(pod.clone());
        }
    }

    fn succeeded(&self) -> i64 {
        if is_indexed(self.job) {
            return i64::try_from(self.completed.len()).unwrap_or(i64::MAX);
        }
        self.plan.status.succeeded + i64::try_from(self.uncounted.succeeded.len()).unwrap_or(0)
    }

    fn failed(&self) -> i64 {
        self.plan.status.failed + i64::try_from(self.uncounted.failed.len()).unwrap_or(0)
    }

    fn active(&self) -> Vec<Arc<Pod>> {
        self.pods.iter().filter(|pod| is_active(pod)).cloned().collect()
    }

    fn has(&self, kind: &str) -> bool {
        condition(&self.plan.status.conditions, kind).is_some_and(|found| found.status == "True")
    }

    fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let at = Some(rfc3339(self.now));
        self.plan.status.conditions.retain(|condition| condition.kind != kind);
        self.plan.status.conditions.push(Condition {
            kind: kind.into(),
            status: status.into(),
            last_probe_time: at.clone(),
            last_transition_time: at,
            reason: reason.into(),
            message: message.into(),
            ..Condition::default()
        });
    }

    fn drive(&mut self, may_write: bool) {
        let suspended = self.job.spec.suspend == Some(true);
        if !suspended && self.plan.status.start_time.is_none() {
            self.plan.status.start_time = Some(rfc3339(self.now));
        }
        if !self.has(FAILURE_TARGET) && !self.has(SUCCESS_MET) {
            self.judge(suspended);
        }
        if self.has(FAILURE_TARGET) || self.has(SUCCESS_MET) {
            if may_write {
                self.plan.kill = self.active();
            }
            return;
        }
        self.note_suspension(suspended);
        if !may_write {
            return;
        }
        if suspended {
            self.plan.retire = self.active();
            self.plan.retire.truncate(BURST);
        } else {
            self.size();
        }
    }

    /// Whether the Job is to end.
    fn judge(&mut self, suspended: bool) {
        let spec = &self.job.spec;
        let active = self.active();
        let backoff_limit = spec.backoff_limit.unwrap_or(6);
        let started = seconds(self.plan.status.start_time.as_deref());
        let restarts: i64 = active.iter().filter(|pod| !pod.restarts_always).map(|pod| pod.restarts).sum();
        let restarted_too_often = if backoff_limit == 0 { restarts > 0 } else { restarts >= backoff_limit };
        let reached = match spec.completions {
            None => self.succeeded() > 0 && active.is_empty(),
            Some(completions) => self.succeeded() >= completions,
        };
        if self.failed() > backoff_limit || restarted_too_often && !active.is_empty() {
            let message = "Job has reached the specified backoff limit";
            self.set(FAILURE_TARGET, "True", "BackoffLimitExceeded", message);
        } else if reached {
            let message = "Reached expected number of succeeded pods";
            self.set(SUCCESS_MET, "True", "CompletionsReached", message);
        } else if let Some(deadline) = spec.active_deadline_seconds.filter(|_| !suspended) {
            let left = started + deadline - self.now;
            if left <= 0 {
                let message = "Job was active longer than specified deadline";
                self.set(FAILURE_TARGET, "True", "DeadlineExceeded", message);
            } else {
                self.look_again(left);
            }
        }
    }

    fn note_suspension(&mut self, suspended: bool) {
        if suspended && !self.has(SUSPENDED) {
            self.set(SUSPENDED, "True", "JobSuspended", "Job suspended");
            self.plan.status.start_time = None;
            self.plan.events.push((true, "Suspended", "Job suspended".into()));
        } else if !suspended && self.has(SUSPENDED) {
            self.set(SUSPENDED, "False", "JobResumed", "Job resumed");
            // The deadline counts from here.
            self.plan.status.start_time = Some(rfc3339(self.now));
            self.plan.events.push((true, "Resumed", "Job resumed".into()));
        }
    }

    /// As many pods as parallelism and completions ask for.
    fn size(&mut self) {
        let mut active = self.active();
        // One that lost its finalizer on the way to a deletion that did not happen could not be counted.
        self.plan.retire = active.extract_if(.., |pod| !is_tracked(pod)).collect();
        if is_indexed(self.job) {
            self.drop_duplicates(&mut active);
        }
        let parallelism = self.job.spec.parallelism.unwrap_or(1);
        let count = i64::try_from(active.len()).unwrap_or(i64::MAX);
        let wanted = match self.job.spec.completions {
            Some(completions) => parallelism.min(completions - self.succeeded()),
            // A work queue: once one pod has succeeded, the others finish and no more are started.
            None if self.succeeded() > 0 => count.min(parallelism),
            None => parallelism,
        };
        if count > wanted {
            let surplus = usize::try_from(count - wanted.max(0)).unwrap_or(0).min(BURST);
            active.sort_by_key(|pod| (!pod.node.is_empty(), pod.phase, pod.ready, -pod.created));
            self.plan.retire.extend(active.into_iter().take(surplus));
        } else if count < wanted {
            let wait = self.backoff();
            if wait > 0 {
                return self.look_again(wait);
            }
            let missing = usize::try_from(wanted - count).unwrap_or(0).min(BURST);
            self.plan.create = self.vacant(&active, missing);
        }
    }

    /// Two pods of one index: the younger goes.
    fn drop_duplicates(&mut self, active: &mut Vec<Arc<Pod>>) {
        active.sort_by_key(|pod| (pod.completion_index, pod.created));
        let (limit, completed) = (limit(self.job), &self.completed);
        let mut last = None;
        let superfluous = |pod: &mut Arc<Pod>| {
            let index = pod.completion_index.filter(|index| *index < limit && !completed.contains(index));
            let duplicate = index.is_none() || index == last;
            last = index.or(last);
            duplicate
        };
        self.plan.retire.extend(active.extract_if(.., superfluous));
    }

    /// The lowest indexes that nobody works on, or as many times none.
    fn vacant(&self, active: &[Arc<Pod>], count: usize) -> Vec<Option<u32>> {
        if !is_indexed(self.job) {
            return vec![None; count];
        }
        let busy: BTreeSet<u32> = active.iter().filter_map(|pod| pod.completion_index).collect();
        let free = (0..limit(self.job)).filter(|index| !busy.contains(index) && !self.completed.contains(index));
        free.take(count).map(Some).collect()
    }

    /// Seconds to wait because pods have failed since one succeeded.
    fn backoff(&self) -> i64 {
        let ended = |pod: &Pod| {
            [pod.finished, pod.deleted, pod.ready_since].into_iter().find(|at| *at > 0).unwrap_or(pod.created)
        };
        let finished = || self.pods.iter().filter(|pod| pod.is_finished());
        let success = finished().filter(|pod| pod.phase == Phase::Succeeded).map(|pod| ended(pod)).max().unwrap_or(0);
        let failures =
            || finished().filter(|pod| pod.phase == Phase::Failed).map(|pod| ended(pod)).filter(|at| *at > success);
        let Some(last) = failures().max() else { return 0 };
        let doublings = u32::try_from(failures().count() - 1).unwrap_or(u32::MAX);
        let delay = BACKOFF.saturating_mul(1i64.checked_shl(doublings.min(32)).unwrap_or(i64::MAX)).min(MAX_BACKOFF);
        last + delay - self.now
    }

    fn look_again(&mut self, seconds: i64) {
        let after = Duration::from_secs(u64::try_from(seconds).unwrap_or(1).max(1));
        self.plan.recheck = Some(self.plan.recheck.map_or(after, |known| known.min(after)));
    }

    fn finish(mut self) -> Plan {
        let active = self.active();
        let count = |pods: usize| i64::try_from(pods).unwrap_or(i64::MAX);
        let terminating = self.pods.iter().filter(|pod| pod.deleted != 0 && !pod.is_finished()).count();
        let all_counted = self.uncounted == Uncounted::default() && self.plan.release.is_empty();
        if is_indexed(self.job) {
            self.plan.status.completed_indexes = indexes::format(&self.completed);
            self.plan.status.succeeded = self.succeeded();
        }
        self.plan.status.active = count(active.len());
        self.plan.status.ready = Some(count(active.iter().filter(|pod| pod.ready).count()));
        self.plan.status.terminating = Some(count(terminating));
        if active.is_empty() && terminating == 0 && all_counted {
            self.conclude();
        }
        self.plan.status.uncounted_terminated_pods = Some(self.uncounted);
        self.plan
    }

    /// All pods have ended and are counted: the interim condition becomes the final one.
    fn conclude(&mut self) {
        for (interim, end) in [(SUCCESS_MET, COMPLETE), (FAILURE_TARGET, FAILED)] {
            let Some(found) = condition(&self.plan.status.conditions, interim).cloned() else { continue };
            self.set(end, "True", &found.reason, &found.message);
            if end == COMPLETE {
                self.plan.status.completion_time = Some(rfc3339(self.now));
                self.plan.events.push((true, "Completed", "Job completed".into()));
            } else {
                let reason =
                    if found.reason == "DeadlineExceeded" { "DeadlineExceeded" } else { "BackoffLimitExceeded" };
                self.plan.events.push((false, reason, found.message));
            }
            return;
        }
    }
}
