//! Finding devices on one node for all claims of a pod that have none: the first solution, in the order of claims,
//! requests, choices, pools and devices ("Structured parameters" of the Kubernetes documentation).
//!
//! Devices of one request are tried in rising order only: another order of the same devices is no other solution.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::device::{
    Allocation, Amount, Device, DeviceChoice, DeviceConstraint, DevicePlan, DeviceRequest, DeviceResult, DeviceRule,
    Reach, ResourceClaim,
};
use crate::intern::Interner;
use crate::inventory::Inventory;
use crate::ledger::NodeId;
use crate::memo::Fault;
use crate::pool::{CounterKey, Pool, PoolKey};
use crate::reason::{Filter, Reason};
use crate::selector::{NAME_FIELD, NodeSelectorTerm, Operator, Requirement, Term};
use crate::state::{Node, State};
use crate::storage::Key;
use crate::taint::Effect;

/// Devices that one claim may be given at most (`AllocationResultsMaxSize` of the API).
const MAX_RESULTS: usize = 32;
/// Devices that are tried on one node at most, all ways to combine them counted.
const MAX_STEPS: usize = 1 << 17;
/// Choices that a request may have at most (`FirstAvailableDeviceRequestMaxSize` of the API).
const MAX_CHOICES: i64 = 8;

/// A claim without devices.
pub(crate) type Wanted = (Key, Arc<ResourceClaim>);

/// A device that can be used on the node.
struct Candidate<'a> {
    row: u32,
    pool: usize,
    device: &'a Device,
    /// Where it can be used.
    reach: &'a Reach,
}

/// A device that is given to a claim for now.
#[derive(Clone, Copy)]
struct Given {
    claim: usize,
    request: usize,
    choice: usize,
    candidate: usize,
}

/// Why there is no solution.
type Stop = Reason;

pub(crate) struct Allocator<'a> {
    inventory: &'a Inventory,
    claims: &'a [Wanted],
    pools: Vec<(&'a PoolKey, &'a Pool)>,
    candidates: Vec<Candidate<'a>>,
    /// What is left of each pool's counters, from the first device on that takes of them.
    left: Vec<Option<FxHashMap<CounterKey, i64>>>,
    given: Vec<Given>,
    steps: usize,
    invalid: bool,
}

fn refuse<T>(text: String) -> Result<T, Stop> {
    Err(Reason::Refused(Filter::DynamicResources, text.into()))
}

/// Whether devices with this reach can be used on a node.
fn reaches(reach: &Reach, node: &Node, labels: &Interner) -> bool {
    match reach {
        Reach::Node(name) => *name == node.name,
        Reach::AllNodes => true,
        Reach::Selected(terms) => {
            terms.iter().any(|term| Term::compile(term, labels).matches(&node.name, &node.labels, labels))
        }
        Reach::PerDevice | Reach::Nowhere => false,
    }
}

impl<'a> Allocator<'a> {
    /// Gives devices of a node to the claims.
    ///
    /// # Errors
    /// Why that is not possible.
    pub fn run(state: &'a State, id: NodeId, claims: &'a [Wanted]) -> Result<Allocator<'a>, Stop> {
        let inventory = &state.inventory;
        let mut allocator = Allocator {
            inventory,
            claims,
            pools: Vec::new(),
            candidates: Vec::new(),
            left: Vec::new(),
            given: Vec::new(),
            steps: 0,
            invalid: false,
        };
        let incomplete = allocator.gather(state, id);
        allocator.check(incomplete)?;
        if allocator.next(0, 0)? {
            return Ok(allocator);
        }
        if allocator.invalid {
            refuse("invalid resource pools were encountered".to_string())
        } else {
            Err(Reason::Devices)
        }
    }

    /// Collects the devices that can be used on the node. Returns the pools that are not to be used now, with the reason.
    fn gather(&mut self, state: &'a State, id: NodeId) -> Vec<(&'a PoolKey, &'static str)> {
        let node = state.node(id);
        let mut unusable = Vec::new();
        for (key, pool) in self.inventory.pools_of(&node.name) {
            let before = self.candidates.len();
            for slice in pool.current() {
                let of_slice = &slice.spec.reach;
                let all = reaches(of_slice, node, &state.labels);
                if !all && *of_slice != Reach::PerDevice {
                    continue;
                }
                for (device, row) in slice.spec.devices.iter().zip(&slice.rows) {
                    let reach = if all { of_slice } else { device.reach.as_ref().unwrap_or(&Reach::Nowhere) };
                    if all || reaches(reach, node, &state.labels) {
                        self.candidates.push(Candidate { row: *row, pool: self.pools.len(), device, reach });
                    }
                }
            }
            if self.candidates.len() == before {
                continue;
            }
            if pool.complete && pool.valid {
                self.pools.push((key, pool));
                self.left.push(None);
                continue;
            }
            self.candidates.truncate(before);
            self.invalid |= pool.complete;
            unusable.push((key, if pool.complete { "invalid" } else { "being updated" }));
        }
        unusable
    }

    /// What no choice of devices can mend.
    fn check(&self, unusable: Vec<(&PoolKey, &str)>) -> Result<(), Stop> {
        for (at, (key, claim)) in self.claims.iter().enumerate() {
            let mut least = 0;
            for request in &claim.requests {
                let mut of_request = usize::MAX;
                for choice in &request.choices {
                    let count = match choice.amount {
                        Amount::Exactly(count) => count,
                        Amount::All => {
                            if let Some(((driver, pool), why)) = unusable.first() {
                                let name = if choice.name.is_empty() { &request.name } else { &choice.name };
                                return refuse(format!(
                                    "claim {}, request {name}: asks for all devices, but resource pool {driver}/{pool} \
                                     is currently {why}",
                                    full_name(key),
                                ));
                            }
                            self.all(at, choice)?.len()
                        }
                    };
                    of_request = of_request.min(count);
                }
                least += of_request;
            }
            if least > MAX_RESULTS {
                return refuse(format!(
                    "claim {}: number of requested devices {least} exceeds the claim limit of {MAX_RESULTS}",
                    full_name(key)
                ));
            }
            if let Some(at) = claim.constraints.iter().position(|constraint| constraint.rule == DeviceRule::Unknown) {
                return refuse(format!(
                    "claim {}, constraint #{at}: empty constraint (unsupported constraint type?)",
                    full_name(key)
                ));
            }
        }
        Ok(())
    }

    /// Every device that matches.
    fn all(&self, claim: usize, choice: &DeviceChoice) -> Result<Vec<usize>, Stop> {
        let mut all = Vec::new();
        for at in 0..self.candidates.len() {
            if self.matches(claim, choice, at)? {
                all.push(at);
            }
        }
        Ok(all)
    }

    /// Whether the selectors of a choice, and of its class, hold for a device.
    fn matches(&self, claim: usize, choice: &DeviceChoice, at: usize) -> Result<bool, Stop> {
        let Candidate { row, pool, device, .. } = self.candidates[at];
        if device.unsupported {
            return Ok(false);
        }
        let class = self.inventory.class(&choice.class);
        let (driver, pool) = self.pools[pool].0;
        let of_class = class.iter().flat_map(|class| class.selectors.iter().enumerate()).map(|one| (true, one));
        let own = choice.selectors.iter().enumerate().map(|one| (false, one));
        for (from_class, (number, selector)) in of_class.chain(own) {
            let fault = match self.inventory.memo.matches(selector, row, driver, device) {
                Ok(true) => continue,
                Ok(false) => return Ok(false),
                Err(fault) => fault,
            };
            let of = if from_class {
                format!("class {}", choice.class)
            } else {
                format!("claim {}", full_name(&self.claims[claim].0))
            };
            return refuse(match fault {
                Fault::Compile(why) => format!("{of}: selector #{number}: CEL compile error: {why}"),
                Fault::Run(why) => {
                    let device = &device.name;
                    format!("{of}: selector #{number} on device {driver}/{pool}/{device}: CEL runtime error: {why}")
                }
            });
        }
        Ok(true)
    }

    /// Gives devices to a request and all that follow it.
    fn next(&mut self, claim: usize, request: usize) -> Result<bool, Stop> {
        let claims = self.claims;
        let Some((_, wanted)) = claims.get(claim) else { return Ok(true) };
        let Some(asked) = wanted.requests.get(request) else { return self.next(claim + 1, 0) };
        for (at, choice) in asked.choices.iter().enumerate() {
            let before = self.given.len();
            let done = match choice.amount {
                Amount::Exactly(count) => {
                    let room = self.given.iter().filter(|given| given.claim == claim).count() + count <= MAX_RESULTS;
                    room && self.some(Given { claim, request, choice: at, candidate: 0 }, count)?
                }
                Amount::All => self.every(Given { claim, request, choice: at, candidate: 0 }, choice)?,
            };
            if done {
                return Ok(true);
            }
            debug_assert_eq!(self.given.len(), before, "what was tried is given back");
        }
        Ok(false)
    }

    /// Gives `count` more devices to a request, from a candidate on, and to all requests that follow.
    fn some(&mut self, from: Given, count: usize) -> Result<bool, Stop> {
        if count == 0 {
            return self.next(from.claim, from.request + 1);
        }
        for at in from.candidate..self.candidates.len() {
            if self.candidates.len() - at < count {
                break;
            }
            let given = Given { candidate: at, ..from };
            if !self.is_free(given) || !self.matches(given.claim, self.choice(given).1, at)? || !self.give(given)? {
                continue;
            }
            if self.some(Given { candidate: at + 1, ..from }, count - 1)? {
                return Ok(true);
            }
            self.take_back();
        }
        Ok(false)
    }

    /// Gives every device that matches to a request, and devices to all requests that follow.
    fn every(&mut self, from: Given, choice: &DeviceChoice) -> Result<bool, Stop> {
        let all = self.all(from.claim, choice)?;
        let before = self.given.len();
        let room = self.given.iter().filter(|given| given.claim == from.claim).count() + all.len() <= MAX_RESULTS;
        let mut fits = room && !all.is_empty();
        for candidate in all {
            let given = Given { candidate, ..from };
            fits = fits && self.is_free(given);
            if !fits {
                break;
            }
            if self.breaks_a_rule(given) {
                let (request, choice) = self.choice(given);
                let name = if choice.name.is_empty() { &request.name } else { &choice.name };
                return refuse(format!(
                    "claim {}, request {name}: cannot add device {} because a claim constraint would not be satisfied",
                    full_name(&self.claims[given.claim].0),
                    self.device_name(candidate),
                ));
            }
            fits = self.give(given)?;
        }
        if fits && self.next(from.claim, from.request + 1)? {
            return Ok(true);
        }
        while self.given.len() > before {
            self.take_back();
        }
        Ok(false)
    }

    fn choice(&self, given: Given) -> (&'a DeviceRequest, &'a DeviceChoice) {
        let claims: &'a [Wanted] = self.claims;
        let request = &claims[given.claim].1.requests[given.request];
        (request, &request.choices[given.choice])
    }

    fn device_name(&self, at: usize) -> String {
        let candidate = &self.candidates[at];
        let (driver, pool) = self.pools[candidate.pool].0;
        format!("{driver}/{pool}/{}", candidate.device.name)
    }

    /// Whether nobody has the device, as far as that matters to who asks.
    fn is_free(&self, given: Given) -> bool {
        let row = self.candidates[given.candidate].row;
        let same = |have: &&Given| self.candidates[have.candidate].row == row;
        if self.choice(given).1.admin {
            return !self.given.iter().filter(same).any(|have| have.claim == given.claim);
        }
        !self.inventory.rows.is_taken(row) && !self.given.iter().any(|have| same(&have))
    }

    /// Gives a device, if taints, counters and constraints allow.
    fn give(&mut self, given: Given) -> Result<bool, Stop> {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return refuse("timed out trying to allocate devices".to_string());
        }
        let device = self.candidates[given.candidate].device;
        let tolerations = &self.choice(given).1.tolerations;
        let hard = device.taints.iter().filter(|taint| taint.effect != Effect::PreferNoSchedule);
        let barred = hard.into_iter().any(|taint| !tolerations.iter().any(|one| one.tolerates(taint)));
        if barred || self.breaks_a_rule(given) || !self.draw(given.candidate) {
            return Ok(false);
        }
        self.given.push(given);
        Ok(true)
    }

    fn take_back(&mut self) {
        if let Some(given) = self.given.pop() {
            let Candidate { pool, device, .. } = self.candidates[given.candidate];
            for counter in &device.counters {
                *self.counter(pool, counter.set.clone(), counter.name.clone()) += counter.amount;
            }
        }
    }

    fn counter(&mut self, pool: usize, set: Arc<str>, name: Arc<str>) -> &mut i64 {
        let (inventory, of_pool) = (self.inventory, self.pools[pool].1);
        let left = self.left[pool].get_or_insert_with(|| of_pool.left(&inventory.rows));
        left.entry((set, name)).or_default()
    }

    /// Takes what a device needs of its pool's counters, if there is enough.
    fn draw(&mut self, at: usize) -> bool {
        let Candidate { pool, device, .. } = self.candidates[at];
        let mut enough = true;
        for counter in &device.counters {
            let left = self.counter(pool, counter.set.clone(), counter.name.clone());
            *left -= counter.amount;
            enough &= *left >= 0;
        }
        if !enough {
            for counter in &device.counters {
                *self.counter(pool, counter.set.clone(), counter.name.clone()) += counter.amount;
            }
        }
        enough
    }

    /// Whether some constraint of the claim does not hold with this device.
    fn breaks_a_rule(&self, new: Given) -> bool {
        let covers = |constraint: &DeviceConstraint, given: Given| {
            let (request, choice) = self.choice(given);
            let named = |name: &Arc<str>| *name == request.name || *name == request.full_name(choice);
            constraint.requests.is_empty() || constraint.requests.iter().any(named)
        };
        let value = |given: Given, name: &str| {
            let candidate = &self.candidates[given.candidate];
            candidate.device.attribute(&self.pools[candidate.pool].0.0, name)
        };
        let constraints = &self.claims[new.claim].1.constraints;
        !constraints.iter().filter(|constraint| covers(constraint, new)).all(|constraint| {
            let others = self.given.iter().filter(|have| have.claim == new.claim && covers(constraint, **have));
            match &constraint.rule {
                DeviceRule::Match(name) => {
                    let new = value(new, name);
                    new.is_some() && others.into_iter().all(|have| value(*have, name) == new)
                }
                DeviceRule::Distinct(name) => {
                    let new = value(new, name);
                    new.is_some() && others.into_iter().all(|have| value(*have, name) != new)
                }
                DeviceRule::Unknown => false,
            }
        })
    }

    /// How early the choices of the requests come, summed up.
    pub fn score(&self) -> i64 {
        let mut score = 0;
        let mut last = None;
        for given in &self.given {
            let request = Some((given.claim, given.request));
            if request != last && !self.choice(*given).1.name.is_empty() {
                score += MAX_CHOICES - given.choice as i64;
            }
            last = request;
        }
        score
    }

    /// What each claim is given.
    pub fn plan(&self) -> DevicePlan {
        let plan = |(at, (key, _)): (usize, &Wanted)| {
            let given: Vec<Given> = self.given.iter().copied().filter(|given| given.claim == at).collect();
            let result = |given: &Given| {
                let (request, choice) = self.choice(*given);
                let candidate = &self.candidates[given.candidate];
                let (driver, pool) = self.pools[candidate.pool].0.clone();
                let device = candidate.device.name.clone();
                DeviceResult { request: request.full_name(choice), driver, pool, device, admin: choice.admin }
            };
            let devices = given.iter().map(result).collect();
            let nodes = nodes_of(given.iter().map(|given| self.candidates[given.candidate].reach));
            (key.1.clone(), Allocation { devices, nodes })
        };
        self.claims.iter().enumerate().map(plan).collect()
    }
}

/// Namespace and name as messages have them.
pub(crate) fn full_name((namespace, name): &Key) -> String {
    format!("{namespace}/{name}")
}

/// Where devices that can be used there, each, can be used together: `None` for everywhere.
fn nodes_of<'a>(reaches: impl Iterator<Item = &'a Reach>) -> Option<Vec<NodeSelectorTerm>> {
    let mut together = NodeSelectorTerm::default();
    let add = |from: &[Requirement], to: &mut Vec<Requirement>| {
        for requirement in from {
            if !to.contains(requirement) {
                to.push(requirement.clone());
            }
        }
    };
    for reach in reaches {
        match reach {
            Reach::Node(name) => {
                let named = Requirement { key: NAME_FIELD.into(), operator: Operator::In, values: vec![name.clone()] };
                return Some(vec![NodeSelectorTerm { expressions: Vec::new(), fields: vec![named] }]);
            }
            // The API lets a slice have one term.
            Reach::Selected(terms) => {
                for term in terms {
                    add(&term.expressions, &mut together.expressions);
                    add(&term.fields, &mut together.fields);
                }
            }
            Reach::AllNodes | Reach::PerDevice | Reach::Nowhere => {}
        }
    }
    (!together.is_empty()).then(|| vec![together])
}

/// How early the choices come that a claim was given, summed up.
pub(crate) fn score_of(claim: &ResourceClaim) -> i64 {
    let given = |name: &str| {
        claim.allocation.iter().flat_map(|allocation| &allocation.devices).any(|device| *device.request == *name)
    };
    let of_request = |request: &DeviceRequest| {
        let listed = request.choices.iter().enumerate().filter(|(_, choice)| !choice.name.is_empty());
        let taken = listed.filter(|(_, choice)| given(&request.full_name(choice)));
        taken.map(|(at, _)| MAX_CHOICES - at as i64).sum::<i64>()
    };
    claim.requests.iter().map(of_request).sum()
}
