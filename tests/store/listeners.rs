//! What is answered where: clients, HTTP, metrics, peers, sockets.

use super::member::{ANYWHERE, Member, etcdctl, get, works};
use crate::cluster::peer;

#[test]
fn every_listener_answers_what_it_is_for() {
    let more = ["--listen-metrics-urls", "http://127.0.0.1:0,http://[::1]:0"];
    let mut member = Member::ours(&[ANYWHERE, &more].concat());
    let (client, metrics, peers) =
        (member.client(), member.address("serving metrics"), member.address("serving peer traffic"));
    for (address, path, status, holds) in [
        (&client, "/health", 200, "\"health\":\"true\""),
        (&client, "/v3/kv/none", 404, "Not Found"),
        (&client, "/version", 200, "\"etcdserver\":\"3.7.3\""),
        (&client, "/metrics", 200, "etcd_server_has_leader 1"),
        (&metrics, "/metrics", 200, "etcd_server_has_leader 1"),
        (&metrics, "/health", 200, "\"health\":\"true\""),
        (&metrics, "/livez", 200, "ok"),
        (&metrics, "/readyz", 200, "ok"),
        (&metrics, "/version", 404, "404 page not found"),
        (&metrics, "/v3/kv/range", 404, "404 page not found"),
        (&peers, "/version", 200, "\"etcdcluster\":\"3.7.0\""),
        (&peers, "/members", 200, "\"peerURLs\":[\"http://localhost:2380\"]"),
        (&peers, "/health", 404, "404 page not found"),
        (&peers, "/raft", 405, "Method Not Allowed"),
    ] {
        let (got, body) = get(address, path);
        assert!(got == status && body.contains(holds), "{address}{path}: {got} {body}");
    }
}

#[test]
fn http_can_be_served_apart_from_grpc() {
    let mut member = Member::ours(&[ANYWHERE, &["--listen-client-http-urls", "http://[::1]:0"]].concat());
    member.program.wait_for("serving client traffic insecurely", 60);
    let of = |traffic: &str| {
        let output = member.program.output();
        let entries = output.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let entry = entries.into_iter().find(|entry| entry["traffic"] == traffic);
        entry.and_then(|entry| entry["address"].as_str().map(str::to_owned))
    };
    let (grpc, http) = crate::poll::until("both are told", 20, || of("grpc").zip(of("http")).ok_or("not yet"));
    assert_eq!(get(&http, "/health").0, 200);
    assert_eq!(get(&grpc, "/health").0, 415);
    let Some(program) = peer("KELSON_TEST_ETCDCTL", "etcdctl on a port without HTTP") else { return };
    works(&program, &["--endpoints", &grpc]);
    assert!(!etcdctl(&program, &["--endpoints", &http, "--command-timeout", "2s", "get", "key"]).0);
}

#[test]
fn clients_come_in_by_several_urls_and_a_socket() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("etcd.sock");
    let urls = format!("http://127.0.0.1:0,unix://{}", socket.display());
    let mut member = Member::ours(&[ANYWHERE, &["--listen-client-urls", &urls]].concat());
    member.client();
    assert!(socket.exists());
    if let Some(program) = peer("KELSON_TEST_ETCDCTL", "etcdctl over a socket") {
        works(&program, &["--endpoints", &format!("unix://{}", socket.display())]);
    }
    member.stop();
    assert!(!socket.exists(), "it is removed at the end");
}
