//! Devices, their classes, and claims for them.

use std::sync::Arc;

use kelson_sched::{
    Allocation, Amount, Attribute, ClaimUse, Counter, Device, DeviceChoice, DeviceClass, DeviceConstraint,
    DeviceRequest, DeviceResult, DeviceRule, Reach, ResourceClaim, ResourceSlice,
};
use serde_json::{Map, Value, json};

use super::{node_term, taint, toleration};
use crate::gear::Gear;
use crate::random::disks::Key;

/// A claim in the spec of a pod, and in its status if it was made from a template.
pub fn used((at, claim): (usize, &ClaimUse)) -> (Value, Option<Value>) {
    let name = format!("c{at}");
    match claim {
        ClaimUse::Named(claim) => (json!({ "name": name, "resourceClaimName": &**claim }), None),
        ClaimUse::Generated { claim, .. } => {
            let made = json!({ "name": name, "resourceClaimName": &**claim });
            (json!({ "name": name, "resourceClaimTemplateName": "template" }), Some(made))
        }
        ClaimUse::Awaited { .. } => (json!({ "name": name, "resourceClaimTemplateName": "template" }), None),
    }
}

/// An expression of [`crate::gear::Words`] in CEL.
fn cel(expression: &str) -> String {
    let (word, rest) = expression.split_once(' ').unwrap_or(("", expression));
    let value = rest.trim_start_matches("model=");
    let is = format!("device.attributes['gpu.com'].model == '{value}'");
    let known = "'model' in device.attributes['gpu.com']";
    match word {
        "must" => is,
        "not" => format!("!({known} && {is})"),
        _ => format!("{known} && {is}"),
    }
}

fn selectors(expressions: &[Arc<str>]) -> Vec<Value> {
    expressions.iter().map(|one| json!({ "cel": { "expression": cel(one) } })).collect()
}

fn choice(choice: &DeviceChoice) -> Value {
    let mut value = json!({
        "deviceClassName": &*choice.class,
        "selectors": selectors(&choice.selectors),
        "tolerations": choice.tolerations.iter().map(toleration).collect::<Vec<_>>(),
    });
    match choice.amount {
        Amount::Exactly(count) => (value["allocationMode"], value["count"]) = (json!("ExactCount"), json!(count)),
        Amount::All => value["allocationMode"] = json!("All"),
    }
    if choice.admin {
        value["adminAccess"] = json!(true);
    }
    if !choice.name.is_empty() {
        value["name"] = json!(&*choice.name);
    }
    value
}

fn request(request: &DeviceRequest) -> Value {
    let name = &*request.name;
    match request.choices.as_slice() {
        [only] if only.name.is_empty() => json!({ "name": name, "exactly": choice(only) }),
        choices => json!({ "name": name, "firstAvailable": choices.iter().map(choice).collect::<Vec<_>>() }),
    }
}

fn constraint(constraint: &DeviceConstraint) -> Value {
    let mut value = json!({ "requests": constraint.requests.iter().map(|name| &**name).collect::<Vec<_>>() });
    match &constraint.rule {
        DeviceRule::Match(name) => value["matchAttribute"] = json!(&**name),
        DeviceRule::Distinct(name) => value["distinctAttribute"] = json!(&**name),
        DeviceRule::Unknown => {}
    }
    value
}

/// What a claim was given.
pub fn allocation(allocation: &Allocation) -> Value {
    let result = |one: &DeviceResult| {
        let (driver, pool, device) = (&*one.driver, &*one.pool, &*one.device);
        let mut value = json!({ "request": &*one.request, "driver": driver, "pool": pool, "device": device });
        if one.admin {
            value["adminAccess"] = json!(true);
        }
        value
    };
    let mut value = json!({ "devices": { "results": allocation.devices.iter().map(result).collect::<Vec<_>>() } });
    if let Some(terms) = &allocation.nodes {
        value["nodeSelector"] = json!({ "nodeSelectorTerms": terms.iter().map(node_term).collect::<Vec<_>>() });
    }
    value
}

fn claim((namespace, name): &Key, claim: &ResourceClaim) -> Value {
    let mut metadata = json!({ "namespace": &**namespace, "name": &**name, "uid": format!("{namespace}-{name}") });
    if claim.terminating {
        metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    if let Some(uid) = &claim.owner {
        let owner = json!({ "apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": &**uid, "controller": true });
        metadata["ownerReferences"] = json!([owner]);
    }
    json!({
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": metadata,
        "spec": { "devices": {
            "requests": claim.requests.iter().map(request).collect::<Vec<_>>(),
            "constraints": claim.constraints.iter().map(constraint).collect::<Vec<_>>(),
        } },
        "status": { "allocation": claim.allocation.as_ref().map(allocation) },
    })
}

/// Says where a slice, or a device, can be used.
fn reach(reach: &Reach, into: &mut Value) {
    match reach {
        Reach::Node(name) => into["nodeName"] = json!(&**name),
        Reach::AllNodes => into["allNodes"] = json!(true),
        Reach::Selected(terms) => {
            into["nodeSelector"] = json!({ "nodeSelectorTerms": terms.iter().map(node_term).collect::<Vec<_>>() });
        }
        Reach::PerDevice => into["perDeviceNodeSelection"] = json!(true),
        Reach::Nowhere => {}
    }
}

/// Counters by set.
fn counters(counters: &[Counter], set: &str) -> Vec<Value> {
    let mut sets: Vec<&Arc<str>> = counters.iter().map(|one| &one.set).collect();
    sets.sort_unstable();
    sets.dedup();
    let of_set = |name: &&Arc<str>| {
        let inside = counters.iter().filter(|one| one.set == **name);
        let amount = |one: &Counter| (one.name.to_string(), json!({ "value": format!("{}m", one.amount) }));
        json!({ set: &***name, "counters": inside.map(amount).collect::<Map<_, _>>() })
    };
    sets.iter().map(of_set).collect()
}

fn device(device: &Device) -> Value {
    let attribute = |(name, value): &(Arc<str>, Attribute)| {
        let value = match value {
            Attribute::Int(value) => json!({ "int": value }),
            Attribute::Bool(value) => json!({ "bool": value }),
            Attribute::Text(value) => json!({ "string": &**value }),
            Attribute::Version(value) => json!({ "version": &**value }),
        };
        (name.to_string(), value)
    };
    let mut value = json!({
        "name": &*device.name,
        "attributes": device.attributes.iter().map(attribute).collect::<Map<_, _>>(),
        "taints": device.taints.iter().map(taint).collect::<Vec<_>>(),
        "consumesCounters": counters(&device.counters, "counterSet"),
    });
    if let Some(one) = &device.reach {
        reach(one, &mut value);
    }
    value
}

fn slice(name: &str, slice: &ResourceSlice) -> Value {
    let mut spec = json!({
        "driver": &*slice.driver,
        "pool": { "name": &*slice.pool, "generation": slice.generation, "resourceSliceCount": slice.slices },
        "devices": slice.devices.iter().map(device).collect::<Vec<_>>(),
        "sharedCounters": counters(&slice.counters, "name"),
    });
    reach(&slice.reach, &mut spec);
    json!({ "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": { "name": name }, "spec": spec })
}

fn class(name: &str, class: &DeviceClass) -> Value {
    json!({
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": { "name": name },
        "spec": { "selectors": selectors(&class.selectors) },
    })
}

/// Everything that is known of devices, as API objects.
pub fn gear(gear: &Gear) -> Vec<Value> {
    let claims = gear.claims.iter().map(|(key, one)| claim(key, one));
    let slices = gear.slices.iter().map(|(name, one)| slice(name, one));
    let classes = gear.classes.iter().map(|(name, one)| class(name, one));
    claims.chain(slices).chain(classes).collect()
}
