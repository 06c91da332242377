//! Random devices, classes of them, and claims.

use std::collections::BTreeMap;
use std::sync::Arc;

use kelson_sched::{
    Amount, Attribute, ClaimUse, Cluster, Counter, Device, DeviceChoice, DeviceClass, DeviceConstraint, DeviceRequest,
    DeviceRule, DeviceSelector, Effect, NodeSelectorTerm, Operator, PodTemplate, Reach, Requirement, ResourceClaim,
    ResourceSlice, SelectorLanguage, Taint, Toleration, TolerationOperator,
};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::random::disks::Key;
use crate::random::pick;

pub const NAMESPACES: [&str; 3] = ["shop", "bank", "farm"];
const MODEL: &str = "gpu.com/model";

/// `model=VALUE`, or `not model=VALUE`; `must model=VALUE` fails on a device without a model.
#[derive(Debug)]
pub struct Words;

#[derive(Debug)]
struct Sentence {
    value: Attribute,
    wanted: bool,
    must: bool,
}

impl SelectorLanguage for Words {
    fn compile(&self, expression: &str) -> Result<Box<dyn DeviceSelector>, String> {
        let (word, rest) = expression.split_once(' ').unwrap_or(("", expression));
        let value = rest.strip_prefix("model=").ok_or("no such word")?;
        Ok(Box::new(Sentence { value: Attribute::Text(value.into()), wanted: word != "not", must: word == "must" }))
    }
}

impl DeviceSelector for Sentence {
    fn matches(&self, driver: &str, device: &Device) -> Result<bool, String> {
        let model = device.attribute(driver, MODEL);
        if self.must && model.is_none() {
            return Err("no such key: model".into());
        }
        Ok((model == Some(&self.value)) == self.wanted)
    }
}

/// All that is known of devices.
#[derive(Clone, Debug, Default)]
pub struct Gear {
    pub claims: BTreeMap<Key, ResourceClaim>,
    pub slices: BTreeMap<Arc<str>, ResourceSlice>,
    pub classes: BTreeMap<Arc<str>, DeviceClass>,
}

fn zone(rng: &mut StdRng) -> NodeSelectorTerm {
    let values = vec![pick(rng, &["a", "b", "c"]).into()];
    let expressions = vec![Requirement { key: "zone".into(), operator: Operator::In, values }];
    NodeSelectorTerm { expressions, fields: Vec::new() }
}

fn reach(rng: &mut StdRng) -> Reach {
    match rng.random_range(0..8) {
        0 => Reach::AllNodes,
        1 => Reach::Selected(vec![zone(rng)]),
        _ => Reach::Node(format!("node-{}", rng.random_range(0..4)).into()),
    }
}

fn taint(rng: &mut StdRng) -> Taint {
    let effect = pick(rng, &[Effect::NoSchedule, Effect::NoExecute]);
    Taint { key: "worn".into(), value: pick(rng, &["", "much"]).into(), effect }
}

fn toleration(rng: &mut StdRng) -> Toleration {
    Toleration {
        key: pick(rng, &["worn", ""]).into(),
        operator: pick(rng, &[TolerationOperator::Exists, TolerationOperator::Equal]),
        value: String::new(),
        effect: rng.random_bool(0.3).then_some(Effect::NoSchedule),
    }
}

fn device(rng: &mut StdRng, name: &str) -> Device {
    let mut device = Device { name: name.into(), unsupported: rng.random_bool(0.03), ..Device::default() };
    let domain = pick(rng, &["gpu.com/", ""]);
    if rng.random_bool(0.9) {
        let model = Attribute::Text(pick(rng, &["big", "small"]).into());
        device.attributes.push((format!("{domain}model").into(), model));
    }
    if rng.random_bool(0.9) {
        let value = match rng.random_range(0..6) {
            0 => Attribute::Version("1.0.0".into()),
            1 => Attribute::Text("1.0.0".into()),
            at => Attribute::Int(at / 2),
        };
        device.attributes.push((format!("{domain}numa").into(), value));
    }
    if rng.random_bool(0.15) {
        device.taints.push(taint(rng));
    }
    device
}

/// One of two counters that devices share.
fn counter(rng: &mut StdRng, amount: i64) -> Counter {
    Counter { set: "memory".into(), name: pick(rng, &["slots", "slots", "lanes"]).into(), amount: 1000 * amount }
}

/// Few pools, so that slices share them; a name in a pool may be there twice.
pub fn slice(rng: &mut StdRng) -> ResourceSlice {
    let per_device = rng.random_bool(0.15);
    let reach = if per_device { Reach::PerDevice } else { reach(rng) };
    let mut slice = ResourceSlice {
        driver: pick(rng, &["gpu.com", "gpu.com", "gpu.com", "nic.com"]).into(),
        // A node's pool has its name, as drivers do it.
        pool: match &reach {
            Reach::Node(name) if rng.random_bool(0.9) => name.clone(),
            _ => pick(rng, &["pool-0", "pool-1"]).into(),
        },
        generation: pick(rng, &[1, 1, 1, 1, 2]),
        slices: 1,
        reach,
        devices: Vec::new(),
        counters: Vec::new(),
    };
    // One driver shares counters among devices, all of the first generation.
    let counted = &*slice.driver == "gpu.com" && rng.random_bool(0.35);
    if counted {
        slice.generation = 1;
    }
    if counted && rng.random_bool(0.45) {
        slice.reach = if per_device { Reach::AllNodes } else { slice.reach };
        for name in ["slots", "lanes"] {
            slice.counters.push(Counter { set: "memory".into(), name: name.into(), amount: 4000 });
        }
        return slice;
    }
    for at in 0..rng.random_range(1..5) {
        let name = format!("gpu-{}", if rng.random_bool(0.05) { 0 } else { at });
        let mut device = device(rng, &name);
        device.reach = per_device.then(|| self::reach(rng));
        if counted {
            let amount = rng.random_range(1..4);
            device.counters.push(counter(rng, amount));
        }
        slice.devices.push(device);
    }
    slice
}

/// How many slices the pools say that they have: mostly as many as there are.
pub fn count(rng: &mut StdRng, slices: &mut BTreeMap<Arc<str>, ResourceSlice>) {
    let mut counts: BTreeMap<(Arc<str>, Arc<str>, i64), i64> = BTreeMap::new();
    let key = |slice: &ResourceSlice| (slice.driver.clone(), slice.pool.clone(), slice.generation);
    slices.values().for_each(|slice| *counts.entry(key(slice)).or_default() += 1);
    counts.values_mut().for_each(|count| *count += i64::from(rng.random_bool(0.1)));
    slices.values_mut().for_each(|slice| slice.slices = counts[&key(slice)]);
}

fn choice(rng: &mut StdRng, name: &str) -> DeviceChoice {
    let expressions = ["model=big", "model=small", "not model=big"];
    let amount = match rng.random_range(0..10) {
        0 => Amount::All,
        1 | 2 => Amount::Exactly(2),
        3 => Amount::Exactly(pick(rng, &[3, 4, 33])),
        _ => Amount::Exactly(1),
    };
    DeviceChoice {
        name: name.into(),
        class: if rng.random_bool(0.03) { "lost" } else { pick(rng, &["any", "any", "big"]) }.into(),
        selectors: if rng.random_bool(0.2) { vec![pick(rng, &expressions).into()] } else { vec![] },
        amount,
        admin: name.is_empty() && rng.random_bool(0.1),
        tolerations: if rng.random_bool(0.2) { vec![toleration(rng)] } else { vec![] },
    }
}

/// A claim, mostly without devices; those that it has may be anybody's.
pub fn claim(rng: &mut StdRng, slices: &BTreeMap<Arc<str>, ResourceSlice>) -> ResourceClaim {
    let mut claim = ResourceClaim {
        terminating: rng.random_bool(0.02),
        owner: rng.random_bool(0.9).then(|| "pod-uid".into()),
        ..ResourceClaim::default()
    };
    for at in 0..rng.random_range(1..3) {
        let name: Arc<str> = format!("r{at}").into();
        let choices = if rng.random_bool(0.3) {
            (0..rng.random_range(1..4)).map(|at| choice(rng, &format!("s{at}"))).collect()
        } else {
            vec![choice(rng, "")]
        };
        claim.requests.push(DeviceRequest { name, choices });
    }
    if rng.random_bool(0.3) {
        let attribute = Arc::from(pick(rng, &["gpu.com/numa", "gpu.com/model"]));
        let rule = match rng.random_range(0..20) {
            0 => DeviceRule::Unknown,
            1..8 => DeviceRule::Distinct(attribute),
            _ => DeviceRule::Match(attribute),
        };
        let requests: &[&str] = pick(rng, &[&[], &[], &["r0"], &["r0/s0", "r1"]]);
        claim
            .constraints
            .push(DeviceConstraint { requests: requests.iter().map(|name| (*name).into()).collect(), rule });
    }
    if rng.random_bool(0.25) {
        claim.allocation = Some(allocation(rng, &claim, slices));
    }
    claim
}

fn allocation(
    rng: &mut StdRng,
    claim: &ResourceClaim,
    slices: &BTreeMap<Arc<str>, ResourceSlice>,
) -> kelson_sched::Allocation {
    let mut allocation = kelson_sched::Allocation::default();
    let published: Vec<&ResourceSlice> = slices.values().filter(|slice| !slice.devices.is_empty()).collect();
    for request in &claim.requests {
        let (Some(choice), Some(slice)) = (request.choices.choose(rng), published.choose(rng)) else { continue };
        allocation.devices.push(kelson_sched::DeviceResult {
            request: request.full_name(choice),
            driver: slice.driver.clone(),
            pool: slice.pool.clone(),
            device: slice.devices[0].name.clone(),
            admin: choice.admin,
        });
    }
    if rng.random_bool(0.5) {
        let fields = vec![Requirement {
            key: "metadata.name".into(),
            operator: Operator::In,
            values: vec![format!("node-{}", rng.random_range(0..8)).into()],
        }];
        let named = NodeSelectorTerm { expressions: Vec::new(), fields };
        allocation.nodes = Some(vec![if rng.random_bool(0.5) { named } else { zone(rng) }]);
    }
    allocation
}

impl Gear {
    pub fn random(rng: &mut StdRng) -> Gear {
        let mut gear = Gear::default();
        gear.classes.insert("any".into(), DeviceClass::default());
        gear.classes.insert("big".into(), DeviceClass { selectors: vec!["model=big".into()] });
        for at in 0..rng.random_range(2..10) {
            gear.slices.insert(format!("slice-{at}").into(), slice(rng));
        }
        count(rng, &mut gear.slices);
        for namespace in NAMESPACES {
            for at in 0..6 {
                if rng.random_bool(0.95) {
                    let claim = claim(rng, &gear.slices);
                    gear.claims.insert((namespace.into(), format!("claim-{at}").into()), claim);
                }
            }
        }
        gear
    }

    /// Tells a cluster of everything.
    pub fn tell(&self, cluster: &mut Cluster) {
        cluster.set_selector_language(Arc::new(Words));
        for (name, one) in &self.slices {
            cluster.set_resource_slice(name, Some(one.clone()));
        }
        for (name, one) in &self.classes {
            cluster.set_device_class(name, Some(one.clone()));
        }
        for ((namespace, name), one) in &self.claims {
            cluster.set_resource_claim(namespace, name, Some(one.clone()));
        }
    }
}

/// Gives a pod claims, maybe.
pub fn equip(rng: &mut StdRng, template: &mut PodTemplate) {
    if rng.random_bool(0.6) {
        return;
    }
    for _ in 0..rng.random_range(1..3) {
        let claim = format!("claim-{}", rng.random_range(0..6)).into();
        template.claims.push(match rng.random_range(0..20) {
            0 => ClaimUse::Awaited { pod: "web-0".into() },
            1..6 => ClaimUse::Generated { claim, pod: "web-0".into() },
            _ => ClaimUse::Named(claim),
        });
    }
    template.uid = Some("pod-uid".into());
}
