//! What is measured: one row for each workload.

/// The kind of work, with what only this kind has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Puts to random keys.
    Put,
    /// Reads of single keys.
    Get {
        /// Whether an answer may be old.
        serializable: bool,
    },
    /// Guarded puts with a get where the guard fails, and a watch open on all of them.
    Guarded,
    /// Seven linearizable gets to three puts.
    Mixed,
}

/// A row.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// What `--workload` calls it.
    pub name: &'static str,
    /// For people.
    pub about: &'static str,
    pub kind: Kind,
    /// Connections, and requests in flight on all of them.
    pub connections: usize,
    pub clients: usize,
    /// Keys in the store: written before the run where it reads them, the range of the random keys otherwise.
    pub keys: u64,
    /// Bytes of each value.
    pub length: usize,
    /// Requests of the closed loop, at full size.
    pub operations: u64,
    /// Seconds of the open loop, at full size; 0 for none.
    pub seconds: f64,
}

/// What most rows have in common.
const USUAL: Workload = Workload {
    name: "",
    about: "",
    kind: Kind::Put,
    connections: 1,
    clients: 256,
    keys: 10_000,
    length: 1_024,
    operations: 100_000,
    seconds: 5.0,
};

/// Every workload, in the order of the report.
pub const WORKLOADS: &[Workload] = &[
    Workload { name: "put", about: "puts of 1 KiB, 256 clients on 1 connection", ..USUAL },
    Workload {
        name: "put-1000",
        about: "puts of 1 KiB, 1,000 clients on 10 connections",
        connections: 10,
        clients: 1_000,
        ..USUAL
    },
    Workload {
        name: "put-1-client",
        about: "puts of 1 KiB, one client",
        clients: 1,
        operations: 5_000,
        seconds: 0.0,
        ..USUAL
    },
    Workload {
        name: "get",
        about: "linearizable gets of 1 KiB, 256 clients on 1 connection",
        kind: Kind::Get { serializable: false },
        ..USUAL
    },
    Workload {
        name: "get-serializable",
        about: "serializable gets of 1 KiB, 256 clients on 1 connection",
        kind: Kind::Get { serializable: true },
        ..USUAL
    },
    Workload {
        name: "txn-k8s",
        about: "guarded updates of 1 KiB with a get in the else branch, 256 clients on 1 connection, one watcher",
        kind: Kind::Guarded,
        ..USUAL
    },
    Workload {
        name: "mixed",
        about: "seven linearizable gets to three puts, 1 KiB, 256 clients on 1 connection",
        kind: Kind::Mixed,
        ..USUAL
    },
];

impl Workload {
    /// Of this share of its full size; at least so large that its figures mean something.
    pub fn scaled(self, scale: f64) -> Workload {
        let count = |full: u64, least: u64| ((full as f64 * scale) as u64).max(least.min(full));
        Workload {
            keys: count(self.keys, 100),
            operations: count(self.operations, 4 * self.clients as u64),
            seconds: self.seconds * scale.clamp(0.1, 4.0),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_rows_complete() {
        let mut names: Vec<_> = WORKLOADS.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), WORKLOADS.len());
        for row in WORKLOADS {
            assert!(!row.about.is_empty() && row.operations > 0 && row.connections <= row.clients, "{}", row.name);
        }
    }

    #[test]
    fn a_small_run_keeps_every_client_busy_and_a_full_one_is_as_written() {
        for row in WORKLOADS {
            let small = row.scaled(0.000_1);
            assert!(small.operations >= 4 * small.clients as u64 && small.keys > 0, "{}", row.name);
            let full = row.scaled(1.0);
            assert_eq!((full.operations, full.keys), (row.operations, row.keys));
        }
    }
}
