//! etcd's Maintenance service: the member's state, alarms, hashes, and the care of its disk.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use kelson_engine::command::{Command, Outcome};
use kelson_engine::{Alarm, AlarmAction as Action, AlarmKind, Reader};
use kelson_raft::Error;
use kelson_wire::pb::etcdserverpb::alarm_request::AlarmAction;
use kelson_wire::pb::etcdserverpb::downgrade_request::DowngradeAction;
use kelson_wire::pb::etcdserverpb::maintenance_server::Maintenance;
use kelson_wire::pb::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse, DowngradeInfo,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse, MoveLeaderRequest,
    MoveLeaderResponse, SnapshotRequest, StatusRequest, StatusResponse,
};
use tonic::{Request, Response, Status};

use crate::auth::Caller;
use crate::backup;
use crate::context::{CLUSTER_VERSION, Context, ETCD_VERSION};
use crate::kv::mismatch;
use crate::refusal;

/// The releases that the cluster's version can be told as, and lowered to: this minor release, and the one before.
const MAJOR: u64 = 3;
const MINOR: u64 = 7;

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
        let bytes = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
        let mut errors = Vec::new();
        if status.leader == 0 {
            errors.push(refusal::NO_LEADER.to_owned());
        }
        errors.extend(status.failure);
        errors.extend(self.context.node.reader().alarms().iter().map(alarm_text));
        Ok(StatusResponse {
            header: self.context.current_header(),
            version: ETCD_VERSION.into(),
            db_size: bytes(status.db_size),
            db_size_in_use: bytes(status.db_size_in_use),
            leader: status.leader,
            raft_index: status.committed,
            raft_term: status.term,
            raft_applied_index: status.applied,
            errors,
            is_learner: status.is_learner,
            storage_version: CLUSTER_VERSION.into(),
            db_size_quota: self.context.quota.told(),
            downgrade_info: Some(DowngradeInfo::default()),
        })
    }

    async fn do_alarm(&self, request: AlarmRequest) -> Result<AlarmResponse, Status> {
        let kind = match AlarmType::try_from(request.alarm) {
            Ok(AlarmType::Nospace) => Some(AlarmKind::NoSpace),
            Ok(AlarmType::Corrupt) => Some(AlarmKind::Corrupt),
            Ok(AlarmType::None) => None,
            Err(_) => return Err(Status::invalid_argument("etcdserver: unknown alarm")),
        };
        let action = match (AlarmAction::try_from(request.action), kind) {
            (Ok(AlarmAction::Get), _) => {
                let node = &self.context.node;
                node.read_barrier().await.map_err(|error| refusal::of_raft(&error))?;
                let all = node.reader().alarms();
                return Ok(self.alarms(all.iter().filter(|alarm| kind.is_none_or(|kind| kind == alarm.kind))));
            }
            (Ok(AlarmAction::Activate), Some(kind)) => (Action::Activate, kind),
            (Ok(AlarmAction::Deactivate), Some(kind)) => (Action::Deactivate, kind),
            // No alarm in particular: there is nothing to change.
            (Ok(_), None) => return Ok(self.alarms([].iter())),
            (Err(_), _) => return Err(Status::unknown(refusal::UNKNOWN_METHOD)),
        };
        let (action, alarm) = action;
        match self.context.propose(Command::Alarm { action, member: request.member_id, alarm }).await? {
            Outcome::Alarm { alarms, .. } => Ok(self.alarms(alarms.iter())),
            other => Err(mismatch(&other)),
        }
    }

    fn alarms<'a>(&self, alarms: impl Iterator<Item = &'a Alarm>) -> AlarmResponse {
        let member = |alarm: &Alarm| AlarmMember { member_id: alarm.member, alarm: alarm_type(alarm.kind).into() };
        AlarmResponse { header: self.context.current_header(), alarms: alarms.map(member).collect() }
    }

    async fn do_defragment(&self) -> Result<DefragmentResponse, Status> {
        let counters = self.context.metrics.counters();
        counters.defrags.fetch_add(1, Relaxed);
        tracing::info!("starting defragment");
        let start = Instant::now();
        let done = self.context.node.defragment().await;
        counters.defrags.fetch_sub(1, Relaxed);
        match done {
            Ok(()) => {
                counters.defrag_seconds.took(start.elapsed());
                tracing::info!("finished defragment");
                Ok(DefragmentResponse { header: None })
            }
            Err(error) => {
                tracing::warn!("failed to defragment: {error}");
                Err(refusal::of_raft(&error))
            }
        }
    }

    async fn do_hash(&self) -> Result<HashResponse, Status> {
        let start = Instant::now();
        let (hash, revision) = self.read_all(|reader| Ok(reader.hash()?)).await?;
        self.context.metrics.counters().hash_seconds.took(start.elapsed());
        Ok(HashResponse { header: self.context.header(revision), hash })
    }

    async fn do_hash_kv(&self, request: HashKvRequest) -> Result<HashKvResponse, Status> {
        let start = Instant::now();
        let hash = self.read_all(move |reader| Ok(reader.hash_kv(request.revision)?)).await?;
        self.context.metrics.counters().hash_kv_seconds.took(start.elapsed());
        Ok(HashKvResponse {
            header: self.context.header(hash.revision),
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            hash_revision: hash.hash_revision,
        })
    }

    /// Reads the whole store, on a thread of its own.
    async fn read_all<T, F>(&self, read: F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: FnOnce(&Reader) -> Result<T, Error> + Send + 'static,
    {
        self.context.reads.whole(read).await.map_err(|error| refusal::of_raft(&error))
    }

    /// As in etcd, only this member's own view decides who could take over.
    async fn do_move_leader(&self, request: &MoveLeaderRequest) -> Result<MoveLeaderResponse, Status> {
        let moved = self.context.node.transfer_leader(request.target_id).await;
        moved.map_err(|error| refusal::of_raft(&error))?;
        Ok(MoveLeaderResponse { header: None })
    }

    /// A downgrade can be checked, not made: what an older release of etcd reads is a snapshot.
    fn do_downgrade(&self, request: &DowngradeRequest) -> Result<DowngradeResponse, Status> {
        let answer =
            || DowngradeResponse { header: self.context.current_header(), version: format!("{MAJOR}.{MINOR}") };
        let check = |version: &str| match parse_version(version) {
            None => Err(Status::invalid_argument(refusal::DOWNGRADE_FORMAT)),
            Some((MAJOR, minor)) if minor + 1 == MINOR => Ok(()),
            Some(_) => Err(Status::invalid_argument(refusal::DOWNGRADE_TARGET)),
        };
        match DowngradeAction::try_from(request.action) {
            Ok(DowngradeAction::Validate) => check(&request.version).map(|()| answer()),
            Ok(DowngradeAction::Enable) => {
                check(&request.version)?;
                Err(Status::failed_precondition(
                    "etcdserver: this server cannot be replaced by an older release of etcd in place: save a snapshot \
                     and restore it there",
                ))
            }
            // There is never one under way; ending none succeeds, as in etcd.
            Ok(DowngradeAction::Cancel) => Ok(answer()),
            Err(_) => Err(Status::unknown(refusal::UNKNOWN_METHOD)),
        }
    }
}

/// Major and minor of a version, with maybe what semantic versions have behind them.
fn parse_version(text: &str) -> Option<(u64, u64)> {
    let core = text.split(['-', '+']).next()?;
    let mut numbers = core.split('.').map(|part| part.parse::<u64>().ok());
    let (major, minor) = (numbers.next()??, numbers.next()??);
    // The third may be left out; more there are not.
    numbers.next().is_none_or(|patch| patch.is_some()).then_some(())?;
    numbers.next().is_none().then_some((major, minor))
}

fn alarm_type(kind: AlarmKind) -> AlarmType {
    match kind {
        AlarmKind::NoSpace => AlarmType::Nospace,
        AlarmKind::Corrupt => AlarmType::Corrupt,
    }
}

/// As etcd prints the message.
fn alarm_text(alarm: &Alarm) -> String {
    let member = if alarm.member == 0 { String::new() } else { format!("memberID:{}  ", alarm.member) };
    format!("{member}alarm:{}", alarm_type(alarm.kind).as_str_name())
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        self.context.known(&Caller::of(&request)).await?;
        self.do_status().await.map(Response::new)
    }

    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        // Everybody who is somebody may ask which alarms stand.
        let caller = Caller::of(&request);
        if request.get_ref().action == AlarmAction::Get as i32 {
            self.context.known(&caller).await?;
        } else {
            self.context.admin(&caller).await?;
        }
        self.do_alarm(request.into_inner()).await.map(Response::new)
    }

    async fn defragment(&self, request: Request<DefragmentRequest>) -> Result<Response<DefragmentResponse>, Status> {
        self.context.admin(&Caller::of(&request)).await?;
        self.do_defragment().await.map(Response::new)
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        self.context.admin(&Caller::of(&request)).await?;
        self.do_hash().await.map(Response::new)
    }

    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        self.context.admin(&Caller::of(&request)).await?;
        self.do_hash_kv(request.into_inner()).await.map(Response::new)
    }

    type SnapshotStream = backup::Stream;

    async fn snapshot(&self, request: Request<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        self.context.admin(&Caller::of(&request)).await?;
        self.context.snapshots.begin(&self.context.node, &self.context.shutdown).map(Response::new)
    }

    async fn move_leader(&self, request: Request<MoveLeaderRequest>) -> Result<Response<MoveLeaderResponse>, Status> {
        self.context.admin(&Caller::of(&request)).await?;
        self.do_move_leader(request.get_ref()).await.map(Response::new)
    }

    async fn downgrade(&self, request: Request<DowngradeRequest>) -> Result<Response<DowngradeResponse>, Status> {
        self.context.admin(&Caller::of(&request)).await?;
        self.do_downgrade(request.get_ref()).map(Response::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_two_or_three_numbers() {
        assert_eq!(parse_version("3.6.0"), Some((3, 6)));
        assert_eq!(parse_version("3.6.0-rc.1"), Some((3, 6)));
        assert_eq!(parse_version("3.6"), Some((3, 6)));
        for wrong in ["", "3", "3.6.x", "3.6.0.1", "a.b.c"] {
            assert_eq!(parse_version(wrong), None, "{wrong}");
        }
    }
}
