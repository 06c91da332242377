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
    /// Every key in one answer.
    List,
    /// Every key in answers of so many.
    Pages {
        /// Keys of a page.
        limit: u64,
    },
    /// Puts at a fixed rate, alone and then while another client lists without a pause.
    ListUnderWrites,
    /// Puts under a prefix that many watch, as many as are delivered.
    FanOut {
        /// How many, in tens.
        watchers: usize,
    },
    /// Puts under a watched prefix at a fixed rate.
    WatchLatency {
        /// How many.
        watchers: usize,
    },
    /// Keep-alives of random leases, as many as there are keys.
    KeepAlive,
    /// Memory with many keys, and the time to serve again.
    Restart,
    /// Puts at ever more keys.
    Growth,
    /// Ten times as many puts as are answered.
    Overload,
    /// Puts at a fixed rate while a member that was away gets what it lacks.
    CatchUp,
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
    /// Its requests in a second; 0 for a share of the peak.
    pub rate: f64,
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
    rate: 0.0,
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
    Workload {
        name: "list",
        about: "100,000 keys of 1 KiB in one answer, one client",
        kind: Kind::List,
        clients: 1,
        keys: 100_000,
        operations: 20,
        seconds: 0.0,
        ..USUAL
    },
    Workload {
        name: "list-pages",
        about: "100,000 keys of 1 KiB in pages of 500 at one revision, 4 clients on 1 connection",
        kind: Kind::Pages { limit: 500 },
        clients: 4,
        keys: 100_000,
        operations: 2_000,
        seconds: 0.0,
        ..USUAL
    },
    Workload {
        name: "list-under-writes",
        about: "1,000 puts of 1 KiB a second while another client lists 100,000 keys; p99 is that of the puts meanwhile",
        kind: Kind::ListUnderWrites,
        clients: 64,
        keys: 100_000,
        seconds: 10.0,
        rate: 1_000.0,
        ..USUAL
    },
    Workload {
        name: "watch-fanout",
        about: "events of 128 bytes to 1,000 watchers of one prefix, ten to a stream, 10 connections",
        kind: Kind::FanOut { watchers: 1_000 },
        connections: 10,
        clients: 32,
        length: 128,
        operations: 2_000,
        ..USUAL
    },
    Workload {
        name: "watch-latency",
        about: "500 puts of 1 KiB a second, 10 watchers: from when a put was due to its delivery",
        kind: Kind::WatchLatency { watchers: 10 },
        clients: 64,
        seconds: 10.0,
        rate: 500.0,
        ..USUAL
    },
    Workload {
        name: "lease-keepalive",
        about: "keep-alives of 100,000 leases on 16 streams of 4 connections, 16 in flight on each",
        kind: Kind::KeepAlive,
        connections: 4,
        clients: 16,
        keys: 100_000,
        operations: 200_000,
        seconds: 0.0,
        ..USUAL
    },
    Workload {
        name: "restart",
        about: "1,000,000 keys of 256 bytes: throughput of filling, memory with them, time to the first read of a restart",
        kind: Kind::Restart,
        connections: 4,
        keys: 1_000_000,
        length: 256,
        operations: 1_000_000,
        seconds: 0.0,
        ..USUAL
    },
    Workload {
        name: "put-growth",
        about: "puts of 256 bytes with 10,000 keys in the store, with ten times as many, up to 1,000,000",
        kind: Kind::Growth,
        keys: 1_000_000,
        length: 256,
        operations: 50_000,
        seconds: 0.0,
        ..USUAL
    },
    Workload {
        name: "overload",
        about: "ten times as many puts of 1 KiB as the peak, from 10,000 clients that wait for 1 s; throughput is goodput",
        kind: Kind::Overload,
        operations: 50_000,
        seconds: 10.0,
        ..USUAL
    },
    Workload {
        name: "catch-up",
        about: "5,000 puts of 256 bytes a second while a member that lacks 1,000,000 catches up; needs --members 3 or more",
        kind: Kind::CatchUp,
        keys: 1_000_000,
        length: 256,
        operations: 1_000_000,
        seconds: 10.0,
        rate: 5_000.0,
        ..USUAL
    },
];

impl Workload {
    /// With this many keys, where the number of keys is what is measured.
    pub fn with_keys(self, keys: Option<u64>) -> Workload {
        match (self.kind, keys) {
            (Kind::Restart | Kind::Growth, Some(keys)) => Workload { keys, ..self },
            _ => self,
        }
    }

    /// Whether a server that runs already can be asked for it.
    pub fn suits_endpoint(&self) -> bool {
        !matches!(self.kind, Kind::Restart | Kind::CatchUp)
    }

    /// Whether a server of so many members can be asked for it.
    pub fn suits_members(&self, members: u8) -> bool {
        self.kind != Kind::CatchUp || members >= 3
    }

    /// Of this share of its full size; at least so large that its figures mean something.
    pub fn scaled(self, scale: f64) -> Workload {
        // Clients that give up after a second are to do so some times.
        let least = if self.kind == Kind::Overload { 3.0 } else { 0.0 };
        let count = |full: u64, least: u64| ((full as f64 * scale) as u64).max(least.min(full));
        Workload {
            keys: count(self.keys, 100),
            operations: count(self.operations, 2 * self.clients as u64),
            seconds: (self.seconds * scale.clamp(0.1, 4.0)).max(least),
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
            assert!(small.operations >= 2 * small.clients as u64 && small.keys > 0, "{}", row.name);
            let full = row.scaled(1.0);
            assert_eq!((full.operations, full.keys), (row.operations, row.keys));
        }
    }
}
