//! `kelson scheduler`: the scheduler against any Kubernetes API server, with kube-scheduler's flags and configuration file.

mod explain;
mod status;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use kelson_controllers::Election;
use kelson_controllers::scheduler::configuration::{self, Configuration, LeaderElection};
use kelson_controllers::scheduler::{Config, Metrics};
use serde_json::{Value, json};

use crate::listen;
use crate::parts;
use crate::shutdown;
use crate::store::Nanos;
use crate::tasks::Tasks;

pub use explain::{Explain, run as explain};

/// `kelson scheduler`.
#[derive(Args)]
pub struct Scheduler {
    /// How to reach the API server, and as whom; may be in the configuration file instead.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// A KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1): profiles, plugins and their arguments, leader election.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to serve /metrics, /healthz, /livez and /readyz over HTTP; nowhere without it.
    #[arg(long, value_name = "ADDR")]
    metrics_listen: Option<SocketAddr>,
    #[command(flatten)]
    election: Flags,
}

/// Which of several processes schedules; each flag goes before the configuration file.
#[derive(Args)]
struct Flags {
    /// Schedule only while holding a lease, so that several processes may run [default: true].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    leader_elect: Option<bool>,
    /// How long a lease holds that is not renewed: others wait for so long before they take over [default: 15s].
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    leader_elect_lease_duration: Option<Duration>,
    /// How long the leader tries to renew its lease before it stops; less than the lease duration [default: 10s].
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    leader_elect_renew_deadline: Option<Duration>,
    /// Time between two attempts to take or renew the lease [default: 2s].
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    leader_elect_retry_period: Option<Duration>,
    /// Name of the lease, in the namespace kube-system [default: kube-scheduler].
    #[arg(long, value_name = "NAME")]
    leader_elect_resource_name: Option<String>,
}

/// A positive duration as Go writes it.
fn duration(text: &str) -> Result<Duration, String> {
    match Nanos::parse(text)?.std() {
        Duration::ZERO => Err("must be greater than zero".into()),
        duration => Ok(duration),
    }
}

impl Flags {
    /// What the file says, where the flags say nothing else.
    fn over(self, file: LeaderElection) -> Result<LeaderElection> {
        let lead = LeaderElection {
            elect: self.leader_elect.unwrap_or(file.elect),
            lease_duration: self.leader_elect_lease_duration.unwrap_or(file.lease_duration),
            renew_deadline: self.leader_elect_renew_deadline.unwrap_or(file.renew_deadline),
            retry_period: self.leader_elect_retry_period.unwrap_or(file.retry_period),
            name: self.leader_elect_resource_name.unwrap_or(file.name),
        };
        ensure!(
            lead.renew_deadline < lead.lease_duration,
            "--leader-elect-lease-duration must be greater than --leader-elect-renew-deadline"
        );
        // Upstream's JitterFactor.
        ensure!(
            lead.retry_period.mul_f64(1.2) < lead.renew_deadline,
            "--leader-elect-renew-deadline must be greater than 1.2 times --leader-elect-retry-period"
        );
        Ok(lead)
    }
}

/// Reads a configuration file; without one everything is kube-scheduler's default.
fn configuration(file: Option<&Path>) -> Result<Configuration> {
    let tree: Value = match file {
        None => json!({"apiVersion": configuration::VERSION, "kind": "KubeSchedulerConfiguration"}),
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| format!("--config {}", file.display()))?;
            serde_yaml_ng::from_str(&text).with_context(|| format!("--config {}", file.display()))?
        }
    };
    let named = file.map_or_else(String::new, |file| format!("--config {}: ", file.display()));
    configuration::read(tree, duration).map_err(|why| anyhow!("{named}{why}"))
}

/// Runs until a signal, or until the lease is lost.
pub async fn run(options: Scheduler) -> Result<()> {
    let file = configuration(options.config.as_deref())?;
    let lead = options.election.over(file.leader_election)?;
    let kubeconfig = options.kubeconfig.or(file.kubeconfig.map(PathBuf::from));
    let kubeconfig = kubeconfig.context("no API server: name a --kubeconfig")?;
    let stop = shutdown::token()?;
    let (client, _) = parts::client(&kubeconfig, "kelson-scheduler")?;
    let metrics = Metrics::of(file.profiles.iter().map(|profile| &*profile.core.name));
    let mut tasks = Tasks::default();
    let token = tasks.token();
    if let Some(address) = options.metrics_listen {
        let listener = listen::on(address, "--metrics-listen").await?;
        println!("metrics on http://{}/metrics", listener.local_addr()?);
        tasks.start("metrics", status::serve(listener, metrics.clone(), token.clone()));
    }
    let election = Election::new(client.clone(), &lead.name, &parts::identity()).with_durations(
        lead.lease_duration,
        lead.renew_deadline,
        lead.retry_period,
    );
    let settings = Config { profiles: file.profiles, waits: file.waits, ..Config::default() };
    tasks.start("scheduler", async move {
        let schedule = |token| async move {
            kelson_controllers::scheduler::run(client, settings, metrics, token).await;
            Ok(())
        };
        if lead.elect { election.lead(token, schedule).await } else { schedule(token).await }
    });
    parts::until_stopped(stop, tasks).await
}
