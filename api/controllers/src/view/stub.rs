//! Objects of which little more than the metadata matters.

use kelson_wire::kube::ObjectMeta;
use kelson_wire::kube::meta::{StringMap, null_default};
use serde::{Deserialize, Serialize};

use super::Condition;

/// Any object: what the garbage collector needs of it. Labels and annotations are dropped.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "RawStub")]
pub(crate) struct Stub {
    pub metadata: ObjectMeta,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawStub {
    metadata: ObjectMeta,
}

impl From<RawStub> for Stub {
    fn from(raw: RawStub) -> Stub {
        let mut metadata = raw.metadata;
        metadata.labels = StringMap::new();
        metadata.annotations = StringMap::new();
        Stub { metadata }
    }
}

/// A ConfigMap, its data as a digest.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "RawConfigMap")]
pub(crate) struct ConfigMap {
    pub metadata: ObjectMeta,
    /// [`digest`] of `data`.
    pub digest: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawConfigMap {
    metadata: ObjectMeta,
    #[serde(deserialize_with = "null_default")]
    data: StringMap,
}

impl From<RawConfigMap> for ConfigMap {
    fn from(raw: RawConfigMap) -> ConfigMap {
        let mut metadata = raw.metadata;
        metadata.labels = StringMap::new();
        metadata.annotations = StringMap::new();
        ConfigMap { metadata, digest: digest(&raw.data) }
    }
}

/// A hash that is the same for equal content within one process.
pub(crate) fn digest(content: &impl std::hash::Hash) -> u64 {
    use std::hash::{BuildHasher, BuildHasherDefault};
    BuildHasherDefault::<rustc_hash::FxHasher>::default().hash_one(content)
}

/// A Namespace.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Namespace {
    pub metadata: ObjectMeta,
    pub spec: NamespaceSpec,
    pub status: NamespaceStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NamespaceSpec {
    #[serde(deserialize_with = "null_default")]
    pub finalizers: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct NamespaceStatus {
    pub phase: String,
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}
