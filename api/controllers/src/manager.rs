//! Starts everything and waits for the end.

use std::sync::Arc;

use kelson_wire::kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::collector::Collector;
use crate::config::Config;
use crate::controller::start;
use crate::daemonset::DaemonSets;
use crate::deployment::Deployments;
use crate::endpoint::EndpointWriter;
use crate::error::Error;
use crate::identity::Identities;
use crate::job::Jobs;
use crate::lifecycle::Lifecycle;
use crate::namespace::Namespaces;
use crate::replicaset::ReplicaSets;
use crate::world::World;

/// Workers of a controller whose objects are many and slow to act on.
const WORKERS: usize = 5;
/// Workers of those that make many small writes.
const MANY_WORKERS: usize = 20;

/// Runs all controllers until `shutdown`. They share one watch per resource. Only one process may run them at a time:
/// [`crate::Election`] sees to that where several could.
///
/// # Errors
/// Only when a task panicked: what the API refuses is retried for ever.
pub async fn run(client: Client, config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let world = Arc::new(World::new(client));
    let config = Arc::new(config);
    let mut tasks = JoinSet::new();
    // Controllers listen before the first list, so that they see every object once.
    let replica_sets = ReplicaSets::new(&world);
    let deployments = Deployments::new(&world);
    let identities = Identities::new(&world, &config.root_ca_pem);
    let namespaces = Namespaces::new(&world);
    let endpoints = EndpointWriter::new(&world, &config);
    let jobs = Jobs::new(&world);
    let daemon_sets = DaemonSets::new(&world);
    let lifecycle = Lifecycle::new(&world, &config);
    let collector = Collector::new(&world);
    world.start(&mut tasks, &shutdown);
    let graph_ready = CancellationToken::new();
    let watch_rest = collector.clone().watch_rest(graph_ready.clone(), shutdown.clone());
    let watching = shutdown.clone();
    tasks.spawn(async move {
        let _ = watching.run_until_cancelled_owned(watch_rest).await;
    });
    if shutdown.run_until_cancelled(world.wait_synced()).await.is_some() {
        start(&replica_sets, WORKERS, &mut tasks, &shutdown);
        start(&deployments, WORKERS, &mut tasks, &shutdown);
        start(&identities, WORKERS, &mut tasks, &shutdown);
        start(&jobs, WORKERS, &mut tasks, &shutdown);
        start(&daemon_sets, WORKERS, &mut tasks, &shutdown);
        start(&namespaces, WORKERS, &mut tasks, &shutdown);
        start(&endpoints, WORKERS, &mut tasks, &shutdown);
        lifecycle.start(&mut tasks, &shutdown);
        // Nothing is collected before the graph knows every owner.
        if shutdown.run_until_cancelled(graph_ready.cancelled()).await.is_some() {
            start(&collector, MANY_WORKERS, &mut tasks, &shutdown);
        }
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            shutdown.cancel();
            return Err(error.into());
        }
    }
    Ok(())
}
