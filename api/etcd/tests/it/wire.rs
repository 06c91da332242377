//! HTTP/2 as clients speak it, and as those do who mean harm.

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Response};
use kelson_etcd::ServerOptions;
use kelson_wire::pb::etcdserverpb::kv_client::KvClient;
use kelson_wire::pb::etcdserverpb::{PutRequest, RangeRequest, RangeResponse};
use prost::Message;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::Endpoint;

use crate::bounds::metric;
use crate::frames::{self, Raw, frame};
use crate::harness::{Server, within};
use crate::poll;

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";

fn kv(server: &Server) -> KvClient<tonic::transport::Channel> {
    KvClient::new(Endpoint::from_shared(server.url()).unwrap().connect_lazy())
}

fn put(key: &str, value: impl Into<Bytes>) -> PutRequest {
    PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), value: value.into(), ..Default::default() }
}

fn key(name: &str) -> RangeRequest {
    RangeRequest { key: Bytes::copy_from_slice(name.as_bytes()), ..Default::default() }
}

fn framed(message: &impl Message) -> Bytes {
    let message = message.encode_to_vec();
    [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat().into()
}

/// A connection with windows of a size.
async fn connect(server: &Server, window: u32) -> (SendRequest<Bytes>, JoinHandle<()>) {
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    let handshake = builder.initial_window_size(window).initial_connection_window_size(1 << 30).handshake(stream);
    let (client, connection) = handshake.await.unwrap();
    let connection = tokio::spawn(async move {
        // How it ends is seen by those who ask.
        let _ = connection.await;
    });
    (client, connection)
}

fn request(path: &str, headers: &[(&str, &str)]) -> http::Request<()> {
    let mut request = http::Request::post(format!("http://etcd{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");

/// Head, body and trailers of an answer.
async fn whole(response: Response<RecvStream>) -> (http::response::Parts, Vec<u8>, HeaderMap) {
    let (head, mut stream) = response.into_parts();
    let mut body = Vec::new();
    while let Some(data) = within("data", stream.data()).await {
        let data = data.unwrap();
        stream.flow_control().release_capacity(data.len()).unwrap();
        body.extend_from_slice(&data);
    }
    let trailers = within("trailers", stream.trailers()).await.unwrap().unwrap_or_default();
    (head, body, trailers)
}

/// Sends a request in pieces, and returns its whole answer.
async fn ask(
    server: &Server,
    path: &str,
    headers: &[(&str, &str)],
    pieces: &[&[u8]],
) -> (http::response::Parts, Vec<u8>, HeaderMap) {
    let (mut client, connection) = connect(server, 1 << 20).await;
    let (response, mut send) = client.send_request(request(path, headers), pieces.is_empty()).unwrap();
    for (i, piece) in pieces.iter().enumerate() {
        send.send_data(Bytes::copy_from_slice(piece), i + 1 == pieces.len()).unwrap();
    }
    let answer = whole(within("an answer", response).await.unwrap()).await;
    drop(client);
    connection.abort();
    answer
}

fn status(headers: &HeaderMap) -> (Code, String) {
    let status = tonic::Status::from_header_map(headers).expect("a status");
    (status.code(), status.message().to_owned())
}

fn handled(method: &str, code: &str) -> String {
    format!(
        r#"grpc_server_handled_total{{grpc_code="{code}",grpc_method="{method}",grpc_service="etcdserverpb.KV",grpc_type="unary"}}"#
    )
}

#[tokio::test]
async fn plain_http_and_the_gateway_are_served_over_http2() {
    let server = Server::start(ServerOptions::default()).await;
    let (mut client, connection) = connect(&server, 1 << 20).await;
    for (method, path, body, expected) in [
        ("GET", "/health", "", r#"{"health":"true","reason":""}"#),
        ("POST", "/v3/kv/put", r#"{"key":"YQ==","value":"Yg=="}"#, "revision"),
        ("POST", "/v3/kv/range", r#"{"key":"YQ=="}"#, r#""value":"Yg==""#),
        ("GET", "/metrics", "", "etcd_server_has_leader 1"),
        ("GET", "/nothing", "", "404 page not found"),
    ] {
        let request = http::Request::builder().method(method).uri(format!("http://etcd{path}")).body(()).unwrap();
        let (response, mut send) = client.send_request(request, body.is_empty()).unwrap();
        if !body.is_empty() {
            send.send_data(Bytes::from_static(body.as_bytes()), true).unwrap();
        }
        let (head, text, _) = whole(within("an answer", response).await.unwrap()).await;
        let text = String::from_utf8(text).unwrap();
        assert_eq!(head.status.as_u16(), if path == "/nothing" { 404 } else { 200 }, "{text}");
        assert!(text.contains(expected), "{path}: {text}");
        // What streams has no length beforehand.
        let length = head.headers.get("content-length").map(|length| length.to_str().unwrap().to_owned());
        assert_eq!(length, Some(text.len().to_string()));
    }
    connection.abort();
    server.stop().await;
}

#[tokio::test]
async fn a_message_is_read_however_it_is_cut() {
    let server = Server::start(ServerOptions::default()).await;
    let message = framed(&put("a", "value"));
    for size in 1..=message.len() {
        let pieces: Vec<_> = message.chunks(size).collect();
        let (head, body, trailers) = ask(&server, PUT, &[GRPC], &pieces).await;
        assert_eq!((head.status.as_u16(), &head.headers["content-type"]), (200, &"application/grpc".parse().unwrap()));
        assert_eq!((trailers["grpc-status"].as_bytes(), body[0]), (&b"0"[..], 0));
        assert_eq!(u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize, body.len() - 5);
    }
    assert_eq!(metric(&server, &handled("Put", "OK")).await, message.len() as u64);
    let bytes = metric(&server, "etcd_network_client_grpc_received_bytes_total").await;
    assert_eq!(bytes as usize, message.len() * (message.len() - 5));
    server.stop().await;
}

/// As in Go's library, what comes behind the first message of a unary call is passed over.
#[tokio::test]
async fn of_several_messages_the_first_counts() {
    let server = Server::start(ServerOptions::default()).await;
    let several = [framed(&put("a", "first")), framed(&put("a", "second")), framed(&put("b", "third"))].concat();
    let (_, _, trailers) = ask(&server, PUT, &[GRPC], &[&several]).await;
    assert_eq!(trailers["grpc-status"], "0");
    let all = RangeRequest { key: "a".into(), range_end: "z".into(), ..Default::default() };
    let (_, body, _) = ask(&server, RANGE, &[GRPC], &[&framed(&all)]).await;
    let answer = RangeResponse::decode(&body[5..]).unwrap();
    assert_eq!((answer.count, &answer.kvs[0].value[..]), (1, &b"first"[..]));
    server.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_call_is_told() {
    let server = Server::start(ServerOptions::default()).await;
    let good = framed(&key("a"));
    let failed = async |headers: &[(&str, &str)], pieces: &[&[u8]]| {
        let (head, body, _) = ask(&server, RANGE, headers, pieces).await;
        assert!(body.is_empty());
        (head.status.as_u16(), status(&head.headers), head.headers)
    };
    let (http, (code, text), headers) = failed(&[GRPC, ("grpc-encoding", "gzip")], &[&good]).await;
    assert_eq!((http, code), (200, Code::Unimplemented), "{text}");
    assert!(text.contains("gzip") && headers.contains_key("grpc-accept-encoding"), "{text}");
    let compressed = [&[1], &good[1..]].concat();
    assert_eq!(failed(&[GRPC], &[&compressed]).await.1.0, Code::Internal);
    assert_eq!(failed(&[GRPC], &[]).await.1, (Code::Internal, "Missing request message.".to_owned()));
    let early = failed(&[GRPC], &[&good[..6]]).await.1;
    assert_eq!(early, (Code::Internal, "Unexpected EOF decoding stream.".to_owned()));
    // Its length alone is enough to refuse it.
    let (code, text) = failed(&[GRPC], &[&[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]]).await.1;
    assert_eq!(
        (code, &text[..]),
        (Code::ResourceExhausted, "grpc: received message larger than max (4294967295 vs. 2097152)")
    );
    for time in ["0n", "1n"] {
        let late = failed(&[GRPC, ("grpc-timeout", time)], &[&good]).await;
        assert_eq!((late.0, late.1), (200, (Code::DeadlineExceeded, "context deadline exceeded".to_owned())));
    }
    let (http, (code, text), _) = failed(&[GRPC, ("grpc-timeout", "soon")], &[&good]).await;
    assert_eq!((http, code), (400, Code::Internal));
    assert!(text.starts_with("malformed grpc-timeout: "), "{text}");
    // Neither `te` nor a type of content is asked for, and a type may say more.
    for headers in [&[][..], &[GRPC, ("te", "trailers")], &[("content-type", "application/grpc+proto")]] {
        assert_eq!(ask(&server, RANGE, headers, &[&good]).await.2["grpc-status"], "0");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_call_that_is_never_said_whole_ends_at_its_deadline() {
    let server = Server::start(ServerOptions::default()).await;
    let (mut client, connection) = connect(&server, 1 << 20).await;
    for path in [PUT, "/etcdserverpb.Lease/LeaseGrant", "/etcdserverpb.Watch/Watch"] {
        let (response, mut send) = client.send_request(request(path, &[GRPC, ("grpc-timeout", "50m")]), false).unwrap();
        send.send_data(Bytes::from_static(b"\0\0"), false).unwrap();
        let (head, body, trailers) = whole(within("an answer", response).await.unwrap()).await;
        let told = if head.headers.contains_key("grpc-status") { &head.headers } else { &trailers };
        assert_eq!((status(told).0, body.len()), (Code::DeadlineExceeded, 0), "{path}");
    }
    assert_eq!(metric(&server, &handled("Put", "DeadlineExceeded")).await, 1);
    connection.abort();
    server.stop().await;
}

/// A reset, and a connection that is cut, drop the calls under way.
#[tokio::test]
async fn calls_that_are_given_up_are_dropped() {
    let server = Server::start(ServerOptions::default()).await;
    let canceled = handled("Put", "Canceled");
    let (mut client, connection) = connect(&server, 1 << 20).await;
    let mut begin = async || {
        let (response, mut send) = client.send_request(request(PUT, &[GRPC]), false).unwrap();
        send.send_data(framed(&put("a", "value")).slice(..8), false).unwrap();
        (response, send)
    };
    let (_one, mut first) = begin().await;
    let _second = begin().await;
    let started = r#"grpc_server_started_total{grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}"#;
    let seen = async |name: &str, count| (metric(&server, name).await == count).then_some(());
    poll::until("both to have begun", async || seen(started, 2).await).await;
    first.send_reset(Reason::CANCEL);
    poll::until("the first's end", async || seen(&canceled, 1).await).await;
    connection.abort();
    poll::until("the second's end", async || seen(&canceled, 2).await).await;
    assert_eq!(kv(&server).range(key("a")).await.unwrap().get_ref().count, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_says_goodbye_and_answers_what_is_under_way() {
    let server = Server::start(ServerOptions::default()).await;
    let (mut client, connection) = connect(&server, 1 << 20).await;
    let message = framed(&put("a", "value"));
    let (response, mut send) = client.send_request(request(PUT, &[GRPC]), false).unwrap();
    send.send_data(message.slice(..8), false).unwrap();
    let mut raw = Raw::open(&server).await;
    raw.send(&frame(frames::HEADERS, frames::END_HEADERS, 1, &frames::call(PUT))).await.unwrap();
    raw.send(&frame(frames::DATA, 0, 1, &message[..8])).await.unwrap();
    let started = r#"grpc_server_started_total{grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}"#;
    poll::until("both to have begun", async || (metric(&server, started).await == 2).then_some(())).await;
    let node = server.node.clone();
    server.shutdown.cancel();
    let goaway = raw.next_of(frames::GOAWAY).await.expect("a word");
    assert_eq!(goaway.payload[4..8], [0; 4]);
    // Calls that are under way are answered.
    raw.send(&frame(frames::DATA, frames::END_STREAM, 1, &message[8..])).await.unwrap();
    assert_eq!(raw.next_of(frames::DATA).await.expect("an answer").stream, 1);
    send.send_data(message.slice(8..), true).unwrap();
    let (_, _, trailers) = whole(within("an answer", response).await.unwrap()).await;
    assert_eq!(trailers["grpc-status"], "0");
    drop((raw, client));
    within("the server's end", server.task).await.unwrap().unwrap();
    assert_eq!(node.reader().revision(), 3);
    node.shutdown().await.unwrap();
    connection.abort();
}

/// What is owed to a client that does not read is bounded: further calls are not begun before it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_client_that_does_not_read_are_not_begun() {
    const CALLS: usize = 100;
    let server = Server::start(ServerOptions::default()).await;
    let value = Bytes::from(vec![b'x'; 1 << 20]);
    kv(&server).put(put("a", value.clone())).await.unwrap();
    // Its windows take nothing of an answer.
    let (mut client, connection) = connect(&server, 0).await;
    let mut answers = Vec::new();
    for _ in 0..CALLS {
        client = within("a stream", client.ready()).await.unwrap();
        let (response, mut send) = client.send_request(request(RANGE, &[GRPC]), false).unwrap();
        send.send_data(framed(&key("a")), true).unwrap();
        answers.push(response);
    }
    // A ping behind them is answered when they have been read.
    let begun = r#"grpc_server_started_total{grpc_method="Range",grpc_service="etcdserverpb.KV",grpc_type="unary"}"#;
    poll::until("some to have begun", async || (metric(&server, begun).await >= 8).then_some(())).await;
    for _ in 0..20 {
        kv(&server).range(RangeRequest { serializable: true, ..key("b") }).await.unwrap();
    }
    let begun = metric(&server, begun).await - 20;
    assert!(begun < 12, "{begun} calls were begun");
    for response in answers {
        let (head, mut stream) = within("a head", response).await.unwrap().into_parts();
        assert_eq!(head.status, 200);
        stream.flow_control().release_capacity(0).unwrap();
        drop(stream);
    }
    drop(client);
    connection.abort();
    server.stop().await;
}
