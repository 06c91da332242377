//! One class looking at devices: `DynamicResources`, with all that does not depend on the node worked out once.

use crate::allocator::{Allocator, Wanted, full_name, score_of};
use crate::device::{ClaimUse, DevicePlan};
use crate::ledger::NodeId;
use crate::pod::Class;
use crate::reason::{Filter, Reason};
use crate::selector::Term;
use crate::state::State;

/// Valid until anything about devices, claims or node labels changes.
#[derive(Debug, Default)]
pub(crate) struct Allotment {
    refusal: Option<Reason>,
    /// The nodes of each claim that has devices, where they are not all.
    bound: Vec<Vec<Term>>,
    wanted: Vec<Wanted>,
    /// How early the choices come that claims with devices were given. It counts where others are given some.
    score: i64,
}

fn refuse<T>(text: String) -> Result<T, Reason> {
    Err(Reason::Refused(Filter::DynamicResources, text.into()))
}

impl Allotment {
    /// `None` for a class without claims.
    pub fn new(state: &State, class: &Class) -> Option<Allotment> {
        if class.template.claims.is_empty() || !class.profile.filters.contains(Filter::DynamicResources) {
            return None;
        }
        let mut allotment = Allotment::default();
        allotment.refusal = allotment.open(state, class).err();
        Some(allotment)
    }

    /// Why no node has to be asked.
    pub fn refusal(&self) -> Option<&Reason> {
        self.refusal.as_ref()
    }

    fn open(&mut self, state: &State, class: &Class) -> Result<(), Reason> {
        let template = &class.template;
        let namespace = &template.namespace;
        let mut claims: Vec<Wanted> = Vec::with_capacity(template.claims.len());
        for used in &template.claims {
            let (name, pod) = match used {
                ClaimUse::Named(name) => (name, None),
                ClaimUse::Generated { claim, pod } => (claim, Some(pod)),
                ClaimUse::Awaited { pod } => {
                    return refuse(format!("pod \"{namespace}/{pod}\": ResourceClaim not created yet"));
                }
            };
            let key = (namespace.clone(), name.clone());
            let Some(claim) = state.inventory.claim(&key) else {
                return refuse(format!("could not find ResourceClaim \"{namespace}/{name}\""));
            };
            if claim.terminating {
                return refuse(format!("resourceclaim {name:?} is being deleted"));
            }
            if let Some(pod) = pod
                && (claim.owner.is_none() || claim.owner != template.uid)
            {
                return refuse(format!(
                    "ResourceClaim {namespace}/{name} was not created for Pod {namespace}/{pod} (Pod is not owner)"
                ));
            }
            // A claim that is named twice is allocated once.
            if claims.iter().all(|(have, _)| *have != key) {
                claims.push((key, claim.clone()));
            }
        }
        for (key, claim) in claims {
            if let Some(allocation) = &claim.allocation {
                self.score += score_of(&claim);
                let terms = allocation.nodes.as_ref();
                self.bound
                    .extend(terms.map(|terms| terms.iter().map(|term| Term::compile(term, &state.labels)).collect()));
                continue;
            }
            if state.inventory.awaits(&key) {
                return refuse(format!("resource claim {} is in the process of being allocated", full_name(&key)));
            }
            for request in &claim.requests {
                if request.choices.is_empty() {
                    let claim = full_name(&key);
                    return refuse(format!("resource claim {claim}, request {}: unknown request type", request.name));
                }
                let missing = |name: &str| state.inventory.class(name).is_none();
                if let Some(choice) = request.choices.iter().find(|choice| missing(&choice.class)) {
                    let (request, class) = (request.full_name(choice), &choice.class);
                    return refuse(format!("request {request}: device class {class} does not exist"));
                }
            }
            self.wanted.push((key, claim));
        }
        Ok(())
    }

    /// What a node is worth by the devices that it has, before that is normalised.
    ///
    /// # Errors
    /// Why the node does not take the pod.
    pub fn judge(&self, state: &State, id: NodeId) -> Result<i64, Reason> {
        self.search(state, id).map(|found| found.map_or(0, |allocator| self.score + allocator.score()))
    }

    /// What the claims without devices are given on a node.
    ///
    /// # Errors
    /// Why the node does not take the pod.
    pub fn plan(&self, state: &State, id: NodeId) -> Result<DevicePlan, Reason> {
        self.search(state, id).map(|found| found.map_or(DevicePlan::default(), |allocator| allocator.plan()))
    }

    fn search<'a>(&'a self, state: &'a State, id: NodeId) -> Result<Option<Allocator<'a>>, Reason> {
        let found = match self.wanted.as_slice() {
            [] => None,
            wanted => Some(Allocator::run(state, id, wanted)?),
        };
        let node = state.node(id);
        let here = |term: &Term| term.matches(&node.name, &node.labels, &state.labels);
        if self.bound.iter().any(|terms| !terms.iter().any(here)) { Err(Reason::ClaimElsewhere) } else { Ok(found) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use crate::device::{
        Amount, Attribute, ClaimUse, Device, DeviceChoice, DeviceClass, DeviceConstraint, DeviceRequest, DeviceRule,
        DeviceSelector, Reach, ResourceClaim, ResourceSlice, SelectorLanguage,
    };
    use crate::{Cluster, Decision, Events, NodeSpec, Pod, PodId, PodTemplate};

    /// Knows the words `yes`, `heavy` (the device has some capacity) and `fail`.
    #[derive(Debug)]
    struct Words;

    #[derive(Debug)]
    struct Word(String);

    impl SelectorLanguage for Words {
        fn compile(&self, expression: &str) -> Result<Box<dyn DeviceSelector>, String> {
            let known = ["yes", "heavy", "fail"].contains(&expression);
            if known { Ok(Box::new(Word(expression.into()))) } else { Err("no such word".into()) }
        }
    }

    impl DeviceSelector for Word {
        fn matches(&self, _: &str, device: &Device) -> Result<bool, String> {
            match self.0.as_str() {
                "fail" => Err("no such key: model".into()),
                word => Ok(word == "yes" || !device.capacity.is_empty()),
            }
        }
    }

    struct World {
        cluster: Cluster,
        next: u64,
    }

    impl World {
        /// Nodes, each with so many devices of its own, numbered by the attribute `gpu.com/at`.
        fn new(nodes: &[(&str, usize)]) -> World {
            let mut cluster = Cluster::default();
            cluster.set_selector_language(Arc::new(Words));
            cluster.set_device_class(&"gpu".into(), Some(DeviceClass { selectors: vec!["yes".into()] }));
            for (name, devices) in nodes {
                cluster.upsert_node(&NodeSpec { name: (*name).into(), pods: 110, ..NodeSpec::default() });
                let device = |at: usize| Device {
                    name: format!("gpu-{at}").into(),
                    attributes: vec![("at".into(), Attribute::Int(at as i64 / 2))],
                    ..Device::default()
                };
                let slice = ResourceSlice {
                    driver: "gpu.com".into(),
                    pool: (*name).into(),
                    generation: 1,
                    slices: 1,
                    reach: Reach::Node((*name).into()),
                    devices: (0..*devices).map(device).collect(),
                    counters: Vec::new(),
                };
                cluster.set_resource_slice(&(*name).into(), Some(slice));
            }
            World { cluster, next: 0 }
        }

        fn claim(&mut self, name: &str, claim: Option<ResourceClaim>) -> Events {
            self.cluster.set_resource_claim(&"d".into(), &name.into(), claim)
        }

        fn place(&mut self, claims: Vec<ClaimUse>) -> (PodId, Result<String, String>) {
            self.next += 1;
            let id = PodId(self.next);
            let template =
                PodTemplate { namespace: "d".into(), claims, uid: Some("u".into()), ..PodTemplate::default() };
            let class = self.cluster.class(&Arc::new(template));
            let decision = self.cluster.schedule(&[Pod { id, class, priority: 0 }]).remove(0);
            let told = match decision {
                Decision::Bound(node) => Ok(self.cluster.node_name(node).to_string()),
                Decision::Unschedulable(diagnosis) => Err(diagnosis.to_string()),
            };
            (id, told)
        }

        fn place_one(&mut self, claim: &str) -> Result<String, String> {
            self.place(vec![ClaimUse::Named(claim.into())]).1
        }
    }

    fn choice(name: &str, count: usize) -> DeviceChoice {
        DeviceChoice {
            name: name.into(),
            class: "gpu".into(),
            selectors: Vec::new(),
            amount: Amount::Exactly(count),
            admin: false,
            tolerations: Vec::new(),
        }
    }

    fn asking(choices: Vec<DeviceChoice>) -> ResourceClaim {
        let requests = vec![DeviceRequest { name: "r".into(), choices }];
        ResourceClaim { requests, owner: Some("u".into()), ..ResourceClaim::default() }
    }

    fn refused(why: &str) -> Result<String, String> {
        Err(format!("0/1 nodes are available: {why}."))
    }

    #[test]
    fn what_keeps_a_pod_from_all_nodes_is_told() {
        let mut world = World::new(&[("n", 1)]);
        let awaited = ClaimUse::Awaited { pod: "web-0".into() };
        assert_eq!(world.place(vec![awaited]).1, refused("pod \"d/web-0\": ResourceClaim not created yet"));
        assert_eq!(world.place_one("a"), refused("could not find ResourceClaim \"d/a\""));
        world.claim("a", Some(ResourceClaim { terminating: true, ..asking(vec![choice("", 1)]) }));
        assert_eq!(world.place_one("a"), refused("resourceclaim \"a\" is being deleted"));
        world.claim("a", Some(ResourceClaim { owner: None, ..asking(vec![choice("", 1)]) }));
        let generated = ClaimUse::Generated { claim: "a".into(), pod: "web-0".into() };
        assert_eq!(
            world.place(vec![generated]).1,
            refused("ResourceClaim d/a was not created for Pod d/web-0 (Pod is not owner)")
        );
        let lost = DeviceChoice { class: "lost".into(), ..choice("big", 1) };
        world.claim("a", Some(asking(vec![lost])));
        assert_eq!(world.place_one("a"), refused("request r/big: device class lost does not exist"));
        world.claim("a", Some(asking(vec![])));
        assert_eq!(world.place_one("a"), refused("resource claim d/a, request r: unknown request type"));
        world.claim("a", Some(asking(vec![choice("", 1)])));
        assert_eq!(world.place_one("a"), Ok("n".into()));
        assert_eq!(world.place_one("a"), refused("resource claim d/a is in the process of being allocated"));
    }

    #[test]
    fn what_keeps_a_pod_from_a_node_is_told() {
        let mut world = World::new(&[("n", 24)]);
        let why = |world: &mut World, claim: ResourceClaim| {
            world.claim("a", Some(claim));
            world.place_one("a").map_err(|why| why.trim_start_matches("0/1 nodes are available: 1 ").to_string())
        };
        let with = |selector: &str| asking(vec![DeviceChoice { selectors: vec![selector.into()], ..choice("", 1) }]);
        assert_eq!(why(&mut world, asking(vec![choice("", 25)])), Err("cannot allocate all claims.".into()));
        let many = "claim d/a: number of requested devices 33 exceeds the claim limit of 32.";
        assert_eq!(why(&mut world, asking(vec![choice("", 33)])), Err(many.into()));
        assert_eq!(
            why(&mut world, with("odd")),
            Err("claim d/a: selector #0: CEL compile error: no such word.".into())
        );
        let failed = "claim d/a: selector #0: CEL runtime error: no such key: model.";
        assert_eq!(why(&mut world, with("fail")), Err(failed.into()));
        assert_eq!(why(&mut world, asking(vec![choice("", 24)])), Ok("n".into()));
        world.claim("b", Some(asking(vec![choice("", 1)])));
        assert_eq!(world.place_one("b"), refused("1 cannot allocate all claims"));
        // 31 numbers, each twice: 32 that differ are not to be had, and there are more tries than anybody has time for.
        let mut world = World::new(&[("n", 62)]);
        let rule = DeviceRule::Distinct("gpu.com/at".into());
        let constraints = vec![DeviceConstraint { requests: Vec::new(), rule }];
        let distinct = ResourceClaim { constraints, ..asking(vec![choice("", 32)]) };
        assert_eq!(why(&mut world, distinct), Err("timed out trying to allocate devices.".into()));
    }

    #[test]
    fn a_claim_with_devices_is_where_they_are() {
        let mut world = World::new(&[("a", 1), ("b", 1)]);
        world.claim("c", Some(ResourceClaim { owner: None, ..asking(vec![choice("", 1)]) }));
        let (first, node) = world.place(vec![ClaimUse::Named("c".into())]);
        assert!(world.place_one("c").is_err(), "it is being given some");
        let plan = world.cluster.device_plan(first).cloned().expect("placed");
        let given = ResourceClaim { owner: None, allocation: Some(plan[0].1.clone()), ..asking(vec![choice("", 1)]) };
        assert_eq!(world.claim("c", Some(given.clone())), Events::DEVICES, "others wait for that");
        assert!(world.cluster.promises_nothing());
        assert_eq!(world.place_one("c"), node, "pods share it");
        assert!(world.cluster.remove_node(&node.expect("placed")));
        assert_eq!(world.place_one("c"), refused("1 resourceclaim not available on the node"));
        assert_eq!(world.claim("c", Some(given)), Events::default(), "nothing new");
        assert_eq!(world.claim("c", None), Events::DEVICES);
    }

    #[test]
    fn a_device_of_another_generation_is_another_device() {
        let mut world = World::new(&[("n", 1)]);
        let capacity = vec![("memory".into(), "1Gi".into())];
        let newer = ResourceSlice {
            driver: "gpu.com".into(),
            pool: "n".into(),
            generation: 2,
            slices: 1,
            reach: Reach::Node("n".into()),
            devices: vec![Device { name: "gpu-0".into(), capacity, ..Device::default() }],
            counters: Vec::new(),
        };
        let heavy = || asking(vec![DeviceChoice { selectors: vec!["heavy".into()], ..choice("", 1) }]);
        world.claim("a", Some(heavy()));
        assert!(world.place_one("a").is_err());
        world.cluster.set_resource_slice(&"newer".into(), Some(newer));
        let (id, node) = world.place(vec![ClaimUse::Named("a".into())]);
        assert_eq!(node, Ok("n".into()));
        world.cluster.remove_pod(id);
        world.cluster.set_resource_slice(&"newer".into(), None);
        assert!(world.place_one("a").is_err(), "what was said of its namesake does not count");
    }

    #[test]
    fn the_node_with_the_earlier_choice_is_better() {
        let mut world = World::new(&[("one", 1), ("two", 2), ("none", 0)]);
        for _ in 0..20 {
            world.claim("c", Some(asking(vec![choice("pair", 2), choice("single", 1)])));
            let (id, node) = world.place(vec![ClaimUse::Named("c".into())]);
            assert_eq!(node, Ok("two".into()));
            world.cluster.remove_pod(id);
            world.claim("c", None);
        }
    }
}
