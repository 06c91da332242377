//! The reference for devices: every combination tried, every device and counter looked up anew.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use kelson_sched::{
    Allocation, Amount, ClaimUse, Counter, Device, DeviceChoice, DevicePlan, DeviceRequest, DeviceResult, DeviceRule,
    Filter, NodeSelectorTerm, NodeSpec, Operator, PodTemplate, Reach, Requirement, ResourceClaim, ResourceSlice,
    SelectorLanguage,
};

use super::{Naive, matches};
use crate::gear::Words;
use crate::random::disks::Key;

/// Driver, pool and device.
type Id = (Arc<str>, Arc<str>, Arc<str>);

struct Usable<'a> {
    id: Id,
    device: &'a Device,
    reach: &'a Reach,
    /// The slices of its pool whose counters, and whose devices that are taken, count.
    counting: Rc<Vec<&'a ResourceSlice>>,
}

/// A device that a request of a claim gets.
#[derive(Clone)]
struct Pick<'a> {
    claim: usize,
    request: &'a DeviceRequest,
    choice: usize,
    usable: &'a Usable<'a>,
}

impl Pick<'_> {
    fn choice(&self) -> &DeviceChoice {
        &self.request.choices[self.choice]
    }

    fn is_named(&self, names: &[Arc<str>]) -> bool {
        names.is_empty() || names.contains(&self.request.name) || names.contains(&self.request.full_name(self.choice()))
    }
}

fn reaches(reach: &Reach, node: &NodeSpec) -> bool {
    match reach {
        Reach::Node(name) => *name == node.name,
        Reach::AllNodes => true,
        Reach::Selected(terms) => terms.iter().any(|term| matches(term, node)),
        Reach::PerDevice | Reach::Nowhere => false,
    }
}

/// Whether the constraints of the claims allow these together.
fn rules_hold(claims: &[(Key, &ResourceClaim)], picks: &[Pick<'_>]) -> bool {
    let of_claim = |(at, (_, claim)): (usize, &(Key, &ResourceClaim))| {
        claim.constraints.iter().all(|constraint| {
            let covered = picks.iter().filter(|pick| pick.claim == at && pick.is_named(&constraint.requests));
            let value = |pick: &Pick<'_>, name: &str| pick.usable.device.attribute(&pick.usable.id.0, name).cloned();
            let (name, distinct) = match &constraint.rule {
                DeviceRule::Match(name) => (name, false),
                DeviceRule::Distinct(name) => (name, true),
                DeviceRule::Unknown => return false,
            };
            let values: Vec<_> = covered.map(|pick| value(pick, name)).collect();
            let pairs = || (0..values.len()).flat_map(|at| (0..at).map(move |other| (at, other)));
            values.iter().all(Option::is_some) && pairs().all(|(at, other)| (values[at] == values[other]) != distinct)
        })
    };
    claims.iter().enumerate().all(of_claim)
}

/// All ways to take `count` of `all`, in order.
fn combinations(all: &[usize], count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![vec![]];
    }
    let mut found = Vec::new();
    for (at, first) in all.iter().enumerate() {
        for mut rest in combinations(&all[at + 1..], count - 1) {
            rest.insert(0, *first);
            found.push(rest);
        }
    }
    found
}

/// Slices of a pool.
type Slices<'a> = Vec<&'a ResourceSlice>;

/// What a node sees of a pool: slices with devices, and slices that count; or why it cannot be used.
fn sight<'a>(pool: &[&'a ResourceSlice], node: &NodeSpec) -> Option<Result<(Slices<'a>, Slices<'a>), &'static str>> {
    let concerns = |slice: &ResourceSlice| {
        let some_device =
            || slice.devices.iter().any(|one| one.reach.as_ref().is_some_and(|reach| reaches(reach, node)));
        !slice.counters.is_empty() || reaches(&slice.reach, node) || slice.reach == Reach::PerDevice && some_device()
    };
    let newest = pool.iter().filter(|slice| concerns(slice)).map(|slice| slice.generation).max()?;
    let of_generation: Slices<'a> = pool.iter().copied().filter(|slice| slice.generation == newest).collect();
    let concerned: Slices<'a> = of_generation.iter().copied().filter(|slice| concerns(slice)).collect();
    let expected = concerned[0].slices as usize;
    let counting = if concerned.len() == expected { concerned.clone() } else { of_generation };
    if concerned.len() != expected && pool.iter().any(|slice| slice.generation > newest) {
        return None;
    }
    if counting.len() != expected {
        return Some(Err("being updated"));
    }
    let devices: Slices<'a> = concerned.into_iter().filter(|slice| slice.counters.is_empty()).collect();
    let names: Vec<&Arc<str>> = devices.iter().flat_map(|slice| &slice.devices).map(|one| &one.name).collect();
    let names_are_unique = names.iter().collect::<BTreeSet<_>>().len() == names.len();
    let sets: Vec<&Arc<str>> = counting.iter().filter_map(|slice| Some(&slice.counters.first()?.set)).collect();
    let sets_are_unique = sets.iter().collect::<BTreeSet<_>>().len() == sets.len();
    let known = |taken: &Counter| {
        let mut all = counting.iter().flat_map(|slice| &slice.counters);
        all.any(|one| one.set == taken.set && one.name == taken.name)
    };
    let known = counting.iter().flat_map(|slice| &slice.devices).flat_map(|device| &device.counters).all(known);
    Some(if names_are_unique && sets_are_unique && known { Ok((devices, counting)) } else { Err("invalid") })
}

impl Naive {
    fn uses_devices(&self, pod: &PodTemplate) -> bool {
        self.profile(pod).filters.contains(Filter::DynamicResources)
    }

    fn claims_of(&self, pod: &PodTemplate) -> Vec<(Key, &ResourceClaim)> {
        let mut claims: Vec<(Key, &ResourceClaim)> = Vec::new();
        for used in &pod.claims {
            if let ClaimUse::Named(name) | ClaimUse::Generated { claim: name, .. } = used {
                let key = (pod.namespace.clone(), name.clone());
                if claims.iter().all(|(have, _)| *have != key) {
                    claims.push((key.clone(), &self.gear.claims[&key]));
                }
            }
        }
        claims
    }

    /// What a placed pod was promised for a claim that has no devices yet.
    fn promises(&self) -> BTreeMap<Key, &Allocation> {
        let mut all = BTreeMap::new();
        for held in self.pods.values().chain(self.away.values()) {
            for (name, allocation) in &held.devices {
                all.insert((held.template.namespace.clone(), name.clone()), allocation);
            }
        }
        all
    }

    /// Why no node is looked at.
    pub(super) fn refuse_devices(&self, pod: &PodTemplate) -> Option<String> {
        if !self.uses_devices(pod) {
            return None;
        }
        let namespace = &pod.namespace;
        for used in &pod.claims {
            let (name, owned) = match used {
                ClaimUse::Named(name) => (name, false),
                ClaimUse::Generated { claim, .. } => (claim, true),
                ClaimUse::Awaited { pod } => {
                    return Some(format!("pod \"{namespace}/{pod}\": ResourceClaim not created yet"));
                }
            };
            match self.gear.claims.get(&(namespace.clone(), name.clone())) {
                None => return Some(format!("could not find ResourceClaim \"{namespace}/{name}\"")),
                Some(claim) if claim.terminating => return Some(format!("resourceclaim \"{name}\" is being deleted")),
                Some(claim) if owned && claim.owner != pod.uid => {
                    return Some(format!(
                        "ResourceClaim {namespace}/{name} was not created for Pod {namespace}/web-0 (Pod is not owner)"
                    ));
                }
                Some(_) => {}
            }
        }
        for ((_, name), claim) in self.claims_of(pod).iter().filter(|(_, claim)| claim.allocation.is_none()) {
            if self.promises().contains_key(&(namespace.clone(), name.clone())) {
                return Some(format!("resource claim {namespace}/{name} is in the process of being allocated"));
            }
            for request in &claim.requests {
                for choice in &request.choices {
                    if !self.gear.classes.contains_key(&choice.class) {
                        let name = request.full_name(choice);
                        return Some(format!("request {name}: device class {} does not exist", choice.class));
                    }
                }
            }
        }
        None
    }

    fn taken(&self) -> Vec<Id> {
        let promised = self.promises().into_values().collect::<Vec<_>>();
        let given = self.gear.claims.values().filter_map(|claim| claim.allocation.as_ref());
        let devices = given.chain(promised).flat_map(|allocation| &allocation.devices).filter(|one| !one.admin);
        devices.map(|one| (one.driver.clone(), one.pool.clone(), one.device.clone())).collect()
    }

    /// What a node finds: devices in order, pools that change, pools that are wrong.
    fn usable(&self, node: &NodeSpec) -> (Vec<Usable<'_>>, Vec<(String, &'static str)>) {
        let mut usable = Vec::new();
        let mut useless = Vec::new();
        let pools: BTreeSet<(Arc<str>, Arc<str>)> =
            self.gear.slices.values().map(|slice| (slice.driver.clone(), slice.pool.clone())).collect();
        for (driver, pool) in pools {
            let of_pool: Vec<&ResourceSlice> =
                self.gear.slices.values().filter(|slice| slice.driver == driver && slice.pool == pool).collect();
            match sight(&of_pool, node) {
                None => {}
                Some(Err(why)) => useless.push((format!("{driver}/{pool}"), why)),
                Some(Ok((slices, counting))) => {
                    let counting = Rc::new(counting);
                    for (slice, device) in slices.iter().flat_map(|slice| slice.devices.iter().map(|one| (*slice, one)))
                    {
                        let reach = device.reach.as_ref().unwrap_or(&slice.reach);
                        if reaches(reach, node) {
                            let id = (driver.clone(), pool.clone(), device.name.clone());
                            usable.push(Usable { id, device, reach, counting: counting.clone() });
                        }
                    }
                }
            }
        }
        (usable, useless)
    }

    fn selects(&self, choice: &DeviceChoice, usable: &Usable<'_>) -> bool {
        let all = self.gear.classes[&choice.class].selectors.iter().chain(&choice.selectors);
        let holds = |text: &Arc<str>| Words.compile(text).expect("known").matches(&usable.id.0, usable.device);
        !usable.device.unsupported && all.into_iter().all(|text| holds(text).expect("no error"))
    }

    /// Whether these may be given together, but for constraints.
    fn is_possible(&self, picks: &[Pick<'_>]) -> bool {
        let taken = self.taken();
        for (at, pick) in picks.iter().enumerate() {
            let same = |other: &Pick<'_>| other.usable.id == pick.usable.id;
            let earlier = &picks[..at];
            let free = if pick.choice().admin {
                !earlier.iter().any(|other| other.claim == pick.claim && same(other))
            } else {
                !taken.contains(&pick.usable.id) && !earlier.iter().any(same)
            };
            let tolerated = pick
                .usable
                .device
                .taints
                .iter()
                .all(|taint| pick.choice().tolerations.iter().any(|one| one.tolerates(taint)));
            if !free || !tolerated {
                return false;
            }
        }
        picks.iter().filter(|pick| !pick.usable.device.counters.is_empty()).all(|pick| {
            let (driver, pool, _) = &pick.usable.id;
            let counting = &pick.usable.counting;
            let theirs = counting.iter().filter(|slice| slice.counters.is_empty()).flat_map(|slice| &slice.devices);
            let theirs = theirs.filter(|one| taken.contains(&(driver.clone(), pool.clone(), one.name.clone())));
            let of_pool = |other: &&Pick<'_>| other.usable.id.0 == *driver && other.usable.id.1 == *pool;
            let ours = picks.iter().filter(of_pool).map(|other| other.usable.device);
            let takers: Vec<&Device> = theirs.chain(ours).collect();
            counting.iter().flat_map(|slice| &slice.counters).all(|there| {
                let used = takers.iter().flat_map(|device| &device.counters);
                let used = used.filter(|one| one.set == there.set && one.name == there.name);
                used.map(|one| one.amount).sum::<i64>() <= there.amount
            })
        })
    }

    /// The first solution, if there is one.
    fn solve<'a>(
        &self,
        claims: &[(Key, &'a ResourceClaim)],
        usable: &'a [Usable<'a>],
        picks: &[Pick<'a>],
        claim: usize,
        request: usize,
    ) -> Result<Option<Vec<Pick<'a>>>, String> {
        let Some(((namespace, name), one)) = claims.get(claim) else { return Ok(Some(picks.to_vec())) };
        let Some(asked) = one.requests.get(request) else { return self.solve(claims, usable, picks, claim + 1, 0) };
        let have = picks.iter().filter(|pick| pick.claim == claim).count();
        for (choice, way) in asked.choices.iter().enumerate() {
            let good: Vec<usize> = (0..usable.len()).filter(|at| self.selects(way, &usable[*at])).collect();
            let pick = |at: &usize| Pick { claim, request: asked, choice, usable: &usable[*at] };
            let tries = match way.amount {
                Amount::Exactly(count) if have + count > 32 || count > good.len() => vec![],
                Amount::Exactly(count) => combinations(&good, count),
                Amount::All if good.is_empty() || have + good.len() > 32 => vec![],
                Amount::All => {
                    // A constraint that keeps one of them away is an error, unless something else did before.
                    for end in 1..=good.len() {
                        let all: Vec<Pick<'_>> = picks.iter().cloned().chain(good[..end].iter().map(pick)).collect();
                        if !self.is_possible(&all) {
                            break;
                        }
                        if !rules_hold(claims, &all) {
                            let (driver, pool, device) = &all[all.len() - 1].usable.id;
                            let asked = if way.name.is_empty() { &asked.name } else { &way.name };
                            return Err(format!(
                                "claim {namespace}/{name}, request {asked}: cannot add device {driver}/{pool}/{device} \
                                 because a claim constraint would not be satisfied"
                            ));
                        }
                    }
                    vec![good.clone()]
                }
            };
            for combination in tries {
                let all: Vec<Pick<'_>> = picks.iter().cloned().chain(combination.iter().map(pick)).collect();
                if self.is_possible(&all)
                    && rules_hold(claims, &all)
                    && let Some(found) = self.solve(claims, usable, &all, claim, request + 1)?
                {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    /// What would be promised on a node, and what the node is worth by it.
    pub fn devices(&self, pod: &PodTemplate, node: &NodeSpec) -> Result<(DevicePlan, i64), String> {
        if !self.uses_devices(pod) || pod.claims.is_empty() {
            return Ok((DevicePlan::default(), 0));
        }
        let claims = self.claims_of(pod);
        let open: Vec<(Key, &ResourceClaim)> =
            claims.iter().filter(|(_, claim)| claim.allocation.is_none()).cloned().collect();
        let (usable, useless) = self.usable(node);
        let mut plan = DevicePlan::default();
        let mut worth = 0;
        if !open.is_empty() {
            self.check(&open, &usable, &useless)?;
            let Some(picks) = self.solve(&open, &usable, &[], 0, 0)? else {
                let invalid = useless.iter().any(|(_, why)| *why == "invalid");
                return Err(if invalid {
                    "invalid resource pools were encountered"
                } else {
                    "cannot allocate all claims"
                }
                .into());
            };
            for (at, ((_, name), _)) in open.iter().enumerate() {
                let of_claim: Vec<&Pick<'_>> = picks.iter().filter(|pick| pick.claim == at).collect();
                let devices = of_claim.iter().map(|pick| {
                    let (driver, pool, device) = pick.usable.id.clone();
                    let request = pick.request.full_name(pick.choice());
                    DeviceResult { request, driver, pool, device, admin: pick.choice().admin }
                });
                let nodes = nodes(&of_claim.iter().map(|pick| pick.usable.reach).collect::<Vec<_>>());
                plan.push((name.clone(), Allocation { devices: devices.collect(), nodes }));
            }
        }
        // Where nothing is to be given, all nodes are worth the same.
        for (_, claim) in claims.iter().filter(|_| !open.is_empty()) {
            let planned = plan.iter().zip(&open).find(|(_, (_, open))| std::ptr::eq(*open, *claim));
            let given = claim.allocation.as_ref().or(planned.map(|((_, allocation), _)| allocation));
            for request in &claim.requests {
                for (at, choice) in request.choices.iter().enumerate().filter(|(_, choice)| !choice.name.is_empty()) {
                    let name = request.full_name(choice);
                    let chosen = given.is_some_and(|given| given.devices.iter().any(|one| one.request == name));
                    worth += if chosen { 8 - at as i64 } else { 0 };
                }
            }
        }
        let elsewhere = claims.iter().filter_map(|(_, claim)| claim.allocation.as_ref()?.nodes.as_ref());
        if elsewhere.into_iter().any(|terms| !terms.iter().any(|term| matches(term, node))) {
            return Err("resourceclaim not available on the node".into());
        }
        Ok((plan, worth))
    }

    fn check(
        &self,
        open: &[(Key, &ResourceClaim)],
        usable: &[Usable<'_>],
        useless: &[(String, &'static str)],
    ) -> Result<(), String> {
        for ((namespace, name), claim) in open {
            let mut least = 0;
            for request in &claim.requests {
                let mut counts = Vec::new();
                for choice in &request.choices {
                    counts.push(match choice.amount {
                        Amount::Exactly(count) => count,
                        Amount::All => {
                            if let Some((pool, why)) = useless.first() {
                                let request = if choice.name.is_empty() { &request.name } else { &choice.name };
                                return Err(format!(
                                    "claim {namespace}/{name}, request {request}: asks for all devices, but resource \
                                     pool {pool} is currently {why}"
                                ));
                            }
                            usable.iter().filter(|one| self.selects(choice, one)).count()
                        }
                    });
                }
                least += counts.into_iter().min().unwrap_or(0);
            }
            if least > 32 {
                return Err(format!(
                    "claim {namespace}/{name}: number of requested devices {least} exceeds the claim limit of 32"
                ));
            }
            if let Some(at) = claim.constraints.iter().position(|one| one.rule == DeviceRule::Unknown) {
                return Err(format!(
                    "claim {namespace}/{name}, constraint #{at}: empty constraint (unsupported constraint type?)"
                ));
            }
        }
        Ok(())
    }
}

fn nodes(reaches: &[&Reach]) -> Option<Vec<NodeSelectorTerm>> {
    for reach in reaches {
        if let Reach::Node(name) = reach {
            let key = "metadata.name".into();
            let fields = vec![Requirement { key, operator: Operator::In, values: vec![name.clone()] }];
            return Some(vec![NodeSelectorTerm { expressions: vec![], fields }]);
        }
    }
    let mut term = NodeSelectorTerm::default();
    for reach in reaches {
        if let Reach::Selected(terms) = reach {
            term.expressions.extend(terms[0].expressions.iter().cloned());
        }
    }
    let mut seen = Vec::new();
    term.expressions.retain(|one| {
        !seen.contains(one) && {
            seen.push(one.clone());
            true
        }
    });
    (!term.is_empty()).then(|| vec![term])
}
