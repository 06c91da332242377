//! The kubelet's HTTPS server: one listener for all nodes, for clients with a certificate of the cluster's CA.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::Millis;
use crate::config::KubeletConfig;
use crate::driver::Shared;
use crate::error::Error;
use crate::logs::{LogNext, LogReader};
use crate::node::{Mode, stamp};
use crate::tail::{Options, Tail};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How often a followed container is looked at for its end.
const FOLLOW: Duration = Duration::from_millis(500);
/// Bytes of log that are sent at a time.
const CHUNK: usize = 16 << 10;
/// Most pods that `/pods` and `/stats/summary` list without a node given.
const MAX_LISTED: usize = 10_000;

/// The bound address, not yet served.
pub(crate) struct Listener {
    socket: TcpListener,
    acceptor: TlsAcceptor,
    permits: Arc<Semaphore>,
    pub address: SocketAddr,
}

impl Listener {
    /// Listens, with the certificates of the configuration.
    pub async fn bind(config: &KubeletConfig) -> Result<Listener, Error> {
        let acceptor = TlsAcceptor::from(Arc::new(tls(config)?));
        let listening = |source| Error::Listen { address: config.listen, source };
        let socket = TcpListener::bind(config.listen).await.map_err(listening)?;
        let address = socket.local_addr().map_err(listening)?;
        Ok(Listener { socket, acceptor, permits: Arc::new(Semaphore::new(config.max_connections.max(1))), address })
    }

    /// Accepts connections until dropped; those that are open then are closed.
    pub async fn serve(self, shared: Arc<Shared>) {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let Ok(permit) = self.permits.clone().acquire_owned().await else { return };
            let stream = match self.socket.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file handles, most likely: others have to be closed first.
                    tracing::warn!(%error, "kubelet server cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let acceptor = self.acceptor.clone();
            let shared = shared.clone();
            connections.spawn(async move {
                let _permit = permit;
                let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
                let service = service_fn(move |request| {
                    let shared = shared.clone();
                    async move { Ok::<_, Infallible>(answer(&shared, &request)) }
                });
                let server = auto::Builder::new(TokioExecutor::new());
                if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                    tracing::debug!(%error, "kubelet connection ended");
                }
            });
        }
    }
}

fn tls(config: &KubeletConfig) -> Result<rustls::ServerConfig, Error> {
    let bad = |what: &str, error: &dyn std::fmt::Display| Error::Tls(format!("{what}: {error}"));
    let certificates = |pem: &[u8], what: &str| -> Result<Vec<CertificateDer<'static>>, Error> {
        let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let list = list.map_err(|error| bad(what, &error))?;
        if list.is_empty() { Err(bad(what, &"no certificate found")) } else { Ok(list) }
    };
    let chain = certificates(&config.cert_pem, "server certificate")?;
    let key = PrivateKeyDer::from_pem_slice(&config.key_pem).map_err(|error| bad("server key", &error))?;
    let mut roots = rustls::RootCertStore::empty();
    for root in certificates(&config.client_ca_pem, "client CA")? {
        roots.add(root).map_err(|error| bad("client CA", &error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| bad("client CA", &error))?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad("protocol", &error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| bad("server certificate", &error))?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

fn text(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

fn plain(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    text(status, "text/plain; charset=utf-8", body)
}

fn answer(shared: &Arc<Shared>, request: &Request<Incoming>) -> Response<Body> {
    if request.method() != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
    }
    let query = request.uri().query().unwrap_or("");
    let parts: Vec<&str> = request.uri().path().split('/').skip(1).collect();
    match parts.as_slice() {
        ["healthz"] | ["healthz", "ping"] => plain(StatusCode::OK, "ok"),
        ["containerLogs", namespace, pod, container] => {
            logs(shared, namespace, pod, container, query).unwrap_or_else(|(status, message)| plain(status, message))
        }
        ["pods"] => text(StatusCode::OK, "application/json", pods(shared, query)),
        ["stats", "summary"] => text(StatusCode::OK, "application/json", summary(shared, query)),
        ["metrics"] => text(StatusCode::OK, "text/plain; version=0.0.4", metrics(shared)),
        _ => plain(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

fn logs(
    shared: &Arc<Shared>,
    namespace: &str,
    name: &str,
    container: &str,
    query: &str,
) -> Result<Response<Body>, (StatusCode, String)> {
    let now = shared.clock.now();
    let options = Options::parse(query, now).map_err(|message| (StatusCode::BAD_REQUEST, message))?;
    let reader = {
        let core = shared.core.lock();
        let found = core.agents.find(namespace, name).filter(|(_, node)| node.mode == Mode::Up);
        let (pod, node) = found
            .ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod \"{name}\" not found in namespace \"{namespace}\"")))?;
        pod.log(container, options.previous, node, &core.agents.timings)?
    };
    let followed = options.follow.then(|| Followed {
        shared: shared.clone(),
        key: format!("{namespace}/{name}"),
        container: container.to_string(),
        started: reader.started(),
    });
    let stream = stream(Tail::new(reader, options), followed, shared.clock.now());
    let mut response = Response::new(StreamBody::new(stream).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    Ok(response)
}

/// A container whose log is followed.
struct Followed {
    shared: Arc<Shared>,
    key: String,
    container: String,
    started: Millis,
}

impl Followed {
    /// When the run that is followed ended; `None` while it goes on.
    fn end(&self) -> Option<Millis> {
        let core = self.shared.core.lock();
        let (namespace, name) = self.key.split_once('/').unwrap_or(("", &self.key));
        match core.agents.find(namespace, name) {
            Some((pod, _)) => pod.run_end(&self.container, self.started),
            None => Some(self.shared.clock.now()),
        }
    }
}

fn stream(tail: Tail, followed: Option<Followed>, now: Millis) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
    futures_util::stream::unfold((tail, followed, now), |(mut tail, followed, mut now)| async move {
        let mut chunk = String::new();
        loop {
            match tail.next(now) {
                LogNext::Line(at, line) => {
                    tail.render(at, &line, &mut chunk);
                    if chunk.len() >= CHUNK || tail.is_full() {
                        break;
                    }
                }
                LogNext::End => break,
                LogNext::Later(at) => {
                    let Some(followed) = &followed else { break };
                    if !chunk.is_empty() {
                        break;
                    }
                    if tail.end().is_none() {
                        tail.set_end(followed.end());
                    }
                    if tail.end().is_none() {
                        let pause = Duration::from_millis(at.saturating_sub(now).max(1)).min(FOLLOW);
                        tokio::time::sleep(pause).await;
                    }
                    now = followed.shared.clock.now();
                }
            }
        }
        let frame = Frame::data(Bytes::from(chunk));
        if frame.data_ref().is_none_or(Bytes::is_empty) { None } else { Some((Ok(frame), (tail, followed, now))) }
    })
}

/// The node that a query asks about.
fn wanted_node(query: &str) -> Option<&str> {
    query.split('&').find_map(|pair| pair.strip_prefix("node="))
}

fn pods(shared: &Shared, query: &str) -> String {
    let core = shared.core.lock();
    let node = wanted_node(query);
    let items: Vec<_> = core
        .agents
        .pods()
        .filter(|(_, own)| node.is_none_or(|node| *own.name == *node))
        .take(MAX_LISTED)
        .map(|(pod, node)| {
            let (namespace, name) = pod.names();
            json!({
                "metadata": {"namespace": namespace, "name": name, "uid": &*pod.uid},
                "spec": {"nodeName": &*node.name},
                "status": {"phase": pod.phase.name(), "startTime": stamp(pod.started)},
            })
        })
        .collect();
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}).to_string()
}

/// What is known: what pods asked for. Nothing is measured, so no usage is made up.
fn summary(shared: &Shared, query: &str) -> String {
    let core = shared.core.lock();
    let node = wanted_node(query);
    let nodes: Vec<_> = core
        .agents
        .nodes()
        .filter(|own| node.is_none_or(|node| *own.name == *node))
        .take(MAX_LISTED)
        .map(|node| {
            json!({
                "nodeName": &*node.name,
                "startTime": stamp(node.booted),
                "requested": {"cpuMillis": node.used.cpu, "memoryBytes": node.used.memory, "pods": node.pods},
            })
        })
        .collect();
    json!({"nodes": nodes, "simulated": true}).to_string()
}

/// Counters and gauges in the Prometheus text format.
pub(crate) fn metrics(shared: &Shared) -> String {
    let core = shared.core.lock();
    let (nodes, registered, ready) = core.agents.node_counts();
    let counts = &core.agents.counts;
    let mut out = String::new();
    let rows: [(&str, &str, &str, u64); 10] = [
        ("nodesim_nodes", "gauge", "VMs that exist.", nodes as u64),
        ("nodesim_nodes_registered", "gauge", "VMs whose Node object exists.", registered as u64),
        ("nodesim_nodes_ready", "gauge", "Nodes that the API shows as Ready.", ready as u64),
        ("nodesim_pods_running", "gauge", "Pods that run.", counts.pods_running as u64),
        ("nodesim_api_calls_total", "counter", "API calls made.", counts.calls),
        ("nodesim_api_retries_total", "counter", "API calls that are tried again.", counts.retries),
        ("nodesim_api_refused_total", "counter", "API calls that the server refused for good.", counts.refused_calls),
        ("nodesim_lease_renewals_total", "counter", "Lease renewals sent.", counts.renewals),
        ("nodesim_pod_status_writes_total", "counter", "Pod statuses written.", counts.status_writes),
        ("nodesim_events_dropped_total", "counter", "Events that exceeded the rate.", core.agents.notes_dropped()),
    ];
    for (name, kind, help, value) in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
    let _ = writeln!(
        out,
        "# HELP nodesim_pods_refused_total Pods that their node refused.\n# TYPE nodesim_pods_refused_total counter"
    );
    for (reason, count) in &counts.refusals {
        let _ = writeln!(out, "nodesim_pods_refused_total{{reason=\"{reason}\"}} {count}");
    }
    let _ = writeln!(
        out,
        "# HELP nodesim_api_backlog Calls that wait.\n# TYPE nodesim_api_backlog gauge\nnodesim_api_backlog {}",
        core.agents.backlog()
    );
    out
}

impl crate::pod::Pod {
    /// The log of a container.
    pub(crate) fn log(
        &self,
        container: &str,
        previous: bool,
        node: &crate::node::Node,
        timings: &crate::Timings,
    ) -> Result<LogReader, (StatusCode, String)> {
        let (_, pod) = self.names();
        let index = self.plan.containers.iter().position(|plan| &*plan.name == container);
        let index = index
            .ok_or_else(|| (StatusCode::NOT_FOUND, format!("container {container} is not valid for pod {pod}")))?;
        let run = &self.containers[index];
        let (started, end) = match (previous, run.running_since(), &run.exited, &run.last) {
            (false, Some(since), _, _) => (since, None),
            (false, None, Some(exited), _) => (exited.started, Some(exited.finished)),
            (false, None, None, Some(last)) => (last.started, Some(last.finished)),
            (true, Some(_), _, Some(last)) => (last.started, Some(last.finished)),
            (true, None, Some(exited), _) => (exited.started, Some(exited.finished)),
            (true, ..) => {
                let text = format!("previous terminated container \"{container}\" in pod \"{pod}\" not found");
                return Err((StatusCode::BAD_REQUEST, text));
            }
            (false, None, None, None) => {
                let text =
                    format!("container \"{container}\" in pod \"{pod}\" is waiting to start: {}", run.waiting_for());
                return Err((StatusCode::BAD_REQUEST, text));
            }
        };
        Ok(LogReader::new(crate::logs::Inside::new(self, index, started, node, timings), end))
    }

    /// When the run of a container that began at `started` ended; `None` while it goes on.
    pub(crate) fn run_end(&self, container: &str, started: Millis) -> Option<Millis> {
        let index = self.plan.containers.iter().position(|plan| &*plan.name == container)?;
        let run = &self.containers[index];
        if run.running_since() == Some(started) {
            return None;
        }
        let ended = [&run.exited, &run.last].into_iter().flatten().find(|ended| ended.started == started);
        Some(ended.map_or(started, |ended| ended.finished))
    }
}
