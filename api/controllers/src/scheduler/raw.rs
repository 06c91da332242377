//! The parts of Pod and Node JSON that the scheduler reads, borrowed from the text.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use kelson_wire::kube::meta::null_default;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Text, borrowed where it has no escapes. A number (quantities may be written so) is its text, `null` is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text<'a>(Cow<'a, str>);

impl Text<'_> {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Text that is kept.
pub fn shared(text: &Text<'_>) -> Arc<str> {
    text.as_str().into()
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<&str> for Text<'_> {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'a>, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Cow<'de, str>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a number")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_string()))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
                Ok(Cow::Owned(number.to_string()))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
                Ok(Cow::Owned(number.to_string()))
            }
            fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
                Ok(Cow::Owned(number.to_string()))
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(""))
            }
        }
        deserializer.deserialize_any(TextVisitor).map(Text)
    }
}

/// A map of text to text, in the order of the text.
#[derive(Clone, Debug, Default)]
pub struct Pairs<'a>(pub Vec<(Text<'a>, Text<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pairs<'a>, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of text")
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Pairs::default())
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_any(PairsVisitor)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow)]
    pub namespace: Text<'a>,
    #[serde(borrow)]
    pub uid: Text<'a>,
    #[serde(borrow)]
    pub resource_version: Text<'a>,
    #[serde(borrow)]
    pub creation_timestamp: Option<Text<'a>>,
    #[serde(borrow)]
    pub deletion_timestamp: Option<Text<'a>>,
    #[serde(borrow)]
    pub labels: Pairs<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub owner_references: Vec<OwnerReference<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference<'a> {
    #[serde(borrow)]
    pub api_version: Text<'a>,
    #[serde(borrow)]
    pub kind: Text<'a>,
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(deserialize_with = "null_default")]
    pub controller: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    pub metadata: Meta<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub spec: PodSpec<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub status: PodStatus<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus<'a> {
    #[serde(borrow)]
    pub phase: Text<'a>,
    #[serde(borrow)]
    pub start_time: Option<Text<'a>>,
    #[serde(borrow)]
    pub nominated_node_name: Text<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub conditions: Vec<Condition<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub resource_claim_statuses: Vec<PodClaim<'a>>,
}

/// A claim of a pod; in the status, the one that was made from a template, if one was needed.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodClaim<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow)]
    pub resource_claim_name: Option<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition<'a> {
    #[serde(rename = "type", borrow)]
    pub kind: Text<'a>,
    #[serde(borrow)]
    pub status: Text<'a>,
    #[serde(borrow)]
    pub reason: Text<'a>,
    #[serde(borrow)]
    pub message: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec<'a> {
    #[serde(borrow)]
    pub node_name: Text<'a>,
    #[serde(borrow)]
    pub scheduler_name: Text<'a>,
    pub priority: Option<i32>,
    #[serde(borrow)]
    pub preemption_policy: Text<'a>,
    #[serde(deserialize_with = "null_default")]
    pub host_network: bool,
    #[serde(deserialize_with = "null_default")]
    pub scheduling_gates: Vec<IgnoredAny>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub containers: Vec<Container<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub init_containers: Vec<Container<'a>>,
    #[serde(borrow)]
    pub resources: Option<Requirements<'a>>,
    #[serde(borrow)]
    pub overhead: Pairs<'a>,
    #[serde(borrow)]
    pub node_selector: Pairs<'a>,
    #[serde(borrow)]
    pub affinity: Option<Affinity<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub tolerations: Vec<Toleration<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub topology_spread_constraints: Vec<TopologySpread<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub volumes: Vec<Volume<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub resource_claims: Vec<PodClaim<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container<'a> {
    #[serde(borrow)]
    pub image: Text<'a>,
    #[serde(borrow)]
    pub restart_policy: Text<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub resources: Requirements<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub ports: Vec<Port<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Requirements<'a> {
    #[serde(borrow)]
    pub requests: Pairs<'a>,
    #[serde(borrow)]
    pub limits: Pairs<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Port<'a> {
    #[serde(deserialize_with = "null_default")]
    pub host_port: i64,
    #[serde(deserialize_with = "null_default")]
    pub container_port: i64,
    #[serde(rename = "hostIP", borrow)]
    pub host_ip: Text<'a>,
    #[serde(borrow)]
    pub protocol: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Affinity<'a> {
    #[serde(borrow)]
    pub node_affinity: Option<NodeAffinity<'a>>,
    #[serde(borrow)]
    pub pod_affinity: Option<PodAffinity<'a>>,
    #[serde(borrow)]
    pub pod_anti_affinity: Option<PodAffinity<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeAffinity<'a> {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution", borrow)]
    pub required: Option<NodeSelector<'a>>,
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution", borrow, deserialize_with = "null_default")]
    pub preferred: Vec<Preferred<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelector<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    pub node_selector_terms: Vec<Term<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Preferred<'a> {
    #[serde(deserialize_with = "null_default")]
    pub weight: i32,
    #[serde(borrow, deserialize_with = "null_default")]
    pub preference: Term<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Term<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    pub match_expressions: Vec<Requirement<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub match_fields: Vec<Requirement<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Requirement<'a> {
    #[serde(borrow)]
    pub key: Text<'a>,
    #[serde(borrow)]
    pub operator: Text<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub values: Vec<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodAffinity<'a> {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution", borrow, deserialize_with = "null_default")]
    pub required: Vec<PodTerm<'a>>,
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution", borrow, deserialize_with = "null_default")]
    pub preferred: Vec<PreferredPods<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PreferredPods<'a> {
    #[serde(deserialize_with = "null_default")]
    pub weight: i32,
    #[serde(borrow, deserialize_with = "null_default")]
    pub pod_affinity_term: PodTerm<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodTerm<'a> {
    #[serde(borrow)]
    pub label_selector: Option<LabelSelector<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub namespaces: Vec<Text<'a>>,
    #[serde(borrow)]
    pub namespace_selector: Option<LabelSelector<'a>>,
    #[serde(borrow)]
    pub topology_key: Text<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub match_label_keys: Vec<Text<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub mismatch_label_keys: Vec<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector<'a> {
    #[serde(borrow)]
    pub match_labels: Pairs<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub match_expressions: Vec<Requirement<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Toleration<'a> {
    #[serde(borrow)]
    pub key: Text<'a>,
    #[serde(borrow)]
    pub operator: Text<'a>,
    #[serde(borrow)]
    pub value: Text<'a>,
    #[serde(borrow)]
    pub effect: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopologySpread<'a> {
    #[serde(borrow)]
    pub when_unsatisfiable: Text<'a>,
    #[serde(deserialize_with = "null_default")]
    pub max_skew: i32,
    #[serde(borrow)]
    pub topology_key: Text<'a>,
    #[serde(borrow)]
    pub label_selector: Option<LabelSelector<'a>>,
    pub min_domains: Option<i32>,
    #[serde(borrow)]
    pub node_affinity_policy: Text<'a>,
    #[serde(borrow)]
    pub node_taints_policy: Text<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub match_label_keys: Vec<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Volume<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow)]
    pub persistent_volume_claim: Option<ClaimSource<'a>>,
    pub ephemeral: Option<IgnoredAny>,
    #[serde(borrow)]
    pub gce_persistent_disk: Option<GceDisk<'a>>,
    #[serde(borrow)]
    pub aws_elastic_block_store: Option<EbsDisk<'a>>,
    #[serde(borrow)]
    pub iscsi: Option<IscsiDisk<'a>>,
    #[serde(borrow)]
    pub rbd: Option<RbdDisk<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GceDisk<'a> {
    #[serde(borrow)]
    pub pd_name: Text<'a>,
    #[serde(deserialize_with = "null_default")]
    pub read_only: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct EbsDisk<'a> {
    #[serde(rename = "volumeID", borrow)]
    pub volume_id: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IscsiDisk<'a> {
    #[serde(borrow)]
    pub iqn: Text<'a>,
    #[serde(deserialize_with = "null_default")]
    pub read_only: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RbdDisk<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    pub monitors: Vec<Text<'a>>,
    #[serde(borrow)]
    pub pool: Text<'a>,
    #[serde(borrow)]
    pub image: Text<'a>,
    #[serde(deserialize_with = "null_default")]
    pub read_only: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimSource<'a> {
    #[serde(borrow)]
    pub claim_name: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    pub metadata: Meta<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub spec: NodeSpec<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub status: NodeStatus<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec<'a> {
    #[serde(deserialize_with = "null_default")]
    pub unschedulable: bool,
    #[serde(borrow, deserialize_with = "null_default")]
    pub taints: Vec<Taint<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Taint<'a> {
    #[serde(borrow)]
    pub key: Text<'a>,
    #[serde(borrow)]
    pub value: Text<'a>,
    #[serde(borrow)]
    pub effect: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus<'a> {
    #[serde(borrow)]
    pub allocatable: Pairs<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub images: Vec<Image<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Image<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    pub names: Vec<Text<'a>>,
    #[serde(deserialize_with = "null_default")]
    pub size_bytes: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Namespace<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    pub metadata: Meta<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Budget<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    pub metadata: Meta<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub spec: BudgetSpec<'a>,
    #[serde(deserialize_with = "null_default")]
    pub status: BudgetStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BudgetSpec<'a> {
    #[serde(borrow)]
    pub selector: Option<LabelSelector<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BudgetStatus {
    #[serde(deserialize_with = "null_default")]
    pub disruptions_allowed: i32,
}

/// A Service or ReplicationController.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PairsOwner<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    pub metadata: Meta<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub spec: PairsSpec<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PairsSpec<'a> {
    #[serde(borrow)]
    pub selector: Pairs<'a>,
}

/// A ReplicaSet or StatefulSet.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SelectorOwner<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    pub metadata: Meta<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub spec: BudgetSpec<'a>,
}

/// A PodGroup of the coscheduling plugin.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodGroup<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    pub metadata: Meta<'a>,
    #[serde(deserialize_with = "null_default")]
    pub spec: PodGroupSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodGroupSpec {
    #[serde(deserialize_with = "null_default")]
    pub min_member: i64,
}
