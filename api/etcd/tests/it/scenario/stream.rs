//! A watch stream as a story's client sees it: what was said, by which watches, and which of them are open.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use kelson_wire::pb::etcdserverpb::kv_client::KvClient;
use kelson_wire::pb::etcdserverpb::watch_client::WatchClient;
use kelson_wire::pb::etcdserverpb::watch_request::RequestUnion;
use kelson_wire::pb::etcdserverpb::{
    DeleteRangeRequest, PutRequest, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest,
    WatchResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::parse;
use super::render;
use super::users::Wire;
use crate::harness::within;

/// What a watch is given to say what the story expects of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The value that a settling put writes.
pub const MARK: &str = "mark";

/// Stands for what a story expected and did not hear.
const SILENCE: &str = "nothing more came";

pub struct WatchStream {
    requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
    /// Said, but not yet asked for.
    said: Vec<(i64, String)>,
    /// Asked for and not yet answered, in that order.
    asked: VecDeque<WatchCreateRequest>,
    open: BTreeMap<i64, WatchCreateRequest>,
    /// Those that the story has not been told the end of.
    listed: BTreeMap<i64, WatchCreateRequest>,
    /// Ended because their start was compacted; their ids are not free.
    compacted: BTreeSet<i64>,
    /// The revision of the last event that each watch told.
    heard: BTreeMap<i64, i64>,
}

impl WatchStream {
    /// A real etcd answers the opening of the stream only together with the first request.
    pub async fn open(client: &mut WatchClient<Wire>, first: WatchRequest) -> Self {
        let (requests, receiver) = mpsc::channel(64);
        let mut asked = VecDeque::new();
        if let Some(RequestUnion::CreateRequest(create)) = &first.request_union {
            asked.push_back(create.clone());
        }
        requests.try_send(first).unwrap();
        let answers = within("a stream", client.watch(ReceiverStream::new(receiver))).await.unwrap().into_inner();
        Self {
            requests,
            answers,
            said: Vec::new(),
            asked,
            open: BTreeMap::new(),
            listed: BTreeMap::new(),
            compacted: BTreeSet::new(),
            heard: BTreeMap::new(),
        }
    }

    pub async fn send(&mut self, request: WatchRequest) {
        if let Some(RequestUnion::CreateRequest(create)) = &request.request_union {
            self.asked.push_back(create.clone());
        }
        self.requests.send(request).await.unwrap();
    }

    /// Takes in the next answer.
    async fn next(&mut self) -> Vec<(i64, String)> {
        let answer = within("an answer of a watch", self.answers.message()).await.unwrap();
        let answer = answer.expect("the stream goes on");
        if answer.created {
            let asked = self.asked.pop_front().expect("a watch is announced once");
            if !answer.canceled {
                self.open.insert(answer.watch_id, asked.clone());
                self.listed.insert(answer.watch_id, asked);
                self.heard.remove(&answer.watch_id);
            }
        } else if answer.canceled {
            self.open.remove(&answer.watch_id);
            if answer.compact_revision != 0 {
                self.compacted.insert(answer.watch_id);
            } else {
                self.compacted.remove(&answer.watch_id);
                self.listed.remove(&answer.watch_id);
            }
        }
        if let Some(last) = answer.events.last() {
            self.heard.insert(answer.watch_id, last.kv.as_ref().unwrap().mod_revision);
        }
        render::watch(&answer)
    }

    /// Takes answers in until it is as wanted; `false` where that does not come.
    async fn hear_until(&mut self, done: impl Fn(&Self) -> bool) -> bool {
        while !done(self) {
            let Ok(more) = tokio::time::timeout(PATIENCE, self.next()).await else { return false };
            self.said.extend(more);
        }
        true
    }

    /// Waits for the answer to the last creation, and returns that alone.
    pub async fn created(&mut self) -> Vec<String> {
        if !self.hear_until(|stream| stream.asked.is_empty()).await {
            return vec![SILENCE.to_owned()];
        }
        let at = self.said.iter().rposition(|(_, line)| line.contains(" created")).expect("it was said");
        vec![self.said.remove(at).1]
    }

    /// Cancels a watch and waits for the answer, which comes only if it is open.
    pub async fn cancel(&mut self, id: i64) -> Vec<String> {
        let known = self.open.contains_key(&id) || self.compacted.contains(&id);
        self.send(cancel(id)).await;
        if !known {
            return Vec::new();
        }
        if !self.hear_until(|stream| !stream.open.contains_key(&id) && !stream.compacted.contains(&id)).await {
            return vec![SILENCE.to_owned()];
        }
        let at = self.said.iter().rposition(|(_, line)| line.contains(": canceled")).expect("it was said");
        vec![self.said.remove(at).1]
    }

    /// Waits for so many things to be said, in the order of the watches that they are about: between watches there is
    /// none on the wire.
    pub async fn read(&mut self, count: usize) -> Vec<String> {
        while self.said.len() < count {
            // Where a story expects too much, it is the story that shows it.
            let Ok(more) = tokio::time::timeout(PATIENCE, self.next()).await else {
                let mut said: Vec<_> = self.said.drain(..).map(|(_, line)| line).collect();
                said.push(SILENCE.to_owned());
                return said;
            };
            // Answers to requests for progress that were repeated.
            self.said.extend(more.into_iter().filter(|(id, line)| *id >= 0 || !line.contains("progress")));
        }
        let mut said: Vec<_> = self.said.drain(..count).collect();
        said.sort_by_key(|(id, _)| *id);
        said.into_iter().map(|(_, line)| line).collect()
    }

    /// etcd drops a request for progress while a watch catches up, so it is repeated until there is an answer.
    pub async fn progress(&mut self) -> Vec<String> {
        let repeat = Duration::from_millis(300);
        within("progress", async {
            loop {
                let request = RequestUnion::ProgressRequest(WatchProgressRequest {});
                self.send(WatchRequest { request_union: Some(request) }).await;
                while let Ok(more) = tokio::time::timeout(repeat, self.next()).await {
                    for (id, line) in more {
                        if id == -1 && line.contains("progress") {
                            return vec![line];
                        }
                        self.said.push((id, line));
                    }
                }
            }
        })
        .await
    }

    /// Watches that the story has not been told the end of.
    pub fn listed(&self) -> impl Iterator<Item = &WatchCreateRequest> {
        self.listed.values()
    }

    /// All that is said until each watch has told of the marks that it tells of.
    pub async fn hear_of(&mut self, marks: &[Mark]) -> Vec<String> {
        let mut told = BTreeMap::new();
        for (id, create) in &self.listed {
            let tells = marks
                .iter()
                .rev()
                .find(|mark| mark.revision >= create.start_revision && parse::tells(create, &mark.key, mark.deleted));
            told.extend(tells.map(|mark| (*id, mark.revision)));
        }
        let settled = |stream: &Self| {
            told.iter().all(|(id, revision)| {
                !stream.open.contains_key(id) || stream.heard.get(id).is_some_and(|heard| heard >= revision)
            })
        };
        let complete = self.hear_until(settled).await;
        self.listed = self.open.clone();
        let mut said = std::mem::take(&mut self.said);
        said.sort_by_key(|(id, _)| *id);
        let mut said: Vec<_> = said.into_iter().map(|(_, line)| line).collect();
        if !complete {
            said.push(SILENCE.to_owned());
        }
        said
    }
}

/// A change that was made to be told of.
pub struct Mark {
    key: Bytes,
    revision: i64,
    deleted: bool,
}

/// Writes and deletes the first key of each watch, until each has begun that is to begin.
pub async fn mark(kv: &mut KvClient<Wire>, keys: BTreeMap<Bytes, i64>) -> Vec<Mark> {
    let mut marks = Vec::new();
    for (key, start) in keys {
        loop {
            let put = PutRequest { key: key.clone(), value: MARK.into(), ..Default::default() };
            let put = kv.put(put).await.unwrap().into_inner().header.unwrap().revision;
            let delete = DeleteRangeRequest { key: key.clone(), ..Default::default() };
            let delete = kv.delete_range(delete).await.unwrap().into_inner().header.unwrap().revision;
            marks.push(Mark { key: key.clone(), revision: put, deleted: false });
            marks.push(Mark { key: key.clone(), revision: delete, deleted: true });
            if put >= start {
                break;
            }
        }
    }
    marks
}

/// The first keys of watches, and from which revision on all watches that begin with one tell of it.
pub fn first_keys<'a>(open: impl Iterator<Item = &'a WatchCreateRequest>) -> BTreeMap<Bytes, i64> {
    let mut keys = BTreeMap::new();
    for create in open {
        let start = keys.entry(parse::first_key(create)).or_insert(0);
        *start = create.start_revision.max(*start);
    }
    keys
}

fn cancel(watch_id: i64) -> WatchRequest {
    WatchRequest { request_union: Some(RequestUnion::CancelRequest(WatchCancelRequest { watch_id })) }
}
