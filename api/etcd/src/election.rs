//! The Election service: a key for each candidate, named after its lease; the one that was created first leads, and its
//! value is what it proclaims.

use std::collections::VecDeque;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, stream};
use kelson_engine::EventKind;
use kelson_wire::pb::etcdserverpb::request_op::Request as Op;
use kelson_wire::pb::etcdserverpb::{DeleteRangeRequest, ResponseHeader, TxnRequest, TxnResponse};
use kelson_wire::pb::mvccpb::KeyValue;
use kelson_wire::pb::v3electionpb::election_server::Election;
use kelson_wire::pb::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse,
    ResignRequest, ResignResponse,
};
use tonic::{Request, Response, Status};

use crate::asker::{self, Asker, Changes, Otherwise, Services};
use crate::convert;

const NO_LEADER: &str = "election: no leader";
const NOT_LEADER: &str = "election: not leader";
const MISSING_LEADER: &str = "\"leader\" field must be provided";

#[derive(Clone)]
pub(crate) struct ElectionService {
    services: Services,
}

impl ElectionService {
    pub(crate) fn new(services: Services) -> Self {
        Self { services }
    }
}

/// The revision since which the candidate stands.
fn standing(entered: &TxnResponse) -> i64 {
    if entered.succeeded {
        entered.header.map_or(0, |header| header.revision)
    } else {
        asker::read_by(entered, 0).map_or(0, |own| own.create_revision)
    }
}

async fn campaign(asker: &Asker, request: CampaignRequest) -> Result<CampaignResponse, Status> {
    let lease = asker.session(request.lease).await?;
    let prefix = asker::prefix(&request.name);
    let key = asker::own_key(&prefix, lease);
    let enter = TxnRequest {
        compare: vec![asker::created_at(&key, 0)],
        success: vec![asker::put(&key, request.value.clone(), lease)],
        failure: vec![asker::get(&key)],
    };
    let candidate = LeaderKey { name: request.name, key, rev: 0, lease };
    let withdraw = {
        let (asker, candidate) = (asker.clone(), candidate.clone());
        async move |rev| {
            if let Err(status) = resign(&asker, LeaderKey { rev, ..candidate }).await {
                tracing::debug!("a candidacy stays until its lease ends: {status}");
            }
        }
    };
    let (entered, withdraw) = asker.txn_with(enter, |entered| Otherwise::run(withdraw(standing(entered)))).await?;
    let leader = LeaderKey { rev: standing(&entered), ..candidate };
    if !entered.succeeded {
        // It stands already; a new value takes the place of the old one.
        let own = asker::read_by(&entered, 0).cloned().unwrap_or_default();
        if own.value != request.value
            && let Err(status) = proclaim(asker, leader.clone(), request.value).await
        {
            withdraw.forget();
            let _ = resign(asker, leader).await;
            return Err(status);
        }
    }
    let elected = asker.wait_for_others(&prefix, leader.rev - 1).await;
    // A failure leaves the candidate standing, as etcd does: its session may come back. Giving up does not.
    withdraw.forget();
    elected?;
    Ok(CampaignResponse { header: entered.header, leader: Some(leader) })
}

async fn proclaim(asker: &Asker, leader: LeaderKey, value: Bytes) -> Result<Option<ResponseHeader>, Status> {
    let proclaimed = asker
        .txn(TxnRequest {
            compare: vec![asker::created_at(&leader.key, leader.rev)],
            success: vec![asker::put(&leader.key, value, leader.lease)],
            failure: Vec::new(),
        })
        .await?;
    if proclaimed.succeeded { Ok(proclaimed.header) } else { Err(Status::unknown(NOT_LEADER)) }
}

async fn resign(asker: &Asker, leader: LeaderKey) -> Result<Option<ResponseHeader>, Status> {
    let delete = DeleteRangeRequest { key: leader.key.clone(), ..Default::default() };
    let resigned = asker
        .txn(TxnRequest {
            compare: vec![asker::created_at(&leader.key, leader.rev)],
            success: vec![asker::op(Op::RequestDeleteRange(delete))],
            failure: Vec::new(),
        })
        .await?;
    Ok(resigned.header)
}

/// What leaders proclaim, one after the other.
struct Observation {
    asker: Asker,
    prefix: Bytes,
    /// The leader's key from the last told revision on; `None` while the next leader is to be found.
    leader: Option<Changes>,
    /// Heard, but not yet told; a bounded batch.
    heard: VecDeque<LeaderResponse>,
}

impl Observation {
    /// The next value. An error ends it, without a word to the client, as in etcd.
    async fn next(&mut self) -> Result<LeaderResponse, Status> {
        loop {
            if let Some(heard) = self.heard.pop_front() {
                return Ok(heard);
            }
            let Some(leader) = &mut self.leader else {
                let found = self.find().await?;
                let (key, from) = match (&found.kv, &found.header) {
                    (Some(kv), Some(header)) => (kv.key.clone(), header.revision + 1),
                    _ => return Ok(found),
                };
                self.leader = Some(self.asker.watch(key, from, false));
                return Ok(found);
            };
            let (events, revision) = leader.next().await?;
            let header = self.asker.services.context.header(revision);
            for event in events.iter() {
                if event.kind == EventKind::Delete {
                    self.leader = None;
                    break;
                }
                self.heard.push_back(LeaderResponse { header, kv: Some(convert::key_value(event.kv.clone())) });
            }
        }
    }

    /// The leader there is, or the first candidate to come.
    async fn find(&self) -> Result<LeaderResponse, Status> {
        let now = self.asker.first(&self.prefix).await?;
        let revision = now.header.map_or(0, |header| header.revision);
        if let Some(kv) = now.kvs.into_iter().next() {
            return Ok(LeaderResponse { header: now.header, kv: Some(kv) });
        }
        let mut candidates = self.asker.watch_prefix(&self.prefix, revision + 1);
        loop {
            let (events, _) = candidates.next().await?;
            if let Some(event) = events.iter().find(|event| event.kind == EventKind::Put) {
                let kv: KeyValue = convert::key_value(event.kv.clone());
                let header = self.asker.services.context.header(kv.mod_revision);
                return Ok(LeaderResponse { header, kv: Some(kv) });
            }
        }
    }
}

fn given(leader: Option<LeaderKey>) -> Result<LeaderKey, Status> {
    leader.ok_or_else(|| Status::unknown(MISSING_LEADER))
}

#[tonic::async_trait]
impl Election for ElectionService {
    async fn campaign(&self, request: Request<CampaignRequest>) -> Result<Response<CampaignResponse>, Status> {
        let (asker, request) = self.services.asker(request);
        campaign(&asker, request).await.map(Response::new)
    }

    async fn proclaim(&self, request: Request<ProclaimRequest>) -> Result<Response<ProclaimResponse>, Status> {
        let (asker, request) = self.services.asker(request);
        let leader = given(request.leader)?;
        let leader = LeaderKey { lease: asker.session(leader.lease).await?, ..leader };
        let header = proclaim(&asker, leader, request.value).await?;
        Ok(Response::new(ProclaimResponse { header }))
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        let (asker, request) = self.services.asker(request);
        let found = asker.first(&asker::prefix(&request.name)).await?;
        let Some(kv) = found.kvs.into_iter().next() else { return Err(Status::unknown(NO_LEADER)) };
        Ok(Response::new(LeaderResponse { header: found.header, kv: Some(kv) }))
    }

    type ObserveStream = Pin<Box<dyn Stream<Item = Result<LeaderResponse, Status>> + Send>>;

    async fn observe(&self, request: Request<LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        let (asker, request) = self.services.asker(request);
        let prefix = asker::prefix(&request.name);
        let observation = Observation { asker, prefix, leader: None, heard: VecDeque::new() };
        let told = stream::unfold(observation, |mut observation| async move {
            observation.next().await.ok().map(|told| (Ok(told), observation))
        });
        Ok(Response::new(Box::pin(told)))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        let (asker, request) = self.services.asker(request);
        let leader = given(request.leader)?;
        let leader = LeaderKey { lease: asker.session(leader.lease).await?, ..leader };
        let header = resign(&asker, leader).await?;
        Ok(Response::new(ResignResponse { header }))
    }
}
