//! etcd's Cluster service: who the members are, and who is to be one.

use std::sync::Arc;

use kelson_raft::Change;
use kelson_wire::pb::etcdserverpb::cluster_server::Cluster;
use kelson_wire::pb::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse,
};
use tonic::{Request, Response, Status};

use crate::auth::Caller;
use crate::context::Context;
use crate::refusal;

#[derive(Clone)]
pub(crate) struct ClusterService {
    context: Arc<Context>,
}

/// Whether these are addresses as etcd wants them: `http` or `https` (or a Unix socket's form of them), a host, a port and
/// nothing else.
fn are_peer_urls(urls: &[String]) -> bool {
    let is_one = |url: &String| {
        let Some((scheme, rest)) = url.trim().split_once("://") else { return false };
        match scheme {
            "http" | "https" => {
                let port = rest.rsplit_once(':').map(|(_, port)| port);
                !rest.contains('/') && port.is_some_and(|port| port.parse::<u16>().is_ok())
            }
            "unix" | "unixs" => !rest.is_empty(),
            _ => false,
        }
    };
    !urls.is_empty() && urls.iter().all(is_one)
}

impl ClusterService {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    fn members(&self) -> Vec<Member> {
        let member = |member: kelson_raft::Member| Member {
            id: member.id,
            name: member.name,
            peer_ur_ls: member.peer_urls,
            client_ur_ls: member.client_urls,
            is_learner: member.is_learner,
        };
        self.context.node.members().into_iter().map(member).collect()
    }

    /// Makes a change; the members after it.
    async fn change(&self, change: Change) -> Result<Vec<Member>, Status> {
        self.context.node.change_members(change).await.map_err(|error| refusal::of_raft(&error))?;
        Ok(self.members())
    }

    async fn do_list(&self, caller: &Caller, request: MemberListRequest) -> Result<MemberListResponse, Status> {
        self.context.known(caller).await?;
        if request.linearizable {
            self.context.node.read_barrier().await.map_err(|error| refusal::of_raft(&error))?;
        }
        // etcd tells no revision here.
        Ok(MemberListResponse { header: self.context.header(0), members: self.members() })
    }

    async fn do_add(&self, caller: &Caller, request: &MemberAddRequest) -> Result<MemberAddResponse, Status> {
        if !are_peer_urls(&request.peer_ur_ls) {
            return Err(Status::invalid_argument(refusal::BAD_MEMBER_URLS));
        }
        self.context.admin(caller).await?;
        let id = rand::random_range(1..=u64::MAX);
        let (peer_urls, learner) = (request.peer_ur_ls.clone(), request.is_learner);
        let members = self.change(Change::Add { id, peer_urls, learner }).await?;
        let member = members.iter().find(|member| member.id == id).cloned();
        Ok(MemberAddResponse { header: self.context.header(0), member, members })
    }

    async fn do_remove(&self, request: &MemberRemoveRequest) -> Result<MemberRemoveResponse, Status> {
        let members = self.change(Change::Remove { id: request.id }).await?;
        Ok(MemberRemoveResponse { header: self.context.header(0), members })
    }

    async fn do_update(&self, request: MemberUpdateRequest) -> Result<MemberUpdateResponse, Status> {
        let members = self.change(Change::Update { id: request.id, peer_urls: request.peer_ur_ls }).await?;
        Ok(MemberUpdateResponse { header: self.context.header(0), members })
    }

    async fn do_promote(&self, request: &MemberPromoteRequest) -> Result<MemberPromoteResponse, Status> {
        let members = self.change(Change::Promote { id: request.id }).await?;
        Ok(MemberPromoteResponse { header: self.context.header(0), members })
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_list(&self, request: Request<MemberListRequest>) -> Result<Response<MemberListResponse>, Status> {
        self.do_list(&Caller::of(&request), request.into_inner()).await.map(Response::new)
    }

    async fn member_add(&self, request: Request<MemberAddRequest>) -> Result<Response<MemberAddResponse>, Status> {
        self.do_add(&Caller::of(&request), request.get_ref()).await.map(Response::new)
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        self.context.admin(&Caller::of(&request)).await?;
        self.do_remove(request.get_ref()).await.map(Response::new)
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        self.context.admin(&Caller::of(&request)).await?;
        self.do_update(request.into_inner()).await.map(Response::new)
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        self.context.admin(&Caller::of(&request)).await?;
        self.do_promote(request.get_ref()).await.map(Response::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_peers_have_a_scheme_a_host_and_a_port() {
        let are = |urls: &[&str]| are_peer_urls(&urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>());
        assert!(are(&["http://127.0.0.1:2380"]) && are(&["https://[::1]:2380", "unix://x"]));
        for wrong in [&[][..], &["foo"], &["http://a"], &["ftp://a:1"], &["http://a:1/path"], &["http://a:1", "b"]] {
            assert!(!are(wrong), "{wrong:?}");
        }
    }
}
