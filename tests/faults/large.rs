//! Data sets larger than memory: values live on disk, and what the store keeps of them has a bound.

use std::sync::Arc;

use kelson_wire::pb::etcdserverpb::kv_client::KvClient;
use kelson_wire::pb::etcdserverpb::{PutRequest, RangeRequest};
use tonic::transport::Channel;

use super::store::{Place, READY};
use crate::cluster::START;
use crate::program::Program;

const VALUE: usize = 16 << 10;
/// Keys of a page: well below what a message may hold.
const PAGE: usize = 100;
const CLIENTS: usize = 32;

/// MiB of values: `KELSON_TEST_DATA_MIB`, by hand 4096.
fn size() -> usize {
    std::env::var("KELSON_TEST_DATA_MIB").map_or(512, |mib| mib.parse().expect("a number of MiB"))
}

fn key(number: usize) -> String {
    format!("/large/{number:08}")
}

/// What compresses badly, and tells which key it is of.
fn value(number: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let word = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    std::iter::repeat_with(word).take(VALUE / 8).flat_map(u64::to_le_bytes).collect()
}

async fn put_all(channel: &Channel, count: usize) {
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (mut client, next) = (KvClient::new(channel.clone()), next.clone());
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let (key, value) = (key(number).into(), value(number).into());
                    client.put(PutRequest { key, value, ..Default::default() }).await.expect("a put");
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("a client");
    }
}

/// Reads everything in pages; each value must be that of its key.
async fn read_all(channel: &Channel, count: usize) {
    let mut client = KvClient::new(channel.clone());
    let mut read = 0;
    while read < count {
        let page = RangeRequest {
            key: key(read).into(),
            range_end: "/large0".into(),
            limit: PAGE as i64,
            ..Default::default()
        };
        let page = client.range(page).await.expect("a page").into_inner();
        assert_eq!(page.count as usize, count - read);
        assert!(!page.kvs.is_empty());
        for kv in page.kvs {
            assert!(kv.key == key(read).as_bytes() && kv.value == value(read), "key {read} is another's");
            read += 1;
        }
    }
}

/// The most memory that the store has had since it started.
fn peak(program: &Program) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.id())).expect("a running store");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") >> 10
}

#[test]
fn data_sets_larger_than_memory_are_served() {
    let mib = size();
    // A quarter of the values, beside what a store with little in it takes.
    let limit = (mib / 4).max(320);
    assert!(limit < mib, "the bound would hold even if everything were kept");
    let count = (mib << 20) / VALUE;
    let place = Place::new();
    let start = || {
        let mut command = place.command_on(&place.data());
        command.args(["--quota-backend-bytes", &((mib as u64 * 4) << 20).to_string()]);
        let mut program = Program::start("kelson store", &mut command);
        program.wait_for(READY, START);
        program
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let connect = || runtime.block_on(async { Channel::from_shared(place.url()).expect("a URL").connect_lazy() });
    let (store, channel) = (start(), connect());
    runtime.block_on(put_all(&channel, count));
    runtime.block_on(read_all(&channel, count));
    let filled = peak(&store);
    store.kill();
    let (store, channel) = (start(), connect());
    runtime.block_on(read_all(&channel, count));
    let again = peak(&store);
    eprintln!("{mib} MiB of values: at most {filled} MiB of memory, {again} MiB after a restart");
    assert!(filled < limit && again < limit, "{filled} and {again} MiB of memory for {mib} MiB; the limit is {limit}");
    store.kill();
}
