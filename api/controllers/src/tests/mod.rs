//! All controllers on a real gateway with an in-memory store; a stand-in binds pods and reports them running.

mod cleanup;
mod nodes;
mod poll;
mod services;
mod workloads;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kelson_kube::{Gateway, User};
use kelson_wire::kube::{Client, Gvr, PatchKind, timestamp};
use kelson_wire::model::ModelStore;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::controller::{Controller, start};
use crate::error::Error;
use crate::informer::Informer;
use crate::queue::{Key, Queue};
use crate::view::{Phase, Pod};

/// A cluster with all controllers running; ends when dropped.
struct Cluster {
    client: Client,
    /// Every pod there ever was.
    pods_made: Arc<AtomicUsize>,
    shutdown: CancellationToken,
    _tasks: JoinSet<()>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Schedules and runs pods: the label `exit` says with what code a pod ends at once.
struct Stand {
    client: Client,
    pods: Arc<Informer<Pod>>,
    queue: Queue,
    nodes: usize,
    next: AtomicUsize,
    bound: AtomicUsize,
}

impl Controller for Stand {
    const NAME: &'static str = "stand-in for scheduler and kubelet";

    fn queue(&self) -> &Queue {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(pod) = self.pods.get(key) else { return Ok(None) };
        let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
        if pod.deleted != 0 && (!pod.node.is_empty() || pod.is_finished()) {
            let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": pod.metadata.uid}});
            match self.client.delete(&Gvr::PODS, namespace, name, &options).await {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => return Ok(None),
            }
        }
        if pod.node.is_empty() && self.nodes > 0 {
            let number = self.bound.fetch_add(1, Ordering::Relaxed);
            let node = if pod.destined.is_empty() {
                format!("node-{}", number % self.nodes)
            } else {
                pod.destined.to_string()
            };
            let binding = json!({
                "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
                "target": {"apiVersion": "v1", "kind": "Node", "name": node},
            });
            self.client.create_sub::<IgnoredAny>(&Gvr::PODS, namespace, name, "binding", &binding).await?;
            return Ok(None);
        }
        if pod.phase != Phase::Pending || pod.node.is_empty() {
            return Ok(None);
        }
        let now = timestamp::now();
        let phase = match pod.labels.get("exit").map(String::as_str) {
            None => "Running",
            Some("0") => "Succeeded",
            Some(_) => "Failed",
        };
        let ready = if phase == "Running" { "True" } else { "False" };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let ip = format!("10.{}.{}.{}", number / 62_500, number / 250 % 250, number % 250);
        let status = json!({"status": {
            "phase": phase, "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": now}],
        }});
        self.client.patch::<IgnoredAny>(&Gvr::PODS, namespace, name, "status", PatchKind::Merge, &status).await?;
        Ok(None)
    }
}

impl Cluster {
    async fn start(nodes: usize) -> Cluster {
        Cluster::with(nodes, Config::default()).await
    }

    async fn with(nodes: usize, config: Config) -> Cluster {
        let gateway = Gateway::start(Arc::new(ModelStore::new()), kelson_kube::Config::default()).await.unwrap();
        let user = User::new("system:kube-controller-manager", &["system:masters", "system:authenticated"]);
        let client = Client::new(gateway.transport(user), "test");
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for number in 0..nodes {
            let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {
                "name": format!("node-{number}"), "labels": {"topology.kubernetes.io/zone": "z1"},
            }});
            client.create::<IgnoredAny>(&Gvr::NODES, "", &node).await.unwrap();
            report(&client, &format!("node-{number}"), "True").await;
        }
        let pods = Informer::<Pod>::new(Gvr::PODS);
        let pods_made = Arc::new(AtomicUsize::new(0));
        let next = AtomicUsize::new(0);
        let stand = Arc::new(Stand {
            client: client.clone(),
            pods: pods.clone(),
            queue: Queue::new(Duration::ZERO),
            nodes,
            next,
            bound: AtomicUsize::new(0),
        });
        let (seen, made) = (stand.clone(), pods_made.clone());
        pods.on_change(move |delta| {
            if delta.old.is_none() {
                made.fetch_add(1, Ordering::Relaxed);
            }
            if let Some(pod) = &delta.new {
                seen.queue.add(pod.metadata.key().into());
            }
        });
        start(&stand, 16, &mut tasks, &shutdown);
        tasks.spawn(pods.run(client.clone()));
        let (all, stop) = (client.clone(), shutdown.clone());
        tasks.spawn(async move { crate::run(all, config, stop).await.unwrap() });
        Cluster { client, pods_made, shutdown, _tasks: tasks }
    }

    async fn create(&self, gvr: &Gvr, mut object: Value) -> Value {
        object["apiVersion"] = json!(gvr.api_version());
        object["kind"] = json!(gvr.kind);
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default").to_string();
        self.client.create(gvr, &namespace, &object).await.unwrap()
    }

    async fn get(&self, gvr: &Gvr, name: &str) -> Value {
        match self.client.get(gvr, "default", name).await {
            Err(error) if error.is_not_found() => Value::Null,
            found => found.unwrap(),
        }
    }

    async fn patch(&self, gvr: &Gvr, name: &str, patch: Value) -> Value {
        self.client.patch(gvr, "default", name, "", PatchKind::Merge, &patch).await.unwrap()
    }

    async fn delete(&self, gvr: &Gvr, name: &str, options: Value) {
        self.client.delete(gvr, "default", name, &options).await.unwrap();
    }

    async fn list(&self, gvr: &Gvr) -> Vec<Value> {
        let params = kelson_wire::kube::ListParams::default();
        self.client.list::<Value>(gvr, "default", &params).await.unwrap().items
    }

    /// Waits for an object to be as wanted.
    async fn until(&self, gvr: &Gvr, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        poll::until(&format!("{} {name}", gvr.kind), async || {
            let found = self.get(gvr, name).await;
            if wanted(&found) { Ok(found) } else { Err(found) }
        })
        .await
    }

    /// Waits for a list to be as wanted.
    async fn until_list(&self, gvr: &Gvr, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        poll::until(gvr.resource, async || {
            let found = self.list(gvr).await;
            if wanted(&found) { Ok(found) } else { Err((found.len(), found.into_iter().next())) }
        })
        .await
    }
}

/// Says that a node is ready, or not.
async fn report(client: &Client, node: &str, ready: &str) {
    let now = timestamp::now();
    let status = json!({"status": {"conditions": [{
        "type": "Ready", "status": ready, "reason": "KubeletReady", "message": "",
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    }]}});
    client.patch::<IgnoredAny>(&Gvr::NODES, "", node, "status", PatchKind::Strategic, &status).await.unwrap();
}

/// A pod template with one container.
fn template(image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}]},
    })
}

fn deployment(replicas: usize) -> Value {
    json!({"metadata": {"name": "web", "labels": {"app": "web"}}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template("v1"),
    }})
}

/// Status of a condition.
fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|condition| condition["type"] == kind);
    found.and_then(|condition| condition["status"].as_str()).unwrap_or("")
}

fn is_rolled_out(object: &Value, replicas: usize) -> bool {
    let status = &object["status"];
    ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|field| status[field] == replicas)
        && status["observedGeneration"] == object["metadata"]["generation"]
}
