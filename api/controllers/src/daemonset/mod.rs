//! DaemonSets: one pod on every node that fits.

mod eligible;
mod history;
mod plan;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kelson_wire::kube::{Delta, Gvr};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::batch::{MAX_IN_FLIGHT, slow_start};
use crate::claim;
use crate::control::{self, Created, or_null};
use crate::controller::Controller;
use crate::error::Error;
use crate::events::Events;
use crate::expectation::Expectations;
use crate::queue::{Key, Queue};
use crate::view::{ControllerRevision, DaemonSet, DaemonSetStatus, Node, Pod, since_epoch};
use crate::world::{World, controller_key, join};
use eligible::Needs;
use history::History;
use plan::{Plan, REVISION_HASH};

/// Least time between two runs for one DaemonSet.
const INTERVAL: Duration = Duration::from_millis(100);
/// Pause before a node whose daemon failed gets another; doubles with each failure.
const BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(15 * 60);

/// Failures of daemons on one node.
struct Failures {
    count: u32,
    until: Instant,
}

/// The DaemonSet controller.
pub(crate) struct DaemonSets {
    world: Arc<World>,
    queue: Queue,
    events: Events,
    expectations: Expectations,
    /// By `namespace/name` and node; entries go when their pause has long passed.
    failures: Mutex<FxHashMap<(Key, Arc<str>), Failures>>,
}

impl DaemonSets {
    /// A controller that listens to the caches from now on.
    pub(crate) fn new(world: &Arc<World>) -> Arc<DaemonSets> {
        let this = Arc::new(DaemonSets {
            world: world.clone(),
            queue: Queue::new(INTERVAL),
            events: Events::new(&world.client, "daemonset-controller"),
            expectations: Expectations::default(),
            failures: Mutex::default(),
        });
        let that = this.clone();
        world.daemon_sets.on_change(move |delta| {
            let key: Key = delta.latest().metadata.key().into();
            if delta.new.is_none() {
                that.expectations.forget(&key);
            }
            that.queue.add(key);
        });
        let that = this.clone();
        world.revisions.on_change(move |delta| {
            if let Some(key) = controller_key(&delta.latest().metadata, Gvr::DAEMON_SETS.kind) {
                that.queue.add(key);
            }
        });
        let that = this.clone();
        world.nodes.on_change(move |delta| {
            // A heartbeat makes no difference to where daemons run.
            let same = |old: &Arc<Node>, new: &Arc<Node>| {
                old.metadata.labels == new.metadata.labels && old.spec.taints == new.spec.taints
            };
            if !matches!((&delta.old, &delta.new), (Some(old), Some(new)) if same(old, new)) {
                for set in that.world.daemon_sets.all() {
                    that.queue.add(set.metadata.key().into());
                }
            }
        });
        let that = this.clone();
        world.pods.on_change(move |delta| that.pod_changed(delta));
        this
    }

    fn pod_changed(&self, delta: &Delta<Pod>) {
        let owner = |pod: &Arc<Pod>| {
            let owner = pod.controller().filter(|owner| owner.kind == Gvr::DAEMON_SETS.kind)?;
            Some(join(&pod.metadata.namespace, &owner.name))
        };
        let before = delta.old.as_ref().and_then(owner);
        let after = delta.new.as_ref().and_then(owner);
        if let (None, Some(key)) = (&delta.old, &after) {
            self.expectations.created(key, 1);
        }
        for key in [&before, &after].into_iter().flatten() {
            if delta.new.as_ref().is_none_or(|new| new.deleted != 0) {
                self.expectations.deleted(key, &delta.latest().metadata.uid);
            }
            self.queue.add(key.clone());
        }
        if let (None, Some(pod)) = (after, &delta.new)
            && pod.controller().is_none()
            && pod.is_active()
        {
            let candidates = self.world.daemon_sets_by_namespace.get(&pod.metadata.namespace);
            for set in candidates.iter().filter(|set| set.spec.selector.matches(&pod.labels)) {
                self.queue.add(set.metadata.key().into());
            }
        }
    }

    async fn claimed(&self, set: &DaemonSet) -> Result<Vec<Arc<Pod>>, Error> {
        let owned = self.world.pods_by_owner.get(&set.metadata.uid);
        let orphans = self.world.orphan_pods.get(&set.metadata.namespace);
        let claims = claim::sort(&set.metadata, &set.spec.selector, owned, orphans);
        claim::settle(&self.world.client, &Gvr::PODS, &Gvr::DAEMON_SETS, &set.metadata, claims).await
    }

    /// Writes the history. Returns the current revision's hash, or `None` if another run is needed first.
    async fn keep_history(&self, set: &DaemonSet, pods: &[Arc<Pod>]) -> Result<Option<String>, Error> {
        let revisions = self.world.revisions_by_owner.get(&set.metadata.uid);
        let History { hash, create, renumber, remove } = history::plan(set, revisions, pods);
        let client = &self.world.client;
        if let Some(number) = create
            && !self.create_revision(set, &hash, number).await?
        {
            return Ok(None);
        }
        if let Some((revision, number)) = renumber {
            let meta = &revision.metadata;
            let patch = json!({
                "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version}, "revision": number,
            });
            control::patch(client, &Gvr::CONTROLLER_REVISIONS, meta, &patch).await?;
        }
        for revision in remove {
            control::delete(client, &Gvr::CONTROLLER_REVISIONS, &revision.metadata).await?;
        }
        Ok(Some(hash))
    }

    /// Whether the revision exists afterwards. If its name is taken by another template the next run takes another name.
    async fn create_revision(&self, set: &DaemonSet, hash: &str, number: i64) -> Result<bool, Error> {
        let (client, meta) = (&self.world.client, &set.metadata);
        let name = format!("{}-{hash}", meta.name);
        let mut labels = set.spec.template.value()["metadata"]["labels"].take();
        if !labels.is_object() {
            labels = json!({});
        }
        labels[REVISION_HASH] = json!(hash);
        let body = json!({
            "apiVersion": Gvr::CONTROLLER_REVISIONS.api_version(),
            "kind": Gvr::CONTROLLER_REVISIONS.kind,
            "metadata": {
                "name": name,
                "namespace": meta.namespace,
                "labels": labels,
                "annotations": inherited(set),
                "ownerReferences": [control::controller_ref(&Gvr::DAEMON_SETS, meta)],
            },
            "data": history::data(set),
            "revision": number,
        });
        match client.create::<IgnoredAny>(&Gvr::CONTROLLER_REVISIONS, &meta.namespace, &body).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_already_exists() => {
                let found: ControllerRevision = client.get(&Gvr::CONTROLLER_REVISIONS, &meta.namespace, &name).await?;
                if history::is_current(set, &found) {
                    return Ok(true);
                }
                let collisions = set.status.collision_count.unwrap_or(0) + 1;
                let patch = json!({"metadata": {"uid": meta.uid}, "status": {"collisionCount": collisions}});
                control::patch_status(client, &Gvr::DAEMON_SETS, meta, &patch).await?;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn may_retry(&self, key: &Key, node: &str) -> bool {
        let failures = self.failures.lock();
        failures.get(&(key.clone(), Arc::from(node))).is_none_or(|failures| failures.until <= Instant::now())
    }

    fn note_failure(&self, key: &Key, node: &str) {
        let now = Instant::now();
        let mut failures = self.failures.lock();
        failures.retain(|_, failures| failures.until + 2 * MAX_BACKOFF > now);
        let entry = failures.entry((key.clone(), node.into())).or_insert(Failures { count: 0, until: now });
        let pause = BACKOFF.saturating_mul(1u32.checked_shl(entry.count).unwrap_or(u32::MAX)).min(MAX_BACKOFF);
        entry.count += 1;
        entry.until = now + pause;
        self.queue.add_after(key.clone(), pause);
    }

    async fn carry_out(&self, key: &Key, set: &DaemonSet, hash: &str, plan: &Plan) -> Result<(), Error> {
        if plan.create.is_empty() && plan.delete.is_empty() {
            return Ok(());
        }
        let meta = &set.metadata;
        for pod in &plan.failed {
            let message =
                format!("Found failed daemon pod {} on node {}, will try to kill it", pod.metadata.key(), pod.node);
            self.events.warning(&Gvr::DAEMON_SETS, meta, "FailedDaemonPod", &message);
            self.note_failure(key, &pod.node);
        }
        self.expectations.expect(key, plan.create.len(), plan.delete.iter().map(|pod| pod.metadata.uid.clone()));
        let body = pod_body(set, hash);
        let (created, outcome) = slow_start(plan.create.len(), MAX_IN_FLIGHT, async |at| {
            let mut pod = body.clone();
            eligible::destine(&mut pod, &plan.create[at]);
            let pod: Created = self.world.client.create(&Gvr::PODS, &meta.namespace, &pod).await?;
            let message = format!("Created pod: {}", pod.metadata.name);
            self.events.normal(&Gvr::DAEMON_SETS, meta, "SuccessfulCreate", &message);
            Ok(())
        })
        .await;
        self.expectations.created(key, plan.create.len() - created);
        let (_, deleted) = slow_start(plan.delete.len(), MAX_IN_FLIGHT, async |at| {
            let pod = &plan.delete[at].metadata;
            control::delete(&self.world.client, &Gvr::PODS, pod).await?;
            let message = format!("Deleted pod: {}", pod.name);
            self.events.normal(&Gvr::DAEMON_SETS, meta, "SuccessfulDelete", &message);
            Ok(())
        })
        .await;
        if deleted.is_err() {
            self.expectations.forget(key);
        }
        match outcome {
            Err(Error::Api(error)) if control::is_namespace_ending(&error) => {}
            Err(error) => {
                let message = format!("Error creating: {error}");
                self.events.warning(&Gvr::DAEMON_SETS, meta, "FailedCreate", &message);
                return Err(error);
            }
            Ok(()) => {}
        }
        deleted
    }

    async fn write_status(&self, set: &DaemonSet, status: &DaemonSetStatus) -> Result<(), Error> {
        if *status == set.status {
            return Ok(());
        }
        let patch = json!({"metadata": {"uid": set.metadata.uid}, "status": {
            "currentNumberScheduled": status.current_number_scheduled,
            "numberMisscheduled": status.number_misscheduled,
            "desiredNumberScheduled": status.desired_number_scheduled,
            "numberReady": status.number_ready,
            "observedGeneration": or_null(status.observed_generation),
            "updatedNumberScheduled": or_null(status.updated_number_scheduled),
            "numberAvailable": or_null(status.number_available),
            "numberUnavailable": or_null(status.number_unavailable),
        }});
        control::patch_status(&self.world.client, &Gvr::DAEMON_SETS, &set.metadata, &patch).await
    }
}

impl Controller for DaemonSets {
    const NAME: &'static str = "daemonset";

    fn queue(&self) -> &Queue {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(set) = self.world.daemon_sets.get(key) else { return Ok(None) };
        if set.metadata.is_terminating() {
            return Ok(None);
        }
        if set.spec.selector.is_empty() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.events.warning(&Gvr::DAEMON_SETS, &set.metadata, "SelectingAll", message);
            return Ok(None);
        }
        let may_write = self.expectations.satisfied(key);
        let pods = self.claimed(&set).await?;
        let Some(hash) = self.keep_history(&set, &pods).await? else { return Ok(None) };
        let needs = Needs::of(&set.spec.template.value());
        let now = since_epoch(SystemTime::now());
        let may_retry = |node: &str| self.may_retry(key, node);
        let plan = plan::plan(&set, &needs, &self.world.nodes.all(), &pods, &hash, &may_retry, now);
        let carried = if may_write { self.carry_out(key, &set, &hash, &plan).await } else { Ok(()) };
        match self.write_status(&set, &plan.status).await {
            Err(error) if error.is_not_found() => return Ok(None),
            outcome => outcome?,
        }
        carried?;
        Ok(plan.recheck)
    }
}

/// A daemon pod that has no node yet.
fn pod_body(set: &DaemonSet, hash: &str) -> Value {
    let template = set.spec.template.value();
    let prefix = control::pod_prefix(&set.metadata.name);
    let mut pod = control::pod_of(&template, &Gvr::DAEMON_SETS, &set.metadata, &prefix);
    if !pod["metadata"]["labels"].is_object() {
        pod["metadata"]["labels"] = json!({});
    }
    pod["metadata"]["labels"][REVISION_HASH] = json!(hash);
    pod
}

/// Annotations that a revision takes over, the cause of the change among them.
fn inherited(set: &DaemonSet) -> Value {
    let mut annotations = set.metadata.annotations.clone();
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    json!(annotations)
}
