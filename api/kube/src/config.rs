//! What the composition root decides.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::KubeletClient;

/// Settings of a gateway. [`Config::default`] is what a cluster on one machine wants.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients inside the cluster reach the gateway: the one endpoint of the `kubernetes` Service.
    pub advertise: SocketAddr,
    /// First address of the range that Services get their addresses from.
    pub service_network: Ipv4Addr,
    /// Length of that range's prefix, in bits; 8 to 30.
    pub service_prefix: u8,
    /// First and last port of the range for `NodePort` Services.
    pub node_ports: (u16, u16),
    /// How long Events are kept; whole seconds.
    pub event_ttl: Duration,
    /// Reads that may run at a time; watches and logs do not count.
    pub max_reads: usize,
    /// Writes that may run at a time.
    pub max_writes: usize,
    /// Requests that may wait for one of these places; those beyond get 429 at once, these after a quarter of
    /// [`Config::request_timeout`].
    pub max_waiting: usize,
    /// Largest request body, in bytes.
    pub max_body: usize,
    /// A request that takes longer gets 504; watches and logs have no such bound.
    pub request_timeout: Duration,
    /// How long open connections may take to end at shutdown before they are cut.
    pub shutdown_grace: Duration,
    /// How often it is checked that the system namespaces and the `kubernetes` Service are still there.
    pub keep_interval: Duration,
    /// Interval of bookmarks on watches that ask for them.
    pub bookmark_interval: Duration,
    /// How kubelets are called when logs are asked for; without it there are no logs.
    pub kubelet_client: Option<KubeletClient>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            advertise: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6443),
            service_network: Ipv4Addr::new(10, 96, 0, 0),
            service_prefix: 12,
            node_ports: (30_000, 32_767),
            event_ttl: Duration::from_secs(3600),
            max_reads: 400,
            max_writes: 200,
            max_waiting: 4_000,
            max_body: 3 << 20,
            request_timeout: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(5),
            keep_interval: Duration::from_secs(10),
            bookmark_interval: Duration::from_secs(60),
            kubelet_client: None,
        }
    }
}

impl Config {
    /// The first Service address, which is that of the `kubernetes` Service.
    pub fn first_service_ip(&self) -> Ipv4Addr {
        let base = u32::from(self.service_network) & self.service_mask();
        Ipv4Addr::from(base + 1)
    }

    /// Number of addresses in the Service range, its first and last one included.
    pub(crate) fn service_addresses(&self) -> u32 {
        1 << (32 - self.service_prefix.clamp(8, 30))
    }

    pub(crate) fn service_mask(&self) -> u32 {
        !(self.service_addresses() - 1)
    }
}
