//! One class looking at volumes: `VolumeRestrictions`, `NodeVolumeLimits`, `VolumeBinding` and `VolumeZone`, with all that
//! does not depend on the node worked out once.

use std::sync::Arc;

use crate::constraint::LabelSelector;
use crate::intern::{Interner, Symbol};
use crate::ledger::NodeId;
use crate::pod::Class;
use crate::reason::{Filter, Reason};
use crate::selector::{NodeSelectorTerm, Term};
use crate::state::{Node, State};
use crate::storage::{Handle, Key, Promise, Storage};
use crate::volume::{Disk, StorageClass, Volume, VolumeClaim, VolumePlan, VolumeUse};

/// Provisioner of classes whose volumes are made by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// Labels of volumes that nodes have to carry too, with the name that a node may carry instead.
const ZONES: [(&str, &str); 4] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
];
/// Between the zones of a volume that spans several.
const ZONE_SEPARATOR: &str = "__";

/// Nodes by their labels: one of the terms holds, or there is nothing to hold.
#[derive(Debug)]
struct Labelled(Option<Vec<Term>>);

impl Labelled {
    fn new(terms: Option<&[NodeSelectorTerm]>, labels: &Interner) -> Labelled {
        Labelled(terms.map(|terms| terms.iter().map(|term| Term::compile(term, labels)).collect()))
    }

    /// By a label selector, which selects everything if it is empty.
    fn selected(selector: &LabelSelector, labels: &Interner) -> Labelled {
        if selector.requirements.is_empty() {
            return Labelled(None);
        }
        let term = NodeSelectorTerm { expressions: selector.requirements.clone(), fields: Vec::new() };
        Labelled(Some(vec![Term::compile(&term, labels)]))
    }

    fn holds(&self, state: &State, node: &Node) -> bool {
        // Volumes know nodes by labels only: a name would be compared with nothing.
        self.0.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches("", &node.labels, &state.labels)))
    }
}

#[derive(Debug)]
struct Candidate {
    volume: Arc<str>,
    nodes: Labelled,
}

/// How a volume may be made for a claim.
#[derive(Debug)]
struct Provision {
    nodes: Labelled,
    /// Where there is room, if the driver tells.
    room: Option<Vec<Labelled>>,
}

/// A claim without a volume that waits for its first pod.
#[derive(Debug)]
struct Wanted {
    claim: Arc<str>,
    size: i64,
    /// The only node on which it may be, by name: a volume is being made there.
    selected: Option<Arc<str>>,
    /// A volume that names this claim: it is this or none.
    meant: Option<Candidate>,
    /// The smallest first.
    candidates: Vec<Candidate>,
    provision: Option<Provision>,
}

/// Labels of a volume: a node has one of the keys with one of the values.
#[derive(Debug)]
struct Zone {
    keys: [Option<Symbol>; 2],
    values: Vec<Symbol>,
}

/// Valid until anything about volumes or node labels changes.
#[derive(Debug, Default)]
pub(crate) struct Binding {
    refusal: Option<Reason>,
    disks: Vec<Disk>,
    exclusive: Vec<Key>,
    handles: Vec<Handle>,
    /// The nodes of each claim's volume; `None` where that does not exist.
    bound: Vec<Option<Labelled>>,
    wanted: Vec<Wanted>,
    zones: Vec<Zone>,
    zone_keys: Vec<Symbol>,
}

impl Binding {
    /// `None` for a class without volumes.
    pub fn new(state: &State, class: &Class) -> Option<Binding> {
        if class.template.volumes.is_empty() {
            return None;
        }
        let mut binding = Binding::default();
        let on = |filter| class.profile.filters.contains(filter);
        let result = binding
            .restrict(state, class, on(Filter::VolumeRestrictions))
            .and_then(|()| if on(Filter::VolumeBinding) { binding.bind(state, class) } else { Ok(()) })
            .and_then(|()| if on(Filter::VolumeZone) { binding.zone(state, class) } else { Ok(()) });
        binding.refusal = result.err();
        Some(binding)
    }

    /// Why no node has to be asked.
    pub fn refusal(&self) -> Option<&Reason> {
        self.refusal.as_ref()
    }

    fn restrict(&mut self, state: &State, class: &Class, on: bool) -> Result<(), Reason> {
        let storage = &state.storage;
        for volume in &class.template.volumes {
            match volume {
                VolumeUse::Disk(disk) if on => self.disks.push(disk.clone()),
                VolumeUse::Claim(name) => {
                    let key = (class.template.namespace.clone(), name.clone());
                    if on && storage.claim(&key).is_none() {
                        return Err(absent(Filter::VolumeRestrictions, name));
                    }
                    if on && storage.is_exclusive(&key) {
                        self.exclusive.push(key.clone());
                    }
                    self.handles.extend(storage.handle(&key));
                }
                VolumeUse::Ephemeral(name) => {
                    self.handles.extend(storage.handle(&(class.template.namespace.clone(), name.clone())));
                }
                VolumeUse::Disk(_) => {}
            }
        }
        if !class.profile.filters.contains(Filter::NodeVolumeLimits) {
            self.handles.clear();
        }
        Ok(())
    }

    fn bind(&mut self, state: &State, class: &Class) -> Result<(), Reason> {
        let storage = &state.storage;
        let namespace = &class.template.namespace;
        let refused = |text: String| Err(Reason::Refused(Filter::VolumeBinding, text.into()));
        let mut claims: Vec<(Key, &VolumeClaim)> = Vec::new();
        for volume in &class.template.volumes {
            let (name, ephemeral) = match volume {
                VolumeUse::Claim(name) => (name, false),
                VolumeUse::Ephemeral(name) => (name, true),
                VolumeUse::Disk(_) => continue,
            };
            let key = (namespace.clone(), name.clone());
            let Some(claim) = storage.claim(&key) else {
                if ephemeral {
                    return refused(format!(
                        "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
                    ));
                }
                return Err(absent(Filter::VolumeBinding, name));
            };
            if claim.lost {
                let volume = claim.volume.as_deref().unwrap_or("");
                return refused(format!(
                    "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
                ));
            }
            if claim.terminating {
                return refused(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            if ephemeral && (claim.owner.is_none() || claim.owner != class.template.uid) {
                return refused(format!("PVC {namespace}/{name} was not created for the pod (pod is not owner)"));
            }
            // A claim that is named twice is bound once.
            if claims.iter().all(|(have, _)| *have != key) {
                claims.push((key, claim));
            }
        }
        let mut immediate = false;
        for (key, claim) in claims {
            let class_of = storage.class(&claim.class).filter(|class| class.wait_for_consumer);
            match (&claim.volume, claim.bind_completed, class_of) {
                (Some(volume), true, _) => {
                    let volume = storage.volume(volume);
                    let nodes = |volume: &Volume| Labelled::new(volume.affinity.as_deref(), &state.labels);
                    self.bound.push(volume.map(nodes));
                }
                (None, _, Some(class)) => self.wanted.push(wanted(state, &key, claim, class)),
                _ => immediate = true,
            }
        }
        if immediate {
            return refused("pod has unbound immediate PersistentVolumeClaims".to_string());
        }
        self.wanted.sort_by_key(|wanted| wanted.size);
        Ok(())
    }

    fn zone(&mut self, state: &State, class: &Class) -> Result<(), Reason> {
        let storage = &state.storage;
        let refused = |text: &str| Err(Reason::Refused(Filter::VolumeZone, text.into()));
        let symbols = ZONES.iter().filter_map(|(key, _)| state.labels.find(key));
        self.zone_keys = symbols.collect();
        for volume in &class.template.volumes {
            let VolumeUse::Claim(name) = volume else { continue };
            let key = (class.template.namespace.clone(), name.clone());
            let Some(claim) = storage.claim(&key) else { return Err(absent(Filter::VolumeZone, name)) };
            let Some(volume) = &claim.volume else {
                if claim.class.is_empty() {
                    return refused("PersistentVolumeClaim had no pv name and storageClass name");
                }
                match storage.class(&claim.class) {
                    Some(class) if class.wait_for_consumer => continue,
                    Some(_) => return refused("PersistentVolume had no name"),
                    None => {
                        let text = format!("storageclass.storage.k8s.io {:?} not found", claim.class);
                        return refused(&text);
                    }
                }
            };
            let Some(labels) = storage.volume(volume).map(|volume| &volume.labels) else {
                return refused(&format!("persistentvolume {volume:?} not found"));
            };
            for (key, other) in ZONES {
                let Ok(at) = labels.binary_search_by(|(have, _)| (**have).cmp(key)) else { continue };
                let values: Vec<&str> = labels[at].1.split(ZONE_SEPARATOR).map(str::trim).collect();
                // A value that cannot be read as zones binds nothing.
                if values.iter().all(|value| !value.is_empty()) {
                    let values = values.iter().filter_map(|value| state.labels.find(value)).collect();
                    self.zones.push(Zone { keys: [state.labels.find(key), state.labels.find(other)], values });
                }
            }
        }
        Ok(())
    }

    /// Runs the four filters on one node, and says what would have to be written.
    pub fn judge(&self, state: &State, id: NodeId) -> Result<VolumePlan, Vec<Reason>> {
        self.restrictions(state, id).map_err(|reason| vec![reason])?;
        if self.beyond_limit(state, id) {
            return Err(vec![Reason::TooManyVolumes]);
        }
        let plan = self.plan(state, id)?;
        if self.elsewhere(state, id) {
            return Err(vec![Reason::VolumeZone]);
        }
        Ok(plan)
    }

    /// `VolumeRestrictions`.
    pub fn restrictions(&self, state: &State, id: NodeId) -> Result<(), Reason> {
        if self.disks.iter().any(|disk| state.storage.disks(id).any(|other| disk.conflicts(other))) {
            return Err(Reason::DiskConflict);
        }
        if self.exclusive.iter().any(|key| state.storage.is_used(key)) {
            return Err(Reason::ClaimInUse);
        }
        Ok(())
    }

    /// `NodeVolumeLimits`.
    pub fn beyond_limit(&self, state: &State, id: NodeId) -> bool {
        state.storage.exceeds(id, &state.node(id).name, &self.handles)
    }

    /// `VolumeZone`.
    pub fn elsewhere(&self, state: &State, id: NodeId) -> bool {
        // A node without any such label is in a cluster without zones.
        if self.zones.is_empty() || !self.zone_keys.iter().any(|key| state.label(id, *key).is_some()) {
            return false;
        }
        let meets = |zone: &Zone| {
            let value = zone.keys.iter().flatten().find_map(|key| state.label(id, *key));
            value.is_some_and(|value| zone.values.contains(&value))
        };
        !self.zones.iter().all(meets)
    }

    /// `VolumeBinding`.
    pub fn plan(&self, state: &State, id: NodeId) -> Result<VolumePlan, Vec<Reason>> {
        let node = state.node(id);
        let mut reasons = Vec::new();
        let mut missing = false;
        for nodes in &self.bound {
            match nodes {
                None => missing = true,
                Some(nodes) if !nodes.holds(state, node) => reasons.push(Reason::VolumeAffinity),
                Some(_) => continue,
            }
            break;
        }
        let plan = match self.find(state, node) {
            Ok(plan) => plan,
            Err(reason) => {
                reasons.push(reason);
                VolumePlan::default()
            }
        };
        if missing {
            reasons.push(Reason::NoVolume);
        }
        if reasons.is_empty() { Ok(plan) } else { Err(reasons) }
    }

    /// A volume for each claim without one, or room to make it.
    fn find(&self, state: &State, node: &Node) -> Result<VolumePlan, Reason> {
        let elsewhere = |wanted: &Wanted| wanted.selected.as_ref().is_some_and(|name| *name != node.name);
        if self.wanted.iter().any(elsewhere) {
            return Err(Reason::NoVolumeToBind);
        }
        let mut plan = VolumePlan::default();
        let mut to_make: Vec<&Wanted> = self.wanted.iter().filter(|wanted| wanted.selected.is_some()).collect();
        for wanted in self.wanted.iter().filter(|wanted| wanted.selected.is_none()) {
            let taken = |volume: &Arc<str>| plan.bind.iter().any(|(_, have)| have == volume);
            let usable = |one: &&Candidate| !taken(&one.volume) && one.nodes.holds(state, node);
            let found = match &wanted.meant {
                Some(meant) => Some(meant).filter(usable),
                None => wanted.candidates.iter().find(usable),
            };
            match found {
                Some(found) => plan.bind.push((wanted.claim.clone(), found.volume.clone())),
                None => to_make.push(wanted),
            }
        }
        for wanted in to_make {
            let Some(provision) = &wanted.provision else { return Err(Reason::NoVolumeToBind) };
            if !provision.nodes.holds(state, node) {
                return Err(Reason::NoVolumeToBind);
            }
            if provision.room.as_ref().is_some_and(|room| !room.iter().any(|nodes| nodes.holds(state, node))) {
                return Err(Reason::NotEnoughStorage);
            }
            plan.provision.push(wanted.claim.clone());
        }
        Ok(plan)
    }
}

/// Whether a volume's affinity lets it be used on a node.
pub(crate) fn reaches(state: &State, volume: &Volume, id: NodeId) -> bool {
    Labelled::new(volume.affinity.as_deref(), &state.labels).holds(state, state.node(id))
}

fn absent(filter: Filter, name: &str) -> Reason {
    Reason::Refused(filter, format!("persistentvolumeclaim {name:?} not found").into())
}

/// Whether a volume names this claim, or is promised to it; `None` if it names none.
fn names(storage: &Storage, name: &str, volume: &Volume, key: &Key, claim: &VolumeClaim) -> Option<bool> {
    if let Some(promised) = storage.promised(name) {
        return Some(promised == key);
    }
    let reference = volume.claim.as_ref()?;
    let same = reference.namespace == key.0 && reference.name == key.1;
    Some(same && (reference.uid.is_empty() || reference.uid == claim.uid))
}

fn wanted(state: &State, key: &Key, claim: &VolumeClaim, class: &StorageClass) -> Wanted {
    let storage = &state.storage;
    let promise = storage.promise(key);
    let selected = claim.selected_node.clone().or_else(|| match promise {
        Some(Promise::Node(node)) => Some(node.clone()),
        _ => None,
    });
    let mut wanted = Wanted {
        claim: key.1.clone(),
        size: claim.size.unwrap_or(0),
        selected,
        meant: None,
        candidates: Vec::new(),
        provision: None,
    };
    if let Some(Promise::Volume(name)) = promise {
        // It is this volume or none, wherever the pod goes that it was promised to first.
        let nodes = |volume: &Volume| Labelled::new(volume.affinity.as_deref(), &state.labels);
        wanted.meant = storage.volume(name).map(|volume| Candidate { volume: name.clone(), nodes: nodes(volume) });
        return wanted;
    }
    for (name, volume) in storage.of_class(&claim.class) {
        let named = names(storage, name, volume, key, claim);
        let fits = volume.capacity >= wanted.size
            && volume.block == claim.block
            && volume.attributes_class == claim.attributes_class
            && !volume.terminating;
        if named == Some(false) || !fits {
            continue;
        }
        let nodes = || Labelled::new(volume.affinity.as_deref(), &state.labels);
        if named == Some(true) {
            wanted.meant.get_or_insert_with(|| Candidate { volume: name.clone(), nodes: nodes() });
            continue;
        }
        let selected = claim.selector.as_ref().is_none_or(|selector| selector.matches(&volume.labels));
        if volume.available && selected && volume.access_modes.contains(claim.access_modes) {
            wanted.candidates.push(Candidate { volume: name.clone(), nodes: nodes() });
        }
    }
    if !class.provisioner.is_empty() && &*class.provisioner != NO_PROVISIONER {
        let topologies = Some(class.allowed_topologies.as_slice()).filter(|terms| !terms.is_empty());
        let capacities = claim.size.and_then(|size| {
            let capacities = storage.capacities(&claim.class, &class.provisioner)?;
            let enough = capacities.into_iter().filter(move |one| one.limit.is_some_and(|limit| limit >= size));
            Some(enough.filter_map(|one| Some(Labelled::selected(one.topology.as_ref()?, &state.labels))).collect())
        });
        wanted.provision = Some(Provision { nodes: Labelled::new(topologies, &state.labels), room: capacities });
    }
    wanted
}
