//! Pools of devices, as ResourceSlices publish them, and the devices' rows.

use std::collections::BTreeMap;
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
    /// The newest of the slices' generations: others do not count.
    generation: i64,
    /// All slices of the generation are there.
    pub complete: bool,
    /// Names are unique, and devices take of counters that there are.
    pub valid: bool,
}

impl Pool {
    /// Puts a slice, or takes it out. Returns what was there.
    pub fn put(&mut self, name: &Arc<str>, slice: Option<Slice>) -> Option<Slice> {
        let before = match slice {
            Some(slice) => self.slices.insert(name.clone(), slice),
            None => self.slices.remove(name),
        };
        self.generation = self.slices.values().map(|slice| slice.spec.generation).max().unwrap_or(0);
        let expected = self.current().next().map(|slice| slice.spec.slices);
        self.complete = expected == Some(self.current().count() as i64);
        self.valid = self.is_valid();
        before
    }

    pub fn slice(&self, name: &str) -> Option<&Slice> {
        self.slices.get(name)
    }

    /// The slices that count, by name.
    pub fn current(&self) -> impl Iterator<Item = &Slice> {
        self.slices.values().filter(|slice| slice.spec.generation == self.generation)
    }

    /// Whether there is no slice.
    pub fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    fn is_valid(&self) -> bool {
        let devices = || self.current().flat_map(|slice| &slice.spec.devices);
        let mut names: FxHashSet<&str> = FxHashSet::default();
        let mut counters: FxHashSet<(&str, &str)> = FxHashSet::default();
        devices().all(|device| names.insert(&device.name))
            && self.current().flat_map(|slice| &slice.spec.counters).all(|one| counters.insert((&one.set, &one.name)))
            && devices().flat_map(|device| &device.counters).all(|one| counters.contains(&(&*one.set, &*one.name)))
    }

    /// What claims leave of the pool's counters, in thousandths; less than nothing if they have more than there is.
    pub fn left(&self, rows: &Rows) -> FxHashMap<CounterKey, i64> {
        let mut left: FxHashMap<CounterKey, i64> = FxHashMap::default();
        for counter in self.current().flat_map(|slice| &slice.spec.counters) {
            left.insert((counter.set.clone(), counter.name.clone()), counter.amount);
        }
        if left.is_empty() {
            return left;
        }
        let devices = self.current().flat_map(|slice| slice.spec.devices.iter().zip(&slice.rows));
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

    /// Pools that may have devices for a node, by driver and name.
    pub fn of_node(&self, name: &str) -> Vec<&PoolKey> {
        let mut pools: Vec<&PoolKey> =
            self.local.get(name).into_iter().flat_map(BTreeMap::keys).chain(self.shared.keys()).collect();
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

    #[test]
    fn a_pool_is_what_its_newest_generation_says() {
        let mut pool = Pool::default();
        let names = |pool: &Pool| -> Vec<String> {
            pool.current().flat_map(|slice| &slice.spec.devices).map(|device| device.name.to_string()).collect()
        };
        pool.put(&"a".into(), Some(slice(1, 1, &["x"])));
        assert!(pool.complete && pool.valid);
        pool.put(&"b".into(), Some(slice(2, 2, &["y"])));
        assert_eq!((names(&pool), pool.complete), (vec!["y".to_string()], false));
        pool.put(&"a".into(), Some(slice(2, 2, &["y"])));
        assert_eq!((pool.complete, pool.valid), (true, false), "a name twice");
        pool.put(&"a".into(), Some(slice(2, 2, &["z"])));
        assert!(pool.valid);
        let mut taking = slice(2, 2, &["z"]);
        taking.spec.devices[0].counters.push(Counter { set: "s".into(), name: "c".into(), amount: 1 });
        pool.put(&"a".into(), Some(taking));
        assert!(!pool.valid, "of a counter that there is not");
        pool.put(&"b".into(), None);
        assert!(!pool.complete);
        pool.put(&"a".into(), None);
        assert!(pool.is_empty() && !pool.complete);
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
