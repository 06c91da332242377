//! The reference for volumes: every claim, volume and attachment looked up for every node.

use std::collections::BTreeSet;
use std::sync::Arc;

use kelson_sched::{
    AccessModes, Filter, NodeSelectorTerm, NodeSpec, PodTemplate, StorageClass, Volume, VolumeClaim, VolumePlan,
    VolumeUse,
};

use super::{Naive, holds, label};
use crate::random::disks::Key;

type Handle = (Arc<str>, Arc<str>);

const ZONES: [(&str, &str); 4] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
];

fn claims(pod: &PodTemplate) -> impl Iterator<Item = Key> {
    let name = |volume: &VolumeUse| match volume {
        VolumeUse::Claim(name) => Some((pod.namespace.clone(), name.clone())),
        _ => None,
    };
    let mut names: Vec<Key> = pod.volumes.iter().filter_map(name).collect();
    names.dedup();
    names.into_iter()
}

/// Whether a term on labels holds.
fn any(terms: &[NodeSelectorTerm], node: &NodeSpec) -> bool {
    let all = |term: &NodeSelectorTerm| term.expressions.iter().all(|one| holds(one, label(node, &one.key)));
    terms.iter().any(|term| !term.expressions.is_empty() && all(term))
}

fn reaches(volume: &Volume, node: &NodeSpec) -> bool {
    volume.affinity.as_ref().is_none_or(|terms| any(terms, node))
}

impl Naive {
    /// Why no node is looked at.
    pub(super) fn refuse(&self, pod: &PodTemplate) -> Option<String> {
        let missing = claims(pod).find(|key| !self.disks.claims.contains_key(key));
        if let Some((_, name)) = missing {
            return Some(format!("persistentvolumeclaim \"{name}\" not found"));
        }
        let all: Vec<(Key, &VolumeClaim)> = claims(pod).map(|key| (key.clone(), &self.disks.claims[&key])).collect();
        for ((_, name), claim) in &all {
            if claim.lost {
                let volume = claim.volume.clone().unwrap_or_default();
                return Some(format!(
                    "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""
                ));
            }
            if claim.terminating {
                return Some(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
        }
        let waits = |claim: &VolumeClaim| self.disks.classes.get(&claim.class).is_some_and(|one| one.wait_for_consumer);
        let settled = |claim: &VolumeClaim| if claim.volume.is_some() { claim.bind_completed } else { waits(claim) };
        if !all.iter().all(|(_, claim)| settled(claim)) {
            return Some("pod has unbound immediate PersistentVolumeClaims".into());
        }
        let lost = all.iter().filter_map(|(_, claim)| claim.volume.as_ref());
        let lost = lost.into_iter().find(|name| !self.disks.volumes.contains_key(*name));
        let lost = lost.map(|name| format!("persistentvolume \"{name}\" not found"));
        lost.or_else(|| self.refuse_devices(pod))
    }

    pub(super) fn reject_disks(&self, pod: &PodTemplate, node: &NodeSpec) -> Vec<String> {
        let disks = |pod: &PodTemplate| {
            let disk = |volume: &VolumeUse| match volume {
                VolumeUse::Disk(disk) => Some(disk.clone()),
                _ => None,
            };
            pod.volumes.iter().filter_map(disk).collect::<Vec<_>>()
        };
        let taken: Vec<_> = self.on(node).flat_map(disks).collect();
        if disks(pod).iter().any(|disk| taken.iter().any(|other| disk.conflicts(other))) {
            return vec!["node(s) had no available disk".into()];
        }
        let in_use = |key: &Key| self.pods.values().any(|held| claims(&held.template).any(|other| other == *key));
        let exclusive =
            |key: &Key| self.disks.claims[key].access_modes.contains(AccessModes::READ_WRITE_ONCE_POD) && in_use(key);
        if claims(pod).any(|key| exclusive(&key)) {
            return vec!["node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod".into()];
        }
        if self.profile(pod).filters.contains(Filter::NodeVolumeLimits) && self.too_many(pod, node) {
            return vec!["node(s) exceed max volume count".into()];
        }
        if let Err(reasons) = self.bindings(pod, node) {
            return reasons;
        }
        let constrained = ZONES.iter().any(|(key, _)| label(node, key).is_some());
        for key in claims(pod).filter(|_| constrained) {
            let Some(volume) = &self.disks.claims[&key].volume else { continue };
            for (zone, other) in ZONES {
                let wanted = self.disks.volumes[volume].labels.iter().find(|(have, _)| **have == *zone);
                let Some((_, wanted)) = wanted else { continue };
                let here = label(node, zone).or_else(|| label(node, other));
                if !here.is_some_and(|here| wanted.split("__").any(|one| *one == **here)) {
                    return vec!["node(s) had no available volume zone".into()];
                }
            }
        }
        Vec::new()
    }

    fn handle(&self, key: &Key) -> Option<Handle> {
        let claim = self.disks.claims.get(key)?;
        if let Some(volume) = claim.volume.as_ref().and_then(|name| self.disks.volumes.get(name)) {
            return volume.csi.clone();
        }
        let class = self.disks.classes.get(&claim.class)?;
        Some((class.provisioner.clone(), format!("made for {key:?}").into()))
    }

    fn too_many(&self, pod: &PodTemplate, node: &NodeSpec) -> bool {
        let handles = |pod: &PodTemplate| claims(pod).filter_map(|key| self.handle(&key)).collect::<BTreeSet<_>>();
        let used: BTreeSet<Handle> = self.on(node).flat_map(handles).collect();
        let attached = self.disks.attachments.values().filter(|one| one.node == node.name).filter_map(|one| {
            let (_, handle) = self.disks.volumes.get(&one.volume)?.csi.clone()?;
            Some((one.driver.clone(), handle))
        });
        let attached: BTreeSet<Handle> = attached.collect();
        let new: Vec<Handle> = handles(pod).difference(&used).cloned().collect();
        self.disks.limits.get(&node.name).into_iter().flatten().any(|(driver, limit)| {
            let of = |handle: &&Handle| handle.0 == *driver;
            let more = new.iter().filter(of).count();
            more > 0 && (used.union(&attached).filter(of).count() + more) as i64 > *limit
        })
    }

    fn promisees(&self) -> impl Iterator<Item = &super::Held> {
        self.pods.values().chain(self.away.values())
    }

    /// The volume that a placed pod was promised for the claim.
    fn promised_volume(&self, key: &Key) -> Option<Arc<str>> {
        let bind = |held: &super::Held| {
            let bind = held.plan.bind.iter().find(|(claim, _)| *claim == key.1)?;
            Some(bind.1.clone()).filter(|_| held.template.namespace == key.0)
        };
        self.promisees().find_map(bind)
    }

    /// The node on which a placed pod was promised a volume for the claim.
    fn promised_node(&self, key: &Key) -> Option<Arc<str>> {
        let made = |held: &&super::Held| held.template.namespace == key.0 && held.plan.provision.contains(&key.1);
        self.promisees().find(made).map(|held| held.node.clone())
    }

    /// What would be promised on a node.
    pub fn bindings(&self, pod: &PodTemplate, node: &NodeSpec) -> Result<VolumePlan, Vec<String>> {
        let mut reasons = Vec::new();
        let mut waiting: Vec<(Key, &VolumeClaim)> = Vec::new();
        for key in claims(pod) {
            let claim = &self.disks.claims[&key];
            match &claim.volume {
                Some(volume) if reasons.is_empty() && !reaches(&self.disks.volumes[volume], node) => {
                    reasons.push("node(s) didn't match PersistentVolume's node affinity".to_string());
                }
                Some(_) => {}
                None => waiting.push((key, claim)),
            }
        }
        waiting.sort_by_key(|(_, claim)| claim.size.unwrap_or(0));
        match self.find(&waiting, node) {
            Ok(plan) if reasons.is_empty() => return Ok(plan),
            Ok(_) => {}
            Err(reason) => reasons.push(reason.to_string()),
        }
        Err(reasons)
    }

    fn find(&self, waiting: &[(Key, &VolumeClaim)], node: &NodeSpec) -> Result<VolumePlan, &'static str> {
        const NONE: &str = "node(s) didn't find available persistent volumes to bind";
        let mut plan = VolumePlan::default();
        let selected =
            |(key, claim): &(Key, &VolumeClaim)| claim.selected_node.clone().or_else(|| self.promised_node(key));
        if waiting.iter().filter_map(selected).any(|name| name != node.name) {
            return Err(NONE);
        }
        let (mut make, search): (Vec<_>, Vec<_>) = waiting.iter().cloned().partition(|one| selected(one).is_some());
        for (key, claim) in search {
            if let Some(name) = self.promised_volume(&key) {
                let here = self.disks.volumes.get(&name).is_some_and(|volume| reaches(volume, node));
                if !here || plan.bind.iter().any(|(_, have)| *have == name) {
                    return Err(NONE);
                }
                plan.bind.push((key.1.clone(), name));
                continue;
            }
            match self.match_volume(&key, claim, node, &plan) {
                Some(name) => plan.bind.push((key.1.clone(), name)),
                None => make.push((key, claim)),
            }
        }
        for (key, claim) in make {
            let class = &self.disks.classes[&claim.class];
            let here = class.allowed_topologies.is_empty() || any(&class.allowed_topologies, node);
            if &*class.provisioner == "kubernetes.io/no-provisioner" || !here {
                return Err(NONE);
            }
            if !self.has_room(claim, class, node) {
                return Err("node(s) did not have enough free storage");
            }
            plan.provision.push(key.1.clone());
        }
        Ok(plan)
    }

    fn has_room(&self, claim: &VolumeClaim, class: &StorageClass, node: &NodeSpec) -> bool {
        let Some(size) = claim.size else { return true };
        !self.disks.tracked.contains(&class.provisioner)
            || self.disks.capacities.values().any(|one| {
                let here = |selector: &kelson_sched::LabelSelector| {
                    selector.requirements.iter().all(|one| holds(one, label(node, &one.key)))
                };
                one.class == claim.class
                    && one.limit.is_some_and(|limit| limit >= size)
                    && one.topology.as_ref().is_some_and(here)
            })
    }

    fn match_volume(&self, key: &Key, claim: &VolumeClaim, node: &NodeSpec, plan: &VolumePlan) -> Option<Arc<str>> {
        let mut found: Vec<(i64, &Arc<str>)> = Vec::new();
        for (name, volume) in self.disks.volumes.iter().filter(|(_, volume)| volume.class == claim.class) {
            let taken = plan.bind.iter().any(|(_, have)| have == name);
            let too_small = volume.capacity < claim.size.unwrap_or(0);
            let owners = self.promisees().find_map(|held| {
                let bind = held.plan.bind.iter().find(|(_, have)| have == name)?;
                Some((held.template.namespace.clone(), bind.0.clone()))
            });
            let mine = match (&owners, &volume.claim) {
                (Some(owner), _) => Some(owner == key),
                (None, Some(one)) => Some(
                    (&one.namespace, &one.name) == (&key.0, &key.1) && (one.uid.is_empty() || one.uid == claim.uid),
                ),
                (None, None) => None,
            };
            if too_small || volume.terminating || volume.block != claim.block || mine == Some(false) {
                continue;
            }
            if mine == Some(true) {
                // The smallest that is meant for it decides.
                let meant = (volume.capacity, name);
                let better = self.meant(key, claim).is_some_and(|best| best == meant);
                if better {
                    return Some(name.clone()).filter(|_| reaches(volume, node) && !taken);
                }
                continue;
            }
            let selected = claim.selector.as_ref().is_none_or(|one| one.matches(&volume.labels));
            if !taken
                && volume.available
                && selected
                && reaches(volume, node)
                && volume.access_modes.contains(claim.access_modes)
            {
                found.push((volume.capacity, name));
            }
        }
        if self.meant(key, claim).is_some() {
            return None;
        }
        found.sort();
        found.first().map(|(_, name)| (*name).clone())
    }

    /// The smallest volume that names the claim.
    fn meant(&self, key: &Key, claim: &VolumeClaim) -> Option<(i64, &Arc<str>)> {
        let promised = |name: &Arc<str>| {
            self.promisees().find_map(|held| {
                let bind = held.plan.bind.iter().find(|(_, have)| have == name)?;
                Some((held.template.namespace.clone(), bind.0.clone()))
            })
        };
        let means = |(name, volume): &(&Arc<str>, &Volume)| {
            let mine = match promised(name) {
                Some(owner) => owner == *key,
                None => volume.claim.as_ref().is_some_and(|one| {
                    (&one.namespace, &one.name) == (&key.0, &key.1) && (one.uid.is_empty() || one.uid == claim.uid)
                }),
            };
            mine && volume.class == claim.class
                && volume.capacity >= claim.size.unwrap_or(0)
                && volume.block == claim.block
                && !volume.terminating
        };
        self.disks.volumes.iter().filter(means).map(|(name, volume)| (volume.capacity, name)).min()
    }
}
