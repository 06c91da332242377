//! What the API tells of volumes, and what pods that were placed are promised of them.

use std::sync::Arc;

use crate::binding::{Binding, reaches};
use crate::cluster::{Cluster, Holdings, Placed};
use crate::ledger::NodeId;
use crate::pod::{Pod, PodId};
use crate::queue::Events;
use crate::volume::{Attachment, StorageCapacity, StorageClass, Volume, VolumeClaim, VolumePlan};

impl Cluster {
    /// Puts a PersistentVolumeClaim; `None`: it is gone.
    pub fn set_volume_claim(&mut self, namespace: &Arc<str>, name: &Arc<str>, claim: Option<VolumeClaim>) -> Events {
        self.state.storage.set_claim((namespace.clone(), name.clone()), claim)
    }

    /// Puts a PersistentVolume; `None`: it is gone.
    pub fn set_volume(&mut self, name: &Arc<str>, volume: Option<Volume>) -> Events {
        self.state.storage.set_volume(name, volume)
    }

    /// Puts a StorageClass; `None`: it is gone.
    pub fn set_storage_class(&mut self, name: &Arc<str>, class: Option<StorageClass>) -> Events {
        self.state.storage.set_class(name.clone(), class)
    }

    /// Puts whether a CSIDriver has `spec.storageCapacity`: then new volumes go only where it tells of room.
    pub fn set_csi_driver(&mut self, name: &Arc<str>, tracks_capacity: bool) -> Events {
        self.state.storage.set_driver(name.clone(), tracks_capacity)
    }

    /// Puts a CSIStorageCapacity; `None`: it is gone.
    pub fn set_storage_capacity(
        &mut self,
        namespace: &Arc<str>,
        name: &Arc<str>,
        capacity: Option<StorageCapacity>,
    ) -> Events {
        self.state.storage.set_capacity((namespace.clone(), name.clone()), capacity)
    }

    /// Puts a CSINode: `allocatable.count` of each driver that has one. `None`: it is gone.
    pub fn set_volume_limits(&mut self, node: &Arc<str>, limits: Option<Vec<(Arc<str>, i64)>>) -> Events {
        self.state.storage.set_limits(node.clone(), limits)
    }

    /// Puts a VolumeAttachment; `None`: it is gone.
    pub fn set_attachment(&mut self, name: &Arc<str>, attachment: Option<Attachment>) -> Events {
        self.state.storage.set_attachment(name, attachment)
    }

    /// Whether a node has what the affinity of a volume asks for; so does every node for a volume that is not known.
    pub fn volume_reaches(&self, name: &str, node: NodeId) -> bool {
        self.state.storage.volume(name).is_none_or(|volume| reaches(&self.state, volume, node))
    }

    /// What has to be written, and shown by the API, before a pod that [`Cluster::schedule`] placed may be bound.
    pub fn volume_plan(&self, id: PodId) -> Option<&VolumePlan> {
        Some(&self.pods.get(&id)?.holdings.as_ref()?.volumes)
    }

    /// Promises a pod what its node was chosen for.
    pub(crate) fn promise(&mut self, pod: &Pod, node: NodeId) -> Box<Holdings> {
        let volumes = Binding::new(&self.state, &pod.class).and_then(|binding| binding.plan(&self.state, node).ok());
        let volumes = volumes.unwrap_or_default();
        let name = self.state.node(node).name.clone();
        let promises = self.state.storage.keep(&pod.class.template.namespace, &volumes, &name);
        Box::new(Holdings { volumes, promises })
    }

    /// Takes a pod's promises back.
    pub(crate) fn give_back(&mut self, placed: &Placed) {
        if let Some(holdings) = &placed.holdings {
            let Holdings { volumes, promises } = &**holdings;
            self.state.storage.give_back(&placed.class.template.namespace, volumes, promises);
        }
    }

    /// Whether nothing about volumes and claims is held for any pod.
    pub fn promises_nothing(&self) -> bool {
        self.state.storage.is_idle()
    }
}
