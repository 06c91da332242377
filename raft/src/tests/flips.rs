//! One bit is wrong in one file: the store refuses to open and names its place, or finds out when it reads, or nothing is
//! lost. What was acknowledged is never silently missing, and nothing panics or hangs.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use kelson_engine::{
    Command,
    command::{KeyRange, KeyValue, RangeRequest},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{DEADLINE, config, dump, write};
use crate::{Config, Data, Node};

/// Flips in each kind of file in a run of all tests; `KELSON_TEST_FLIPS` sets another number.
const FLIPS: usize = 12;

/// What may become of a data directory with one wrong bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Refused,
    FoundWhenRead,
    Harmless,
}

/// What was acknowledged: every key now and at a revision in the middle.
struct Acknowledged {
    now: Vec<KeyValue>,
    middle: i64,
    then: Vec<KeyValue>,
}

fn in_dir(path: &Path) -> Config {
    Config { data: Data::Dir(path.to_owned()), ..config() }
}

fn at(node: &Node, revision: i64) -> Result<Vec<KeyValue>, String> {
    let request = RangeRequest::whole(KeyRange { start: vec![0].into(), end: vec![0].into() }, revision);
    node.reader().range(&request).map(|(_, response)| response.kvs).map_err(|error| error.to_string())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, target) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() { copy(&path, &target) } else { _ = fs::copy(path, target).unwrap() }
    }
}

/// A data directory as a kill leaves it, with something in every kind of file: tables of the state from earlier lives, and
/// a log with what came last.
async fn prepare(into: &Path) -> Acknowledged {
    let dir = tempfile::tempdir().unwrap();
    let (mut number, mut middle) = (0, 0);
    for life in 0..2 {
        let node = Node::open(in_dir(dir.path())).await.unwrap();
        more(&node, life, &mut number).await;
        middle = node.reader().revision();
        node.shutdown().await.unwrap();
    }
    let node = Node::open(in_dir(dir.path())).await.unwrap();
    more(&node, 2, &mut number).await;
    let acknowledged = Acknowledged { now: dump(&node), middle, then: at(&node, middle).unwrap() };
    // Files of a process that goes on are copied at different moments: a copy counts once it opens.
    for _ in 0..50 {
        fs::remove_dir_all(into).unwrap();
        copy(dir.path(), into);
        let probe = tempfile::tempdir().unwrap();
        copy(into, probe.path());
        if let Ok(probe) = Node::open(in_dir(probe.path())).await {
            assert_eq!(dump(&probe), acknowledged.now);
            probe.shutdown().await.unwrap();
            break;
        }
    }
    node.shutdown().await.unwrap();
    acknowledged
}

async fn more(node: &Node, life: i64, number: &mut usize) {
    node.propose(Command::LeaseGrant { id: 10 + life, ttl: 3_600 }).await.unwrap();
    for _ in 0..40 {
        *number += 1;
        let value = format!("value {number} {}", "x".repeat(*number % 90));
        write(node, format!("key{:02}", *number % 50), value).await;
    }
}

const LOG: &str = "log";
const SECTOR: usize = 512;

/// Bytes of a file of the log in front of what was only set aside.
fn used(path: &Path) -> usize {
    let bytes = fs::read(path).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// Files by kind.
fn kinds(dir: &Path) -> BTreeMap<&'static str, Vec<PathBuf>> {
    let mut found: BTreeMap<_, Vec<PathBuf>> = BTreeMap::new();
    for side in ["log", "state"] {
        for entry in fs::read_dir(dir.join(side)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let kind = match (side, name.as_str()) {
                (_, name) if entry.metadata().unwrap().len() == 0 || name.starts_with("LOG") => continue,
                ("log", name) if name.ends_with(".log") => match used(&entry.path()) {
                    0 => continue,
                    _ => LOG,
                },
                ("state", name) if name.ends_with(".sst") => "state: table",
                ("state", name) if name.starts_with("MANIFEST") => "state: MANIFEST",
                ("state", "CURRENT") => "state: CURRENT",
                (_, "IDENTITY") => "IDENTITY",
                (_, name) if name.starts_with("OPTIONS") => "OPTIONS",
                (side, name) => panic!("{side}/{name} is of no known kind"),
            };
            found.entry(kind).or_default().push(entry.path().strip_prefix(dir).unwrap().to_owned());
        }
    }
    found
}

/// Opens, reads, writes, closes and opens again.
async fn outcome(dir: &Path, acknowledged: &Acknowledged) -> Outcome {
    let place = dir.display().to_string();
    let named = |error: &str| assert!(error.contains(&place), "the error names no file: {error}");
    for life in 0..2 {
        let node = match Node::open(in_dir(dir)).await {
            Ok(node) => node,
            Err(error) => {
                named(&error.to_string());
                return Outcome::Refused;
            }
        };
        match (at(&node, 0), at(&node, acknowledged.middle)) {
            (Ok(mut now), Ok(then)) => {
                now.retain(|kv| kv.key[..] != *b"later");
                assert_eq!(now, acknowledged.now, "life {life}");
                assert_eq!(then, acknowledged.then, "life {life}");
            }
            (Err(error), _) | (_, Err(error)) => {
                named(&error);
                return Outcome::FoundWhenRead;
            }
        }
        let wrote = node.propose(super::put("later", "value")).await;
        let ended = node.shutdown().await;
        if let Some(error) = wrote.err().or(ended.err()) {
            named(&error.to_string());
            return Outcome::FoundWhenRead;
        }
    }
    Outcome::Harmless
}

#[test]
fn one_wrong_bit_anywhere_loses_nothing_silently() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<usize>().ok());
    let flips = number("KELSON_TEST_FLIPS").unwrap_or(FLIPS);
    let seed = number("KELSON_TEST_SEED").unwrap_or_else(|| rand::random::<u32>() as usize);
    let mut rng = StdRng::seed_from_u64(seed as u64);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();

    let pristine = tempfile::tempdir().unwrap();
    let acknowledged = runtime.block_on(prepare(pristine.path()));
    let kinds = kinds(pristine.path());
    assert_eq!(kinds.len(), 6, "{:?}", kinds.keys());
    assert!(kinds[LOG].len() > 1, "more than one file of the log is in use");
    let mut seen: BTreeMap<&str, BTreeMap<Outcome, usize>> = BTreeMap::new();
    for (kind, files) in &kinds {
        for _ in 0..flips {
            let file = &files[rng.random_range(0..files.len())];
            let scratch = tempfile::tempdir().unwrap();
            let dir = scratch.path().join("data");
            copy(pristine.path(), &dir);
            let mut bytes = fs::read(dir.join(file)).unwrap();
            // Half of them near the end, where a crash may leave a torn record.
            let last = if *kind == LOG { used(&dir.join(file)) } else { bytes.len() };
            let from = if rng.random() { last.saturating_sub(200) } else { 0 };
            let (at, bit) = (rng.random_range(from..last), rng.random_range(0..8));
            bytes[at] ^= 1 << bit;
            fs::write(dir.join(file), bytes).unwrap();
            let what = format!("KELSON_TEST_SEED={seed}: bit {bit} of byte {at} of {last} in {}", file.display());
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                runtime.block_on(async { tokio::time::timeout(DEADLINE, outcome(&dir, &acknowledged)).await })
            }));
            match checked {
                Ok(Ok(outcome)) => {
                    // The tag of a sector is of use only where the rest of a frame is not there.
                    let tag = at % SECTOR >= SECTOR - 4;
                    let as_expected = *kind != LOG || outcome == if tag { Outcome::Harmless } else { Outcome::Refused };
                    assert!(as_expected, "{what}: {outcome:?}");
                    *seen.entry(kind).or_default().entry(outcome).or_default() += 1;
                }
                Ok(Err(_)) => panic!("{what}: hangs"),
                Err(_) => panic!("{what}: see above"),
            }
        }
    }
    for (kind, outcomes) in &seen {
        eprintln!("{kind}: {outcomes:?}");
    }
    let refused = |kind: &str| seen[kind].get(&Outcome::Refused).copied().unwrap_or(0);
    for kind in ["state: MANIFEST", "state: CURRENT"] {
        assert_eq!(refused(kind), flips, "{kind}: every byte is checked when it opens");
    }
}
