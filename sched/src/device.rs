//! Devices as the scheduler sees them: pools of devices on nodes, and claims that ask for some ("Dynamic Resource
//! Allocation" of the Kubernetes documentation, `resource.k8s.io/v1`).
//!
//! What is not allocated here: parts of devices (shared counters, consumable capacity) and devices with binding
//! conditions. Such devices are passed over, so a claim that only they satisfy stays pending.

use std::fmt::Debug;
use std::sync::Arc;

use crate::selector::NodeSelectorTerm;
use crate::taint::{Taint, Toleration};

/// The most alternatives that a request may list, which is also the score of its first one.
pub const MAX_ALTERNATIVES: usize = 8;
/// The most devices that one claim may get.
pub const MAX_DEVICES: usize = 32;
/// The most pods that may use one claim at a time.
pub const MAX_CONSUMERS: usize = 256;

/// From which nodes devices can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// One node, by name.
    Node(Arc<str>),
    All,
    /// Nodes that one of the terms selects.
    Selector(Vec<NodeSelectorTerm>),
    /// Each device of the slice says it for itself.
    PerDevice,
}

/// A ResourceSlice: some or all devices of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSlice {
    pub driver: Arc<str>,
    pub pool: Arc<str>,
    /// `spec.pool.generation`: slices of lower generations are out of date.
    pub generation: i64,
    /// `spec.pool.resourceSliceCount`: with fewer slices the pool is not whole, and nothing of it is allocated.
    pub slices: i64,
    pub reach: Reach,
    pub devices: Vec<Device>,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub name: Arc<str>,
    /// By qualified name, sorted; names without a domain belong to the driver's.
    pub attributes: Vec<(Arc<str>, Attribute)>,
    /// Capacities by qualified name as written, for selectors only.
    pub capacities: Vec<(Arc<str>, Arc<str>)>,
    pub taints: Vec<Taint>,
    /// Where the slice's reach is [`Reach::PerDevice`].
    pub reach: Option<Reach>,
    /// It consumes shared counters, may be allocated several times over, or has binding conditions: not allocated here.
    pub partial: bool,
}

/// The value of a device's attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    Text(Arc<str>),
    Integer(i64),
    Boolean(bool),
    /// A semantic version, as written.
    Version(Arc<str>),
}

/// A ResourceClaim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceClaim {
    pub uid: Arc<str>,
    pub requests: Vec<DeviceRequest>,
    pub constraints: Vec<DeviceConstraint>,
    /// `status.allocation`.
    pub allocation: Option<Allocation>,
    /// `status.reservedFor`: the uids of the pods, or other objects, that use it.
    pub reserved_for: Vec<Arc<str>>,
}

/// One entry of `spec.devices.requests`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRequest {
    pub name: Arc<str>,
    /// One for `exactly`; for `firstAvailable` all alternatives, the best first.
    pub alternatives: Vec<DeviceAsk>,
    /// `firstAvailable`: the alternatives have names, and their ranks score.
    pub ranked: bool,
}

/// Which devices, and how many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceAsk {
    /// Of the alternative; empty for `exactly`.
    pub name: Arc<str>,
    pub class: Arc<str>,
    /// All of these select the device, beside those of the class: CEL expressions for [`Selectors`].
    pub selectors: Vec<Arc<str>>,
    pub count: DeviceCount,
    /// Devices that others use may be used too, and stay free for others.
    pub admin: bool,
    /// Taints of devices that do not matter.
    pub tolerations: Vec<Toleration>,
}

/// How many devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceCount {
    Exactly(usize),
    /// All that can be reached, at least one.
    All,
}

impl Default for DeviceCount {
    fn default() -> DeviceCount {
        DeviceCount::Exactly(1)
    }
}

/// `matchAttribute`: all devices of these requests share one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceConstraint {
    /// Requests, or `request/alternative`; empty for all.
    pub requests: Vec<Arc<str>>,
    /// Fully qualified: `domain/name`.
    pub attribute: Arc<str>,
}

/// `status.allocation` of a claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    pub devices: Vec<AllocatedDevice>,
    /// Nodes from which all devices can be reached: one of the terms holds. `None`: all nodes.
    pub nodes: Option<Vec<NodeSelectorTerm>>,
}

/// A device that a claim has.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AllocatedDevice {
    /// `request`, or `request/alternative`.
    pub request: Arc<str>,
    pub driver: Arc<str>,
    pub pool: Arc<str>,
    pub device: Arc<str>,
    pub admin: bool,
}

/// Evaluates the expressions that select devices. The core keeps the answers for as long as the slice stays as it is.
pub trait Selectors: Debug + Send + Sync {
    /// Whether an expression selects a device; the error is told to the pod's owner.
    fn selects(&self, expression: &str, slice: &DeviceSlice, device: &Device) -> Result<bool, String>;
}
