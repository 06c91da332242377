//! Watchers that outlive the server: each takes up where it was cut off, and keeps everything that it was told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream;
use kelson_wire::pb::etcdserverpb::watch_client::WatchClient;
use kelson_wire::pb::etcdserverpb::watch_request::RequestUnion;
use kelson_wire::pb::etcdserverpb::{WatchCreateRequest, WatchRequest};
use kelson_wire::pb::mvccpb::Event;
use kelson_wire::pb::mvccpb::event::EventType;
use rand::rngs::StdRng;
use tonic::transport::Channel;

use super::linear::Value;
use super::load::{Lost, Oracle, ask, number};

/// Longest silence of a watch that has something to deliver, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    /// `None`: deleted.
    pub value: Value,
    pub create: i64,
    pub version: i64,
    pub lease: i64,
}

/// What a watcher has been told, by revision; and when, in nanoseconds of the oracle's clock.
pub type Record = BTreeMap<i64, (u64, Vec<Change>)>;

/// A watcher's record, written while it runs.
pub type Kept = Arc<Mutex<Record>>;

fn change(event: Event) -> (i64, Change) {
    let deleted = event.r#type() == EventType::Delete;
    let kv = event.kv.expect("an event has a key");
    let key = String::from_utf8(kv.key.to_vec()).expect("keys are text");
    let value = (!deleted).then(|| number(&kv.value));
    (kv.mod_revision, Change { key, value, create: kv.create_revision, version: kv.version, lease: kv.lease })
}

/// Opens a watch of every key that begins with `prefix` (empty: every key) and hands over what comes, whole revisions at
/// a time, until `take` returns `false` or the server goes.
pub async fn follow(
    channel: Channel,
    prefix: &str,
    start_revision: i64,
    mut take: impl FnMut(i64, Vec<Change>) -> bool,
) -> Result<(), Lost> {
    let (key, range_end) = match prefix {
        "" => (vec![0], vec![0]),
        prefix => {
            let mut end = prefix.as_bytes().to_vec();
            *end.last_mut().expect("it is not empty") += 1;
            (prefix.as_bytes().to_vec(), end)
        }
    };
    let create = WatchCreateRequest {
        key: key.into(),
        range_end: range_end.into(),
        start_revision,
        progress_notify: false,
        ..Default::default()
    };
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    // The stream of requests stays open for as long as the answers are read.
    let requests = stream::unfold(Some(request), |next| async move {
        match next {
            Some(request) => Some((request, None)),
            None => std::future::pending().await,
        }
    });
    let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
    let mut answers = ask(client.watch(requests)).await?;
    loop {
        let Ok(Some(answer)) = answers.message().await else { return Err(Lost) };
        assert!(!answer.canceled, "the watch from {start_revision} ended: {answer:?}");
        let mut revisions: Vec<(i64, Vec<Change>)> = Vec::new();
        for event in answer.events {
            let (revision, change) = change(event);
            match revisions.last_mut() {
                Some((last, changes)) if *last == revision => changes.push(change),
                _ => revisions.push((revision, vec![change])),
            }
        }
        for (revision, changes) in revisions {
            if !take(revision, changes) {
                return Ok(());
            }
        }
    }
}

/// A client of the load: watches `prefix` from where it was last, and lets the compactor know how far it is.
pub async fn watcher(
    kept: &Kept,
    number: usize,
    prefix: &str,
    oracle: &Oracle,
    _: &mut StdRng,
    channel: Channel,
) -> Lost {
    let next = || kept.lock().expect("record").last_key_value().map_or(1, |(revision, _)| revision + 1);
    let from = next();
    let following = follow(channel, prefix, from, |revision, changes| {
        let mut record = kept.lock().expect("record");
        let last = record.last_key_value().map_or(from - 1, |(revision, _)| *revision);
        assert!(revision > last, "watcher {number}: revision {revision} after {last}");
        if prefix.is_empty() {
            assert_eq!(revision, (last + 1).max(2), "watcher {number} was not told of a revision after {last}");
        }
        record.insert(revision, (oracle.now(), changes));
        drop(record);
        oracle.watched(number, revision);
        true
    });
    tokio::select! {
        _ = following => {}
        () = oracle.closed() => {}
    }
    Lost
}

/// Every change from `from` to `upto`, as a watcher that begins now is told.
pub async fn history(channel: Channel, from: i64, upto: i64) -> BTreeMap<i64, Vec<Change>> {
    let mut told = BTreeMap::new();
    let following = follow(channel, "", from, |revision, changes| {
        assert!(told.insert(revision, changes).is_none(), "revision {revision} came twice");
        revision < upto
    });
    let done = tokio::time::timeout(PATIENCE, following).await;
    assert!(matches!(done, Ok(Ok(()))), "history ends early, after {:?}", told.last_key_value());
    told
}
