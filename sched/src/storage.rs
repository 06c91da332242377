//! Claims and volumes: what is known of them, who uses them, and what was promised to pods that were placed.
//!
//! A promise is what kube-scheduler calls assumed: a volume for a claim, or a node on which one is to be made. It holds
//! until the pod is gone or the API shows the same. Pods with volumes are placed one at a time, so no two are promised one volume.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::ledger::NodeId;
use crate::pod::Class;
use crate::queue::Events;
use crate::volume::{
    AccessModes, Attachment, Disk, StorageCapacity, StorageClass, Volume, VolumeClaim, VolumePlan, VolumeUse,
};

/// Namespace and name.
pub(crate) type Key = (Arc<str>, Arc<str>);

/// A driver and the handle of a volume; a claim without a volume has a handle of its own.
pub(crate) type Handle = (Arc<str>, Arc<str>);

/// What a claim was promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    Volume(Arc<str>),
    /// Made on this node, by name.
    Node(Arc<str>),
}

/// Volumes in use on one node.
#[derive(Debug, Default)]
pub(crate) struct InUse {
    claims: FxHashMap<Key, u32>,
    disks: Vec<(Disk, u32)>,
}

#[derive(Debug, Default)]
pub(crate) struct Storage {
    claims: FxHashMap<Key, VolumeClaim>,
    volumes: FxHashMap<Arc<str>, Volume>,
    /// Volumes of each class, the smallest first.
    by_class: FxHashMap<Arc<str>, BTreeSet<(i64, Arc<str>)>>,
    classes: FxHashMap<Arc<str>, StorageClass>,
    /// CSI drivers that tell of their capacity.
    tracked: FxHashSet<Arc<str>>,
    capacities: FxHashMap<Key, StorageCapacity>,
    /// How many volumes of a driver a node may have, by the node's name.
    limits: FxHashMap<Arc<str>, Vec<(Arc<str>, i64)>>,
    attachments: FxHashMap<Arc<str>, Attachment>,
    /// Names of the attachments of a node.
    attached: FxHashMap<Arc<str>, Vec<Arc<str>>>,
    in_use: FxHashMap<NodeId, InUse>,
    /// Pods with a place that name a claim, ephemeral ones apart.
    users: FxHashMap<Key, u32>,
    /// What claims were promised, by which promise, and to how many pods.
    promises: FxHashMap<Key, (Promise, u64, u32)>,
    /// Number of the promise that was made last.
    last_promise: u64,
    /// Volumes that are promised.
    promised: FxHashMap<Arc<str>, Key>,
}

/// Puts or removes an entry. True if that changed anything.
pub(crate) fn put<K: std::hash::Hash + Eq, V: PartialEq>(map: &mut FxHashMap<K, V>, key: K, value: Option<V>) -> bool {
    match value {
        Some(value) => {
            let same = map.get(&key) == Some(&value);
            if !same {
                map.insert(key, value);
            }
            !same
        }
        None => map.remove(&key).is_some(),
    }
}

fn told(changed: bool, events: Events) -> Events {
    if changed { events } else { Events::default() }
}

impl Storage {
    pub fn set_claim(&mut self, key: Key, claim: Option<VolumeClaim>) -> Events {
        // What the API shows needs no promise any more.
        let shown = match (&claim, self.promises.get(&key)) {
            (None, Some(_)) => true,
            (Some(claim), Some((Promise::Volume(_), ..))) => claim.volume.is_some(),
            (Some(claim), Some((Promise::Node(_), ..))) => claim.volume.is_some() || claim.selected_node.is_some(),
            (_, None) => false,
        };
        if shown {
            self.withdraw(&key);
        }
        told(put(&mut self.claims, key, claim), Events::VOLUMES)
    }

    pub fn set_volume(&mut self, name: &Arc<str>, volume: Option<Volume>) -> Events {
        if let Some(before) = self.volumes.get(name)
            && let Some(names) = self.by_class.get_mut(&before.class)
        {
            names.remove(&(before.capacity, name.clone()));
            if names.is_empty() {
                self.by_class.remove(&before.class);
            }
        }
        if let Some(volume) = &volume {
            self.by_class.entry(volume.class.clone()).or_default().insert((volume.capacity, name.clone()));
        }
        told(put(&mut self.volumes, name.clone(), volume), Events::VOLUMES)
    }

    pub fn set_class(&mut self, name: Arc<str>, class: Option<StorageClass>) -> Events {
        told(put(&mut self.classes, name, class), Events::VOLUMES)
    }

    pub fn set_driver(&mut self, name: Arc<str>, tracks_capacity: bool) -> Events {
        let changed = if tracks_capacity { self.tracked.insert(name) } else { self.tracked.remove(&name) };
        told(changed, Events::VOLUMES)
    }

    pub fn set_capacity(&mut self, key: Key, capacity: Option<StorageCapacity>) -> Events {
        told(put(&mut self.capacities, key, capacity), Events::VOLUMES)
    }

    pub fn set_limits(&mut self, node: Arc<str>, limits: Option<Vec<(Arc<str>, i64)>>) -> Events {
        told(put(&mut self.limits, node, limits), Events::VOLUME_LIMITS)
    }

    pub fn set_attachment(&mut self, name: &Arc<str>, attachment: Option<Attachment>) -> Events {
        if let Some(before) = self.attachments.get(name)
            && let Some(names) = self.attached.get_mut(&before.node)
        {
            names.retain(|have| have != name);
            if names.is_empty() {
                self.attached.remove(&before.node);
            }
        }
        if let Some(attachment) = &attachment {
            self.attached.entry(attachment.node.clone()).or_default().push(name.clone());
        }
        told(put(&mut self.attachments, name.clone(), attachment), Events::VOLUME_LIMITS)
    }

    pub fn claim(&self, key: &Key) -> Option<&VolumeClaim> {
        self.claims.get(key)
    }

    pub fn volume(&self, name: &str) -> Option<&Volume> {
        self.volumes.get(name)
    }

    pub fn class(&self, name: &str) -> Option<&StorageClass> {
        self.classes.get(name)
    }

    /// Volumes of a class, the smallest first.
    pub fn of_class(&self, class: &str) -> impl Iterator<Item = (&Arc<str>, &Volume)> {
        let names = self.by_class.get(class).into_iter().flatten();
        names.filter_map(|(_, name)| Some((name, self.volumes.get(name)?)))
    }

    /// Capacities told for a class, where its driver tells any: then a new volume has to fit one of them.
    pub fn capacities(&self, class_name: &str, provisioner: &str) -> Option<Vec<&StorageCapacity>> {
        let of_class = |capacity: &&StorageCapacity| *capacity.class == *class_name;
        self.tracked.contains(provisioner).then(|| self.capacities.values().filter(of_class).collect())
    }

    /// The volume limits of a node; none where nothing is limited.
    pub fn limits(&self, node: &str) -> &[(Arc<str>, i64)] {
        self.limits.get(node).map_or(&[], Vec::as_slice)
    }

    /// Whether a pod with a place names this claim.
    pub fn is_used(&self, key: &Key) -> bool {
        self.users.contains_key(key)
    }

    /// Disks in use on a node.
    pub fn disks(&self, node: NodeId) -> impl Iterator<Item = &Disk> {
        self.in_use.get(&node).into_iter().flat_map(|in_use| in_use.disks.iter().map(|(disk, _)| disk))
    }

    /// What a claim was promised.
    pub fn promise(&self, key: &Key) -> Option<&Promise> {
        self.promises.get(key).map(|(promise, ..)| promise)
    }

    /// Which claim a volume is promised to.
    pub fn promised(&self, volume: &str) -> Option<&Key> {
        self.promised.get(volume)
    }

    /// How a volume limit would count a claim: `None` if it does not.
    pub fn handle(&self, key: &Key) -> Option<Handle> {
        let claim = self.claims.get(key)?;
        if let Some(volume) = claim.volume.as_ref().and_then(|name| self.volumes.get(name)) {
            return volume.csi.clone();
        }
        // A volume that is still to be made counts by its claim.
        let class = self.classes.get(&claim.class)?;
        Some((class.provisioner.clone(), format!("\0{}/{}", key.0, key.1).into()))
    }

    /// Whether a node cannot have these volumes beside what it has.
    pub fn exceeds(&self, node: NodeId, name: &str, wanted: &[Handle]) -> bool {
        let limits = self.limits(name);
        if limits.is_empty() || wanted.is_empty() {
            return false;
        }
        let in_use = self.in_use.get(&node);
        let attached = self.attached.get(name).map_or(&[][..], Vec::as_slice);
        let at_most = (in_use.map_or(0, |in_use| in_use.claims.len()) + attached.len() + wanted.len()) as i64;
        let applies = |limit: &(Arc<str>, i64)| wanted.iter().any(|(driver, _)| *driver == limit.0);
        // The sum over all drivers is within the limit of each, nearly always.
        if limits.iter().filter(|limit| applies(limit)).all(|(_, limit)| at_most <= *limit) {
            return false;
        }
        let by_pods: FxHashSet<Handle> =
            in_use.into_iter().flat_map(|in_use| in_use.claims.keys().filter_map(|key| self.handle(key))).collect();
        let of_attachment = |name: &Arc<str>| {
            let attachment = self.attachments.get(name)?;
            let (_, handle) = self.volumes.get(&attachment.volume)?.csi.clone()?;
            Some((attachment.driver.clone(), handle))
        };
        let others: FxHashSet<Handle> =
            attached.iter().filter_map(of_attachment).filter(|handle| !by_pods.contains(handle)).collect();
        limits.iter().filter(|limit| applies(limit)).any(|(driver, limit)| {
            let of_driver = |handle: &&Handle| handle.0 == *driver;
            let have = by_pods.iter().filter(of_driver).count() + others.iter().filter(of_driver).count();
            // Only what pods use there already is not new.
            let new: FxHashSet<&Handle> =
                wanted.iter().filter(of_driver).filter(|handle| !by_pods.contains(*handle)).collect();
            !new.is_empty() && (have + new.len()) as i64 > *limit
        })
    }

    /// Counts a pod's volumes in (1) or out (-1) on a node.
    pub fn count(&mut self, class: &Class, node: NodeId, by: i32) {
        let template = &class.template;
        let in_use = self.in_use.entry(node).or_default();
        for volume in &template.volumes {
            match volume {
                VolumeUse::Claim(name) | VolumeUse::Ephemeral(name) => {
                    let key = (template.namespace.clone(), name.clone());
                    bump(&mut in_use.claims, &key, by);
                    if matches!(volume, VolumeUse::Claim(_)) {
                        bump(&mut self.users, &key, by);
                    }
                }
                VolumeUse::Disk(disk) => match in_use.disks.iter().position(|(have, _)| have == disk) {
                    Some(at) => {
                        let count = &mut in_use.disks[at].1;
                        *count = count.wrapping_add_signed(by);
                        if *count == 0 {
                            in_use.disks.swap_remove(at);
                        }
                    }
                    None => in_use.disks.push((disk.clone(), by.unsigned_abs())),
                },
            }
        }
        if in_use.claims.is_empty() && in_use.disks.is_empty() {
            self.in_use.remove(&node);
        }
    }

    /// Whether nothing is used and nothing promised.
    pub fn is_idle(&self) -> bool {
        self.in_use.is_empty() && self.users.is_empty() && self.promises.is_empty() && self.promised.is_empty()
    }

    /// Promises what a plan says for a pod that goes to a node. Returns the number of each promise.
    pub fn keep(&mut self, namespace: &Arc<str>, plan: &VolumePlan, node: &Arc<str>) -> Vec<u64> {
        let mut numbers = Vec::new();
        let bound = plan.bind.iter().map(|(claim, volume)| (claim, Promise::Volume(volume.clone())));
        let made = plan.provision.iter().map(|claim| (claim, Promise::Node(node.clone())));
        for (claim, promise) in bound.chain(made) {
            let key = (namespace.clone(), claim.clone());
            // Pods that share a claim share its promise, which is the first one's.
            let (_, number, pods) = self.promises.entry(key.clone()).or_insert_with(|| {
                if let Promise::Volume(volume) = &promise {
                    self.promised.insert(volume.clone(), key);
                }
                self.last_promise += 1;
                (promise, self.last_promise, 0)
            });
            *pods += 1;
            numbers.push(*number);
        }
        numbers
    }

    /// Takes back what was promised to one pod, by these numbers. What the API has shown meanwhile is promised no more, and a
    /// later promise of the same claim is another pod's.
    pub fn give_back(&mut self, namespace: &Arc<str>, plan: &VolumePlan, numbers: &[u64]) {
        let claims = plan.bind.iter().map(|(claim, _)| claim).chain(&plan.provision);
        for (claim, number) in claims.zip(numbers) {
            let key = (namespace.clone(), claim.clone());
            if let Some((_, have, pods)) = self.promises.get_mut(&key)
                && have == number
            {
                *pods -= 1;
                if *pods == 0 {
                    self.withdraw(&key);
                }
            }
        }
    }

    fn withdraw(&mut self, key: &Key) {
        if let Some((Promise::Volume(volume), ..)) = self.promises.remove(key) {
            self.promised.remove(&volume);
        }
    }

    /// Whether a claim may be used by one pod at a time.
    pub fn is_exclusive(&self, key: &Key) -> bool {
        self.claims.get(key).is_some_and(|claim| claim.access_modes.contains(AccessModes::READ_WRITE_ONCE_POD))
    }
}

fn bump(counts: &mut FxHashMap<Key, u32>, key: &Key, by: i32) {
    let count = counts.entry(key.clone()).or_default();
    *count = count.wrapping_add_signed(by);
    if *count == 0 {
        counts.remove(key);
    }
}
