//! Volumes as the scheduler sees them: what pods use, what claims ask for, what there is and where it can be reached
//! ("Persistent Volumes", "Storage Classes" and "Storage Capacity" of the Kubernetes documentation).

use std::sync::Arc;

use crate::constraint::{LabelSelector, Pairs};
use crate::selector::NodeSelectorTerm;

/// A volume of a pod that matters for where it may run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum VolumeUse {
    /// A PersistentVolumeClaim of the pod's namespace, by name.
    Claim(Arc<str>),
    /// A generic ephemeral volume: the name of the claim that is made for it, `<pod>-<volume>`. The claim has to be the
    /// pod's own ([`crate::PodTemplate::uid`]).
    Ephemeral(Arc<str>),
    /// A disk named in the pod itself.
    Disk(Disk),
}

/// A disk that one node, or one pod, may have to itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Disk {
    /// `gcePersistentDisk`.
    Gce { name: Arc<str>, read_only: bool },
    /// `awsElasticBlockStore`.
    Ebs { id: Arc<str> },
    /// `iscsi`.
    Iscsi { iqn: Arc<str>, read_only: bool },
    /// `rbd`.
    Rbd { monitors: Vec<Arc<str>>, pool: Arc<str>, image: Arc<str>, read_only: bool },
}

impl Disk {
    /// Whether two pods on one node cannot both use these.
    pub fn conflicts(&self, other: &Disk) -> bool {
        match (self, other) {
            (Disk::Gce { name, read_only }, Disk::Gce { name: other, read_only: also }) => {
                name == other && !(*read_only && *also)
            }
            (Disk::Ebs { id }, Disk::Ebs { id: other }) => id == other,
            (Disk::Iscsi { iqn, read_only }, Disk::Iscsi { iqn: other, read_only: also }) => {
                iqn == other && !(*read_only && *also)
            }
            (
                Disk::Rbd { monitors, pool, image, read_only },
                Disk::Rbd { monitors: others, pool: other_pool, image: other_image, read_only: also },
            ) => {
                pool == other_pool
                    && image == other_image
                    && monitors.iter().any(|monitor| others.contains(monitor))
                    && !(*read_only && *also)
            }
            _ => false,
        }
    }
}

/// Ways to use a volume, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AccessModes(u8);

impl AccessModes {
    pub const READ_WRITE_ONCE: AccessModes = AccessModes(1);
    pub const READ_ONLY_MANY: AccessModes = AccessModes(2);
    pub const READ_WRITE_MANY: AccessModes = AccessModes(4);
    pub const READ_WRITE_ONCE_POD: AccessModes = AccessModes(8);

    /// The union.
    pub fn and(self, other: AccessModes) -> AccessModes {
        AccessModes(self.0 | other.0)
    }

    /// Whether every mode of `other` is among these.
    pub fn contains(self, other: AccessModes) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeClaim {
    pub uid: Arc<str>,
    /// Its StorageClass, by the annotation or the field; empty for none.
    pub class: Arc<str>,
    /// `spec.volumeName`.
    pub volume: Option<Arc<str>>,
    /// Carries `pv.kubernetes.io/bind-completed`: together with `volume` it is bound.
    pub bind_completed: bool,
    /// Phase `Lost`.
    pub lost: bool,
    /// It is being deleted.
    pub terminating: bool,
    pub access_modes: AccessModes,
    /// Bytes asked for.
    pub size: Option<i64>,
    /// `volumeMode: Block`.
    pub block: bool,
    pub selector: Option<LabelSelector>,
    /// VolumeAttributesClass; empty for none.
    pub attributes_class: Arc<str>,
    /// `volume.kubernetes.io/selected-node`: a volume is being provisioned for it there.
    pub selected_node: Option<Arc<str>>,
    /// The uid of the pod that controls it, if one does.
    pub owner: Option<Arc<str>>,
}

/// A PersistentVolume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Bytes.
    pub capacity: i64,
    /// Its StorageClass; empty for none.
    pub class: Arc<str>,
    pub access_modes: AccessModes,
    /// `volumeMode: Block`.
    pub block: bool,
    /// VolumeAttributesClass; empty for none.
    pub attributes_class: Arc<str>,
    /// Sorted by key. Zones and regions among them bind it to nodes that carry the same.
    pub labels: Pairs,
    /// `spec.nodeAffinity.required`: one of the terms holds.
    pub affinity: Option<Vec<NodeSelectorTerm>>,
    /// The claim that it is, or is to be, bound to.
    pub claim: Option<ClaimReference>,
    /// Phase `Available`.
    pub available: bool,
    /// It is being deleted.
    pub terminating: bool,
    /// Driver and handle, where it is a CSI volume.
    pub csi: Option<(Arc<str>, Arc<str>)>,
}

/// `spec.claimRef` of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimReference {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// Empty where the user wrote the reference.
    pub uid: Arc<str>,
}

/// A StorageClass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StorageClass {
    /// Empty or `kubernetes.io/no-provisioner`: volumes are not made on demand.
    pub provisioner: Arc<str>,
    /// `volumeBindingMode: WaitForFirstConsumer`: the scheduler chooses the volume, or the node where it is made.
    pub wait_for_consumer: bool,
    /// `allowedTopologies`, each term's expressions as requirements with `In`. Empty: everywhere.
    pub allowed_topologies: Vec<NodeSelectorTerm>,
}

/// What of a CSIStorageCapacity counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageCapacity {
    pub class: Arc<str>,
    /// `nodeTopology`, on node labels. `None`: reachable from nowhere.
    pub topology: Option<LabelSelector>,
    /// `maximumVolumeSize`, or else `capacity`, in bytes; `None` where neither is told: nothing fits.
    pub limit: Option<i64>,
}

/// A VolumeAttachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub node: Arc<str>,
    /// `spec.attacher`: the CSI driver.
    pub driver: Arc<str>,
    /// The PersistentVolume's name.
    pub volume: Arc<str>,
}

/// What has to be written about a pod's claims before the pod is bound to the node that was chosen for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumePlan {
    /// Claims of the pod's namespace, each with the volume that is to be bound to it.
    pub bind: Vec<(Arc<str>, Arc<str>)>,
    /// Claims for which a volume is to be made on the chosen node.
    pub provision: Vec<Arc<str>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_conflict_unless_all_read() {
        let gce = |name: &str, read_only| Disk::Gce { name: name.into(), read_only };
        let iscsi = |iqn: &str, read_only| Disk::Iscsi { iqn: iqn.into(), read_only };
        let ebs = |id: &str| Disk::Ebs { id: id.into() };
        let rbd = |monitor: &str, image: &str, read_only| Disk::Rbd {
            monitors: vec!["m0".into(), monitor.into()][usize::from(monitor != "m0")..].to_vec(),
            pool: "p".into(),
            image: image.into(),
            read_only,
        };
        for (one, other, conflict) in [
            (gce("a", false), gce("a", true), true),
            (gce("a", true), gce("a", true), false),
            (gce("a", false), gce("b", false), false),
            (ebs("a"), ebs("a"), true),
            (ebs("a"), gce("a", false), false),
            (iscsi("a", true), iscsi("a", true), false),
            (iscsi("a", true), iscsi("a", false), true),
            (rbd("m1", "i", false), rbd("m1", "i", true), true),
            (rbd("m1", "i", false), rbd("m2", "i", false), false),
            (rbd("m1", "i", true), rbd("m1", "i", true), false),
            (rbd("m1", "i", false), rbd("m1", "j", false), false),
        ] {
            assert_eq!(one.conflicts(&other), conflict, "{one:?} {other:?}");
            assert_eq!(other.conflicts(&one), conflict, "{other:?} {one:?}");
        }
    }
}
