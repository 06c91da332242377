//! Random claims, volumes and what else there is to storage.

use std::collections::BTreeMap;
use std::sync::Arc;

use kelson_sched::{
    AccessModes, Attachment, ClaimReference, Cluster, Disk, LabelSelector, NodeSelectorTerm, Operator, Requirement,
    StorageCapacity, StorageClass, Volume, VolumeClaim, VolumeUse,
};
use rand::Rng;
use rand::rngs::StdRng;

use super::pick;

pub type Key = (Arc<str>, Arc<str>);
pub const ZONE: &str = "topology.kubernetes.io/zone";
const NAMESPACES: [&str; 3] = ["shop", "bank", "farm"];
const GIB: i64 = 1 << 30;

/// All that is known of storage.
#[derive(Clone, Debug, Default)]
pub struct Disks {
    pub claims: BTreeMap<Key, VolumeClaim>,
    pub volumes: BTreeMap<Arc<str>, Volume>,
    pub classes: BTreeMap<Arc<str>, StorageClass>,
    pub limits: BTreeMap<Arc<str>, Vec<(Arc<str>, i64)>>,
    pub tracked: Vec<Arc<str>>,
    pub capacities: BTreeMap<Key, StorageCapacity>,
    pub attachments: BTreeMap<Arc<str>, Attachment>,
}

fn zones(rng: &mut StdRng, key: &str) -> NodeSelectorTerm {
    let mut values: Vec<Arc<str>> = ["a", "b", "c"].map(Arc::from).into();
    values.remove(rng.random_range(0..3));
    values.truncate(rng.random_range(1..3));
    let expressions = vec![Requirement { key: key.into(), operator: Operator::In, values }];
    NodeSelectorTerm { expressions, fields: Vec::new() }
}

fn modes(rng: &mut StdRng) -> AccessModes {
    let some = [AccessModes::READ_WRITE_ONCE, AccessModes::READ_ONLY_MANY, AccessModes::READ_WRITE_ONCE_POD];
    pick(rng, &some)
}

pub fn volume(rng: &mut StdRng, at: usize) -> Volume {
    let mut volume = Volume {
        capacity: pick(rng, &[1, 2, 4]) * GIB,
        class: pick(rng, &["local", "local", "local", "net", "slow"]).into(),
        access_modes: modes(rng).and(AccessModes::READ_WRITE_ONCE),
        block: rng.random_bool(0.1),
        available: rng.random_bool(0.8),
        terminating: rng.random_bool(0.05),
        csi: rng.random_bool(0.7).then(|| ("csi.net".into(), format!("handle-{}", at / 2).into())),
        ..Volume::default()
    };
    if rng.random_bool(0.5) {
        let key = pick(rng, &["zone", ZONE]);
        volume.affinity = Some(vec![zones(rng, key)]);
    }
    if rng.random_bool(0.3) {
        let zone = pick(rng, &["a", "b", "a__c"]);
        volume.labels.push((pick(rng, &[ZONE, "failure-domain.beta.kubernetes.io/zone"]).into(), zone.into()));
    }
    if rng.random_bool(0.2) {
        let name = format!("claim-{}", rng.random_range(0..6)).into();
        let uid = if rng.random_bool(0.5) { "".into() } else { format!("uid-{name}").into() };
        volume.claim = Some(ClaimReference { namespace: pick(rng, &NAMESPACES).into(), name, uid });
    }
    volume
}

pub fn claim(rng: &mut StdRng, name: &str) -> VolumeClaim {
    let bound = rng.random_bool(0.4);
    VolumeClaim {
        uid: format!("uid-{name}").into(),
        class: pick(rng, &["local", "local", "net", "net", "net", "slow", "", "none"]).into(),
        volume: bound.then(|| format!("vol-{}", rng.random_range(0..9)).into()),
        bind_completed: bound && rng.random_bool(0.95),
        lost: rng.random_bool(0.03),
        terminating: rng.random_bool(0.03),
        access_modes: modes(rng),
        size: rng.random_bool(0.95).then(|| pick(rng, &[1, 2, 3]) * GIB),
        block: rng.random_bool(0.1),
        selector: rng.random_bool(0.1).then(|| LabelSelector::of_pairs([(ZONE, "a")])),
        selected_node: (!bound && rng.random_bool(0.1)).then(|| format!("node-{}", rng.random_range(0..8)).into()),
        owner: rng.random_bool(0.8).then(|| "pod-uid".into()),
        ..VolumeClaim::default()
    }
}

impl Disks {
    pub fn random(rng: &mut StdRng) -> Disks {
        let mut disks = Disks::default();
        let wait = |provisioner: &str, wait_for_consumer| StorageClass {
            provisioner: provisioner.into(),
            wait_for_consumer,
            allowed_topologies: Vec::new(),
        };
        disks.classes.insert("local".into(), wait("kubernetes.io/no-provisioner", true));
        disks.classes.insert("slow".into(), wait("csi.net", false));
        let mut net = wait("csi.net", true);
        if rng.random_bool(0.5) {
            net.allowed_topologies.push(zones(rng, "zone"));
        }
        disks.classes.insert("net".into(), net);
        for at in 0..9 {
            if rng.random_bool(0.9) {
                disks.volumes.insert(format!("vol-{at}").into(), volume(rng, at));
            }
        }
        for namespace in NAMESPACES {
            for at in 0..6 {
                let name: Arc<str> = format!("claim-{at}").into();
                if rng.random_bool(0.95) {
                    disks.claims.insert((namespace.into(), name.clone()), claim(rng, &name));
                }
            }
        }
        if rng.random_bool(0.5) {
            disks.tracked.push("csi.net".into());
        }
        for at in 0..3 {
            let capacity = StorageCapacity {
                class: pick(rng, &["net", "net", "local"]).into(),
                topology: rng.random_bool(0.9).then(|| match rng.random_bool(0.3) {
                    true => LabelSelector::default(),
                    false => LabelSelector::of_pairs([("zone", pick(rng, &["a", "b"]))]),
                }),
                limit: rng.random_bool(0.9).then(|| pick(rng, &[1, 2, 9]) * GIB),
            };
            disks.capacities.insert(("kube-system".into(), format!("capacity-{at}").into()), capacity);
        }
        for at in 0..8 {
            let node: Arc<str> = format!("node-{at}").into();
            if rng.random_bool(0.5) {
                disks.limits.insert(node.clone(), vec![("csi.net".into(), rng.random_range(0..4))]);
            }
            if rng.random_bool(0.3) {
                let volume = format!("vol-{}", rng.random_range(0..9)).into();
                let attachment = Attachment { node, driver: "csi.net".into(), volume };
                disks.attachments.insert(format!("attachment-{at}").into(), attachment);
            }
        }
        disks
    }

    /// Tells a cluster of everything.
    pub fn tell(&self, cluster: &mut Cluster) {
        self.claims.iter().for_each(|((namespace, name), one)| {
            cluster.set_volume_claim(namespace, name, Some(one.clone()));
        });
        self.volumes.iter().for_each(|(name, one)| {
            cluster.set_volume(name, Some(one.clone()));
        });
        self.classes.iter().for_each(|(name, one)| {
            cluster.set_storage_class(name, Some(one.clone()));
        });
        self.limits.iter().for_each(|(node, one)| {
            cluster.set_volume_limits(node, Some(one.clone()));
        });
        self.tracked.iter().for_each(|name| {
            cluster.set_csi_driver(name, true);
        });
        self.capacities.iter().for_each(|((namespace, name), one)| {
            cluster.set_storage_capacity(namespace, name, Some(one.clone()));
        });
        self.attachments.iter().for_each(|(name, one)| {
            cluster.set_attachment(name, Some(one.clone()));
        });
    }
}

/// What a pod uses.
pub fn uses(rng: &mut StdRng) -> Vec<VolumeUse> {
    if rng.random_bool(0.7) {
        return Vec::new();
    }
    let one = |rng: &mut StdRng| match rng.random_range(0..8) {
        0 => VolumeUse::Disk(Disk::Gce { name: pick(rng, &["d1", "d2"]).into(), read_only: rng.random_bool(0.5) }),
        1 => VolumeUse::Disk(Disk::Ebs { id: pick(rng, &["e1", "e2"]).into() }),
        2 => VolumeUse::Disk(Disk::Iscsi { iqn: "iqn.1".into(), read_only: rng.random_bool(0.5) }),
        3 => VolumeUse::Disk(Disk::Rbd {
            monitors: vec![pick(rng, &["m1", "m2"]).into(), "m3".into()],
            pool: "p".into(),
            image: pick(rng, &["i1", "i2"]).into(),
            read_only: rng.random_bool(0.5),
        }),
        _ => VolumeUse::Claim(format!("claim-{}", rng.random_range(0..6)).into()),
    };
    (0..rng.random_range(1..3)).map(|_| one(rng)).collect()
}
