//! Disks that are full, that may not be written, and a log whose last record is torn: what the user is told, and that
//! nothing acknowledged is lost once the disk is well again.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kelson_wire::pb::etcdserverpb::kv_client::KvClient;
use kelson_wire::pb::etcdserverpb::{PutRequest, RangeRequest};
use tokio::runtime::Runtime;
use tonic::transport::Channel;

use super::store::{Place, READY};
use crate::cluster::START;
use crate::poll;
use crate::program::Program;

/// Longest that the store may take to answer or to end, in seconds.
const PATIENCE: u64 = 60;
/// Bytes of a value: large, so that a small disk is soon full.
const VALUE: usize = 64 << 10;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn connect(runtime: &Runtime, place: &Place) -> KvClient<Channel> {
    let _inside = runtime.enter();
    KvClient::new(Channel::from_shared(place.url()).expect("a URL").connect_lazy()).max_decoding_message_size(1 << 30)
}

fn key(number: usize) -> String {
    format!("key{number:06}")
}

/// On a connection of its own: puts one key after the other until one fails or `most` are there; returns how many were acknowledged, and the error.
fn fill(runtime: &Runtime, place: &Place, from: usize, most: usize) -> (usize, Option<tonic::Status>) {
    let mut client = connect(runtime, place);
    for number in from..most {
        let value = vec![number as u8; VALUE].into();
        let put = client.put(PutRequest { key: key(number).into(), value, ..Default::default() });
        match runtime.block_on(within(put)) {
            Ok(_) => {}
            Err(status) => return (number, Some(status)),
        }
    }
    (most, None)
}

async fn within<T>(call: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(PATIENCE), call).await.expect("the store answers or says that it cannot")
}

/// Every acknowledged key is there with its value; returns the number of keys.
#[track_caller]
fn complete(runtime: &Runtime, place: &Place, acknowledged: usize) -> usize {
    let mut client = connect(runtime, place);
    let all = RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
    let kvs = runtime.block_on(within(client.range(all))).expect("a range").into_inner().kvs;
    for (number, kv) in kvs.iter().enumerate() {
        assert_eq!(kv.key, key(number), "a key is missing");
        assert!(kv.value.len() == VALUE && kv.value.iter().all(|byte| *byte == number as u8), "{}", key(number));
    }
    assert!(kvs.len() >= acknowledged, "{acknowledged} were acknowledged, {} are there", kvs.len());
    kvs.len()
}

/// A mount namespace of its own in which `folder` is a small disk; lives for as long as this.
struct SmallDisk {
    holder: Program,
    pid: u32,
    folder: String,
}

impl SmallDisk {
    /// `None`, and a line that says so, where mounting is not permitted.
    fn mount(folder: &Path, megabytes: u32) -> Option<SmallDisk> {
        let folder = folder.display().to_string();
        let script =
            format!("mount -t tmpfs -o size={megabytes}m kelson-test {folder} && echo mounted && exec sleep 3600");
        let allowed =
            Command::new("unshare").args(["--mount", "true"]).output().is_ok_and(|done| done.status.success());
        if !allowed {
            let _ = writeln!(std::io::stderr(), "SKIPPED: a full disk (`unshare --mount` is not permitted here)");
            return None;
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]);
        let mut holder = Program::start("a small disk", &mut command);
        holder.wait_for("mounted", PATIENCE);
        let pid = holder.id();
        Some(SmallDisk { holder, pid, folder })
    }

    /// The command, in the namespace.
    fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.args(["--mount", "--target", &self.pid.to_string()]);
        inside.arg(command.get_program()).args(command.get_args());
        inside
    }

    fn remount(&self, options: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,{options}"), &self.folder]);
        let done = self.inside(&mount).output().expect("mount");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

/// The store stopped by itself, and said why and where.
#[track_caller]
fn gave_up(program: &mut Program, place: &str, reason: &str) {
    let status = program.ended(PATIENCE);
    let output = program.output();
    assert!(!status.success(), "{output}");
    let told = output.lines().any(|line| line.contains(place) && line.to_lowercase().contains(reason));
    assert!(told, "no line names {place:?} and {reason:?}:\n{output}");
}

#[test]
fn a_full_disk_stops_the_store_and_loses_nothing() {
    let runtime = runtime();
    let place = Place::new();
    fs::create_dir_all(place.data()).expect("a folder");
    let Some(disk) = SmallDisk::mount(&place.data(), 12) else { return };
    let start = || {
        let mut program = Program::start("kelson store", &mut disk.inside(&place.command_on(&place.data())));
        program.wait_for(READY, START);
        program
    };
    let mut program = start();
    let (acknowledged, error) = fill(&runtime, &place, 0, 1_000);
    let error = error.expect("the disk has no room for all");
    assert!(error.message().contains("No space left on device"), "{error}");
    gave_up(&mut program, &place.data().display().to_string(), "no space left on device");

    // Still full: whatever it does, it says so and harms nothing.
    let mut again = Program::start("kelson store", &mut disk.inside(&place.command_on(&place.data())));
    let ready = poll::until("it serves or gives up", START, || match again.exited() {
        Some(_) => Ok(false),
        None if again.output().contains(READY) => Ok(true),
        None => Err(again.output()),
    });
    match ready {
        true => _ = complete(&runtime, &place, acknowledged),
        false => gave_up(&mut again, &place.data().display().to_string(), "no space left on device"),
    }
    drop(again);

    disk.remount("size=64m");
    let program = start();
    let there = complete(&runtime, &place, acknowledged);
    let (more, error) = fill(&runtime, &place, there, there + 50);
    assert!(error.is_none(), "{error:?}");
    program.kill();
    let program = start();
    complete(&runtime, &place, more);
    program.kill();
    drop(disk.holder);
}

#[test]
fn a_file_that_may_not_grow_stops_the_store_and_loses_nothing() {
    let runtime = runtime();
    let place = Place::new();
    let plain = place.command_on(&place.data());
    // In blocks of 512 bytes. The signal that would kill the process is ignored, so that the write fails instead.
    let script = "trap '' XFSZ; ulimit -f 8192; exec \"$0\" \"$@\"";
    let mut limited = Command::new("sh");
    limited.args(["-c", script]).arg(plain.get_program()).args(plain.get_args());
    let mut program = Program::start("kelson store", &mut limited);
    program.wait_for(READY, START);
    let (acknowledged, error) = fill(&runtime, &place, 0, 1_000);
    let error = error.expect("the log does not fit into its file");
    assert!(error.message().contains("File too large"), "{error}");
    gave_up(&mut program, &place.data().display().to_string(), "file too large");
    let program = place.start();
    complete(&runtime, &place, acknowledged);
    program.kill();
}

#[test]
fn a_disk_that_may_not_be_written_is_refused_by_name() {
    let runtime = runtime();
    let place = Place::new();
    fs::create_dir_all(place.data()).expect("a folder");
    let Some(disk) = SmallDisk::mount(&place.data(), 64) else { return };
    let mut command = disk.inside(&place.command_on(&place.data()));
    let mut program = Program::start("kelson store", &mut command);
    program.wait_for(READY, START);
    let (acknowledged, error) = fill(&runtime, &place, 0, 20);
    assert!(error.is_none(), "{error:?}");
    program.kill();
    disk.remount("ro");
    let mut refused = Program::start("kelson store", &mut command);
    gave_up(&mut refused, &place.data().display().to_string(), "read-only file system");
    disk.remount("rw");
    let mut program = Program::start("kelson store", &mut command);
    program.wait_for(READY, START);
    complete(&runtime, &place, acknowledged);
    program.kill();
    drop(disk.holder);
}

const SECTOR: usize = 512;

/// The file of the log that holds the newest records, and how many bytes of it are in use.
fn newest_log(data: &Path) -> (std::path::PathBuf, usize) {
    let files = fs::read_dir(data.join("log")).expect("a log").map(|entry| entry.expect("an entry").path());
    let used = |path: std::path::PathBuf| {
        let bytes = fs::read(&path).expect("a file of the log");
        let last = bytes.iter().rposition(|byte| *byte != 0)?;
        Some((path, (last / SECTOR + 1) * SECTOR))
    };
    let logs = files.filter(|path| path.extension().is_some_and(|ending| ending == "log"));
    logs.filter_map(used).max().expect("a file in use")
}

/// A crash in the middle of a write leaves a part of its record: it was acknowledged to nobody, and is dropped.
#[test]
fn a_torn_last_record_is_dropped_and_everything_before_it_is_kept() {
    let runtime = runtime();
    let place = Place::new();
    let program = place.start();
    let (acknowledged, error) = fill(&runtime, &place, 0, 10);
    assert!(error.is_none(), "{error:?}");
    let (first, before) = newest_log(&place.data());
    let put = PutRequest {
        key: key(acknowledged).into(),
        value: vec![acknowledged as u8; VALUE].into(),
        ..Default::default()
    };
    runtime.block_on(within(connect(&runtime, &place).put(put))).expect("a put");
    program.kill();
    let (log, after) = newest_log(&place.data());
    let before = if log == first { before } else { 0 };
    let whole = fs::read(&log).expect("the log");
    let record = after - before;
    assert!(record > VALUE, "the last record is the last put");
    for kept in [1, 6, 7, 100, SECTOR, record / 2, record - SECTOR] {
        let mut torn = whole.clone();
        torn[before + kept..after].fill(0);
        fs::write(&log, torn).expect("a torn log");
        let copy = tempfile::tempdir().expect("a folder");
        let done = Command::new("cp").args(["-r", "."]).arg(copy.path()).current_dir(place.data()).status();
        assert!(done.expect("cp").success());
        let mut program = Program::start("kelson store", &mut place.command_on(copy.path()));
        program.wait_for(READY, START);
        let there = complete(&runtime, &place, acknowledged);
        assert_eq!(there, acknowledged, "{kept} bytes of {record} make no record");
        let (more, error) = fill(&runtime, &place, there, there + 3);
        assert!(error.is_none(), "{error:?}");
        program.kill();
        let mut program = Program::start("kelson store", &mut place.command_on(copy.path()));
        program.wait_for(READY, START);
        complete(&runtime, &place, more);
        program.kill();
    }
}
