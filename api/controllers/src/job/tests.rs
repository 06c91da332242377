//! Jobs played without an API: plans are applied to a model of pods, with crashes and stale views in between.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::plan::{Plan, TRACKING, plan};
use super::{indexed, pod_template};
use crate::control;
use crate::view::{Job, Phase, Pod, condition, rfc3339};
use kelson_wire::kube::Gvr;

struct Model {
    job: Job,
    version: u64,
    pods: Vec<Pod>,
    made: usize,
    now: i64,
}

fn job(spec: serde_json::Value) -> Job {
    let mut object = json!({"metadata": {"name": "j", "namespace": "n", "uid": "ju"}, "spec": spec});
    object["spec"]["template"] = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}]}});
    serde_json::from_str(&object.to_string()).unwrap()
}

impl Model {
    fn new(spec: serde_json::Value) -> Model {
        Model { job: job(spec), version: 1, pods: Vec::new(), made: 0, now: 1_000_000 }
    }

    /// Plans on a view, which may be an old one, and carries out the first `steps` writes.
    fn run_on(&mut self, view: &(Job, u64, Vec<Pod>), mut steps: usize) {
        let (seen, version, pods) = view;
        let pods: Vec<_> = pods.iter().cloned().map(Arc::new).collect();
        let fresh = *version == self.version && pods.len() == self.pods.len();
        let Plan { status, release, kill, retire, create, .. } = plan(seen, &pods, fresh, self.now);
        let mut step = || {
            let go = steps > 0;
            steps = steps.saturating_sub(1);
            go
        };
        if status != seen.status {
            // The guard: a write based on an old version fails, and the run with it.
            if !step() || *version != self.version {
                return;
            }
            self.job.status = status;
            self.version += 1;
        }
        for pod in release.iter().chain(&retire) {
            if !step() {
                return;
            }
            if let Some(found) = self.pods.iter_mut().find(|each| each.metadata.uid == pod.metadata.uid) {
                found.metadata.finalizers.clear();
            }
        }
        for pod in kill.iter().chain(&retire) {
            if let Some(found) = self.pods.iter_mut().find(|each| each.metadata.uid == pod.metadata.uid) {
                found.deleted = self.now;
            }
        }
        for index in create {
            self.made += 1;
            let mut pod = Pod { completion_index: index, created: self.now, ..Pod::default() };
            pod.metadata.uid = format!("p{}", self.made).into();
            pod.metadata.finalizers = vec![TRACKING.into()];
            self.pods.push(pod);
        }
        // Deleted pods without a finalizer vanish.
        self.pods.retain(|pod| pod.deleted == 0 || !pod.metadata.finalizers.is_empty());
    }

    fn view(&self) -> (Job, u64, Vec<Pod>) {
        (self.job.clone(), self.version, self.pods.clone())
    }

    fn run(&mut self) {
        let view = self.view();
        self.run_on(&view, usize::MAX);
        self.now += 1;
    }

    fn settle(&mut self) {
        for _ in 0..5 {
            self.run();
        }
    }

    fn end_one(&mut self, phase: Phase) -> bool {
        let now = self.now;
        let Some(pod) = self.pods.iter_mut().find(|pod| !pod.is_finished() && pod.deleted == 0) else { return false };
        pod.phase = phase;
        pod.finished = now;
        true
    }

    fn active(&self) -> usize {
        self.pods.iter().filter(|pod| !pod.is_finished() && pod.deleted == 0).count()
    }

    fn is(&self, kind: &str) -> bool {
        condition(&self.job.status.conditions, kind).is_some_and(|found| found.status == "True")
    }
}

#[test]
fn completes_with_the_asked_number() {
    let mut model = Model::new(json!({"parallelism": 2, "completions": 3}));
    model.settle();
    assert_eq!((model.active(), model.job.status.active), (2, 2));
    for _ in 0..3 {
        assert!(model.end_one(Phase::Succeeded));
        model.settle();
    }
    assert_eq!((model.made, model.job.status.succeeded, model.job.status.failed), (3, 3, 0));
    assert!(model.is("SuccessCriteriaMet") && model.is("Complete") && model.job.status.completion_time.is_some());
    assert!(model.pods.iter().all(|pod| pod.metadata.finalizers.is_empty()));
}

#[test]
fn fails_at_the_backoff_limit_after_growing_pauses() {
    let mut model = Model::new(json!({"parallelism": 1, "completions": 1, "backoffLimit": 2}));
    model.settle();
    for (failures, pause) in [(1, 10), (2, 20)] {
        model.end_one(Phase::Failed);
        model.settle();
        assert_eq!((model.active(), model.job.status.failed), (0, failures), "waits {pause} s");
        model.now += pause;
        model.settle();
        assert_eq!(model.active(), 1);
    }
    model.end_one(Phase::Failed);
    model.settle();
    assert!(model.is("FailureTarget") && model.is("Failed"));
    assert_eq!(condition(&model.job.status.conditions, "Failed").unwrap().reason, "BackoffLimitExceeded");
    assert_eq!((model.made, model.job.status.failed), (3, 3));
}

#[test]
fn the_deadline_ends_running_pods_first() {
    let mut model = Model::new(json!({"parallelism": 2, "completions": 2, "activeDeadlineSeconds": 100}));
    model.settle();
    model.now += 100;
    model.run();
    assert!(model.is("FailureTarget") && !model.is("Failed"), "pods are still ending");
    model.settle();
    assert!(model.is("Failed"));
    assert_eq!(condition(&model.job.status.conditions, "Failed").unwrap().reason, "DeadlineExceeded");
}

#[test]
fn indexed_pods_take_the_lowest_free_index() {
    let mut model = Model::new(json!({"parallelism": 3, "completions": 5, "completionMode": "Indexed"}));
    model.settle();
    let indexes = |model: &Model| -> Vec<u32> {
        let mut live: Vec<u32> =
            model.pods.iter().filter(|pod| !pod.is_finished()).filter_map(|pod| pod.completion_index).collect();
        live.sort_unstable();
        live
    };
    assert_eq!(indexes(&model), [0, 1, 2]);
    model.pods[1].phase = Phase::Succeeded;
    model.settle();
    assert_eq!((indexes(&model), model.job.status.completed_indexes.as_str()), (vec![0, 2, 3], "1"));
    model.pods[0].phase = Phase::Failed;
    model.pods[0].finished = model.now - 60;
    model.settle();
    assert_eq!(indexes(&model), [0, 2, 3], "the failed index is tried again");
    while model.end_one(Phase::Succeeded) {
        model.settle();
    }
    assert_eq!((model.job.status.succeeded, model.job.status.completed_indexes.as_str()), (5, "0-4"));
    assert!(model.is("Complete"));
}

#[test]
fn suspension_stops_pods_without_counting_them() {
    let mut model = Model::new(json!({"parallelism": 2, "completions": 2}));
    model.settle();
    model.job.spec.suspend = Some(true);
    model.settle();
    assert_eq!((model.active(), model.job.status.failed), (0, 0));
    assert!(model.is("Suspended") && model.job.status.start_time.is_none());
    model.job.spec.suspend = Some(false);
    model.settle();
    assert_eq!(model.active(), 2);
    assert!(!model.is("Suspended") && model.job.status.start_time.is_some());
    model.job.spec.parallelism = Some(1);
    model.settle();
    assert_eq!((model.active(), model.job.status.failed), (1, 0));
}

#[test]
fn a_finished_job_expires() {
    let mut model = Model::new(json!({"parallelism": 1, "completions": 1, "ttlSecondsAfterFinished": 60}));
    model.settle();
    model.end_one(Phase::Succeeded);
    model.settle();
    let look = |model: &Model| plan(&model.job, &[], true, model.now);
    assert!(!look(&model).expired && look(&model).recheck.is_some());
    model.now += 60;
    assert!(look(&model).expired);
    assert!(model.job.status.completion_time.clone().unwrap() < rfc3339(model.now));
}

#[test]
fn indexed_pods_know_their_index() {
    let job = job(json!({"completions": 2, "completionMode": "Indexed"}));
    let plain = control::pod_of(&pod_template(&job), &Gvr::JOBS, &job.metadata, "j-");
    let pod = indexed(&plain, "j", 1);
    assert_eq!(pod["spec"]["hostname"], "j-1");
    assert_eq!(pod["metadata"]["annotations"][super::INDEX], "1");
    assert_eq!(pod["metadata"]["labels"]["job-name"], "j");
    assert_eq!(pod["metadata"]["labels"]["a"], "b");
    assert_eq!(pod["spec"]["containers"][0]["env"][0]["name"], "JOB_COMPLETION_INDEX");
    assert_eq!(pod["metadata"]["finalizers"], json!([TRACKING]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Crashes after any write and views of any age: every pod that ended counts once.
    #[test]
    fn every_pod_counts_exactly_once(
        steps in prop::collection::vec((0usize..6, 0usize..4, any::<bool>(), 0usize..4), 1..60),
    ) {
        let mut model = Model::new(json!({"parallelism": 3, "completions": 10, "backoffLimit": 1000}));
        let mut views = vec![model.view()];
        let (mut succeeded, mut failed) = (0, 0);
        for (writes, age, success, ends) in steps {
            if ends == 0 && model.end_one(if success { Phase::Succeeded } else { Phase::Failed }) {
                if success { succeeded += 1 } else { failed += 1 }
            }
            views.push(model.view());
            let view = views[views.len().saturating_sub(1 + age)].clone();
            model.run_on(&view, writes);
            model.now += 700;
            let status = &model.job.status;
            prop_assert!(status.succeeded <= succeeded && status.failed <= failed);
        }
        for _ in 0..4 {
            model.run();
        }
        prop_assert_eq!((model.job.status.succeeded, model.job.status.failed), (succeeded, failed));
    }
}
