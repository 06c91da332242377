//! An API server with plain Node objects: nobody runs pods, and nobody but the scheduler binds them.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use kelson_wire::kube::{ApiError, Client, Gvr, Https, Kubeconfig, PatchKind};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::cluster::{KELSON, START};
use crate::program::Program;
use crate::server::{Kind, Server};

/// Requests that set up a world, in flight.
const IN_FLIGHT: usize = 32;

/// `kelson store`, and `kelson apiserver` on it.
pub struct World {
    pub server: Server,
    _api: Program,
    pub runtime: Runtime,
    pub client: Client,
}

impl World {
    pub fn start() -> World {
        let server = Server::start(&Kind::Kelson);
        let mut command = Command::new(KELSON);
        command.args(["apiserver", "--etcd-servers", &server.url(), "--api-listen", "127.0.0.1:0", "--cert-dir"]);
        let mut api = Program::start("kelson apiserver", command.arg(server.path("pki")));
        api.wait_until_ready(START);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let client = client(&server.path("pki/admin.kubeconfig"));
        World { server, _api: api, runtime, client }
    }

    /// Starts a scheduler whose lease holds for a second: another one takes over soon, and on a busy machine it may lose it.
    pub fn scheduler(&self) -> Program {
        let lease = [
            "--leader-elect-lease-duration=1s",
            "--leader-elect-renew-deadline=700ms",
            "--leader-elect-retry-period=200ms",
        ];
        scheduler(&self.server.path("pki/scheduler.kubeconfig"), &lease)
    }
}

/// `kelson scheduler` with these flags beside its API server.
pub fn scheduler(kubeconfig: &Path, flags: &[&str]) -> Program {
    let mut command = Command::new(KELSON);
    command.args(["scheduler", "--kubeconfig"]).arg(kubeconfig).args(flags);
    Program::start("kelson scheduler", &mut command)
}

pub fn client(kubeconfig: &Path) -> Client {
    let config = Kubeconfig::load(kubeconfig).expect("a kubeconfig");
    Client::new(Arc::new(Https::new(&config).expect("a transport")), "scheduler-test")
}

/// A pod that asks for a tenth of a CPU; `spec` and `metadata` are added to it.
pub fn pod(name: &str, metadata: Value, spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{
            "name": "c", "image": "nginx", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
        }]},
    });
    for (field, more) in [("metadata", metadata), ("spec", spec)] {
        if let (Some(map), Value::Object(more)) = (pod[field].as_object_mut(), more) {
            map.extend(more);
        }
    }
    pod
}

/// Creates nodes `node-0`, ... that are ready, each with these CPUs and room for 110 pods.
pub async fn create_nodes(client: &Client, count: usize, cpu: &str) {
    each(count, |number| {
        let client = client.clone();
        let name = format!("node-{number}");
        let allocatable = json!({"cpu": cpu, "memory": "32Gi", "pods": "110"});
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"capacity": allocatable, "allocatable": allocatable,
                "conditions": [{"type": "Ready", "status": "True"}]},
        });
        async move {
            client.create::<IgnoredAny>(&Gvr::NODES, "", &node).await?;
            // Admission says of a new node that it is not ready.
            let ready = json!({"spec": {"taints": null}});
            client.patch::<IgnoredAny>(&Gvr::NODES, "", &name, "", PatchKind::Merge, &ready).await.map(|_| ())
        }
    })
    .await;
}

/// Calls `make` for 0, 1, ... with a bounded number of calls in flight; each must succeed.
pub async fn each<F>(count: usize, mut make: impl FnMut(usize) -> F)
where
    F: Future<Output = Result<(), ApiError>> + Send + 'static,
{
    let mut running = tokio::task::JoinSet::<Result<(), ApiError>>::new();
    for number in 0..count {
        if running.len() >= IN_FLIGHT {
            running.join_next().await.expect("one runs").expect("no panic").expect("the API takes it");
        }
        running.spawn(make(number));
    }
    while let Some(done) = running.join_next().await {
        done.expect("no panic").expect("the API takes it");
    }
}
