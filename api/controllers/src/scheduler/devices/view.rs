//! Claims for devices, slices and classes of devices, as the scheduler reads them.

use std::sync::Arc;

use kelson_sched::{
    Allocation, Amount, Attribute, ClaimUse, Counter, Device, DeviceChoice, DeviceClass, DeviceConstraint,
    DeviceRequest, DeviceResult, DeviceRule, Effect, PodTemplate, Reach, ResourceClaim, ResourceSlice, Taint,
};
use kelson_wire::kube::{Keyed, ObjectMeta, quantity};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::raw;
use crate::scheduler::raw::{Meta, NodeSelector, PodSpec, PodStatus, Taint as RawTaint, Text, shared};
use crate::scheduler::view::{term, toleration};

/// On a claim with devices: they are to be freed before it goes.
pub const PROTECTION: &str = "resource.kubernetes.io/delete-protection";

/// A ResourceClaim.
#[derive(Debug)]
pub struct ResourceClaimView {
    meta: ObjectMeta,
    pub claim: ResourceClaim,
    /// `status.reservedFor`, as it is.
    pub reserved_for: Vec<Value>,
    /// `spec.devices.config`, as it is.
    pub config: Vec<Value>,
    /// The tolerations of each request or subrequest that has some, by its full name.
    pub tolerations: Vec<(Arc<str>, Vec<Value>)>,
}

impl ResourceClaimView {
    /// Whether its devices are reserved for a pod.
    pub fn is_reserved_for(&self, pod: &str) -> bool {
        self.reserved_for.iter().any(|one| one["uid"] == pod)
    }
}

/// A DeviceClass.
#[derive(Debug)]
pub struct DeviceClassView {
    meta: ObjectMeta,
    pub class: DeviceClass,
    /// `spec.config`, as it is.
    pub config: Vec<Value>,
}

/// A ResourceSlice.
#[derive(Debug)]
pub struct ResourceSliceView {
    meta: ObjectMeta,
    pub slice: ResourceSlice,
}

macro_rules! keyed {
    ($($name:ident from $raw:ident),*) => {
        $(
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

keyed!(ResourceClaimView from Claim, DeviceClassView from Class, ResourceSliceView from Slice);

/// What is kept of metadata.
fn slim(meta: ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        resource_version: meta.resource_version,
        deletion_timestamp: meta.deletion_timestamp,
        finalizers: meta.finalizers,
        ..ObjectMeta::default()
    }
}

/// A kind of selector that is not known is an expression that nothing compiles.
fn selectors(raw: &[raw::Selector<'_>]) -> Vec<Arc<str>> {
    raw.iter().map(|one| one.cel.as_ref().map_or_else(|| "".into(), |cel| shared(&cel.expression))).collect()
}

/// `None` for a way to ask that is not known.
fn choice(raw: &raw::Choice<'_>) -> Option<DeviceChoice> {
    let amount = match raw.allocation_mode.as_str() {
        "" | "ExactCount" => Amount::Exactly(usize::try_from(raw.count.max(1)).ok()?),
        "All" => Amount::All,
        _ => return None,
    };
    raw.capacity.is_none().then(|| DeviceChoice {
        name: shared(&raw.name),
        class: shared(&raw.device_class_name),
        selectors: selectors(&raw.selectors),
        amount,
        admin: raw.admin_access,
        tolerations: raw.tolerations.iter().filter_map(|one| toleration(&one.toleration)).collect(),
    })
}

fn request(raw: &raw::Request<'_>) -> DeviceRequest {
    let choices: Option<Vec<DeviceChoice>> = match &raw.exactly {
        Some(exactly) => choice(exactly).map(|choice| vec![choice]),
        None => raw.first_available.iter().map(choice).collect(),
    };
    DeviceRequest { name: shared(&raw.name), choices: choices.unwrap_or_default() }
}

fn constraint(raw: &raw::Constraint<'_>) -> DeviceConstraint {
    let rule = match (&raw.match_attribute, &raw.distinct_attribute) {
        (Some(name), _) => DeviceRule::Match(shared(name)),
        (None, Some(name)) => DeviceRule::Distinct(shared(name)),
        (None, None) => DeviceRule::Unknown,
    };
    DeviceConstraint { requests: raw.requests.iter().map(shared).collect(), rule }
}

fn allocation(raw: &raw::Allocation<'_>) -> Allocation {
    let result = |one: &raw::DeviceResult<'_>| DeviceResult {
        request: shared(&one.request),
        driver: shared(&one.driver),
        pool: shared(&one.pool),
        device: shared(&one.device),
        admin: one.admin_access,
    };
    let terms = |selector: &NodeSelector<'_>| selector.node_selector_terms.iter().map(term).collect();
    Allocation {
        devices: raw.devices.results.iter().map(result).collect(),
        nodes: raw.node_selector.as_ref().map(terms),
    }
}

impl From<raw::Claim<'_>> for ResourceClaimView {
    fn from(raw: raw::Claim<'_>) -> ResourceClaimView {
        let (meta, devices) = (raw.metadata, raw.spec.devices);
        let claim = ResourceClaim {
            requests: devices.requests.iter().map(request).collect(),
            constraints: devices.constraints.iter().map(constraint).collect(),
            allocation: raw.status.allocation.as_ref().map(allocation),
            terminating: meta.is_terminating(),
            owner: meta.controller().map(|owner| owner.uid.as_str().into()),
        };
        let mut tolerations = Vec::new();
        for (request, raw) in claim.requests.iter().zip(&devices.requests) {
            for (choice, raw) in request.choices.iter().zip(raw.exactly.iter().chain(&raw.first_available)) {
                let values: Vec<Value> = raw.tolerations.iter().map(|one| one.value.clone()).collect();
                if !values.is_empty() {
                    tolerations.push((request.full_name(choice), values));
                }
            }
        }
        let reserved_for = raw.status.reserved_for;
        ResourceClaimView { claim, reserved_for, config: devices.config, tolerations, meta: slim(meta) }
    }
}

impl From<raw::Class<'_>> for DeviceClassView {
    fn from(raw: raw::Class<'_>) -> DeviceClassView {
        let class = DeviceClass { selectors: selectors(&raw.spec.selectors) };
        DeviceClassView { class, config: raw.spec.config, meta: slim(raw.metadata) }
    }
}

fn reach(node: &Text<'_>, all: bool, selector: Option<&NodeSelector<'_>>) -> Reach {
    match selector {
        _ if !node.is_empty() => Reach::Node(shared(node)),
        _ if all => Reach::AllNodes,
        Some(selector) => Reach::Selected(selector.node_selector_terms.iter().map(term).collect()),
        None => Reach::Nowhere,
    }
}

/// An amount that cannot be read is more than there is.
fn counters(raw: &[raw::CounterSet<'_>], of: impl Fn(&raw::CounterSet<'_>) -> Arc<str>) -> Vec<Counter> {
    let mut counters = Vec::new();
    for set in raw {
        let amount = |amount: &raw::Amount<'_>| quantity::millis(&amount.value).unwrap_or(i64::MAX);
        let counter = |(name, value): (&String, &raw::Amount<'_>)| Counter {
            set: of(set),
            name: name.as_str().into(),
            amount: amount(value),
        };
        counters.extend(set.counters.iter().map(counter));
    }
    counters
}

fn attribute(raw: &raw::Attribute<'_>) -> Option<Attribute> {
    let text = raw.string.as_ref().map(|text| Attribute::Text(shared(text)));
    let number = raw.int.map(Attribute::Int).or(raw.bool.map(Attribute::Bool));
    number.or(text).or(raw.version.as_ref().map(|text| Attribute::Version(shared(text))))
}

fn device(raw: &raw::Device<'_>, per_device: bool) -> Device {
    let taint = |taint: &RawTaint<'_>| {
        let effect = Effect::parse(&taint.effect).filter(|effect| *effect != Effect::PreferNoSchedule)?;
        Some(Taint { key: taint.key.to_string(), value: taint.value.to_string(), effect })
    };
    let named = |(name, value): (&String, &raw::Attribute<'_>)| Some((name.as_str().into(), attribute(value)?));
    Device {
        name: shared(&raw.name),
        attributes: raw.attributes.iter().filter_map(named).collect(),
        capacity: raw.capacity.iter().map(|(name, one)| (name.as_str().into(), shared(&one.value))).collect(),
        taints: raw.taints.iter().filter_map(taint).collect(),
        reach: per_device.then(|| reach(&raw.node_name, raw.all_nodes, raw.node_selector.as_ref())),
        counters: counters(&raw.consumes_counters, |set| shared(&set.counter_set)),
        unsupported: !raw.binding_conditions.is_empty()
            || raw.binds_to_node
            || raw.allow_multiple_allocations
            || raw.node_allocatable_resource_mappings.is_some(),
    }
}

impl From<raw::Slice<'_>> for ResourceSliceView {
    fn from(raw: raw::Slice<'_>) -> ResourceSliceView {
        let spec = raw.spec;
        let per_device = spec.per_device_node_selection;
        let slice = ResourceSlice {
            driver: shared(&spec.driver),
            pool: shared(&spec.pool.name),
            generation: spec.pool.generation,
            slices: spec.pool.resource_slice_count,
            reach: if per_device {
                Reach::PerDevice
            } else {
                reach(&spec.node_name, spec.all_nodes, spec.node_selector.as_ref())
            },
            devices: spec.devices.iter().map(|one| device(one, per_device)).collect(),
            counters: counters(&spec.shared_counters, |set| shared(&set.name)),
        };
        ResourceSliceView { slice, meta: slim(raw.metadata) }
    }
}

/// Puts a pod's claims into its template.
pub fn complete(template: &mut PodTemplate, meta: &Meta<'_>, spec: &PodSpec<'_>, status: &PodStatus<'_>) {
    for used in &spec.resource_claims {
        if let Some(name) = &used.resource_claim_name {
            template.claims.push(ClaimUse::Named(shared(name)));
            continue;
        }
        let made = status.resource_claim_statuses.iter().find(|made| *made.name == *used.name);
        match made.map(|made| &made.resource_claim_name) {
            Some(Some(claim)) => {
                template.claims.push(ClaimUse::Generated { claim: shared(claim), pod: shared(&meta.name) });
                template.uid = Some(shared(&meta.uid));
            }
            // None was needed.
            Some(None) => {}
            None => template.claims.push(ClaimUse::Awaited { pod: shared(&meta.name) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: for<'de> Deserialize<'de>>(json: &str) -> T {
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))
    }

    #[test]
    fn a_claim_is_read_in_full() {
        let view: ResourceClaimView = read(
            r#"{"metadata":{"name":"gpu","namespace":"d","uid":"c","resourceVersion":"7","finalizers":["x"],
                "ownerReferences":[{"uid":"p","controller":true}]},
              "spec":{"devices":{
                "requests":[
                  {"name":"a","exactly":{"deviceClassName":"gpu.com","allocationMode":"ExactCount","count":2,
                    "adminAccess":true,"selectors":[{"cel":{"expression":"true"}}],
                    "tolerations":[{"key":"k","operator":"Exists","effect":"NoSchedule"}]}},
                  {"name":"b","firstAvailable":[{"name":"big","deviceClassName":"big.com","allocationMode":"All"},
                    {"name":"small","deviceClassName":"small.com"}]},
                  {"name":"c","exactly":{"deviceClassName":"gpu.com","capacity":{"requests":{"memory":"1Gi"}}}},
                  {"name":"d"}],
                "constraints":[{"requests":["a"],"matchAttribute":"gpu.com/numa"},{"distinctAttribute":"gpu.com/id"},{}],
                "config":[{"opaque":{"driver":"gpu.com","parameters":{"x":1}}}]}},
              "status":{"reservedFor":[{"resource":"pods","name":"p","uid":"p1"}],
                "allocation":{"devices":{"results":[{"request":"b/small","driver":"gpu.com","pool":"n","device":"d0"}]},
                  "nodeSelector":{"nodeSelectorTerms":[{"matchFields":[
                    {"key":"metadata.name","operator":"In","values":["n"]}]}]}}}}"#,
        );
        let claim = &view.claim;
        let [a, b, c, d] = claim.requests.as_slice() else { panic!("{claim:?}") };
        let choice = &a.choices[0];
        assert_eq!((&*choice.class, choice.amount, choice.admin), ("gpu.com", Amount::Exactly(2), true));
        assert_eq!((choice.selectors.len(), choice.tolerations.len(), &*choice.name), (1, 1, ""));
        assert_eq!(b.choices.iter().map(|one| one.amount).collect::<Vec<_>>(), [Amount::All, Amount::Exactly(1)]);
        assert_eq!((&*b.choices[1].name, c.choices.len(), d.choices.len()), ("small", 0, 0));
        assert_eq!(claim.constraints[0].rule, DeviceRule::Match("gpu.com/numa".into()));
        assert_eq!(claim.constraints[1].rule, DeviceRule::Distinct("gpu.com/id".into()));
        assert_eq!(claim.constraints[2].rule, DeviceRule::Unknown);
        assert_eq!((claim.owner.as_deref(), claim.terminating), (Some("p"), false));
        let allocation = claim.allocation.as_ref().unwrap();
        assert_eq!((&*allocation.devices[0].device, allocation.nodes.as_ref().unwrap().len()), ("d0", 1));
        assert!(view.is_reserved_for("p1") && !view.is_reserved_for("p2"));
        assert_eq!((view.config.len(), view.tolerations.len(), view.meta.finalizers.len()), (1, 1, 1));
        assert_eq!(&*view.tolerations[0].0, "a");
    }

    #[test]
    fn a_slice_is_read_in_full() {
        let view: ResourceSliceView = read(
            r#"{"metadata":{"name":"s"},"spec":{"driver":"gpu.com","nodeName":"n",
              "pool":{"name":"n","generation":3,"resourceSliceCount":2},
              "sharedCounters":[{"name":"mem","counters":{"slots":{"value":"7"}}}],
              "devices":[{"name":"d0","attributes":{"model":{"string":"x"},"n":{"int":3},"ok":{"bool":false},
                  "v":{"version":"1.0.0"},"odd":{"strings":["a"]}},"capacity":{"memory":{"value":"4Gi"}},
                "consumesCounters":[{"counterSet":"mem","counters":{"slots":{"value":"500m"}}}],
                "taints":[{"key":"k","effect":"NoExecute"},{"key":"z","effect":"None"}]},
                {"name":"d1","bindingConditions":["ready"]},{"name":"d2","allowMultipleAllocations":true}]}}"#,
        );
        let slice = &view.slice;
        assert_eq!((slice.generation, slice.slices, &slice.reach), (3, 2, &Reach::Node("n".into())));
        assert_eq!(slice.counters, [Counter { set: "mem".into(), name: "slots".into(), amount: 7000 }]);
        let device = &slice.devices[0];
        assert_eq!((device.attributes.len(), device.taints.len(), device.counters[0].amount), (4, 1, 500));
        assert_eq!(device.attribute("gpu.com", "gpu.com/v"), Some(&Attribute::Version("1.0.0".into())));
        assert_eq!(device.capacity, [("memory".into(), "4Gi".into())]);
        let unsupported: Vec<bool> = slice.devices.iter().map(|device| device.unsupported).collect();
        assert_eq!(unsupported, [false, true, true]);
        let per_device: ResourceSliceView = read(
            r#"{"metadata":{"name":"s"},"spec":{"driver":"gpu.com","perDeviceNodeSelection":true,
              "devices":[{"name":"d0","allNodes":true},{"name":"d1","nodeSelector":{"nodeSelectorTerms":[]}},{"name":"d2"}]}}"#,
        );
        let reaches: Vec<_> = per_device.slice.devices.into_iter().filter_map(|device| device.reach).collect();
        assert_eq!(reaches, [Reach::AllNodes, Reach::Selected(vec![]), Reach::Nowhere]);
        assert_eq!(per_device.slice.reach, Reach::PerDevice);
    }
}
