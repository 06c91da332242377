//! Namespace deletion: all content goes, then the namespace.

mod conditions;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kelson_wire::kube::{Gvr, ListParams, ObjectMeta};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::batch::{MAX_IN_FLIGHT, slow_start};
use crate::control;
use crate::controller::Controller;
use crate::discovery::{self, Resource};
use crate::error::Error;
use crate::queue::{Key, Queue};
use crate::view::{Namespace, Stub, seconds, since_epoch};
use crate::world::World;
use conditions::{Remains, update};

/// Least time between two looks at one namespace.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long the list of resources is used.
const DISCOVERY_AGE: Duration = Duration::from_secs(30);
/// Objects listed at a time.
const PAGE: usize = 500;
/// The namespace finalizer that stands for its content.
const FINALIZER: &str = "kubernetes";

/// The namespace controller; keys are names.
pub(crate) struct Namespaces {
    world: Arc<World>,
    queue: Queue,
    resources: Mutex<Option<(Instant, Arc<Vec<Resource>>)>>,
}

impl Namespaces {
    /// A controller that listens to the caches from now on.
    pub(crate) fn new(world: &Arc<World>) -> Arc<Namespaces> {
        let this =
            Arc::new(Namespaces { world: world.clone(), queue: Queue::new(INTERVAL), resources: Mutex::new(None) });
        let that = this.clone();
        world.namespaces.on_change(move |delta| {
            if let Some(namespace) = delta.new.as_ref().filter(|namespace| namespace.metadata.is_terminating()) {
                that.queue.add(namespace.metadata.name.clone());
            }
        });
        let that = this.clone();
        world.pods.on_change(move |delta| {
            // Pods take longest: look again as soon as the last one is gone.
            let namespace = &delta.latest().metadata.namespace;
            if delta.new.is_none() && that.world.pods_by_namespace.count(namespace) == 0 {
                let ending = that.world.namespaces.get(namespace).is_some_and(|found| found.metadata.is_terminating());
                if ending {
                    that.queue.add(namespace.clone());
                }
            }
        });
        this
    }

    async fn resources(&self) -> Result<Arc<Vec<Resource>>, Error> {
        let mut cached = self.resources.lock().await;
        if let Some((at, resources)) = cached.as_ref().filter(|(at, _)| at.elapsed() < DISCOVERY_AGE) {
            let _ = at;
            return Ok(resources.clone());
        }
        let mut resources = discovery::resources(&self.world.client).await?;
        resources.retain(|resource| resource.gvr.namespaced && resource.can(&["list", "delete"]));
        // Pods first: what they use must not vanish under them.
        resources.sort_by_key(|resource| resource.gvr != Gvr::PODS);
        let resources = Arc::new(resources);
        *cached = Some((Instant::now(), resources.clone()));
        Ok(resources)
    }

    /// Deletes what there is of one resource. Returns what is left.
    async fn clear(&self, gvr: &Gvr, namespace: &str, remains: &mut Remains) -> Result<(), Error> {
        let mut left = self.list(gvr, namespace).await?;
        let doomed: Vec<&ObjectMeta> =
            left.iter().map(|object| &object.metadata).filter(|object| !object.is_terminating()).collect();
        if !doomed.is_empty() {
            let delete = async |at: usize| control::delete(&self.world.client, gvr, doomed[at]).await;
            slow_start(doomed.len(), MAX_IN_FLIGHT, delete).await.1?;
            left = self.list(gvr, namespace).await?;
        }
        remains.add(gvr, left.iter().map(|object| &object.metadata));
        Ok(())
    }

    async fn list(&self, gvr: &Gvr, namespace: &str) -> Result<Vec<Stub>, Error> {
        let mut params = ListParams { limit: PAGE, ..ListParams::default() };
        let mut objects = Vec::new();
        loop {
            let page = match self.world.client.list::<Stub>(gvr, namespace, &params).await {
                Ok(page) => page,
                // The resource is gone or cannot be listed: nothing of it is left.
                Err(error) if error.is_not_found() => return Ok(objects),
                Err(error) => return Err(error.into()),
            };
            objects.extend(page.items);
            if page.metadata.continue_token.is_empty() {
                return Ok(objects);
            }
            params.continue_token = page.metadata.continue_token;
        }
    }

    async fn clear_all(&self, namespace: &str, resources: &[Resource], remains: &mut Remains) {
        for resource in resources {
            if let Err(error) = self.clear(&resource.gvr, namespace, remains).await {
                remains.failed(&error);
            }
            if resource.gvr == Gvr::PODS && !remains.is_empty() {
                return;
            }
        }
    }

    async fn note(&self, namespace: &Namespace, remains: &Remains, discovery: Option<&Error>) -> Result<(), Error> {
        let now = since_epoch(SystemTime::now());
        let conditions = update(&namespace.status.conditions, remains, discovery, now);
        if conditions == namespace.status.conditions {
            return Ok(());
        }
        let patch = json!({"metadata": {"uid": namespace.metadata.uid}, "status": {"conditions": conditions}});
        control::patch_status(&self.world.client, &Gvr::NAMESPACES, &namespace.metadata, &patch).await
    }

    /// Takes the finalizer off: the API server then removes the namespace.
    async fn finalize(&self, name: &str, uid: &str) -> Result<(), Error> {
        let client = &self.world.client;
        let mut whole: Value = client.get(&Gvr::NAMESPACES, "", name).await?;
        if whole["metadata"]["uid"] != uid {
            return Ok(());
        }
        if let Some(finalizers) = whole["spec"]["finalizers"].as_array_mut() {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        client.update::<IgnoredAny>(&Gvr::NAMESPACES, "", name, "finalize", &whole).await?;
        Ok(())
    }
}

impl Controller for Namespaces {
    const NAME: &'static str = "namespace";

    fn queue(&self) -> &Queue {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(namespace) = self.world.namespaces.get(key) else { return Ok(None) };
        let wanted = namespace.spec.finalizers.iter().any(|finalizer| finalizer == FINALIZER);
        if !namespace.metadata.is_terminating() || !wanted {
            return Ok(None);
        }
        let mut remains = Remains::default();
        match self.resources().await {
            Ok(resources) => self.clear_all(key, &resources, &mut remains).await,
            Err(error) => {
                gone(self.note(&namespace, &remains, Some(&error)).await)?;
                return Err(error);
            }
        }
        if remains.is_empty() {
            return gone(self.finalize(key, &namespace.metadata.uid).await).map(|()| None);
        }
        gone(self.note(&namespace, &remains, None).await)?;
        // The longer it takes, the less often it is looked at.
        let age = since_epoch(SystemTime::now()) - seconds(namespace.metadata.deletion_timestamp.as_deref());
        Ok(Some(Duration::from_secs(u64::try_from(age / 2).unwrap_or(1).clamp(1, 15))))
    }
}

fn gone(outcome: Result<(), Error>) -> Result<(), Error> {
    if outcome.as_ref().is_err_and(Error::is_not_found) { Ok(()) } else { outcome }
}
