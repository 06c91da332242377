//! What happens at each bound: a clear answer, and nobody else hears of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use kelson_etcd::ServerOptions;
use kelson_wire::pb::etcdserverpb::kv_client::KvClient;
use kelson_wire::pb::etcdserverpb::lease_client::LeaseClient;
use kelson_wire::pb::etcdserverpb::watch_client::WatchClient;
use kelson_wire::pb::etcdserverpb::watch_request::RequestUnion;
use kelson_wire::pb::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, PutRequest, RangeRequest, WatchCreateRequest, WatchRequest,
};
use kelson_wire::pb::v3lockpb::LockRequest;
use kelson_wire::pb::v3lockpb::lock_client::LockClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::harness::{Server, within};
use crate::poll;

fn connect(server: &Server) -> Channel {
    Endpoint::from_shared(server.url()).unwrap().connect_lazy()
}

fn key(name: impl Into<Bytes>) -> RangeRequest {
    RangeRequest { key: name.into(), ..Default::default() }
}

/// One number of the page of metrics.
pub async fn metric(server: &Server, name: &str) -> u64 {
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    within("a page", stream.read_to_string(&mut page)).await.unwrap();
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).expect("a number");
    value.parse::<f64>().unwrap() as u64
}

/// Sends bytes as the body of a gRPC request and returns the answer's status and message.
async fn raw(server: &Server, path: &'static str, body: &[u8]) -> (Code, String) {
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::post(format!("http://etcd{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (response, mut send) = client.send_request(request, false).unwrap();
    send.send_data(Bytes::copy_from_slice(body), true).unwrap();
    let response = within("an answer", response).await.unwrap();
    connection.abort();
    let status = tonic::Status::from_header_map(response.headers()).expect("a status");
    (status.code(), status.message().to_owned())
}

#[tokio::test]
async fn bytes_that_are_no_message_are_refused_in_gos_words() {
    let server = Server::start(ServerOptions::default()).await;
    let malformed = "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data";
    for body in [&b"\0\0\0\0\x03\xff\xff\xff"[..], b"\0\0\0\0\x02\x0a\x05"] {
        assert_eq!(raw(&server, "/etcdserverpb.KV/Range", body).await, (Code::Internal, malformed.to_owned()));
    }
    let unknown = |text: &str| (Code::Unimplemented, text.to_owned());
    let refused = raw(&server, "/etcdserverpb.KV/Nothing", b"").await;
    assert_eq!(refused, unknown("unknown method Nothing for service etcdserverpb.KV"));
    assert_eq!(raw(&server, "/etcdserverpb.Foo/Bar", b"").await, unknown("unknown service etcdserverpb.Foo"));
    server.stop().await;
}

#[tokio::test]
async fn a_request_that_is_too_large_is_told_both_sizes() {
    let server = Server::start(ServerOptions::default()).await;
    let mut kv = KvClient::new(connect(&server));
    let put = PutRequest { key: "a".into(), value: vec![0; 2_400_000].into(), ..Default::default() };
    let refused = kv.put(put).await.unwrap_err();
    let text = "grpc: received message larger than max (2400008 vs. 2097152)";
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, text));
    server.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_for_others_to_end() {
    let server = Server::start(ServerOptions { max_connections: 2, ..Default::default() }).await;
    let held = [connect(&server), connect(&server)];
    for channel in &held {
        KvClient::new(channel.clone()).range(key("a")).await.unwrap();
    }
    let third = tokio::spawn({
        let channel = connect(&server);
        async move { KvClient::new(channel).range(key("a")).await }
    });
    // Those that are in go on.
    for channel in &held {
        KvClient::new(channel.clone()).range(key("a")).await.unwrap();
    }
    assert!(!third.is_finished());
    drop(held);
    within("the third's turn", third).await.unwrap().unwrap();
    server.stop().await;
}

/// Streams that are opened only to be reset (CVE-2023-44487) end the connection that they are on, and no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_resets_ends_its_connection() {
    let server = Server::start(ServerOptions::default()).await;
    let mut others = KvClient::new(connect(&server));
    others.range(key("a")).await.unwrap();
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let opened = Arc::new(AtomicUsize::new(0));
    let flood = async {
        while let Ok(ready) = client.clone().ready().await {
            client = ready;
            for _ in 0..100 {
                let request = http::Request::post("http://etcd/etcdserverpb.KV/Range").body(()).unwrap();
                let Ok((_, mut send)) = client.send_request(request, false) else { return };
                send.send_reset(h2::Reason::CANCEL);
                opened.fetch_add(1, Ordering::Relaxed);
            }
            tokio::task::yield_now().await;
        }
    };
    within("the connection's end", flood).await;
    let ended = within("the connection's end", connection).await.unwrap();
    assert!(ended.is_err(), "{ended:?} after {} streams", opened.load(Ordering::Relaxed));
    others.range(key("a")).await.unwrap();
    server.stop().await;
}

/// Of what a watch does not take, only so much is made ready for it; the rest stays in the history.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn little_is_made_ready_for_a_watch_that_does_not_read() {
    const PUTS: u64 = 300;
    let server = Server::start(ServerOptions::default()).await;
    let (requests, receiver) = tokio::sync::mpsc::channel(4);
    let create = WatchCreateRequest { key: "a".into(), ..Default::default() };
    requests.send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }).await.unwrap();
    let mut client = WatchClient::new(connect(&server)).max_decoding_message_size(usize::MAX);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = within("a stream", client.watch(stream)).await.unwrap().into_inner();
    assert!(within("an answer", answers.message()).await.unwrap().unwrap().created);
    let mut kv = KvClient::new(connect(&server));
    let value = Bytes::from(vec![b'x'; 100 << 10]);
    for _ in 0..PUTS {
        kv.put(PutRequest { key: "a".into(), value: value.clone(), ..Default::default() }).await.unwrap();
    }
    // Windows, the buffer for sending and a batch hold some megabytes.
    let ready = metric(&server, "etcd_debugging_mvcc_events_total").await;
    assert!(ready < PUTS / 2, "{ready} events were made ready");
    assert_eq!(metric(&server, "etcd_debugging_mvcc_slow_watcher_total").await, 1);
    let mut next = 2;
    while next < PUTS as i64 + 2 {
        for event in within("events", answers.message()).await.unwrap().unwrap().events {
            assert_eq!(event.kv.unwrap().mod_revision, next);
            next += 1;
        }
    }
    poll::until("the watch to have caught up", async || {
        (metric(&server, "etcd_debugging_mvcc_slow_watcher_total").await == 0).then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_are_answered_one_by_one_however_many_are_sent() {
    const MANY: usize = 20_000;
    let server = Server::start(ServerOptions::default()).await;
    let mut leases = LeaseClient::new(connect(&server));
    leases.lease_grant(LeaseGrantRequest { id: 7, ttl: 60 }).await.unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let flood = tokio_stream::iter((0..MANY).map(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        LeaseKeepAliveRequest { id: 7 }
    }));
    let mut answers = leases.lease_keep_alive(flood).await.unwrap().into_inner();
    // Others are served meanwhile.
    KvClient::new(connect(&server)).range(key("a")).await.unwrap();
    let mut answered = 0;
    while let Some(answer) = within("an answer", answers.message()).await.unwrap() {
        assert_eq!((answer.id, answer.ttl), (7, 60));
        answered += 1;
    }
    assert_eq!((answered, sent.load(Ordering::Relaxed)), (MANY, MANY));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_range_arrives_whole() {
    const KEYS: usize = 200;
    let server = Server::start(ServerOptions::default()).await;
    let mut kv = KvClient::new(connect(&server)).max_decoding_message_size(usize::MAX);
    for i in 0..KEYS {
        let value = vec![i as u8; 100_000 + i];
        kv.put(PutRequest { key: format!("k{i:03}").into(), value: value.into(), ..Default::default() }).await.unwrap();
    }
    let filled = KEYS as i64 + 1;
    let check = async |kv: &mut KvClient<_>, request: RangeRequest, expected: Vec<usize>, revision| {
        let answer = within("the range", kv.range(request)).await.unwrap().into_inner();
        let more = expected.len() < KEYS;
        assert_eq!((answer.count, answer.kvs.len(), answer.more), (KEYS as i64, expected.len(), more));
        assert_eq!(answer.header.unwrap().revision, revision);
        for (i, kv) in expected.into_iter().zip(&answer.kvs) {
            assert_eq!((&kv.key[..], kv.value.len()), (format!("k{i:03}").as_bytes(), 100_000 + i));
            assert!(kv.value.iter().all(|byte| *byte == i as u8));
        }
    };
    let all = || RangeRequest { range_end: "l".into(), ..key("k") };
    check(&mut kv, all(), (0..KEYS).collect(), filled).await;
    check(&mut kv, RangeRequest { limit: 150, ..all() }, (0..150).collect(), filled).await;
    // Of these it is not known beforehand how large they are.
    let descending = RangeRequest { sort_order: 2, ..all() };
    check(&mut kv, descending, (0..KEYS).rev().collect(), filled).await;
    kv.put(PutRequest { key: "k000".into(), ..Default::default() }).await.unwrap();
    check(&mut kv, RangeRequest { revision: filled, ..all() }, (0..KEYS).collect(), filled + 1).await;
    server.stop().await;
}

/// The second answer finds no room while nobody takes the first, and is refused; small ones are not in its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_answers_wait_for_those_that_nobody_takes() {
    let unsent_patience = std::time::Duration::from_millis(300);
    let options = ServerOptions { max_unsent_bytes: 8 << 20, unsent_patience, ..Default::default() };
    let server = Server::start(options).await;
    let mut kv = KvClient::new(connect(&server)).max_decoding_message_size(usize::MAX);
    for i in 0..8 {
        let value = vec![b'x'; 1 << 20];
        kv.put(PutRequest { key: format!("k{i}").into(), value: value.into(), ..Default::default() }).await.unwrap();
    }
    let all = || RangeRequest { range_end: "l".into(), ..key("k") };
    // A client that reads the head of an answer and nothing else.
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::post("http://etcd/etcdserverpb.KV/Range").header("te", "trailers").body(()).unwrap();
    let (response, mut send) = client.send_request(request, false).unwrap();
    let message = prost::Message::encode_to_vec(&all());
    let framed = [&[0, 0, 0, 0, message.len() as u8][..], &message].concat();
    send.send_data(framed.into(), true).unwrap();
    let untaken = within("a head", response).await.unwrap();
    let refused = within("a refusal", kv.range(all())).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unknown, "etcdserver: too many requests"));
    kv.range(RangeRequest { keys_only: true, ..all() }).await.unwrap();
    drop((untaken, client));
    connection.abort();
    let taken = poll::until("room for the next", async || kv.range(all()).await.ok()).await;
    assert_eq!(taken.get_ref().kvs.len(), 8);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_wait_for_locks_and_no_more() {
    let server = Server::start(ServerOptions { max_waiters: 1, ..Default::default() }).await;
    let mut leases = LeaseClient::new(connect(&server));
    for id in 1..=3 {
        leases.lease_grant(LeaseGrantRequest { id, ttl: 60 }).await.unwrap();
    }
    let lock = |lease| {
        let mut locks = LockClient::new(connect(&server));
        async move { locks.lock(LockRequest { name: "l".into(), lease }).await }
    };
    lock(1).await.unwrap();
    let mut second = tokio::spawn(lock(2));
    let mut kv = KvClient::new(connect(&server));
    let key_of = |lease: i64| key(format!("l/{lease}"));
    poll::until("the second to wait", async || (kv.range(key_of(2)).await.unwrap().get_ref().count == 1).then_some(()))
        .await;
    // It has its key, but may not yet have begun to wait: then it is the one that is refused, and comes again.
    let refused = poll::until("the refusal", async || {
        if second.is_finished() {
            second = tokio::spawn(lock(2));
        }
        match tokio::time::timeout(std::time::Duration::from_millis(200), lock(3)).await {
            Ok(answer) => answer.err(),
            Err(_) => None,
        }
    })
    .await;
    assert_eq!((refused.code(), refused.message()), (Code::Unknown, "etcdserver: too many requests"));
    poll::until("the third's place to go", async || {
        (kv.range(key_of(3)).await.unwrap().get_ref().count == 0).then_some(())
    })
    .await;
    // Who gives up leaves no key behind, and its place is free.
    second.abort();
    poll::until("the second's place to go", async || {
        (kv.range(key_of(2)).await.unwrap().get_ref().count == 0).then_some(())
    })
    .await;
    let third = tokio::spawn(lock(3));
    kv.delete_range(kelson_wire::pb::etcdserverpb::DeleteRangeRequest { key: "l/1".into(), ..Default::default() })
        .await
        .unwrap();
    assert_eq!(within("the lock", third).await.unwrap().unwrap().get_ref().key, "l/3");
    server.stop().await;
}
