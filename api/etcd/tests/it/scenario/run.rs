//! The client that tells a story's lines to a server.

use std::collections::BTreeMap;

use kelson_wire::pb::etcdserverpb::alarm_request::AlarmAction;
use kelson_wire::pb::etcdserverpb::cluster_client::ClusterClient;
use kelson_wire::pb::etcdserverpb::kv_client::KvClient;
use kelson_wire::pb::etcdserverpb::lease_client::LeaseClient;
use kelson_wire::pb::etcdserverpb::maintenance_client::MaintenanceClient;
use kelson_wire::pb::etcdserverpb::watch_client::WatchClient;
use kelson_wire::pb::etcdserverpb::watch_request::RequestUnion;
use kelson_wire::pb::etcdserverpb::{
    AlarmRequest, CompactionRequest, DefragmentRequest, DowngradeRequest, HashKvRequest, HashRequest,
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest,
    MoveLeaderRequest, RangeRequest, RangeResponse, SnapshotRequest, StatusRequest, WatchCancelRequest, WatchRequest,
};
use kelson_wire::pb::health::HealthCheckRequest;
use kelson_wire::pb::health::health_client::HealthClient;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use super::parse::{self, Words};
use super::render;
use super::stream::{self, WatchStream};
use super::users::{Token, Users, Wire};
use crate::harness::within;

pub struct Client {
    kv: KvClient<Wire>,
    lease: LeaseClient<Wire>,
    watch: WatchClient<Wire>,
    cluster: ClusterClient<Wire>,
    maintenance: MaintenanceClient<Wire>,
    health: HealthClient<Wire>,
    users: Users,
    streams: BTreeMap<String, WatchStream>,
}

impl Client {
    pub async fn connect(url: &str) -> Self {
        let channel = Endpoint::from_shared(url.to_owned()).unwrap().connect_lazy();
        let token = Token::default();
        Self {
            kv: KvClient::with_interceptor(channel.clone(), token.clone()),
            lease: LeaseClient::with_interceptor(channel.clone(), token.clone()),
            watch: WatchClient::with_interceptor(channel.clone(), token.clone()),
            cluster: ClusterClient::with_interceptor(channel.clone(), token.clone()),
            maintenance: MaintenanceClient::with_interceptor(channel.clone(), token.clone()),
            health: HealthClient::with_interceptor(channel.clone(), token.clone()),
            users: Users::new(channel, token),
            streams: BTreeMap::new(),
        }
    }

    /// Makes a line's request and returns what came back.
    pub async fn say(&mut self, line: &str) -> Vec<String> {
        let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
        let answer = match words[0] {
            "watch" => return self.watch(&words[1..]).await,
            "settle" => return self.settle().await,
            "txn" => self.kv.txn(parse::txn(&words[1..])).await.map(|answer| render::txn(answer.get_ref())),
            "ops" => self.kv.txn(many(words[1].parse().unwrap())).await.map(|answer| render::txn(answer.get_ref())),
            "as" | "login" | "auth" | "user" | "role" => self.users.say(&words).await,
            "may" => self.may(words[1]).await,
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
                let mut answer = answer;
                // etcd gives them in any order.
                answer.keys.sort_unstable();
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
            "status" => render::status(self.maintenance.status(StatusRequest {}).await?.get_ref()),
            "members" => {
                let request = MemberListRequest { linearizable: words.has("linearizable") };
                render::members(self.cluster.member_list(request).await?.get_ref())
            }
            "health" => {
                let service = String::from_utf8(words.plain(0).to_vec()).unwrap();
                let answer = self.health.check(HealthCheckRequest { service }).await?;
                vec![answer.get_ref().status().as_str_name().to_owned()]
            }
            other => panic!("no request {other:?}"),
        })
    }

    /// Whether auth lets a request pass; what the request then does is not told.
    async fn may(&mut self, what: &str) -> Result<Vec<String>, Status> {
        let (maintenance, cluster) = (&mut self.maintenance, &mut self.cluster);
        let answer = match what {
            "defragment" => maintenance.defragment(DefragmentRequest {}).await.map(drop),
            "hash" => maintenance.hash(HashRequest {}).await.map(drop),
            "hashkv" => maintenance.hash_kv(HashKvRequest { revision: 0 }).await.map(drop),
            "status" => maintenance.status(StatusRequest {}).await.map(drop),
            "snapshot" => match maintenance.snapshot(SnapshotRequest {}).await {
                Ok(parts) => parts.into_inner().message().await.map(drop),
                Err(status) => Err(status),
            },
            "moveleader" => maintenance.move_leader(MoveLeaderRequest { target_id: 1 }).await.map(drop),
            "downgrade" => maintenance.downgrade(DowngradeRequest::default()).await.map(drop),
            "alarms" => maintenance.alarm(AlarmRequest::default()).await.map(drop),
            "disarm" => {
                let action = AlarmAction::Deactivate.into();
                maintenance.alarm(AlarmRequest { action, ..Default::default() }).await.map(drop)
            }
            "members" => cluster.member_list(MemberListRequest { linearizable: true }).await.map(drop),
            "memberadd" => {
                let request = MemberAddRequest { peer_ur_ls: vec!["http://127.0.0.1:1".into()], is_learner: true };
                cluster.member_add(request).await.map(drop)
            }
            "memberremove" => cluster.member_remove(MemberRemoveRequest { id: 1 }).await.map(drop),
            "memberupdate" => {
                let request = MemberUpdateRequest { id: 1, peer_ur_ls: vec!["http://127.0.0.1:1".into()] };
                cluster.member_update(request).await.map(drop)
            }
            "memberpromote" => cluster.member_promote(MemberPromoteRequest { id: 1 }).await.map(drop),
            other => panic!("may {other:?}?"),
        };
        match answer {
            Err(status)
                if matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated)
                    || status.message().contains("user name") =>
            {
                Err(status)
            }
            _ => Ok(vec!["yes".to_owned()]),
        }
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

    /// Settles all streams with the same marks; what each said, after its name.
    async fn settle(&mut self) -> Vec<String> {
        let keys = stream::first_keys(self.streams.values().flat_map(WatchStream::listed));
        let marks = stream::mark(&mut self.kv, keys).await;
        let mut said = Vec::new();
        for (name, stream) in &mut self.streams {
            said.extend(stream.hear_of(&marks).await.into_iter().map(|line| format!("{name} {line}")));
        }
        said
    }

    async fn watch(&mut self, words: &[&str]) -> Vec<String> {
        let [name, what, rest @ ..] = words else { panic!("watch what? {words:?}") };
        let Some(stream) = self.streams.get_mut(*name) else {
            assert_eq!(*what, "create", "a stream begins with a watch");
            let stream = WatchStream::open(&mut self.watch, create(rest)).await;
            let stream = self.streams.entry((*name).to_owned()).or_insert(stream);
            return if rest.contains(&"wait") { stream.created().await } else { Vec::new() };
        };
        let id = || rest[0].parse().unwrap();
        match *what {
            "create" => {
                stream.send(create(rest)).await;
                if rest.contains(&"wait") { stream.created().await } else { Vec::new() }
            }
            "cancel" if rest.contains(&"wait") => stream.cancel(id()).await,
            "cancel" => {
                let request = RequestUnion::CancelRequest(WatchCancelRequest { watch_id: id() });
                stream.send(WatchRequest { request_union: Some(request) }).await;
                Vec::new()
            }
            "progress" => stream.progress().await,
            "read" => stream.read(rest[0].parse().unwrap()).await,
            "settle" => {
                let marks = stream::mark(&mut self.kv, stream::first_keys(stream.listed())).await;
                stream.hear_of(&marks).await
            }
            other => panic!("watch {other:?}?"),
        }
    }
}

fn create(words: &[&str]) -> WatchRequest {
    let create = parse::create(&Words::new(words.to_vec()));
    WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

/// A transaction that puts so many keys.
fn many(count: usize) -> kelson_wire::pb::etcdserverpb::TxnRequest {
    let words: Vec<String> = (0..count).map(|i| format!("put k{i} v")).collect();
    let line = format!("then [ {} ]", words.join(" ; "));
    parse::txn(&line.split(' ').collect::<Vec<_>>())
}
