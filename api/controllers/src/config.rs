//! Settings, named as kube-controller-manager's flags.

use std::time::Duration;

/// What a cluster can choose. The defaults are kube-controller-manager's.
#[derive(Clone, Debug)]
pub struct Config {
    /// PEM of the certificate authority that signed the API server's certificate: the content of `kube-root-ca.crt`. Empty: that
    /// ConfigMap is not written.
    pub root_ca_pem: String,
    /// How often node health is looked at.
    pub node_monitor_period: Duration,
    /// Time without a heartbeat after which a node counts as lost.
    pub node_monitor_grace_period: Duration,
    /// The same for a node that has never reported.
    pub node_startup_grace_period: Duration,
    /// Nodes a second, per zone, whose pods begin to be evicted while most nodes of the zone are healthy.
    pub node_eviction_rate: f64,
    /// The same while many are not, in zones above [`Config::large_cluster_size`]; in smaller zones eviction then stops.
    pub secondary_node_eviction_rate: f64,
    /// Share of lost nodes from which a zone counts as disrupted.
    pub unhealthy_zone_threshold: f64,
    /// Nodes above which a zone counts as large.
    pub large_cluster_size: usize,
    /// Ended pods that are kept; beyond it the oldest are deleted.
    pub terminated_pod_gc_threshold: usize,
    /// How often pods are looked through for those that nobody else deletes.
    pub pod_gc_period: Duration,
    /// Least time between two writes for one Service: changes of its pods meanwhile are
    /// written together.
    pub endpoint_updates_batch_period: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            root_ca_pem: String::new(),
            node_monitor_period: Duration::from_secs(5),
            node_monitor_grace_period: Duration::from_secs(40),
            node_startup_grace_period: Duration::from_secs(60),
            node_eviction_rate: 0.1,
            secondary_node_eviction_rate: 0.01,
            unhealthy_zone_threshold: 0.55,
            large_cluster_size: 50,
            terminated_pod_gc_threshold: 12_500,
            pod_gc_period: Duration::from_secs(20),
            endpoint_updates_batch_period: Duration::from_millis(500),
        }
    }
}
