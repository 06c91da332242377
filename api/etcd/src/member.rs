//! etcd's Cluster service. The membership can be read; it cannot be changed yet.

use std::sync::Arc;

use kelson_wire::pb::etcdserverpb::cluster_server::Cluster;
use kelson_wire::pb::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse,
};
use tonic::{Request, Response, Status};

use crate::context::Context;
use crate::metrics::Method;
use crate::refusal;

#[derive(Clone)]
pub(crate) struct ClusterService {
    context: Arc<Context>,
}

impl ClusterService {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    async fn do_list(&self, request: MemberListRequest) -> Result<MemberListResponse, Status> {
        let node = &self.context.node;
        if request.linearizable {
            node.read_barrier().await.map_err(|error| refusal::of_raft(&error))?;
        }
        let member = |member: kelson_raft::Member| Member {
            id: member.id,
            name: member.name,
            peer_ur_ls: member.peer_urls,
            client_ur_ls: member.client_urls,
            is_learner: member.is_learner,
        };
        // etcd tells no revision here.
        Ok(MemberListResponse {
            header: self.context.header(0),
            members: node.members().into_iter().map(member).collect(),
        })
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_list(&self, request: Request<MemberListRequest>) -> Result<Response<MemberListResponse>, Status> {
        self.context.metrics.unary(Method::MemberList, self.do_list(request.into_inner())).await
    }

    async fn member_add(&self, _: Request<MemberAddRequest>) -> Result<Response<MemberAddResponse>, Status> {
        Err(refusal::absent("adding members"))
    }

    async fn member_remove(&self, _: Request<MemberRemoveRequest>) -> Result<Response<MemberRemoveResponse>, Status> {
        Err(refusal::absent("removing members"))
    }

    async fn member_update(&self, _: Request<MemberUpdateRequest>) -> Result<Response<MemberUpdateResponse>, Status> {
        Err(refusal::absent("updating members"))
    }

    async fn member_promote(
        &self,
        _: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        Err(refusal::absent("promoting members"))
    }
}
