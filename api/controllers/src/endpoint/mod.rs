//! EndpointSlices and Endpoints: where a Service leads.

mod routes;
mod slices;
mod subsets;

use std::sync::Arc;
use std::time::Duration;

use kelson_wire::kube::meta::StringMap;
use kelson_wire::kube::{Delta, Gvr};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::config::Config;
use crate::control;
use crate::controller::Controller;
use crate::error::Error;
use crate::events::Events;
use crate::expectation::Expectations;
use crate::queue::{Key, Queue};
use crate::view::{EndpointSlice, Pod, Service, subsets_digest};
use crate::world::{SERVICE_NAME, World, join, split};
use slices::{Changes, NewSlice};

/// Label of a slice or an Endpoints object: who writes it.
const SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const SLICE_MANAGER: &str = "endpointslice-controller.k8s.io";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// Label: the Service has no address of its own.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Annotation of an Endpoints object from which addresses were left out.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Writes both kinds for every Service with a selector.
pub(crate) struct EndpointWriter {
    world: Arc<World>,
    queue: Queue,
    events: Events,
    /// Slices that were created and have not been seen: until then it is not known how full the slices are.
    expectations: Expectations,
}

impl EndpointWriter {
    /// A controller that listens to the caches from now on.
    pub(crate) fn new(world: &Arc<World>, config: &Config) -> Arc<EndpointWriter> {
        let this = Arc::new(EndpointWriter {
            world: world.clone(),
            queue: Queue::new(config.endpoint_updates_batch_period),
            events: Events::new(&world.client, "endpoint-slice-controller"),
            expectations: Expectations::default(),
        });
        let that = this.clone();
        world.services.on_change(move |delta| {
            let key: Key = delta.latest().metadata.key().into();
            if delta.new.is_none() {
                that.expectations.forget(&key);
            }
            that.queue.add(key);
        });
        let that = this.clone();
        world.slices.on_change(move |delta| {
            let slice = delta.latest();
            let Some(service) = slice.metadata.labels.get(SERVICE_NAME) else { return };
            let key = join(&slice.metadata.namespace, service);
            if delta.old.is_none() {
                that.expectations.created(&key, 1);
            }
            that.queue.add(key);
        });
        let that = this.clone();
        world.endpoints.on_change(move |delta| {
            if delta.new.is_none() {
                that.queue.add(delta.latest().metadata.key().into());
            }
        });
        let that = this.clone();
        world.pods.on_change(move |delta| that.pod_changed(delta));
        this
    }

    fn pod_changed(&self, delta: &Delta<Pod>) {
        if let (Some(old), Some(new)) = (&delta.old, &delta.new)
            && !routes::differs(old, new)
        {
            return;
        }
        let pod = delta.latest();
        for service in self.world.services_by_namespace.get(&pod.metadata.namespace) {
            let mut sides = [&delta.old, &delta.new].into_iter().flatten();
            if sides.any(|side| routes::selects(&service, &side.labels)) {
                self.queue.add(service.metadata.key().into());
            }
        }
    }

    async fn write_slices(&self, key: &Key, service: &Service, pods: &[Arc<Pod>]) -> Result<(), Error> {
        if !self.expectations.satisfied(key) {
            // The event that is missing brings the next run.
            return Ok(());
        }
        let zone = |node: &str| {
            let node = self.world.nodes.get(node)?;
            node.metadata.labels.get(ZONE).map(|zone| zone.as_str().into())
        };
        let mut existing = self.world.slices_by_service.get(key);
        let ours = |slice: &Arc<EndpointSlice>| {
            slice.metadata.labels.get(SLICE_MANAGED_BY).is_some_and(|manager| manager == SLICE_MANAGER)
        };
        existing.retain(|slice| ours(slice) && !slice.metadata.is_terminating());
        let labels = slice_labels(service);
        let relabel: Vec<_> = existing.iter().filter(|slice| slice.metadata.labels != labels).cloned().collect();
        let groups = routes::groups(service, pods, &zone);
        let Changes { create, mut update, delete } = slices::reconcile(groups, &routes::families(service), existing);
        for slice in relabel {
            let name = &slice.metadata.name;
            let known = update.iter().map(|(each, _)| each).chain(&delete).any(|each| each.metadata.name == *name);
            if !known {
                let endpoints = slice.endpoints.clone();
                update.push((slice, endpoints));
            }
        }
        for (slice, endpoints) in update {
            let meta = &slice.metadata;
            let mut labels_patch = json!(labels);
            for gone in meta.labels.keys().filter(|name| !labels.contains_key(*name)) {
                labels_patch[gone] = Value::Null;
            }
            let patch = json!({
                "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "labels": labels_patch},
                "endpoints": endpoints,
            });
            control::patch(&self.world.client, &Gvr::ENDPOINT_SLICES, meta, &patch).await?;
        }
        self.create_slices(key, service, &labels, create).await?;
        for slice in delete {
            control::delete(&self.world.client, &Gvr::ENDPOINT_SLICES, &slice.metadata).await?;
        }
        Ok(())
    }

    async fn create_slices(
        &self,
        key: &Key,
        service: &Service,
        labels: &StringMap,
        slices: Vec<NewSlice>,
    ) -> Result<(), Error> {
        self.expectations.expect(key, slices.len(), []);
        let mut left = slices.len();
        for slice in slices {
            let body = json!({
                "apiVersion": Gvr::ENDPOINT_SLICES.api_version(),
                "kind": Gvr::ENDPOINT_SLICES.kind,
                "metadata": {
                    "generateName": format!("{}-", service.metadata.name),
                    "namespace": service.metadata.namespace,
                    "labels": labels,
                    "ownerReferences": [control::controller_ref(&Gvr::SERVICES, &service.metadata)],
                },
                "addressType": slice.family,
                "ports": slice.ports,
                "endpoints": slice.endpoints,
            });
            let namespace = &service.metadata.namespace;
            match self.world.client.create::<IgnoredAny>(&Gvr::ENDPOINT_SLICES, namespace, &body).await {
                Ok(_) => left -= 1,
                Err(error) => {
                    self.expectations.created(key, left);
                    if control::is_namespace_ending(&error) || error.is_not_found() {
                        return Ok(());
                    }
                    let message = format!("Error updating Endpoint Slices for Service {key}: {error}");
                    self.events.warning(&Gvr::SERVICES, &service.metadata, "FailedToUpdateEndpointSlices", &message);
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    async fn write_endpoints(&self, key: &Key, service: &Service, pods: &[Arc<Pod>]) -> Result<(), Error> {
        let (subsets, cut) = subsets::subsets(service, pods);
        let labels = endpoints_labels(service);
        let found = self.world.endpoints.get(key);
        let client = &self.world.client;
        let annotations = json!({OVER_CAPACITY: if cut { Some("truncated") } else { None }});
        if let Some(found) = found {
            let meta = &found.metadata;
            let says_cut = meta.annotations.contains_key(OVER_CAPACITY);
            if found.digest == subsets_digest(&subsets) && meta.labels == labels && says_cut == cut {
                return Ok(());
            }
            let mut labels_patch = json!(labels);
            for gone in meta.labels.keys().filter(|name| !labels.contains_key(*name)) {
                labels_patch[gone] = Value::Null;
            }
            let patch = json!({
                "metadata": {
                    "uid": meta.uid, "resourceVersion": meta.resource_version,
                    "labels": labels_patch, "annotations": annotations,
                },
                "subsets": subsets,
            });
            return control::patch(client, &Gvr::ENDPOINTS, meta, &patch).await;
        }
        let mut body = json!({
            "apiVersion": "v1", "kind": "Endpoints", "subsets": subsets,
            "metadata": {"name": service.metadata.name, "namespace": service.metadata.namespace, "labels": labels},
        });
        if cut {
            body["metadata"]["annotations"] = annotations;
        }
        match client.create::<IgnoredAny>(&Gvr::ENDPOINTS, &service.metadata.namespace, &body).await {
            // Made by an earlier run whose event is under way, or by a person: it brings the next run.
            Err(error) if error.is_already_exists() || control::is_namespace_ending(&error) => Ok(()),
            outcome => {
                outcome?;
                Ok(())
            }
        }
    }

    /// A Service is gone: its slices go by their owner reference, its Endpoints go here.
    async fn remove_endpoints(&self, key: &Key) -> Result<(), Error> {
        let Some(found) = self.world.endpoints.get(key) else { return Ok(()) };
        if found.metadata.labels.get(MANAGED_BY).is_none_or(|manager| manager != MANAGER) {
            return Ok(());
        }
        // The cache may lag behind a Service that was made anew.
        let (namespace, name) = split(key);
        match self.world.client.get::<crate::view::Stub>(&Gvr::SERVICES, namespace, name).await {
            Err(error) if error.is_not_found() => {
                control::delete(&self.world.client, &Gvr::ENDPOINTS, &found.metadata).await
            }
            outcome => {
                outcome?;
                Ok(())
            }
        }
    }
}

impl Controller for EndpointWriter {
    const NAME: &'static str = "endpoint slice";

    fn queue(&self) -> &Queue {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(service) = self.world.services.get(key) else {
            return self.remove_endpoints(key).await.map(|()| None);
        };
        if service.spec.selector.is_empty() || service.spec.kind == "ExternalName" || service.metadata.is_terminating()
        {
            return Ok(None);
        }
        let pods = self.world.pods_by_namespace.get(&service.metadata.namespace);
        let pods = routes::selected(&service, pods);
        self.write_slices(key, &service, &pods).await?;
        self.write_endpoints(key, &service, &pods).await?;
        Ok(None)
    }
}

fn slice_labels(service: &Service) -> StringMap {
    let mut labels = own_labels(service);
    labels.insert(SERVICE_NAME.into(), service.metadata.name.to_string());
    labels.insert(SLICE_MANAGED_BY.into(), SLICE_MANAGER.into());
    labels
}

fn endpoints_labels(service: &Service) -> StringMap {
    let mut labels = own_labels(service);
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

/// The Service's labels, without those that have a meaning here.
fn own_labels(service: &Service) -> StringMap {
    let mut labels = service.metadata.labels.clone();
    for reserved in [SERVICE_NAME, SLICE_MANAGED_BY, MANAGED_BY, HEADLESS] {
        labels.remove(reserved);
    }
    if service.spec.cluster_ip == "None" {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}
