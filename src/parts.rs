//! The parts as separate processes, and how each is put together.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use kelson_controllers::Election;
use kelson_kube::Gateway;
use kelson_nodesim::{KubeletConfig, Simulator};
use kelson_wire::kube::{Client, Https, Kubeconfig};
use kelson_wire::remote::{ClientTls, RemoteOptions, RemoteStore};
use kelson_wire::store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::certificates::Certificates;
use crate::tasks::Tasks;
use crate::{cli, listen, shutdown};

/// Connections to the simulated kubelets at a time.
const KUBELET_CONNECTIONS: usize = 256;

/// Opens the gateway on a store and serves it.
pub async fn gateway(
    store: Arc<dyn Store>,
    certificates: &Certificates,
    listener: TcpListener,
    tasks: &mut Tasks,
) -> Result<Gateway> {
    let config = kelson_kube::Config {
        advertise: listener.local_addr()?,
        kubelet_client: Some(certificates.kubelet_client()?),
        ..kelson_kube::Config::default()
    };
    let gateway = Gateway::start(store, config).await.context("API server")?;
    let tls = certificates.server_tls()?;
    tasks.start("API server", gateway.clone().serve(listener, tls, tasks.token()));
    Ok(gateway)
}

/// The controllers' settings in a cluster with this CA.
pub fn controllers_config(ca_pem: &str) -> kelson_controllers::Config {
    kelson_controllers::Config { root_ca_pem: ca_pem.into(), ..kelson_controllers::Config::default() }
}

/// The simulator's settings, with a kubelet server that the cluster's API server trusts.
pub fn nodesim_config(nodes: u32, listen: SocketAddr, certificates: &Certificates) -> Result<kelson_nodesim::Config> {
    let (cert_pem, key_pem) = certificates.kubelet_server(listen.ip())?;
    Ok(kelson_nodesim::Config {
        nodes: nodes as usize,
        kubelet: Some(KubeletConfig {
            listen,
            cert_pem,
            key_pem,
            client_ca_pem: certificates.ca_pem().into(),
            max_connections: KUBELET_CONNECTIONS,
        }),
        ..kelson_nodesim::Config::default()
    })
}

/// Waits for a signal or a failure, then stops.
pub async fn until_stopped(stop: CancellationToken, mut tasks: Tasks) -> Result<()> {
    println!("ready");
    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        failure = tasks.failed() => Err(failure),
    };
    ended.and(tasks.stop().await)
}

/// `kelson apiserver`.
pub async fn apiserver(options: cli::Apiserver) -> Result<()> {
    let stop = shutdown::token()?;
    let listener = listen::on(options.api_listen, "--api-listen").await?;
    let address = listener.local_addr()?;
    let certificates = Certificates::open(&options.cert_dir, address)?;
    let read = |file: &Path| std::fs::read(file).with_context(|| format!("cannot read {}", file.display()));
    let mut remote = RemoteOptions::new(options.etcd_servers);
    if let Some(ca) = &options.etcd_cafile {
        let identity = match (&options.etcd_certfile, &options.etcd_keyfile) {
            (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
            _ => None,
        };
        remote.tls = Some(ClientTls { ca: read(ca)?, identity, server_name: None });
    }
    let store = Arc::new(RemoteStore::new(remote).context("--etcd-servers")?);
    let mut tasks = Tasks::default();
    gateway(store, &certificates, listener, &mut tasks).await?;
    let kubeconfig = options.kubeconfig.unwrap_or_else(|| options.cert_dir.join("admin.kubeconfig"));
    certificates.write_admin(&kubeconfig, "--kubeconfig")?;
    certificates.write_components()?;
    println!("serving Kubernetes clients on https://{address}\nkubeconfig {}", kubeconfig.display());
    until_stopped(stop, tasks).await
}

/// A client of the API server that the kubeconfig names, called `name`.
pub fn client(kubeconfig: &Path, name: &str) -> Result<(Client, Kubeconfig)> {
    let config = Kubeconfig::load(kubeconfig).context("--kubeconfig")?;
    let https = Https::new(&config).map_err(anyhow::Error::from_boxed).context("--kubeconfig")?;
    Ok((Client::new(Arc::new(https), name), config))
}

/// Who this process is in an election: its host and its id.
pub fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}_{}", host.trim(), std::process::id())
}

/// `kelson controllers`.
pub async fn controllers(options: cli::Client) -> Result<()> {
    let stop = shutdown::token()?;
    let (client, config) = client(&options.kubeconfig, "kelson-controllers")?;
    let settings = controllers_config(&String::from_utf8_lossy(&config.certificate_authority));
    let mut tasks = Tasks::default();
    let token = tasks.token();
    let election = Election::new(client.clone(), "kube-controller-manager", &identity());
    tasks.start("controllers", async move {
        election.lead(token, |token| kelson_controllers::run(client, settings, token)).await
    });
    until_stopped(stop, tasks).await
}

/// `kelson nodesim`.
pub async fn nodesim(options: cli::Nodesim) -> Result<()> {
    let stop = shutdown::token()?;
    let (client, _) = client(&options.client.kubeconfig, "kelson-nodesim")?;
    let certificates = Certificates::existing(&options.cert_dir).context("--cert-dir")?;
    let settings = nodesim_config(options.nodes, options.kubelet_listen, &certificates)?;
    let (simulator, _) = Simulator::new(client, settings).await?;
    let mut tasks = Tasks::default();
    let token = tasks.token();
    tasks.start("nodesim", async move {
        simulator.run(token).await;
        Ok::<_, anyhow::Error>(())
    });
    until_stopped(stop, tasks).await
}
