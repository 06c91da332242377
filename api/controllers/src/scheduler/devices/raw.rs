//! The parts of the objects of `resource.k8s.io/v1` that the scheduler reads. What it only passes on stays as it is.

use std::collections::BTreeMap;

use kelson_wire::kube::ObjectMeta;
use kelson_wire::kube::meta::null_default;
use serde::Deserialize;
use serde_json::Value;

use crate::scheduler::raw::{NodeSelector, Taint, Text, Toleration};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Claim<'a> {
    #[serde(deserialize_with = "null_default")]
    pub metadata: ObjectMeta,
    #[serde(borrow, deserialize_with = "null_default")]
    pub spec: ClaimSpec<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub status: ClaimStatus<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ClaimSpec<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    pub devices: DeviceClaim<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct DeviceClaim<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    pub requests: Vec<Request<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub constraints: Vec<Constraint<'a>>,
    #[serde(deserialize_with = "null_default")]
    pub config: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Request<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow)]
    pub exactly: Option<Choice<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub first_available: Vec<Choice<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Choice<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow)]
    pub device_class_name: Text<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub selectors: Vec<Selector<'a>>,
    #[serde(borrow)]
    pub allocation_mode: Text<'a>,
    #[serde(deserialize_with = "null_default")]
    pub count: i64,
    #[serde(deserialize_with = "null_default")]
    pub admin_access: bool,
    #[serde(borrow, deserialize_with = "null_default")]
    pub tolerations: Vec<DeviceToleration<'a>>,
    pub capacity: Option<Value>,
}

/// As it is read, and as it is passed on.
#[derive(Debug)]
pub struct DeviceToleration<'a> {
    pub toleration: Toleration<'a>,
    pub value: Value,
}

impl<'de: 'a, 'a> Deserialize<'de> for DeviceToleration<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<DeviceToleration<'a>, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let toleration = Toleration::deserialize(value.clone()).map_err(serde::de::Error::custom)?;
        Ok(DeviceToleration { toleration, value })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Selector<'a> {
    #[serde(borrow)]
    pub cel: Option<Expression<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Expression<'a> {
    #[serde(borrow)]
    pub expression: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Constraint<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    pub requests: Vec<Text<'a>>,
    #[serde(borrow)]
    pub match_attribute: Option<Text<'a>>,
    #[serde(borrow)]
    pub distinct_attribute: Option<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimStatus<'a> {
    #[serde(borrow)]
    pub allocation: Option<Allocation<'a>>,
    #[serde(deserialize_with = "null_default")]
    pub reserved_for: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Allocation<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    pub devices: Results<'a>,
    #[serde(borrow)]
    pub node_selector: Option<NodeSelector<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Results<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    pub results: Vec<DeviceResult<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceResult<'a> {
    #[serde(borrow)]
    pub request: Text<'a>,
    #[serde(borrow)]
    pub driver: Text<'a>,
    #[serde(borrow)]
    pub pool: Text<'a>,
    #[serde(borrow)]
    pub device: Text<'a>,
    #[serde(deserialize_with = "null_default")]
    pub admin_access: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Class<'a> {
    #[serde(deserialize_with = "null_default")]
    pub metadata: ObjectMeta,
    #[serde(borrow, deserialize_with = "null_default")]
    pub spec: ClassSpec<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ClassSpec<'a> {
    #[serde(borrow, deserialize_with = "null_default")]
    pub selectors: Vec<Selector<'a>>,
    #[serde(deserialize_with = "null_default")]
    pub config: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Slice<'a> {
    #[serde(deserialize_with = "null_default")]
    pub metadata: ObjectMeta,
    #[serde(borrow, deserialize_with = "null_default")]
    pub spec: SliceSpec<'a>,
}

/// Where devices are.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SliceSpec<'a> {
    #[serde(borrow)]
    pub driver: Text<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub pool: Pool<'a>,
    #[serde(borrow)]
    pub node_name: Text<'a>,
    #[serde(deserialize_with = "null_default")]
    pub all_nodes: bool,
    #[serde(borrow)]
    pub node_selector: Option<NodeSelector<'a>>,
    #[serde(deserialize_with = "null_default")]
    pub per_device_node_selection: bool,
    #[serde(borrow, deserialize_with = "null_default")]
    pub devices: Vec<Device<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub shared_counters: Vec<CounterSet<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pool<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(deserialize_with = "null_default")]
    pub generation: i64,
    #[serde(deserialize_with = "null_default")]
    pub resource_slice_count: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Device<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub attributes: BTreeMap<String, Attribute<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub capacity: BTreeMap<String, Amount<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub consumes_counters: Vec<CounterSet<'a>>,
    #[serde(borrow)]
    pub node_name: Text<'a>,
    #[serde(deserialize_with = "null_default")]
    pub all_nodes: bool,
    #[serde(borrow)]
    pub node_selector: Option<NodeSelector<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub taints: Vec<Taint<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub binding_conditions: Vec<Text<'a>>,
    #[serde(deserialize_with = "null_default")]
    pub binds_to_node: bool,
    #[serde(deserialize_with = "null_default")]
    pub allow_multiple_allocations: bool,
    pub node_allocatable_resource_mappings: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Attribute<'a> {
    pub int: Option<i64>,
    pub bool: Option<bool>,
    #[serde(borrow)]
    pub string: Option<Text<'a>>,
    #[serde(borrow)]
    pub version: Option<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Amount<'a> {
    #[serde(borrow)]
    pub value: Text<'a>,
}

/// Counters of a set: what there is of them, or what a device takes.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CounterSet<'a> {
    /// Where there are some.
    #[serde(borrow)]
    pub name: Text<'a>,
    /// Where some are taken.
    #[serde(borrow)]
    pub counter_set: Text<'a>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub counters: BTreeMap<String, Amount<'a>>,
}
