//! Who holds how much of what: one column per resource, one row per node, claimed by compare-and-swap.
//!
//! A claim takes from several columns. It takes them one after another in column order and gives back what it took
//! when one lacks, so no column ever holds more claims than its capacity: that is the whole argument for "never
//! over-committed", and it holds for any number of workers. Its price is that a claim may be refused because of
//! another one that is about to be given back; a batch therefore asks again, alone, before it calls a pod
//! unschedulable (`Cluster::schedule`). Since every claim walks the columns in the same order, two claims can never
//! refuse each other: one of them goes through.

use crate::sync::{AtomicI64, Ordering};

/// Index of a node's row. Rows of removed nodes are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u32);

impl NodeId {
    pub(crate) fn row(self) -> usize {
        self.0 as usize
    }
}

/// One thing a pod takes of a node: a column and an amount above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Take {
    pub column: u32,
    pub amount: i64,
}

/// The first columns, which every pod takes from: on each node theirs lie in one line of a cache, since of a large cluster
/// nothing is in a cache when it is asked for.
const NEAR: usize = 5;
/// Those of them that have a capacity; from the others nothing is claimed.
const LIMITED: usize = 3;

/// The first columns of one node.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Near {
    capacity: [i64; LIMITED],
    used: [AtomicI64; NEAR],
}

/// One of the other columns of one node.
#[derive(Debug)]
struct Cell {
    capacity: i64,
    used: AtomicI64,
}

impl Cell {
    fn new(capacity: i64) -> Cell {
        Cell { capacity, used: AtomicI64::new(0) }
    }
}

/// Takes `amount` if it fits, and never more than fits.
fn take(capacity: i64, cell: &AtomicI64, amount: i64) -> bool {
    let mut used = cell.load(Ordering::Relaxed);
    loop {
        if amount > capacity - used {
            return false;
        }
        // Relaxed is enough: a cell guards nothing but itself, and the journal publishes the whole claim.
        match cell.compare_exchange_weak(used, used + amount, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(now) => used = now,
        }
    }
}

/// Largest amount that a pod asks of a column (2^50 bytes are 1 PiB): larger ones are cut to it, and capacities to one
/// less, so that they never fit. Thousands of such pods on one node still add up without overflow.
pub(crate) const MAX_AMOUNT: i64 = 1 << 50;

/// A capacity within the bounds that [`MAX_AMOUNT`] tells.
fn bounded(capacity: i64) -> i64 {
    capacity.clamp(0, MAX_AMOUNT - 1)
}

/// All columns.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    near: Vec<Near>,
    /// How many of the first columns there are.
    first: usize,
    others: Vec<Vec<Cell>>,
}

impl Ledger {
    /// Adds a column whose capacity is `capacity` on each node, at `index` where that one was vacated.
    pub fn put_column(&mut self, index: Option<u32>, capacity: i64) -> u32 {
        if self.first < NEAR {
            let capacity = bounded(capacity);
            self.near.iter_mut().filter_map(|near| near.capacity.get_mut(self.first)).for_each(|cell| *cell = capacity);
            self.first += 1;
            return (self.first - 1) as u32;
        }
        let column = self.near.iter().map(|_| Cell::new(bounded(capacity))).collect();
        match index {
            Some(index) => {
                self.others[index as usize - NEAR] = column;
                index
            }
            None => {
                self.others.push(column);
                (NEAR + self.others.len() - 1) as u32
            }
        }
    }

    /// Frees the memory of a column that nothing refers to any more; not of one of the first.
    pub fn vacate_column(&mut self, index: u32) {
        self.others[index as usize - NEAR] = Vec::new();
    }

    /// Adds a row; `capacity` says how much a column has of its own accord.
    pub fn push_row(&mut self, capacity: impl Fn(u32) -> Option<i64>) -> NodeId {
        let mut near = Near::default();
        for (index, cell) in near.capacity.iter_mut().enumerate().take(self.first) {
            *cell = bounded(capacity(index as u32).unwrap_or(0));
        }
        self.near.push(near);
        for (index, column) in (NEAR..).zip(&mut self.others) {
            if let Some(capacity) = capacity(index as u32) {
                column.push(Cell::new(bounded(capacity)));
            }
        }
        NodeId((self.near.len() - 1) as u32)
    }

    fn cell(&self, column: u32, node: NodeId) -> (i64, &AtomicI64) {
        let (row, column) = (node.row(), column as usize);
        if column < NEAR {
            let near = &self.near[row];
            return (near.capacity.get(column).copied().unwrap_or(0), &near.used[column]);
        }
        let cell = &self.others[column - NEAR][row];
        (cell.capacity, &cell.used)
    }

    /// How much of a column a node has.
    pub fn capacity(&self, column: u32, node: NodeId) -> i64 {
        self.cell(column, node).0
    }

    /// How much of it is taken.
    pub fn used(&self, column: u32, node: NodeId) -> i64 {
        self.cell(column, node).1.load(Ordering::Relaxed)
    }

    /// Whether this fits right now.
    pub fn has_room(&self, node: NodeId, take: &Take) -> bool {
        // What is used may exceed the capacity (a node that shrank, pods bound by others): no wrap below zero can occur
        // because neither exceeds what an i64 holds by construction (`MAX_AMOUNT`).
        let (capacity, used) = self.cell(take.column, node);
        take.amount <= capacity - used.load(Ordering::Relaxed)
    }

    /// Sets a capacity, and says whether it grew.
    pub fn set_capacity(&mut self, column: u32, node: NodeId, capacity: i64) -> std::cmp::Ordering {
        let (row, column) = (node.row(), column as usize);
        let cell = match column.checked_sub(NEAR) {
            None => &mut self.near[row].capacity[column],
            Some(column) => &mut self.others[column][row].capacity,
        };
        let before = std::mem::replace(cell, bounded(capacity));
        bounded(capacity).cmp(&before)
    }

    /// Whether everything in `takes` fits right now.
    pub fn fits(&self, node: NodeId, takes: &[Take]) -> bool {
        takes.iter().all(|take| self.has_room(node, take))
    }

    /// Claims everything in `takes`, or nothing.
    pub fn claim(&self, node: NodeId, takes: &[Take]) -> bool {
        for (at, take) in takes.iter().enumerate() {
            let (capacity, cell) = self.cell(take.column, node);
            if !self::take(capacity, cell, take.amount) {
                self.release(node, &takes[..at]);
                return false;
            }
        }
        true
    }

    /// Gives a claim back.
    pub fn release(&self, node: NodeId, takes: &[Take]) {
        for take in takes {
            self.cell(take.column, node).1.fetch_sub(take.amount, Ordering::Relaxed);
        }
    }

    /// Books what is taken already, whether or not it fits: a pod that is bound is bound.
    pub fn book(&self, node: NodeId, takes: &[Take]) {
        for take in takes {
            self.cell(take.column, node).1.fetch_add(take.amount, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn ledger(capacities: &[i64]) -> (Ledger, NodeId) {
        let mut ledger = Ledger::default();
        for _ in capacities {
            ledger.put_column(None, 0);
        }
        let node = ledger.push_row(|column| Some(capacities[column as usize]));
        (ledger, node)
    }

    #[test]
    fn a_claim_is_all_or_nothing() {
        let (ledger, node) = ledger(&[10, 5]);
        let takes = [Take { column: 0, amount: 4 }, Take { column: 1, amount: 3 }];
        assert!(ledger.claim(node, &takes));
        assert!(!ledger.claim(node, &takes), "the second column has 2 left");
        assert_eq!((ledger.used(0, node), ledger.used(1, node)), (4, 3));
        ledger.release(node, &takes);
        assert!(ledger.claim(node, &takes));
    }

    #[test]
    fn bound_pods_may_exceed_what_a_claim_never_does() {
        let (ledger, node) = ledger(&[10]);
        ledger.book(node, &[Take { column: 0, amount: 12 }]);
        assert!(!ledger.claim(node, &[Take { column: 0, amount: 1 }]));
        assert!(ledger.claim(node, &[]));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    fn shared(capacities: &'static [i64]) -> Arc<Ledger> {
        let mut ledger = Ledger::default();
        for _ in capacities {
            ledger.put_column(None, 0);
        }
        ledger.push_row(|column| Some(capacities[column as usize]));
        Arc::new(ledger)
    }

    fn takes(amounts: &[i64]) -> Vec<Take> {
        amounts.iter().enumerate().map(|(at, amount)| Take { column: at as u32, amount: *amount }).collect()
    }

    #[test]
    fn no_interleaving_overcommits_or_loses_a_claim() {
        const CAPACITY: [i64; 2] = [5, 4];
        const WANTED: [[i64; 2]; 3] = [[2, 3], [3, 1], [3, 2]];
        // All interleavings of three threads take minutes; those with up to three preemptions take seconds.
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let ledger = shared(&CAPACITY);
            let claim =
                |ledger: Arc<Ledger>, wanted: [i64; 2]| ledger.claim(NodeId(0), &takes(&wanted)).then_some(wanted);
            let threads: Vec<_> = WANTED[..2]
                .iter()
                .map(|wanted| {
                    let (ledger, wanted) = (ledger.clone(), *wanted);
                    thread::spawn(move || claim(ledger, wanted))
                })
                .collect();
            let mut won = vec![claim(ledger.clone(), WANTED[2])];
            won.extend(threads.into_iter().map(|thread| thread.join().unwrap()));
            let won: Vec<_> = won.into_iter().flatten().collect();
            assert!(!won.is_empty(), "claims in one order cannot all refuse each other");
            for column in 0..2 {
                let held: i64 = won.iter().map(|wanted| wanted[column]).sum();
                assert!(held <= CAPACITY[column]);
                assert_eq!(ledger.used(column as u32, NodeId(0)), held, "what failed was given back");
            }
        });
    }

    #[test]
    fn a_release_is_seen_whole_once_it_is_done() {
        loom::model(|| {
            let ledger = shared(&[2, 2]);
            assert!(ledger.claim(NodeId(0), &takes(&[2, 2])));
            let other = {
                let ledger = ledger.clone();
                thread::spawn(move || ledger.claim(NodeId(0), &takes(&[1, 2])))
            };
            ledger.release(NodeId(0), &takes(&[2, 2]));
            let won = other.join().unwrap();
            let expected = if won { [1, 2] } else { [0, 0] };
            assert_eq!([ledger.used(0, NodeId(0)), ledger.used(1, NodeId(0))], expected);
        });
    }
}
