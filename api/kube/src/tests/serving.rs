use std::net::SocketAddr;

use kelson_wire::kube::{Https, Kubeconfig, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::KubeletClient;
use crate::pki::{Authority, Identity, kubeconfig};

/// A gateway behind TLS.
struct Server {
    authority: Authority,
    address: SocketAddr,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<Result<(), crate::Error>>,
}

impl Server {
    async fn new(cluster: &Cluster, authority: Authority) -> Server {
        let identity = authority.server(&[], "10.96.0.1".parse().unwrap()).unwrap();
        let tls = authority.server_tls(&identity).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(cluster.gateway.clone().serve(listener, tls, shutdown.clone()));
        Server { authority, address, shutdown, served }
    }

    fn client(&self, identity: Option<&Identity>) -> Https {
        let (certificate, key) = identity.map_or((Vec::new(), Vec::new()), |identity| {
            (identity.certificate.clone().into_bytes(), identity.key.clone().into_bytes())
        });
        Https::new(&Kubeconfig {
            server: format!("https://{}", self.address),
            certificate_authority: self.authority.certificate().as_bytes().to_vec(),
            client_certificate: certificate,
            client_key: key,
            token: String::new(),
        })
        .unwrap()
    }
}

async fn get(client: &Https, path: &str) -> (u16, Value) {
    let request = Request::get(path).body(Bytes::new()).unwrap();
    let response = tokio::time::timeout(DEADLINE, client.call(request)).await.unwrap().unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn only_certificates_of_the_cluster_are_believed() {
    let cluster = Cluster::new().await;
    let server = Server::new(&cluster, Authority::ephemeral().unwrap()).await;
    let unauthorized = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "Unauthorized", "reason": "Unauthorized", "code": 401});
    let stranger = Authority::ephemeral().unwrap().admin().unwrap();
    for client in [server.client(None), server.client(Some(&stranger))] {
        assert_eq!(get(&client, "/api/v1/pods").await, (401, unauthorized.clone()));
        assert_eq!(get(&client, "/version").await.0, 200);
    }
    let admin = server.client(Some(&server.authority.admin().unwrap()));
    assert_eq!(get(&admin, "/api/v1/pods").await.0, 200);
    // A serving certificate is not a client's.
    let serving = server.authority.server(&[], "10.96.0.1".parse().unwrap()).unwrap();
    assert_eq!(get(&server.client(Some(&serving)), "/api/v1/pods").await.0, 401);
}

#[tokio::test]
async fn the_kubeconfig_leads_to_the_server() {
    let cluster = Cluster::new().await;
    let server = Server::new(&cluster, Authority::ephemeral().unwrap()).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config");
    let url = format!("https://{}", server.address);
    std::fs::write(&file, kubeconfig(&url, server.authority.certificate(), &server.authority.admin().unwrap()))
        .unwrap();
    let client = Https::new(&Kubeconfig::load(&file).unwrap()).unwrap();
    assert_eq!(get(&client, "/api/v1/namespaces/default").await.1["metadata"]["name"], "default");
}

#[tokio::test]
async fn a_large_body_is_cut_off() {
    let cluster = Cluster::with(Config { max_body: 100_000, ..Config::default() }).await;
    let server = Server::new(&cluster, Authority::ephemeral().unwrap()).await;
    let client = server.client(Some(&server.authority.admin().unwrap()));
    let request = Request::post(MAPS).body(Bytes::from(vec![b'x'; 200_000])).unwrap();
    let response = client.call(request).await.unwrap();
    assert_eq!(response.status(), 413);
}

#[tokio::test]
async fn shutdown_ends_watches_and_then_the_server() {
    let cluster = Cluster::new().await;
    let server = Server::new(&cluster, Authority::ephemeral().unwrap()).await;
    let client = server.client(Some(&server.authority.admin().unwrap()));
    let request = Request::get("/api/v1/namespaces?watch=true").body(Bytes::new()).unwrap();
    let watch = client.call(request).await.unwrap().into_body();
    let mut events = Events { body: watch, buffer: BytesMut::new() };
    assert_eq!(events.brief().await.0, "ADDED");
    server.shutdown.cancel();
    while events.next().await.is_some() {}
    tokio::time::timeout(DEADLINE, server.served).await.unwrap().unwrap().unwrap();
}

/// A kubelet that answers one request with the request line it got, and who asked.
async fn kubelet(authority: &Authority, identity: Identity) -> SocketAddr {
    let tls = authority.server_tls(&identity).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = tokio_rustls::TlsAcceptor::from(tls.config.clone());
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let user = tls.user(stream.get_ref().1.peer_certificates());
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let line = head.lines().next().unwrap();
            let (status, body) = if line.contains("previous") {
                ("400 Bad Request", "previous terminated container \"c\" in pod \"p\" not found".to_string())
            } else {
                ("200 OK", format!("{} {line}", user.name))
            };
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            let _ = stream.shutdown().await;
        }
    });
    address
}

async fn pod_on_a_node(cluster: &Cluster, kubelet: SocketAddr) {
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "status": {
            "addresses": [{"type": "InternalIP", "address": kubelet.ip().to_string()}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port()}},
        },
    });
    cluster.post("/api/v1/nodes", node).await.ok();
    let mut pod = pod("p");
    pod["spec"]["nodeName"] = json!("n1");
    cluster.post(PODS, pod).await.ok();
}

#[tokio::test]
async fn logs_come_from_the_kubelet() {
    let authority = Authority::ephemeral().unwrap();
    let identity = authority.client("kubelet-client", "kube-apiserver-kubelet-client", &["system:masters"]).unwrap();
    let client = KubeletClient { identity, authority: authority.certificate().to_string() };
    let cluster = Cluster::with(Config { kubelet_client: Some(client), ..Config::default() }).await;
    // The certificate names the address, or only the node.
    let address = kubelet(&authority, authority.kubelet("k", "many", &["127.0.0.1"]).unwrap()).await;
    pod_on_a_node(&cluster, address).await;
    let log = cluster.get(&format!("{PODS}/p/log?tailLines=5&follow=true&timestamps=false")).await;
    assert_eq!(
        log.text,
        "kube-apiserver-kubelet-client GET /containerLogs/default/p/c?follow=true&tailLines=5 HTTP/1.1"
    );
    assert_eq!(log.headers["content-type"], "text/plain");
    let message = "previous terminated container \"c\" in pod \"p\" not found";
    cluster.get(&format!("{PODS}/p/log?previous=true")).await.fails(400, message);
    cluster.get(&format!("{PODS}/p/log?container=x")).await.fails(400, "container x is not valid for pod p");
    assert_eq!(cluster.get(&format!("{PODS}/p/log?tailLines=-1")).await.code, 422);
    cluster.get(&format!("{PODS}/q/log")).await.fails(404, "pods \"q\" not found");
}

#[tokio::test]
async fn a_kubelet_must_be_who_it_says() {
    let authority = Authority::ephemeral().unwrap();
    let identity = authority.client("kubelet-client", "kube-apiserver-kubelet-client", &["system:masters"]).unwrap();
    let client = KubeletClient { identity, authority: authority.certificate().to_string() };
    let stranger = Authority::ephemeral().unwrap();
    for (signer, node, fine) in [(&authority, "n1", true), (&authority, "n2", false), (&stranger, "n1", false)] {
        let cluster = Cluster::with(Config { kubelet_client: Some(client.clone()), ..Config::default() }).await;
        let address = kubelet(signer, signer.kubelet("k", node, &[]).unwrap()).await;
        pod_on_a_node(&cluster, address).await;
        let log = cluster.get(&format!("{PODS}/p/log")).await;
        assert_eq!(log.code == 200, fine, "{node} {}", log.body);
    }
}
