//! `kelson dev`: every part in one process, and a short word on where things are.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use comfy_table::{Table, presets};
use kelson_etcd::{LocalStore, ServerOptions};
use kelson_kube::User;
use kelson_nodesim::{Handle, Simulator};
use kelson_raft::{Config, Data, Node};
use kelson_wire::kube::Client;
use tokio_util::sync::CancellationToken;

use crate::certificates::Certificates;
use crate::cli::Dev;
use crate::folder::Folder;
use crate::progress::Progress;
use crate::tasks::Tasks;
use crate::{listen, parts, shutdown};

/// Pause between two looks at how many nodes are Ready.
const LOOK: Duration = Duration::from_millis(50);

/// Runs until a signal, or until a part fails.
pub async fn run(options: Dev) -> Result<()> {
    let stop = shutdown::token()?;
    let etcd_listener = listen::on(options.client_listen, "--client-listen").await?;
    let api_listener = listen::on(options.api_listen, "--api-listen").await?;
    let folder = if options.ephemeral { Folder::temporary()? } else { Folder::kept(options.data_dir)? };
    let data = if options.ephemeral { Data::Memory } else { Data::Dir(folder.path().to_path_buf()) };
    let etcd_url = format!("http://{}", etcd_listener.local_addr()?);
    let api_address = api_listener.local_addr()?;
    let api_url = format!("https://{api_address}");

    // What is below stops after what is above it: first the clients, then the gateway, then the store.
    let mut clients = Tasks::default();
    let mut gateways = Tasks::default();
    let mut stores = Tasks::default();

    let node = Node::open(Config { client_urls: vec![etcd_url.clone()], ..Config::new("default", data) }).await?;
    let serving = ServerOptions::default();
    stores.start("store", kelson_etcd::serve(node.clone(), etcd_listener, serving.clone(), stores.token()));
    let certificates = Certificates::open(&folder.path().join("pki"), api_address)?;
    let store = Arc::new(LocalStore::new(node.clone(), serving.max_request_bytes));
    let gateway = parts::gateway(store, &certificates, api_listener, &mut gateways).await?;
    let kubeconfig = options.kubeconfig.unwrap_or_else(|| folder.path().join("kubeconfig"));
    certificates.write_admin(&kubeconfig, "--kubeconfig")?;

    let client = |name: &str, groups: &[&str]| Client::new(gateway.transport(User::new(name, groups)), name);
    let token = clients.token();
    let controllers = client("system:kube-controller-manager", &[]);
    let settings = parts::controllers_config(certificates.ca_pem());
    clients.start("controllers", kelson_controllers::run(controllers, settings, token.clone()));
    let scheduler = client("system:kube-scheduler", &[]);
    let settings = kelson_controllers::scheduler::Config::default();
    let metrics = kelson_controllers::scheduler::Metrics::new(kelson_controllers::scheduler::DEFAULT_SCHEDULER);
    let scheduling = kelson_controllers::scheduler::run(scheduler, settings, metrics, token.clone());
    clients.start("scheduler", async move {
        scheduling.await;
        Ok::<_, anyhow::Error>(())
    });
    let agents = client("system:nodes", &["system:nodes", "system:authenticated"]);
    let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let (simulator, nodes) =
        Simulator::new(agents, parts::nodesim_config(options.nodes, listen, &certificates)?).await?;
    clients.start("nodesim", async move {
        simulator.run(token).await;
        Ok::<_, anyhow::Error>(())
    });

    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        failure = clients.failed() => Err(failure),
        failure = gateways.failed() => Err(failure),
        failure = stores.failed() => Err(failure),
        stopped = node.stopped() => stopped.context("store"),
        () = announce(options.nodes, &nodes, &kubeconfig, &etcd_url, &api_url, &folder, &stop) => Ok(()),
    };
    // The sockets go first, so that nobody is served by half a cluster.
    let stopped = clients.stop().await.and(gateways.stop().await).and(stores.stop().await);
    let closed = node.shutdown().await.context("store");
    ended.and(stopped).and(closed)
}

/// Shows how the nodes come up, then where things are; then waits for the end.
async fn announce(
    total: u32,
    nodes: &Handle,
    kubeconfig: &Path,
    etcd_url: &str,
    api_url: &str,
    folder: &Folder,
    stop: &CancellationToken,
) {
    let mut progress = Progress::new("nodes ready", u64::from(total));
    while nodes.progress().ready < total as usize {
        progress.set(nodes.progress().ready as u64);
        tokio::time::sleep(LOOK).await;
    }
    progress.set(u64::from(total));
    progress.finish();
    let kubeconfig = kubeconfig.display().to_string();
    let data = match folder {
        Folder::Kept(path) => path.display().to_string(),
        Folder::Temporary(_) => "in memory (--ephemeral)".into(),
    };
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.add_row(["Kubernetes API", api_url]);
    table.add_row(["etcd API", etcd_url]);
    table.add_row(["kubeconfig", &kubeconfig]);
    table.add_row(["data", &data]);
    table.add_row(["nodes", &format!("{total} Ready")]);
    println!("{table}\n\ntry\n  kubectl --kubeconfig {kubeconfig} get nodes");
    println!("  kubectl --kubeconfig {kubeconfig} create deployment web --image=nginx --replicas=50\n\nready");
    stop.cancelled().await;
}
