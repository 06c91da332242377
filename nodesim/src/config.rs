//! What to simulate, and how fast simulated things happen.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::Millis;
use crate::error::Error;
use crate::size::{self, DEFAULT_SIZE, VmSize};

/// Most nodes in one process.
pub const MAX_NODES: usize = 122_880;

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Config {
    /// VMs that exist from the start; more come and go through the [`Provider`](crate::Provider).
    pub nodes: usize,
    /// First part of their names: `node-` gives `node-00000`, `node-00001`, …
    pub name_prefix: String,
    /// Names of VM sizes; the nodes take them in turn.
    pub sizes: Vec<String>,
    /// Agent pool that the nodes belong to.
    pub pool: String,
    /// Region of all nodes.
    pub region: String,
    /// Availability zones within the region; the nodes take them in turn. None: no zone label.
    pub zones: Vec<String>,
    /// Most pods of a node.
    pub max_pods: u32,
    /// What everything that looks random is drawn from.
    pub seed: u64,
    /// How long things take.
    pub timings: Timings,
    /// Address of every node where there is no kubelet server.
    pub address: IpAddr,
    /// The HTTPS server that all nodes share. None: the nodes serve no logs.
    pub kubelet: Option<KubeletConfig>,
    /// Most API calls in flight (1 to 1,024). What waits is bounded by the number of nodes and pods: each is queued at
    /// most once and what it writes is worked out when its turn comes, so the latest state wins.
    pub concurrency: usize,
    /// Most Normal events per second sent to the API, with a burst of ten times that; more are dropped and counted.
    pub events_per_second: u32,
}

/// The server behind `kubectl logs`.
#[derive(Clone, Debug)]
pub struct KubeletConfig {
    /// Where to listen; port 0 takes a free one. The IP is the nodes' InternalIP.
    pub listen: SocketAddr,
    /// Server certificate chain, PEM.
    pub cert_pem: Vec<u8>,
    /// Its private key, PEM.
    pub key_pem: Vec<u8>,
    /// CA that client certificates must come from, PEM.
    pub client_ca_pem: Vec<u8>,
    /// Most connections at a time; more wait to be accepted.
    pub max_connections: usize,
}

/// How long things take, in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timings {
    /// Shortest and longest pull of an image, by its size; premium disk.
    pub pull: (Millis, Millis),
    /// Until a pull of an image that does not exist fails.
    pub pull_error: Millis,
    /// Until a pod has its network.
    pub sandbox: Millis,
    /// From an image at hand to a running container; at least 1.
    pub start: Millis,
    /// From SIGTERM to the end of a process that heeds it.
    pub stop: Millis,
    /// How long a program runs whose length nothing tells.
    pub work: Millis,
    /// A status that is known to be outdated within this time is not written.
    pub settle: Millis,
    /// How long a pod that is only on its way (pulling, starting) goes unreported.
    pub report: Millis,
    /// First pause of a crash or pull loop, and the longest one.
    pub backoff: (Millis, Millis),
    /// Between two renewals of a node's lease.
    pub lease: Millis,
    /// Between two reports of an unchanged node status.
    pub heartbeat: Millis,
    /// Leases of one beat are renewed together: one wake-up and one commit for all of them.
    pub beat: Millis,
}

impl Timings {
    /// Short ones, under which the control plane is what limits a rollout.
    pub fn instant_ish() -> Timings {
        Timings {
            pull: (50, 300),
            pull_error: 100,
            sandbox: 10,
            start: 20,
            stop: 20,
            work: 200,
            settle: 200,
            report: 1_000,
            backoff: (10_000, 300_000),
            lease: 10_000,
            heartbeat: 300_000,
            beat: 100,
        }
    }

    /// As on real VMs.
    pub fn realistic() -> Timings {
        Timings {
            pull: (1_500, 40_000),
            pull_error: 1_500,
            sandbox: 600,
            start: 400,
            stop: 250,
            work: 5_000,
            ..Timings::instant_ish()
        }
    }
}

impl Default for Timings {
    fn default() -> Timings {
        Timings::instant_ish()
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            nodes: 100,
            name_prefix: "node-".into(),
            sizes: vec![DEFAULT_SIZE.into()],
            pool: "nodepool1".into(),
            region: "eastus".into(),
            zones: vec!["1".into(), "2".into(), "3".into()],
            max_pods: 110,
            seed: 0,
            timings: Timings::default(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            kubelet: None,
            concurrency: 64,
            events_per_second: 50,
        }
    }
}

impl Config {
    /// The sizes, looked up.
    ///
    /// # Errors
    /// If anything in the configuration cannot be carried out: the message names it.
    pub(crate) fn checked_sizes(&self) -> Result<Vec<&'static VmSize>, Error> {
        let bad = |text: String| Err(Error::Config(text));
        if self.nodes > MAX_NODES {
            return bad(format!("{} nodes asked for, one process simulates at most {MAX_NODES}", self.nodes));
        }
        if !(1..=1024).contains(&self.concurrency) {
            return bad(format!("concurrency must be 1 to 1024, not {}", self.concurrency));
        }
        if !(1..=124).contains(&self.max_pods) {
            return bad(format!("max pods must be 1 to 124, not {}", self.max_pods));
        }
        if self.timings.beat == 0 || self.timings.lease < self.timings.beat || self.timings.start == 0 {
            return bad("timings: beat and start must be positive and lease at least one beat".into());
        }
        let sizes: Result<Vec<_>, _> = self
            .sizes
            .iter()
            .map(|name| size::find(name).ok_or_else(|| Error::Config(format!("unknown VM size {name:?}"))))
            .collect();
        match sizes? {
            sizes if sizes.is_empty() => bad("no VM size given".into()),
            sizes => Ok(sizes),
        }
    }

    /// Name of the node with this number; at least five digits, so that names sort as numbers do.
    pub(crate) fn node_name(&self, index: usize) -> String {
        format!("{}{index:05}", self.name_prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_carried_out_is_named() {
        let refused = |config: Config| config.checked_sizes().unwrap_err().to_string();
        let unknown = Config { sizes: vec!["Standard_Nope".into()], ..Config::default() };
        assert_eq!(refused(unknown), "node simulator: unknown VM size \"Standard_Nope\"");
        assert!(refused(Config { nodes: MAX_NODES + 1, ..Config::default() }).contains("at most 122880"));
        assert!(refused(Config { concurrency: 0, ..Config::default() }).contains("concurrency"));
        assert!(refused(Config { max_pods: 500, ..Config::default() }).contains("max pods"));
        assert!(refused(Config { sizes: vec![], ..Config::default() }).contains("no VM size"));
        assert_eq!(Config::default().node_name(17), "node-00017");
    }
}
