//! The port itself: plain HTTP beside gRPC, TLS, bounds, and its end.

use std::time::Duration;

use kelson_etcd::{ETCD_VERSION, ServerOptions, server_tls};
use kelson_wire::pb::etcdserverpb::cluster_client::ClusterClient;
use kelson_wire::pb::etcdserverpb::kv_client::KvClient;
use kelson_wire::pb::etcdserverpb::maintenance_client::MaintenanceClient;
use kelson_wire::pb::etcdserverpb::{
    AlarmRequest, DefragmentRequest, MemberListRequest, PutRequest, RangeRequest, StatusRequest,
};
use kelson_wire::pb::health::HealthCheckRequest;
use kelson_wire::pb::health::health_check_response::ServingStatus;
use kelson_wire::pb::health::health_client::HealthClient;
use kelson_wire::remote::{ClientTls, RemoteOptions, RemoteStore};
use kelson_wire::store::{Store, StoreError, Written};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::harness::{Server, within};

fn channel(server: &Server) -> Channel {
    Endpoint::from_shared(server.url()).unwrap().connect_lazy()
}

/// Status line and body of an HTTP/1.1 request.
async fn http(server: &Server, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn health_version_and_metrics_share_the_port() {
    let server = Server::start(ServerOptions::default()).await;
    KvClient::new(channel(&server)).put(PutRequest { key: "a".into(), ..Default::default() }).await.unwrap();

    let healthy = (200, r#"{"health":"true","reason":""}"#.to_owned());
    assert_eq!(http(&server, "GET", "/health").await, healthy);
    assert_eq!(http(&server, "GET", "/health?serializable=true").await, healthy);
    assert_eq!(http(&server, "POST", "/health").await.0, 405);
    assert_eq!(http(&server, "GET", "/livez").await, (200, "ok\n".to_owned()));
    assert_eq!(http(&server, "GET", "/livez?verbose").await, (200, "[+]serializable_read ok\nok\n".to_owned()));
    let (status, report) = http(&server, "GET", "/readyz?verbose&exclude=non_learner").await;
    let expected = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\nok\n";
    assert_eq!((status, report.as_str()), (200, expected));
    assert_eq!(http(&server, "GET", "/readyz/linearizable_read").await, (200, "ok\n".to_owned()));
    assert_eq!(http(&server, "GET", "/readyz/nothing").await.0, 404);
    assert_eq!(http(&server, "GET", "/").await.0, 404);
    let version = format!(r#"{{"etcdserver":"{ETCD_VERSION}","etcdcluster":"3.7.0","storage":"3.7.0"}}"#);
    assert_eq!(http(&server, "GET", "/version").await, (200, version));

    let (status, page) = http(&server, "GET", "/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "etcd_server_has_leader 1",
        "etcd_server_is_leader 1",
        "etcd_debugging_mvcc_keys_total 1",
        "etcd_debugging_mvcc_current_revision 2",
        "etcd_server_health_success 2",
        r#"grpc_server_handled_total{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 1"#,
        r#"etcd_cluster_version{cluster_version="3.7"} 1"#,
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not on the page:\n{page}");
    }
    for name in ["etcd_server_proposals_committed_total ", "process_resident_memory_bytes ", "process_open_fds "] {
        let value = page.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        assert!(value.parse::<f64>().unwrap() > 0.0, "{name}{value}");
    }
    // Every sample follows the description of its family.
    let mut family = "";
    for line in page.lines() {
        match line.strip_prefix("# TYPE ") {
            Some(described) => family = described.split(' ').next().unwrap(),
            None => assert!(line.starts_with('#') || line.starts_with(family), "{line} in {family}"),
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_stopped_node_is_not_healthy() {
    let server = Server::start(ServerOptions::default()).await;
    server.node.shutdown().await.unwrap();
    let put = KvClient::new(channel(&server)).put(PutRequest { key: "a".into(), ..Default::default() }).await;
    let refused = put.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "etcdserver: server stopped"));
    server.shutdown.cancel();
    within("the server's end", server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn status_members_and_health_over_grpc() {
    let server = Server::start(ServerOptions::default()).await;
    let channel = channel(&server);
    let status = MaintenanceClient::new(channel.clone()).status(StatusRequest {}).await.unwrap().into_inner();
    let header = status.header.unwrap();
    assert_eq!((status.leader, status.raft_term), (header.member_id, header.raft_term));
    assert_eq!((status.version.as_str(), status.storage_version.as_str()), (ETCD_VERSION, "3.7.0"));
    assert!(status.raft_applied_index > 0 && status.raft_index >= status.raft_applied_index);
    assert!(status.errors.is_empty() && !status.is_learner);

    for linearizable in [false, true] {
        let list = ClusterClient::new(channel.clone()).member_list(MemberListRequest { linearizable }).await.unwrap();
        let [member] = &list.get_ref().members[..] else { panic!("{list:?}") };
        assert_eq!((member.id, member.name.as_str()), (header.member_id, "test"));
        assert_eq!(member.client_ur_ls, [server.url()]);
    }

    let mut maintenance = MaintenanceClient::new(channel.clone());
    assert!(maintenance.alarm(AlarmRequest::default()).await.unwrap().get_ref().alarms.is_empty());
    maintenance.defragment(DefragmentRequest {}).await.unwrap();

    let mut health = HealthClient::new(channel);
    let of = |service: &str| HealthCheckRequest { service: service.into() };
    let serving = ServingStatus::Serving as i32;
    assert_eq!(health.check(of("")).await.unwrap().get_ref().status, serving);
    assert_eq!(health.check(of("x")).await.unwrap_err().code(), Code::NotFound);
    let mut changes = health.watch(of("")).await.unwrap().into_inner();
    assert_eq!(changes.message().await.unwrap().unwrap().status, serving);
    server.stop().await;
    assert_eq!(within("the end", changes.message()).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn what_is_too_large_to_be_read_is_refused_like_by_etcd() {
    let options = ServerOptions { max_request_bytes: 1000, ..Default::default() };
    let server = Server::start(options).await;
    let mut kv = KvClient::new(channel(&server));
    let put = |length: usize| PutRequest { key: "a".into(), value: vec![0; length].into(), ..Default::default() };
    kv.put(put(900)).await.unwrap();
    let refused = kv.put(put(1000)).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "etcdserver: request is too large"));
    let refused = kv.put(put(600 << 10)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().starts_with("grpc: received message larger than max"), "{refused:?}");
    // The connection lives.
    kv.range(RangeRequest { key: "a".into(), ..Default::default() }).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn tls_with_client_certificates() {
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(params, ca_key);
    let issue = |names: &[&str]| {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
    };
    let ca = ca.pem().into_bytes();
    let (chain, key) = issue(&["localhost", "127.0.0.1"]);
    let tls = server_tls(&chain, &key, Some(&ca)).unwrap();
    let server = Server::start(ServerOptions { tls: Some(tls), ..Default::default() }).await;

    let store = |identity| {
        let mut options = RemoteOptions::new([format!("https://{}", server.address)]);
        options.tls = Some(ClientTls { ca: ca.clone(), identity, server_name: None });
        RemoteStore::new(options).unwrap()
    };
    let known = store(Some(issue(&["client"])));
    assert!(matches!(known.put("a".into(), "v".into(), 0, 0).await, Ok(Written::Done { .. })));
    assert_eq!(known.get("a".into()).await.unwrap().object.unwrap().value, "v");
    let unknown = store(None);
    assert!(matches!(unknown.get("a".into()).await, Err(StoreError::Unavailable(_))));
    drop((known, unknown));
    server.stop().await;

    assert!(server_tls(b"nothing", &key, None).is_err());
    assert!(server_tls(&chain, b"nothing", None).is_err());
}

/// The grace is longer than the test waits: only if open streams and idle connections do not hold it up does it pass.
#[tokio::test]
async fn a_stop_does_not_wait_for_streams_and_idle_connections() {
    let options = ServerOptions { shutdown_grace: Duration::from_secs(600), ..Default::default() };
    let server = Server::start(options).await;
    let store = RemoteStore::new(RemoteOptions::new([server.url()])).unwrap();
    let mut changes = store.watch("a".into(), 0).await.unwrap();
    let idle = TcpStream::connect(&server.address).await.unwrap();
    server.stop().await;
    let end = within("the watch's end", futures_util::StreamExt::next(&mut changes)).await;
    assert!(matches!(end, Some(Err(StoreError::Unavailable(_)))), "{end:?}");
    drop(idle);
}

#[tokio::test]
async fn a_service_that_is_not_there_says_so() {
    let server = Server::start(ServerOptions::default()).await;
    let mut client = tonic::client::Grpc::new(channel(&server));
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<StatusRequest, StatusRequest>::default();
    let path = http::uri::PathAndQuery::from_static("/etcdserverpb.None/Nothing");
    let refused = client.unary(tonic::Request::new(StatusRequest {}), path, codec).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unimplemented, "unknown service etcdserverpb.None"));
    server.stop().await;
}
