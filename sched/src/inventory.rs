//! Devices and claims: what is known of them, and what claims of pods that were placed were promised.
//!
//! A promise is what kube-scheduler calls an allocation in flight: devices for a claim, until the API shows that it has
//! some, or the pod is gone and nobody writes about it any more. Pods with claims are placed one at a time, so no two
//! claims are promised one device.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustc_hash::FxHashMap;

use crate::device::{
    Allocation, DeviceChoice, DeviceClass, DevicePlan, ResourceClaim, ResourceSlice, SelectorLanguage,
};
use crate::memo::Memo;
use crate::pool::{DeviceKey, Places, Pool, PoolKey, Rows, Slice};
use crate::queue::Events;
use crate::storage::Key;

#[derive(Debug)]
struct Promise {
    allocation: Allocation,
    number: u64,
    /// Its pod, and who writes about it.
    holders: u32,
    /// Another pod waits for the claim to have devices.
    awaited: AtomicBool,
}

#[derive(Debug, Default)]
pub(crate) struct Inventory {
    claims: FxHashMap<Key, Arc<ResourceClaim>>,
    classes: FxHashMap<Arc<str>, Arc<DeviceClass>>,
    pools: BTreeMap<PoolKey, Pool>,
    /// The pool of each slice.
    slices: FxHashMap<Arc<str>, PoolKey>,
    places: Places,
    /// Pools that concern nodes that they have no devices for.
    faulty: BTreeSet<PoolKey>,
    pub rows: Rows,
    pub memo: Memo,
    promises: FxHashMap<Key, Promise>,
    /// Number of the promise that was made last.
    last_promise: u64,
}

/// The devices of an allocation that nobody else may have.
fn own(allocation: &Allocation) -> impl Iterator<Item = DeviceKey> {
    let devices = allocation.devices.iter().filter(|device| !device.admin);
    devices.map(|one| (one.driver.clone(), one.pool.clone(), one.device.clone()))
}

fn choices(claim: &ResourceClaim) -> impl Iterator<Item = &DeviceChoice> {
    claim.requests.iter().flat_map(|request| &request.choices)
}

impl Inventory {
    /// Sets the language of selectors.
    pub fn speak(&mut self, language: Arc<dyn SelectorLanguage>) {
        self.memo.speak(language);
    }

    pub fn set_claim(&mut self, key: Key, claim: Option<ResourceClaim>) -> Events {
        let before = self.claims.get(&key).cloned();
        if before.as_deref() == claim.as_ref() {
            return Events::default();
        }
        // What the API shows needs no promise any more.
        let withdrawn = if claim.as_ref().is_none_or(|claim| claim.allocation.is_some()) {
            self.promises.remove(&key)
        } else {
            None
        };
        let open = |claim: &&ResourceClaim| claim.allocation.is_none();
        for choice in claim.iter().filter(open).flat_map(choices) {
            choice.selectors.iter().for_each(|selector| self.memo.hold(selector));
        }
        for choice in before.as_deref().iter().copied().filter(open).flat_map(choices) {
            choice.selectors.iter().for_each(|selector| self.memo.drop_hold(selector));
        }
        let given =
            |claim: &ResourceClaim| claim.allocation.as_ref().map(own).into_iter().flatten().collect::<Vec<_>>();
        claim.iter().flat_map(given).for_each(|device| self.rows.take(device));
        before.as_deref().into_iter().flat_map(given).for_each(|device| self.rows.free(&device));
        withdrawn.iter().flat_map(|promise| own(&promise.allocation)).for_each(|device| self.rows.free(&device));
        self.memo.grow(self.rows.len());
        let devices = claim.as_ref().and_then(|claim| claim.allocation.as_ref()).map(|allocation| &allocation.devices);
        let as_promised = withdrawn
            .is_some_and(|promise| devices == Some(&promise.allocation.devices) && !promise.awaited.into_inner());
        let events = if as_promised { Events::default() } else { Events::DEVICES };
        match claim {
            Some(claim) => self.claims.insert(key, Arc::new(claim)),
            None => self.claims.remove(&key),
        };
        events
    }

    pub fn set_class(&mut self, name: &Arc<str>, class: Option<DeviceClass>) -> Events {
        let before = self.classes.get(name).cloned();
        if before.as_deref() == class.as_ref() {
            return Events::default();
        }
        class.iter().flat_map(|class| &class.selectors).for_each(|selector| self.memo.hold(selector));
        before.iter().flat_map(|class| &class.selectors).for_each(|selector| self.memo.drop_hold(selector));
        match class {
            Some(class) => self.classes.insert(name.clone(), Arc::new(class)),
            None => self.classes.remove(name),
        };
        Events::DEVICES
    }

    pub fn set_slice(&mut self, name: &Arc<str>, slice: Option<ResourceSlice>) -> Events {
        let before = self.slices.get(name).and_then(|key| self.pools.get(key)?.slice(name));
        if before.map(|slice| &slice.spec) == slice.as_ref() {
            return Events::default();
        }
        if let Some(key) = self.slices.remove(name) {
            self.take_out(name, &key);
        }
        if let Some(spec) = slice {
            let key: PoolKey = (spec.driver.clone(), spec.pool.clone());
            let hold = |name: &Arc<str>| (key.0.clone(), key.1.clone(), name.clone());
            let rows: Vec<u32> = spec.devices.iter().map(|device| self.rows.hold(hold(&device.name))).collect();
            self.memo.grow(self.rows.len());
            rows.iter().for_each(|row| self.memo.forget(*row));
            self.places.count(&key, &spec.reach, 1);
            self.pools.entry(key.clone()).or_default().put(name, Some(Slice { spec, rows }));
            self.watch(&key);
            self.slices.insert(name.clone(), key);
        }
        Events::DEVICES
    }

    fn take_out(&mut self, name: &Arc<str>, key: &PoolKey) {
        let Some(pool) = self.pools.get_mut(key) else { return };
        if let Some(slice) = pool.put(name, None) {
            self.places.count(key, &slice.spec.reach, -1);
            for row in slice.rows {
                // A slice of another generation may have a device of the same name.
                self.memo.forget(row);
                self.rows.drop_hold(row);
            }
        }
        if pool.is_empty() {
            self.pools.remove(key);
        }
        self.watch(key);
    }

    /// Notes whether a pool that changed concerns every node.
    fn watch(&mut self, key: &PoolKey) {
        if self.pools.get(key).is_some_and(Pool::concerns_all) {
            self.faulty.insert(key.clone());
        } else {
            self.faulty.remove(key);
        }
    }

    pub fn claim(&self, key: &Key) -> Option<&Arc<ResourceClaim>> {
        self.claims.get(key)
    }

    pub fn class(&self, name: &str) -> Option<&Arc<DeviceClass>> {
        self.classes.get(name)
    }

    /// Pools that may concern a node, by driver and name.
    pub fn pools_of(&self, node: &str) -> impl Iterator<Item = (&PoolKey, &Pool)> {
        let keys = self.places.of_node(node, &self.faulty);
        keys.into_iter().filter_map(|key| Some((key, self.pools.get(key)?)))
    }

    /// Whether devices were promised for a claim. Then its having them is an event: a pod waits for that.
    pub fn awaits(&self, key: &Key) -> bool {
        let promise = self.promises.get(key);
        promise.iter().for_each(|promise| promise.awaited.store(true, Ordering::Relaxed));
        promise.is_some()
    }

    /// Promises what a plan says. Returns the number of each promise.
    pub fn keep(&mut self, namespace: &Arc<str>, plan: &DevicePlan) -> Vec<u64> {
        let mut numbers = Vec::with_capacity(plan.len());
        for (claim, allocation) in plan {
            own(allocation).for_each(|device| self.rows.take(device));
            self.last_promise += 1;
            let promise = Promise {
                allocation: allocation.clone(),
                number: self.last_promise,
                holders: 1,
                awaited: AtomicBool::new(false),
            };
            let before = self.promises.insert((namespace.clone(), claim.clone()), promise);
            debug_assert!(before.is_none(), "a claim is promised devices once");
            numbers.push(self.last_promise);
        }
        self.memo.grow(self.rows.len());
        numbers
    }

    /// Somebody else holds these promises too.
    pub fn hold(&mut self, namespace: &Arc<str>, plan: &DevicePlan, numbers: &[u64]) {
        for ((claim, _), number) in plan.iter().zip(numbers) {
            if let Some(promise) = self.promises.get_mut(&(namespace.clone(), claim.clone()))
                && promise.number == *number
            {
                promise.holders += 1;
            }
        }
    }

    /// One of those who hold these promises needs them no more. What the API has shown meanwhile is promised no more,
    /// and a later promise of the same claim is another pod's. Returns what that changed.
    pub fn give_back(&mut self, namespace: &Arc<str>, plan: &DevicePlan, numbers: &[u64]) -> Events {
        let mut events = Events::default();
        for ((claim, _), number) in plan.iter().zip(numbers) {
            let key = (namespace.clone(), claim.clone());
            let Some(promise) = self.promises.get_mut(&key).filter(|promise| promise.number == *number) else {
                continue;
            };
            promise.holders -= 1;
            if promise.holders == 0
                && let Some(promise) = self.promises.remove(&key)
            {
                own(&promise.allocation).for_each(|device| self.rows.free(&device));
                events = Events::DEVICES;
            }
        }
        events
    }

    /// Whether nothing is promised.
    pub fn is_idle(&self) -> bool {
        self.promises.is_empty()
    }
}
