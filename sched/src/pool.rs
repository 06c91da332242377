//! Pools of devices, as ResourceSlices publish them, and the devices' rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::device::{Reach, ResourceSlice};

/// Driver and pool.
pub(crate) type PoolKey = (Arc<str>, Arc<str>);
/// Driver, pool and device.
pub(crate) type DeviceKey = (Arc<str>, Arc<str>, Arc<str>);
/// A counter: its set and name.
pub(crate) type CounterKey = (Arc<str>, Arc<str>);

/// Devices as numbers, for as long as a slice publishes them or a claim has them.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    by_key: FxHashMap<DeviceKey, u32>,
    keys: Vec<DeviceKey>,
    holds: Vec<u32>,
    /// How many claims have the device to themselves: more than one only if others than this scheduler allocate.
    users: Vec<u32>,
    vacant: Vec<u32>,
}

impl Rows {
    /// The row of a device, held once more.
    pub fn hold(&mut self, key: DeviceKey) -> u32 {
        if let Some(row) = self.by_key.get(&key) {
            self.holds[*row as usize] += 1;
            return *row;
        }
        let row = match self.vacant.pop() {
            Some(row) => {
                self.keys[row as usize] = key.clone();
                self.holds[row as usize] = 1;
                row
            }
            None => {
                self.keys.push(key.clone());
                self.holds.push(1);
                self.users.push(0);
                (self.keys.len() - 1) as u32
            }
        };
        self.by_key.insert(key, row);
        row
    }

    /// Gives a hold back.
    pub fn drop_hold(&mut self, row: u32) {
        self.holds[row as usize] -= 1;
        if self.holds[row as usize] == 0 {
            self.by_key.remove(&self.keys[row as usize]);
            self.vacant.push(row);
        }
    }

    /// A claim has the device from now on.
    pub fn take(&mut self, key: DeviceKey) {
        let row = self.hold(key);
        self.users[row as usize] += 1;
    }

    /// It has it no more.
    pub fn free(&mut self, key: &DeviceKey) {
        if let Some(row) = self.by_key.get(key).copied() {
            self.users[row as usize] -= 1;
            self.drop_hold(row);
        }
    }

    /// Whether a claim has the device of a row to itself.
    pub fn is_taken(&self, row: u32) -> bool {
        self.users[row as usize] > 0
    }

    /// Rows there are, vacant ones included.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Devices there are.
    pub fn known(&self) -> usize {
        self.by_key.len()
    }
}

/// A slice with the rows of its devices.
#[derive(Debug)]
pub(crate) struct Slice {
    pub spec: ResourceSlice,
    pub rows: Vec<u32>,
}

/// The slices of one pool.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    slices: BTreeMap<Arc<str>, Slice>,
    /// All slices are of one generation, complete, and all is in order: that is so for every node.
    sound: bool,
}

/// A pool as a node sees it.
#[derive(Debug)]
pub(crate) struct Sight<'a> {
    /// Slices that may have devices for the node, by name.
    pub slices: Vec<&'a Slice>,
    /// Slices whose counters, or whose devices that are taken, count.
    counting: Vec<&'a Slice>,
    /// Why nothing can be had of the pool now.
    pub fault: Option<Fault>,
    /// A row stands for one device: what was said of it holds for all nodes.
    pub sound: bool,
}

/// Why nothing can be had of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Not all slices are there.
    Incomplete,
    /// Names are not unique, or devices take of counters that there are not.
    Invalid,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Fault::Incomplete => "being updated",
            Fault::Invalid => "invalid",
        })
    }
}

impl Slice {
    /// Whether it says what devices share. It has no devices, then.
    fn has_counters(&self) -> bool {
        !self.spec.counters.is_empty()
    }
}

impl Pool {
    /// Puts a slice, or takes it out. Returns what was there.
    pub fn put(&mut self, name: &Arc<str>, slice: Option<Slice>) -> Option<Slice> {
        let before = match slice {
            Some(slice) => self.slices.insert(name.clone(), slice),
            None => self.slices.remove(name),
        };
        self.sound = self.is_sound();
        before
    }

    pub fn slice(&self, name: &str) -> Option<&Slice> {
        self.slices.get(name)
    }

    /// Whether there is no slice.
    pub fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    fn is_sound(&self) -> bool {
        let all: Vec<&Slice> = self.slices.values().collect();
        all.first().is_none_or(|first| {
            all.iter().all(|slice| slice.spec.generation == first.spec.generation)
                && all.iter().all(|slice| slice.spec.slices == all.len() as i64)
                && is_valid(&devices_of(&all), &all)
        })
    }

    /// Whether nodes have to see it that it has no devices for: something is wrong with counters that are everybody's.
    pub fn concerns_all(&self) -> bool {
        !self.sound && self.slices.values().any(Slice::has_counters)
    }

    /// The pool as a node sees it that finds devices `here`. Of the slices that concern the node, and those with counters
    /// do always, the newest generation counts; `None` where that is not the pool's newest and not all of it is there.
    pub fn seen(&self, here: impl Fn(&ResourceSlice) -> bool) -> Option<Sight<'_>> {
        let mut seen: Vec<&Slice> =
            self.slices.values().filter(|slice| slice.has_counters() || here(&slice.spec)).collect();
        if self.sound {
            let counting = self.slices.values().collect();
            return Some(Sight { slices: devices_of(&seen), counting, fault: None, sound: true });
        }
        let generation = seen.iter().map(|slice| slice.spec.generation).max()?;
        seen.retain(|slice| slice.spec.generation == generation);
        let expected = seen.first()?.spec.slices;
        let slices = devices_of(&seen);
        let mut sight = Sight { slices, counting: seen, fault: None, sound: false };
        if sight.counting.len() as i64 != expected {
            if self.slices.values().any(|slice| slice.spec.generation > generation) {
                return None;
            }
            sight.counting = self.slices.values().filter(|slice| slice.spec.generation == generation).collect();
        }
        if sight.counting.len() as i64 != expected {
            sight.fault = Some(Fault::Incomplete);
        } else if !is_valid(&sight.slices, &sight.counting) {
            sight.fault = Some(Fault::Invalid);
        }
        Some(sight)
    }
}

/// Those of the slices that have devices.
fn devices_of<'a>(slices: &[&'a Slice]) -> Vec<&'a Slice> {
    slices.iter().copied().filter(|slice| !slice.has_counters()).collect()
}

/// Whether the devices that are to be given have names of their own, and those that count take of counters that there are,
/// each set of which is said once.
fn is_valid(given: &[&Slice], counting: &[&Slice]) -> bool {
    let mut names: FxHashSet<&str> = FxHashSet::default();
    let mut sets: FxHashMap<&str, usize> = FxHashMap::default();
    let mut counters: FxHashSet<(&str, &str)> = FxHashSet::default();
    given.iter().flat_map(|slice| &slice.spec.devices).all(|device| names.insert(&device.name))
        && counting.iter().enumerate().all(|(at, slice)| {
            let mut declared = slice.spec.counters.iter();
            declared.all(|one| *sets.entry(&one.set).or_insert(at) == at && counters.insert((&one.set, &one.name)))
        })
        && counting
            .iter()
            .flat_map(|slice| &slice.spec.devices)
            .flat_map(|device| &device.counters)
            .all(|one| counters.contains(&(&*one.set, &*one.name)))
}

impl Sight<'_> {
    /// What claims leave of the pool's counters, in thousandths; less than nothing if they have more than there is.
    pub fn left(&self, rows: &Rows) -> FxHashMap<CounterKey, i64> {
        let mut left: FxHashMap<CounterKey, i64> = FxHashMap::default();
        for counter in self.counting.iter().flat_map(|slice| &slice.spec.counters) {
            left.insert((counter.set.clone(), counter.name.clone()), counter.amount);
        }
        let slices = self.counting.iter().filter(|slice| !slice.has_counters());
        let devices = slices.flat_map(|slice| slice.spec.devices.iter().zip(&slice.rows));
        for counter in devices.filter(|(_, row)| rows.is_taken(**row)).flat_map(|(device, _)| &device.counters) {
            if let Some(left) = left.get_mut(&(counter.set.clone(), counter.name.clone())) {
                *left = left.saturating_sub(counter.amount);
            }
        }
        left
    }
}

/// Which pools have slices for a node of one name, and which have others.
#[derive(Debug, Default)]
pub(crate) struct Places {
    local: FxHashMap<Arc<str>, BTreeMap<PoolKey, u32>>,
    shared: BTreeMap<PoolKey, u32>,
}

impl Places {
    /// Counts a slice in (1) or out (-1).
    pub fn count(&mut self, key: &PoolKey, reach: &Reach, by: i32) {
        let count = |pools: &mut BTreeMap<PoolKey, u32>| {
            let slices = pools.entry(key.clone()).or_default();
            *slices = slices.wrapping_add_signed(by);
            if *slices == 0 {
                pools.remove(key);
            }
            pools.is_empty()
        };
        match reach {
            Reach::Node(node) => {
                if count(self.local.entry(node.clone()).or_default()) {
                    self.local.remove(node);
                }
            }
            _ => {
                count(&mut self.shared);
            }
        }
    }

    /// Pools that may have devices for a node, and `others`, by driver and name.
    pub fn of_node<'a>(&'a self, name: &str, others: &'a BTreeSet<PoolKey>) -> Vec<&'a PoolKey> {
        let local = self.local.get(name).into_iter().flat_map(BTreeMap::keys);
        let mut pools: Vec<&PoolKey> = local.chain(self.shared.keys()).chain(others).collect();
        pools.sort_unstable();
        pools.dedup();
        pools
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Counter, Device};

    fn slice(generation: i64, slices: i64, names: &[&str]) -> Slice {
        let device = |name: &&str| Device { name: (*name).into(), ..Device::default() };
        let spec = ResourceSlice {
            driver: "d".into(),
            pool: "p".into(),
            generation,
            slices,
            reach: Reach::AllNodes,
            devices: names.iter().map(device).collect(),
            counters: Vec::new(),
        };
        Slice { spec, rows: vec![0; names.len()] }
    }

    /// Names of the devices that a node finds among slices of this reach, and what is wrong.
    fn sight(pool: &Pool, here: &Reach) -> Option<(Vec<String>, Option<Fault>)> {
        let sight = pool.seen(|slice| slice.reach == *here)?;
        let devices = sight.slices.iter().flat_map(|slice| &slice.spec.devices);
        Some((devices.map(|device| device.name.to_string()).collect(), sight.fault))
    }

    fn there(mut slice: Slice) -> Option<Slice> {
        slice.spec.reach = Reach::Node("there".into());
        Some(slice)
    }

    #[test]
    fn a_pool_is_what_the_newest_generation_that_concerns_a_node_says() {
        let mut pool = Pool::default();
        let here = |pool: &Pool| sight(pool, &Reach::AllNodes);
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        pool.put(&"a".into(), Some(slice(1, 1, &["x"])));
        assert_eq!(here(&pool), Some((names(&["x"]), None)));
        pool.put(&"b".into(), there(slice(2, 2, &["y"])));
        assert_eq!(here(&pool), Some((names(&["x"]), None)), "all of the older one is here");
        assert_eq!(sight(&pool, &Reach::Node("there".into())), Some((names(&["y"]), Some(Fault::Incomplete))));
        assert_eq!(sight(&pool, &Reach::Nowhere), None, "no slice concerns the node");
        pool.put(&"a".into(), Some(slice(1, 2, &["x"])));
        assert_eq!(here(&pool), None, "not all of the older one is here");
        pool.put(&"a".into(), Some(slice(2, 2, &["y"])));
        assert_eq!(here(&pool), Some((names(&["y"]), None)), "its namesake is elsewhere");
        pool.put(&"b".into(), Some(slice(2, 2, &["y"])));
        assert_eq!(here(&pool), Some((names(&["y", "y"]), Some(Fault::Invalid))));
    }

    #[test]
    fn counters_are_everybodys() {
        let mut pool = Pool::default();
        let counter = |set: &str, name: &str| Counter { set: set.into(), name: name.into(), amount: 4 };
        let mut counting = |name: &str, slices: i64, counters: &[Counter]| {
            let mut slice = slice(1, slices, &[]);
            slice.spec.counters = counters.to_vec();
            pool.put(&name.into(), there(slice));
            (sight(&pool, &Reach::AllNodes), pool.concerns_all())
        };
        assert_eq!(counting("a", 1, &[counter("s", "c"), counter("s", "d")]), (Some((vec![], None)), false));
        assert_eq!(counting("a", 2, &[counter("s", "c")]), (Some((vec![], Some(Fault::Incomplete))), true));
        let twice = (Some((vec![], Some(Fault::Invalid))), true);
        assert_eq!(counting("b", 2, &[counter("s", "d")]), twice, "a set is said twice");
        assert_eq!(counting("b", 2, &[counter("t", "c")]), (Some((vec![], None)), false));
        let mut taking = slice(1, 2, &["x"]);
        taking.spec.devices[0].counters.push(counter("s", "c"));
        pool.put(&"b".into(), there(taking));
        assert!(pool.seen(|_| false).is_some_and(|sight| sight.fault.is_none()));
        let mut taking = slice(1, 2, &["x"]);
        taking.spec.devices[0].counters.push(counter("s", "d"));
        pool.put(&"b".into(), there(taking));
        assert_eq!(
            sight(&pool, &Reach::AllNodes),
            Some((vec![], Some(Fault::Invalid))),
            "of a counter that there is not"
        );
    }

    #[test]
    fn rows_live_as_long_as_somebody_holds_them() {
        let mut rows = Rows::default();
        let key = |name: &str| -> DeviceKey { ("d".into(), "p".into(), name.into()) };
        let row = rows.hold(key("a"));
        rows.take(key("a"));
        assert!(rows.is_taken(row));
        rows.drop_hold(row);
        assert!(rows.known() == 1 && rows.hold(key("b")) != row, "the claim still has it");
        rows.free(&key("a"));
        assert_eq!(rows.hold(key("c")), row);
        assert!(!rows.is_taken(row));
        rows.free(&key("nobody's"));
    }
}
