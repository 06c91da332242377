//! The client that tells a story's lines to a server.

use std::collections::HashMap;
use std::time::Duration;

use kelson_wire::pb::etcdserverpb::kv_client::KvClient;
use kelson_wire::pb::etcdserverpb::lease_client::LeaseClient;
use kelson_wire::pb::etcdserverpb::watch_client::WatchClient;
use kelson_wire::pb::etcdserverpb::watch_request::RequestUnion;
use kelson_wire::pb::etcdserverpb::{
    CompactionRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, RangeRequest, RangeResponse, WatchCancelRequest, WatchProgressRequest, WatchRequest,
    WatchResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use super::parse::{self, Words};
use super::render;
use crate::harness::within;

/// What a watch is given to say what the story expects of it.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Client {
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
    watch: WatchClient<Channel>,
    streams: HashMap<String, WatchStream>,
}

struct WatchStream {
    requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
    /// Said, but not yet asked for.
    said: Vec<(i64, String)>,
}

impl Client {
    pub async fn connect(url: &str) -> Self {
        let channel = Endpoint::from_shared(url.to_owned()).unwrap().connect_lazy();
        Self {
            kv: KvClient::new(channel.clone()),
            lease: LeaseClient::new(channel.clone()),
            watch: WatchClient::new(channel),
            streams: HashMap::new(),
        }
    }

    /// Makes a line's request and returns what came back.
    pub async fn say(&mut self, line: &str) -> Vec<String> {
        let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
        let answer = match words[0] {
            "watch" => return self.watch(&words[1..]).await,
            "txn" => self.kv.txn(parse::txn(&words[1..])).await.map(|answer| render::txn(answer.get_ref())),
            "ops" => self.kv.txn(many(words[1].parse().unwrap())).await.map(|answer| render::txn(answer.get_ref())),
            _ => self.plain(words[0], Words::new(words[1..].to_vec())).await,
        };
        answer.unwrap_or_else(|status| render::failure(&status))
    }

    async fn plain(&mut self, name: &str, words: Words<'_>) -> Result<Vec<String>, Status> {
        let number = |at: usize| -> i64 { String::from_utf8_lossy(&words.plain(at)).parse().unwrap() };
        Ok(match name {
            "range" => render::range(self.kv.range(parse::range(&words)).await?.get_ref()),
            "stream" => render::range(&self.stream(parse::range(&words)).await?),
            "put" => render::put(self.kv.put(parse::put(&words)).await?.get_ref()),
            "delete" => render::delete(self.kv.delete_range(parse::delete(&words)).await?.get_ref()),
            "compact" => {
                let request = CompactionRequest { revision: number(0), physical: words.has("physical") };
                vec![render::revision(&self.kv.compact(request).await?.get_ref().header)]
            }
            "grant" => {
                let answer = self.lease.lease_grant(LeaseGrantRequest { id: number(0), ttl: number(1) }).await?;
                let answer = answer.get_ref();
                let id = if number(0) == 0 { u64::from(answer.id > 0).to_string() } else { answer.id.to_string() };
                vec![format!("{} id={id} ttl={}", render::revision(&answer.header), answer.ttl)]
            }
            "revoke" => {
                let answer = self.lease.lease_revoke(LeaseRevokeRequest { id: number(0) }).await?;
                vec![render::revision(&answer.get_ref().header)]
            }
            "keepalive" => {
                let requests = tokio_stream::once(LeaseKeepAliveRequest { id: number(0) });
                let mut answers = self.lease.lease_keep_alive(requests).await?.into_inner();
                let answer = within("a renewal", answers.message()).await?.expect("an answer");
                vec![format!("{} id={} ttl={}", render::revision(&answer.header), answer.id, answer.ttl)]
            }
            "ttl" => {
                let request = LeaseTimeToLiveRequest { id: number(0), keys: words.has("keys") };
                let answer = self.lease.lease_time_to_live(request).await?.into_inner();
                let left = match answer.ttl {
                    -1 => "none".to_owned(),
                    left if (0..=answer.granted_ttl).contains(&left) => "some".to_owned(),
                    other => format!("{other}"),
                };
                let keys: Vec<_> = answer.keys.iter().map(|key| String::from_utf8_lossy(key)).collect();
                let header = render::revision(&answer.header);
                vec![format!("{header} id={} left={left} granted={} {}", answer.id, answer.granted_ttl, keys.join(","))]
            }
            "leases" => {
                let answer = self.lease.lease_leases(LeaseLeasesRequest {}).await?.into_inner();
                let mut ids: Vec<_> = answer.leases.iter().map(|lease| lease.id).collect();
                ids.sort_unstable();
                vec![format!("{} {ids:?}", render::revision(&answer.header))]
            }
            other => panic!("no request {other:?}"),
        })
    }

    /// All chunks of a range stream as one answer.
    async fn stream(&mut self, request: RangeRequest) -> Result<RangeResponse, Status> {
        let mut chunks = self.kv.range_stream(request).await?.into_inner();
        let mut all = RangeResponse::default();
        while let Some(chunk) = within("a chunk", chunks.message()).await? {
            let chunk = chunk.range_response.expect("a chunk's content");
            assert!(all.header.is_none(), "the header comes last");
            all.kvs.extend(chunk.kvs);
            all.header = chunk.header;
            all.more = chunk.more;
            all.count = chunk.count;
        }
        Ok(all)
    }

    async fn watch(&mut self, words: &[&str]) -> Vec<String> {
        let [name, what, rest @ ..] = words else { panic!("watch what? {words:?}") };
        let send = match *what {
            "create" => RequestUnion::CreateRequest(parse::create(&Words::new(rest.to_vec()))),
            "cancel" => RequestUnion::CancelRequest(WatchCancelRequest { watch_id: rest[0].parse().unwrap() }),
            "progress" => return self.streams.get_mut(*name).expect("an open stream").progress().await,
            "read" => return self.streams.get_mut(*name).expect("an open stream").read(rest[0].parse().unwrap()).await,
            other => panic!("watch {other:?}?"),
        };
        let request = WatchRequest { request_union: Some(send) };
        if let Some(stream) = self.streams.get_mut(*name) {
            stream.requests.send(request).await.unwrap();
        } else {
            let (requests, receiver) = mpsc::channel(64);
            // A real etcd answers the opening of the stream only together with the first request.
            requests.try_send(request).unwrap();
            let answers =
                within("a stream", self.watch.watch(ReceiverStream::new(receiver))).await.unwrap().into_inner();
            self.streams.insert((*name).to_owned(), WatchStream { requests, answers, said: Vec::new() });
        }
        Vec::new()
    }
}

impl WatchStream {
    async fn next(&mut self) -> Vec<(i64, String)> {
        let answer = within("an answer of a watch", self.answers.message()).await.unwrap();
        render::watch(&answer.expect("the stream goes on"))
    }

    /// Waits for so many things to be said, in the order of the watches that they are about: between watches there is
    /// none on the wire.
    async fn read(&mut self, count: usize) -> Vec<String> {
        while self.said.len() < count {
            // Where a story expects too much, it is the story that shows it.
            let Ok(more) = tokio::time::timeout(PATIENCE, self.next()).await else {
                let mut said: Vec<_> = self.said.drain(..).map(|(_, line)| line).collect();
                said.push("nothing more came".to_owned());
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
    async fn progress(&mut self) -> Vec<String> {
        let repeat = Duration::from_millis(300);
        within("progress", async {
            loop {
                let request = RequestUnion::ProgressRequest(WatchProgressRequest {});
                self.requests.send(WatchRequest { request_union: Some(request) }).await.unwrap();
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
}

/// A transaction that puts so many keys.
fn many(count: usize) -> kelson_wire::pb::etcdserverpb::TxnRequest {
    let words: Vec<String> = (0..count).map(|i| format!("put k{i} v")).collect();
    let line = format!("then [ {} ]", words.join(" ; "));
    parse::txn(&line.split(' ').collect::<Vec<_>>())
}
