//! The kinds that the scheduler follows, each by a reflector of its own.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use kelson_wire::kube::{ApiError, Cache, Client, Gvr, Keyed, ListParams, Reflector};
use serde::de::IgnoredAny;
use tokio::task::JoinSet;

use super::inbox::Slot;

const fn namespaced(group: &'static str, version: &'static str, resource: &'static str, kind: &'static str) -> Gvr {
    Gvr { group, version, resource, kind, namespaced: true }
}

const fn cluster_wide(group: &'static str, resource: &'static str, kind: &'static str) -> Gvr {
    Gvr { group, version: "v1", resource, kind, namespaced: false }
}

pub const BUDGETS: Gvr = namespaced("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget");
pub const REPLICATION_CONTROLLERS: Gvr = namespaced("", "v1", "replicationcontrollers", "ReplicationController");
pub const STATEFUL_SETS: Gvr = namespaced("apps", "v1", "statefulsets", "StatefulSet");
pub const CLAIMS: Gvr = namespaced("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim");
pub const VOLUMES: Gvr = cluster_wide("", "persistentvolumes", "PersistentVolume");
pub const STORAGE_CLASSES: Gvr = cluster_wide("storage.k8s.io", "storageclasses", "StorageClass");
pub const CSI_DRIVERS: Gvr = cluster_wide("storage.k8s.io", "csidrivers", "CSIDriver");
pub const CSI_NODES: Gvr = cluster_wide("storage.k8s.io", "csinodes", "CSINode");
pub const CAPACITIES: Gvr = namespaced("storage.k8s.io", "v1", "csistoragecapacities", "CSIStorageCapacity");
pub const ATTACHMENTS: Gvr = cluster_wide("storage.k8s.io", "volumeattachments", "VolumeAttachment");
pub const RESOURCE_CLAIMS: Gvr = namespaced("resource.k8s.io", "v1", "resourceclaims", "ResourceClaim");
pub const RESOURCE_SLICES: Gvr = cluster_wide("resource.k8s.io", "resourceslices", "ResourceSlice");
pub const DEVICE_CLASSES: Gvr = cluster_wide("resource.k8s.io", "deviceclasses", "DeviceClass");
pub const POD_GROUPS: Gvr = namespaced("scheduling.x-k8s.io", "v1alpha1", "podgroups", "PodGroup");

/// Everything that is followed; it ends when dropped.
pub struct Sources {
    client: Client,
    reflectors: JoinSet<()>,
    synced: Vec<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Sources {
    /// Nothing yet.
    pub fn new(client: Client) -> Sources {
        Sources { client, reflectors: JoinSet::new(), synced: Vec::new() }
    }

    /// Follows a kind; its changes go into the slot.
    pub fn follow<T: Keyed>(&mut self, gvr: Gvr, slot: &Arc<Slot<T>>) {
        let (reflector, cache) = (Reflector::all(self.client.clone(), gvr), Cache::<T>::new());
        let (kept, slot) = (cache.clone(), slot.clone());
        self.reflectors.spawn(async move { reflector.run(kept, move |deltas| slot.push(deltas)).await });
        self.synced.push(Box::pin(async move { cache.wait_synced().await }));
    }

    /// The same for a kind that a server may lack, or keep from this user: then there is none of it to respect.
    pub async fn follow_if_served<T: Keyed>(&mut self, gvr: Gvr, slot: &Arc<Slot<T>>) {
        let page = ListParams { limit: 1, ..ListParams::default() };
        match self.client.list::<IgnoredAny>(&gvr, "", &page).await {
            Err(error) if error.is_not_found() => {
                tracing::debug!(resource = gvr.resource, group = gvr.group, "not served, so not followed");
            }
            // A server says this, too, of a kind that it does not have.
            Err(ApiError::Status { code: 403, .. }) if gvr == POD_GROUPS => {
                tracing::debug!(resource = gvr.resource, group = gvr.group, "not allowed, so not followed");
            }
            Err(ApiError::Status { code: 403, message, .. }) => {
                tracing::warn!(resource = gvr.resource, group = gvr.group, %message, "not allowed, so not followed");
            }
            // Whatever else is wrong, the reflector goes on trying.
            _ => self.follow(gvr, slot),
        }
    }

    /// Returns when all of it has been read once.
    pub async fn synced(&mut self) {
        for synced in std::mem::take(&mut self.synced) {
            synced.await;
        }
    }
}
