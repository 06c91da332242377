//! Jobs: pods that run to completion, each counted exactly once.

mod indexes;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kelson_wire::kube::{Delta, Gvr, PatchKind};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::batch::{MAX_IN_FLIGHT, slow_start};
use crate::control::{self, Created, or_null};
use crate::controller::Controller;
use crate::error::Error;
use crate::events::Events;
use crate::expectation::Expectations;
use crate::queue::{Key, Queue};
use crate::view::{Job, JobStatus, Pod, since_epoch};
use crate::world::{World, join};
use plan::{TRACKING, is_indexed};

/// Least time between two runs for one Job.
const INTERVAL: Duration = Duration::from_millis(50);
/// Annotation, label and environment of an indexed pod.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// The Job controller.
pub(crate) struct Jobs {
    world: Arc<World>,
    queue: Queue,
    events: Events,
    expectations: Expectations,
}

impl Jobs {
    /// A controller that listens to the caches from now on.
    pub(crate) fn new(world: &Arc<World>) -> Arc<Jobs> {
        let this = Arc::new(Jobs {
            world: world.clone(),
            queue: Queue::new(INTERVAL),
            events: Events::new(&world.client, "job-controller"),
            expectations: Expectations::default(),
        });
        let that = this.clone();
        world.jobs.on_change(move |delta| {
            let key: Key = delta.latest().metadata.key().into();
            if delta.new.is_none() {
                that.expectations.forget(&key);
            }
            that.queue.add(key);
        });
        let that = this.clone();
        world.pods.on_change(move |delta| that.pod_changed(delta));
        this
    }

    fn pod_changed(&self, delta: &Delta<Pod>) {
        let pod = delta.latest();
        let Some(owner) = pod.controller().filter(|owner| owner.kind == Gvr::JOBS.kind) else { return };
        let key = join(&pod.metadata.namespace, &owner.name);
        if delta.old.is_none() {
            self.expectations.created(&key, 1);
        }
        if delta.new.as_ref().is_none_or(|new| new.deleted != 0) {
            self.expectations.deleted(&key, &pod.metadata.uid);
        }
        self.queue.add(key);
    }

    /// Takes the tracking finalizer off.
    async fn release(&self, pod: &Pod) -> Result<(), Error> {
        let meta = &pod.metadata;
        let kept: Vec<_> = meta.finalizers.iter().filter(|finalizer| *finalizer != TRACKING).collect();
        let mut patch = json!({"metadata": {"uid": meta.uid, "finalizers": kept}});
        if kept.is_empty() {
            patch["metadata"]["finalizers"] = Value::Null;
        } else {
            // The whole list is replaced: only if it is still the one that was read.
            patch["metadata"]["resourceVersion"] = json!(meta.resource_version);
        }
        let (client, kind) = (&self.world.client, PatchKind::Merge);
        match client.patch::<IgnoredAny>(&Gvr::PODS, &meta.namespace, &meta.name, "", kind, &patch).await {
            Err(error) if error.is_not_found() => Ok(()),
            outcome => {
                outcome?;
                Ok(())
            }
        }
    }

    async fn release_all(&self, pods: &[Arc<Pod>]) -> Result<(), Error> {
        slow_start(pods.len(), MAX_IN_FLIGHT, async |at| self.release(&pods[at]).await).await.1
    }

    async fn delete(&self, key: &Key, job: &Job, pods: &[Arc<Pod>]) -> Result<(), Error> {
        if pods.is_empty() {
            return Ok(());
        }
        self.expectations.expect(key, 0, pods.iter().map(|pod| pod.metadata.uid.clone()));
        let (_, outcome) = slow_start(pods.len(), MAX_IN_FLIGHT, async |at| {
            let pod = &pods[at].metadata;
            let deleted = control::delete(&self.world.client, &Gvr::PODS, pod).await;
            if deleted.is_ok() {
                let message = format!("Deleted pod: {}", pod.name);
                self.events.normal(&Gvr::JOBS, &job.metadata, "SuccessfulDelete", &message);
            }
            deleted
        })
        .await;
        if outcome.is_err() {
            self.expectations.forget(key);
        }
        outcome
    }

    async fn create(&self, key: &Key, job: &Job, indexes: &[Option<u32>]) -> Result<(), Error> {
        if indexes.is_empty() {
            return Ok(());
        }
        self.expectations.expect(key, indexes.len(), []);
        let meta = &job.metadata;
        let template = pod_template(job);
        let plain = control::pod_of(&template, &Gvr::JOBS, meta, &control::pod_prefix(&meta.name));
        let (created, outcome) = slow_start(indexes.len(), MAX_IN_FLIGHT, async |at| {
            let pod: Created = match indexes[at] {
                None => self.world.client.create(&Gvr::PODS, &meta.namespace, &plain).await?,
                Some(index) => {
                    let body = indexed(&plain, &meta.name, index);
                    self.world.client.create(&Gvr::PODS, &meta.namespace, &body).await?
                }
            };
            let message = format!("Created pod: {}", pod.metadata.name);
            self.events.normal(&Gvr::JOBS, meta, "SuccessfulCreate", &message);
            Ok(())
        })
        .await;
        self.expectations.created(key, indexes.len() - created);
        match outcome {
            Err(Error::Api(error)) if control::is_namespace_ending(&error) => Ok(()),
            Err(error) => {
                let message = format!("Error creating: {error}");
                self.events.warning(&Gvr::JOBS, meta, "FailedCreate", &message);
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    /// The guard that makes counting exact: the write fails unless the status is still the one that was read.
    async fn write_status(&self, job: &Job, status: &JobStatus) -> Result<(), Error> {
        if *status == job.status {
            return Ok(());
        }
        let meta = &job.metadata;
        let patch = json!({
            "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
            "status": {
                "active": or_null(status.active),
                "ready": status.ready,
                "terminating": status.terminating,
                "succeeded": or_null(status.succeeded),
                "failed": or_null(status.failed),
                "startTime": status.start_time,
                "completionTime": status.completion_time,
                "completedIndexes": if status.completed_indexes.is_empty() { None } else { Some(&status.completed_indexes) },
                "uncountedTerminatedPods": uncounted(status),
                "conditions": if status.conditions.is_empty() { None } else { Some(&status.conditions) },
            },
        });
        control::patch_status(&self.world.client, &Gvr::JOBS, meta, &patch).await
    }

    /// Pods of a Job that is gone: nobody will count them.
    async fn let_go(&self, key: &Key) -> Result<(), Error> {
        let (namespace, name) = crate::world::split(key);
        let mut pods = self.world.pods_by_namespace.get(namespace);
        pods.retain(|pod| {
            let owned = pod.controller().is_some_and(|owner| owner.kind == Gvr::JOBS.kind && owner.name == name);
            owned && pod.metadata.finalizers.iter().any(|finalizer| finalizer == TRACKING)
        });
        if pods.is_empty() {
            return Ok(());
        }
        match self.world.client.get::<crate::view::Stub>(&Gvr::JOBS, namespace, name).await {
            Ok(found) => pods.retain(|pod| !pod.is_controlled_by(&found.metadata.uid)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        self.release_all(&pods).await
    }
}

impl Controller for Jobs {
    const NAME: &'static str = "job";

    fn queue(&self) -> &Queue {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(job) = self.world.jobs.get(key) else {
            return self.let_go(key).await.map(|()| None);
        };
        let may_write = self.expectations.satisfied(key);
        let pods = self.world.pods_by_owner.get(&job.metadata.uid);
        let plan = plan::plan(&job, &pods, may_write, since_epoch(SystemTime::now()));
        self.write_status(&job, &plan.status).await?;
        for (normal, reason, message) in &plan.events {
            if *normal {
                self.events.normal(&Gvr::JOBS, &job.metadata, reason, message);
            } else {
                self.events.warning(&Gvr::JOBS, &job.metadata, reason, message);
            }
        }
        self.release_all(&plan.release).await?;
        self.release_all(&plan.retire).await?;
        let doomed: Vec<_> = plan.kill.iter().chain(&plan.retire).cloned().collect();
        self.delete(key, &job, &doomed).await?;
        if doomed.is_empty() {
            self.create(key, &job, &plan.create).await?;
        }
        if plan.expired {
            let options = json!({
                "propagationPolicy": "Foreground",
                "preconditions": {"uid": job.metadata.uid, "resourceVersion": job.metadata.resource_version},
            });
            let meta = &job.metadata;
            self.world.client.delete(&Gvr::JOBS, &meta.namespace, &meta.name, &options).await?;
        }
        Ok(plan.recheck)
    }
}

/// `{}` where nothing is uncounted: that the field is there says that the Job is tracked. Lists are set to null to empty them.
fn uncounted(status: &JobStatus) -> Value {
    let Some(uncounted) = &status.uncounted_terminated_pods else { return Value::Null };
    let list = |uids: &[String]| if uids.is_empty() { Value::Null } else { json!(uids) };
    json!({"succeeded": list(&uncounted.succeeded), "failed": list(&uncounted.failed)})
}

/// The Job's template with the tracking finalizer and the labels that name the Job.
fn pod_template(job: &Job) -> Value {
    let mut template = job.spec.template.value();
    if !template["metadata"].is_object() {
        template["metadata"] = json!({});
    }
    if !template["metadata"]["labels"].is_object() {
        template["metadata"]["labels"] = json!({});
    }
    let (uid, name) = (json!(job.metadata.uid), json!(job.metadata.name));
    let labels = &mut template["metadata"]["labels"];
    for (label, value) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ] {
        if labels[label].is_null() {
            labels[label] = value.clone();
        }
    }
    match template["metadata"]["finalizers"].as_array_mut() {
        Some(finalizers) if finalizers.iter().any(|finalizer| finalizer == TRACKING) => {}
        Some(finalizers) => finalizers.push(json!(TRACKING)),
        None => template["metadata"]["finalizers"] = json!([TRACKING]),
    }
    if is_indexed(job) {
        let field = json!({"fieldRef": {"fieldPath": format!("metadata.labels['{INDEX}']")}});
        for list in ["containers", "initContainers"] {
            for container in template["spec"][list].as_array_mut().into_iter().flatten() {
                if !container["env"].is_array() {
                    container["env"] = json!([]);
                }
                if let Some(env) = container["env"]
                    .as_array_mut()
                    .filter(|env| env.iter().all(|variable| variable["name"] != INDEX_VARIABLE))
                {
                    env.push(json!({"name": INDEX_VARIABLE, "valueFrom": field}));
                }
            }
        }
    }
    template
}

/// The pod of one completion index.
fn indexed(plain: &Value, job: &str, index: u32) -> Value {
    let mut pod = plain.clone();
    let text = json!(index.to_string());
    if !pod["metadata"]["annotations"].is_object() {
        pod["metadata"]["annotations"] = json!({});
    }
    pod["metadata"]["annotations"][INDEX] = text.clone();
    pod["metadata"]["labels"][INDEX] = text;
    pod["metadata"]["generateName"] = json!(format!("{job}-{index}-"));
    pod["spec"]["hostname"] = json!(format!("{job}-{index}"));
    pod
}
