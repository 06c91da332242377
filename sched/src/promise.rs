//! What the API tells of volumes and devices, and what pods that were placed are promised of them.

use std::sync::Arc;

use crate::allotment::Allotment;
use crate::binding::{Binding, reaches};
use crate::cluster::{Cluster, Holdings, Placed};
use crate::device::{DeviceClass, DevicePlan, ResourceClaim, ResourceSlice, SelectorLanguage};
use crate::ledger::NodeId;
use crate::pod::{Pod, PodId};
use crate::queue::Events;
use crate::volume::{Attachment, StorageCapacity, StorageClass, Volume, VolumeClaim, VolumePlan};

/// Promises of devices that outlive their pod: while somebody writes about them, nobody else is given them. It ends with
/// [`Cluster::release_devices`].
#[must_use = "the devices are nobody else's until they are released"]
#[derive(Debug)]
pub struct DeviceHold {
    namespace: Arc<str>,
    plan: DevicePlan,
    promises: Vec<u64>,
}

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

    /// Sets the language of the selectors of devices. Until then none can be compiled.
    pub fn set_selector_language(&mut self, language: Arc<dyn SelectorLanguage>) {
        self.state.inventory.speak(language);
    }

    /// Puts a ResourceClaim; `None`: it is gone.
    pub fn set_resource_claim(
        &mut self,
        namespace: &Arc<str>,
        name: &Arc<str>,
        claim: Option<ResourceClaim>,
    ) -> Events {
        self.state.inventory.set_claim((namespace.clone(), name.clone()), claim)
    }

    /// Puts a ResourceSlice; `None`: it is gone.
    pub fn set_resource_slice(&mut self, name: &Arc<str>, slice: Option<ResourceSlice>) -> Events {
        self.state.inventory.set_slice(name, slice)
    }

    /// Puts a DeviceClass; `None`: it is gone.
    pub fn set_device_class(&mut self, name: &Arc<str>, class: Option<DeviceClass>) -> Events {
        self.state.inventory.set_class(name, class)
    }

    /// Whether a node has what the affinity of a volume asks for; so does every node for a volume that is not known.
    pub fn volume_reaches(&self, name: &str, node: NodeId) -> bool {
        self.state.storage.volume(name).is_none_or(|volume| reaches(&self.state, volume, node))
    }

    /// What has to be written, and shown by the API, before a pod that [`Cluster::schedule`] placed may be bound.
    pub fn volume_plan(&self, id: PodId) -> Option<&VolumePlan> {
        Some(&self.pods.get(id)?.holdings.as_ref()?.volumes)
    }

    /// What has to be written about claims for devices before a pod that [`Cluster::schedule`] placed may be bound.
    pub fn device_plan(&self, id: PodId) -> Option<&DevicePlan> {
        Some(&self.pods.get(id)?.holdings.as_ref()?.devices)
    }

    /// Keeps what a pod was promised of devices, whatever becomes of the pod. `None` where that is nothing.
    pub fn hold_devices(&mut self, id: PodId) -> Option<DeviceHold> {
        let placed = self.pods.get(id)?;
        let holdings = placed.holdings.as_ref().filter(|holdings| !holdings.devices.is_empty())?;
        let namespace = placed.class.template.namespace.clone();
        let (plan, promises) = (holdings.devices.clone(), holdings.device_promises.clone());
        self.state.inventory.hold(&namespace, &plan, &promises);
        Some(DeviceHold { namespace, plan, promises })
    }

    /// Ends a hold. Returns what changed in favour of pods that wait.
    pub fn release_devices(&mut self, hold: DeviceHold) -> Events {
        let DeviceHold { namespace, plan, promises } = hold;
        self.state.inventory.give_back(&namespace, &plan, &promises)
    }

    /// Promises a pod what its node was chosen for.
    pub(crate) fn promise(&mut self, pod: &Pod, node: NodeId) -> Box<Holdings> {
        let volumes = Binding::new(&self.state, &pod.class).and_then(|binding| binding.plan(&self.state, node).ok());
        let volumes = volumes.unwrap_or_default();
        let name = self.state.node(node).name.clone();
        let promises = self.state.storage.keep(&pod.class.template.namespace, &volumes, &name);
        let allotment = Allotment::new(&self.state, &pod.class);
        let devices = allotment.and_then(|allotment| allotment.plan(&self.state, node).ok()).unwrap_or_default();
        let device_promises = self.state.inventory.keep(&pod.class.template.namespace, &devices);
        Box::new(Holdings { volumes, promises, devices, device_promises })
    }

    /// Takes a pod's promises back.
    pub(crate) fn give_back(&mut self, placed: &Placed) {
        if let Some(holdings) = &placed.holdings {
            let Holdings { volumes, promises, devices, device_promises } = &**holdings;
            let namespace = &placed.class.template.namespace;
            self.state.storage.give_back(namespace, volumes, promises);
            // Told by the pod's going.
            self.state.inventory.give_back(namespace, devices, device_promises);
        }
    }

    /// Number of devices, and of expressions that select some, that are known, for those who watch memory.
    pub fn devices(&self) -> (usize, usize) {
        (self.state.inventory.rows.known(), self.state.inventory.memo.len())
    }

    /// Whether nothing about volumes, devices and claims is held for any pod.
    pub fn promises_nothing(&self) -> bool {
        self.state.storage.is_idle() && self.state.inventory.is_idle()
    }
}
