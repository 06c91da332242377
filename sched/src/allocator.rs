//! Finding devices on one node for all claims of a pod that have none: the first solution, in the order of claims,
//! requests, choices, pools and devices ("Structured parameters" of the Kubernetes documentation).
//!
//! Devices of one request are tried in rising order only: another order of the same devices is no other solution.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::device::{
    Allocation, Amount, Device, DeviceChoice, DeviceConstraint, DevicePlan, DeviceRequest, DeviceResult, DeviceRule,
    Reach, ResourceClaim, ResourceSlice,
};
use crate::intern::Interner;
use crate::inventory::Inventory;
use crate::ledger::NodeId;
use crate::memo;
use crate::pool::{CounterKey, Fault, PoolKey, Sight};
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

/// A device of a slice that concerns the node.
struct Candidate<'a> {
    row: u32,
    /// The pool that it is of.
    site: usize,
    device: &'a Device,
    /// Where it can be used.
    reach: &'a Reach,
    /// It can be used on the node.
    here: bool,
}

/// A pool that concerns the node.
struct Site<'a> {
    key: &'a PoolKey,
    sight: Sight<'a>,
    /// Candidates up to this one are of this pool, or one before it.
    end: usize,
    /// What is left of its counters, from the first device on that takes of them.
    left: Option<FxHashMap<CounterKey, i64>>,
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
    sites: Vec<Site<'a>>,
    candidates: Vec<Candidate<'a>>,
    given: Vec<Given>,
    steps: usize,
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
        let mut allocator =
            Allocator { inventory, claims, sites: Vec::new(), candidates: Vec::new(), given: Vec::new(), steps: 0 };
        allocator.gather(state, id);
        allocator.check()?;
        if allocator.next(0, 0)? {
            return Ok(allocator);
        }
        if allocator.sites.iter().any(|site| site.sight.fault == Some(Fault::Invalid)) {
            refuse("invalid resource pools were encountered".to_string())
        } else {
            Err(Reason::Devices)
        }
    }

    /// Collects the pools that concern the node, and their devices where something can be had of a pool now.
    fn gather(&mut self, state: &'a State, id: NodeId) {
        let node = state.node(id);
        let reaches = |reach: &Reach| reaches(reach, node, &state.labels);
        let of_device = |device: &'a Device| device.reach.as_ref().unwrap_or(&Reach::Nowhere);
        for (key, pool) in self.inventory.pools_of(&node.name) {
            let concerns = |slice: &ResourceSlice| match slice.reach {
                Reach::PerDevice => slice.devices.iter().any(|device| device.reach.as_ref().is_some_and(reaches)),
                _ => reaches(&slice.reach),
            };
            let Some(sight) = pool.seen(concerns) else { continue };
            let site = self.sites.len();
            for slice in sight.slices.iter().filter(|_| sight.fault.is_none()) {
                for (device, row) in slice.spec.devices.iter().zip(&slice.rows) {
                    let (reach, here) = match &slice.spec.reach {
                        Reach::PerDevice => (of_device(device), reaches(of_device(device))),
                        reach => (reach, true),
                    };
                    self.candidates.push(Candidate { row: *row, site, device, reach, here });
                }
            }
            self.sites.push(Site { key, sight, end: self.candidates.len(), left: None });
        }
    }

    /// What no choice of devices can mend.
    fn check(&self) -> Result<(), Stop> {
        for (at, (key, claim)) in self.claims.iter().enumerate() {
            let mut least = 0;
            for request in &claim.requests {
                let mut of_request = usize::MAX;
                for choice in &request.choices {
                    let count = match choice.amount {
                        Amount::Exactly(count) => count,
                        Amount::All => self.all(at, request, choice)?.len(),
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
    fn all(&self, claim: usize, request: &DeviceRequest, choice: &DeviceChoice) -> Result<Vec<usize>, Stop> {
        let mut all = Vec::new();
        let mut at = 0;
        for site in &self.sites {
            if let Some(fault) = site.sight.fault {
                let (driver, pool) = site.key;
                return refuse(format!(
                    "claim {}, request {}: asks for all devices, but resource pool {driver}/{pool} is currently {fault}",
                    full_name(&self.claims[claim].0),
                    own_name(request, choice),
                ));
            }
            while at < site.end {
                if self.matches(claim, choice, at)? {
                    all.push(at);
                }
                at += 1;
            }
        }
        Ok(all)
    }

    /// Whether a device can be used on the node, and the selectors of a choice, and of its class, hold for it.
    fn matches(&self, claim: usize, choice: &DeviceChoice, at: usize) -> Result<bool, Stop> {
        let Candidate { row, site, device, here, .. } = self.candidates[at];
        if device.unsupported {
            return Ok(false);
        }
        let Site { key: (driver, _), sight, .. } = &self.sites[site];
        let class = self.inventory.class(&choice.class);
        let of_class = class.iter().flat_map(|class| class.selectors.iter().enumerate()).map(|one| (true, one));
        let own = choice.selectors.iter().enumerate().map(|one| (false, one));
        for (from_class, (number, selector)) in of_class.chain(own) {
            let row = sight.sound.then_some(row);
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
                memo::Fault::Compile(why) => format!("{of}: selector #{number}: CEL compile error: {why}"),
                memo::Fault::Run(why) => format!("{of}: selector #{number}: CEL runtime error: {why}"),
            });
        }
        Ok(here)
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
                Amount::All => self.every(Given { claim, request, choice: at, candidate: 0 })?,
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
            let given = Given { candidate: at, ..from };
            if !self.is_free(given) || !self.matches(given.claim, self.choice(given).1, at)? {
                continue;
            }
            // Too few are left; but a selector may fail on one of them.
            if self.candidates.len() - at < count || !self.give(given, false)? {
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
    fn every(&mut self, from: Given) -> Result<bool, Stop> {
        let (request, choice) = self.choice(from);
        let all = self.all(from.claim, request, choice)?;
        let before = self.given.len();
        let room = self.given.iter().filter(|given| given.claim == from.claim).count() + all.len() <= MAX_RESULTS;
        let mut fits = room && !all.is_empty();
        for candidate in all {
            let given = Given { candidate, ..from };
            fits = fits && self.is_free(given) && self.give(given, true)?;
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
        let (driver, pool) = self.sites[candidate.site].key;
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

    /// Gives a device, if counters, taints and constraints allow. `must`: that a constraint does not is an error.
    fn give(&mut self, given: Given, must: bool) -> Result<bool, Stop> {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return refuse("timed out trying to allocate devices".to_string());
        }
        let device = self.candidates[given.candidate].device;
        let (request, choice) = self.choice(given);
        let hard = device.taints.iter().filter(|taint| taint.effect != Effect::PreferNoSchedule);
        let barred = hard.into_iter().any(|taint| !choice.tolerations.iter().any(|one| one.tolerates(taint)));
        if barred || !self.draw(given.candidate) {
            return Ok(false);
        }
        if self.breaks_a_rule(given) {
            self.put_back(given.candidate);
            if must {
                return refuse(format!(
                    "claim {}, request {}: cannot add device {} because a claim constraint would not be satisfied",
                    full_name(&self.claims[given.claim].0),
                    own_name(request, choice),
                    self.device_name(given.candidate),
                ));
            }
            return Ok(false);
        }
        self.given.push(given);
        Ok(true)
    }

    fn take_back(&mut self) {
        if let Some(given) = self.given.pop() {
            self.put_back(given.candidate);
        }
    }

    /// What is left of the counters of a device's pool.
    fn left(&mut self, at: usize) -> &mut FxHashMap<CounterKey, i64> {
        let inventory = self.inventory;
        let Site { sight, left, .. } = &mut self.sites[self.candidates[at].site];
        left.get_or_insert_with(|| sight.left(&inventory.rows))
    }

    /// Takes what a device needs of its pool's counters, if there is enough of all of them: of one that claims have too
    /// much of, there is not.
    fn draw(&mut self, at: usize) -> bool {
        let device = self.candidates[at].device;
        if device.counters.is_empty() {
            return true;
        }
        let left = self.left(at);
        for counter in &device.counters {
            *left.entry((counter.set.clone(), counter.name.clone())).or_default() -= counter.amount;
        }
        let enough = left.values().all(|left| *left >= 0);
        if !enough {
            self.put_back(at);
        }
        enough
    }

    /// Gives back what a device took of its pool's counters.
    fn put_back(&mut self, at: usize) {
        let device = self.candidates[at].device;
        for counter in &device.counters {
            *self.left(at).entry((counter.set.clone(), counter.name.clone())).or_default() += counter.amount;
        }
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
            candidate.device.attribute(&self.sites[candidate.site].key.0, name)
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
                let (driver, pool) = self.sites[candidate.site].key.clone();
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

/// A request as messages name it.
fn own_name<'a>(request: &'a DeviceRequest, choice: &'a DeviceChoice) -> &'a Arc<str> {
    if choice.name.is_empty() { &request.name } else { &choice.name }
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
