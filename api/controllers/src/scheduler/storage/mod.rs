//! Volumes in the model: what the API tells of them, and pods whose claims have to be bound before they are.
//!
//! A pod that was placed and has claims without volumes keeps its place while those are bound. What the core chose is
//! written (which volume is for which claim, on which node one is to be made), and then it is the volume controller's and
//! the provisioners' turn. The pod's binding follows when the watch shows its claims bound; when that cannot be any more, or
//! takes too long, the place is given back and the pod comes again.

mod prebind;
mod raw;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kelson_sched::{Events, NodeId, PodId};
use kelson_wire::kube::{Delta, Keyed};
use rustc_hash::FxHashMap;

use super::model::{Binding, Model, Sending};
pub use prebind::{Written, write};
pub use view::{AttachmentView, CapacityView, ClaimView, ClassView, DriverView, LimitsView, VolumeView, complete};

/// Namespace and name of a claim.
type Key = (Arc<str>, Arc<str>);

/// What is to be written before a pod is bound.
#[derive(Debug, Default)]
pub struct Writes {
    /// Volumes as they were seen, each with the claim that it is for.
    pub volumes: Vec<(Arc<VolumeView>, Arc<ClaimView>)>,
    /// Claims as they were seen, for which a volume is to be made on the node.
    pub claims: Vec<Arc<ClaimView>>,
    pub node: Arc<str>,
}

/// A pod whose claims are being bound.
#[derive(Debug)]
struct Waiting {
    sending: Sending,
    written: Written,
    /// By when they have to be bound.
    by: u64,
}

/// Claims and volumes as they were seen last, and who waits for them.
#[derive(Debug, Default)]
pub struct Storage {
    claims: FxHashMap<Key, Arc<ClaimView>>,
    volumes: FxHashMap<Arc<str>, Arc<VolumeView>>,
    waiting: BTreeMap<PodId, Waiting>,
    by_claim: FxHashMap<Key, BTreeSet<PodId>>,
    by_volume: FxHashMap<Arc<str>, BTreeSet<PodId>>,
    deadlines: BTreeSet<(u64, PodId)>,
    /// Pods to look at again.
    touched: BTreeSet<PodId>,
}

fn add<K: std::hash::Hash + Eq>(map: &mut FxHashMap<K, BTreeSet<PodId>>, key: K, id: PodId) {
    map.entry(key).or_default().insert(id);
}

fn take<K: std::hash::Hash + Eq>(map: &mut FxHashMap<K, BTreeSet<PodId>>, key: &K, id: PodId) {
    if let Some(ids) = map.get_mut(key) {
        ids.remove(&id);
        if ids.is_empty() {
            map.remove(key);
        }
    }
}

impl Storage {
    fn wait(&mut self, sending: Sending, written: Written, by: u64) {
        let id = sending.binding.id;
        for key in written.keys(&sending.binding) {
            add(&mut self.by_claim, key, id);
        }
        for (name, ..) in &written.volumes {
            add(&mut self.by_volume, name.clone(), id);
        }
        self.deadlines.insert((by, id));
        self.touched.insert(id);
        self.waiting.insert(id, Waiting { sending, written, by });
    }

    /// Ends a pod's wait.
    pub fn leave(&mut self, id: PodId) -> Option<Sending> {
        let Waiting { sending, written, by } = self.waiting.remove(&id)?;
        for key in written.keys(&sending.binding) {
            take(&mut self.by_claim, &key, id);
        }
        for (name, ..) in &written.volumes {
            take(&mut self.by_volume, name, id);
        }
        self.deadlines.remove(&(by, id));
        self.touched.remove(&id);
        Some(sending)
    }

    /// Pods that wait on a node are looked at again.
    fn touch_node(&mut self, name: &str) {
        let on_node = self.waiting.iter().filter(|(_, waiting)| *waiting.sending.binding.node == *name);
        self.touched.extend(on_node.map(|(id, _)| *id));
    }

    /// By when the next pod's claims have to be bound.
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|(by, _)| *by)
    }
}

/// The name that an event has in the metrics.
fn event<T>(names: [&'static str; 3], delta: &Delta<T>) -> &'static str {
    match (&delta.old, &delta.new) {
        (_, None) => names[2],
        (None, _) => names[0],
        _ => names[1],
    }
}

macro_rules! events {
    ($kind:literal) => {
        [concat!($kind, "Add"), concat!($kind, "Update"), concat!($kind, "Delete")]
    };
}

impl Model {
    /// Takes in a change of a PersistentVolumeClaim.
    pub fn claim_changed(&mut self, delta: &Delta<ClaimView>, now: u64) {
        let meta = delta.latest().meta();
        let key = (meta.namespace.clone(), meta.name.clone());
        match &delta.new {
            Some(view) => self.storage.claims.insert(key.clone(), view.clone()),
            None => self.storage.claims.remove(&key),
        };
        self.storage.touched.extend(self.storage.by_claim.get(&key).into_iter().flatten());
        let claim = delta.new.as_ref().map(|view| view.claim.clone());
        let events = self.cluster.set_volume_claim(&key.0, &key.1, claim);
        self.notice(event(events!("PersistentVolumeClaim"), delta), events, now);
    }

    /// Takes in a change of a PersistentVolume.
    pub fn volume_changed(&mut self, delta: &Delta<VolumeView>, now: u64) {
        let name = &delta.latest().meta().name;
        match &delta.new {
            Some(view) => self.storage.volumes.insert(name.clone(), view.clone()),
            None => self.storage.volumes.remove(name),
        };
        self.storage.touched.extend(self.storage.by_volume.get(name).into_iter().flatten());
        // Made for a claim that waits for it.
        let claims = [&delta.old, &delta.new].into_iter().flatten().filter_map(|view| view.volume.claim.as_ref());
        for claim in claims {
            let key = (claim.namespace.clone(), claim.name.clone());
            self.storage.touched.extend(self.storage.by_claim.get(&key).into_iter().flatten());
        }
        let volume = delta.new.as_ref().map(|view| view.volume.clone());
        let events = self.cluster.set_volume(name, volume);
        self.notice(event(events!("PersistentVolume"), delta), events, now);
    }

    /// Takes in a change of a StorageClass.
    pub fn class_changed(&mut self, delta: &Delta<ClassView>, now: u64) {
        let class = delta.new.as_ref().map(|view| view.class.clone());
        let events = self.cluster.set_storage_class(&delta.latest().meta().name, class);
        self.notice(event(events!("StorageClass"), delta), events, now);
    }

    /// Takes in a change of a CSIDriver.
    pub fn driver_changed(&mut self, delta: &Delta<DriverView>, now: u64) {
        let tracks_capacity = delta.new.as_ref().is_some_and(|view| view.tracks_capacity);
        let events = self.cluster.set_csi_driver(&delta.latest().meta().name, tracks_capacity);
        self.notice(event(events!("CSIDriver"), delta), events, now);
    }

    /// Takes in a change of a CSINode.
    pub fn limits_changed(&mut self, delta: &Delta<LimitsView>, now: u64) {
        let limits = delta.new.as_ref().map(|view| view.limits.clone());
        let events = self.cluster.set_volume_limits(&delta.latest().meta().name, limits);
        self.notice(event(events!("CSINode"), delta), events, now);
    }

    /// Takes in a change of a CSIStorageCapacity.
    pub fn capacity_changed(&mut self, delta: &Delta<CapacityView>, now: u64) {
        let meta = delta.latest().meta();
        let capacity = delta.new.as_ref().map(|view| view.capacity.clone());
        let events = self.cluster.set_storage_capacity(&meta.namespace, &meta.name, capacity);
        self.notice(event(events!("CSIStorageCapacity"), delta), events, now);
    }

    /// Takes in a change of a VolumeAttachment.
    pub fn attachment_changed(&mut self, delta: &Delta<AttachmentView>, now: u64) {
        let attachment = delta.new.as_ref().and_then(|view| view.attachment.clone());
        let events = self.cluster.set_attachment(&delta.latest().meta().name, attachment);
        self.notice(event(events!("VolumeAttachment"), delta), events, now);
    }

    /// A node is gone, or its labels changed: what waits there may wait in vain.
    pub(super) fn storage_of_node_changed(&mut self, name: &str, events: Events) {
        if events.intersects(Events::NODE_REMOVED | Events::NODE_LABELS) {
            self.storage.touch_node(name);
        }
    }

    /// What has to be written before a pod is bound; `None` where nothing has to.
    ///
    /// # Errors
    /// Why it cannot be: the pod has to be placed anew.
    pub fn volume_writes(&self, binding: &Binding) -> Option<Result<Writes, String>> {
        let plan = self.cluster.volume_plan(binding.id)?;
        if plan.bind.is_empty() && plan.provision.is_empty() {
            return None;
        }
        let namespace = &binding.view.meta().namespace;
        let claim = |name: &Arc<str>| {
            let found = self.storage.claims.get(&(namespace.clone(), name.clone()));
            found.cloned().ok_or_else(|| no_claim(namespace, name))
        };
        let volume = |name: &Arc<str>| self.storage.volumes.get(name).cloned().ok_or_else(|| no_volume(name));
        let gather = || {
            let mut writes = Writes { node: binding.node.clone(), ..Writes::default() };
            for (name, volume_name) in &plan.bind {
                writes.volumes.push((volume(volume_name)?, claim(name)?));
            }
            for name in &plan.provision {
                writes.claims.push(claim(name)?);
            }
            Ok(writes)
        };
        Some(gather())
    }

    /// A pod's claims are on their way: its binding comes back from [`Model::settled`]. Where that is not wanted any
    /// more, it does not.
    pub fn await_volumes(&mut self, sending: Sending, written: Written, now: u64) {
        if self.awaits(&sending.binding) {
            let profile = self.profile(&sending.binding.view).and_then(|at| self.profiles.get(at));
            let within = profile.map_or(0, |profile| profile.bind_within.as_millis());
            let by = now.saturating_add(u64::try_from(within).unwrap_or(u64::MAX));
            self.storage.wait(sending, written, by);
        }
    }

    /// Bindings whose claims are bound, and those whose claims cannot be, with the reason.
    pub fn settled(&mut self, now: u64) -> Vec<(Sending, Result<(), String>)> {
        let late = self.storage.deadlines.iter().take_while(|(by, _)| *by <= now).map(|(_, id)| *id);
        let late: Vec<PodId> = late.collect();
        self.storage.touched.extend(&late);
        let mut settled = Vec::new();
        for id in std::mem::take(&mut self.storage.touched) {
            let Some(waiting) = self.storage.waiting.get(&id) else { continue };
            let outcome = match self.are_bound(&waiting.sending.binding, &waiting.written) {
                Ok(false) if waiting.by > now => continue,
                Ok(false) => Err("context deadline exceeded".to_string()),
                Ok(true) => Ok(()),
                Err(why) => Err(why),
            };
            let outcome = outcome.map_err(|why| format!("binding volumes: {why}"));
            settled.extend(self.storage.leave(id).map(|sending| (sending, outcome)));
        }
        settled
    }

    /// Whether the watch shows all that was written, and every claim bound.
    ///
    /// # Errors
    /// Why that will not come to be.
    fn are_bound(&self, binding: &Binding, written: &Written) -> Result<bool, String> {
        let node = self.cluster.node(&binding.node);
        let node = node.ok_or_else(|| format!("failed to get node {0:?}: node {0:?} not found", binding.node))?;
        let namespace = &binding.view.meta().namespace;
        let claim = |name: &Arc<str>| {
            let found = self.storage.claims.get(&(namespace.clone(), name.clone()));
            found.ok_or_else(|| no_claim(namespace, name))
        };
        for (name, revision, claim_name) in &written.volumes {
            let view = self.storage.volumes.get(name).ok_or_else(|| no_volume(name))?;
            let claim = &claim(claim_name)?.claim;
            if view.meta().revision() < *revision {
                return Ok(false);
            }
            self.reaches(name, node)?;
            if view.volume.claim.as_ref().is_none_or(|claim| claim.uid.is_empty()) {
                return Err(format!("ClaimRef got reset for pv {name:?}"));
            }
            if !(claim.bind_completed && claim.volume.is_some()) {
                return Ok(false);
            }
        }
        for (name, revision) in &written.claims {
            let view = claim(name).map_err(|why| why.replace("check binding", "check provisioning pvc"))?;
            if view.meta().revision() < *revision {
                return Ok(false);
            }
            match &view.claim.selected_node {
                None => return Err(format!("selectedNode annotation reset for PVC {name:?}")),
                Some(selected) if *selected != binding.node => {
                    return Err(format!("provisioning failed for PVC {name:?}"));
                }
                Some(_) => {}
            }
            let Some(volume) = &view.claim.volume else { return Ok(false) };
            if !self.storage.volumes.contains_key(volume) {
                return Ok(false);
            }
            self.reaches(volume, node)?;
            if !view.claim.bind_completed {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn reaches(&self, volume: &Arc<str>, node: NodeId) -> Result<(), String> {
        if self.cluster.volume_reaches(volume, node) {
            return Ok(());
        }
        let node = self.cluster.node_name(node);
        Err(format!("pv {volume:?} node affinity doesn't match node {node:?}: no matching NodeSelectorTerms"))
    }
}

fn no_claim(namespace: &str, name: &str) -> String {
    format!("failed to check binding: persistentvolumeclaims \"{namespace}/{name}\" not found")
}

fn no_volume(name: &str) -> String {
    format!("failed to check binding: persistentvolumes {name:?} not found")
}

#[cfg(test)]
mod tests;
