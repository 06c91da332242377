//! A client that stands still with a watch open costs the store a bounded amount of memory and nobody else anything.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use kelson_wire::pb::etcdserverpb::PutRequest;
use kelson_wire::pb::etcdserverpb::kv_client::KvClient;
use tonic::transport::Channel;

use super::store::Place;
use super::watchers;
use crate::cluster::peer;
use crate::program::Program;

/// What goes on while the client stands still: far more than any buffer on its way takes.
const PUTS: usize = 1_500;
const VALUE: usize = 128 << 10;
/// Puts before the store's memory is looked at.
const WARM: usize = 700;
/// Keys that the puts go round.
const KEYS: usize = 20;
/// Memory that the store may take meanwhile, for write buffers that happen to be fuller: half of what is put.
const GROWTH: u64 = 94 << 20;

fn resident(program: &Program) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.id())).expect("a running store");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[test]
fn a_client_that_stands_still_holds_up_nobody() {
    let Some(etcdctl) = peer("KELSON_TEST_ETCDCTL", "a client that stands still") else { return };
    let place = Place::new();
    let store = place.start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let channel = runtime.block_on(async { Channel::from_shared(place.url()).expect("a URL").connect_lazy() });
    let mut client = KvClient::new(channel.clone());
    let mut put = |number: usize| {
        let (key, value) = (format!("key{:02}", number % KEYS), vec![b'0'; VALUE]);
        let call = client.put(PutRequest { key: key.into(), value: value.into(), ..Default::default() });
        let answer = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), call).await });
        answer.expect("a put is answered beside a client that stands still").expect("a put");
    };
    put(0);
    let mut command = Command::new(etcdctl);
    command.args(["--endpoints", &place.url(), "watch", "--rev=1", "--prefix", "key"]);
    let mut stalled =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("etcdctl");
    // The first event tells that the watch is there.
    let mut first = [0; 3];
    stalled.stdout.as_mut().expect("piped").read_exact(&mut first).expect("an event");
    assert_eq!(&first, b"PUT");
    let pid = i32::try_from(stalled.id()).expect("a pid");
    // SAFETY: kill(2) has no memory effects; the child has not been waited for, so the id is still its own.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGSTOP) }, 0);
    // Fills caches and buffers first, so that what grows later is what the client costs.
    (0..WARM).for_each(&mut put);
    let before = resident(&store);
    (0..PUTS).for_each(&mut put);
    let after = resident(&store);
    let put_bytes = (PUTS * VALUE) as u64;
    eprintln!("{} MiB put beside a stopped watcher: {} -> {} MiB resident", put_bytes >> 20, before >> 20, after >> 20);
    assert!(after.saturating_sub(before) < GROWTH, "{before} -> {after} bytes for {put_bytes} bytes put");
    assert!(GROWTH < put_bytes, "the bound would hold even if everything were kept");
    // Others are told everything, from the first revision on.
    let revision = (1 + 1 + WARM + PUTS) as i64;
    let told = runtime.block_on(watchers::history(channel, 2, revision));
    assert!(told.into_keys().eq(2..=revision), "a revision is missing");
    // SAFETY: as above.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    stalled.wait().expect("etcdctl ends");
    store.kill();
}
