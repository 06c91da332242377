//! Devices as the scheduler sees them: what drivers publish, what classes and claims ask for, what claims were given
//! ("Dynamic Resource Allocation" of the Kubernetes documentation).

use std::sync::Arc;

use crate::selector::NodeSelectorTerm;
use crate::taint::{Taint, Toleration};

/// A ResourceClaim that a pod uses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClaimUse {
    /// By name, in the pod's namespace.
    Named(Arc<str>),
    /// Made from a template for the pod of this name: the claim has to be that pod's own ([`crate::PodTemplate::uid`]).
    Generated { claim: Arc<str>, pod: Arc<str> },
    /// Still to be made from a template for the pod of this name.
    Awaited { pod: Arc<str> },
}

/// The value of a device's attribute.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Attribute {
    Int(i64),
    Bool(bool),
    Text(Arc<str>),
    /// A semantic version, in its only form.
    Version(Arc<str>),
}

/// Where devices can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// On the node of this name.
    Node(Arc<str>),
    AllNodes,
    /// On nodes for which one of the terms holds.
    Selected(Vec<NodeSelectorTerm>),
    /// Each device says it itself ([`Device::reach`]).
    PerDevice,
    /// Nowhere: said in a way that is not known here.
    Nowhere,
}

/// What a device takes of the counters that its pool shares, or what there is of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    pub set: Arc<str>,
    pub name: Arc<str>,
    /// In thousandths.
    pub amount: i64,
}

/// A device of a ResourceSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    pub name: Arc<str>,
    /// By name, with a domain or without one where the domain is the driver's.
    pub attributes: Vec<(Arc<str>, Attribute)>,
    /// Quantities as they are written, by name likewise.
    pub capacity: Vec<(Arc<str>, Arc<str>)>,
    /// Those that keep new pods away.
    pub taints: Vec<Taint>,
    /// Where it can be used, in a slice whose devices say it themselves.
    pub reach: Option<Reach>,
    pub counters: Vec<Counter>,
    /// It asks for more of a scheduler than is known here: nobody is given it.
    pub unsupported: bool,
}

impl Device {
    /// The value of an attribute by its full name, `domain/name`, on a device of this driver.
    pub fn attribute(&self, driver: &str, name: &str) -> Option<&Attribute> {
        let find = |name: &str| self.attributes.iter().find(|(have, _)| **have == *name).map(|(_, value)| value);
        find(name).or_else(|| find(name.strip_prefix(driver)?.strip_prefix('/')?))
    }
}

/// A ResourceSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceSlice {
    pub driver: Arc<str>,
    pub pool: Arc<str>,
    /// Of the pool: slices of older ones do not count.
    pub generation: i64,
    /// How many slices the pool has in this generation.
    pub slices: i64,
    pub reach: Reach,
    pub devices: Vec<Device>,
    /// Counters that devices of the pool share.
    pub counters: Vec<Counter>,
}

/// A DeviceClass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceClass {
    /// Expressions that hold for every device of the class.
    pub selectors: Vec<Arc<str>>,
}

/// How many devices are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    Exactly(usize),
    /// All that match on the node, at least one.
    All,
}

/// One way to satisfy a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceChoice {
    /// Of the subrequest; empty where the request has one way only.
    pub name: Arc<str>,
    /// DeviceClass.
    pub class: Arc<str>,
    /// Expressions that hold for every device, beside the class's.
    pub selectors: Vec<Arc<str>>,
    pub amount: Amount,
    /// Devices that others have will do, and stay theirs.
    pub admin: bool,
    pub tolerations: Vec<Toleration>,
}

/// A request of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRequest {
    pub name: Arc<str>,
    /// The first that can be had is taken. Empty for a kind of request that is not known here.
    pub choices: Vec<DeviceChoice>,
}

impl DeviceRequest {
    /// How results and constraints name the devices of a choice.
    pub fn full_name(&self, choice: &DeviceChoice) -> Arc<str> {
        if choice.name.is_empty() { self.name.clone() } else { format!("{}/{}", self.name, choice.name).into() }
    }
}

/// What a constraint says of an attribute, by its full name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceRule {
    /// All devices have the same value.
    Match(Arc<str>),
    /// No two have the same value.
    Distinct(Arc<str>),
    /// A kind of constraint that is not known here: nothing satisfies it.
    Unknown,
}

/// A constraint among the devices of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceConstraint {
    /// Requests, or subrequests by their full names. Empty: all.
    pub requests: Vec<Arc<str>>,
    pub rule: DeviceRule,
}

/// A device that a claim was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceResult {
    /// The request or subrequest, by its full name.
    pub request: Arc<str>,
    pub driver: Arc<str>,
    pub pool: Arc<str>,
    pub device: Arc<str>,
    /// It may be somebody else's.
    pub admin: bool,
}

/// What a claim was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    pub devices: Vec<DeviceResult>,
    /// The nodes on which it can be used: one of the terms holds. `None`: all.
    pub nodes: Option<Vec<NodeSelectorTerm>>,
}

/// A ResourceClaim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceClaim {
    pub requests: Vec<DeviceRequest>,
    pub constraints: Vec<DeviceConstraint>,
    pub allocation: Option<Allocation>,
    /// It is being deleted.
    pub terminating: bool,
    /// The uid of the object that controls it, if one does.
    pub owner: Option<Arc<str>>,
}

/// What each claim of a pod, by name, is to be given before the pod is bound to the node that was chosen for it.
pub type DevicePlan = Vec<(Arc<str>, Allocation)>;

/// The language of selectors.
pub trait SelectorLanguage: std::fmt::Debug + Send + Sync {
    /// Compiles an expression.
    ///
    /// # Errors
    /// What is wrong with it.
    fn compile(&self, expression: &str) -> Result<Box<dyn DeviceSelector>, String>;
}

/// A compiled expression.
pub trait DeviceSelector: std::fmt::Debug + Send + Sync {
    /// Whether it holds for a device of this driver. The same device gets the same answer each time.
    ///
    /// # Errors
    /// Why that cannot be told.
    fn matches(&self, driver: &str, device: &Device) -> Result<bool, String>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_by_their_full_names() {
        let attributes = vec![("model".into(), Attribute::Int(1)), ("other.com/model".into(), Attribute::Int(2))];
        let device = Device { attributes, ..Device::default() };
        for (name, value) in [
            ("gpu.com/model", Some(1)),
            ("other.com/model", Some(2)),
            ("gpu.com/other", None),
            ("gpu.comb/model", None),
            ("third.com/model", None),
        ] {
            assert_eq!(device.attribute("gpu.com", name), value.map(Attribute::Int).as_ref(), "{name}");
        }
    }
}
