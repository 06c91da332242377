//! etcd's Lease service.

mod renewals;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use futures_util::stream;
use kelson_engine::Error as EngineError;
use kelson_engine::Reader;
use kelson_engine::auth::{Asker, Auth, Refusal};
use kelson_engine::command::{Command, KeyRange, Outcome};
use kelson_raft::{Error, Node};
use kelson_wire::pb::etcdserverpb::lease_server::Lease;
use kelson_wire::pb::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
};
use renewals::Renewals;
use tonic::body::Body;
use tonic::{Request, Response, Status, Streaming};

use crate::auth::Caller;
use crate::body::OwnBody;
use crate::context::Context;
use crate::kv::mismatch;
use crate::{quota, refusal};

/// Shortest lease that is granted, in seconds, with the default election timeout: one and a half of them, so that a
/// change of leader does not end it.
pub(crate) const MIN_TTL: i64 = 2;

/// How often another random id is drawn because the first was taken.
const DRAWS: usize = 8;

/// A lease as granted: the store's revision, its id, its time to live in seconds.
pub(crate) struct Granted {
    pub(crate) revision: i64,
    pub(crate) id: i64,
    pub(crate) ttl: i64,
}

/// Grants a lease of at least `shortest` seconds; an id of 0 means any.
pub(crate) async fn grant(node: &Node, id: i64, ttl: i64, shortest: i64) -> Result<Granted, Error> {
    let ttl = ttl.max(shortest);
    let mut draws = 0;
    loop {
        draws += 1;
        let chosen = if id == 0 { rand::random_range(1..=i64::MAX) } else { id };
        match node.propose(Command::LeaseGrant { id: chosen, ttl }).await {
            Ok(Outcome::LeaseGrant { revision, id, ttl }) => return Ok(Granted { revision, id, ttl }),
            Ok(other) => return Err(Error::Storage(format!("a grant was answered with {other:?}"))),
            Err(Error::Engine(EngineError::LeaseExists)) if id == 0 && draws < DRAWS => {}
            Err(error) => return Err(error),
        }
    }
}

#[derive(Clone)]
pub(crate) struct LeaseService {
    context: Arc<Context>,
}

impl LeaseService {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    async fn do_grant(&self, caller: &Caller, request: LeaseGrantRequest) -> Result<LeaseGrantResponse, Status> {
        self.context.quota.check(&self.context.node, quota::LEASE).await?;
        self.context.known(caller).await?;
        let granted = grant(&self.context.node, request.id, request.ttl, self.context.options.min_lease_ttl).await;
        let granted = granted.map_err(|error| refusal::of_raft(&error))?;
        let counters = self.context.metrics.counters();
        counters.leases_granted.fetch_add(1, Relaxed);
        counters.lease_ttls.record(granted.ttl as f64);
        let header = self.context.header(granted.revision);
        Ok(LeaseGrantResponse { header, id: granted.id, ttl: granted.ttl, error: String::new() })
    }

    async fn do_revoke(&self, caller: &Caller, request: LeaseRevokeRequest) -> Result<LeaseRevokeResponse, Status> {
        match self.context.ask(caller, Command::LeaseRevoke { id: request.id }).await? {
            Outcome::LeaseRevoke { revision } => {
                self.context.metrics.counters().leases_revoked.fetch_add(1, Relaxed);
                Ok(LeaseRevokeResponse { header: self.context.header(revision) })
            }
            other => Err(mismatch(&other)),
        }
    }

    /// The keys of a lease are told only to whom may read them all.
    async fn do_time_to_live(
        &self,
        caller: &Caller,
        request: LeaseTimeToLiveRequest,
    ) -> Result<LeaseTimeToLiveResponse, Status> {
        self.context.known(caller).await?;
        let node = &self.context.node;
        node.read_barrier().await.map_err(|error| refusal::of_raft(&error))?;
        let id = request.id;
        // The leader counts the deadlines.
        let remaining = node.lease_remaining(id).await.map_err(|error| refusal::of_raft(&error))?;
        let header = self.context.current_header();
        let lease = node.reader().lease(id);
        if request.keys {
            let check = |auth: &Auth, asker: &Asker| check_lease(node.reader(), auth, asker, id, Auth::check_read);
            let permit = self.context.permit_known(caller, check).await?;
            self.context.still(permit)?;
        }
        Ok(match (lease, remaining) {
            (Some(lease), Some(ttl)) => LeaseTimeToLiveResponse {
                header,
                id,
                ttl,
                granted_ttl: lease.ttl,
                keys: if request.keys { lease.keys } else { Vec::new() },
            },
            _ => LeaseTimeToLiveResponse { header, id, ttl: -1, granted_ttl: 0, keys: Vec::new() },
        })
    }

    async fn do_leases(&self, caller: &Caller) -> Result<LeaseLeasesResponse, Status> {
        self.context.node.read_barrier().await.map_err(|error| refusal::of_raft(&error))?;
        let reader = self.context.node.reader();
        let check = |auth: &Auth, asker: &Asker| match auth.check_admin(asker) {
            Ok(()) => Ok(()),
            // As in etcd: who may not read every key on every lease is told of none.
            Err(_) => {
                reader.leases().try_for_each(|lease| check_lease(reader, auth, asker, lease.id, Auth::check_read))
            }
        };
        self.context.permit_known(caller, check).await?;
        let leases = reader.leases();
        Ok(LeaseLeasesResponse {
            header: self.context.current_header(),
            leases: leases.map(|lease| LeaseStatus { id: lease.id }).collect(),
        })
    }

    /// Only who may write every key of a lease keeps it alive.
    pub(crate) async fn check_renew(&self, caller: &Caller, id: i64) -> Result<(), Status> {
        let reader = self.context.node.reader();
        let check = |auth: &Auth, asker: &Asker| check_lease(reader, auth, asker, id, Auth::check_write);
        self.context.permit_known(caller, check).await.map(drop)
    }

    async fn keep_alive(
        &self,
        caller: &Caller,
        request: &LeaseKeepAliveRequest,
    ) -> Result<LeaseKeepAliveResponse, Status> {
        self.check_renew(caller, request.id).await?;
        // The header is taken first: a lease that ends at a revision must not be seen renewed at a later one.
        let header = self.context.current_header();
        let renewed = self.context.node.lease_renew(request.id).await.map_err(|error| refusal::of_raft(&error))?;
        self.context.metrics.counters().leases_renewed.fetch_add(renewed.is_some().into(), Relaxed);
        Ok(LeaseKeepAliveResponse { header, id: request.id, ttl: renewed.unwrap_or(0) })
    }
}

/// Whether a lease's keys may all be read, or written. Root may, and a lease that does not exist is nobody's.
fn check_lease(
    reader: &Reader,
    auth: &Auth,
    asker: &Asker,
    id: i64,
    may: impl Fn(&Auth, &Asker, &KeyRange) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    if auth.check_admin(asker).is_ok() {
        return Ok(());
    }
    let keys = reader.lease(id).map(|lease| lease.keys).unwrap_or_default();
    keys.into_iter().try_for_each(|key| may(auth, asker, &KeyRange { start: key, end: Default::default() }))
}

#[tonic::async_trait]
impl Lease for LeaseService {
    async fn lease_grant(&self, request: Request<LeaseGrantRequest>) -> Result<Response<LeaseGrantResponse>, Status> {
        self.context.require_leader(request.metadata())?;
        self.do_grant(&Caller::of(&request), request.into_inner()).await.map(Response::new)
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        self.context.require_leader(request.metadata())?;
        self.do_revoke(&Caller::of(&request), request.into_inner()).await.map(Response::new)
    }

    /// The answers are the body of [`Renewals`].
    type LeaseKeepAliveStream = stream::Empty<Result<LeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let lost = self.context.leader_lost(request.metadata())?;
        let renewals = Renewals::new(self.clone(), Caller::of(&request), request.into_inner(), lost);
        let mut response = Response::new(stream::empty());
        OwnBody::attach(&mut response, Body::new(renewals));
        Ok(response)
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        self.context.require_leader(request.metadata())?;
        self.do_time_to_live(&Caller::of(&request), request.into_inner()).await.map(Response::new)
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        self.context.require_leader(request.metadata())?;
        self.do_leases(&Caller::of(&request)).await.map(Response::new)
    }
}
