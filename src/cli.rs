//! The command line: every subcommand and flag, and nothing else.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A Kubernetes-shaped control plane in one binary.
#[derive(Parser)]
#[command(name = "kelson", version, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,

    /// What to log, as a filter: a level, or `target=level` pairs separated by commas.
    #[arg(long, global = true, env = "KELSON_LOG", default_value = "warn", value_name = "FILTER")]
    pub log: String,
}

#[derive(Subcommand)]
pub enum Command {
    /// A whole cluster in one process: store, API server, controllers, scheduler, simulated nodes.
    Dev(Dev),
    /// The etcd-compatible store alone, with etcd's own flags (`kelson store --help`).
    #[command(disable_help_flag = true)]
    Store(Store),
    /// The Kubernetes API server on any etcd v3 endpoint.
    Apiserver(Apiserver),
    /// The controllers, against an API server.
    Controllers(Client),
    /// The scheduler, against an API server.
    Scheduler(crate::scheduler::Scheduler),
    /// Why the scheduler puts a pod where it does, or nowhere.
    #[command(subcommand)]
    Explain(crate::scheduler::Explain),
    /// Simulated nodes, against an API server.
    Nodesim(Nodesim),
    /// Snapshots of a store: save, look at, restore.
    #[command(subcommand)]
    Snapshot(crate::snapshot::Snapshot),
    /// Move from a running etcd into a new data directory for `kelson store`.
    Migrate(crate::snapshot::Migrate),
    /// Measurements, each against real processes.
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Args)]
pub struct Dev {
    /// Number of simulated nodes.
    #[arg(long, default_value_t = 100, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub nodes: u32,
    /// Where the store, the certificates and the kubeconfig are kept
    /// [default: $XDG_DATA_HOME/kelson or ~/.local/share/kelson].
    #[arg(long, value_name = "DIR", conflicts_with = "ephemeral")]
    pub data_dir: Option<PathBuf>,
    /// Address for etcd clients; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:2379", value_name = "ADDR")]
    pub client_listen: SocketAddr,
    /// Address for Kubernetes clients; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:6443", value_name = "ADDR")]
    pub api_listen: SocketAddr,
    /// Where to write the administrator's kubeconfig [default: kubeconfig in the data dir].
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Keep everything in memory and leave nothing behind.
    #[arg(long)]
    pub ephemeral: bool,
}

#[derive(Args)]
pub struct Store {
    /// etcd's flags, environment (`ETCD_*`) and configuration file.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    pub flags: Vec<String>,
}

#[derive(Args)]
pub struct Apiserver {
    /// The store: one or more etcd v3 endpoints, separated by commas.
    #[arg(long, required = true, value_name = "URL", value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// CA of the store's certificates.
    #[arg(long, value_name = "FILE")]
    pub etcd_cafile: Option<PathBuf>,
    /// Client certificate for the store.
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// Key of that certificate.
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
    /// Address to serve on; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:6443", value_name = "ADDR")]
    pub api_listen: SocketAddr,
    /// Where certificates are kept, and generated where they are missing; the components' kubeconfigs too.
    #[arg(long, default_value = "pki", value_name = "DIR")]
    pub cert_dir: PathBuf,
    /// Where to write the administrator's kubeconfig [default: admin.kubeconfig in the certificate dir].
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

#[derive(Args)]
pub struct Client {
    /// How to reach the API server, and as whom.
    #[arg(long, required = true, value_name = "FILE")]
    pub kubeconfig: PathBuf,
}

#[derive(Args)]
pub struct Nodesim {
    #[command(flatten)]
    pub client: Client,
    /// Number of simulated nodes.
    #[arg(long, default_value_t = 100, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub nodes: u32,
    /// The API server's certificate dir, for the serving certificate of the simulated kubelets.
    #[arg(long, default_value = "pki", value_name = "DIR")]
    pub cert_dir: PathBuf,
    /// Address the simulated kubelets serve on; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR")]
    pub kubelet_listen: SocketAddr,
}

#[derive(Subcommand)]
pub enum Bench {
    /// A whole cluster: a Deployment from apply to every pod Running, or the scheduler end to end.
    Cluster(crate::bench::ClusterBench),
    /// The scheduler core alone, on kube-scheduler's own workloads: pods per second, latency of one pod, memory.
    Sched(crate::bench::SchedBench),
    /// The store beside an etcd, on the same work in one run: throughput, latency, CPU, memory, and the ratios.
    Store(crate::bench::StoreBench),
}

/// How to print a result.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
}
