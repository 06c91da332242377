//! The parts of storage objects that the scheduler reads, borrowed from the text.

use kelson_wire::kube::ObjectMeta;
use kelson_wire::kube::meta::null_default;
use serde::Deserialize;

use crate::scheduler::raw::{LabelSelector, NodeSelector, Pairs, Requirements, Text};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Claim<'a> {
    #[serde(deserialize_with = "null_default")]
    pub metadata: ObjectMeta,
    #[serde(borrow, deserialize_with = "null_default")]
    pub spec: ClaimSpec<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub status: Status<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimSpec<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    pub access_modes: Vec<Text<'a>>,
    #[serde(borrow)]
    pub selector: Option<LabelSelector<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub resources: Requirements<'a>,
    #[serde(borrow)]
    pub volume_name: Text<'a>,
    #[serde(borrow)]
    pub storage_class_name: Text<'a>,
    #[serde(borrow)]
    pub volume_mode: Text<'a>,
    #[serde(borrow)]
    pub volume_attributes_class_name: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status<'a> {
    #[serde(borrow)]
    pub phase: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Volume<'a> {
    #[serde(deserialize_with = "null_default")]
    pub metadata: ObjectMeta,
    #[serde(borrow, deserialize_with = "null_default")]
    pub spec: VolumeSpec<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub status: Status<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeSpec<'a> {
    #[serde(borrow)]
    pub capacity: Pairs<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub access_modes: Vec<Text<'a>>,
    #[serde(borrow)]
    pub claim_ref: Option<Reference<'a>>,
    #[serde(borrow)]
    pub storage_class_name: Text<'a>,
    #[serde(borrow)]
    pub volume_mode: Text<'a>,
    #[serde(borrow)]
    pub volume_attributes_class_name: Text<'a>,
    #[serde(borrow)]
    pub node_affinity: Option<VolumeAffinity<'a>>,
    #[serde(borrow)]
    pub csi: Option<Csi<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Reference<'a> {
    #[serde(borrow)]
    pub namespace: Text<'a>,
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow)]
    pub uid: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeAffinity<'a> {
    #[serde(borrow)]
    pub required: Option<NodeSelector<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Csi<'a> {
    #[serde(borrow)]
    pub driver: Text<'a>,
    #[serde(borrow)]
    pub volume_handle: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Class<'a> {
    #[serde(deserialize_with = "null_default")]
    pub metadata: ObjectMeta,
    #[serde(borrow)]
    pub provisioner: Text<'a>,
    #[serde(borrow)]
    pub volume_binding_mode: Text<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub allowed_topologies: Vec<TopologyTerm<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopologyTerm<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    pub match_label_expressions: Vec<TopologyExpression<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopologyExpression<'a> {
    #[serde(borrow)]
    pub key: Text<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub values: Vec<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Driver {
    #[serde(deserialize_with = "null_default")]
    pub metadata: ObjectMeta,
    #[serde(deserialize_with = "null_default")]
    pub spec: DriverSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DriverSpec {
    #[serde(deserialize_with = "null_default")]
    pub storage_capacity: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct CsiNode<'a> {
    #[serde(deserialize_with = "null_default")]
    pub metadata: ObjectMeta,
    #[serde(borrow, deserialize_with = "null_default")]
    pub spec: CsiNodeSpec<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct CsiNodeSpec<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    pub drivers: Vec<NodeDriver<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeDriver<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    pub allocatable: Option<VolumeCount>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct VolumeCount {
    pub count: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Capacity<'a> {
    #[serde(deserialize_with = "null_default")]
    pub metadata: ObjectMeta,
    #[serde(borrow)]
    pub storage_class_name: Text<'a>,
    #[serde(borrow)]
    pub node_topology: Option<LabelSelector<'a>>,
    #[serde(borrow)]
    pub capacity: Option<Text<'a>>,
    #[serde(borrow)]
    pub maximum_volume_size: Option<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Attachment<'a> {
    #[serde(deserialize_with = "null_default")]
    pub metadata: ObjectMeta,
    #[serde(borrow, deserialize_with = "null_default")]
    pub spec: AttachmentSpec<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AttachmentSpec<'a> {
    #[serde(borrow)]
    pub attacher: Text<'a>,
    #[serde(borrow)]
    pub node_name: Text<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub source: AttachmentSource<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AttachmentSource<'a> {
    #[serde(borrow)]
    pub persistent_volume_name: Text<'a>,
}
