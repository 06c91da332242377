//! Watches beyond single stories: many, slow, large and quiet ones.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use kelson_etcd::ServerOptions;
use kelson_wire::pb::etcdserverpb::kv_client::KvClient;
use kelson_wire::pb::etcdserverpb::request_op::Request;
use kelson_wire::pb::etcdserverpb::watch_client::WatchClient;
use kelson_wire::pb::etcdserverpb::watch_request::RequestUnion;
use kelson_wire::pb::etcdserverpb::{
    PutRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::harness::{Server, within};

struct Watches {
    requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
}

impl Watches {
    /// A stream on a connection of its own.
    async fn open(server: &Server) -> Self {
        let (requests, receiver) = mpsc::channel(64);
        let mut client = WatchClient::new(connect(server)).max_decoding_message_size(usize::MAX);
        let answers = within("a stream", client.watch(ReceiverStream::new(receiver))).await.unwrap().into_inner();
        Self { requests, answers }
    }

    async fn send(&self, request: RequestUnion) {
        self.requests.send(WatchRequest { request_union: Some(request) }).await.unwrap();
    }

    async fn next(&mut self) -> WatchResponse {
        within("an answer", self.answers.message()).await.unwrap().expect("the stream goes on")
    }

    async fn create(&mut self, request: WatchCreateRequest) -> WatchResponse {
        self.send(RequestUnion::CreateRequest(request)).await;
        self.next().await
    }
}

fn connect(server: &Server) -> Channel {
    Endpoint::from_shared(server.url()).unwrap().connect_lazy()
}

fn everything() -> WatchCreateRequest {
    WatchCreateRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() }
}

fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_watches_on_a_stream_hears_of_its_own_key() {
    const MANY: i64 = 500;
    let server = Server::start(ServerOptions::default()).await;
    let mut watches = Watches::open(&server).await;
    for i in 0..MANY {
        let created = watches.create(WatchCreateRequest { key: format!("k{i}").into(), ..Default::default() }).await;
        assert!(created.created && !created.canceled && created.watch_id == i);
    }
    let mut kv = KvClient::new(connect(&server));
    for i in 0..MANY {
        kv.put(put(format!("k{i}"), "v")).await.unwrap();
    }
    let mut heard = HashSet::new();
    while heard.len() < MANY as usize {
        let answer = watches.next().await;
        let [event] = &answer.events[..] else { panic!("{answer:?}") };
        assert_eq!(event.kv.as_ref().unwrap().key, format!("k{}", answer.watch_id));
        assert!(heard.insert(answer.watch_id), "twice");
    }
    watches.send(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    let progress = watches.next().await;
    assert_eq!((progress.watch_id, progress.header.unwrap().revision), (-1, MANY + 1));
    server.stop().await;
}

/// A client that does not read must not keep others from writing and watching; later it gets all, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_watch_stands_in_nobodys_way() {
    const PUTS: i64 = 300;
    let server = Server::start(ServerOptions::default()).await;
    let mut slow = Watches::open(&server).await;
    let mut fast = Watches::open(&server).await;
    assert!(slow.create(everything()).await.created);
    assert!(fast.create(everything()).await.created);
    let mut kv = KvClient::new(connect(&server));
    // Far more than all buffers on the way hold.
    let value = Bytes::from(vec![b'x'; 100 << 10]);
    for i in 0..PUTS {
        within("a put", kv.put(put(format!("k{}", i % 7), value.clone()))).await.unwrap();
    }
    for watches in [&mut fast, &mut slow] {
        let mut expected = 2;
        while expected < PUTS + 2 {
            for event in watches.next().await.events {
                assert_eq!(event.kv.unwrap().mod_revision, expected);
                expected += 1;
            }
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_one_revision_are_split_only_where_the_watch_allows_it() {
    let server = Server::start(ServerOptions::default()).await;
    let mut whole = Watches::open(&server).await;
    let mut split = Watches::open(&server).await;
    assert!(whole.create(WatchCreateRequest { prev_kv: true, ..everything() }).await.created);
    assert!(split.create(WatchCreateRequest { prev_kv: true, fragment: true, ..everything() }).await.created);
    let mut kv = KvClient::new(connect(&server));
    // With what the keys held before, twice the size of the largest request.
    for round in 0..2 {
        let value = Bytes::from(vec![b'0' + round; 70_000]);
        let success =
            (0..20).map(|i| RequestOp { request: Some(Request::RequestPut(put(format!("k{i:02}"), value.clone()))) });
        kv.txn(TxnRequest { success: success.collect(), ..Default::default() }).await.unwrap();
    }
    for revision in [2, 3] {
        let answer = whole.next().await;
        assert_eq!((answer.events.len(), answer.fragment, answer.header.unwrap().revision), (20, false, revision));
    }
    let first = split.next().await;
    assert_eq!((first.events.len(), first.fragment), (20, false), "it fits");
    let (mut keys, mut parts) = (Vec::new(), 0);
    loop {
        let part = split.next().await;
        parts += 1;
        keys.extend(part.events.into_iter().map(|event| event.kv.unwrap().key));
        if !part.fragment {
            break;
        }
    }
    assert_eq!(parts, 2);
    assert_eq!(keys, (0..20).map(|i| Bytes::from(format!("k{i:02}"))).collect::<Vec<_>>());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_of_one_stream_tell_the_same_events_each_in_its_way() {
    let server = Server::start(ServerOptions::default()).await;
    let mut kv = KvClient::new(connect(&server));
    kv.put(put("k", "old")).await.unwrap();
    let mut watches = Watches::open(&server).await;
    let ways = [(false, Vec::new()), (true, Vec::new()), (false, vec![1]), (true, Vec::new()), (false, vec![0])];
    for (prev_kv, filters) in ways.clone() {
        assert!(watches.create(WatchCreateRequest { prev_kv, filters, ..everything() }).await.created);
    }
    kv.put(put("k", "new")).await.unwrap();
    let mut told = [0; 5];
    for _ in 0..4 {
        let answer = watches.next().await;
        let at = answer.watch_id as usize;
        told[at] += 1;
        let [event] = &answer.events[..] else { panic!("one event: {answer:?}") };
        assert_eq!(event.kv.as_ref().unwrap().value, "new");
        assert_eq!(event.prev_kv.as_ref().map(|kv| &kv.value[..]), ways[at].0.then_some(&b"old"[..]));
    }
    assert_eq!(told, [1, 1, 1, 1, 0], "the last one leaves puts out");
    server.stop().await;
}

#[tokio::test]
async fn a_quiet_watch_that_asked_for_it_hears_where_it_stands() {
    let options = ServerOptions { progress_notify_interval: Duration::from_millis(50), ..Default::default() };
    let server = Server::start(options).await;
    let mut watches = Watches::open(&server).await;
    let quiet = WatchCreateRequest { key: "quiet".into(), ..Default::default() };
    assert!(watches.create(quiet.clone()).await.created);
    assert!(watches.create(WatchCreateRequest { progress_notify: true, ..quiet.clone() }).await.created);
    let future = WatchCreateRequest { start_revision: 100, progress_notify: true, ..quiet };
    assert!(watches.create(future).await.created);
    KvClient::new(connect(&server)).put(put("other", "v")).await.unwrap();
    // Several rounds: within one, watches speak in any order.
    let mut rounds = 0;
    while rounds < 3 {
        let progress = watches.next().await;
        assert_eq!((progress.watch_id, progress.events.len()), (1, 0), "only the one that asked, and has begun");
        if progress.header.unwrap().revision == 2 {
            rounds += 1;
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_stream_takes_so_many_watches() {
    let options = ServerOptions { max_watches_per_stream: 2, ..Default::default() };
    let server = Server::start(options).await;
    let mut watches = Watches::open(&server).await;
    for id in 0..2 {
        assert_eq!(watches.create(everything()).await.watch_id, id);
    }
    let refused = watches.create(everything()).await;
    assert!(refused.created && refused.canceled && refused.watch_id == -1);
    assert_eq!(refused.cancel_reason, "etcdserver: too many requests");
    server.stop().await;
}
