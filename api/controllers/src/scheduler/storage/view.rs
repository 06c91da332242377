//! Claims, volumes and what else decides where a volume can be reached, as the scheduler reads them.

use std::sync::Arc;

use kelson_sched::{
    AccessModes, Attachment, ClaimReference, Disk, NodeSelectorTerm, Operator, PodTemplate, Requirement,
    StorageCapacity, StorageClass, Volume, VolumeClaim, VolumeUse,
};
use kelson_wire::kube::{Keyed, ObjectMeta, quantity};
use serde::{Deserialize, Deserializer};

use super::raw;
use crate::scheduler::raw::{Meta, Pairs, PodSpec, Text, shared};
use crate::scheduler::{others, view};

/// On claims and volumes, goes before `spec.storageClassName`.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
/// On a claim: the volume controller has bound it.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a claim: the node on which a volume is to be made for it.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a volume: its claim was chosen for it, not named by a user.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

macro_rules! views {
    ($($(#[$about:meta])* $name:ident($($field:ident: $type:ty),*) from $raw:ident;)*) => {
        $(
            $(#[$about])*
            #[derive(Debug)]
            pub struct $name {
                meta: ObjectMeta,
                $(pub $field: $type,)*
            }

            impl Keyed for $name {
                fn meta(&self) -> &ObjectMeta {
                    &self.meta
                }
            }

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                    Ok(raw::$raw::deserialize(deserializer)?.into())
                }
            }
        )*
    };
}

views! {
    /// A PersistentVolumeClaim.
    ClaimView(claim: VolumeClaim) from Claim;
    /// A PersistentVolume.
    VolumeView(volume: Volume, by_controller: bool) from Volume;
    /// A StorageClass.
    ClassView(class: StorageClass) from Class;
    /// A CSIDriver: whether it tells of its capacity.
    DriverView(tracks_capacity: bool) from Driver;
    /// A CSINode: how many volumes of a driver fit on it, where that is limited.
    LimitsView(limits: Vec<(Arc<str>, i64)>) from CsiNode;
    /// A CSIStorageCapacity.
    CapacityView(capacity: StorageCapacity) from Capacity;
    /// A VolumeAttachment; `None` where it is not of a PersistentVolume.
    AttachmentView(attachment: Option<Attachment>) from Attachment;
}

/// What is kept of metadata.
fn slim(meta: ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        resource_version: meta.resource_version,
        deletion_timestamp: meta.deletion_timestamp,
        ..ObjectMeta::default()
    }
}

fn some(text: &Text<'_>) -> Option<Arc<str>> {
    (!text.is_empty()).then(|| shared(text))
}

fn class(meta: &ObjectMeta, field: &Text<'_>) -> Arc<str> {
    meta.annotations.get(CLASS_ANNOTATION).map_or_else(|| shared(field), |class| class.as_str().into())
}

fn modes(modes: &[Text<'_>]) -> AccessModes {
    modes.iter().fold(AccessModes::default(), |all, mode| {
        all.and(match mode.as_str() {
            "ReadWriteOnce" => AccessModes::READ_WRITE_ONCE,
            "ReadOnlyMany" => AccessModes::READ_ONLY_MANY,
            "ReadWriteMany" => AccessModes::READ_WRITE_MANY,
            "ReadWriteOncePod" => AccessModes::READ_WRITE_ONCE_POD,
            _ => AccessModes::default(),
        })
    })
}

fn bytes(list: &Pairs<'_>) -> Option<i64> {
    let amount = list.0.iter().find(|(name, _)| *name == "storage").map(|(_, amount)| amount)?;
    quantity::units(amount)
}

impl From<raw::Claim<'_>> for ClaimView {
    fn from(raw: raw::Claim<'_>) -> ClaimView {
        let meta = raw.metadata;
        let annotation = |name: &str| meta.annotations.get(name);
        let claim = VolumeClaim {
            uid: meta.uid.clone(),
            class: class(&meta, &raw.spec.storage_class_name),
            volume: some(&raw.spec.volume_name),
            bind_completed: annotation(BIND_COMPLETED).is_some(),
            lost: raw.status.phase == "Lost",
            terminating: meta.is_terminating(),
            access_modes: modes(&raw.spec.access_modes),
            size: bytes(&raw.spec.resources.requests),
            block: raw.spec.volume_mode == "Block",
            selector: raw.spec.selector.as_ref().map(others::selector),
            attributes_class: shared(&raw.spec.volume_attributes_class_name),
            selected_node: annotation(SELECTED_NODE).map(|node| node.as_str().into()),
            owner: meta.controller().map(|owner| owner.uid.as_str().into()),
        };
        ClaimView { claim, meta: slim(meta) }
    }
}

impl From<raw::Volume<'_>> for VolumeView {
    fn from(raw: raw::Volume<'_>) -> VolumeView {
        let (meta, spec) = (raw.metadata, raw.spec);
        let affinity = spec.node_affinity.and_then(|affinity| affinity.required);
        let volume = Volume {
            capacity: bytes(&spec.capacity).unwrap_or(0),
            class: class(&meta, &spec.storage_class_name),
            access_modes: modes(&spec.access_modes),
            block: spec.volume_mode == "Block",
            attributes_class: shared(&spec.volume_attributes_class_name),
            labels: meta.labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect(),
            affinity: affinity.map(|required| required.node_selector_terms.iter().map(view::term).collect()),
            claim: spec.claim_ref.map(|claim| ClaimReference {
                namespace: shared(&claim.namespace),
                name: shared(&claim.name),
                uid: shared(&claim.uid),
            }),
            available: raw.status.phase == "Available",
            terminating: meta.is_terminating(),
            csi: spec.csi.map(|csi| (shared(&csi.driver), shared(&csi.volume_handle))),
        };
        let by_controller = meta.annotations.contains_key(BOUND_BY_CONTROLLER);
        VolumeView { volume, by_controller, meta: slim(meta) }
    }
}

impl From<raw::Class<'_>> for ClassView {
    fn from(raw: raw::Class<'_>) -> ClassView {
        let expression = |one: &raw::TopologyExpression<'_>| Requirement {
            key: shared(&one.key),
            operator: Operator::In,
            values: one.values.iter().map(shared).collect(),
        };
        let term = |term: &raw::TopologyTerm<'_>| NodeSelectorTerm {
            expressions: term.match_label_expressions.iter().map(expression).collect(),
            fields: Vec::new(),
        };
        let class = StorageClass {
            provisioner: shared(&raw.provisioner),
            wait_for_consumer: raw.volume_binding_mode == "WaitForFirstConsumer",
            allowed_topologies: raw.allowed_topologies.iter().map(term).collect(),
        };
        ClassView { class, meta: slim(raw.metadata) }
    }
}

impl From<raw::Driver> for DriverView {
    fn from(raw: raw::Driver) -> DriverView {
        DriverView { tracks_capacity: raw.spec.storage_capacity, meta: slim(raw.metadata) }
    }
}

impl From<raw::CsiNode<'_>> for LimitsView {
    fn from(raw: raw::CsiNode<'_>) -> LimitsView {
        let limit = |driver: &raw::NodeDriver<'_>| Some((shared(&driver.name), driver.allocatable.as_ref()?.count?));
        LimitsView { limits: raw.spec.drivers.iter().filter_map(limit).collect(), meta: slim(raw.metadata) }
    }
}

impl From<raw::Capacity<'_>> for CapacityView {
    fn from(raw: raw::Capacity<'_>) -> CapacityView {
        // The largest volume that can be made, or else all that is left.
        let limit = raw.maximum_volume_size.as_ref().or(raw.capacity.as_ref());
        let capacity = StorageCapacity {
            class: shared(&raw.storage_class_name),
            topology: raw.node_topology.as_ref().map(others::selector),
            limit: limit.and_then(|amount| quantity::units(amount)),
        };
        CapacityView { capacity, meta: slim(raw.metadata) }
    }
}

impl From<raw::Attachment<'_>> for AttachmentView {
    fn from(raw: raw::Attachment<'_>) -> AttachmentView {
        let attachment = some(&raw.spec.source.persistent_volume_name).map(|volume| Attachment {
            node: shared(&raw.spec.node_name),
            driver: shared(&raw.spec.attacher),
            volume,
        });
        AttachmentView { attachment, meta: slim(raw.metadata) }
    }
}

/// The volumes of a pod that matter for where it may run.
pub fn uses(meta: &Meta<'_>, spec: &PodSpec<'_>) -> Vec<VolumeUse> {
    let mut uses = Vec::new();
    for volume in &spec.volumes {
        if let Some(claim) = &volume.persistent_volume_claim {
            uses.push(VolumeUse::Claim(shared(&claim.claim_name)));
        } else if volume.ephemeral.is_some() {
            uses.push(VolumeUse::Ephemeral(format!("{}-{}", &*meta.name, &*volume.name).into()));
        } else if let Some(disk) = &volume.gce_persistent_disk {
            uses.push(VolumeUse::Disk(Disk::Gce { name: shared(&disk.pd_name), read_only: disk.read_only }));
        } else if let Some(disk) = &volume.aws_elastic_block_store {
            uses.push(VolumeUse::Disk(Disk::Ebs { id: shared(&disk.volume_id) }));
        } else if let Some(disk) = &volume.iscsi {
            uses.push(VolumeUse::Disk(Disk::Iscsi { iqn: shared(&disk.iqn), read_only: disk.read_only }));
        } else if let Some(disk) = &volume.rbd {
            uses.push(VolumeUse::Disk(Disk::Rbd {
                monitors: disk.monitors.iter().map(shared).collect(),
                // What the API server defaults it to.
                pool: some(&disk.pool).unwrap_or_else(|| "rbd".into()),
                image: shared(&disk.image),
                read_only: disk.read_only,
            }));
        }
    }
    uses
}

/// Puts a pod's volumes into its template.
pub fn complete(template: &mut PodTemplate, meta: &Meta<'_>, spec: &PodSpec<'_>) {
    template.volumes = uses(meta, spec);
    let owns = template.volumes.iter().any(|volume| matches!(volume, VolumeUse::Ephemeral(_)));
    template.uid = owns.then(|| shared(&meta.uid));
}

#[cfg(test)]
mod tests {
    use kelson_sched::LabelSelector;

    use super::*;

    fn read<T: for<'de> Deserialize<'de>>(json: &str) -> T {
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))
    }

    #[test]
    fn a_claim_is_read_in_full() {
        let view: ClaimView = read(
            r#"{"metadata":{"name":"data-db-0","namespace":"shop","uid":"c1","resourceVersion":"42",
                "annotations":{"pv.kubernetes.io/bind-completed":"yes","volume.kubernetes.io/selected-node":"n1"},
                "ownerReferences":[{"uid":"p0"},{"uid":"p1","controller":true}]},
              "spec":{"accessModes":["ReadWriteOnce","ReadWriteOncePod"],"storageClassName":"fast","volumeName":"pv-1",
                "volumeMode":"Block","volumeAttributesClassName":"gold","resources":{"requests":{"storage":"10Gi"}},
                "selector":{"matchLabels":{"tier":"a"}}},
              "status":{"phase":"Lost"}}"#,
        );
        let claim = view.claim;
        assert_eq!((&*claim.uid, &*claim.class, claim.volume.as_deref()), ("c1", "fast", Some("pv-1")));
        assert!(claim.bind_completed && claim.lost && claim.block && !claim.terminating);
        assert_eq!(claim.access_modes, AccessModes::READ_WRITE_ONCE.and(AccessModes::READ_WRITE_ONCE_POD));
        assert_eq!((claim.size, claim.selected_node.as_deref()), (Some(10 << 30), Some("n1")));
        assert_eq!((claim.owner.as_deref(), &*claim.attributes_class), (Some("p1"), "gold"));
        assert_eq!(claim.selector, Some(LabelSelector::of_pairs([("tier", "a")])));
        assert_eq!(view.meta.revision(), 42);
        let bare: ClaimView = read(
            r#"{"metadata":{"name":"a","annotations":{"volume.beta.kubernetes.io/storage-class":"old"}},
              "spec":{"storageClassName":"new","accessModes":null,"selector":null}}"#,
        );
        assert_eq!((&*bare.claim.class, bare.claim.size, bare.claim.volume), ("old", None, None));
    }

    #[test]
    fn a_volume_is_read_in_full() {
        let view: VolumeView = read(
            r#"{"metadata":{"name":"pv-1","labels":{"topology.kubernetes.io/zone":"a","b":"c"},
                "annotations":{"pv.kubernetes.io/bound-by-controller":"yes"}},
              "spec":{"capacity":{"storage":"1Ti"},"accessModes":["ReadWriteMany"],"storageClassName":"fast",
                "claimRef":{"namespace":"shop","name":"data","uid":"c1"},
                "csi":{"driver":"d.example.com","volumeHandle":"h"},
                "nodeAffinity":{"required":{"nodeSelectorTerms":[{"matchExpressions":[
                  {"key":"host","operator":"In","values":["n1"]}]}]}}},
              "status":{"phase":"Available"}}"#,
        );
        let volume = view.volume;
        assert_eq!(
            (volume.capacity, &*volume.class, volume.available, view.by_controller),
            (1 << 40, "fast", true, true)
        );
        assert_eq!(volume.labels, [("b".into(), "c".into()), ("topology.kubernetes.io/zone".into(), "a".into())]);
        assert_eq!(volume.affinity.as_ref().map(|terms| terms[0].expressions.len()), Some(1));
        assert_eq!(volume.claim.as_ref().map(|claim| &*claim.uid), Some("c1"));
        assert_eq!(volume.csi, Some(("d.example.com".into(), "h".into())));
        assert_eq!(read::<VolumeView>(r#"{"metadata":{"name":"a"},"spec":{"nodeAffinity":{}}}"#).volume.affinity, None);
    }

    #[test]
    fn what_is_around_volumes_is_read_in_full() {
        let class: ClassView = read(
            r#"{"metadata":{"name":"fast"},"provisioner":"d.example.com","volumeBindingMode":"WaitForFirstConsumer",
              "allowedTopologies":[{"matchLabelExpressions":[{"key":"zone","values":["a","b"]}]}]}"#,
        );
        assert!(class.class.wait_for_consumer);
        assert_eq!(class.class.allowed_topologies[0].expressions[0].values.len(), 2);
        let driver: DriverView = read(r#"{"metadata":{"name":"d"},"spec":{"storageCapacity":true}}"#);
        assert!(driver.tracks_capacity);
        let limits: LimitsView = read(
            r#"{"metadata":{"name":"n1"},"spec":{"drivers":[{"name":"d","allocatable":{"count":3}},{"name":"e"},
              {"name":"f","allocatable":{}}]}}"#,
        );
        assert_eq!(limits.limits, [("d".into(), 3)]);
        let capacity = |more: &str| -> StorageCapacity {
            let json = format!(r#"{{"metadata":{{"name":"c"}},"storageClassName":"fast","nodeTopology":{{}}{more}}}"#);
            read::<CapacityView>(&json).capacity
        };
        assert_eq!(capacity(r#","capacity":"2Gi""#).limit, Some(2 << 30));
        assert_eq!(capacity(r#","capacity":"2Gi","maximumVolumeSize":"1Gi""#).limit, Some(1 << 30));
        assert_eq!((capacity("").limit, capacity("").topology), (None, Some(LabelSelector::default())));
        let attachment = |source: &str| -> Option<Attachment> {
            let json =
                format!(r#"{{"metadata":{{"name":"a"}},"spec":{{"attacher":"d","nodeName":"n1","source":{source}}}}}"#);
            read::<AttachmentView>(&json).attachment
        };
        let volume = attachment(r#"{"persistentVolumeName":"pv-1"}"#).unwrap();
        assert_eq!((&*volume.driver, &*volume.node, &*volume.volume), ("d", "n1", "pv-1"));
        assert_eq!(attachment(r#"{"inlineVolumeSpec":{}}"#), None);
    }
}
