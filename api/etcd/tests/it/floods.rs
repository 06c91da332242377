//! Floods of frames: the connection that they come on bears them or ends, and others do not hear of it.

use bytes::Bytes;
use kelson_etcd::ServerOptions;
use kelson_wire::pb::etcdserverpb::kv_client::KvClient;
use kelson_wire::pb::etcdserverpb::{PutRequest, RangeRequest};
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tonic::transport::{Channel, Endpoint};

use crate::bounds::metric;
use crate::frames::{self, Raw, frame};
use crate::harness::{Server, within};

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const ENHANCE_YOUR_CALM: u32 = 11;

fn others(server: &Server) -> KvClient<Channel> {
    KvClient::new(Endpoint::from_shared(server.url()).unwrap().connect_lazy())
}

async fn serves(others: &mut KvClient<Channel>) {
    let ask = RangeRequest { key: "a".into(), ..Default::default() };
    within("an answer to others", others.range(ask)).await.unwrap();
}

fn framed(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat()
}

/// Repeats bytes until they are at least so many.
fn many(bytes: &[u8], least: usize) -> Vec<u8> {
    bytes.repeat(least.div_ceil(bytes.len()))
}

/// Each ping and each change of settings has its answer, however many come at once: what a client does not read holds up
/// only what it sends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_and_settings_are_answered_one_by_one() {
    const FRAMES: usize = 50_000;
    let server = Server::start(ServerOptions::default()).await;
    let mut others = others(&server);
    for (kind, payload) in [(frames::PING, &[7; 8][..]), (frames::SETTINGS, &[])] {
        let mut raw = Raw::open(&server).await;
        let mut writing = raw.take_writing();
        let flood = frame(kind, 0, 0, payload).repeat(FRAMES);
        let sending = tokio::spawn(async move {
            let sent = tokio::io::AsyncWriteExt::write_all(&mut writing, &flood).await;
            (sent.is_ok(), writing)
        });
        // Nobody reads yet.
        for _ in 0..20 {
            serves(&mut others).await;
        }
        let mut answered = 0;
        while answered < FRAMES {
            let Some(answer) = raw.next_of(kind).await else { break };
            answered += usize::from(answer.flags == frames::ACK);
        }
        let (sent, _writing) = within("the flood's end", sending).await.unwrap();
        assert!(sent && answered == FRAMES, "{answered} answers");
    }
    serves(&mut others).await;
    server.stop().await;
}

/// A message in frames of one byte is a message; the window of a connection is no excuse for a million of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tiny_frames_are_borne() {
    let server = Server::start(ServerOptions::default()).await;
    let mut others = others(&server);
    let mut raw = Raw::open(&server).await;
    let put = framed(&PutRequest { key: "a".into(), value: vec![b'x'; 20_000].into(), ..Default::default() });
    let (last, rest) = put.split_last().unwrap();
    raw.send(&frame(frames::HEADERS, frames::END_HEADERS, 1, &frames::call(PUT))).await.unwrap();
    let tiny: Vec<u8> = rest.iter().flat_map(|byte| frame(frames::DATA, 0, 1, &[*byte])).collect();
    raw.send(&tiny).await.unwrap();
    raw.send(&frame(frames::DATA, frames::END_STREAM, 1, &[*last])).await.unwrap();
    assert_eq!(raw.next_of(frames::DATA).await.expect("an answer").stream, 1);
    let found = others.range(RangeRequest { key: "a".into(), ..Default::default() }).await.unwrap();
    assert_eq!(found.get_ref().kvs[0].value.len(), 20_000);
    server.stop().await;
}

/// Frames that carry nothing, and are sent for nothing, end their connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_frames_end_their_connection() {
    let server = Server::start(ServerOptions::default()).await;
    let mut others = others(&server);
    let mut raw = Raw::open(&server).await;
    raw.send(&frame(frames::HEADERS, frames::END_HEADERS, 1, &frames::call(PUT))).await.unwrap();
    let _ = raw.send(&many(&frame(frames::DATA, 0, 1, &[]), 4 << 20)).await;
    assert_ne!(raw.goodbye().await, Some(0));
    serves(&mut others).await;
    server.stop().await;
}

/// Headers without an end (CVE-2024-27983 and its like).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_do_not_end_end_their_connection() {
    let server = Server::start(ServerOptions::default()).await;
    let mut others = others(&server);
    for size in [0, 1, 1000, 16_000] {
        let mut raw = Raw::open(&server).await;
        raw.send(&frame(frames::HEADERS, 0, 1, &frames::call(RANGE))).await.unwrap();
        let field = frames::fields(&[("x", &"y".repeat(size))]);
        let _ = raw.send(&many(&frame(frames::CONTINUATION, 0, 1, &field[..field.len().min(size)]), 8 << 20)).await;
        raw.goodbye().await;
        serves(&mut others).await;
    }
    server.stop().await;
}

/// A request with more headers than are read is refused; the next one on its connection is not.
#[tokio::test]
async fn too_many_headers_are_refused() {
    let server = Server::start(ServerOptions::default()).await;
    let mut raw = Raw::open(&server).await;
    let bomb = [frames::call(RANGE), frames::fields(&[("x", &"y".repeat(1_000))]).repeat(40)].concat();
    let (first, rest) = bomb.split_at(10_000);
    raw.send(&frame(frames::HEADERS, frames::END_STREAM, 1, first)).await.unwrap();
    let mut pieces = rest.chunks(10_000).peekable();
    while let Some(piece) = pieces.next() {
        let flags = if pieces.peek().is_none() { frames::END_HEADERS } else { 0 };
        raw.send(&frame(frames::CONTINUATION, flags, 1, piece)).await.unwrap();
    }
    let ask = framed(&RangeRequest { key: "a".into(), ..Default::default() });
    raw.send(&frame(frames::HEADERS, frames::END_HEADERS, 3, &frames::call(RANGE))).await.unwrap();
    raw.send(&frame(frames::DATA, frames::END_STREAM, 3, &ask)).await.unwrap();
    let mut answered = Vec::new();
    while let Some(frame) = raw.next().await {
        if matches!(frame.kind, frames::HEADERS | frames::RST_STREAM | frames::DATA) {
            answered.push((frame.kind, frame.stream));
        }
        if frame.kind == frames::DATA {
            break;
        }
    }
    assert_eq!(answered.first().map(|(_, stream)| *stream), Some(1), "{answered:?}");
    assert_eq!(answered.last(), Some(&(frames::DATA, 3)), "{answered:?}");
    server.stop().await;
}

/// Calls that are begun only to be reset (CVE-2023-44487), with half a message each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_reset_at_once_end_their_connection() {
    const STREAMS: u32 = 5_000;
    let server = Server::start(ServerOptions::default()).await;
    let mut others = others(&server);
    let mut raw = Raw::open(&server).await;
    let mut flood = Vec::new();
    for stream in (0..STREAMS).map(|i| 2 * i + 1) {
        flood.extend(frame(frames::HEADERS, frames::END_HEADERS, stream, &frames::call(RANGE)));
        flood.extend(frame(frames::DATA, 0, stream, b"\0\0\0\0\x03abc"));
        flood.extend(frame(frames::RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    let _ = raw.send(&flood).await;
    assert_eq!(raw.goodbye().await, Some(ENHANCE_YOUR_CALM));
    serves(&mut others).await;
    server.stop().await;
}

/// Many calls that wait for the rest of their message cost what was sent of them, and others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_said_calls_stand_in_nobodys_way() {
    const STREAMS: u32 = 5_000;
    let server = Server::start(ServerOptions::default()).await;
    let mut others = others(&server);
    let mut raw = Raw::open(&server).await;
    let whole = framed(&PutRequest { key: "a".into(), value: Bytes::from_static(b"value"), ..Default::default() });
    let (begin, end) = whole.split_at(7);
    let streams: Vec<u32> = (0..STREAMS).map(|i| 2 * i + 1).collect();
    let mut flood = Vec::new();
    for stream in &streams {
        flood.extend(frame(frames::HEADERS, frames::END_HEADERS, *stream, &frames::call(PUT)));
        flood.extend(frame(frames::DATA, 0, *stream, begin));
    }
    raw.send(&flood).await.unwrap();
    serves(&mut others).await;
    let ends: Vec<u8> =
        streams.iter().flat_map(|stream| frame(frames::DATA, frames::END_STREAM, *stream, end)).collect();
    raw.send(&ends).await.unwrap();
    for _ in &streams {
        raw.next_of(frames::DATA).await.expect("an answer");
    }
    assert_eq!(metric(&server, "etcd_debugging_mvcc_current_revision").await, u64::from(STREAMS) + 1);
    server.stop().await;
}

/// Frames of any kind, flags and payload, as often well-formed as not: their connection answers or ends, nothing else does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_sent_harms_nobody_else() {
    const CONNECTIONS: u64 = 300;
    const FRAMES: usize = 60;
    let server = Server::start(ServerOptions::default()).await;
    let mut others = others(&server);
    let put = framed(&PutRequest { key: "a".into(), value: vec![b'x'; 100].into(), ..Default::default() });
    for seed in 0..CONNECTIONS {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut raw = Raw::open(&server).await;
        let mut sent = Vec::new();
        let mut next = 1;
        for _ in 0..FRAMES {
            let stream = [0, next, rng.random_range(0..next + 4)][rng.random_range(0..3)];
            let flags = [0, frames::END_HEADERS, frames::END_STREAM, rng.random()][rng.random_range(0..4)];
            let payload = match rng.random_range(0..6) {
                0 => frames::call([PUT, RANGE, "/etcdserverpb.Watch/Watch", "/health"][rng.random_range(0..4)]),
                1 => put[..rng.random_range(0..=put.len())].to_vec(),
                2 => rng.random::<u32>().to_be_bytes()[..rng.random_range(0..=4)].to_vec(),
                3 => [[0, 4, 0, 0].to_vec(), rng.random::<[u8; 2]>().to_vec()].concat(),
                _ => (0..rng.random_range(0..200)).map(|_| rng.random()).collect(),
            };
            let kind = if rng.random_range(0..3) == 0 { rng.random() } else { rng.random_range(0..10) };
            next += if kind == frames::HEADERS && stream == next { 2 } else { 0 };
            sent.extend(frame(kind, flags, stream, &payload));
        }
        // The server may have ended the connection by now.
        let _ = raw.send(&sent).await;
        if seed % 10 == 0 {
            serves(&mut others).await;
        }
        if seed % 3 == 0 {
            drop(raw.take_writing());
            while raw.next().await.is_some() {}
        }
    }
    serves(&mut others).await;
    server.stop().await;
}
