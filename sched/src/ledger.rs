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

/// One resource of one node: side by side, since whoever asks for one asks for both, and of a large cluster neither is in a
/// cache.
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

/// One resource over all nodes.
#[derive(Debug, Default)]
pub(crate) struct Column {
    cells: Vec<Cell>,
}

impl Column {
    fn with_rows(rows: usize, capacity: i64) -> Column {
        Column { cells: (0..rows).map(|_| Cell::new(capacity)).collect() }
    }

    pub fn capacity(&self, node: NodeId) -> i64 {
        self.cells[node.row()].capacity
    }

    pub fn used(&self, node: NodeId) -> i64 {
        self.cells[node.row()].used.load(Ordering::Relaxed)
    }

    /// Whether `amount` more fits right now.
    pub fn fits(&self, node: NodeId, amount: i64) -> bool {
        // `used` may exceed `capacity` (a node that shrank, pods bound by others): no wrap below zero can occur
        // because neither exceeds what an i64 holds by construction (`MAX_AMOUNT`).
        amount <= self.capacity(node) - self.used(node)
    }

    /// Takes `amount` if it fits, and never more than fits.
    fn take(&self, node: NodeId, amount: i64) -> bool {
        let Cell { capacity, used: cell } = &self.cells[node.row()];
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

    fn add(&self, node: NodeId, amount: i64) {
        self.cells[node.row()].used.fetch_add(amount, Ordering::Relaxed);
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
    rows: usize,
    columns: Vec<Column>,
}

impl Ledger {
    /// Adds a column whose capacity is `capacity` on each node, at `index` where that one was vacated.
    pub fn put_column(&mut self, index: Option<u32>, capacity: i64) -> u32 {
        let column = Column::with_rows(self.rows, bounded(capacity));
        match index {
            Some(index) => {
                self.columns[index as usize] = column;
                index
            }
            None => {
                self.columns.push(column);
                (self.columns.len() - 1) as u32
            }
        }
    }

    /// Frees the memory of a column that nothing refers to any more.
    pub fn vacate_column(&mut self, index: u32) {
        self.columns[index as usize] = Column::default();
    }

    /// Adds a row; `capacity` says how much a column has of its own accord.
    pub fn push_row(&mut self, capacity: impl Fn(u32) -> Option<i64>) -> NodeId {
        for (index, column) in self.columns.iter_mut().enumerate() {
            if let Some(capacity) = capacity(index as u32) {
                column.cells.push(Cell::new(bounded(capacity)));
            }
        }
        self.rows += 1;
        NodeId((self.rows - 1) as u32)
    }

    pub fn column(&self, index: u32) -> &Column {
        &self.columns[index as usize]
    }

    /// Sets a capacity, and says whether it grew.
    pub fn set_capacity(&mut self, column: u32, node: NodeId, capacity: i64) -> std::cmp::Ordering {
        let cell = &mut self.columns[column as usize].cells[node.row()].capacity;
        let before = std::mem::replace(cell, bounded(capacity));
        bounded(capacity).cmp(&before)
    }

    /// Whether everything in `takes` fits right now.
    pub fn fits(&self, node: NodeId, takes: &[Take]) -> bool {
        takes.iter().all(|take| self.column(take.column).fits(node, take.amount))
    }

    /// Claims everything in `takes`, or nothing.
    pub fn claim(&self, node: NodeId, takes: &[Take]) -> bool {
        // Not only refuses early. Each compare-and-swap waits for all loads before it, and so for its own cell to come from
        // memory; these loads come at once.
        if !self.fits(node, takes) {
            return false;
        }
        for (at, take) in takes.iter().enumerate() {
            if !self.column(take.column).take(node, take.amount) {
                self.release(node, &takes[..at]);
                return false;
            }
        }
        true
    }

    /// Gives a claim back.
    pub fn release(&self, node: NodeId, takes: &[Take]) {
        for take in takes {
            self.column(take.column).add(node, -take.amount);
        }
    }

    /// Books what is taken already, whether or not it fits: a pod that is bound is bound.
    pub fn book(&self, node: NodeId, takes: &[Take]) {
        for take in takes {
            self.column(take.column).add(node, take.amount);
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
        assert_eq!((ledger.column(0).used(node), ledger.column(1).used(node)), (4, 3));
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
                assert_eq!(ledger.column(column as u32).used(NodeId(0)), held, "what failed was given back");
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
            assert_eq!([ledger.column(0).used(NodeId(0)), ledger.column(1).used(NodeId(0))], expected);
        });
    }
}
