//! Deployments: rollouts, rollbacks and their history.

mod plan;
mod revision;
mod rolling;
mod scaling;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kelson_wire::kube::{Delta, Gvr};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::claim;
use crate::control::{self, or_null};
use crate::controller::Controller;
use crate::error::Error;
use crate::events::Events;
use crate::queue::{Key, Queue};
use crate::replicaset::deployment_key;
use crate::view::{Deployment, DeploymentStatus, ReplicaSet, TEMPLATE_HASH, since_epoch};
use crate::world::{World, join};
use plan::{Member, NewSet, Plan};

/// Least time between two runs for one Deployment.
const INTERVAL: Duration = Duration::from_millis(20);

/// The Deployment controller.
pub(crate) struct Deployments {
    world: Arc<World>,
    queue: Queue,
    events: Events,
}

impl Deployments {
    /// A controller that listens to the caches from now on.
    pub(crate) fn new(world: &Arc<World>) -> Arc<Deployments> {
        let this = Arc::new(Deployments {
            world: world.clone(),
            queue: Queue::new(INTERVAL),
            events: Events::new(&world.client, "deployment-controller"),
        });
        let that = this.clone();
        world.deployments.on_change(move |delta| that.queue.add(delta.latest().metadata.key().into()));
        let that = this.clone();
        world.replica_sets.on_change(move |delta| that.set_changed(delta));
        let that = this.clone();
        world.pods.on_change(move |delta| {
            // Only Recreate waits for pods; everything else shows in the ReplicaSets.
            let pod = delta.latest();
            if delta.new.as_ref().is_none_or(|new| new.is_finished()) {
                let Some(owner) = pod.controller().filter(|owner| owner.kind == Gvr::REPLICA_SETS.kind) else { return };
                let set = that.world.replica_sets.get(&join(&pod.metadata.namespace, &owner.name));
                let key = set.as_deref().and_then(deployment_key);
                let deployment = key.as_deref().and_then(|key| that.world.deployments.get(key));
                if let (Some(key), Some(deployment)) = (key, deployment)
                    && deployment.recreates()
                {
                    that.queue.add(key);
                }
            }
        });
        this
    }

    fn set_changed(&self, delta: &Delta<ReplicaSet>) {
        let before = delta.old.as_deref().and_then(deployment_key);
        let after = delta.new.as_deref().and_then(deployment_key);
        for key in [&before, &after].into_iter().flatten() {
            self.queue.add(key.clone());
        }
        if let (None, Some(set)) = (after, &delta.new)
            && set.metadata.controller().is_none()
        {
            let candidates = self.world.deployments_by_namespace.get(&set.metadata.namespace);
            for deployment in candidates.iter().filter(|each| each.spec.selector.matches(&set.metadata.labels)) {
                self.queue.add(deployment.metadata.key().into());
            }
        }
    }

    async fn claimed(&self, deployment: &Deployment) -> Result<Vec<Arc<ReplicaSet>>, Error> {
        let meta = &deployment.metadata;
        let owned = self.world.replica_sets_by_owner.get(&meta.uid);
        let orphans = self.world.orphan_replica_sets.get(&meta.namespace);
        let claims = claim::sort(meta, &deployment.spec.selector, owned, orphans);
        claim::settle(&self.world.client, &Gvr::REPLICA_SETS, &Gvr::DEPLOYMENTS, meta, claims).await
    }

    async fn carry_out(&self, deployment: &Deployment, plan: &mut Plan) -> Result<(), Error> {
        for member in plan.members.iter().filter(|member| member.is_changed()) {
            self.write_set(member).await?;
        }
        if let Some(new) = &plan.create
            && let Err(error) = self.create_set(deployment, new, &mut plan.status).await
        {
            self.write_status(deployment, &plan.status).await?;
            return Err(error);
        }
        for message in &plan.events {
            self.events.normal(&Gvr::DEPLOYMENTS, &deployment.metadata, "ScalingReplicaSet", message);
        }
        for at in &plan.remove {
            control::delete(&self.world.client, &Gvr::REPLICA_SETS, &plan.members[*at].set.metadata).await?;
        }
        if let Some(revision) = &plan.revision {
            let annotations = json!({revision::REVISION: revision});
            let patch = json!({"metadata": {"uid": deployment.metadata.uid, "annotations": annotations}});
            control::patch(&self.world.client, &Gvr::DEPLOYMENTS, &deployment.metadata, &patch).await?;
        }
        self.write_status(deployment, &plan.status).await
    }

    /// The resource version makes the write fail if the plan was made from an old view.
    async fn write_set(&self, member: &Member) -> Result<(), Error> {
        let meta = &member.set.metadata;
        let mut patch = json!({
            "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
            "spec": {"replicas": member.replicas, "minReadySeconds": or_null(member.min_ready_seconds)},
        });
        if !member.annotations.is_empty() {
            patch["metadata"]["annotations"] = json!(member.annotations);
        }
        control::patch(&self.world.client, &Gvr::REPLICA_SETS, meta, &patch).await
    }

    async fn create_set(
        &self,
        deployment: &Deployment,
        new: &NewSet,
        status: &mut DeploymentStatus,
    ) -> Result<(), Error> {
        let meta = &deployment.metadata;
        let client = &self.world.client;
        let body = set_body(deployment, new);
        let created = client.create::<IgnoredAny>(&Gvr::REPLICA_SETS, &meta.namespace, &body).await;
        let error = match created {
            Ok(_) => return Ok(()),
            Err(error) if error.is_already_exists() => {
                let found: Result<ReplicaSet, _> = client.get(&Gvr::REPLICA_SETS, &meta.namespace, &new.name).await;
                match found {
                    // Made by an earlier run whose event is still under way.
                    Ok(found) if is_ours(deployment, &found) => return Ok(()),
                    Ok(_) => {
                        // The name stands for another template: the next run takes another name.
                        *status = deployment.status.clone();
                        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
                    }
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error.into()),
                }
                return Err(error.into());
            }
            Err(error) => error,
        };
        let message = format!("Failed to create new replica set {:?}: {error}", new.name);
        self.events.warning(&Gvr::DEPLOYMENTS, meta, "ReplicaSetCreateError", &message);
        *status = deployment.status.clone();
        status::note_failed(deployment, status, message, since_epoch(SystemTime::now()));
        Err(error.into())
    }

    async fn write_status(&self, deployment: &Deployment, status: &DeploymentStatus) -> Result<(), Error> {
        if *status == deployment.status {
            return Ok(());
        }
        let patch = json!({"metadata": {"uid": deployment.metadata.uid}, "status": {
            "observedGeneration": status.observed_generation,
            "replicas": or_null(status.replicas),
            "updatedReplicas": or_null(status.updated_replicas),
            "readyReplicas": or_null(status.ready_replicas),
            "availableReplicas": or_null(status.available_replicas),
            "unavailableReplicas": or_null(status.unavailable_replicas),
            "collisionCount": status.collision_count,
            "conditions": status.conditions,
        }});
        control::patch_status(&self.world.client, &Gvr::DEPLOYMENTS, &deployment.metadata, &patch).await
    }
}

impl Controller for Deployments {
    const NAME: &'static str = "deployment";

    fn queue(&self) -> &Queue {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(deployment) = self.world.deployments.get(key) else { return Ok(None) };
        if deployment.spec.selector.is_empty() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.events.warning(&Gvr::DEPLOYMENTS, &deployment.metadata, "SelectingAll", message);
            return Ok(None);
        }
        let sets = self.claimed(&deployment).await?;
        let has_live_pods =
            |set: &ReplicaSet| self.world.pods_by_owner.get(&set.metadata.uid).iter().any(|pod| !pod.is_finished());
        let mut plan = plan::plan(&deployment, sets, &has_live_pods, since_epoch(SystemTime::now()));
        match self.carry_out(&deployment, &mut plan).await {
            Err(error) if error.is_not_found() => Ok(None),
            outcome => outcome.map(|()| plan.recheck),
        }
    }
}

fn is_ours(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let owned = set.metadata.controller().is_some_and(|owner| *owner.uid == *deployment.metadata.uid);
    owned && plan::same_template(deployment, set)
}

/// The ReplicaSet for the current template: its labels and selector have the hash added.
fn set_body(deployment: &Deployment, new: &NewSet) -> Value {
    let mut template = deployment.spec.template.value();
    if !template["metadata"].is_object() {
        template["metadata"] = json!({});
    }
    if !template["metadata"]["labels"].is_object() {
        template["metadata"]["labels"] = json!({});
    }
    template["metadata"]["labels"][TEMPLATE_HASH] = json!(new.hash);
    let mut selector = deployment.spec.selector.clone();
    selector.match_labels.insert(TEMPLATE_HASH.into(), new.hash.clone());
    json!({
        "apiVersion": Gvr::REPLICA_SETS.api_version(),
        "kind": Gvr::REPLICA_SETS.kind,
        "metadata": {
            "name": new.name,
            "namespace": deployment.metadata.namespace,
            "labels": template["metadata"]["labels"],
            "annotations": new.annotations,
            "ownerReferences": [control::controller_ref(&Gvr::DEPLOYMENTS, &deployment.metadata)],
        },
        "spec": {
            "replicas": new.replicas,
            "minReadySeconds": deployment.spec.min_ready_seconds,
            "selector": selector,
            "template": template,
        },
    })
}
