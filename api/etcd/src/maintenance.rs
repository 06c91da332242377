//! etcd's Maintenance service: the member's state. What would change it is not there yet, and says so.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use kelson_wire::pb::etcdserverpb::alarm_request::AlarmAction;
use kelson_wire::pb::etcdserverpb::maintenance_server::Maintenance;
use kelson_wire::pb::etcdserverpb::{
    AlarmRequest, AlarmResponse, DefragmentRequest, DefragmentResponse, DowngradeInfo, DowngradeRequest,
    DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse, MoveLeaderRequest, MoveLeaderResponse,
    SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse,
};
use tonic::{Request, Response, Status};

use crate::context::{CLUSTER_VERSION, Context, ETCD_VERSION};
use crate::metrics::Method;
use crate::refusal;

#[derive(Clone)]
pub(crate) struct MaintenanceService {
    context: Arc<Context>,
}

impl MaintenanceService {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    async fn do_status(&self) -> Result<StatusResponse, Status> {
        let status = self.context.node.status();
        let size = i64::try_from(status.db_size).unwrap_or(i64::MAX);
        let mut errors = Vec::new();
        if status.leader == 0 {
            errors.push(refusal::NO_LEADER.to_owned());
        }
        errors.extend(status.failure);
        Ok(StatusResponse {
            header: self.context.current_header(),
            version: ETCD_VERSION.into(),
            db_size: size,
            db_size_in_use: size,
            leader: status.leader,
            raft_index: status.committed,
            raft_term: status.term,
            raft_applied_index: status.applied,
            errors,
            is_learner: status.is_learner,
            storage_version: CLUSTER_VERSION.into(),
            // There is none.
            db_size_quota: 0,
            downgrade_info: Some(DowngradeInfo::default()),
        })
    }

    /// No alarm can be raised yet: there is no quota, and nothing compares members.
    async fn do_alarm(&self, request: AlarmRequest) -> Result<AlarmResponse, Status> {
        if request.action == AlarmAction::Activate as i32 {
            return Err(refusal::absent("raising alarms"));
        }
        Ok(AlarmResponse { header: self.context.current_header(), alarms: Vec::new() })
    }
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        self.context.metrics.unary(Method::Status, self.do_status()).await
    }

    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        self.context.metrics.unary(Method::Alarm, self.do_alarm(request.into_inner())).await
    }

    async fn defragment(&self, _: Request<DefragmentRequest>) -> Result<Response<DefragmentResponse>, Status> {
        Err(refusal::absent("defragmentation"))
    }

    async fn hash(&self, _: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        Err(refusal::absent("the hash of the backend"))
    }

    async fn hash_kv(&self, _: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        Err(refusal::absent("the hash of the keys"))
    }

    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send>>;

    async fn snapshot(&self, _: Request<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(refusal::absent("the snapshot"))
    }

    async fn move_leader(&self, _: Request<MoveLeaderRequest>) -> Result<Response<MoveLeaderResponse>, Status> {
        Err(refusal::absent("moving the leader"))
    }

    async fn downgrade(&self, _: Request<DowngradeRequest>) -> Result<Response<DowngradeResponse>, Status> {
        Err(refusal::absent("downgrading"))
    }
}
