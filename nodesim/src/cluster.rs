//! Tests of the whole simulator on a naive API server in memory, with its kubelet server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use kelson_wire::kube::{Body, BoxError, Client, Transport, full};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::stories::merge;
use crate::{Config, Handle, KubeletConfig, Provider, Simulator, Timings, VmRequest};

/// Objects by path, and who watches.
#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    revision: u64,
    watchers: Vec<(String, mpsc::UnboundedSender<Bytes>)>,
    writes: BTreeMap<String, usize>,
}

#[derive(Clone, Default)]
struct Server(Arc<Mutex<State>>);

impl State {
    fn changed(&mut self, kind: &str, path: &str) {
        let Some(object) = self.objects.get(path) else { return };
        let line = Bytes::from(format!("{}\n", json!({"type": kind, "object": object})));
        let resource = collection(path);
        let unscheduled = resource == "pods" && object["spec"]["nodeName"].as_str().unwrap_or("").is_empty();
        if !unscheduled {
            self.watchers.retain(|(watched, sender)| *watched != resource || sender.send(line.clone()).is_ok());
        }
    }

    fn put(&mut self, path: &str, mut object: Value, kind: &str) -> Value {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", self.revision));
        }
        self.objects.insert(path.into(), object.clone());
        self.changed(kind, path);
        object
    }
}

/// The resource that a path is about.
fn collection(path: &str) -> String {
    let known = ["nodes", "pods", "leases", "events"];
    path.split('/').rfind(|part| known.contains(part)).unwrap_or("").to_string()
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    (code, json!({"kind": "Status", "code": code, "reason": reason, "message": reason}))
}

impl Server {
    fn handle(&self, method: &Method, path: &str, body: &[u8]) -> (u16, Value) {
        let mut state = self.0.lock();
        let resource = collection(path);
        *state.writes.entry(format!("{method} {resource}")).or_default() += 1;
        let (path, status) = match path.strip_suffix("/status") {
            Some(path) => (path, true),
            None => (path, false),
        };
        let sent: Value = serde_json::from_slice(body).unwrap_or_default();
        let stored = state.objects.get(path).cloned();
        match (method.as_str(), stored) {
            ("POST", _) => {
                let path = format!("{path}/{}", sent["metadata"]["name"].as_str().unwrap());
                if state.objects.contains_key(&path) {
                    return failure(409, "AlreadyExists");
                }
                (201, state.put(&path, sent, "ADDED"))
            }
            (_, None) => failure(404, "NotFound"),
            ("GET", Some(object)) => (200, object),
            ("PUT", Some(object)) => {
                if sent["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
                    return failure(409, "Conflict");
                }
                let mut sent = sent;
                sent["metadata"]["uid"] = object["metadata"]["uid"].clone();
                (200, state.put(path, sent, "MODIFIED"))
            }
            ("PATCH", Some(mut object)) => {
                assert!(status, "only statuses are patched");
                let uid = &sent["metadata"]["uid"];
                if !uid.is_null() && *uid != object["metadata"]["uid"] {
                    return failure(409, "Conflict");
                }
                merge(&mut object["status"], &sent["status"]);
                (200, state.put(path, object, "MODIFIED"))
            }
            ("DELETE", Some(mut object)) => {
                if sent["gracePeriodSeconds"] == 0 || resource != "pods" {
                    state.put(path, object.clone(), "NONE");
                    state.changed("DELETED", path);
                    state.objects.remove(path);
                } else {
                    object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                    object["metadata"]["deletionGracePeriodSeconds"] = json!(30);
                    object = state.put(path, object, "MODIFIED");
                }
                (200, object)
            }
            _ => failure(405, "MethodNotAllowed"),
        }
    }

    fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().objects.get(path).cloned()
    }

    fn pod(&self, name: &str, node: &str, spec: Value) {
        let mut pod =
            json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec, "status": {"phase": "Pending"}});
        pod["spec"]["nodeName"] = json!(node);
        let body = serde_json::to_vec(&pod).unwrap();
        assert_eq!(self.handle(&Method::POST, "/api/v1/namespaces/default/pods", &body).0, 201);
    }

    fn count(&self, what: &str) -> usize {
        self.0.lock().writes.get(what).copied().unwrap_or(0)
    }
}

#[async_trait::async_trait]
impl Transport for Server {
    async fn call(&self, request: http::Request<Bytes>) -> Result<Response<Body>, BoxError> {
        let path = request.uri().path();
        let query = request.uri().query().unwrap_or("");
        if query.contains("watch=true") {
            assert!(!path.ends_with("pods") || query.contains("fieldSelector=spec.nodeName%21%3D"), "{query}");
            let (sender, receiver) = mpsc::unbounded_channel::<Bytes>();
            let mut state = self.0.lock();
            let watched = collection(path);
            for (path, object) in state.objects.iter().filter(|(path, _)| collection(path) == watched) {
                assert!(path.contains(&watched));
                sender.send(Bytes::from(format!("{}\n", json!({"type": "ADDED", "object": object})))).unwrap();
            }
            let bookmark = json!({"type": "BOOKMARK", "object": {"metadata": {
                "name": "", "resourceVersion": state.revision.to_string(),
                "annotations": {"k8s.io/initial-events-end": "true"}}}});
            sender.send(Bytes::from(format!("{bookmark}\n"))).unwrap();
            state.watchers.push((watched, sender));
            let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
                receiver.recv().await.map(|line| (Ok::<_, BoxError>(Frame::data(line)), receiver))
            });
            return Ok(Response::new(StreamBody::new(frames.boxed()).boxed_unsync()));
        }
        let (code, value) = self.handle(request.method(), path, request.body());
        let mut response = Response::new(full(value.to_string()));
        *response.status_mut() = StatusCode::from_u16(code)?;
        Ok(response)
    }
}

struct Cluster {
    server: Server,
    handle: Handle,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl Cluster {
    async fn start(server: Server, config: Config) -> Cluster {
        let client = Client::new(Arc::new(server.clone()), "test");
        let (simulator, handle) = Simulator::new(client, config).await.unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(simulator.run(stop.clone()));
        Cluster { server, handle, stop, running }
    }

    async fn stop(self) -> Server {
        self.stop.cancel();
        self.running.await.unwrap();
        self.server
    }
}

/// Polls until a condition holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn small(nodes: usize) -> Config {
    let timings =
        Timings { pull: (5, 5), settle: 50, stop: 5, beat: 20, lease: 400, report: 60_000, ..Timings::instant_ish() };
    Config { nodes, timings, ..Config::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_register_pods_run_and_go_with_one_write_each() {
    let cluster = Cluster::start(Server::default(), small(20)).await;
    let (server, handle) = (cluster.server.clone(), cluster.handle.clone());
    until("all nodes ready", || handle.progress().ready == 20).await;
    until("leases renewed", || server.count("PUT leases") >= 40).await;
    assert_eq!((server.count("POST nodes"), server.count("PATCH nodes"), server.count("POST leases")), (20, 0, 20));
    assert_eq!(server.count("GET leases"), 0, "a renewal reads nothing");
    let lease = server.get("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node-00007").unwrap();
    let node = server.get("/api/v1/nodes/node-00007").unwrap();
    assert_eq!(lease["metadata"]["ownerReferences"][0]["uid"], node["metadata"]["uid"]);

    for index in 0..200 {
        server.pod(
            &format!("p{index}"),
            &format!("node-{:05}", index % 20),
            json!({"containers": [{"name": "c", "image": "nginx"}]}),
        );
    }
    until("all pods running", || handle.progress().pods_running == 200).await;
    let ready = |name: &str| {
        let pod = server.get(&format!("/api/v1/namespaces/default/pods/{name}")).unwrap_or_default();
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    };
    until("all pods ready in the API", || (0..200).all(|index| ready(&format!("p{index}")))).await;
    assert_eq!(server.count("PATCH pods"), 200, "one write takes a pod to Running and Ready");
    let mut addresses: Vec<_> = (0..200)
        .map(|index| {
            server.get(&format!("/api/v1/namespaces/default/pods/p{index}")).unwrap()["status"]["podIP"].to_string()
        })
        .collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 200, "pod addresses are unique");

    // A new process takes over: nothing is written anew for what runs.
    let server = cluster.stop().await;
    server.0.lock().watchers.clear();
    let cluster = Cluster::start(server, small(20)).await;
    let (server, handle) = (cluster.server.clone(), cluster.handle.clone());
    until("pods adopted", || handle.progress().pods_running == 200).await;
    until("leases renewed again", || server.count("GET leases") == 20 && handle.progress().ready == 20).await;
    assert_eq!((server.count("POST nodes"), server.count("PATCH pods")), (20, 200));

    for index in 0..200 {
        server.handle(&Method::DELETE, &format!("/api/v1/namespaces/default/pods/p{index}"), b"{}");
    }
    until("all pods gone", || {
        !(0..200).any(|index| server.get(&format!("/api/v1/namespaces/default/pods/p{index}")).is_some())
    })
    .await;
    until("none known", || handle.progress().pods_running == 0).await;
    assert_eq!(server.count("PATCH pods"), 200, "the end of a pod that nobody watches is not written");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vms_come_go_and_fail_on_request() {
    let cluster = Cluster::start(Server::default(), small(2)).await;
    let (server, handle) = (cluster.server.clone(), cluster.handle.clone());
    until("both ready", || handle.progress().ready == 2).await;
    let request = |name: &str, size: &str| VmRequest {
        name: name.into(),
        size: size.into(),
        pool: "extra".into(),
        zone: "2".into(),
    };
    assert!(handle.create(request("Bad_Name", "Standard_B2s")).await.is_err());
    assert!(handle.create(request("big-0", "Standard_Nope")).await.is_err());
    assert_eq!(handle.create(request("big-0", "Standard_D16s_v5")).await.unwrap().size.vcpus, 16);
    assert!(handle.create(request("big-0", "Standard_B2s")).await.is_err());
    until("the new one is ready", || handle.progress().ready == 3).await;
    let node = server.get("/api/v1/nodes/big-0").unwrap();
    assert_eq!(node["metadata"]["labels"]["agentpool"], "extra");
    handle.delete("big-0").await.unwrap();
    assert_eq!(handle.list().await.len(), 2);

    let renewed = || {
        server.get("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node-00001").unwrap()["metadata"]["resourceVersion"].clone()
    };
    handle.crash("node-00001").unwrap();
    assert!(!handle.list().await[1].up);
    // What was under way when it crashed may still come; then nothing does, while the other one goes on.
    let other = server.count("PUT leases");
    until("the other goes on", || server.count("PUT leases") > other + 4).await;
    let last = renewed();
    let other = server.count("PUT leases");
    until("the other goes on still", || server.count("PUT leases") > other + 4).await;
    assert_eq!(renewed(), last, "a crashed node renews nothing");
    handle.resume("node-00001").unwrap();
    until("it renews again", || renewed() != last).await;
    assert!(handle.crash("nobody").is_err());
    cluster.stop().await;
}

struct Certificates {
    ca: String,
    server: (String, String),
    client: (String, String),
    stranger: (String, String),
}

fn certificates() -> Certificates {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let authority = || {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        (pem, Issuer::new(params, key))
    };
    let leaf = |issuer: &Issuer<'static, KeyPair>| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        (params.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
    };
    let (ca, issuer) = authority();
    let (_, other) = authority();
    Certificates { ca, server: leaf(&issuer), client: leaf(&issuer), stranger: leaf(&other) }
}

/// One HTTP/1.1 exchange over TLS. `None` if the server ends the connection without an answer.
async fn fetch(
    address: std::net::SocketAddr,
    ca: &str,
    client: Option<&(String, String)>,
    path: &str,
) -> Option<String> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match client {
        Some((certificate, key)) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    // The server may close without a TLS goodbye.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    (!answer.is_empty()).then_some(answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_served_to_clients_of_the_cluster_only() {
    let pki = certificates();
    let kubelet = KubeletConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        cert_pem: pki.server.0.clone().into(),
        key_pem: pki.server.1.clone().into(),
        client_ca_pem: pki.ca.clone().into(),
        max_connections: 8,
    };
    let broken =
        Config { kubelet: Some(KubeletConfig { key_pem: b"nonsense".to_vec(), ..kubelet.clone() }), ..small(1) };
    let client = Client::new(Arc::new(Server::default()), "test");
    let error = Simulator::new(client, broken).await.err().unwrap().to_string();
    assert!(error.contains("server key"), "{error}");

    let cluster = Cluster::start(Server::default(), Config { kubelet: Some(kubelet), ..small(1) }).await;
    let (server, handle) = (cluster.server.clone(), cluster.handle.clone());
    until("ready", || handle.progress().ready == 1).await;
    let node = server.get("/api/v1/nodes/node-00000").unwrap();
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()));

    assert_eq!(fetch(address, &pki.ca, None, "/healthz").await, None, "no certificate");
    assert_eq!(fetch(address, &pki.ca, Some(&pki.stranger), "/healthz").await, None, "another CA's certificate");
    let get = async |path: &str| fetch(address, &pki.ca, Some(&pki.client), path).await.unwrap();
    assert!(get("/healthz").await.ends_with("\r\n\r\nok"));
    assert!(get("/nothing").await.starts_with("HTTP/1.1 404"));

    let command = json!(["sh", "-c", "for i in 1 2 3 4; do echo line $i; sleep 0.2; done"]);
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "busybox", "command": command}]});
    server.pod("talks", "node-00000", spec);
    let running = || {
        let pod = server.get("/api/v1/namespaces/default/pods/talks").unwrap();
        pod["status"]["containerStatuses"][0]["state"]["running"].is_object() || pod["status"]["phase"] == "Succeeded"
    };
    until("running", running).await;
    let followed = get("/containerLogs/default/talks/c?follow=true").await;
    for line in 1..=4 {
        assert!(followed.contains(&format!("line {line}\n")), "{followed}");
    }
    let tail = get("/containerLogs/default/talks/c?tailLines=1").await;
    assert!(tail.contains("line 4\n") && !tail.contains("line 3"), "{tail}");
    let cut = get("/containerLogs/default/talks/c?limitBytes=9").await;
    assert!(cut.contains("line 1\nli") && !cut.contains("line 2"), "{cut}");
    assert!(get("/containerLogs/default/talks/x").await.contains("container x is not valid for pod talks"));
    assert!(get("/containerLogs/default/nobody/c").await.starts_with("HTTP/1.1 404"));
    assert!(get("/containerLogs/default/talks/c?tailLines=x").await.starts_with("HTTP/1.1 400"));
    assert!(get("/metrics").await.contains("nodesim_nodes_ready 1"));
    assert!(get("/pods?node=node-00000").await.contains("\"name\":\"talks\""));
    assert!(get("/stats/summary").await.contains("\"simulated\":true"));
    cluster.stop().await;
}

/// Says yes to everything, and that is all.
struct Yes;

#[async_trait::async_trait]
impl Transport for Yes {
    async fn call(&self, request: http::Request<Bytes>) -> Result<Response<Body>, BoxError> {
        if request.uri().query().is_some_and(|query| query.contains("watch=true")) {
            let bookmark = json!({"type": "BOOKMARK", "object": {"metadata": {
                "name": "", "resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}}}});
            let line = Bytes::from(format!("{bookmark}\n"));
            let frames = futures_util::stream::iter([Ok::<_, BoxError>(Frame::data(line))]);
            let frames = frames.chain(futures_util::stream::pending());
            return Ok(Response::new(StreamBody::new(frames.boxed()).boxed_unsync()));
        }
        Ok(Response::new(full(r#"{"metadata":{"uid":"u","resourceVersion":"1"},"status":{"conditions":[{}]}}"#)))
    }
}

/// `NODESIM_AGENTS` makes it as large as one likes; it then tells what the agents alone cost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_alone_renew_every_lease_in_each_interval() {
    let nodes = crate::gateway::size("NODESIM_AGENTS", 3_000);
    let measured = nodes > 3_000;
    let (begun, spent) = (Instant::now(), crate::gateway::cpu());
    let lease = if measured { 10_000 } else { 1_000 };
    let config = Config { nodes, timings: Timings { lease, ..Timings::instant_ish() }, ..Config::default() };
    let (simulator, handle) = Simulator::new(Client::new(Arc::new(Yes), "test"), config).await.unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(simulator.run(stop.clone()));
    until("ready", || handle.progress().ready == nodes).await;
    eprintln!("{nodes} agents registered after {:?}, {:.2} CPU-s", begun.elapsed(), crate::gateway::cpu() - spent);
    let (begun, spent) = (Instant::now(), crate::gateway::cpu());
    let renewals = || crate::gateway::metric(&handle, "nodesim_lease_renewals_total");
    let before = renewals();
    until("three intervals renewed", || renewals() - before >= 3 * nodes as u64).await;
    let elapsed = begun.elapsed().as_secs_f64();
    let rate = (renewals() - before) as f64 / elapsed;
    let memory = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory = memory.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("").to_string();
    eprintln!("{rate:.0} renewals/s, {:.3} of a core, {memory}", (crate::gateway::cpu() - spent) / elapsed);
    assert_eq!(crate::gateway::metric(&handle, "nodesim_api_retries_total"), 0);
    stop.cancel();
    running.await.unwrap();
}
